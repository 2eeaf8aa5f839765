"""The decisions: which child is spawned, activated, drained or ended, and when.

Pure: `step` takes a state and an event and gives a state and effects. No I/O, no clock, no process; times go out as
timers and come back as events. Everything that can happen in every phase has its cell in the table at the end of
this file; the cell's handler decides, `moves` and `turn` say what that comes to. `slot` carries the effects out.

A start is a handoff from nobody, a restart one from a dead child: they go through the same phases, without a child to
drain. Messages of a pipe arrive in order; that is all the table relies on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

from bastion.counted import counted
from bastion.supervisor import limits, moves
from bastion.supervisor.effects import Answer, Effect, Send, Signal
from bastion.supervisor.events import (
    Alone,
    Away,
    Back,
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
)
from bastion.supervisor.release import Release
from bastion.supervisor.state import Alarm, Child, Part, Phase, Relief, Standing, State, Timing
from bastion.supervisor.turn import Turn
from bastion.wire import Introduce, Recover

# --- beginnings -------------------------------------------------------------------------------------------------


def begin(
    release: Release, timing: Timing, *, company: bool = False, waits: bool = False, bereft: int | None = None
) -> tuple[State, tuple[Effect, ...]]:
    """Return the first state, with the first child on its way.

    ``company``: other supervisors share the ledger, and claim. ``waits``: one of their bots has the active role.
    ``bereft``: another supervisor's bot has left its sessions: that of an earlier one, as those of generation `FORMER`,
    or under its number that of one which shared the ledger.
    """
    state = State(phase=Phase.WAITING, timing=timing, good=release, good_timing=timing, company=company, waits=waits)
    turn = Turn(state)
    turn.set(bereft=bereft)
    moves.spawn(turn, release, standby=company or bereft is not None)
    moves.recover(turn)
    return turn.state, tuple(turn.effects)


def adopt(
    release: Release, timing: Timing, *, generation: int, newest: int, command: int
) -> tuple[State, tuple[Effect, ...]]:
    """Return the first state of a program that finds an earlier one's child, which has the active role.

    Nothing else is known of it. It is told to say what there is to know, and the reload ``command`` waits for that.
    ``newest``: the highest generation that there was.
    """
    child = Child(generation=generation, release=release, standby=False, standing=Standing.ACTIVE, beside=True)
    state = State(
        phase=Phase.SERVING,
        timing=timing,
        good=release,
        good_timing=timing,
        children=(child,),
        active=generation,
        last_generation=newest,
        waiting=(command,),
        served=True,
    )
    turn = Turn(state)
    turn.do(Send(generation, Introduce()))
    turn.start(Alarm.ACK, limits.ACK_TIMEOUT, generation=generation)
    turn.expect_beat(generation)
    return turn.state, tuple(turn.effects)


# --- commands ---------------------------------------------------------------------------------------------------


def _reload_now(turn: Turn, event: Reload) -> None:
    """SERVING or WAITING: the attempt begins, unless one waits already for the last leaver."""
    if turn.state.yielding:
        _command_refused(turn, event)
    elif turn.state.asked or turn.state.waiting:
        _reload_later(turn, event)
    else:
        moves.ask(turn, (event.command,), kind="reload", release=None, force=event.force)


def _reload_later(turn: Turn, event: Reload) -> None:
    """An attempt is under way: one reload waits, further ones join it."""
    state = turn.state
    turn.set(waiting=(*state.waiting, event.command), waiting_forced=state.waiting_forced or event.force)


def _rollback_now(turn: Turn, event: Rollback) -> None:
    """SERVING or WAITING: an ordinary handoff, to the release before."""
    if turn.state.yielding:
        _command_refused(turn, event)
    elif turn.state.asked:
        _rollback_busy(turn, event)
    elif turn.state.previous is None:
        turn.do(Answer((event.command,), "refused", "there is no earlier release to go back to"))
    else:
        moves.ask(turn, (event.command,), kind="rollback", release=turn.state.previous, force=event.force)


def _reload_hurries(turn: Turn, event: Reload) -> None:
    """PROBATION, DRAINING: the newest release wins; the old child need not be kept, its handlers have little time left.

    What people are in the middle of has more: it goes on until the new child is ready.
    """
    if turn.state.yielding:
        _command_refused(turn, event)
        return
    _reload_later(turn, event)
    old = turn.state.child(turn.state.outgoing)
    if old is None:
        return  # The new one is being ended, too; its exit, which is near, makes the reload a new beginning.
    if turn.state.phase is Phase.PROBATION:
        moves.end_probation(turn, hurried=True)
    elif old.standing is Standing.DRAINING and not old.drained and not old.hurried:
        moves.hurry(turn, old.generation, linger=turn.state.timing.linger)


def _rollback_on_probation(turn: Turn, event: Rollback) -> None:
    """PROBATION: the old child is there, with its sessions; it takes over again."""
    new = turn.need(turn.state.active)
    if new.standing is Standing.LEAVING or turn.state.yielding:
        _rollback_busy(turn, event)
        return
    old = turn.need(turn.state.outgoing)
    reason = "rolled back by command, on probation"
    turn.close("rolled-back", reason)
    turn.answer("rolled-back", reason)
    turn.cancel(Alarm.ACK, Alarm.PROBATION, generation=old.generation)
    turn.set(asked=(event.command,), outgoing=None, incoming=old.generation)
    turn.open("rollback", origin=new.generation, target=old.generation, probation=False)
    moves.activate(turn, old.generation)


def _rollback_busy(turn: Turn, event: Rollback) -> None:
    turn.do(Answer((event.command,), "refused", "another handoff is under way; ask again when it has ended"))


def _command_refused(turn: Turn, event: Reload | Rollback) -> None:
    turn.do(Answer((event.command,), "refused", "the supervisor is stopping"))


def _alone(turn: Turn, event: Alone) -> None:
    turn.set(alone=event.on)
    if turn.state.phase is Phase.SERVING:
        moves.serve(turn)


def _introduced(turn: Turn, event: RoleTaken | Rang) -> None:
    """SERVING: an earlier program's child has told what there is to know, or does not; the reload goes ahead."""
    if turn.state.waiting:
        turn.cancel(Alarm.ACK, generation=event.generation)
        moves.serve(turn)


