"""Where the supervisor stands: everything that the machine's decisions depend on.

Only data, and what can be read off it; no I/O, no clock. Knows nothing of what happens or of what is done about it:
`machine` alone makes one state from another.

The parts that children play, by the state's fields:

- ``active``: holds the active role, or held it and is being ended;
- ``incoming``: on its way to the active role: spawned, connecting, or told to activate;
- ``outgoing``: handed its role over, and stands by on probation or drains;
- ``lingering``: an outgoing child of a handoff that has succeeded; it runs nothing any more but what people are in the
  middle of, and can still take over again;
- ``spare``: a standby that is kept for the day the active one dies;
- any other child is a *leaver*: it is being ended and its exit is waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from bastion.supervisor.release import Release
from bastion.supervisor.status import HandoffKind, HandoffResult, SupervisorState


class Phase(Enum):
    """Where the supervisor stands. ``State.active`` says whether anybody serves meanwhile."""

    WAITING = "waiting"
    """Nobody serves and nobody is on its way: until the backoff ends, or until the last leaver is dead."""
    PREPARING = "preparing"
    """A handoff was asked for; settings and release are being looked at."""
    CLEARING = "clearing"
    """A child is being ended that is to have left before the new one comes."""
    SPAWNING = "spawning"
    """Until the new child's hello."""
    CONNECTING = "connecting"
    """Until all shards of the new child are ready."""
    ACTIVATING = "activating"
    """The new child was told to activate; until it says so."""
    PROBATION = "probation"
    """The new child is active; the old one stands by, to take over again if the new one fails."""
    DRAINING = "draining"
    """The new child is active; until the old one has left."""
    SERVING = "serving"
    REVERTING = "reverting"
    """The active child serves; a failed one is being ended."""
    STOPPING = "stopping"
    STOPPED = "stopped"


SWITCHED = (Phase.PROBATION, Phase.DRAINING)
"""The phases of a handoff in which the new child is the active one."""


class Part(Enum):
    """What a child does in the state's play."""

    ACTIVE = "active"
    INCOMING = "incoming"
    OUTGOING = "outgoing"
    LINGERER = "lingerer"
    SPARE = "spare"
    LEAVER = "leaver"
    NOBODY = "nobody"
    """No living child has this generation."""


class Standing(Enum):
    """How far a child has come, as decided here (what it says itself is in `status`)."""

    STARTING = "starting"
    ACTIVATING = "activating"
    ACTIVE = "active"
    STANDBY = "standby"
    """Was active, and may be again: it begins nothing, but what it has begun goes on."""
    DRAINING = "draining"
    LEAVING = "leaving"


class Alarm(Enum):
    """Names of timers."""

    HELLO = "hello"
    READY = "ready"
    ACK = "ack"
    DRAIN = "drain"
    END = "end"
    BACKOFF = "backoff"
    STABLE = "stable"
    HANG = "hang"
    """The child has not beaten for too long."""
    DUMP = "dump"
    """The stacks of a child that hangs have had time to reach the log."""
    ANSWER = "answer"
    """The child has left a `Serve` unanswered for too long, though it may beat."""
    PROBATION = "probation"
    SPARE = "spare"
    AWAY = "away"
    """A shard of the active child has been away for so long that a successor is tried."""
    YIELD = "yield"
    """Nobody has taken over from a supervisor that was told to stop."""
    BY_HAND = "by-hand"
    """Claims that were switched on by hand end."""


