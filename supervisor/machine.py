"""The decisions: which child is spawned, activated, drained or ended, and when.

Pure: `step` takes a state and an event and gives a state and effects. No I/O, no clock, no process; times go out as
timers and come back as events. Everything that can happen in every phase has its cell in the table at the end of
this file. `engine` carries the effects out.

A start is a handoff from nobody, a restart one from a dead child: they go through the same phases, without a window
to open and without a child to drain. Messages of a pipe arrive in order; that is all the table relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

from supervisor.effects import (
    Answer,
    CancelTimer,
    CloseHandoff,
    Effect,
    Exit,
    Note,
    OpenHandoff,
    PhaseEntered,
    Prepare,
    Send,
    Signal,
    Spawn,
    StartTimer,
    Weigh,
)
from supervisor.events import (
    Beaten,
    BecameReady,
    Broke,
    ByHand,
    Event,
    Exited,
    GaveUp,
    Greeted,
    HasDrained,
    Kicked,
    Lingers,
    Neighbours,
    Prepared,
    Progressed,
    Rang,
    Refused,
    Reload,
    RoleTaken,
    Rollback,
    SlotEvent,
    Stop,
    Weighed,
    WindowAnswered,
)
from supervisor.release import Release
from supervisor.state import SWITCHED, Alarm, Child, Handoff, Part, Phase, Relief, Standing, State, Timing
from supervisor.status import HandoffKind, HandoffResult
from supervisor.wire import Activate, Drain, Recover, Standby, Window

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
DUMP_GRACE = 1.0
"""Seconds in which the stacks of a child that hangs reach the log."""
HURRY_LIMIT = 5.0
"""Seconds that a draining or lingering child has left once a newer release needs its place: enough for an interaction's
first answer (3 s)."""
EXIT_CONFIG = 78
"""Exit code for a configuration that cannot work (EX_CONFIG of sysexits.h)."""


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
        """Forget a child that is gone, its timers and its part."""
        state = self.state
        self.cancel(*_CHILD_ALARMS, generation=generation)
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
        self.do(StartTimer(alarm, generation, seconds))

    def cancel(self, *alarms: Alarm, generation: int = 0) -> None:
        self.do(*(CancelTimer(alarm, generation) for alarm in alarms))

    def window(self, generation: int, *, open: bool) -> None:
        """Ask a child to open or close its window."""
        child = self.need(generation)
        if not child.unanswered:
            self.start(Alarm.ANSWER, self.state.timing.hang_timeout, generation=generation)
        self.change(generation, window=open, unanswered=child.unanswered + 1)
        self.do(Send(generation, Window(open=open)))

    def end(self, generation: int, *, patience: float | None = 0.0, fault: str | None = None) -> None:
        """End a child: SIGTERM after ``patience`` seconds, then SIGKILL; None: SIGKILL at once."""
        self.cancel(*_CHILD_ALARMS, generation=generation)
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
        self.start(Alarm.END, TERM_GRACE, generation=generation)

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


_CHILD_ALARMS = tuple(alarm for alarm in Alarm if alarm not in (Alarm.BACKOFF, Alarm.SPARE, Alarm.YIELD, Alarm.BY_HAND))

_E = TypeVar("_E")


# --- beginnings -------------------------------------------------------------------------------------------------


def begin(
    release: Release, timing: Timing, *, company: bool = False, waits: bool = False
) -> tuple[State, tuple[Effect, ...]]:
    """Return the first state, with the first child on its way.

    ``company``: other supervisors share the ledger, and claim. ``waits``: one of their bots has the active role.
    """
    state = State(phase=Phase.WAITING, timing=timing, good=release, good_timing=timing, company=company, waits=waits)
    turn = _Turn(state)
    _spawn(turn, release, standby=company)
    return turn.state, tuple(turn.effects)


def retimed(state: State, timing: Timing) -> State:
    """Return a state at rest with other limits. Whether a spare is kept is decided by the next handoff."""
    timing = replace(timing, spare=state.timing.spare)
    return replace(state, timing=timing, good_timing=timing)


def _spawn(turn: _Turn, release: Release, *, standby: bool) -> None:
    """Bring the next generation on its way to the active role."""
    generation = turn.state.last_generation + 1
    restarts = turn.state.restarts + (turn.state.served and turn.state.active is None)
    turn.set(incoming=generation, restarts=restarts, due=False)
    turn.amend(target=generation)
    _bear(turn, release, standby=standby)
    turn.enter(Phase.SPAWNING)


def _bear(turn: _Turn, release: Release, *, standby: bool) -> None:
    """Start the process of the next generation. A standby's window is open from birth."""
    generation = turn.state.last_generation + 1
    child = Child(generation=generation, release=release, standby=standby, window=standby)
    turn.set(children=(*turn.state.children, child), last_generation=generation)
    ready = turn.state.timing.ready_timeout
    turn.do(Spawn(generation, release, standby))
    turn.start(Alarm.HELLO, min(HELLO_TIMEOUT, ready), generation=generation)
    turn.start(Alarm.READY, ready, generation=generation)


def _spawn_alone(turn: _Turn) -> None:
    """Spawn a child that nobody serves beside, as soon as no other process can handle events.

    It handles events from its first moment; those of a dead child's sessions come before its own, which it holds back.
    """
    _hurry_lingerer(turn)
    state = turn.state
    if state.leavers or state.outgoing is not None or state.lingering is not None:
        turn.set(phase=Phase.WAITING, due=True)
    else:
        _spawn(turn, state.wanted or state.good, standby=state.bereft is not None or state.claims_on or state.waits)
        _recover(turn)


def _recover(turn: _Turn) -> None:
    """Have the child that is on its way look after what the dead one has left."""
    incoming, dead = turn.need(turn.state.incoming), turn.state.bereft
    if dead is not None and not incoming.ready:
        turn.do(Send(incoming.generation, Recover(generation=dead)))


# --- commands ---------------------------------------------------------------------------------------------------


def _reload_now(turn: _Turn, event: Reload) -> None:
    """SERVING or WAITING: the attempt begins, unless one waits already for the last leaver."""
    if turn.state.yielding:
        _command_refused(turn, event)
    elif turn.state.asked:
        _reload_later(turn, event)
    else:
        _ask(turn, (event.command,), kind="reload", release=None, force=event.force)


