"""The decisions: which child is spawned, activated, drained or ended, and when.

Pure: `step` takes a state and an event and gives a state and effects. No I/O, no clock, no process; times go out as
timers and come back as events. Everything that can happen in every phase has its cell in the table at the end of
this file. `engine` carries the effects out.

The parts that children play, by the state's fields:

- ``active``: holds the active role, or held it and is being ended;
- ``incoming``: on its way to the active role: spawned, connecting, or told to activate;
- ``outgoing``: handed its role over and drains;
- any other child is a *leaver*: it is being ended and its exit is waited for.

A start is a handoff from nobody, a restart one from a dead child: they go through the same phases, without a window
to open and without a child to drain. Messages of a pipe arrive in order; that is all the table relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from supervisor.status import HandoffKind, HandoffResult, SupervisorState
from supervisor.wire import Activate, Drain, RoleName, ToChild, Window

if TYPE_CHECKING:
    from supervisor.release import Release

ACK_TIMEOUT = 5.0
"""Seconds within which a child answers `Window` or `Activate`: its loop has one small thing to do."""
HELLO_TIMEOUT = 30.0
"""Seconds from spawn to `Hello`: an interpreter and its imports; the app is loaded later."""
DRAIN_GRACE = 5.0
"""Seconds that a drained child has, past its limit, to close its sessions and exit."""
TERM_GRACE = 3.0
"""Seconds from SIGTERM to SIGKILL."""
FATAL_GRACE = 1.0
"""Seconds in which a child that reported `Fatal` exits on its own before SIGTERM."""
EXIT_CONFIG = 78
"""Exit code for a configuration that cannot work (EX_CONFIG of sysexits.h)."""


class Phase(Enum):
    """Where the supervisor stands. ``State.active`` says whether anybody serves meanwhile."""

    WAITING = "waiting"
    """Nobody serves and nobody is on its way: until the backoff ends, or until the last leaver is dead."""
    PREPARING = "preparing"
    """A handoff was asked for; settings and release are being looked at."""
    OPENING = "window"
    """The active child was asked to claim every event."""
    SPAWNING = "spawning"
    """Until the new child's hello."""
    CONNECTING = "connecting"
    """Until all shards of the new child are ready."""
    ACTIVATING = "activating"
    """The new child was told to activate; until it says so."""
    DRAINING = "draining"
    """The new child is active; until the old one has left."""
    SERVING = "serving"
    REVERTING = "reverting"
    """The active child serves; a failed one is being ended."""
    STOPPING = "stopping"
    STOPPED = "stopped"


class Part(Enum):
    """What a child does in the state's play."""

    ACTIVE = "active"
    INCOMING = "incoming"
    OUTGOING = "outgoing"
    LEAVER = "leaver"
    NOBODY = "nobody"
    """No living child has this generation."""


class Standing(Enum):
    """How far a child has come, as decided here (what it says itself is in `status`)."""

    STARTING = "starting"
    ACTIVATING = "activating"
    ACTIVE = "active"
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
    SETTLE = "settle"
    STABLE = "stable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Limits from the settings, in seconds."""

    ready_timeout: float = 300.0
    drain_timeout: float = 30.0
    settle: float = 10.0
    backoff_first: float = 1.0
    backoff_max: float = 60.0
    stable_after: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One living child. ``unanswered`` counts `Window` messages whose answer is still to come."""

    generation: int
    release: Release
    standby: bool
    standing: Standing = Standing.STARTING
    window: bool = False
    unanswered: int = 0
    drained: bool = False
    terminated: bool = False
    """SIGTERM has been sent; SIGKILL is next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handoff:
    """The handoff under way. ``result`` is what it comes to if its last step succeeds."""

    kind: HandoffKind
    origin: int | None
    target: int | None = None
    result: HandoffResult = "succeeded"
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything that decisions depend on."""

    phase: Phase
    timing: Timing
    good: Release
    """What is spawned after a crash: the release of the last handoff that succeeded."""
    previous: Release | None = None
    """The good release before this one."""
    wanted: Release | None = None
    """What the present attempt spawns, if it is not ``good``."""
    children: tuple[Child, ...] = ()
    active: int | None = None
    incoming: int | None = None
    outgoing: int | None = None
    last_generation: int = 0
    handoff: Handoff | None = None
    asked: tuple[int, ...] = ()
    """Commands that the present attempt answers."""
    waiting: tuple[int, ...] = ()
    """Commands of the one reload that starts when this attempt has ended."""
    stops: tuple[int, ...] = ()
    unsettled: bool = False
    """Another child has handled events not long ago: claims are needed for ``settle`` seconds more."""
    due: bool = False
    """In WAITING: spawn as soon as the last leaver is dead."""
    served: bool = False
    failures: int = 0
    restarts: int = 0
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
        return Part.OUTGOING if generation == self.outgoing else Part.LEAVER

    @property
    def leavers(self) -> tuple[Child, ...]:
        """Return the children that are being ended and play no other part."""
        return tuple(child for child in self.children if self.part(child.generation) is Part.LEAVER)

    @property
    def shown(self) -> SupervisorState:
        """Return the supervisor's state as `status` calls it."""
        if self.phase in (Phase.STOPPING, Phase.STOPPED):
            return "stopping"
        if self.phase in (Phase.SERVING, Phase.REVERTING):
            return "serving"
        if self.active is None:
            return "restarting" if self.served else "starting"
        return "handing-off"