def _prepared(turn: Turn, event: Prepared) -> None:
    """PREPARING: what is to be spawned is there."""
    turn.set(wanted=event.release, timing=event.timing)
    moves.drop_spare(turn)
    active = turn.state.child(turn.state.active)
    if active is None:
        moves.spawn_alone(turn)
        return
    if event.crowded:
        moves.hurry_lingerer(turn)
    moves.spawn_beside(turn)


def _refused(turn: Turn, event: Refused) -> None:
    """PREPARING: nothing has changed."""
    if turn.state.active is not None or not turn.state.served:
        turn.close(event.result, event.reason)
    turn.answer(event.result, event.reason)
    if turn.state.active is None:
        moves.wait(turn)
    else:
        moves.serve(turn)


def _stop(turn: Turn, event: Stop) -> None:
    """Drain whoever may be handling events, end the others."""
    again = turn.state.yielding
    turn.set(stops=(*turn.state.stops, event.command))
    moves.shut_down(turn)
    if again:
        moves.kill_all(turn)


def _stop_serving(turn: Turn, event: Stop) -> None:
    """If another supervisor's bot is on its way, go on until it has taken over; but not for ever.

    PROBATION: the new bot is the one that goes on. What it replaced need not stand by any more.
    """
    state = turn.state
    if state.yielding or state.relief is not Relief.COMING or turn.need(state.active).standing is Standing.LEAVING:
        _stop(turn, event)
        return
    turn.set(stops=(*state.stops, event.command), yielding=True)
    limit = state.timing.drain_timeout + event.connecting
    turn.note(f"generation {state.active} serves until another supervisor's bot does, at most {limit:g} s")
    turn.start(Alarm.YIELD, limit)
    if state.waiting:
        turn.set(waiting=(), waiting_forced=False)
        turn.do(Answer(state.waiting, "refused", "the supervisor is stopping"))
    if state.phase is Phase.PROBATION and turn.need(state.outgoing).standing is Standing.STANDBY:
        moves.end_probation(turn)


def _stop_at_once(turn: Turn, event: Stop) -> None:
    turn.set(stops=(*turn.state.stops, event.command))
    moves.kill_all(turn)


def _stop_again(turn: Turn, event: Stop) -> None:
    turn.do(Answer((event.command,), "succeeded"))


# --- the way to the active role ---------------------------------------------------------------------------------


def _greeted(turn: Turn, event: Greeted) -> None:
    turn.cancel(Alarm.HELLO, generation=event.generation)
    turn.change(event.generation, greeted=True)
    turn.enter(Phase.CONNECTING)


def _progressed(turn: Turn, event: Progressed) -> None:
    """With nobody serving, a child that comes on, however slowly, is better than a new beginning.

    One that has been ready is not on its way any more: a shard of it was resumed.
    """
    child = turn.need(event.generation)
    if turn.state.active is None and not (child.ready or child.again):
        turn.start(Alarm.READY, turn.state.timing.ready_timeout, generation=event.generation)


