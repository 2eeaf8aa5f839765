"""The moves that the machine's decisions are made of: to spawn, to activate, to drain, to serve, to fail over, to stop.

Knows what each comes to as things stand, and in which phases it may be made. Knows no events: what has happened, and so
which move is made, is the business of `machine`. No I/O, no clock.
"""

from __future__ import annotations

from bastion.supervisor import limits
from bastion.supervisor.effects import Answer, Exit, PhaseEntered, Prepare, Send, Spawn, Weigh
from bastion.supervisor.release import Release
from bastion.supervisor.state import Alarm, Child, Phase, Relief, Standing
from bastion.supervisor.status import HandoffKind
from bastion.supervisor.turn import CHILD_ALARMS, Turn
from bastion.wire import EXIT_CONFIG, Activate, Drain, Recover, Standby

# --- a new child ------------------------------------------------------------------------------------------------


def bear(turn: Turn, release: Release, *, standby: bool) -> None:
    """Start the process of the next generation."""
    generation, active = turn.state.last_generation + 1, turn.state.active
    if active is not None:
        turn.change(active, beside=True)
    child = Child(generation=generation, release=release, standby=standby, beside=standby)
    turn.set(children=(*turn.state.children, child), last_generation=generation)
    ready = turn.state.timing.ready_timeout
    turn.do(Spawn(generation, release, standby))
    turn.start(Alarm.HELLO, min(limits.HELLO_TIMEOUT, ready), generation=generation)
    turn.start(Alarm.READY, ready, generation=generation)


def spawn(turn: Turn, release: Release, *, standby: bool) -> None:
    """Bring the next generation on its way to the active role."""
    generation = turn.state.last_generation + 1
    restarts = turn.state.restarts + (turn.state.served and turn.state.active is None)
    turn.set(incoming=generation, restarts=restarts, due=False)
    turn.amend(target=generation)
    bear(turn, release, standby=standby)
    turn.enter(Phase.SPAWNING)


def spawn_alone(turn: Turn) -> None:
    """Spawn a child that nobody serves beside, as soon as no other process can handle events.

    It handles events from its first moment; those of a dead child's sessions come before its own, which it holds back.
    """
    hurry_lingerer(turn)
    state = turn.state
    if state.leavers or state.outgoing is not None or state.lingering is not None:
        turn.set(phase=Phase.WAITING, due=True)
        return
    turn.set(waits=state.taken)
    if state.taken:  # and the sessions with the role
        turn.set(bereft=None)
    state = turn.state
    spawn(turn, state.wanted or state.good, standby=state.bereft is not None or state.claims_on or state.waits)
    recover(turn)


def spawn_beside(turn: Turn) -> None:
    """Spawn beside the active child, once nobody is there who is to have left before.

    If the active one is being ended itself, its exit, which is near, makes the new child its successor.
    """
    if turn.need(turn.state.active).standing is Standing.ACTIVE and turn.state.has_room:
        spawn(turn, turn.state.wanted or turn.state.good, standby=True)
    elif turn.state.phase is not Phase.CLEARING:
        turn.enter(Phase.CLEARING)


def recover(turn: Turn) -> None:
    """Have the child that is on its way look after what the dead one has left. It calls itself ready after that.

    Only it can say whether its own sessions began before the dead one had stopped to read.
    """
    incoming, dead = turn.need(turn.state.incoming), turn.state.bereft
    if dead is None:
        return
    turn.do(Send(incoming.generation, Recover(generation=dead)))
    if incoming.ready:
        turn.change(incoming.generation, ready=False, again=True)
        turn.start(Alarm.READY, limits.RECOVER_TIMEOUT, generation=incoming.generation)


# --- the active role --------------------------------------------------------------------------------------------


def activate(turn: Turn, generation: int) -> None:
    """Tell a child that is ready to take the active role."""
    turn.change(generation, standing=Standing.ACTIVATING, promoted=True)
    turn.enter(Phase.ACTIVATING)
    turn.do(Send(generation, Activate(still=turn.state.still if turn.state.active is None else 0)))
    turn.start(Alarm.ACK, turn.activation_limit(generation), generation=generation)
    if turn.need(generation).takes_sessions:
        turn.expect_beat(generation)