# --- events -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reload:
    """Command: hand over to a new child of the release that the settings name now."""

    command: int


@dataclass(frozen=True, slots=True)
class Rollback:
    """Command: hand over to a new child of the release before."""

    command: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Command: drain and stop; the second one ends everything at once."""

    command: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """Answer to `Prepare`: this is to be spawned, with these limits."""

    release: Release
    timing: Timing


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer to `Prepare`: there is nothing to spawn."""

    reason: str


@dataclass(frozen=True, slots=True)
class Greeted:
    """The child said `Hello`, in our protocol."""

    generation: int


@dataclass(frozen=True, slots=True)
class Progressed:
    """One more shard of the child is ready."""

    generation: int


@dataclass(frozen=True, slots=True)
class BecameReady:
    """All shards of the child are ready."""

    generation: int


@dataclass(frozen=True, slots=True)
class RoleTaken:
    """The child says which role it holds."""

    generation: int
    role: RoleName


@dataclass(frozen=True, slots=True)
class WindowAnswered:
    """The child says whether it claims every event."""

    generation: int
    open: bool


@dataclass(frozen=True, slots=True)
class HasDrained:
    """The child has finished what it began."""

    generation: int


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The child reported that it cannot go on; it exits on its own."""

    generation: int
    reason: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Broke:
    """The child lives but cannot be talked to: garbage, another protocol, a closed pipe, one that it does not read."""

    generation: int
    reason: str
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class Exited:
    """The process is gone (or could not be spawned), and everything it wrote has been read."""

    generation: int
    reason: str
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class Rang:
    """A timer has run out. ``generation`` is 0 for one that belongs to no child."""

    alarm: Alarm
    generation: int = 0


ChildEvent: TypeAlias = (
    Greeted | Progressed | BecameReady | RoleTaken | WindowAnswered | HasDrained | GaveUp | Broke | Exited
)
Event: TypeAlias = Reload | Rollback | Stop | Prepared | Refused | ChildEvent | Rang


# --- effects ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prepare:
    """Look whether a child can be spawned: of ``release``, or of what the settings name now. Answered by an event."""

    release: Release | None


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start the process. One that cannot be started is answered by `Exited`."""

    generation: int
    release: Release
    standby: bool


@dataclass(frozen=True, slots=True)
class Send:
    """Put a message into the child's pipe; into none if it is gone."""

    generation: int
    message: ToChild


@dataclass(frozen=True, slots=True)
class Signal:
    """Signal the child's process, if it still lives."""

    generation: int
    name: Literal["SIGTERM", "SIGKILL"]


@dataclass(frozen=True, slots=True)
class StartTimer:
    """Start a timer, anew if it runs already."""

    alarm: Alarm
    generation: int
    seconds: float


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Forget a timer, if it runs."""

    alarm: Alarm
    generation: int


@dataclass(frozen=True, slots=True)
class OpenHandoff:
    """A handoff begins; what it is, is in the state."""


@dataclass(frozen=True, slots=True)
class PhaseEntered:
    """The attempt under way has come to this phase; ``generation`` is the new child's, once there is one."""

    phase: Phase
    generation: int | None


@dataclass(frozen=True, slots=True)
class CloseHandoff:
    """The handoff has ended."""

    kind: HandoffKind
    origin: int | None
    target: int | None
    result: HandoffResult
    reason: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer these commands, all alike."""

    commands: tuple[int, ...]
    result: HandoffResult
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the log."""

    text: str
    serious: bool = False


@dataclass(frozen=True, slots=True)
class Exit:
    """The supervisor has nothing left to do."""

    code: int
    reason: str | None


Effect: TypeAlias = (
    Prepare
    | Spawn
    | Send
    | Signal
    | StartTimer
    | CancelTimer
    | OpenHandoff
    | PhaseEntered
    | CloseHandoff
    | Answer
    | Note
    | Exit
)