def _reload_later(turn: _Turn, event: Reload) -> None:
    """An attempt is under way: one reload waits, further ones join it."""
    state = turn.state
    turn.set(waiting=(*state.waiting, event.command), waiting_forced=state.waiting_forced or event.force)


def _rollback_now(turn: _Turn, event: Rollback) -> None:
    """SERVING or WAITING: an ordinary handoff, to the release before."""
    if turn.state.yielding:
        _command_refused(turn, event)
    elif turn.state.asked:
        _rollback_busy(turn, event)
    elif turn.state.previous is None:
        turn.do(Answer((event.command,), "refused", "there is no earlier release to go back to"))
    else:
        _ask(turn, (event.command,), kind="rollback", release=turn.state.previous, force=event.force)


def _reload_hurries(turn: _Turn, event: Reload) -> None:
    """PROBATION, DRAINING: the newest release wins; the old child need not be kept, its handlers have little time left.

    What people are in the middle of has more: it goes on until the new child is ready.
    """
    _reload_later(turn, event)
    old = turn.need(turn.state.outgoing)
    if turn.state.phase is Phase.PROBATION:
        _end_probation(turn, hurry=True)
    elif old.standing is Standing.DRAINING and not old.drained and not old.hurried:
        _hurry(turn, old.generation, linger=turn.state.timing.linger)


def _rollback_on_probation(turn: _Turn, event: Rollback) -> None:
    """PROBATION: the old child is there, with its sessions; it takes over again."""
    new, old = turn.need(turn.state.active), turn.need(turn.state.outgoing)
    if new.standing is Standing.LEAVING:
        _rollback_busy(turn, event)
        return
    reason = "rolled back by command, on probation"
    turn.close("rolled-back", reason)
    turn.answer("rolled-back", reason)
    turn.cancel(Alarm.ACK, Alarm.PROBATION, generation=old.generation)
    turn.set(asked=(event.command,), outgoing=None, incoming=old.generation)
    turn.open("rollback", origin=new.generation, target=old.generation, probation=False)
    _activate(turn, old.generation)


def _rollback_busy(turn: _Turn, event: Rollback) -> None:
    turn.do(Answer((event.command,), "refused", "another handoff is under way; ask again when it has ended"))


def _command_refused(turn: _Turn, event: Reload | Rollback) -> None:
    turn.do(Answer((event.command,), "refused", "the supervisor is stopping"))


def _ask(turn: _Turn, commands: tuple[int, ...], *, kind: HandoffKind, release: Release | None, force: bool) -> None:
    turn.set(asked=commands, forced=force, due=False)
    turn.cancel(Alarm.BACKOFF, Alarm.SPARE)
    if turn.state.active is not None:
        turn.cancel(Alarm.SETTLE, generation=turn.state.active)
    turn.open(kind, origin=turn.state.active)
    turn.enter(Phase.PREPARING)
    turn.do(Prepare(release, force))


def _take_waiting(turn: _Turn) -> bool:
    """Begin the reload that waited, if there is one."""
    waiting, force = turn.state.waiting, turn.state.waiting_forced
    if waiting:
        turn.set(waiting=(), waiting_forced=False)
        _ask(turn, waiting, kind="reload", release=None, force=force)
    return bool(waiting)


def _prepared(turn: _Turn, event: Prepared) -> None:
    """PREPARING: what is to be spawned is there."""
    turn.set(wanted=event.release, timing=event.timing)
    _drop_spare(turn)
    active = turn.state.child(turn.state.active)
    if active is None:
        _spawn_alone(turn)
        return
    if event.crowded:
        _hurry_lingerer(turn)
    if active.window and not active.unanswered and _is_room(turn.state):
        _spawn(turn, event.release, standby=True)
        return
    turn.enter(Phase.OPENING)
    if active.standing is Standing.LEAVING:
        return  # its exit, which is near, makes the new child its successor
    if not active.window or active.unanswered:
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
    again = turn.state.yielding
    turn.set(stops=(*turn.state.stops, event.command))
    _shut_down(turn)
    if again:
        _kill_all(turn)


def _stop_serving(turn: _Turn, event: Stop) -> None:
    """SERVING: if another supervisor's bot is on its way, go on until it has taken over; but not for ever."""
    state = turn.state
    if state.yielding or state.relief is not Relief.COMING or turn.need(state.active).standing is Standing.LEAVING:
        _stop(turn, event)
        return
    turn.set(stops=(*state.stops, event.command), yielding=True)
    limit = state.timing.drain_timeout
    turn.note(f"generation {state.active} serves until another supervisor's bot does, at most {limit:g} s")
    turn.start(Alarm.YIELD, limit)


def _shut_down(turn: _Turn) -> None:
    reason = "the supervisor is stopping"
    turn.close("failed", reason)
    turn.answer("failed", reason)
    if turn.state.waiting:
        turn.do(Answer(turn.state.waiting, "refused", reason))
    turn.set(phase=Phase.STOPPING, waiting=(), waiting_forced=False, due=False, spare=None, yielding=False)
    turn.cancel(Alarm.BACKOFF, Alarm.SPARE, Alarm.YIELD, Alarm.BY_HAND)
    for child in turn.state.children:
        if child.standing in (Standing.ACTIVE, Standing.ACTIVATING, Standing.STANDBY):
            turn.cancel(*_CHILD_ALARMS, generation=child.generation)
            _drain(turn, child.generation)
        elif child.standing is Standing.DRAINING and not child.drained:
            _drain(turn, child.generation, hurried=child.hurried)  # without a linger
        elif child.standing is Standing.STARTING:
            turn.end(child.generation)
    _stopped_if_alone(turn)


def _stop_at_once(turn: _Turn, event: Stop) -> None:
    turn.set(stops=(*turn.state.stops, event.command))
    _kill_all(turn)


def _kill_all(turn: _Turn) -> None:
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
    unanswered = max(0, turn.need(event.generation).unanswered - 1)
    turn.change(event.generation, unanswered=unanswered)
    if not unanswered:
        turn.cancel(Alarm.ANSWER, generation=event.generation)


def _window_opened(turn: _Turn, event: WindowAnswered) -> None:
    """OPENING: the active child claims; the new one may come."""
    _window_answered(turn, event)
    if turn.need(event.generation).unanswered:
        return
    turn.cancel(Alarm.ACK, generation=event.generation)
    if event.open:
        _spawn_beside(turn)
    else:
        _attempt_failed(turn, f"generation {event.generation} cannot claim events (its log says why)")