def take_over_from_dead(turn: Turn, generation: int) -> None:
    """Make a child active again whose successor is gone, with the sessions that this one had."""
    if turn.state.bereft is not None:
        turn.do(Send(generation, Recover(generation=turn.state.bereft)))
    activate(turn, generation)


def activate_in_turn(turn: Turn) -> None:
    """CONNECTING, and the new child is ready: activate it, unless the active one is about to be dead.

    Of two old children the older one leaves first.
    """
    state = turn.state
    active = state.child(state.active)
    if active is not None and active.standing is Standing.LEAVING:
        return
    if state.waits:
        turn.note(f"generation {state.incoming} is ready to take over from another supervisor's bot")
    elif active is not None and state.lingering is not None:
        hurry_lingerer(turn)
    else:
        activate(turn, turn.need(state.incoming).generation)


def begin_probation(turn: Turn, old: int) -> None:
    """The old child keeps its sessions and holds events; what it has begun goes on."""
    turn.change(old, standing=Standing.STANDBY)
    turn.do(Send(old, Standby()))
    turn.start(Alarm.ACK, limits.CATCH_UP + limits.ACK_TIMEOUT, generation=old)
    turn.start(Alarm.PROBATION, turn.state.timing.probation, generation=old)
    turn.enter(Phase.PROBATION)


def end_probation(turn: Turn, *, hurried: bool = False) -> None:
    """The old child drains, unless the new one is being ended: then it is needed."""
    if turn.need(turn.state.active).standing is Standing.LEAVING:
        return
    old = turn.need(turn.state.outgoing).generation
    turn.cancel(Alarm.ACK, Alarm.PROBATION, generation=old)
    turn.enter(Phase.DRAINING)
    if hurried:
        hurry(turn, old, linger=turn.state.timing.linger)
    else:
        drain(turn, old, linger=turn.state.timing.linger)


def drain(turn: Turn, generation: int, *, hurried: bool = False, linger: float = 0.0, gives: bool = False) -> None:
    """Have a child finish what it began and leave; ``linger`` is for what people are in the middle of, in seconds.

    ``gives``: another supervisor's bot may take its sessions first.
    """
    limit = turn.state.timing.drain_timeout
    if hurried:
        limit = min(limit, limits.HURRY_LIMIT)
    turn.change(generation, standing=Standing.DRAINING, hurried=hurried)
    turn.do(Send(generation, Drain(limit=limit, linger=linger, gives=gives)))
    # A press may begin a handler for as long as views are open, and it has the whole limit then.
    turn.start(Alarm.DRAIN, linger + limit + limits.DRAIN_GRACE, generation=generation)


def hurry(turn: Turn, generation: int, *, linger: float = 0.0) -> None:
    """Have a child that drains or is about to be quick about it; ``linger`` as for `drain`."""
    limit = min(turn.state.timing.drain_timeout, limits.HURRY_LIMIT)
    turn.note(f"a newer release waits: generation {generation} has {limit:g} s to finish its handlers")
    drain(turn, generation, hurried=True, linger=linger)


def hurry_lingerer(turn: Turn) -> None:
    """Give what lingers little time; it has gone by when the drain's alarm rings, at the latest."""
    child = turn.state.child(turn.state.lingering)
    if child is not None and child.stays:
        hurry(turn, child.generation)


# --- attempts ---------------------------------------------------------------------------------------------------


def ask(turn: Turn, commands: tuple[int, ...], *, kind: HandoffKind, release: Release | None, force: bool) -> None:
    """Begin an attempt for these commands: of ``release``, or of what the settings name now."""
    turn.set(asked=commands, forced=force, due=False, apart=None)
    turn.cancel(Alarm.BACKOFF, Alarm.SPARE)
    turn.open(kind, origin=turn.state.active)
    turn.enter(Phase.PREPARING)
    turn.do(Prepare(release, force))


def take_waiting(turn: Turn) -> bool:
    """Begin the reload that waited, if there is one."""
    waiting, force = turn.state.waiting, turn.state.waiting_forced
    if waiting:
        turn.set(waiting=(), waiting_forced=False)
        ask(turn, waiting, kind="reload", release=None, force=force)
    return bool(waiting)


