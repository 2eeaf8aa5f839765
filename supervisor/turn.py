"""One turn of the machine: a state that is being changed, and the effects so far.

Knows which changes and effects go together: a child that is forgotten has no timers. Knows no events, and not why any
of this is done: `moves` and `machine` do. No I/O, no clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from bastion.supervisor import limits
from bastion.supervisor.effects import (
    Answer,
    CancelTimer,
    CloseHandoff,
    Effect,
    Note,
    OpenHandoff,
    PhaseEntered,
    Send,
    Signal,
    StartTimer,
)
from bastion.supervisor.state import SWITCHED, Alarm, Child, Handoff, Phase, Standing, State
from bastion.supervisor.status import HandoffKind, HandoffResult
from bastion.wire import Recover, Window

CHILD_ALARMS = tuple(alarm for alarm in Alarm if alarm not in (Alarm.BACKOFF, Alarm.SPARE, Alarm.YIELD, Alarm.BY_HAND))
"""The timers that belong to one child."""


@dataclass(slots=True)
class Turn:
    """A state being changed, and the effects so far. Lives for one `step`."""

    state: State
    effects: list[Effect] = field(default_factory=list)

    def set(self, **changes: object) -> None:
        """Change fields of the state."""
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]

    def do(self, *effects: Effect) -> None:
        """Have these done, after those so far."""
        self.effects.extend(effects)

    def note(self, text: str, *, serious: bool = False) -> None:
        """Put a line into the log."""
        self.do(Note(text, serious))

    def enter(self, phase: Phase) -> None:
        """Go to a phase of the attempt under way."""
        self.set(phase=phase)
        new = self.state.active if phase in SWITCHED else self.state.incoming
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
        """Forget a child that is gone, its timers and its part.

        If sessions were moving to it, the child that is still active goes on with whatever it had taken of them.
        """
        state = self.state
        if self.need(generation).takes_sessions and state.active not in (None, generation):
            self.do(Send(self.need(state.active).generation, Recover(generation=generation)))
        self.cancel(*CHILD_ALARMS, generation=generation)
        self.set(
            children=tuple(child for child in state.children if child.generation != generation),
            active=None if state.active == generation else state.active,
            bereft=generation if state.active == generation else state.bereft,
            incoming=None if state.incoming == generation else state.incoming,
            outgoing=None if state.outgoing == generation else state.outgoing,
            lingering=None if state.lingering == generation else state.lingering,
            spare=None if state.spare == generation else state.spare,
        )

    def start(self, alarm: Alarm, seconds: float, *, generation: int = 0) -> None:
        """Start a timer, anew if it runs; ``generation`` is 0 for one that belongs to no child."""
        self.do(StartTimer(alarm, generation, seconds))

    def cancel(self, *alarms: Alarm, generation: int = 0) -> None:
        """Forget these timers, as far as they run."""
        self.do(*(CancelTimer(alarm, generation) for alarm in alarms))

    def activation_limit(self, generation: int) -> float:
        """Return the seconds in which a child that is told to activate is active."""
        if self.need(generation).takes_sessions:
            return self.state.timing.hang_timeout + limits.MOVE_TIMEOUT
        return limits.ACK_TIMEOUT

    def beat_limit(self, generation: int) -> float:
        """Return the seconds in which a child has to beat."""
        return limits.SIGN_TIMEOUT if self.need(generation).takes_sessions else self.state.timing.hang_timeout

    def expect_beat(self, generation: int) -> None:
        """Begin to wait for a child's next beat."""
        self.start(Alarm.HANG, self.beat_limit(generation), generation=generation)

    def window(self, generation: int, *, open: bool) -> None:
        """Have a child claim every event, or tell it that no other child is beside it any more."""
        self.change(generation, beside=open)
        self.do(Send(generation, Window(open=open)))

    def end(self, generation: int, *, patience: float | None = 0.0, fault: str | None = None) -> None:
        """End a child: SIGTERM after ``patience`` seconds, then SIGKILL; None: SIGKILL at once."""
        self.cancel(*CHILD_ALARMS, generation=generation)
        self.change(generation, standing=Standing.LEAVING, terminated=patience is None, fault=fault)
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
        self.start(Alarm.END, limits.TERM_GRACE, generation=generation)

    def amend(self, **changes: object) -> None:
        """Change the handoff under way, if there is one."""
        if self.state.handoff is not None:
            self.set(handoff=replace(self.state.handoff, **changes))  # type: ignore[arg-type]

    def open(
        self,
        kind: HandoffKind,
        *,
        origin: int | None,
        target: int | None = None,
        reason: str | None = None,
        probation: bool = True,
    ) -> None:
        """Begin a handoff unless one is under way."""
        if self.state.handoff is None:
            self.set(handoff=Handoff(kind=kind, origin=origin, target=target, reason=reason, probation=probation))
            self.do(OpenHandoff())

    def close(self, result: HandoffResult, reason: str | None) -> None:
        """End the handoff under way, if there is one."""
        handoff = self.state.handoff
        if handoff is not None:
            self.set(handoff=None)
            if result != "succeeded":
                # A release that was not taken leaves nothing behind, its settings neither.
                self.set(timing=self.state.good_timing)
            self.do(CloseHandoff(handoff.kind, handoff.origin, handoff.target, result, reason))

    def answer(self, result: HandoffResult, reason: str | None = None) -> None:
        """Answer the commands of the present attempt."""
        asked = self.state.asked
        self.set(asked=(), forced=False, wanted=None)
        if asked:
            self.do(Answer(asked, result, reason))