def _ready(turn: Turn, event: BecameReady) -> None:
    """CONNECTING: a child with sessions of its own waits for one more beat of the active one.

    One that hangs is dead before another is activated, and its sessions are resumed: what came to it before the new
    child's sessions began nobody else has heard.
    """
    _note_ready(turn, event)
    if event.mirror or turn.state.active is None:
        moves.activate_in_turn(turn)


def _beaten_connecting(turn: Turn, event: Beaten) -> None:
    """CONNECTING: the active child lives, so a new one that is ready need not wait."""
    _beaten(turn, event)
    incoming = turn.need(turn.state.incoming)
    if incoming.ready and not incoming.mirror and not turn.need(event.generation).hung:
        moves.activate_in_turn(turn)


def _kicked(turn: Turn, event: Kicked) -> None:
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


def _note_ready(turn: Turn, event: BecameReady) -> None:
    """From here on it must beat, if it has not begun before."""
    turn.cancel(Alarm.READY, generation=event.generation)
    turn.change(event.generation, ready=True, mirror=event.mirror)
    turn.expect_beat(event.generation)


def _role_taken(turn: Turn, event: RoleTaken) -> None:
    """ACTIVATING: the role has passed to the new child; the old one stands by for a while, then drains."""
    if event.role != "active":
        return
    new, old = event.generation, turn.state.child(turn.state.active)
    turn.cancel(Alarm.ACK, generation=new)
    if old is not None and turn.need(new).mirror:
        turn.change(old.generation, mirror=True)  # the sessions that it had are the new one's
    turn.change(new, standing=Standing.ACTIVE, promoted=False, mirror=False)
    turn.set(active=new, incoming=None, bereft=None, served=True, fault="")
    turn.note(f"generation {new} is active")
    turn.start(Alarm.STABLE, turn.state.timing.stable_after, generation=new)
    if old is None:
        if turn.state.by_hand:  # its time counts from when all shards are ready
            turn.start(Alarm.BY_HAND, turn.state.timing.window_timeout)
        moves.succeeded(turn)
        return
    turn.set(outgoing=old.generation)
    turn.cancel(Alarm.STABLE, generation=old.generation)
    if old.standing is not Standing.ACTIVE:
        turn.enter(Phase.DRAINING)
    elif turn.state.timing.probation and not turn.state.waiting and turn.state.handoff and turn.state.handoff.probation:
        moves.begin_probation(turn, old.generation)
    else:
        turn.enter(Phase.DRAINING)
        moves.drain(turn, old.generation, linger=turn.state.timing.linger)


def _stands_by(turn: Turn, event: RoleTaken) -> None:
    """PROBATION: the old child holds events."""
    if event.role == "standby":
        turn.cancel(Alarm.ACK, generation=event.generation)


def _does_not_stand_by(turn: Turn, event: Rang) -> None:
    turn.note(f"generation {event.generation} does not stand by; there is no probation", serious=True)
    moves.end_probation(turn)


def _probation_over(turn: Turn, event: Rang) -> None:
    moves.end_probation(turn)


def _has_drained(turn: Turn, event: HasDrained) -> None:
    """It need not beat any more: its program may clean up without an event loop, and the drain's alarm has an end."""
    if turn.need(event.generation).standing is Standing.DRAINING:
        turn.cancel(Alarm.HANG, generation=event.generation)
        turn.change(event.generation, drained=True)


def _outgoing_left(turn: Turn, event: Exited) -> None:
    """PROBATION, DRAINING: the old child is gone, the handoff is complete, unless the new one is being ended, too."""
    drained = turn.need(event.generation).drained
    turn.remove(event.generation)
    if not drained:
        turn.note(f"generation {event.generation} left before it had drained: {event.reason}", serious=True)
    if turn.need(turn.state.active).standing is not Standing.LEAVING:
        moves.succeeded(turn)


# --- other supervisors ------------------------------------------------------------------------------------------


def _neighbours(turn: Turn, event: Neighbours) -> None:
    """Claim as long as others share the ledger; take over when nobody else is to; leave when somebody else has."""
    before = turn.state
    taken = event.company and not event.free
    turn.set(company=event.company, relief=event.relief, relieved=event.ready, taken=taken)
    turn.set(still=event.still, younger=event.younger)
    if event.dead and before.active is None and before.bereft is None:
        _neighbour_died(turn, event.dead)
    if before.waits and event.free:
        turn.set(waits=False)
        turn.open("takeover", origin=None, target=before.incoming)
        if before.phase is Phase.CONNECTING and turn.need(before.incoming).ready:
            moves.activate_in_turn(turn)
    if event.company and not before.company:
        moves.claim_all(turn)
    elif before.company and not event.company:
        moves.claims_end(turn)
    if before.yielding and event.relief is not Relief.COMING:
        who = "another supervisor's bot is active" if event.relief is Relief.THERE else "nobody is left to take over"
        turn.note(who)
        moves.shut_down(turn)
    elif event.younger and before.phase is Phase.SERVING:
        moves.serve(turn)