# --- one turn ---------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Turn:
    """A state being changed, and the effects so far. Lives for one `step`."""

    state: State
    effects: list[Effect] = field(default_factory=list)

    def set(self, **changes: object) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]

    def do(self, *effects: Effect) -> None:
        self.effects.extend(effects)

    def note(self, text: str, *, serious: bool = False) -> None:
        self.do(Note(text, serious))

    def enter(self, phase: Phase) -> None:
        """Go to a phase of the attempt under way."""
        self.set(phase=phase)
        new = self.state.active if phase is Phase.DRAINING else self.state.incoming
        self.do(PhaseEntered(phase, new))

    def need(self, generation: int | None) -> Child:
        """Return a child that the phase guarantees."""
        child = self.state.child(generation)
        assert child is not None
        return child

    def change(self, generation: int, **changes: object) -> None:
        """Change one child."""
        self.set(
            children=tuple(
                replace(child, **changes) if child.generation == generation else child  # type: ignore[arg-type]
                for child in self.state.children
            )
        )

    def remove(self, generation: int) -> None:
        """Forget a child that is gone, its timers and its part."""
        state = self.state
        self.cancel(*_CHILD_ALARMS, generation=generation)
        self.set(
            children=tuple(child for child in state.children if child.generation != generation),
            active=None if state.active == generation else state.active,
            incoming=None if state.incoming == generation else state.incoming,
            outgoing=None if state.outgoing == generation else state.outgoing,
        )

    def start(self, alarm: Alarm, seconds: float, *, generation: int = 0) -> None:
        self.do(StartTimer(alarm, generation, seconds))

    def cancel(self, *alarms: Alarm, generation: int = 0) -> None:
        self.do(*(CancelTimer(alarm, generation) for alarm in alarms))

    def window(self, generation: int, *, open: bool) -> None:
        """Ask a child to open or close its window."""
        child = self.need(generation)
        self.change(generation, window=open, unanswered=child.unanswered + 1)
        self.do(Send(generation, Window(open=open)))

    def end(self, generation: int, *, patience: float | None = 0.0) -> None:
        """End a child: SIGTERM after ``patience`` seconds, then SIGKILL; None: SIGKILL at once."""
        self.cancel(*_CHILD_ALARMS, generation=generation)
        self.change(generation, standing=Standing.LEAVING, terminated=patience is None)
        if patience is None:
            self.do(Signal(generation, "SIGKILL"))
        elif patience > 0:
            self.start(Alarm.END, patience, generation=generation)
        else:
            self.terminate(generation)

    def terminate(self, generation: int) -> None:
        """SIGTERM now, SIGKILL a while later."""
        self.change(generation, standing=Standing.LEAVING, terminated=True)
        self.do(Signal(generation, "SIGTERM"))
        self.start(Alarm.END, TERM_GRACE, generation=generation)

    def amend(self, **changes: object) -> None:
        """Change the handoff under way, if there is one."""
        if self.state.handoff is not None:
            self.set(handoff=replace(self.state.handoff, **changes))  # type: ignore[arg-type]

    def open(self, kind: HandoffKind, *, origin: int | None, reason: str | None = None) -> None:
        """Begin a handoff unless one is under way."""
        if self.state.handoff is None:
            self.set(handoff=Handoff(kind=kind, origin=origin, reason=reason))
            self.do(OpenHandoff())

    def close(self, result: HandoffResult, reason: str | None) -> None:
        """End the handoff under way, if there is one."""
        handoff = self.state.handoff
        if handoff is not None:
            self.set(handoff=None)
            self.do(CloseHandoff(handoff.kind, handoff.origin, handoff.target, result, reason))

    def answer(self, result: HandoffResult, reason: str | None = None) -> None:
        """Answer the commands of the present attempt."""
        asked = self.state.asked
        self.set(asked=(), wanted=None)
        if asked:
            self.do(Answer(asked, result, reason))


_CHILD_ALARMS = (Alarm.HELLO, Alarm.READY, Alarm.ACK, Alarm.DRAIN, Alarm.END, Alarm.SETTLE, Alarm.STABLE)

_E = TypeVar("_E")


# --- beginnings -------------------------------------------------------------------------------------------------


def begin(release: Release, timing: Timing) -> tuple[State, tuple[Effect, ...]]:
    """Return the first state, with the first child on its way."""
    turn = _Turn(State(phase=Phase.WAITING, timing=timing, good=release))
    _spawn(turn, release, standby=False)
    return turn.state, tuple(turn.effects)


def _spawn(turn: _Turn, release: Release, *, standby: bool) -> None:
    """Bring the next generation on its way. A standby's window is open from birth."""
    generation = turn.state.last_generation + 1
    child = Child(generation=generation, release=release, standby=standby, window=standby)
    restarts = turn.state.restarts + (turn.state.served and turn.state.active is None)
    turn.set(
        children=(*turn.state.children, child),
        incoming=generation,
        last_generation=generation,
        restarts=restarts,
        due=False,
    )
    turn.amend(target=generation)
    ready = turn.state.timing.ready_timeout
    turn.do(Spawn(generation, release, standby))
    turn.enter(Phase.SPAWNING)
    turn.start(Alarm.HELLO, min(HELLO_TIMEOUT, ready), generation=generation)
    turn.start(Alarm.READY, ready, generation=generation)