def _spawn_beside(turn: _Turn) -> None:
    """OPENING: spawn once the active child claims and nobody else is there."""
    active, wanted = turn.need(turn.state.active), turn.state.wanted
    claims = active.standing is Standing.ACTIVE and active.window and not active.unanswered
    if claims and _is_room(turn.state) and wanted is not None:
        _spawn(turn, wanted, standby=True)


def _greeted(turn: _Turn, event: Greeted) -> None:
    turn.cancel(Alarm.HELLO, generation=event.generation)
    turn.change(event.generation, greeted=True)
    turn.enter(Phase.CONNECTING)


def _progressed(turn: _Turn, event: Progressed) -> None:
    """With nobody serving, a child that comes on, however slowly, is better than a new beginning."""
    if turn.state.active is None:
        turn.start(Alarm.READY, turn.state.timing.ready_timeout, generation=event.generation)


def _ready(turn: _Turn, event: BecameReady) -> None:
    """CONNECTING: an active child that is being ended is dead before another is activated."""
    _note_ready(turn, event)
    active = turn.state.child(turn.state.active)
    if active is None or active.standing is not Standing.LEAVING:
        _activate_in_turn(turn)


def _kicked(turn: _Turn, event: Kicked) -> None:
    """CONNECTING: the shard is the new child's now, which holds what it hears; the handoff goes ahead for that reason.

    The active child gets no permit for it until the handoff has failed (see `identifies_later`): it would end the new
    child's session in turn.
    """
    handoff, new = turn.state.handoff, turn.state.incoming
    if handoff is not None and handoff.reason is None:
        reason = f"Discord ended generation {event.generation}'s session of shard {event.shard} for generation {new}'s"
        turn.note(f"{reason}; the handoff goes ahead", serious=True)
        turn.amend(reason=reason)


def identifies_later(state: State, generation: int, *, kicked_by: int) -> bool:
    """Say whether a child that lost a shard to another one's session has to do without for now.

    It has to while the other one serves or is about to; but a child on its way to the active role never waits.
    """
    return state.part(kicked_by) in (Part.ACTIVE, Part.INCOMING) and state.part(generation) is not Part.INCOMING


def _activate_in_turn(turn: _Turn) -> None:
    """CONNECTING, and the new child is ready: of two old children the older one leaves first."""
    state = turn.state
    if state.waits:
        turn.note(f"generation {state.incoming} is ready to take over from another supervisor's bot")
    elif state.active is not None and state.lingering is not None:
        _hurry_lingerer(turn)
    else:
        _activate(turn, turn.need(state.incoming).generation)


def _note_ready(turn: _Turn, event: BecameReady) -> None:
    """From here on it must beat, if it has not begun before."""
    turn.cancel(Alarm.READY, generation=event.generation)
    turn.change(event.generation, ready=True)
    turn.start(Alarm.HANG, turn.state.timing.hang_timeout, generation=event.generation)


def _activate(turn: _Turn, generation: int) -> None:
    turn.change(generation, standing=Standing.ACTIVATING)
    turn.enter(Phase.ACTIVATING)
    turn.do(Send(generation, Activate()))
    turn.start(Alarm.ACK, ACK_TIMEOUT, generation=generation)


def _role_taken(turn: _Turn, event: RoleTaken) -> None:
    """ACTIVATING: the role has passed to the new child; the old one stands by for a while, then drains."""
    if event.role != "active":
        return
    new, old = event.generation, turn.state.child(turn.state.active)
    turn.cancel(Alarm.ACK, generation=new)
    turn.change(new, standing=Standing.ACTIVE)
    turn.set(active=new, incoming=None, bereft=None, served=True)
    turn.note(f"generation {new} is active")
    turn.start(Alarm.STABLE, turn.state.timing.stable_after, generation=new)
    if old is None:
        if turn.state.by_hand:  # its time counts from when all shards are ready
            turn.start(Alarm.BY_HAND, turn.state.timing.window_timeout)
        _succeeded(turn)
        return
    turn.set(outgoing=old.generation)
    turn.cancel(Alarm.STABLE, generation=old.generation)
    if old.standing is not Standing.ACTIVE:
        turn.enter(Phase.DRAINING)
    elif turn.state.timing.probation and not turn.state.waiting and turn.state.handoff and turn.state.handoff.probation:
        _begin_probation(turn, old.generation)
    else:
        turn.enter(Phase.DRAINING)
        _drain(turn, old.generation, linger=turn.state.timing.linger)


def _begin_probation(turn: _Turn, old: int) -> None:
    """The old child keeps its sessions and holds events; what it has begun goes on."""
    turn.change(old, standing=Standing.STANDBY)
    turn.enter(Phase.PROBATION)
    turn.do(Send(old, Standby()))
    turn.start(Alarm.ACK, ACK_TIMEOUT, generation=old)
    turn.start(Alarm.PROBATION, turn.state.timing.probation, generation=old)


def _stands_by(turn: _Turn, event: RoleTaken) -> None:
    """PROBATION: the old child holds events."""
    if event.role == "standby":
        turn.cancel(Alarm.ACK, generation=event.generation)


def _does_not_stand_by(turn: _Turn, event: Rang) -> None:
    turn.note(f"generation {event.generation} does not stand by; there is no probation", serious=True)
    _end_probation(turn)


def _probation_over(turn: _Turn, event: Rang) -> None:
    _end_probation(turn)


def _end_probation(turn: _Turn, *, hurry: bool = False) -> None:
    """The old child drains, unless the new one is being ended: then it is needed."""
    if turn.need(turn.state.active).standing is Standing.LEAVING:
        return
    old = turn.need(turn.state.outgoing).generation
    turn.cancel(Alarm.ACK, Alarm.PROBATION, generation=old)
    turn.enter(Phase.DRAINING)
    if hurry:
        _hurry(turn, old, linger=turn.state.timing.linger)
    else:
        _drain(turn, old, linger=turn.state.timing.linger)