def succeeded(turn: Turn) -> None:
    """The active child is the only one that handles events."""
    state = turn.state
    handoff, release = state.handoff, turn.need(state.active).release
    if handoff is not None and handoff.result == "succeeded" and handoff.origin is not None and state.wanted:
        turn.set(previous=state.good)
    result = handoff.result if handoff else "succeeded"
    timing = state.timing if result == "succeeded" else state.good_timing
    turn.set(good=release, good_timing=timing)
    reason = handoff.reason if handoff else None
    turn.close(result, reason)
    turn.answer(result, None if result == "succeeded" else reason)
    serve(turn)


def attempt_failed(turn: Turn, reason: str, *, retryable: bool = True) -> None:
    """Go back to whoever serves; if nobody does, try again after a while."""
    turn.note(reason, serious=True)
    turn.set(fault="" if turn.state.active is not None else reason)
    if turn.state.active is not None:
        if turn.state.replaces:
            try_again(turn)
        turn.close("failed", reason)
        turn.answer("failed", reason)
        serve(turn)
    elif turn.state.served or retryable:
        if not turn.state.served:
            turn.close("failed", reason)
        turn.answer("failed", reason)
        turn.set(timing=turn.state.good_timing)
        heir = turn.state.heir
        if heir is not None:
            fail_over(turn, reason, heir)
            return
        turn.amend(kind="recovery", result="succeeded", reason=reason)
        turn.set(failures=turn.state.failures + 1)
        wait(turn)
    else:
        turn.close("failed", reason)
        turn.answer("failed", reason)
        turn.set(exit_code=EXIT_CONFIG, exit_reason=reason)
        shut_down(turn)


def incoming_failed(turn: Turn, generation: int, reason: str, *, retryable: bool = True, patience: float = 0.0) -> None:
    """The new child is no good: it is ended; the attempt has failed from now on, not from its exit on."""
    child = turn.need(generation)
    turn.set(incoming=None)
    # The active child can go on with its sessions only when this one is gone; with sessions of its own nobody waits.
    turn.end(generation, patience=None if child.takes_sessions else patience)
    attempt_failed(turn, f"generation {generation}: {reason}", retryable=retryable)


def begin_apart(turn: Turn, generation: int, reason: str) -> None:
    """Begin anew with a child that has sessions of its own: the active one's cannot be moved."""
    turn.note(f"generation {generation}: {reason}; the next one begins sessions of its own", serious=True)
    turn.set(incoming=None, apart=reason)
    turn.end(generation, patience=None)
    turn.enter(Phase.CLEARING)


def begin_again(turn: Turn, generation: int, reason: str) -> None:
    """Begin anew, at once, with a child that mirrors whoever has the sessions now: another supervisor's bot."""
    turn.note(f"generation {generation}: {reason}; the next one mirrors the bot that has them")
    turn.set(incoming=None, phase=Phase.WAITING, due=True)
    turn.end(generation, patience=None)


_CAN_GO_ON = (Standing.STANDBY, Standing.DRAINING)
"""How far an outgoing child has come that can be made active again."""


def take_back(turn: Turn, reason: str) -> None:
    """PROBATION, DRAINING, and the new child is lost: the old one goes on if it still can."""
    old = turn.state.outgoing
    turn.set(active=None, outgoing=None, bereft=turn.state.active or turn.state.bereft)
    child = turn.state.child(old)
    if child is not None and old is not None and child.standing in _CAN_GO_ON and not child.drained:
        turn.note(f"{reason}; generation {old} is made active again", serious=True)
        turn.cancel(Alarm.DRAIN, Alarm.ACK, Alarm.PROBATION, generation=old)
        turn.set(incoming=old)
        turn.amend(result="rolled-back", reason=reason)
        take_over_from_dead(turn, old)
    else:
        attempt_failed(turn, reason)


def old_fails(turn: Turn, generation: int, reason: str) -> None:
    """PROBATION, DRAINING: end the old child, which is no good any more; the handoff goes on without it."""
    turn.note(f"generation {generation}, the old one: {reason}; it is ended", serious=True)
    turn.end(generation)
    if turn.state.phase is Phase.PROBATION:
        turn.enter(Phase.DRAINING)


# --- at rest, and without anybody who serves --------------------------------------------------------------------