def _spawn_alone(turn: _Turn) -> None:
    """Spawn a child that handles events from its first moment, as soon as no other process can."""
    if turn.state.leavers or turn.state.outgoing is not None:
        turn.set(phase=Phase.WAITING, due=True)
    else:
        _spawn(turn, turn.state.wanted or turn.state.good, standby=False)


# --- commands ---------------------------------------------------------------------------------------------------


def _reload_now(turn: _Turn, event: Reload) -> None:
    """SERVING or WAITING: the attempt begins, unless one waits already for the last leaver."""
    if turn.state.asked:
        _reload_later(turn, event)
    else:
        _ask(turn, (event.command,), kind="reload", release=None)


def _reload_later(turn: _Turn, event: Reload) -> None:
    """An attempt is under way: one reload waits, further ones join it."""
    turn.set(waiting=(*turn.state.waiting, event.command))


def _rollback_now(turn: _Turn, event: Rollback) -> None:
    """SERVING or WAITING: an ordinary handoff, to the release before."""
    if turn.state.asked:
        _rollback_busy(turn, event)
    elif turn.state.previous is None:
        turn.do(Answer((event.command,), "refused", "there is no earlier release to go back to"))
    else:
        _ask(turn, (event.command,), kind="rollback", release=turn.state.previous)


def _rollback_busy(turn: _Turn, event: Rollback) -> None:
    turn.do(Answer((event.command,), "refused", "another handoff is under way; ask again when it has ended"))


def _command_refused(turn: _Turn, event: Reload | Rollback) -> None:
    turn.do(Answer((event.command,), "refused", "the supervisor is stopping"))


def _ask(turn: _Turn, commands: tuple[int, ...], *, kind: HandoffKind, release: Release | None) -> None:
    turn.set(asked=commands, due=False)
    turn.cancel(Alarm.BACKOFF)
    if turn.state.active is not None:
        turn.cancel(Alarm.SETTLE, generation=turn.state.active)
    turn.open(kind, origin=turn.state.active)
    turn.enter(Phase.PREPARING)
    turn.do(Prepare(release))


def _take_waiting(turn: _Turn) -> bool:
    """Begin the reload that waited, if there is one."""
    waiting = turn.state.waiting
    if waiting:
        turn.set(waiting=())
        _ask(turn, waiting, kind="reload", release=None)
    return bool(waiting)


def _prepared(turn: _Turn, event: Prepared) -> None:
    """PREPARING: what is to be spawned is there."""
    turn.set(wanted=event.release, timing=event.timing)
    active = turn.state.child(turn.state.active)
    if active is None:
        _spawn_alone(turn)
    elif active.window and not active.unanswered:
        _spawn(turn, event.release, standby=True)
    else:
        turn.enter(Phase.OPENING)
        if active.standing is Standing.LEAVING:
            return  # its exit, which is near, makes the new child its successor
        turn.window(active.generation, open=True)
        turn.start(Alarm.ACK, ACK_TIMEOUT, generation=active.generation)


def _refused(turn: _Turn, event: Refused) -> None:
    """PREPARING: nothing has changed."""
    if turn.state.active is not None or not turn.state.served:
        turn.close("refused", event.reason)
    turn.answer("refused", event.reason)
    if turn.state.active is None:
        _wait(turn)
    else:
        _serve(turn)


def _stop(turn: _Turn, event: Stop) -> None:
    """Drain whoever may be handling events, end the others."""
    turn.set(stops=(*turn.state.stops, event.command))
    _shut_down(turn)


def _shut_down(turn: _Turn) -> None:
    reason = "the supervisor is stopping"
    turn.close("failed", reason)
    turn.answer("failed", reason)
    if turn.state.waiting:
        turn.do(Answer(turn.state.waiting, "refused", reason))
    turn.set(phase=Phase.STOPPING, waiting=(), due=False)
    turn.cancel(Alarm.BACKOFF)
    for child in turn.state.children:
        if child.standing in (Standing.ACTIVE, Standing.ACTIVATING):
            turn.cancel(*_CHILD_ALARMS, generation=child.generation)
            _drain(turn, child.generation)
        elif child.standing is Standing.STARTING:
            turn.end(child.generation)
    _stopped_if_alone(turn)


def _stop_at_once(turn: _Turn, event: Stop) -> None:
    turn.set(stops=(*turn.state.stops, event.command))
    for child in turn.state.children:
        turn.end(child.generation, patience=None)


def _stop_again(turn: _Turn, event: Stop) -> None:
    turn.do(Answer((event.command,), "succeeded"))


def _stopped_if_alone(turn: _Turn) -> None:
    if turn.state.children:
        return
    turn.set(phase=Phase.STOPPED)
    if turn.state.stops:
        turn.do(Answer(turn.state.stops, "succeeded"))
    turn.set(stops=())
    turn.do(Exit(turn.state.exit_code, turn.state.exit_reason))


# --- the way to the active role ---------------------------------------------------------------------------------