def _drain(turn: _Turn, generation: int, *, hurried: bool = False, linger: float = 0.0) -> None:
    limit = turn.state.timing.drain_timeout
    if hurried:
        limit = min(limit, HURRY_LIMIT)
    turn.change(generation, standing=Standing.DRAINING, hurried=hurried)
    turn.do(Send(generation, Drain(limit=limit, linger=linger)))
    # A press may begin a handler for as long as views are open, and it has the whole limit then.
    turn.start(Alarm.DRAIN, linger + limit + DRAIN_GRACE, generation=generation)


def _hurry(turn: _Turn, generation: int, *, linger: float = 0.0) -> None:
    limit = min(turn.state.timing.drain_timeout, HURRY_LIMIT)
    turn.note(f"a newer release waits: generation {generation} has {limit:g} s to finish")
    _drain(turn, generation, hurried=True, linger=linger)


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
    result = handoff.result if handoff else "succeeded"
    timing = state.timing if result == "succeeded" else state.good_timing
    turn.set(good=release, good_timing=timing, unsettled=True)
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
    elif turn.state.lingering is not None:
        pass  # it claims its own, so windows stay open; and it can take over, so no spare is needed yet
    elif turn.state.timing.spare and not turn.state.yielding:
        _keep_spare(turn)
    elif turn.state.claims_on:
        _claim_all(turn)
        if turn.state.unsettled:
            turn.start(Alarm.SETTLE, turn.state.timing.settle, generation=active.generation)
    elif active.window and turn.state.unsettled:
        turn.start(Alarm.SETTLE, turn.state.timing.settle, generation=active.generation)
    else:
        turn.set(unsettled=False)
        if active.window:
            turn.window(active.generation, open=False)


def _settled(turn: _Turn, event: Rang) -> None:
    """SERVING: no event that another child has handled can still arrive."""
    turn.set(unsettled=False)
    if turn.need(event.generation).window and not turn.state.claims_on:
        turn.window(event.generation, open=False)


# --- other supervisors ------------------------------------------------------------------------------------------


def _neighbours(turn: _Turn, event: Neighbours) -> None:
    """Claim as long as others share the ledger; take over when nobody else is to; leave when somebody else has."""
    before = turn.state
    turn.set(company=event.company, relief=event.relief)
    if before.waits and event.free:
        turn.set(waits=False)
        if before.phase is Phase.CONNECTING and turn.need(before.incoming).ready:
            _activate_in_turn(turn)
    if event.company and not before.company:
        _claim_all(turn)
    elif before.company and not event.company:
        _claims_end(turn)
    if before.yielding and event.relief is not Relief.COMING:
        who = "another supervisor's bot is active" if event.relief is Relief.THERE else "nobody is left to take over"
        turn.note(who)
        _shut_down(turn)


def _nobody_took_over(turn: _Turn, event: Rang) -> None:
    turn.note("no other supervisor's bot has taken over in time", serious=True)
    _shut_down(turn)


def _by_hand(turn: _Turn, event: ByHand) -> None:
    """Switch claims on, until its timer rings or they are switched off; off leaves those that are needed."""
    state = turn.state
    turn.set(by_hand=event.on)
    turn.cancel(Alarm.BY_HAND)
    if event.on:
        turn.note("claims are switched on by hand")
        _claim_all(turn)
        if state.active is not None:
            turn.start(Alarm.BY_HAND, state.timing.window_timeout)
    elif state.by_hand:
        _claims_end(turn, at_once=True)
    if not event.on and state.company:
        turn.note("claims stay on: another supervisor shares the ledger", serious=True)


def _by_hand_over(turn: _Turn, event: Rang) -> None:
    turn.note(f"claims that were switched on by hand end after {turn.state.timing.window_timeout:g} s")
    turn.set(by_hand=False)
    _claims_end(turn)


def _claim_all(turn: _Turn) -> None:
    """Have every child claim that may be handling events."""
    for child in turn.state.children:
        if not child.window and child.standing is not Standing.LEAVING:
            turn.window(child.generation, open=True)


def _claims_end(turn: _Turn, *, at_once: bool = False) -> None:
    """The last reason outside of this supervisor is gone; what it needs itself is seen to when it rests."""
    if turn.state.claims_on:
        return
    turn.set(unsettled=turn.state.unsettled or not at_once)
    if turn.state.phase is Phase.SERVING:
        _serve(turn)


# --- the lingerer -----------------------------------------------------------------------------------------------


def _lingers(turn: _Turn, event: Lingers) -> None:
    """DRAINING: all that the old child still has to do concerns itself alone, so the handoff has succeeded."""
    timing = turn.state.timing
    if turn.need(event.generation).standing is not Standing.DRAINING:
        return
    turn.start(Alarm.DRAIN, timing.linger + timing.drain_timeout + DRAIN_GRACE, generation=event.generation)
    if turn.need(turn.state.active).standing is Standing.LEAVING:
        return  # its exit, which is near, makes the old child active again
    what = f"{_number(event.views, 'view')} and {_number(event.conversations, 'conversation')}"
    turn.note(f"generation {event.generation} lingers for {what}, at most {timing.linger:g} s")
    turn.change(event.generation, hurried=False)
    turn.set(outgoing=None, lingering=event.generation)
    _succeeded(turn)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _hurry_lingerer(turn: _Turn) -> None:
    """Give what lingers little time; it has gone by when the drain's alarm rings, at the latest."""
    child = turn.state.child(turn.state.lingering)
    if child is not None and _stays(child):
        _hurry(turn, child.generation)


def _is_room(state: State) -> bool:
    """Say whether nobody leaves who is to have left before another one comes."""
    lingerer = state.child(state.lingering)
    return not state.leavers and (lingerer is None or _stays(lingerer))


def _stays(lingerer: Child) -> bool:
    """Say whether a lingering child will be there for more than a moment."""
    return lingerer.standing is Standing.DRAINING and not lingerer.drained and not lingerer.hurried


def _lingerer_failed(turn: _Turn, event: GaveUp | Broke) -> None:
    """Concerns nobody else; what still lingered is cut. Closing its pipe last of all is in order."""
    child = turn.need(event.generation)
    if child.standing is Standing.DRAINING and not child.drained:
        turn.note(f"generation {event.generation}, lingering: {event.reason}; it is ended", serious=True)
        turn.end(event.generation, patience=FATAL_GRACE)


def _lingerer_hung(turn: _Turn, event: Rang) -> None:
    turn.note(f"generation {event.generation}, lingering: {_lateness(turn, event)}; it is ended", serious=True)
    turn.end(event.generation)