def _neighbour_died(turn: Turn, bot: int) -> None:
    """Nobody serves: what another supervisor's bot has left is ours to go on with."""
    turn.set(bereft=bot)
    if turn.state.phase in (Phase.SPAWNING, Phase.CONNECTING):
        moves.recover(turn)
    elif turn.state.phase is Phase.ACTIVATING:
        turn.do(Send(turn.need(turn.state.incoming).generation, Recover(generation=bot)))


def _nobody_took_over(turn: Turn, event: Rang) -> None:
    turn.note("no other supervisor's bot has taken over in time", serious=True)
    moves.shut_down(turn)


def _by_hand(turn: Turn, event: ByHand) -> None:
    """Switch claims on, until its timer rings or they are switched off; off leaves those that are needed."""
    state = turn.state
    turn.set(by_hand=event.on)
    turn.cancel(Alarm.BY_HAND)
    if event.on:
        turn.note("claims are switched on by hand")
        moves.claim_all(turn)
        if state.active is not None:
            turn.start(Alarm.BY_HAND, state.timing.window_timeout)
    elif state.by_hand:
        moves.claims_end(turn)
    if not event.on and state.company:
        turn.note("claims stay on: another supervisor shares the ledger", serious=True)


def _by_hand_over(turn: Turn, event: Rang) -> None:
    turn.note(f"claims that were switched on by hand end after {turn.state.timing.window_timeout:g} s")
    turn.set(by_hand=False)
    moves.claims_end(turn)


# --- shards of the active child that are away ---------------------------------------------------------------------


def _away(turn: Turn, event: Away) -> None:
    """Give the shard `handoff.ready_timeout` from when it was ready last; after a try in vain more, from now on."""
    failures = turn.state.away_failures
    left = turn.state.timing.patience(failures) - (0.0 if failures else event.seconds)
    turn.change(event.generation, away=f"shard {event.shard} of generation {event.generation} is away ({event.why})")
    turn.start(Alarm.AWAY, max(left, 0.0), generation=event.generation)


def _back(turn: Turn, event: Back) -> None:
    """A successor that is under way goes on: it may have all of its sessions by now."""
    turn.cancel(Alarm.AWAY, generation=event.generation)
    turn.change(event.generation, away="", overdue=False)
    turn.set(away_failures=0)


def _away_too_long(turn: Turn, event: Rang) -> None:
    """Whatever is under way comes first: a handoff brings a new child, too."""
    turn.change(event.generation, overdue=True)


def _away_too_long_serving(turn: Turn, event: Rang) -> None:
    _away_too_long(turn, event)
    if not turn.state.yielding:
        moves.weigh_successor(turn)


# --- the lingerer -----------------------------------------------------------------------------------------------


def _lingers(turn: Turn, event: Lingers) -> None:
    """DRAINING: all that the old child still has to do concerns itself alone, so the handoff has succeeded."""
    timing = turn.state.timing
    if turn.need(event.generation).standing is not Standing.DRAINING:
        return
    turn.start(Alarm.DRAIN, timing.linger + timing.drain_timeout + limits.DRAIN_GRACE, generation=event.generation)
    if turn.need(turn.state.active).standing is Standing.LEAVING:
        return  # its exit, which is near, makes the old child active again
    what = f"{counted(event.views, 'view')} and {counted(event.conversations, 'conversation')}"
    turn.note(f"generation {event.generation} lingers for {what}, at most {timing.linger:g} s")
    turn.change(event.generation, hurried=False)
    turn.set(outgoing=None, lingering=event.generation)
    moves.succeeded(turn)


def _lingerer_failed(turn: Turn, event: GaveUp | Broke) -> None:
    """Concerns nobody else; what still lingered is cut. Closing its pipe last of all is in order."""
    child = turn.need(event.generation)
    if child.standing is Standing.DRAINING and not child.drained:
        turn.note(f"generation {event.generation}, lingering: {event.reason}; it is ended", serious=True)
        turn.end(event.generation, patience=limits.FATAL_GRACE)