def _window_answered(turn: _Turn, event: WindowAnswered) -> None:
    """Count the answer: only the one to the newest `Window` says how things are."""
    child = turn.need(event.generation)
    turn.change(event.generation, unanswered=max(0, child.unanswered - 1))


def _window_opened(turn: _Turn, event: WindowAnswered) -> None:
    """OPENING: the active child claims; the new one may come."""
    _window_answered(turn, event)
    if turn.need(event.generation).unanswered:
        return
    turn.cancel(Alarm.ACK, generation=event.generation)
    wanted = turn.state.wanted
    if event.open and wanted is not None:
        _spawn(turn, wanted, standby=True)
    else:
        _attempt_failed(turn, f"generation {event.generation} cannot claim events (its log says why)")


def _greeted(turn: _Turn, event: Greeted) -> None:
    turn.cancel(Alarm.HELLO, generation=event.generation)
    turn.enter(Phase.CONNECTING)


def _progressed(turn: _Turn, event: Progressed) -> None:
    """With nobody serving, a child that comes on, however slowly, is better than a new beginning."""
    if turn.state.active is None:
        turn.start(Alarm.READY, turn.state.timing.ready_timeout, generation=event.generation)


def _ready(turn: _Turn, event: BecameReady) -> None:
    turn.cancel(Alarm.READY, generation=event.generation)
    _activate(turn, event.generation)


def _activate(turn: _Turn, generation: int) -> None:
    turn.change(generation, standing=Standing.ACTIVATING)
    turn.enter(Phase.ACTIVATING)
    turn.do(Send(generation, Activate()))
    turn.start(Alarm.ACK, ACK_TIMEOUT, generation=generation)


def _role_taken(turn: _Turn, event: RoleTaken) -> None:
    """ACTIVATING: the role has passed to the new child; the old one drains."""
    if event.role != "active":
        return
    new, old = event.generation, turn.state.child(turn.state.active)
    turn.cancel(Alarm.ACK, generation=new)
    turn.change(new, standing=Standing.ACTIVE)
    turn.set(active=new, incoming=None, served=True)
    turn.note(f"generation {new} is active")
    turn.start(Alarm.STABLE, turn.state.timing.stable_after, generation=new)
    if old is None:
        _succeeded(turn)
        return
    turn.set(outgoing=old.generation)
    turn.enter(Phase.DRAINING)
    if old.standing is Standing.ACTIVE:
        turn.cancel(Alarm.STABLE, generation=old.generation)
        _drain(turn, old.generation)


def _drain(turn: _Turn, generation: int) -> None:
    limit = turn.state.timing.drain_timeout
    turn.change(generation, standing=Standing.DRAINING)
    turn.do(Send(generation, Drain(limit=limit)))
    turn.start(Alarm.DRAIN, limit + DRAIN_GRACE, generation=generation)


def _has_drained(turn: _Turn, event: HasDrained) -> None:
    if turn.need(event.generation).standing is Standing.DRAINING:
        turn.change(event.generation, drained=True)


def _outgoing_left(turn: _Turn, event: Exited) -> None:
    """DRAINING: the old child is gone, the handoff is complete."""
    drained = turn.need(event.generation).drained
    turn.remove(event.generation)
    if not drained:
        turn.note(f"generation {event.generation} left before it had drained: {event.reason}", serious=True)
    _succeeded(turn)


def _succeeded(turn: _Turn) -> None:
    """The active child is the only one that handles events."""
    state = turn.state
    handoff, release = state.handoff, turn.need(state.active).release
    if handoff is not None and handoff.result == "succeeded" and handoff.origin is not None and state.wanted:
        turn.set(previous=state.good)
    turn.set(good=release, unsettled=True)
    result = handoff.result if handoff else "succeeded"
    reason = handoff.reason if handoff else None
    turn.close(result, reason)
    turn.answer(result, None if result == "succeeded" else reason)
    _serve(turn)


def _serve(turn: _Turn) -> None:
    """Rest with an active child; leavers are waited for, then the window closes and a waiting reload begins."""
    if turn.state.leavers:
        turn.set(phase=Phase.REVERTING)
        return
    turn.set(phase=Phase.SERVING)
    active = turn.need(turn.state.active)
    if turn.state.waiting:
        _take_waiting(turn)
    elif active.window and turn.state.unsettled:
        turn.start(Alarm.SETTLE, turn.state.timing.settle, generation=active.generation)
    else:
        turn.set(unsettled=False)
        if active.window:
            turn.window(active.generation, open=False)


def _settled(turn: _Turn, event: Rang) -> None:
    """SERVING: no event that another child has handled can still arrive."""
    turn.set(unsettled=False)
    if turn.need(event.generation).window:
        turn.window(event.generation, open=False)


# --- what goes wrong --------------------------------------------------------------------------------------------


def _incoming_gave_up(turn: _Turn, event: GaveUp) -> None:
    _incoming_failed(turn, event.generation, event.reason, retryable=event.retryable, patience=FATAL_GRACE)