def serve(turn: Turn) -> None:
    """Rest with an active child; leavers are waited for, then a waiting reload begins, or the child is alone."""
    if turn.state.alone:
        drop_spare(turn)
        hurry_lingerer(turn)
    if turn.state.leavers:
        turn.set(phase=Phase.REVERTING)
        return
    turn.set(phase=Phase.SERVING)
    active = turn.need(turn.state.active)
    if turn.state.younger and active.standing is Standing.ACTIVE:
        stand_back(turn, active.generation)
    elif turn.state.waiting:
        take_waiting(turn)
    elif active.overdue and not turn.state.yielding:
        weigh_successor(turn)
    elif turn.state.lingering is not None:
        pass  # it can take over, so no spare is needed yet
    elif turn.state.wants_spare and not turn.state.yielding:
        keep_spare(turn)
    elif active.beside and not turn.state.claims_on:
        turn.window(active.generation, open=False)


def stand_back(turn: Turn, generation: int) -> None:
    """SERVING: have our bot wait behind that of a supervisor that came later, as a newcomer's waits.

    That bot was made active while this supervisor stood still, and has the sessions. It is what the operator deployed.
    """
    turn.note(f"another supervisor's bot is active since this one stood still: generation {generation} waits behind it")
    drop_spare(turn)
    turn.cancel(Alarm.STABLE, generation=generation)
    turn.change(generation, standing=Standing.STANDBY, ready=True, mirror=True)
    turn.set(active=None, incoming=generation, waits=True)
    turn.do(Send(generation, Standby()))
    turn.enter(Phase.CONNECTING)


def wait(turn: Turn) -> None:
    """Nobody serves: wait for the next try, unless a reload brings another release now."""
    turn.set(phase=Phase.WAITING, due=False)
    hurry_lingerer(turn)
    if take_waiting(turn):
        return
    delay = turn.state.timing.backoff(turn.state.failures)
    turn.do(PhaseEntered(Phase.WAITING, None))
    who = "no bot of this supervisor's waits" if turn.state.waits else "nobody serves"
    turn.note(f"{who}; the next start is in {delay:g} s")
    turn.start(Alarm.BACKOFF, delay)


def claim_all(turn: Turn) -> None:
    """Have every child claim that may be handling events."""
    for child in turn.state.children:
        if child.standing is not Standing.LEAVING:
            turn.window(child.generation, open=True)


def claims_end(turn: Turn) -> None:
    """The last reason outside of this supervisor is gone; what it needs itself is seen to when it rests."""
    if not turn.state.claims_on and turn.state.phase is Phase.SERVING:
        serve(turn)


# --- an active child that has lost a shard -----------------------------------------------------------------------


def weigh_successor(turn: Turn) -> None:
    """SERVING: see whether there is room, and an IDENTIFY for each shard, for a successor of the active child.

    What lingers comes first: it would have to leave, and is gone in some minutes.
    """
    if turn.state.lingering is not None:
        return
    if turn.need(turn.state.active).standing is Standing.ACTIVE and not turn.state.weighing:
        turn.set(weighing=True)
        turn.do(Weigh(turn.state.good))


def try_successor(turn: Turn, shortage: str | None) -> None:
    """SERVING: begin a handoff to a child of the same release, which begins sessions of its own."""
    active = turn.need(turn.state.active)
    turn.change(active.generation, overdue=False)
    if shortage is not None:
        turn.note(f"no successor for now, though {active.away}: {shortage}", serious=True)
        try_again(turn)
        serve(turn)
        return
    turn.note(f"{active.away}: a successor is tried; generation {active.generation} serves on until it is ready")
    turn.cancel(Alarm.SPARE)
    turn.set(apart=None)
    turn.open("recovery", origin=active.generation, reason=active.away, probation=False)
    drop_spare(turn)
    spawn_beside(turn)


def try_again(turn: Turn) -> None:
    """A successor was of no use, or could not be: the next one comes later each time, if a shard is away still."""
    failures, active = turn.state.away_failures + 1, turn.need(turn.state.active)
    turn.set(away_failures=failures)
    if active.away:
        turn.start(Alarm.AWAY, turn.state.good_timing.patience(failures), generation=active.generation)


# --- the spare, and who takes over ------------------------------------------------------------------------------


def keep_spare(turn: Turn) -> None:
    """SERVING: see that a spare comes; not at once if something has failed before."""
    state = turn.state
    if state.spare is not None or turn.need(state.active).standing is not Standing.ACTIVE:
        return
    if failures := max(state.failures, state.spare_failures):
        turn.start(Alarm.SPARE, state.timing.backoff(failures))
    else:
        bring_spare(turn)