def _lingerer_hung(turn: Turn, event: Rang) -> None:
    turn.note(f"generation {event.generation}, lingering: {_lateness(turn, event)}; it is ended", serious=True)
    turn.end(event.generation)


def _lingerer_left(turn: Turn, event: Exited) -> None:
    """Go on with what waited for this exit."""
    if not turn.need(event.generation).drained:
        turn.note(f"generation {event.generation} left while it lingered: {event.reason}", serious=True)
    turn.remove(event.generation)
    state = turn.state
    match state.phase:
        case Phase.SERVING:
            moves.serve(turn)
        case Phase.CLEARING:
            moves.spawn_beside(turn)
        case Phase.WAITING if state.due:
            moves.spawn_alone(turn)
        case Phase.CONNECTING if turn.need(state.incoming).ready and turn.need(state.incoming).mirror:
            moves.activate_in_turn(turn)


# --- the spare --------------------------------------------------------------------------------------------------


def _weighed(turn: Turn, event: Weighed) -> None:
    turn.set(weighing=False)


def _weighed_serving(turn: Turn, event: Weighed) -> None:
    """SERVING: spawn the spare if there is room for it; if not, look again later and say so once."""
    _weighed(turn, event)
    state = turn.state
    active = turn.need(state.active)
    if active.overdue and active.standing is Standing.ACTIVE and not state.yielding:
        moves.try_successor(turn, event.shortage)
        return
    if not state.wants_spare or state.spare is not None or state.lingering is not None:
        return
    if event.shortage is not None:
        if not state.spare_refused:
            turn.note(f"no spare for now: {event.shortage}", serious=True)
        turn.set(spare_refused=True)
        turn.start(Alarm.SPARE, state.timing.backoff_max)
    elif active.standing is not Standing.ACTIVE:
        return  # its exit, which is near, comes first
    else:
        turn.set(spare=state.last_generation + 1, spare_refused=False)
        moves.bear(turn, state.good, standby=True)


def _spare_due(turn: Turn, event: Rang) -> None:
    moves.bring_spare(turn)


def _spare_greeted(turn: Turn, event: Greeted) -> None:
    turn.cancel(Alarm.HELLO, generation=event.generation)
    turn.change(event.generation, greeted=True)


def _spare_ready(turn: Turn, event: BecameReady) -> None:
    _note_ready(turn, event)
    turn.start(Alarm.STABLE, turn.state.timing.stable_after, generation=event.generation)
    turn.note(f"generation {event.generation} is ready, as a spare")


def _spare_stable(turn: Turn, event: Rang) -> None:
    """Not as soon as it is ready: one that is ready and dies again and again uses up the IDENTIFYs."""
    turn.set(spare_failures=0)


def _spare_gave_up(turn: Turn, event: GaveUp) -> None:
    moves.spare_failed(turn, event.generation, event.reason, patience=limits.FATAL_GRACE)


def _spare_broke(turn: Turn, event: Broke) -> None:
    moves.spare_failed(turn, event.generation, event.reason)


def _spare_rang(turn: Turn, event: Rang) -> None:
    moves.spare_failed(turn, event.generation, _lateness(turn, event))


def _spare_exited(turn: Turn, event: Exited) -> None:
    turn.remove(event.generation)
    moves.spare_lost(turn, event.generation, event.reason)


# --- what goes wrong --------------------------------------------------------------------------------------------


def _incoming_gave_up(turn: Turn, event: GaveUp) -> None:
    active = turn.state.child(turn.state.active)
    if event.apart and active is not None and active.standing is Standing.ACTIVE:
        moves.begin_apart(turn, event.generation, event.reason)
        return
    if event.apart and active is None and turn.state.waits and turn.need(event.generation).ready:
        moves.begin_again(turn, event.generation, event.reason)
        return
    moves.incoming_failed(turn, event.generation, event.reason, retryable=event.retryable, patience=limits.FATAL_GRACE)


def _incoming_broke(turn: Turn, event: Broke) -> None:
    moves.incoming_failed(turn, event.generation, event.reason, retryable=event.retryable)


def _incoming_exited(turn: Turn, event: Exited) -> None:
    turn.remove(event.generation)
    moves.attempt_failed(turn, f"generation {event.generation}: {event.reason}", retryable=event.retryable)


def _active_gave_up(turn: Turn, event: GaveUp) -> None:
    """Its exit is what counts: until then it may still handle events."""
    if turn.need(event.generation).standing is Standing.LEAVING:
        return
    turn.note(f"generation {event.generation} gives up: {event.reason}", serious=True)
    turn.end(event.generation, patience=limits.FATAL_GRACE, fault=event.reason)