def _incoming_broke(turn: _Turn, event: Broke) -> None:
    _incoming_failed(turn, event.generation, event.reason, retryable=event.retryable)


def _incoming_failed(
    turn: _Turn, generation: int, reason: str, *, retryable: bool = True, patience: float = 0.0
) -> None:
    """The new child is no good: it is ended; the attempt has failed from now on, not from its exit on."""
    touched = turn.need(generation).standing is not Standing.STARTING
    turn.set(incoming=None, unsettled=turn.state.unsettled or touched)
    turn.end(generation, patience=patience)
    _attempt_failed(turn, f"generation {generation}: {reason}", retryable=retryable)


def _incoming_exited(turn: _Turn, event: Exited) -> None:
    touched = turn.need(event.generation).standing is not Standing.STARTING
    turn.set(unsettled=turn.state.unsettled or touched)
    turn.remove(event.generation)
    _attempt_failed(turn, f"generation {event.generation}: {event.reason}", retryable=event.retryable)


def _attempt_failed(turn: _Turn, reason: str, *, retryable: bool = True) -> None:
    """Go back to whoever serves; if nobody does, try again after a while."""
    turn.note(reason, serious=True)
    if turn.state.active is not None:
        turn.close("failed", reason)
        turn.answer("failed", reason)
        _serve(turn)
    elif turn.state.served or retryable:
        if not turn.state.served:
            turn.close("failed", reason)
        turn.answer("failed", reason)
        turn.amend(kind="recovery", result="succeeded", reason=reason)
        turn.set(failures=turn.state.failures + 1)
        _wait(turn)
    else:
        turn.close("failed", reason)
        turn.answer("failed", reason)
        turn.set(exit_code=EXIT_CONFIG, exit_reason=reason)
        _shut_down(turn)


def _wait(turn: _Turn) -> None:
    """Nobody serves: wait for the next try, unless a reload brings another release now."""
    turn.set(phase=Phase.WAITING, due=False)
    if _take_waiting(turn):
        return
    timing, failures = turn.state.timing, turn.state.failures
    # The exponent is bounded so that a number of failures without end stays a number.
    delay = min(timing.backoff_first * 2.0 ** min(max(failures - 1, 0), 60), timing.backoff_max)
    turn.do(PhaseEntered(Phase.WAITING, None))
    turn.note(f"nobody serves; the next start is in {delay:g} s")
    turn.start(Alarm.BACKOFF, delay)


def _active_gave_up(turn: _Turn, event: GaveUp) -> None:
    """Its exit is what counts: until then it may still handle events."""
    if turn.need(event.generation).standing is Standing.LEAVING:
        return
    turn.note(f"generation {event.generation} gives up: {event.reason}", serious=True)
    turn.end(event.generation, patience=FATAL_GRACE)


def _active_broke(turn: _Turn, event: Broke) -> None:
    """Nobody else may handle events while this one can, and nobody can tell it to stop: so it is killed."""
    if turn.need(event.generation).standing is Standing.LEAVING:
        return
    turn.note(f"generation {event.generation}: {event.reason}; it is ended", serious=True)
    turn.end(event.generation, patience=None)


def _active_died_serving(turn: _Turn, event: Exited) -> None:
    """SERVING, REVERTING: a successor comes after the backoff."""
    reason = _active_died(turn, event)
    turn.open("recovery", origin=event.generation, reason=reason)
    turn.set(failures=turn.state.failures + 1)
    _wait(turn)


def _active_died_asked(turn: _Turn, event: Exited) -> None:
    """PREPARING: what was asked for becomes the successor."""
    reason = _active_died(turn, event)
    turn.amend(kind="recovery", reason=reason)


def _active_died_opening(turn: _Turn, event: Exited) -> None:
    """OPENING: as in PREPARING, and there is nothing left to wait for."""
    _active_died_asked(turn, event)
    _spawn_alone(turn)


def _active_died_succeeded(turn: _Turn, event: Exited) -> None:
    """SPAWNING, CONNECTING, ACTIVATING: the new child goes on, now as the successor."""
    reason = _active_died(turn, event)
    turn.amend(kind="failover", reason=reason)


def _active_died(turn: _Turn, event: Exited) -> str:
    reason = f"generation {event.generation} died: {event.reason}"
    turn.note(reason, serious=True)
    turn.remove(event.generation)
    turn.set(unsettled=True)
    return reason


def _new_gave_up_draining(turn: _Turn, event: GaveUp) -> None:
    turn.end(event.generation, patience=FATAL_GRACE)
    _take_back(turn, f"generation {event.generation}: {event.reason}")


def _new_broke_draining(turn: _Turn, event: Broke) -> None:
    turn.end(event.generation, patience=None)
    _take_back(turn, f"generation {event.generation}: {event.reason}")


