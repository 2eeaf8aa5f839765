"""What can happen to the machine: commands, answers, what children say and do, timers that run out.

Only data: what was observed or asked for. Knows nothing of where it comes from (`slot` and `engine` do), and nothing of
what is done about it (the table of `machine` has a row for each and each part).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from bastion.supervisor.release import Release
from bastion.supervisor.state import Alarm, Relief, Timing
from bastion.wire import RoleName


@dataclass(frozen=True, slots=True)
class Reload:
    """Command: hand over to a new child of the release that the settings name now.

    ``force``: though memory or today's IDENTIFYs may not suffice.
    """

    command: int
    force: bool = False


@dataclass(frozen=True, slots=True)
class Rollback:
    """Command: hand over to a new child of the release before. ``force`` as for `Reload`."""

    command: int
    force: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """Command: drain and stop; the second one ends everything at once.

    ``connecting``: in how many seconds all shards of another supervisor's new bot can have connected, at worst.
    """

    command: int
    connecting: float = 0.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """Answer to `Prepare`: this is to be spawned, with these limits.

    ``crowded``: memory suffices only once the child that lingers has left.
    """

    release: Release
    timing: Timing
    crowded: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer to `Prepare`: there is nothing to spawn, or ("failed") nobody can tell whether there is."""

    reason: str
    result: Literal["refused", "failed"] = "refused"


@dataclass(frozen=True, slots=True)
class Weighed:
    """Answer to `Weigh`: why there is no room for a spare, None if there is."""

    shortage: str | None


@dataclass(frozen=True, slots=True)
class Neighbours:
    """How things are with the other supervisors that share the ledger.

    ``company``: there are some. ``relief``: what a supervisor that is told to stop may wait for. ``free``: a bot that
    waits may take over. ``dead``: the number of a bot that has left its sessions when it and its supervisor died, 0 if
    there is none. ``still``: of the one that has sessions, if its supervisor stands still. ``younger``: a supervisor
    that came later has an active bot. ``ready``: another supervisor's bot could take over at once.
    """

    company: bool
    relief: Relief
    free: bool
    dead: int = 0
    still: int = 0
    younger: bool = False
    ready: bool = False


@dataclass(frozen=True, slots=True)
class ByHand:
    """Command: claim every event from now on, or no more than is needed."""

    on: bool


@dataclass(frozen=True, slots=True)
class Alone:
    """Command: nobody is to be beside the active child; or (off) whoever the settings want."""

    on: bool


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
    """All shards of the child are ready. A mirror hears the active child's sessions, and has none of its own."""

    generation: int
    mirror: bool = False


@dataclass(frozen=True, slots=True)
class RoleTaken:
    """The child says which role it holds."""

    generation: int
    role: RoleName


@dataclass(frozen=True, slots=True)
class Beaten:
    """A sign of life from the child's event loop."""

    generation: int


@dataclass(frozen=True, slots=True)
class Lingers:
    """A draining child runs nothing any more but what people are in the middle of."""

    generation: int
    views: int
    conversations: int


@dataclass(frozen=True, slots=True)
class Kicked:
    """Discord has ended a session of the child when another child's session of the same shard began."""

    generation: int
    shard: int


@dataclass(frozen=True, slots=True)
class Away:
    """A shard of the active child has had no session for so many seconds, longer than any other one of its shards."""

    generation: int
    shard: int
    why: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Back:
    """No shard of the active child is away any more, of which it has been said."""

    generation: int


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
    apart: bool = False
    """It could go on with sessions of its own."""


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
    doing: str | None = None
    """Where the program of a child is that has not logged in."""


ChildEvent: TypeAlias = (
    Greeted
    | Progressed
    | BecameReady
    | RoleTaken
    | Beaten
    | Lingers
    | Kicked
    | Away
    | Back
    | HasDrained
    | GaveUp
    | Broke
    | Exited
)
SlotEvent: TypeAlias = Reload | Rollback | Stop | Prepared | Refused | Weighed | Neighbours | ByHand | Alone
"""What concerns no child in particular."""
Event: TypeAlias = SlotEvent | ChildEvent | Rang