class Relief(Enum):
    """Whether another supervisor's bot takes over from ours when we are told to stop."""

    NONE = "none"
    COMING = "coming"
    THERE = "there"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Limits from the settings, in seconds."""

    ready_timeout: float = 300.0
    drain_timeout: float = 30.0
    backoff_first: float = 1.0
    backoff_max: float = 60.0
    stable_after: float = 60.0
    hang_timeout: float = 20.0
    probation: float = 0.0
    """0 for none."""
    linger: float = 0.0
    """0 for none."""
    spare: bool = False
    window_timeout: float = 600.0
    """Of claims that were switched on by hand, from when all shards are ready."""

    def backoff(self, failures: int) -> float:
        """Return the seconds to wait after so many failures in a row."""
        # The exponent is bounded so that a number of failures without end stays a number.
        return min(self.backoff_first * 2.0 ** min(max(failures - 1, 0), 60), self.backoff_max)

    def patience(self, failures: int) -> float:
        """Return the seconds that a shard may be away, after so many successors in a row that were of no use.

        A try costs an IDENTIFY a shard, of a thousand a day; so the pauses grow to 16 times the first.
        """
        return self.ready_timeout * 2.0 ** min(max(failures - 1, 0), 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One living child."""

    generation: int
    release: Release
    standby: bool
    standing: Standing = Standing.STARTING
    beside: bool = False
    """Another child was beside it, and it has not been told that none is any more."""
    greeted: bool = False
    ready: bool = False
    """All its shards have been ready; asked for only until it is told to activate."""
    again: bool = False
    """It has been ready, but has to see first to what a dead one left."""
    mirror: bool = False
    """The sessions are to move to it from the active child; it has none of its own."""
    promoted: bool = False
    """It was told to activate, and has not said yet that it is active."""
    hurried: bool = False
    """It was told to be quick about the drain it is in."""
    drained: bool = False
    terminated: bool = False
    """SIGTERM has been sent; SIGKILL is next."""
    hung: bool = False
    """Its stacks have been asked for; if it does not beat meanwhile it is ended."""
    away: str = ""
    """Which shard of the active child is away, and why; empty while none is, or not for long."""
    overdue: bool = False
    """That has been so for too long: a successor is to be tried."""
    fault: str | None = None
    """Why it is being ended, if its exit alone does not tell."""

    @property
    def takes_sessions(self) -> bool:
        """Say whether it may have taken sessions that the active child served with."""
        return self.mirror and self.promoted

    @property
    def stays(self) -> bool:
        """Say whether a lingering child will be there for more than a moment."""
        return self.standing is Standing.DRAINING and not self.drained and not self.hurried


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """The handoff under way. ``result`` is what it comes to if its last step succeeds."""

    kind: HandoffKind
    origin: int | None
    target: int | None = None
    result: HandoffResult = "succeeded"
    reason: str | None = None
    probation: bool = True
    """Whether the old child stands by for a while after the switch, if the settings say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything that decisions depend on."""

    phase: Phase
    timing: Timing
    good: Release
    """What is spawned after a crash: the release of the last handoff that succeeded."""
    good_timing: Timing
    """The limits that came with it."""
    previous: Release | None = None
    """The good release before this one."""
    wanted: Release | None = None
    """What the present attempt spawns, if it is not ``good``."""
    children: tuple[Child, ...] = ()
    active: int | None = None
    incoming: int | None = None
    outgoing: int | None = None
    lingering: int | None = None
    spare: int | None = None
    bereft: int | None = None
    """The last active child, if it has died and nobody has taken its place: its successor resumes its sessions.

    Of another supervisor that died: its number among those who share the ledger (`claimer`)."""
    last_generation: int = 0
    handoff: Handoff | None = None
    apart: str | None = None
    """Why the present attempt does not move the sessions, though it has tried."""
    asked: tuple[int, ...] = ()
    """Commands that the present attempt answers."""
    forced: bool = False
    """One of them overrides the checks of memory and of the IDENTIFY budget."""
    waiting: tuple[int, ...] = ()
    """Commands of the one reload that starts when this attempt has ended."""
    waiting_forced: bool = False
    stops: tuple[int, ...] = ()
    due: bool = False
    """In WAITING: spawn as soon as the last leaver is dead."""
    served: bool = False
    failures: int = 0
    """Deaths of active or starting children since one was stable."""
    away_failures: int = 0
    """Successors in a row that were tried because a shard of the active child was away, in vain."""
    spare_failures: int = 0
    """Deaths of spares since one was stable."""
    weighing: bool = False
    """Whether there is room for a spare is being looked at."""
    spare_refused: bool = False
    """There was none the last time."""
    restarts: int = 0
    company: bool = False
    """Other supervisors share the ledger: every child claims."""
    relief: Relief = Relief.NONE
    waits: bool = False
    """Another supervisor's bot has the active role: ours, once it is ready, waits until that role is free."""
    taken: bool = False
    """Another supervisor's bot has the active role, or is about to."""
    still: int = 0
    """The number of the other supervisor's bot that has sessions, if that supervisor stands still."""
    younger: bool = False
    """A supervisor that came later has an active bot."""
    relieved: bool = False
    """Another supervisor's bot could take over at once."""
    yielding: bool = False
    """Told to stop; serves until another supervisor's bot does."""
    by_hand: bool = False
    """Claims were switched on by hand."""
    alone: bool = False
    """Nobody is to be beside the active child."""
    fault: str = ""
    """Why the newest attempt to have a bot that serves has failed; empty while one does."""
    exit_code: int = 0
    exit_reason: str | None = None

    def child(self, generation: int | None) -> Child | None:
        """Return the living child of that generation."""
        return next((child for child in self.children if child.generation == generation), None)

    def part(self, generation: int) -> Part:
        """Return the part that this generation plays."""
        if self.child(generation) is None:
            return Part.NOBODY
        if generation == self.active:
            return Part.ACTIVE
        if generation == self.incoming:
            return Part.INCOMING
        if generation == self.lingering:
            return Part.LINGERER
        if generation == self.spare:
            return Part.SPARE
        return Part.OUTGOING if generation == self.outgoing else Part.LEAVER

    @property
    def leavers(self) -> tuple[Child, ...]:
        """Return the children that are being ended and play no other part."""
        return tuple(child for child in self.children if self.part(child.generation) is Part.LEAVER)

    @property
    def has_room(self) -> bool:
        """Say whether nobody leaves who is to have left before another one comes."""
        lingerer = self.child(self.lingering)
        return not self.leavers and (lingerer is None or lingerer.stays)

    @property
    def heir(self) -> int | None:
        """Return who can take the place of an active child that is dead: the spare, or the one that lingers."""
        if self.spare is not None:
            return self.spare
        lingerer = self.child(self.lingering)
        return lingerer.generation if lingerer is not None and lingerer.stays and not lingerer.hung else None

    @property
    def at_rest(self) -> bool:
        """Say whether nothing is under way: a child serves, and nobody is on the way to its place or is being ended."""
        active = self.child(self.active)
        serves = active is not None and active.standing is Standing.ACTIVE
        busy = self.leavers or self.weighing or self.yielding or self.waiting
        return self.phase is Phase.SERVING and serves and not busy

    @property
    def replaces(self) -> bool:
        """Say whether a successor is tried for an active child that lives, and has a shard that is away."""
        return self.handoff is not None and self.handoff.kind == "recovery" and self.active is not None

    @property
    def wants_spare(self) -> bool:
        """Say whether a spare is to be kept."""
        return self.timing.spare and not self.alone

    @property
    def claims_on(self) -> bool:
        """Say whether events are claimed for a reason outside of this supervisor."""
        return self.company or self.by_hand

    @property
    def shown(self) -> SupervisorState:
        """Return the supervisor's state as `status` calls it."""
        if self.yielding or self.phase in (Phase.STOPPING, Phase.STOPPED):
            return "stopping"
        if self.phase in (Phase.SERVING, Phase.REVERTING):
            return "serving"
        if self.active is None:
            return "restarting" if self.served else "starting"
        return "handing-off"