def _new_died_draining(turn: _Turn, event: Exited) -> None:
    turn.remove(event.generation)
    _take_back(turn, f"generation {event.generation}: {event.reason}")


def _take_back(turn: _Turn, reason: str) -> None:
    """DRAINING, and the new child is lost: the old one goes on if it still can."""
    old = turn.state.outgoing
    turn.set(active=None, outgoing=None)
    if old is not None and (child := turn.need(old)).standing is Standing.DRAINING and not child.drained:
        turn.note(f"{reason}; generation {old} is made active again", serious=True)
        turn.cancel(Alarm.DRAIN, generation=old)
        turn.set(incoming=old)
        turn.amend(result="rolled-back", reason=reason)
        _activate(turn, old)
    else:
        _attempt_failed(turn, reason)


def _outgoing_broke(turn: _Turn, event: GaveUp | Broke) -> None:
    """A child on its way out that closes its pipe last of all is in order; any other is ended."""
    child = turn.need(event.generation)
    if child.standing is Standing.DRAINING and not child.drained:
        turn.note(f"generation {event.generation}, draining: {event.reason}", serious=True)
        turn.end(event.generation, patience=FATAL_GRACE)


def _leaver_left(turn: _Turn, event: Exited) -> None:
    """Go on with what waited for this exit."""
    turn.remove(event.generation)
    if turn.state.leavers:
        return
    if turn.state.phase is Phase.REVERTING:
        _serve(turn)
    elif turn.state.phase is Phase.WAITING and turn.state.due:
        _spawn_alone(turn)


def _child_left_stopping(turn: _Turn, event: Exited) -> None:
    turn.remove(event.generation)
    _stopped_if_alone(turn)


# --- timers -----------------------------------------------------------------------------------------------------


def _no_hello(turn: _Turn, event: Rang) -> None:
    limit = min(HELLO_TIMEOUT, turn.state.timing.ready_timeout)
    _incoming_failed(turn, event.generation, f"said nothing within {limit:g} s of its start")


def _not_ready(turn: _Turn, event: Rang) -> None:
    _incoming_failed(
        turn, event.generation, f"not ready within {turn.state.timing.ready_timeout:g} s (handoff.ready_timeout)"
    )


def _not_active(turn: _Turn, event: Rang) -> None:
    _incoming_failed(turn, event.generation, f"did not become active within {ACK_TIMEOUT:g} s")


def _not_opened(turn: _Turn, event: Rang) -> None:
    _attempt_failed(
        turn, f"generation {event.generation} did not open its window within {ACK_TIMEOUT:g} s; it serves on"
    )


def _not_drained(turn: _Turn, event: Rang) -> None:
    if turn.need(event.generation).standing is Standing.DRAINING:
        turn.note(f"generation {event.generation} has not left in time and is ended", serious=True)
        turn.terminate(event.generation)


def _not_ended(turn: _Turn, event: Rang) -> None:
    """The next rung: SIGTERM, then SIGKILL."""
    child = turn.need(event.generation)
    if child.standing is not Standing.LEAVING:
        return
    if child.terminated:
        turn.do(Signal(event.generation, "SIGKILL"))
    else:
        turn.terminate(event.generation)


def _backoff_over(turn: _Turn, event: Rang) -> None:
    _spawn_alone(turn)


def _stable(turn: _Turn, event: Rang) -> None:
    turn.set(failures=0)


# --- the table --------------------------------------------------------------------------------------------------


def _ignore(turn: _Turn, event: object) -> None:
    """Nothing to do here."""


Handler: TypeAlias = Callable[[_Turn, _E], None]
Key: TypeAlias = tuple[type[object] | Alarm, Part | None]
"""What happened, and to whom."""


def _row(
    default: Handler[_E],
    *,
    waiting: Handler[_E] | None = None,
    preparing: Handler[_E] | None = None,
    opening: Handler[_E] | None = None,
    spawning: Handler[_E] | None = None,
    connecting: Handler[_E] | None = None,
    activating: Handler[_E] | None = None,
    draining: Handler[_E] | None = None,
    serving: Handler[_E] | None = None,
    reverting: Handler[_E] | None = None,
    stopping: Handler[_E] | None = None,
    stopped: Handler[_E] | None = None,
) -> dict[Phase, Handler[_E]]:
    return {
        Phase.WAITING: waiting or default,
        Phase.PREPARING: preparing or default,
        Phase.OPENING: opening or default,
        Phase.SPAWNING: spawning or default,
        Phase.CONNECTING: connecting or default,
        Phase.ACTIVATING: activating or default,
        Phase.DRAINING: draining or default,
        Phase.SERVING: serving or default,
        Phase.REVERTING: reverting or default,
        Phase.STOPPING: stopping or default,
        Phase.STOPPED: stopped or default,
    }