def _lingerer_left(turn: _Turn, event: Exited) -> None:
    """Go on with what waited for this exit."""
    if not turn.need(event.generation).drained:
        turn.note(f"generation {event.generation} left while it lingered: {event.reason}", serious=True)
    turn.remove(event.generation)
    turn.set(unsettled=True)
    state = turn.state
    match state.phase:
        case Phase.SERVING:
            _serve(turn)
        case Phase.OPENING:
            _spawn_beside(turn)
        case Phase.WAITING if state.due:
            _spawn_alone(turn)
        case Phase.CONNECTING if turn.need(state.incoming).ready:
            active = state.child(state.active)
            if active is None or active.standing is not Standing.LEAVING:
                _activate_in_turn(turn)


# --- the spare --------------------------------------------------------------------------------------------------


def _keep_spare(turn: _Turn) -> None:
    """SERVING: see that a spare comes; not at once if something has failed before."""
    state = turn.state
    if state.spare is not None or turn.need(state.active).standing is not Standing.ACTIVE:
        return
    if failures := max(state.failures, state.spare_failures):
        turn.start(Alarm.SPARE, _backoff(state.timing, failures))
    else:
        _bring_spare(turn)


def _bring_spare(turn: _Turn) -> None:
    """SERVING: once the active child claims every event, see whether there is room for the spare."""
    state = turn.state
    active = turn.need(state.active)
    if not state.timing.spare or state.spare is not None or state.lingering is not None:
        return
    if active.standing is not Standing.ACTIVE:
        return
    turn.cancel(Alarm.SPARE)
    if not active.window:
        turn.window(active.generation, open=True)
    elif not active.unanswered and not state.weighing:
        turn.set(weighing=True)
        turn.do(Weigh(state.good))


def _weighed(turn: _Turn, event: Weighed) -> None:
    turn.set(weighing=False)


def _weighed_serving(turn: _Turn, event: Weighed) -> None:
    """SERVING: spawn the spare if there is room for it; if not, look again later and say so once."""
    _weighed(turn, event)
    state = turn.state
    active = turn.need(state.active)
    if not state.timing.spare or state.spare is not None or state.lingering is not None:
        return
    if event.shortage is not None:
        if not state.spare_refused:
            turn.note(f"no spare for now: {event.shortage}", serious=True)
        turn.set(spare_refused=True)
        turn.start(Alarm.SPARE, state.timing.backoff_max)
    elif active.standing is not Standing.ACTIVE:
        return  # its exit, which is near, comes first
    elif active.window and not active.unanswered:
        turn.set(spare=state.last_generation + 1, spare_refused=False)
        _bear(turn, state.good, standby=True)
    else:
        _bring_spare(turn)


def _spare_due(turn: _Turn, event: Rang) -> None:
    _bring_spare(turn)


def _window_answered_serving(turn: _Turn, event: WindowAnswered) -> None:
    """SERVING: a spare may wait for this."""
    _window_answered(turn, event)
    active = turn.need(event.generation)
    if not active.window or active.unanswered or not turn.state.timing.spare:
        return
    if event.open:
        _bring_spare(turn)
    elif turn.state.spare is None:
        turn.note(f"no spare: generation {event.generation} cannot claim events (its log says why)", serious=True)
        turn.change(event.generation, window=False)
        turn.start(Alarm.SPARE, turn.state.timing.backoff_max)


def _spare_greeted(turn: _Turn, event: Greeted) -> None:
    turn.cancel(Alarm.HELLO, generation=event.generation)
    turn.change(event.generation, greeted=True)


def _spare_ready(turn: _Turn, event: BecameReady) -> None:
    _note_ready(turn, event)
    turn.start(Alarm.STABLE, turn.state.timing.stable_after, generation=event.generation)
    turn.note(f"generation {event.generation} is ready, as a spare")


def _spare_stable(turn: _Turn, event: Rang) -> None:
    """Not as soon as it is ready: one that is ready and dies again and again uses up the IDENTIFYs."""
    turn.set(spare_failures=0)


def _spare_gave_up(turn: _Turn, event: GaveUp) -> None:
    _spare_failed(turn, event.generation, event.reason, patience=FATAL_GRACE)


def _spare_broke(turn: _Turn, event: Broke) -> None:
    _spare_failed(turn, event.generation, event.reason)


def _spare_rang(turn: _Turn, event: Rang) -> None:
    _spare_failed(turn, event.generation, _lateness(turn, event))


def _spare_failed(turn: _Turn, generation: int, reason: str, *, patience: float = 0.0) -> None:
    turn.set(spare=None)
    turn.end(generation, patience=patience)
    _spare_lost(turn, generation, reason)


def _spare_exited(turn: _Turn, event: Exited) -> None:
    turn.remove(event.generation)
    _spare_lost(turn, event.generation, event.reason)


def _spare_lost(turn: _Turn, generation: int, reason: str) -> None:
    turn.note(f"generation {generation}, the spare: {reason}", serious=True)
    turn.set(spare_failures=turn.state.spare_failures + 1)
    if turn.state.phase is Phase.SERVING:
        _serve(turn)


def _drop_spare(turn: _Turn) -> None:
    """Make room for a new release: memory need not suffice for three."""
    spare = turn.state.spare
    if spare is not None:
        turn.set(spare=None)
        turn.end(spare)


def _heir(state: State) -> int | None:
    """Return who can take the place of an active child that is dead: the spare, or the one that lingers."""
    if state.spare is not None:
        return state.spare
    lingerer = state.child(state.lingering)
    return lingerer.generation if lingerer is not None and _stays(lingerer) and not lingerer.hung else None


def _fail_over(turn: _Turn, reason: str, heir: int) -> None:
    """The active child is dead: the heir takes its place, now if it is ready."""
    state = turn.state
    turn.amend(kind="failover", result="succeeded", reason=reason, target=heir)
    turn.set(incoming=heir, failures=state.failures + 1, restarts=state.restarts + 1)
    if heir == state.spare:
        turn.set(spare=None)
    else:
        turn.cancel(Alarm.DRAIN, generation=heir)
        turn.set(lingering=None)
    child = turn.need(heir)
    if child.ready:
        _activate(turn, heir)
    else:
        turn.enter(Phase.CONNECTING if child.greeted else Phase.SPAWNING)
        _recover(turn)


