"""What the machine wants done, in one flat list.

Only data. Knows nothing of why (`machine` decides) and nothing of how (`slot` carries them out).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from bastion.supervisor.release import Release
from bastion.supervisor.state import Alarm, Phase
from bastion.supervisor.status import HandoffKind, HandoffResult
from bastion.wire import ToChild


@dataclass(frozen=True, slots=True)
class Prepare:
    """Look whether a child can be spawned: of ``release``, or of what the settings name now. Answered by an event.

    Of two, only the newer is answered. ``force``: memory and IDENTIFY budget are not looked at.
    """

    release: Release | None
    force: bool = False


@dataclass(frozen=True, slots=True)
class Weigh:
    """Look whether memory and IDENTIFY budget suffice for a spare of this release. Answered by `Weighed`."""

    release: Release


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
    """Signal the child's process, if it still lives. SIGUSR1 has it print its stacks."""

    generation: int
    name: Literal["SIGTERM", "SIGKILL", "SIGUSR1"]


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
    | Weigh
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