_TABLE: Mapping[Key, Mapping[Phase, Handler[Any]]] = {
    # Commands, and the answers to `Prepare`.
    (Reload, None): _row(
        _reload_later, serving=_reload_now, waiting=_reload_now, stopping=_command_refused, stopped=_command_refused
    ),
    (Rollback, None): _row(
        _rollback_busy,
        serving=_rollback_now,
        waiting=_rollback_now,
        stopping=_command_refused,
        stopped=_command_refused,
    ),
    (Stop, None): _row(_stop, stopping=_stop_at_once, stopped=_stop_again),
    (Prepared, None): _row(_ignore, preparing=_prepared),
    (Refused, None): _row(_ignore, preparing=_refused),
    # The new child comes on.
    (Greeted, Part.INCOMING): _row(_ignore, spawning=_greeted),
    (Progressed, Part.INCOMING): _row(_ignore, connecting=_progressed),
    (BecameReady, Part.INCOMING): _row(_ignore, connecting=_ready),
    (RoleTaken, Part.INCOMING): _row(_ignore, activating=_role_taken),
    (WindowAnswered, Part.ACTIVE): _row(_window_answered, opening=_window_opened),
    (WindowAnswered, Part.INCOMING): _row(_window_answered),
    (WindowAnswered, Part.OUTGOING): _row(_window_answered),
    (HasDrained, Part.ACTIVE): _row(_ignore, stopping=_has_drained),
    (HasDrained, Part.INCOMING): _row(_ignore, stopping=_has_drained),
    (HasDrained, Part.OUTGOING): _row(_has_drained),
    # A child gives up, breaks, is gone.
    (GaveUp, Part.ACTIVE): _row(_active_gave_up, draining=_new_gave_up_draining, stopping=_outgoing_broke),
    (GaveUp, Part.INCOMING): _row(_incoming_gave_up, stopping=_outgoing_broke),
    (GaveUp, Part.OUTGOING): _row(_outgoing_broke),
    (Broke, Part.ACTIVE): _row(_active_broke, draining=_new_broke_draining, stopping=_outgoing_broke),
    (Broke, Part.INCOMING): _row(_incoming_broke, stopping=_outgoing_broke),
    (Broke, Part.OUTGOING): _row(_outgoing_broke),
    (Exited, Part.ACTIVE): _row(
        _active_died_serving,
        preparing=_active_died_asked,
        opening=_active_died_opening,
        spawning=_active_died_succeeded,
        connecting=_active_died_succeeded,
        activating=_active_died_succeeded,
        draining=_new_died_draining,
        stopping=_child_left_stopping,
    ),
    (Exited, Part.INCOMING): _row(_incoming_exited, stopping=_child_left_stopping),
    (Exited, Part.OUTGOING): _row(_outgoing_left, stopping=_child_left_stopping),
    (Exited, Part.LEAVER): _row(_leaver_left, stopping=_child_left_stopping),
    # Timers.
    (Alarm.HELLO, Part.INCOMING): _row(_ignore, spawning=_no_hello),
    (Alarm.READY, Part.INCOMING): _row(_ignore, spawning=_not_ready, connecting=_not_ready),
    (Alarm.ACK, Part.ACTIVE): _row(_ignore, opening=_not_opened),
    (Alarm.ACK, Part.INCOMING): _row(_ignore, activating=_not_active),
    (Alarm.DRAIN, Part.ACTIVE): _row(_ignore, stopping=_not_drained),
    (Alarm.DRAIN, Part.INCOMING): _row(_ignore, stopping=_not_drained),
    (Alarm.DRAIN, Part.OUTGOING): _row(_not_drained),
    (Alarm.DRAIN, Part.LEAVER): _row(_not_drained),
    (Alarm.END, Part.ACTIVE): _row(_not_ended),
    (Alarm.END, Part.INCOMING): _row(_not_ended),
    (Alarm.END, Part.OUTGOING): _row(_not_ended),
    (Alarm.END, Part.LEAVER): _row(_not_ended),
    (Alarm.BACKOFF, None): _row(_ignore, waiting=_backoff_over),
    (Alarm.SETTLE, Part.ACTIVE): _row(_ignore, serving=_settled),
    (Alarm.STABLE, Part.ACTIVE): _row(_stable),
}
"""What is done about each thing that can happen, by phase. A pair (what, part) without a row is never acted upon:
a message of a child that is being ended, a timer of one that has changed its part, anything about a dead one."""

_IGNORED: Mapping[Phase, Handler[Any]] = _row(_ignore)


def step(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """Return the state after ``event``, and what is to be done about it, in order."""
    turn = _Turn(state)
    _TABLE.get(_key(state, event), _IGNORED)[state.phase](turn, event)
    return turn.state, tuple(turn.effects)


def _key(state: State, event: Event) -> Key:
    """Find the row: what happened, and which part the child it happened to plays."""
    if isinstance(event, Reload | Rollback | Stop | Prepared | Refused):
        return type(event), None
    what: type[object] | Alarm = event.alarm if isinstance(event, Rang) else type(event)
    return what, state.part(event.generation) if event.generation else None