def _active_broke(turn: Turn, event: Broke) -> None:
    """Nobody else may handle events while this one can, and nobody can tell it to stop: so it is killed."""
    if turn.need(event.generation).standing is Standing.LEAVING:
        return
    turn.note(f"generation {event.generation}: {event.reason}; it is ended", serious=True)
    turn.end(event.generation, patience=None, fault=event.reason)


def _active_died_serving(turn: Turn, event: Exited) -> None:
    """SERVING, REVERTING: the heir takes over, or a successor comes after the backoff."""
    reason = _active_died(turn, event)
    heir = turn.state.heir
    if heir is not None:
        turn.open("failover", origin=event.generation, reason=reason)
        moves.fail_over(turn, reason, heir)
        return
    if turn.state.relieved:
        turn.note("another supervisor's bot is ready, and goes on with the sessions")
        turn.set(waits=True)
    turn.open("recovery", origin=event.generation, reason=reason)
    turn.set(failures=turn.state.failures + 1)
    moves.wait(turn)


def _active_died_asked(turn: Turn, event: Exited) -> None:
    """PREPARING: what was asked for becomes the successor; if there is an heir, it is, and what was asked for waits."""
    reason = _active_died(turn, event)
    heir = turn.state.heir
    if heir is None:
        turn.amend(kind="recovery", reason=reason)
    else:
        moves.put_off(turn, reason)
        moves.fail_over(turn, reason, heir)


def _active_died_clearing(turn: Turn, event: Exited) -> None:
    """CLEARING: as before; a successor has nothing left to wait for."""
    reason = _active_died(turn, event)
    heir = turn.state.heir
    if heir is None:
        turn.amend(kind="recovery", reason=reason)
        moves.spawn_alone(turn)
    else:
        moves.put_off(turn, reason)
        moves.fail_over(turn, reason, heir)


def _active_died_succeeded(turn: Turn, event: Exited) -> None:
    """SPAWNING, CONNECTING, ACTIVATING: the new child goes on, now as the successor, unless an heir is there sooner."""
    reason = _active_died(turn, event)
    state = turn.state
    incoming, heir = turn.need(state.incoming), state.heir
    if heir is not None and state.phase is not Phase.ACTIVATING and not incoming.ready:
        turn.set(incoming=None)
        turn.end(incoming.generation)
        moves.put_off(turn, reason)
        moves.fail_over(turn, reason, heir)
        return
    turn.amend(kind="failover", reason=reason)
    if state.phase is Phase.ACTIVATING:
        turn.do(Send(incoming.generation, Recover(generation=event.generation)))
    else:
        moves.recover(turn)


def _active_died(turn: Turn, event: Exited) -> str:
    reason = f"generation {event.generation} died: {_cause(turn, event)}"
    turn.note(reason, serious=True)
    turn.remove(event.generation)
    return reason


def _cause(turn: Turn, event: Exited) -> str:
    """Say why a child is gone: why it was ended, if it was."""
    fault = turn.need(event.generation).fault
    return f"{fault} ({event.reason})" if fault else event.reason


def _new_hung(turn: Turn, event: Rang) -> None:
    """PROBATION, DRAINING: the old child waits to take over, so it is killed; its exit is what counts."""
    fault = _lateness(turn, event)
    turn.note(f"generation {event.generation}: {fault}; it is killed", serious=True)
    turn.end(event.generation, patience=None, fault=fault)


def _new_died_draining(turn: Turn, event: Exited) -> None:
    reason = f"generation {event.generation}: {_cause(turn, event)}"
    turn.remove(event.generation)
    moves.take_back(turn, reason)


def _outgoing_broke(turn: Turn, event: GaveUp | Broke) -> None:
    """A child on its way out that closes its pipe last of all is in order; any other is ended."""
    child = turn.need(event.generation)
    if child.standing is Standing.DRAINING and not child.drained:
        turn.note(f"generation {event.generation}, draining: {event.reason}", serious=True)
        turn.end(event.generation, patience=limits.FATAL_GRACE)


def _stood_by_and_broke(turn: Turn, event: GaveUp | Broke) -> None:
    """PROBATION: nobody is left to take over; the handoff ends when the old child has left."""
    moves.old_fails(turn, event.generation, event.reason)


def _old_hung(turn: Turn, event: Rang) -> None:
    """PROBATION, DRAINING: it finishes nothing any more."""
    moves.old_fails(turn, event.generation, _lateness(turn, event))