def bring_spare(turn: Turn) -> None:
    """SERVING: see whether there is room for the spare."""
    state = turn.state
    active = turn.need(state.active)
    if not state.wants_spare or state.spare is not None or state.lingering is not None:
        return
    if active.standing is not Standing.ACTIVE:
        return
    turn.cancel(Alarm.SPARE)
    if not state.weighing:
        turn.set(weighing=True)
        turn.do(Weigh(state.good))


def drop_spare(turn: Turn) -> None:
    """Make room for a new release: memory need not suffice for three."""
    spare = turn.state.spare
    if spare is not None:
        turn.set(spare=None)
        turn.end(spare)


def spare_failed(turn: Turn, generation: int, reason: str, *, patience: float = 0.0) -> None:
    """End a spare that is no good; ``patience`` as for `Turn.end`."""
    turn.set(spare=None)
    turn.end(generation, patience=patience)
    spare_lost(turn, generation, reason)


def spare_lost(turn: Turn, generation: int, reason: str) -> None:
    """Count a spare that is none any more; at rest, see that another one comes."""
    turn.note(f"generation {generation}, the spare: {reason}", serious=True)
    turn.set(spare_failures=turn.state.spare_failures + 1)
    if turn.state.phase is Phase.SERVING:
        serve(turn)


def fail_over(turn: Turn, reason: str, heir: int) -> None:
    """The active child is dead: the heir takes its place, as soon as it is ready and nothing is missing."""
    state = turn.state
    turn.amend(kind="failover", result="succeeded", reason=reason, target=heir)
    turn.set(incoming=heir, failures=state.failures + 1, restarts=state.restarts + 1)
    if heir == state.spare:
        turn.set(spare=None)
    else:
        turn.cancel(Alarm.DRAIN, generation=heir)
        turn.set(lingering=None)
    child = turn.need(heir)
    if child.standing is Standing.STARTING:
        turn.enter(Phase.CONNECTING if child.greeted else Phase.SPAWNING)
        recover(turn)
    else:
        take_over_from_dead(turn, heir)


def put_off(turn: Turn, reason: str) -> None:
    """Let what was asked for wait until the heir serves."""
    state = turn.state
    if state.handoff is not None and state.handoff.kind == "rollback":
        turn.answer("failed", f"{reason}; another one takes over, ask again")
        turn.set(timing=state.good_timing)
        return
    waiting = (*state.asked, *state.waiting)
    forced = state.forced or state.waiting_forced
    turn.set(waiting=waiting, waiting_forced=forced, asked=(), forced=False, wanted=None, timing=state.good_timing)


# --- the end ----------------------------------------------------------------------------------------------------


def shut_down(turn: Turn) -> None:
    """Give up what is under way; whoever may be handling events drains, the others are ended."""
    reason = "the supervisor is stopping"
    turn.close("failed", reason)
    turn.answer("failed", reason)
    if turn.state.waiting:
        turn.do(Answer(turn.state.waiting, "refused", reason))
    turn.set(phase=Phase.STOPPING, waiting=(), waiting_forced=False, due=False, spare=None, yielding=False)
    turn.cancel(Alarm.BACKOFF, Alarm.SPARE, Alarm.YIELD, Alarm.BY_HAND)
    for child in turn.state.children:
        if child.standing in (Standing.ACTIVE, Standing.ACTIVATING, Standing.STANDBY):
            turn.cancel(*CHILD_ALARMS, generation=child.generation)
            drain(turn, child.generation, gives=turn.state.company and turn.state.relief is not Relief.THERE)
        elif child.standing is Standing.DRAINING and not child.drained:
            drain(turn, child.generation, hurried=child.hurried)  # without a linger
        elif child.standing is Standing.STARTING:
            turn.end(child.generation)
    stopped_if_alone(turn)


def kill_all(turn: Turn) -> None:
    """End every child at once."""
    for child in turn.state.children:
        turn.end(child.generation, patience=None)


def stopped_if_alone(turn: Turn) -> None:
    """STOPPING: the last child is gone, so the supervisor may go."""
    if turn.state.children:
        return
    turn.set(phase=Phase.STOPPED)
    if turn.state.stops:
        turn.do(Answer(turn.state.stops, "succeeded"))
    turn.set(stops=())
    turn.do(Exit(turn.state.exit_code, turn.state.exit_reason))