def _put_off(turn: _Turn, reason: str) -> None:
    """Let what was asked for wait until the heir serves."""
    state = turn.state
    if state.handoff is not None and state.handoff.kind == "rollback":
        turn.answer("failed", f"{reason}; another one takes over, ask again")
        turn.set(timing=state.good_timing)
        return
    waiting = (*state.asked, *state.waiting)
    forced = state.forced or state.waiting_forced
    turn.set(waiting=waiting, waiting_forced=forced, asked=(), forced=False, wanted=None, timing=state.good_timing)


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
        heir = _heir(turn.state)
        if heir is not None:
            _fail_over(turn, reason, heir)
            return
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
    _hurry_lingerer(turn)
    if _take_waiting(turn):
        return
    delay = _backoff(turn.state.timing, turn.state.failures)
    turn.do(PhaseEntered(Phase.WAITING, None))
    turn.note(f"nobody serves; the next start is in {delay:g} s")
    turn.start(Alarm.BACKOFF, delay)


def _backoff(timing: Timing, failures: int) -> float:
    """Return the seconds to wait after so many failures in a row."""
    # The exponent is bounded so that a number of failures without end stays a number.
    return min(timing.backoff_first * 2.0 ** min(max(failures - 1, 0), 60), timing.backoff_max)


def _active_gave_up(turn: _Turn, event: GaveUp) -> None:
    """Its exit is what counts: until then it may still handle events."""
    if turn.need(event.generation).standing is Standing.LEAVING:
        return
    turn.note(f"generation {event.generation} gives up: {event.reason}", serious=True)
    turn.end(event.generation, patience=FATAL_GRACE, fault=event.reason)


def _active_broke(turn: _Turn, event: Broke) -> None:
    """Nobody else may handle events while this one can, and nobody can tell it to stop: so it is killed."""
    if turn.need(event.generation).standing is Standing.LEAVING:
        return
    turn.note(f"generation {event.generation}: {event.reason}; it is ended", serious=True)
    turn.end(event.generation, patience=None, fault=event.reason)


def _active_died_serving(turn: _Turn, event: Exited) -> None:
    """SERVING, REVERTING: the heir takes over, or a successor comes after the backoff."""
    reason = _active_died(turn, event)
    heir = _heir(turn.state)
    if heir is not None:
        turn.open("failover", origin=event.generation, reason=reason)
        _fail_over(turn, reason, heir)
        return
    turn.open("recovery", origin=event.generation, reason=reason)
    turn.set(failures=turn.state.failures + 1)
    _wait(turn)


def _active_died_asked(turn: _Turn, event: Exited) -> None:
    """PREPARING: what was asked for becomes the successor; if there is an heir, it is, and what was asked for waits."""
    reason = _active_died(turn, event)
    heir = _heir(turn.state)
    if heir is None:
        turn.amend(kind="recovery", reason=reason)
    else:
        _put_off(turn, reason)
        _fail_over(turn, reason, heir)


def _active_died_opening(turn: _Turn, event: Exited) -> None:
    """OPENING: as before; a successor has nothing left to wait for."""
    reason = _active_died(turn, event)
    heir = _heir(turn.state)
    if heir is None:
        turn.amend(kind="recovery", reason=reason)
        _spawn_alone(turn)
    else:
        _put_off(turn, reason)
        _fail_over(turn, reason, heir)


def _active_died_succeeded(turn: _Turn, event: Exited) -> None:
    """SPAWNING, CONNECTING, ACTIVATING: the new child goes on, now as the successor, unless an heir is there sooner."""
    reason = _active_died(turn, event)
    state = turn.state
    incoming, heir = turn.need(state.incoming), _heir(state)
    if heir is not None and state.phase is not Phase.ACTIVATING and not incoming.ready:
        turn.set(incoming=None)
        turn.end(incoming.generation)
        _put_off(turn, reason)
        _fail_over(turn, reason, heir)
        return
    turn.amend(kind="failover", reason=reason)
    _recover(turn)
    if state.phase is Phase.CONNECTING and incoming.ready:
        _activate(turn, incoming.generation)


def _active_died(turn: _Turn, event: Exited) -> str:
    reason = f"generation {event.generation} died: {_cause(turn, event)}"
    turn.note(reason, serious=True)
    turn.remove(event.generation)
    turn.set(unsettled=True)
    return reason


def _cause(turn: _Turn, event: Exited) -> str:
    """Say why a child is gone: why it was ended, if it was."""
    fault = turn.need(event.generation).fault
    return f"{fault} ({event.reason})" if fault else event.reason


def _new_gave_up_draining(turn: _Turn, event: GaveUp) -> None:
    if turn.need(event.generation).standing is Standing.LEAVING:
        return
    turn.end(event.generation, patience=FATAL_GRACE)
    _take_back(turn, f"generation {event.generation}: {event.reason}")


def _new_broke_draining(turn: _Turn, event: Broke) -> None:
    if turn.need(event.generation).standing is Standing.LEAVING:
        return
    turn.end(event.generation, patience=None)
    _take_back(turn, f"generation {event.generation}: {event.reason}")


def _new_hung(turn: _Turn, event: Rang) -> None:
    """PROBATION, DRAINING: the old child waits to take over, so it is killed; its exit is what counts."""
    fault = _lateness(turn, event)
    turn.note(f"generation {event.generation}: {fault}; it is killed", serious=True)
    turn.end(event.generation, patience=None, fault=fault)


def _new_died_draining(turn: _Turn, event: Exited) -> None:
    reason = f"generation {event.generation}: {_cause(turn, event)}"
    turn.remove(event.generation)
    _take_back(turn, reason)


def _take_back(turn: _Turn, reason: str) -> None:
    """PROBATION, DRAINING, and the new child is lost: the old one goes on if it still can."""
    old = turn.state.outgoing
    turn.set(active=None, outgoing=None, bereft=turn.state.active or turn.state.bereft)
    child = turn.state.child(old)
    if child is not None and old is not None and child.standing in _CAN_GO_ON and not child.drained:
        turn.note(f"{reason}; generation {old} is made active again", serious=True)
        turn.cancel(Alarm.DRAIN, Alarm.ACK, Alarm.PROBATION, generation=old)
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