def _leaver_left(turn: Turn, event: Exited) -> None:
    """Go on with what waited for this exit."""
    turn.remove(event.generation)
    if turn.state.leavers:
        return
    if turn.state.phase is Phase.CLEARING:
        moves.spawn_beside(turn)
    if turn.state.phase is Phase.REVERTING:
        moves.serve(turn)
    elif turn.state.phase is Phase.WAITING and turn.state.due:
        moves.spawn_alone(turn)


def _child_left_stopping(turn: Turn, event: Exited) -> None:
    turn.remove(event.generation)
    moves.stopped_if_alone(turn)


# --- children that hang -----------------------------------------------------------------------------------------


def _beaten(turn: Turn, event: Beaten) -> None:
    child = turn.need(event.generation)
    if child.standing is Standing.LEAVING or child.drained:
        return
    if child.hung:
        turn.note(f"generation {event.generation} beats again and goes on")
        turn.cancel(Alarm.DUMP, generation=event.generation)
        turn.change(event.generation, hung=False)
    turn.expect_beat(event.generation)


def _hangs(turn: Turn, event: Rang) -> None:
    """Ask for the child's stacks, and give it that last moment."""
    turn.note(f"generation {event.generation}: {_lateness(turn, event)}; its stacks follow", serious=True)
    turn.change(event.generation, hung=True)
    turn.do(Signal(event.generation, "SIGUSR1"))
    turn.start(Alarm.DUMP, limits.DUMP_GRACE, generation=event.generation)


def _active_hung(turn: Turn, event: Rang) -> None:
    """Its exit is what counts: nobody else is activated while it may wake up."""
    turn.end(event.generation, fault=_lateness(turn, event))


def _does_not_answer(turn: Turn, event: Rang) -> None:
    """One that cannot be told anything would fail every reload from now on; SIGTERM still reaches it."""
    hangs = turn.need(event.generation).hung
    fault = _lateness(turn, replace(event, alarm=Alarm.HANG) if hangs else event)
    turn.note(f"generation {event.generation}: {fault}; it is ended", serious=True)
    turn.end(event.generation, fault=fault)


def _incoming_hung(turn: Turn, event: Rang) -> None:
    moves.incoming_failed(turn, event.generation, _lateness(turn, event))


def _hung_stopping(turn: Turn, event: Rang) -> None:
    turn.end(event.generation)


# --- timers -----------------------------------------------------------------------------------------------------


def _lateness(turn: Turn, event: Rang) -> str:
    """Say what a child has not done in time."""
    timing = turn.state.timing
    match event.alarm:
        case Alarm.HELLO:
            return f"said nothing within {min(limits.HELLO_TIMEOUT, timing.ready_timeout):g} s of its start"
        case Alarm.READY if turn.need(event.generation).again:
            return f"has not seen to what the dead one left within {limits.RECOVER_TIMEOUT:g} s"
        case Alarm.READY:
            where = f": it has not logged in, its main thread is at {event.doing}" if event.doing else ""
            return f"not ready within {timing.ready_timeout:g} s (handoff.ready_timeout){where}"
        case Alarm.ACK:
            return f"did not become active within {turn.activation_limit(event.generation):g} s"
        case Alarm.ANSWER:
            return f"beats, but has not answered for {timing.hang_timeout:g} s (restart.hang_timeout)"
        case _ if turn.need(event.generation).takes_sessions:
            return f"hangs: no sign of life for {limits.SIGN_TIMEOUT:g} s while the sessions moved to it"
        case _:
            return f"hangs: no sign of life for {timing.hang_timeout:g} s (restart.hang_timeout)"


def _incoming_late(turn: Turn, event: Rang) -> None:
    moves.incoming_failed(turn, event.generation, _lateness(turn, event))


def _not_drained(turn: Turn, event: Rang) -> None:
    if turn.need(event.generation).standing is Standing.DRAINING:
        turn.note(f"generation {event.generation} has not left in time and is ended", serious=True)
        turn.terminate(event.generation)


def _not_ended(turn: Turn, event: Rang) -> None:
    """The next rung: SIGTERM, then SIGKILL."""
    child = turn.need(event.generation)
    if child.standing is not Standing.LEAVING:
        return
    if child.terminated:
        turn.do(Signal(event.generation, "SIGKILL"))
    else:
        turn.terminate(event.generation)


def _backoff_over(turn: Turn, event: Rang) -> None:
    moves.spawn_alone(turn)


def _stable(turn: Turn, event: Rang) -> None:
    turn.set(failures=0, away_failures=0)


# --- the table --------------------------------------------------------------------------------------------------


def _ignore(turn: Turn, event: object) -> None:
    """Nothing to do here."""