def _stood_by_and_broke(turn: _Turn, event: GaveUp | Broke) -> None:
    """PROBATION: nobody is left to take over; the handoff ends when the old child has left."""
    _old_fails(turn, event.generation, event.reason)


def _old_hung(turn: _Turn, event: Rang) -> None:
    """PROBATION, DRAINING: it finishes nothing any more."""
    _old_fails(turn, event.generation, _lateness(turn, event))


def _old_fails(turn: _Turn, generation: int, reason: str) -> None:
    turn.note(f"generation {generation}, the old one: {reason}; it is ended", serious=True)
    turn.end(generation)
    if turn.state.phase is Phase.PROBATION:
        turn.enter(Phase.DRAINING)


def _leaver_left(turn: _Turn, event: Exited) -> None:
    """Go on with what waited for this exit."""
    turn.remove(event.generation)
    if turn.state.leavers:
        return
    if turn.state.phase is Phase.OPENING:
        _spawn_beside(turn)
    if turn.state.phase is Phase.REVERTING:
        _serve(turn)
    elif turn.state.phase is Phase.WAITING and turn.state.due:
        _spawn_alone(turn)


def _child_left_stopping(turn: _Turn, event: Exited) -> None:
    turn.remove(event.generation)
    _stopped_if_alone(turn)


# --- children that hang -----------------------------------------------------------------------------------------

_CAN_GO_ON = (Standing.STANDBY, Standing.DRAINING)
"""How far an outgoing child has come that can be made active again."""


def _beaten(turn: _Turn, event: Beaten) -> None:
    child = turn.need(event.generation)
    if child.standing is Standing.LEAVING:
        return
    if child.hung:
        turn.note(f"generation {event.generation} beats again and goes on")
        turn.cancel(Alarm.DUMP, generation=event.generation)
        turn.change(event.generation, hung=False)
    turn.start(Alarm.HANG, turn.state.timing.hang_timeout, generation=event.generation)


def _hangs(turn: _Turn, event: Rang) -> None:
    """Ask for the child's stacks, and give it that last moment."""
    turn.note(f"generation {event.generation}: {_lateness(turn, event)}; its stacks follow", serious=True)
    turn.change(event.generation, hung=True)
    turn.do(Signal(event.generation, "SIGUSR1"))
    turn.start(Alarm.DUMP, DUMP_GRACE, generation=event.generation)


def _active_hung(turn: _Turn, event: Rang) -> None:
    """Its exit is what counts: nobody else is activated while it may wake up."""
    turn.end(event.generation, fault=_lateness(turn, event))


def _does_not_answer(turn: _Turn, event: Rang) -> None:
    """One that cannot be told anything would fail every reload from now on; SIGTERM still reaches it."""
    fault = _lateness(turn, event)
    turn.note(f"generation {event.generation}: {fault}; it is ended", serious=True)
    turn.end(event.generation, fault=fault)


def _incoming_hung(turn: _Turn, event: Rang) -> None:
    _incoming_failed(turn, event.generation, _lateness(turn, event))


def _hung_stopping(turn: _Turn, event: Rang) -> None:
    turn.end(event.generation)


# --- timers -----------------------------------------------------------------------------------------------------


def _lateness(turn: _Turn, event: Rang) -> str:
    """Say what a child has not done in time."""
    timing = turn.state.timing
    match event.alarm:
        case Alarm.HELLO:
            return f"said nothing within {min(HELLO_TIMEOUT, timing.ready_timeout):g} s of its start"
        case Alarm.READY:
            return f"not ready within {timing.ready_timeout:g} s (handoff.ready_timeout)"
        case Alarm.ACK:
            return f"did not become active within {ACK_TIMEOUT:g} s"
        case Alarm.ANSWER:
            return f"beats, but has not read its pipe for {timing.hang_timeout:g} s (restart.hang_timeout)"
        case _:
            return f"hangs: no sign of life for {timing.hang_timeout:g} s (restart.hang_timeout)"


def _incoming_late(turn: _Turn, event: Rang) -> None:
    _incoming_failed(turn, event.generation, _lateness(turn, event))


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
    probation: Handler[_E] | None = None,
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
        Phase.PROBATION: probation or default,
        Phase.DRAINING: draining or default,
        Phase.SERVING: serving or default,
        Phase.REVERTING: reverting or default,
        Phase.STOPPING: stopping or default,
        Phase.STOPPED: stopped or default,
    }


_TABLE: Mapping[Key, Mapping[Phase, Handler[Any]]] = {
    # Commands, and the answers to `Prepare`.
    (Reload, None): _row(
        _reload_later,
        serving=_reload_now,
        waiting=_reload_now,
        probation=_reload_hurries,
        draining=_reload_hurries,
        stopping=_command_refused,
        stopped=_command_refused,
    ),
    (Rollback, None): _row(
        _rollback_busy,
        serving=_rollback_now,
        waiting=_rollback_now,
        probation=_rollback_on_probation,
        stopping=_command_refused,
        stopped=_command_refused,
    ),
    (Stop, None): _row(_stop, serving=_stop_serving, stopping=_stop_at_once, stopped=_stop_again),
    # Other supervisors, and claims by hand.
    (Neighbours, None): _row(_neighbours, stopping=_ignore, stopped=_ignore),
    (Alarm.YIELD, None): _row(_nobody_took_over, stopping=_ignore, stopped=_ignore),
    (ByHand, None): _row(_by_hand, stopping=_ignore, stopped=_ignore),
    (Alarm.BY_HAND, None): _row(_by_hand_over, stopping=_ignore, stopped=_ignore),
    (Prepared, None): _row(_ignore, preparing=_prepared),
    (Refused, None): _row(_ignore, preparing=_refused),
    (Weighed, None): _row(_weighed, serving=_weighed_serving),
    # The new child comes on.
    (Greeted, Part.INCOMING): _row(_ignore, spawning=_greeted),
    (Progressed, Part.INCOMING): _row(_ignore, connecting=_progressed),
    (BecameReady, Part.INCOMING): _row(_ignore, connecting=_ready),
    (Kicked, Part.ACTIVE): _row(_ignore, connecting=_kicked),
    (RoleTaken, Part.INCOMING): _row(_ignore, activating=_role_taken),
    (RoleTaken, Part.OUTGOING): _row(_ignore, probation=_stands_by),
    (WindowAnswered, Part.ACTIVE): _row(_window_answered, opening=_window_opened, serving=_window_answered_serving),
    (WindowAnswered, Part.INCOMING): _row(_window_answered),
    (WindowAnswered, Part.OUTGOING): _row(_window_answered),
    (HasDrained, Part.ACTIVE): _row(_ignore, stopping=_has_drained),
    (HasDrained, Part.INCOMING): _row(_ignore, stopping=_has_drained),
    (HasDrained, Part.OUTGOING): _row(_has_drained),
    # What people are in the middle of goes on in the old child; what goes wrong with it concerns nobody else.
    (Lingers, Part.OUTGOING): _row(_ignore, draining=_lingers),
    (WindowAnswered, Part.LINGERER): _row(_window_answered),
    (HasDrained, Part.LINGERER): _row(_has_drained),
    (GaveUp, Part.LINGERER): _row(_lingerer_failed),
    (Broke, Part.LINGERER): _row(_lingerer_failed),
    (Exited, Part.LINGERER): _row(_lingerer_left, stopping=_child_left_stopping),
    # The spare comes on; what goes wrong with it concerns nobody else.
    (Greeted, Part.SPARE): _row(_spare_greeted),
    (BecameReady, Part.SPARE): _row(_spare_ready),
    (GaveUp, Part.SPARE): _row(_spare_gave_up),
    (Broke, Part.SPARE): _row(_spare_broke),
    (Exited, Part.SPARE): _row(_spare_exited),
    (Alarm.HELLO, Part.SPARE): _row(_spare_rang),
    (Alarm.READY, Part.SPARE): _row(_spare_rang),
    (Alarm.DUMP, Part.SPARE): _row(_spare_rang),
    (Alarm.STABLE, Part.SPARE): _row(_spare_stable),
    (Alarm.SPARE, None): _row(_ignore, serving=_spare_due),
    # Signs of life, and their end.
    (Beaten, Part.ACTIVE): _row(_beaten),
    (Beaten, Part.INCOMING): _row(_beaten),
    (Beaten, Part.OUTGOING): _row(_beaten),
    (Beaten, Part.LINGERER): _row(_beaten),
    (Beaten, Part.SPARE): _row(_beaten),
    (Alarm.HANG, Part.ACTIVE): _row(_hangs),
    (Alarm.HANG, Part.INCOMING): _row(_hangs),
    (Alarm.HANG, Part.OUTGOING): _row(_hangs),
    (Alarm.HANG, Part.LINGERER): _row(_hangs),
    (Alarm.HANG, Part.SPARE): _row(_hangs),
    (Alarm.DUMP, Part.ACTIVE): _row(_active_hung, probation=_new_hung, draining=_new_hung, stopping=_hung_stopping),
    (Alarm.ANSWER, Part.ACTIVE): _row(_does_not_answer, probation=_new_hung, draining=_new_hung, stopping=_ignore),
    (Alarm.DUMP, Part.INCOMING): _row(_incoming_hung, stopping=_hung_stopping),
    (Alarm.DUMP, Part.OUTGOING): _row(_old_hung, stopping=_hung_stopping),
    (Alarm.DUMP, Part.LINGERER): _row(_lingerer_hung, stopping=_hung_stopping),
    # A child gives up, breaks, is gone.
    (GaveUp, Part.ACTIVE): _row(
        _active_gave_up, probation=_new_gave_up_draining, draining=_new_gave_up_draining, stopping=_outgoing_broke
    ),
    (GaveUp, Part.INCOMING): _row(_incoming_gave_up, stopping=_outgoing_broke),
    (GaveUp, Part.OUTGOING): _row(_outgoing_broke, probation=_stood_by_and_broke),
    (Broke, Part.ACTIVE): _row(
        _active_broke, probation=_new_broke_draining, draining=_new_broke_draining, stopping=_outgoing_broke
    ),
    (Broke, Part.INCOMING): _row(_incoming_broke, stopping=_outgoing_broke),
    (Broke, Part.OUTGOING): _row(_outgoing_broke, probation=_stood_by_and_broke),
    (Exited, Part.ACTIVE): _row(
        _active_died_serving,
        preparing=_active_died_asked,
        opening=_active_died_opening,
        spawning=_active_died_succeeded,
        connecting=_active_died_succeeded,
        activating=_active_died_succeeded,
        probation=_new_died_draining,
        draining=_new_died_draining,
        stopping=_child_left_stopping,
    ),
    (Exited, Part.INCOMING): _row(_incoming_exited, stopping=_child_left_stopping),
    (Exited, Part.OUTGOING): _row(_outgoing_left, stopping=_child_left_stopping),
    (Exited, Part.LEAVER): _row(_leaver_left, stopping=_child_left_stopping),
    # Timers.
    (Alarm.HELLO, Part.INCOMING): _row(_ignore, spawning=_incoming_late),
    (Alarm.READY, Part.INCOMING): _row(_ignore, spawning=_incoming_late, connecting=_incoming_late),
    (Alarm.ACK, Part.ACTIVE): _row(_ignore, opening=_not_opened),
    (Alarm.ACK, Part.INCOMING): _row(_ignore, activating=_incoming_late),
    (Alarm.ACK, Part.OUTGOING): _row(_ignore, probation=_does_not_stand_by),
    (Alarm.PROBATION, Part.OUTGOING): _row(_ignore, probation=_probation_over),
    (Alarm.DRAIN, Part.ACTIVE): _row(_ignore, stopping=_not_drained),
    (Alarm.DRAIN, Part.INCOMING): _row(_ignore, stopping=_not_drained),
    (Alarm.DRAIN, Part.OUTGOING): _row(_not_drained),
    (Alarm.DRAIN, Part.LINGERER): _row(_not_drained),
    (Alarm.DRAIN, Part.LEAVER): _row(_not_drained),
    (Alarm.END, Part.ACTIVE): _row(_not_ended),
    (Alarm.END, Part.INCOMING): _row(_not_ended),
    (Alarm.END, Part.OUTGOING): _row(_not_ended),
    (Alarm.END, Part.LINGERER): _row(_not_ended),
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
    if isinstance(event, SlotEvent):
        return type(event), None
    what: type[object] | Alarm = event.alarm if isinstance(event, Rang) else type(event)
    return what, state.part(event.generation) if event.generation else None