_E = TypeVar("_E")
Handler: TypeAlias = Callable[[Turn, _E], None]
Key: TypeAlias = tuple[type[object] | Alarm, Part | None]
"""What happened, and to whom."""


def _row(
    default: Handler[_E],
    *,
    waiting: Handler[_E] | None = None,
    preparing: Handler[_E] | None = None,
    clearing: Handler[_E] | None = None,
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
        Phase.CLEARING: clearing or default,
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
    (Stop, None): _row(
        _stop,
        serving=_stop_serving,
        probation=_stop_serving,
        draining=_stop_serving,
        stopping=_stop_at_once,
        stopped=_stop_again,
    ),
    # Other supervisors, and claims by hand.
    (Neighbours, None): _row(_neighbours, stopping=_ignore, stopped=_ignore),
    (Alarm.YIELD, None): _row(_nobody_took_over, stopping=_ignore, stopped=_ignore),
    (ByHand, None): _row(_by_hand, stopping=_ignore, stopped=_ignore),
    (Alarm.BY_HAND, None): _row(_by_hand_over, stopping=_ignore, stopped=_ignore),
    (Alone, None): _row(_alone, stopping=_ignore, stopped=_ignore),
    (Prepared, None): _row(_ignore, preparing=_prepared),
    (Refused, None): _row(_ignore, preparing=_refused),
    (Weighed, None): _row(_weighed, serving=_weighed_serving),
    # The new child comes on.
    (Greeted, Part.INCOMING): _row(_ignore, spawning=_greeted),
    (Progressed, Part.INCOMING): _row(_ignore, connecting=_progressed),
    (BecameReady, Part.INCOMING): _row(_ignore, connecting=_ready),
    (Kicked, Part.ACTIVE): _row(_ignore, connecting=_kicked),
    (Away, Part.ACTIVE): _row(_away, stopping=_ignore),
    (Back, Part.ACTIVE): _row(_back, stopping=_ignore),
    (Alarm.AWAY, Part.ACTIVE): _row(_away_too_long, serving=_away_too_long_serving, stopping=_ignore),
    (RoleTaken, Part.INCOMING): _row(_ignore, activating=_role_taken),
    (RoleTaken, Part.ACTIVE): _row(_ignore, serving=_introduced),
    (RoleTaken, Part.OUTGOING): _row(_ignore, probation=_stands_by),
    (HasDrained, Part.ACTIVE): _row(_ignore, stopping=_has_drained),
    (HasDrained, Part.INCOMING): _row(_ignore, stopping=_has_drained),
    (HasDrained, Part.OUTGOING): _row(_has_drained),
    # What people are in the middle of goes on in the old child; what goes wrong with it concerns nobody else.
    (Lingers, Part.OUTGOING): _row(_ignore, draining=_lingers),
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
    (Beaten, Part.ACTIVE): _row(_beaten, connecting=_beaten_connecting),
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
    (GaveUp, Part.ACTIVE): _row(_active_gave_up, stopping=_outgoing_broke),
    (GaveUp, Part.INCOMING): _row(_incoming_gave_up, stopping=_outgoing_broke),
    (GaveUp, Part.OUTGOING): _row(_outgoing_broke, probation=_stood_by_and_broke),
    (Broke, Part.ACTIVE): _row(_active_broke, stopping=_outgoing_broke),
    (Broke, Part.INCOMING): _row(_incoming_broke, stopping=_outgoing_broke),
    (Broke, Part.OUTGOING): _row(_outgoing_broke, probation=_stood_by_and_broke),
    (Exited, Part.ACTIVE): _row(
        _active_died_serving,
        preparing=_active_died_asked,
        clearing=_active_died_clearing,
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
    (Alarm.ACK, Part.ACTIVE): _row(_ignore, serving=_introduced),
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
    (Alarm.STABLE, Part.ACTIVE): _row(_stable),
}
"""What is done about each thing that can happen, by phase. A pair (what, part) without a row is never acted upon:
a message of a child that is being ended, a timer of one that has changed its part, anything about a dead one."""

_IGNORED: Mapping[Phase, Handler[Any]] = _row(_ignore)


def step(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """Return the state after ``event``, and what is to be done about it, in order."""
    turn = Turn(state)
    _TABLE.get(_key(state, event), _IGNORED)[state.phase](turn, event)
    return turn.state, tuple(turn.effects)


def _key(state: State, event: Event) -> Key:
    """Find the row: what happened, and which part the child it happened to plays."""
    if isinstance(event, SlotEvent):
        return type(event), None
    what: type[object] | Alarm = event.alarm if isinstance(event, Rang) else type(event)
    return what, state.part(event.generation) if event.generation else None
