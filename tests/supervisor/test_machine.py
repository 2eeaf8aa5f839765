"""The machine's decisions, without a process: scripted, exhaustive over its table, and driven at random."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastion.supervisor import limits
from bastion.supervisor import machine as m
from bastion.supervisor.effects import (
    Answer,
    CancelTimer,
    CloseHandoff,
    Effect,
    Exit,
    Note,
    OpenHandoff,
    Prepare,
    Send,
    Signal,
    Spawn,
    StartTimer,
    Weigh,
)
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
from bastion.supervisor.state import SWITCHED, Alarm, Part, Phase, Relief, Standing, State, Timing
from bastion.supervisor.status import HandoffKind
from bastion.wire import EXIT_CONFIG, FORMER, Activate, Drain, Introduce, Recover, Standby, Window, claimer


def release(name: str) -> Release:
    return Release(directory=Path("/releases") / name, python=Path("/usr/bin/python"), app="app:bot", shards="auto")


FIRST = release("1")
TIMING = Timing(ready_timeout=100, drain_timeout=30, backoff_first=1, backoff_max=8, stable_after=60)
ON_PROBATION = replace(TIMING, probation=15)
LINGERING = replace(TIMING, linger=180)
WITH_SPARE = replace(TIMING, spare=True)
ALONE = Neighbours(False, Relief.NONE, True)
BEFORE_US = Neighbours(True, Relief.THERE, False)
"""Another supervisor's bot is active."""
AFTER_US = Neighbours(True, Relief.COMING, True)
THEIRS = claimer(7, 3)
"""Generation 3 of supervisor 7, which shares the ledger."""
THEY_DIED = Neighbours(False, Relief.COMING, True, dead=THEIRS)
THEY_STAND_STILL = Neighbours(True, Relief.COMING, True, still=THEIRS)
OVERTAKEN = Neighbours(True, Relief.THERE, False, younger=True)
"""Another supervisor's bot is on its way."""


@dataclass
class World:
    """Takes effects as the engine would: which processes live, which timers run, who is still to be answered."""

    state: State
    alive: dict[int, Spawn] = field(default_factory=dict)
    timers: dict[tuple[Alarm, int], float] = field(default_factory=dict)
    killed: set[int] = field(default_factory=set)
    sent: list[Send] = field(default_factory=list)
    preparing: list[Prepare] = field(default_factory=list)
    weighing: bool = False
    roomy: bool = True
    """There is room for a spare, and it is found at once."""
    unanswered: set[int] = field(default_factory=set)
    answers: dict[int, Answer] = field(default_factory=dict)
    closed: list[CloseHandoff] = field(default_factory=list)
    handoff_open: bool = False
    exit: Exit | None = None
    commands: int = 0
    releases: int = 1
    timing: Timing = TIMING
    mirrors: bool = False
    """New children wait for the sessions of the active one."""

    @classmethod
    def begun(cls, timing: Timing = TIMING, *, company: bool = False, waits: bool = False) -> World:
        state, effects = m.begin(FIRST, timing, company=company, waits=waits)
        world = cls(state, timing=timing)
        world.take(effects)
        return world

    @classmethod
    def adopted(cls, timing: Timing = TIMING) -> World:
        """A program has begun that finds an earlier one's child."""
        state, effects = m.adopt(FIRST, timing, generation=1, newest=1, command=1)
        world = cls(state, alive={1: Spawn(1, FIRST, False)}, unanswered={1}, commands=1, timing=timing)
        world.take(effects)
        return world

    def step(self, event: Event) -> tuple[Effect, ...]:
        match event:
            case Exited(generation=generation):
                self.alive.pop(generation, None)
            case Rang(alarm=alarm, generation=generation):
                self.timers.pop((alarm, generation), None)
            case Prepared() | Refused() if self.preparing:
                self.preparing.pop(0)
            case Reload(command=command) | Rollback(command=command) | Stop(command=command):
                self.unanswered.add(command)
        self.state, effects = m.step(self.state, event)
        if isinstance(event, Weighed):
            self.weighing = False
        self.take(effects)
        self.check()
        return effects + (self.step(Weighed(None)) if self.weighing and self.roomy else ())

    def take(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case Spawn(generation=generation, standby=standby):
                    assert generation > max(self.alive, default=0), "a generation is never used twice"
                    assert standby or not self.alive, "a child that handles events from birth is born alone"
                    self.alive[generation] = effect
                case Send(message=message):
                    self.sent.append(effect)
                    if isinstance(message, Recover):
                        assert message.generation not in self.alive, "only a dead child's sessions are resumed"
                    if isinstance(message, Activate):
                        assert not self.hanging(), "a hung child is dead before another is activated"
                case Signal(generation=generation, name="SIGKILL"):
                    self.killed.add(generation)
                case StartTimer(alarm=alarm, generation=generation, seconds=seconds):
                    self.timers[alarm, generation] = seconds
                case CancelTimer(alarm=alarm, generation=generation):
                    self.timers.pop((alarm, generation), None)
                case Weigh():
                    assert not self.weighing
                    self.weighing = True
                case Prepare():
                    self.preparing = [effect]  # of two, only the newer is answered
                case Answer(commands=commands):
                    for command in commands:
                        self.unanswered.remove(command)
                        self.answers[command] = effect
                case OpenHandoff():
                    assert not self.handoff_open
                    assert self.state.handoff is not None, "its record is made from the state"
                    self.handoff_open = True
                case CloseHandoff():
                    assert self.handoff_open
                    self.handoff_open = False
                    self.closed.append(effect)
                case Exit():
                    assert self.exit is None
                    self.exit = effect

    def check(self) -> None:
        state = self.state
        assert {child.generation for child in state.children} == set(self.alive)
        every_part = (state.active, state.incoming, state.outgoing, state.lingering, state.spare)
        parts = [generation for generation in every_part if generation is not None]
        assert len(parts) == len(set(parts)), "nobody plays two parts"
        assert set(parts) <= set(self.alive)
        if state.spare is not None:
            assert state.phase in (Phase.SERVING, Phase.PREPARING)
        assert sum(child.standing is Standing.ACTIVE for child in state.children) <= 1
        lingers = state.lingering is not None
        assert len(state.children) - lingers <= 2, "never more than one old beside one new"
        if lingers:
            assert state.outgoing is None, "never two old children"
            assert state.spare is None, "it takes over itself"
            assert self.ends(state.lingering), "nobody lingers for ever"
            if state.phase is Phase.ACTIVATING:
                assert state.active is None, "never two old children beside an active one"
            if state.phase is Phase.WAITING:
                assert not self.stays(state.lingering), "it takes over, or a recovery waits for it only a moment"
        assert {*state.asked, *state.waiting, *state.stops} == self.unanswered, (
            "every command waits for its answer once"
        )
        assert self.handoff_open == (state.handoff is not None)
        assert self.weighing == state.weighing
        assert state.active is None or state.bereft is None, "who is active leaves nobody to recover"
        assert all(generation in self.alive for _, generation in self.timers if generation)
        for child in state.children:
            if child.standing is Standing.LEAVING:
                assert (Alarm.END, child.generation) in self.timers or child.generation in self.killed
        assert self.moves_on(), f"{state.phase} waits for nothing"
        assert state.yielding == ((Alarm.YIELD, 0) in self.timers), "nobody is waited for without end"
        stops = state.phase in (Phase.STOPPING, Phase.STOPPED)
        if state.waits and not stops:
            assert state.active is None, "who waits to be called handles nothing"
            assert not any(child.standing in (Standing.ACTIVE, Standing.ACTIVATING) for child in state.children)
        if state.company and not stops and not state.timing.spare:
            told = [child.beside for child in state.children if child.standing is not Standing.LEAVING]
            assert all(told), "beside other supervisors nobody is told that it is alone"

    def hanging(self) -> list[int]:
        """Return those that are being ended because they hang, and live."""
        return [child.generation for child in self.state.children if (child.fault or "").startswith("hangs")]

    def ends(self, generation: int | None) -> bool:
        """Say whether a child is on its way out, with something behind it that sees to it."""
        found = self.state.child(generation)
        return found is not None and (
            bool({(Alarm.DRAIN, found.generation), (Alarm.END, found.generation)} & set(self.timers))
            or found.generation in self.killed
        )

    def stays(self, generation: int | None) -> bool:
        """Say whether a child lingers for more than a moment."""
        found = self.state.child(generation)
        return found is not None and found.standing is Standing.DRAINING and not (found.hurried or found.drained)

    def moves_on(self) -> bool:
        """Say whether something is under way that will end this phase."""
        state = self.state
        match state.phase:
            case Phase.WAITING:
                waited_for = bool(state.leavers) or state.lingering is not None
                return (Alarm.BACKOFF, 0) in self.timers or (state.due and waited_for)
            case Phase.PREPARING:
                return bool(self.preparing)
            case Phase.CLEARING:
                lingers = state.lingering is not None and not self.stays(state.lingering)
                return self.ends(state.active) or bool(state.leavers) or lingers
            case Phase.SPAWNING | Phase.CONNECTING:
                lingers = state.lingering is not None and not self.stays(state.lingering)
                beats = {(Alarm.HANG, state.incoming), (Alarm.DUMP, state.incoming)}
                called = state.waits and bool(beats & set(self.timers))
                active = {(alarm, state.active) for alarm in (Alarm.HANG, Alarm.DUMP)}
                moves = {(Alarm.READY, state.incoming), *active} & set(self.timers)
                return bool(moves) or self.ends(state.active) or lingers or called
            case Phase.ACTIVATING:
                return (Alarm.ACK, state.incoming) in self.timers
            case Phase.PROBATION:
                return (Alarm.PROBATION, state.outgoing) in self.timers or self.ends(state.active)
            case Phase.DRAINING:
                return self.ends(state.outgoing) or self.ends(state.active)
            case Phase.SERVING:
                waits = state.waiting and (Alarm.ACK, state.active) not in self.timers and not self.ends(state.active)
                return state.child(state.active) is not None and not waits
            case Phase.REVERTING:
                return bool(state.leavers)
            case Phase.STOPPING:
                return all(self.ends(generation) for generation in self.alive)
            case Phase.STOPPED:
                return self.exit is not None and not self.alive

    def phase(self) -> Phase:
        return self.state.phase

    def shown(self) -> str:
        return self.state.shown

    # What an operator and well-behaved children do.

    def reload(self, *, force: bool = False) -> int:
        self.commands += 1
        self.step(Reload(self.commands, force))
        return self.commands

    def rollback(self, *, force: bool = False) -> int:
        self.commands += 1
        self.step(Rollback(self.commands, force))
        return self.commands

    def stop(self) -> int:
        self.commands += 1
        self.step(Stop(self.commands))
        return self.commands

    def prepared(self) -> None:
        self.releases += 1
        wanted = self.preparing[0].release
        self.step(Prepared(wanted or release(str(self.releases)), self.timing))

    def beats(self) -> None:
        """Let the active child give a sign of life."""
        assert self.state.active is not None
        self.step(Beaten(self.state.active))

    def greeted(self) -> None:
        self.step(Greeted(self.new))

    def ready(self) -> None:
        self.step(BecameReady(self.new, mirror=self.mirrors))

    def activated(self) -> None:
        self.step(RoleTaken(self.new, "active"))

    def stand_by(self) -> None:
        assert self.state.outgoing is not None
        self.step(RoleTaken(self.state.outgoing, "standby"))

    def bring_spare(self) -> int:
        """Let the spare come on, as far as it goes."""
        if (Alarm.SPARE, 0) in self.timers:
            self.step(Rang(Alarm.SPARE))
        spare = self.state.spare
        assert spare is not None
        self.step(Greeted(spare))
        self.step(BecameReady(spare))
        return spare

    def hang(self, generation: int) -> tuple[Effect, ...]:
        """Let a child beat no more; returns what is done when its stacks have been seen."""
        self.step(Beaten(generation))
        child = self.state.child(generation)
        takes_sessions = child is not None and child.takes_sessions
        expected = limits.SIGN_TIMEOUT if takes_sessions else TIMING.hang_timeout
        assert self.timers[Alarm.HANG, generation] == expected
        assert Signal(generation, "SIGUSR1") in self.step(Rang(Alarm.HANG, generation))
        return self.step(Rang(Alarm.DUMP, generation))

    def lingers(self) -> int:
        """Let the old child come to where only people keep it; returns its generation."""
        old = self.state.outgoing
        assert old is not None
        self.step(RoleTaken(old, "draining"))
        self.step(Lingers(old, 2, 1))
        return old

    def drained(self) -> None:
        old = self.state.outgoing
        assert old is not None
        self.step(RoleTaken(old, "draining"))
        self.step(HasDrained(old))
        self.step(Exited(old, "exited with status 0"))

    @property
    def new(self) -> int:
        assert self.state.incoming is not None
        return self.state.incoming

    def messages(self, generation: int) -> list[object]:
        return [send.message for send in self.sent if send.generation == generation]

    def cooperate(self) -> None:
        """Let everybody do what is expected until nothing is under way."""
        for _ in range(60):
            state = self.state
            serves = state.phase is Phase.SERVING and self.active_lives() and not state.waiting
            if state.phase is Phase.STOPPED or serves:
                return
            self.one_good_step()
        raise AssertionError(f"no way back from {self.state}")

    def active_lives(self) -> bool:
        active = self.state.child(self.state.active)
        return active is not None and active.standing is Standing.ACTIVE

    def one_good_step(self) -> None:
        state = self.state
        leaving = [
            child.generation
            for child in state.children
            if child.standing is Standing.LEAVING
            or state.part(child.generation) is Part.LEAVER
            or (child.generation == state.lingering and not self.stays(child.generation))
        ]
        if leaving:
            self.step(Exited(leaving[0], "exited with status 0"))
            return
        match self.state.phase:
            case Phase.WAITING:
                self.step(Rang(Alarm.BACKOFF))
            case Phase.PREPARING:
                self.prepared()
            case Phase.SPAWNING:
                self.greeted()
            case Phase.CONNECTING:
                incoming = self.state.child(self.state.incoming)
                if incoming is None or not incoming.ready:
                    self.ready()
                elif self.state.waits:
                    self.step(ALONE)
                else:
                    self.beats()
            case Phase.ACTIVATING:
                self.activated()
            case Phase.PROBATION:
                self.stand_by()
                self.step(Rang(Alarm.PROBATION, self.state.outgoing or 0))
            case Phase.DRAINING if self.timing.linger and self.stays(state.outgoing):
                self.lingers()
            case Phase.DRAINING:
                self.drained()
            case Phase.SERVING if state.waiting and self.active_lives():
                self.step(RoleTaken(state.active or 0, "active"))
            case _:
                self.step(Exited(next(iter(self.alive)), "exited with status 0"))


def serving(timing: Timing = TIMING) -> World:
    world = World.begun(timing)
    world.cooperate()
    return world


def with_spare() -> World:
    world = serving(WITH_SPARE)
    world.bring_spare()
    return world


def lingering(timing: Timing = LINGERING) -> World:
    """A first child lingers beside the second, which serves."""
    world = reloading_until(Phase.DRAINING, timing)
    world.lingers()
    return world


def reloading_beside_a_lingerer(phase: Phase) -> World:
    """Beside the active child and one that lingers, a reload has come to ``phase``."""
    world = lingering()
    world.reload()
    while world.state.phase is not phase:
        world.one_good_step()
    return world


def reloading_until(phase: Phase, timing: Timing | None = None, *, mirrors: bool = False) -> World:
    """A first child serves, a reload has come to ``phase``."""
    world = serving(timing or (ON_PROBATION if phase is Phase.PROBATION else TIMING))
    world.mirrors = mirrors
    world.reload()
    while world.state.phase is not phase:
        world.one_good_step()
    return world


def restarting_until(phase: Phase) -> World:
    """A first child has died, its successor has come to ``phase``."""
    world = serving()
    world.step(Exited(1, "killed by SIGSEGV"))
    while world.state.phase is not phase:
        world.one_good_step()
    return world


HANDOFF = [Phase.PREPARING, Phase.SPAWNING, Phase.CONNECTING, Phase.ACTIVATING, Phase.DRAINING]


# --- a good day -------------------------------------------------------------------------------------------------


def test_the_first_child_is_spawned_active_and_told_so_when_it_is_ready() -> None:
    world = World.begun()
    assert world.alive == {1: Spawn(1, FIRST, False)}
    assert world.shown() == "starting"
    world.greeted()
    world.ready()
    assert world.messages(1) == [Activate()]
    world.activated()
    assert world.phase() is Phase.SERVING
    assert world.shown() == "serving"
    assert world.closed == []


def test_a_reload_drains_the_old_child_after_the_activation_of_the_new_one() -> None:
    world = reloading_until(Phase.SPAWNING)
    assert world.alive[2].standby
    assert world.shown() == "handing-off"
    world.greeted()
    world.ready()
    assert world.messages(2) == []
    world.beats()
    assert world.messages(2) == [Activate()]
    assert Drain(limit=30) not in world.messages(1)
    world.activated()
    assert world.messages(1)[-1] == Drain(limit=30)
    assert 1 in world.unanswered
    world.drained()
    assert world.answers[1] == Answer((1,), "succeeded")
    assert world.closed == [CloseHandoff("reload", 1, 2, "succeeded", None)]


def test_a_mirror_is_activated_as_soon_as_it_is_ready() -> None:
    world = reloading_until(Phase.CONNECTING, mirrors=True)
    world.ready()
    assert world.messages(2) == [Activate()]


def test_a_child_is_told_that_it_is_alone_when_the_old_one_has_left() -> None:
    world = reloading_until(Phase.DRAINING)
    assert Window(open=False) not in world.messages(2)
    world.drained()
    assert world.messages(2)[-1] == Window(open=False)
    assert not serving().messages(1)[1:], "a first one has nobody beside it"


def test_reloads_during_a_handoff_wait_together_for_the_next_one() -> None:
    world = reloading_until(Phase.CONNECTING)
    second, third = world.reload(), world.reload()
    while 1 in world.unanswered:
        world.one_good_step()
    assert world.phase() is Phase.PREPARING
    assert world.state.asked == (second, third)
    world.cooperate()
    assert world.answers[second] is world.answers[third]
    assert world.state.active == 3


def test_a_forced_command_is_prepared_by_force_and_one_of_those_that_wait_suffices() -> None:
    world = serving()
    world.reload(force=True)
    assert world.preparing == [Prepare(None, True)]
    world.reload(force=True)
    world.reload()
    while 1 in world.unanswered:
        world.one_good_step()
    assert world.preparing == [Prepare(None, True)]
    world.reload()
    while world.state.asked != (4,):
        world.one_good_step()
    assert world.preparing == [Prepare(None, False)]


def test_a_reload_while_the_first_child_starts_waits_for_it() -> None:
    world = World.begun()
    world.greeted()
    command = world.reload()
    assert world.state.waiting == (command,)
    world.cooperate()
    assert world.answers[command].result == "succeeded"
    assert world.state.active == 2


def test_a_reload_while_the_restart_waits_spawns_now_and_the_new_release() -> None:
    world = restarting_until(Phase.WAITING)
    command = world.reload()
    world.prepared()
    assert (Alarm.BACKOFF, 0) not in world.timers
    assert world.alive == {2: Spawn(2, release("2"), True)}
    world.cooperate()
    assert world.answers[command].result == "succeeded"
    assert world.closed[-1].kind == "recovery"


def test_a_rollback_hands_over_to_the_release_before() -> None:
    world = serving()
    assert world.answers[world.rollback()].result == "refused"
    world.reload()
    world.cooperate()
    command = world.rollback()
    assert world.preparing == [Prepare(FIRST)]
    world.cooperate()
    assert world.answers[command].result == "succeeded"
    assert world.state.good == FIRST
    assert world.closed[-1].kind == "rollback"


# --- a new child that is no good --------------------------------------------------------------------------------


def test_a_refused_reload_changes_nothing() -> None:
    world = reloading_until(Phase.PREPARING)
    world.step(Refused("bot.directory: /gone: no such directory"))
    assert world.answers[1] == Answer((1,), "refused", "bot.directory: /gone: no such directory")
    assert world.closed[-1].result == "refused"
    assert world.phase() is Phase.SERVING
    assert world.messages(1) == [Activate()]


def test_a_reload_of_which_nobody_can_tell_whether_it_may_be_has_failed() -> None:
    world = reloading_until(Phase.PREPARING)
    world.step(Refused("bot.directory: /hung: its file system has not answered for 10 s", "failed"))
    assert (world.answers[1].result, world.closed[-1].result) == ("failed", "failed")
    assert world.phase() is Phase.SERVING


def test_a_failed_reload_leaves_none_of_its_limits_behind() -> None:
    world = serving()
    world.reload()
    world.timing = replace(TIMING, ready_timeout=2)
    world.prepared()
    while world.state.phase is not Phase.CONNECTING:
        world.one_good_step()
    assert world.state.timing.ready_timeout == 2
    incoming = world.state.incoming
    assert incoming is not None
    world.step(GaveUp(incoming, "cannot import", False))
    assert world.state.timing == world.state.good_timing == TIMING


def test_a_reload_that_fails_when_nobody_serves_any_more_leaves_none_of_its_limits_behind() -> None:
    world = serving()
    world.reload()
    world.timing = replace(TIMING, ready_timeout=2)
    world.prepared()
    while world.state.phase is not Phase.CONNECTING:
        world.one_good_step()
    world.step(Exited(1, "killed by SIGKILL"))
    world.step(Exited(2, "exited with status 1"))
    assert world.answers[1].result == "failed"
    assert world.state.timing == world.state.good_timing == TIMING


FAULTS: dict[str, Callable[[int], Event]] = {
    "gives up": lambda generation: GaveUp(generation, "cannot import", False),
    "breaks": lambda generation: Broke(generation, "garbage"),
    "exits": lambda generation: Exited(generation, "exited with status 1"),
    "is not ready in time": lambda generation: Rang(Alarm.READY, generation),
    "says no hello": lambda generation: Rang(Alarm.HELLO, generation),
    "does not acknowledge": lambda generation: Rang(Alarm.ACK, generation),
}


@pytest.mark.parametrize(
    ("phase", "fault"),
    [
        *((phase, fault) for phase in HANDOFF[1:4] for fault in ("gives up", "breaks", "exits")),
        (Phase.SPAWNING, "says no hello"),
        (Phase.SPAWNING, "is not ready in time"),
        (Phase.CONNECTING, "is not ready in time"),
        (Phase.ACTIVATING, "does not acknowledge"),
    ],
)
def test_a_new_child_that_fails_leaves_the_old_one_serving_and_the_next_reload_works(phase: Phase, fault: str) -> None:
    world = reloading_until(phase)
    world.step(FAULTS[fault](2))
    assert world.answers[1].result == "failed"
    assert world.closed[-1].result == "failed"
    assert world.state.active == 1
    assert world.shown() == "serving"
    assert Drain(limit=30) not in world.messages(1)
    if 2 in world.alive:
        assert world.phase() is Phase.REVERTING
        assert Window(open=False) not in world.messages(1), "it is not alone before the new one is gone"
        world.step(Exited(2, "killed by SIGTERM"))
    assert world.messages(1)[-1] == Window(open=False)
    command = world.reload()
    world.cooperate()
    assert world.answers[command].result == "succeeded"


def test_a_child_that_gave_up_has_a_moment_to_exit_then_sigterm_then_sigkill() -> None:
    world = reloading_until(Phase.CONNECTING)
    assert Signal(2, "SIGTERM") not in world.step(GaveUp(2, "no", False))
    assert Signal(2, "SIGTERM") in world.step(Rang(Alarm.END, 2))
    assert Signal(2, "SIGKILL") in world.step(Rang(Alarm.END, 2))


def test_a_new_child_that_dies_while_the_old_one_drains_gives_the_role_back() -> None:
    world = reloading_until(Phase.DRAINING)
    world.step(Exited(2, "killed by SIGSEGV"))
    assert world.messages(1)[-1] == Activate()
    world.step(RoleTaken(1, "draining"))
    assert world.phase() is Phase.ACTIVATING
    world.step(RoleTaken(1, "active"))
    assert world.answers[1] == Answer((1,), "rolled-back", "generation 2: killed by SIGSEGV")
    assert world.closed[-1].result == "rolled-back"
    assert (world.state.active, world.state.good, world.state.phase) == (1, FIRST, Phase.SERVING)
    assert (Alarm.DRAIN, 1) not in world.timers


@pytest.mark.parametrize("fault", ["gives up", "breaks"])
def test_a_new_child_that_fails_while_the_old_one_drains_is_ended_too(fault: str) -> None:
    world = reloading_until(Phase.DRAINING)
    world.step(FAULTS[fault](2))
    assert world.messages(1)[-1] != Activate(), "it may still handle what comes to its sessions"
    world.step(Exited(2, "killed by SIGKILL"))
    assert world.messages(1)[-2:] == [Recover(generation=2), Activate()]
    world.activated()
    assert world.answers[1].result == "rolled-back"
    assert world.phase() is Phase.SERVING
    assert world.messages(1)[-1] == Window(open=False)


def test_a_new_child_that_dies_when_the_old_one_has_drained_is_followed_by_the_old_release() -> None:
    world = reloading_until(Phase.DRAINING)
    world.step(HasDrained(1))
    world.step(Exited(2, "killed by SIGSEGV"))
    assert world.answers[1].result == "failed"
    assert world.phase() is Phase.WAITING
    world.step(Rang(Alarm.BACKOFF))
    assert list(world.alive) == [1], "nobody is spawned active while the old one lives"
    world.step(Exited(1, "exited with status 0"))
    assert world.alive == {3: Spawn(3, FIRST, True)}
    assert world.messages(3) == [Recover(generation=2)], "the last that was active, not the one that drained"


def test_an_old_child_that_does_not_leave_is_ended_and_the_handoff_has_succeeded() -> None:
    world = reloading_until(Phase.DRAINING)
    assert world.timers[Alarm.DRAIN, 1] == TIMING.drain_timeout + limits.DRAIN_GRACE
    assert Signal(1, "SIGTERM") in world.step(Rang(Alarm.DRAIN, 1))
    assert Signal(1, "SIGKILL") in world.step(Rang(Alarm.END, 1))
    world.step(Exited(1, "killed by SIGKILL"))
    assert world.answers[1].result == "succeeded"


def test_a_pipe_that_a_drained_child_closes_is_in_order() -> None:
    world = reloading_until(Phase.DRAINING)
    world.step(HasDrained(1))
    assert world.step(Broke(1, "closed its pipe")) == ()


# --- the active child dies --------------------------------------------------------------------------------------


def test_a_dead_child_is_restarted_from_its_own_release_with_a_backoff_that_doubles() -> None:
    world = serving()
    world.step(Exited(1, "killed by SIGSEGV"))
    delays = []
    for _ in range(6):
        assert world.shown() == "restarting"
        delays.append(world.timers[Alarm.BACKOFF, 0])
        world.step(Rang(Alarm.BACKOFF))
        assert world.alive[world.new] == Spawn(world.new, FIRST, True)
        assert world.messages(world.new) == [Recover(generation=1)], "also the second, if the first one died over it"
        world.step(Exited(world.new, "exited with status 1"))
    assert delays == [1, 2, 4, 8, 8, 8]
    world.cooperate()
    assert len(world.closed) == 1
    assert (world.closed[0].kind, world.closed[0].origin, world.closed[0].target) == ("recovery", 1, 8)
    assert world.state.restarts == 7


def test_a_successor_is_told_that_it_is_alone_like_any_new_child() -> None:
    world = serving()
    world.step(Exited(1, "killed by SIGKILL"))
    world.cooperate()
    assert world.state.active == 2
    assert world.messages(2)[-1] == Window(open=False)


def test_a_first_start_has_nobody_to_recover() -> None:
    world = World.begun()
    world.step(Exited(1, "killed by SIGKILL"))
    world.step(Rang(Alarm.BACKOFF))
    assert world.alive == {2: Spawn(2, FIRST, False)}
    assert world.messages(2) == []


@pytest.mark.parametrize("phase", [Phase.SPAWNING, Phase.CONNECTING])
def test_a_new_child_that_connects_still_recovers_the_old_one_that_dies(phase: Phase) -> None:
    world = reloading_until(phase)
    world.step(Exited(1, "killed by SIGKILL"))
    assert world.messages(2) == [Recover(generation=1)]


def test_a_new_child_that_is_ready_says_so_again_when_it_knows_what_the_dead_one_had_not_read() -> None:
    world = reloading_until(Phase.CONNECTING)
    world.ready()
    assert (Alarm.READY, 2) not in world.timers
    world.step(Exited(1, "killed by SIGKILL"))
    assert world.messages(2) == [Recover(generation=1)]
    assert world.timers[Alarm.READY, 2] == limits.RECOVER_TIMEOUT
    assert world.step(Progressed(2)) == (), "a shard that is resumed gives it no more time"
    world.ready()
    assert world.messages(2) == [Recover(generation=1), Activate()]


def test_a_new_child_with_sessions_of_its_own_is_activated_when_the_active_one_has_given_a_sign_of_life() -> None:
    """One that stands still has read nothing of what came before those sessions began."""
    world = reloading_until(Phase.CONNECTING)
    world.beats()
    world.ready()
    assert world.messages(2) == []
    world.beats()
    assert world.messages(2) == [Activate()]


def test_a_ready_child_that_does_not_see_to_what_the_dead_one_left_is_ended() -> None:
    world = reloading_until(Phase.CONNECTING)
    world.ready()
    world.step(Exited(1, "killed by SIGKILL"))
    assert Signal(2, "SIGTERM") in world.step(Rang(Alarm.READY, 2))
    assert world.answers[1].result == "failed"
    assert "has not seen to what the dead one left within 30 s" in (world.answers[1].reason or "")
    world.step(Exited(2, "killed by SIGTERM"))
    world.step(Rang(Alarm.BACKOFF))
    assert world.messages(3) == [Recover(generation=1)]


def test_an_active_child_that_hangs_when_the_new_one_is_ready_is_ended_and_then_followed() -> None:
    world = reloading_until(Phase.CONNECTING)
    world.ready()
    assert Signal(1, "SIGTERM") in world.hang(1)
    world.step(Exited(1, "killed by SIGKILL"))
    world.ready()
    world.activated()
    assert world.closed[-1].kind == "failover"
    assert world.answers[1].result == "succeeded"


def test_a_new_child_that_dies_while_the_active_one_is_waited_for_leaves_no_alarm_for_the_next() -> None:
    world = reloading_until(Phase.CONNECTING)
    world.ready()
    world.step(Exited(2, "killed by SIGKILL"))
    assert world.answers[1].result == "failed"
    assert (Alarm.ACK, 1) not in world.timers
    command = world.reload()
    world.cooperate()
    assert world.answers[command].result == "succeeded"


def test_the_backoff_begins_anew_after_a_stable_time() -> None:
    world = serving()
    for _ in range(3):
        world.step(Exited(world.state.active or 0, "killed"))
        world.cooperate()
    world.step(Rang(Alarm.STABLE, world.state.active or 0))
    world.step(Exited(world.state.active or 0, "killed"))
    assert world.timers[Alarm.BACKOFF, 0] == 1


@pytest.mark.parametrize("phase", HANDOFF[:4])
def test_a_handoff_whose_old_child_dies_goes_on_with_the_new_one(phase: Phase) -> None:
    world = reloading_until(phase)
    world.step(Exited(1, "killed by SIGKILL"))
    world.cooperate()
    kind: HandoffKind = "recovery" if phase in HANDOFF[:1] else "failover"
    assert world.closed == [CloseHandoff(kind, 1, 2, "succeeded", "generation 1 died: killed by SIGKILL")]
    assert world.answers[1] == Answer((1,), "succeeded")
    assert world.state.good == release("2")


def test_an_activation_under_way_goes_on_when_the_old_child_dies() -> None:
    world = reloading_until(Phase.ACTIVATING)
    world.step(Exited(1, "killed by SIGKILL"))
    assert world.step(RoleTaken(2, "active"))[-1:] == (Send(2, Window(open=False)),)


@pytest.mark.parametrize("phase", HANDOFF[1:4])
def test_when_both_die_the_release_that_was_good_comes_back(phase: Phase) -> None:
    world = reloading_until(phase)
    world.step(Exited(1, "killed by SIGKILL"))
    world.step(Exited(2, "exited with status 1"))
    assert world.answers[1].result == "failed"
    world.cooperate()
    assert world.state.good == FIRST
    assert world.state.child(3) is not None
    assert (world.closed[-1].kind, world.closed[-1].result) == ("recovery", "succeeded")


def test_an_active_child_that_breaks_is_killed_before_anybody_follows() -> None:
    world = serving()
    assert Signal(1, "SIGKILL") in world.step(Broke(1, "garbage"))
    assert world.phase() is Phase.SERVING
    world.step(Exited(1, "killed by SIGKILL"))
    assert world.phase() is Phase.WAITING


def test_a_start_that_comes_on_slowly_is_let_go_on_but_a_handoff_is_not() -> None:
    world = World.begun()
    world.greeted()
    assert StartTimer(Alarm.READY, 1, 100) in world.step(Progressed(1))
    world = reloading_until(Phase.CONNECTING)
    assert world.step(Progressed(2)) == ()


# --- children that hang -----------------------------------------------------------------------------------------


def test_a_child_that_beats_does_not_hang() -> None:
    world = serving()
    world.step(Beaten(1))
    assert world.step(Beaten(1)) == (StartTimer(Alarm.HANG, 1, TIMING.hang_timeout),)


def test_a_child_that_beats_again_while_its_stacks_are_printed_goes_on() -> None:
    world = serving()
    world.step(Beaten(1))
    world.step(Rang(Alarm.HANG, 1))
    world.step(Beaten(1))
    assert (Alarm.DUMP, 1) not in world.timers
    assert (Alarm.HANG, 1) in world.timers
    assert world.active_lives()


def test_a_child_that_has_not_beaten_yet_has_the_limits_of_its_start() -> None:
    world = World.begun()
    world.greeted()
    assert (Alarm.HANG, 1) not in world.timers
    assert (Alarm.READY, 1) in world.timers
    world.ready()
    assert world.timers[Alarm.HANG, 1] == TIMING.hang_timeout


def test_an_active_child_that_hangs_gets_sigterm_then_sigkill_and_is_followed_when_it_is_dead() -> None:
    world = serving()
    assert Signal(1, "SIGTERM") in world.hang(1)
    assert Signal(1, "SIGKILL") in world.step(Rang(Alarm.END, 1))
    assert world.phase() is Phase.SERVING
    world.step(Exited(1, "killed by SIGKILL"))
    world.cooperate()
    assert world.closed[-1].kind == "recovery"
    assert world.closed[-1].reason == (
        "generation 1 died: hangs: no sign of life for 20 s (restart.hang_timeout) (killed by SIGKILL)"
    )


def test_a_new_child_waits_for_the_death_of_an_active_one_that_hangs() -> None:
    world = reloading_until(Phase.CONNECTING)
    world.hang(1)
    world.ready()
    assert world.phase() is Phase.CONNECTING
    assert world.messages(2) == []
    world.step(Exited(1, "killed by SIGKILL"))
    world.ready()
    assert world.messages(2) == [Recover(generation=1), Activate()]
    world.activated()
    assert world.closed[-1].kind == "failover"
    assert world.answers[1].result == "succeeded"


@pytest.mark.parametrize("phase", [Phase.CONNECTING, Phase.ACTIVATING])
@pytest.mark.parametrize("mirrors", [True, False])
def test_a_new_child_that_hangs_is_ended_and_the_old_one_serves_on(phase: Phase, mirrors: bool) -> None:
    world = reloading_until(phase, mirrors=mirrors)
    # One that was told to take the sessions may have them: the active child goes on only when it is gone.
    at_once = mirrors and phase is Phase.ACTIVATING
    assert Signal(2, "SIGKILL" if at_once else "SIGTERM") in world.hang(2)
    assert world.answers[1].result == "failed"
    assert "hangs" in (world.answers[1].reason or "")
    assert world.phase() is Phase.REVERTING
    world.cooperate()
    assert world.state.active == 1


@pytest.mark.parametrize("phase", SWITCHED)
def test_a_new_child_that_hangs_after_the_switch_is_killed_and_then_the_old_one_is_active_again(phase: Phase) -> None:
    world = reloading_until(phase)
    assert Signal(2, "SIGKILL") in world.hang(2)
    assert world.messages(1)[-1] != Activate()
    world.step(Exited(2, "killed by SIGKILL"))
    assert world.messages(1)[-1] == Activate()
    world.activated()
    assert world.answers[1].result == "rolled-back"
    assert "hangs" in (world.answers[1].reason or "")


@pytest.mark.parametrize("phase", SWITCHED)
def test_a_reload_does_not_succeed_with_a_new_child_that_is_being_killed(phase: Phase) -> None:
    world = reloading_until(phase)
    good = world.state.good
    world.hang(2)
    world.step(Exited(1, "killed by SIGKILL"))
    assert 1 not in world.answers
    rollback = world.rollback()
    assert world.answers[rollback].result == "refused"
    later = world.reload()
    world.step(Exited(2, "killed by SIGKILL"))
    assert world.answers[1].result == "failed"
    assert world.state.good == good, "the release that hung is not started again"
    assert world.preparing or later in world.state.asked, "the reload that came meanwhile is a new beginning"


@pytest.mark.parametrize("phase", SWITCHED)
def test_an_old_child_that_hangs_after_the_switch_is_ended_and_the_handoff_has_succeeded(phase: Phase) -> None:
    world = reloading_until(phase)
    assert Signal(1, "SIGTERM") in world.hang(1)
    assert world.phase() is Phase.DRAINING
    world.cooperate()
    assert world.answers[1].result == "succeeded"


def test_a_child_that_hangs_while_the_supervisor_stops_is_ended() -> None:
    world = serving()
    world.stop()
    assert Signal(1, "SIGTERM") in world.hang(1)


# --- a newer release while the old child drains ------------------------------------------------------------------


def test_a_reload_while_the_old_child_drains_hurries_it_once() -> None:
    world = reloading_until(Phase.DRAINING)
    second = world.reload()
    assert world.messages(1)[-1] == Drain(limit=limits.HURRY_LIMIT)
    assert world.timers[Alarm.DRAIN, 1] == limits.HURRY_LIMIT + limits.DRAIN_GRACE
    third = world.reload()
    assert world.messages(1).count(Drain(limit=limits.HURRY_LIMIT)) == 1
    world.drained()
    assert world.answers[1].result == "succeeded"
    world.cooperate()
    assert world.answers[second] is world.answers[third]
    assert world.state.active == 3


def test_a_child_that_has_little_time_is_not_given_more_by_a_hurry() -> None:
    world = reloading_until(Phase.DRAINING, replace(TIMING, drain_timeout=1))
    world.reload()
    assert world.messages(1)[-1] == Drain(limit=1)


def test_a_child_that_has_drained_or_is_being_ended_is_not_hurried() -> None:
    for world in (reloading_until(Phase.DRAINING), draining_while_cut()):
        if (Alarm.END, 1) not in world.timers:
            world.step(HasDrained(1))
        world.reload()
        assert Drain(limit=limits.HURRY_LIMIT) not in world.messages(1)


# --- children that do not read their pipe -----------------------------------------------------------------------


def test_an_active_child_that_beats_but_never_answers_is_ended_and_followed_by_the_new_one() -> None:
    """`slot` starts the timer as it asks the child to serve the new one."""
    world = reloading_until(Phase.CONNECTING)
    assert Signal(1, "SIGTERM") in world.step(Rang(Alarm.ANSWER, 1))
    world.step(Exited(1, "exited with status 0"))
    assert world.state.handoff is not None
    assert "beats, but has not answered" in (world.state.handoff.reason or "")
    world.cooperate()
    assert world.state.active == 2


# --- probation --------------------------------------------------------------------------------------------------


def test_on_probation_the_old_child_stands_by_and_drains_when_it_is_over() -> None:
    world = reloading_until(Phase.PROBATION)
    assert world.messages(1)[-1] == Standby()
    assert world.timers[Alarm.PROBATION, 1] == 15
    assert world.shown() == "handing-off"
    world.stand_by()
    assert (Alarm.ACK, 1) not in world.timers
    assert 1 in world.unanswered, "the reload ends with its own result"
    world.step(Rang(Alarm.PROBATION, 1))
    assert world.messages(1)[-1] == Drain(limit=30)
    world.drained()
    assert world.answers[1] == Answer((1,), "succeeded")


@pytest.mark.parametrize("fault", ["gives up", "breaks", "exits"])
def test_a_new_child_that_fails_on_probation_gives_the_role_back_at_once(fault: str) -> None:
    world = reloading_until(Phase.PROBATION)
    world.stand_by()
    world.step(FAULTS[fault](2))
    if fault != "exits":
        assert world.messages(1)[-1] != Activate(), "it may still handle what comes to its sessions"
        world.step(FAULTS["exits"](2))
    assert world.messages(1)[-2:] == [Recover(generation=2), Activate()]
    assert (Alarm.PROBATION, 1) not in world.timers
    world.activated()
    assert world.answers[1].result == "rolled-back"
    assert world.closed == [CloseHandoff("reload", 1, 2, "rolled-back", world.answers[1].reason)]
    world.cooperate()
    assert (world.state.active, world.state.good) == (1, FIRST)
    command = world.reload()
    world.cooperate()
    assert world.answers[command].result == "succeeded"


def test_a_rollback_on_probation_makes_the_old_child_active_at_once() -> None:
    world = reloading_until(Phase.PROBATION)
    command = world.rollback()
    assert world.messages(1)[-1] == Activate()
    assert world.answers[1].result == "rolled-back"
    world.activated()
    assert world.messages(2)[-1] == Drain(limit=30), "without a probation of its own"
    world.drained()
    assert world.answers[command] == Answer((command,), "succeeded")
    assert [(closed.kind, closed.origin, closed.target, closed.result) for closed in world.closed] == [
        ("reload", 1, 2, "rolled-back"),
        ("rollback", 2, 1, "succeeded"),
    ]
    assert (world.state.active, world.state.good, world.state.last_generation) == (1, FIRST, 2)


def test_a_rollback_on_probation_whose_old_child_does_not_come_leaves_the_new_one_serving() -> None:
    world = reloading_until(Phase.PROBATION)
    command = world.rollback()
    world.step(Exited(1, "killed by SIGKILL"))
    assert world.answers[command].result == "failed"
    assert world.state.active == 2
    assert world.phase() is Phase.SERVING


def test_a_rollback_while_the_new_child_is_killed_is_refused_for_the_role_comes_back_anyway() -> None:
    world = reloading_until(Phase.PROBATION)
    world.hang(2)
    assert world.answers[world.rollback()].result == "refused"
    world.step(Rang(Alarm.PROBATION, 1))
    assert world.phase() is Phase.PROBATION, "the old one is needed"
    world.cooperate()
    assert world.state.active == 1


def test_a_reload_ends_the_probation() -> None:
    world = reloading_until(Phase.PROBATION)
    world.reload()
    assert world.messages(1)[-1] == Drain(limit=limits.HURRY_LIMIT)
    world.cooperate()
    assert world.state.active is not None
    assert world.answers[1].result == "succeeded"


def test_a_reload_that_waits_already_leaves_no_probation() -> None:
    world = reloading_until(Phase.CONNECTING, ON_PROBATION)
    world.reload()
    world.ready()
    world.beats()
    world.activated()
    assert world.phase() is Phase.DRAINING
    assert world.messages(1)[-1] == Drain(limit=30)


def test_an_old_child_that_does_not_stand_by_drains() -> None:
    world = reloading_until(Phase.PROBATION)
    world.step(Rang(Alarm.ACK, 1))
    assert world.messages(1)[-1] == Drain(limit=30)
    world.cooperate()
    assert world.answers[1].result == "succeeded"


@pytest.mark.parametrize("fault", ["gives up", "breaks", "exits"])
def test_an_old_child_that_is_lost_on_probation_ends_it(fault: str) -> None:
    world = reloading_until(Phase.PROBATION)
    world.step(FAULTS[fault](1))
    assert world.phase() is not Phase.PROBATION
    world.cooperate()
    assert world.answers[1].result == "succeeded"
    assert world.state.active == 2


def test_a_restart_and_a_failover_have_no_probation() -> None:
    world = serving(ON_PROBATION)
    world.step(Exited(1, "killed"))
    world.step(Rang(Alarm.BACKOFF))
    world.greeted()
    world.ready()
    world.activated()
    assert world.phase() is Phase.SERVING


# --- sessions that end each other -------------------------------------------------------------------------------


def test_a_handoff_says_that_the_new_session_has_ended_the_active_childs() -> None:
    world = reloading_until(Phase.CONNECTING)
    for shard in (3, 4):
        world.step(Kicked(1, shard))
    world.cooperate()
    assert world.answers[1].result == "succeeded"
    assert world.closed[-1].result == "succeeded"
    assert world.closed[-1].reason == "Discord ended generation 1's session of shard 3 for generation 2's"


@pytest.mark.parametrize(
    ("loser", "winner", "phase", "later"),
    [
        (1, 2, Phase.CONNECTING, True),
        (1, 2, Phase.DRAINING, True),
        (1, 2, Phase.PROBATION, True),
        (2, 1, Phase.CONNECTING, False),  # the new child takes it again, and the active one does without
        (1, 2, Phase.REVERTING, False),
    ],
)
def test_who_has_lost_a_shard_does_without_it_while_the_winner_serves_or_is_about_to(
    loser: int, winner: int, phase: Phase, later: bool
) -> None:
    world = reverting() if phase is Phase.REVERTING else reloading_until(phase)
    assert m.identifies_later(world.state, loser, kicked_by=winner) is later


def test_an_active_child_that_a_spare_has_kicked_takes_its_shard_back() -> None:
    world = with_spare()
    assert not m.identifies_later(world.state, 1, kicked_by=2)
    assert m.identifies_later(world.state, 2, kicked_by=1)


# --- what people are in the middle of ---------------------------------------------------------------------------


def test_a_handoff_succeeds_when_the_old_child_only_lingers() -> None:
    world = reloading_until(Phase.DRAINING, LINGERING)
    assert world.messages(1)[-1] == Drain(limit=30, linger=180)
    assert world.timers[Alarm.DRAIN, 1] == 180 + 30 + limits.DRAIN_GRACE
    world.lingers()
    assert world.answers[1] == Answer((1,), "succeeded")
    assert world.closed == [CloseHandoff("reload", 1, 2, "succeeded", None)]
    assert (world.shown(), world.state.part(1)) == ("serving", Part.LINGERER)
    assert world.timers[Alarm.DRAIN, 1] == 180 + 30 + limits.DRAIN_GRACE


def test_a_child_is_alone_only_when_the_lingerer_has_left() -> None:
    world = lingering()
    assert Window(open=False) not in world.messages(2)
    world.step(HasDrained(1))
    world.step(Exited(1, "exited with status 0"))
    assert world.messages(2)[-1] == Window(open=False)


def test_a_reload_does_not_wait_for_a_lingerer_and_hurries_it_when_the_new_child_is_ready() -> None:
    world = lingering()
    command = world.reload()
    world.prepared()
    assert world.phase() is Phase.SPAWNING
    assert list(world.alive) == [1, 2, 3]
    world.greeted()
    assert world.messages(1)[-1] == Drain(limit=30, linger=180)
    world.ready()
    world.beats()
    assert world.messages(1)[-1] == Drain(limit=limits.HURRY_LIMIT)
    assert world.timers[Alarm.DRAIN, 1] == limits.HURRY_LIMIT + limits.DRAIN_GRACE
    assert world.messages(3) == [], "never two old children beside an active one"
    world.step(Exited(1, "exited with status 0"))
    world.beats()
    assert world.messages(3) == [Activate()]
    world.activated()
    assert world.lingers() == 2
    assert world.answers[command].result == "succeeded"


def test_a_reload_that_fails_cuts_nobody_short() -> None:
    world = reloading_beside_a_lingerer(Phase.CONNECTING)
    world.step(GaveUp(3, "cannot import", False))
    world.step(Exited(3, "exited with status 1"))
    assert (world.phase(), world.state.lingering) == (Phase.SERVING, 1)
    assert Drain(limit=limits.HURRY_LIMIT) not in world.messages(1)
    assert Window(open=False) not in world.messages(2)


def test_a_lingerer_leaves_before_the_spawn_where_memory_does_not_suffice_for_three() -> None:
    world = lingering()
    world.reload()
    world.step(Prepared(release("2"), LINGERING, crowded=True))
    assert world.messages(1)[-1] == Drain(limit=limits.HURRY_LIMIT)
    assert (world.phase(), list(world.alive)) == (Phase.CLEARING, [1, 2])
    world.step(Exited(1, "exited with status 0"))
    assert (world.phase(), list(world.alive)) == (Phase.SPAWNING, [2, 3])


def test_a_reload_during_the_drain_leaves_open_views_alone_until_its_child_is_ready() -> None:
    world = reloading_until(Phase.DRAINING, LINGERING)
    world.reload()
    assert world.messages(1)[-1] == Drain(limit=limits.HURRY_LIMIT, linger=180)
    world.lingers()
    assert world.phase() is Phase.PREPARING
    world.prepared()
    world.greeted()
    world.ready()
    world.beats()
    assert world.messages(1)[-1] == Drain(limit=limits.HURRY_LIMIT)


def test_a_lingerer_takes_over_when_the_active_child_dies() -> None:
    world = lingering()
    world.step(Exited(2, "killed by SIGKILL"))
    assert world.messages(1)[-1] == Activate()
    world.activated()
    assert world.closed[-1] == CloseHandoff("failover", 2, 1, "succeeded", "generation 2 died: killed by SIGKILL")
    assert (world.state.active, world.state.good, world.state.lingering) == (1, FIRST, None)
    assert (Alarm.DRAIN, 1) not in world.timers


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.SPAWNING, Phase.CONNECTING])
def test_a_lingerer_takes_over_also_while_a_reload_is_under_way_which_begins_anew(phase: Phase) -> None:
    world = reloading_beside_a_lingerer(phase)
    command = max(world.unanswered)
    world.step(Exited(2, "killed by SIGKILL"))
    assert world.messages(1)[-1] == Activate()
    world.activated()
    assert world.closed[-1].kind == "failover"
    world.cooperate()
    assert world.answers[command].result == "succeeded"
    assert world.state.active == (3 if phase is Phase.PREPARING else 4)


def test_a_rollback_under_way_when_the_lingerer_takes_over_has_failed() -> None:
    world = lingering()
    command = world.rollback()
    world.prepared()
    world.step(Exited(2, "killed by SIGKILL"))
    assert world.answers[command].result == "failed"
    world.cooperate()
    assert (world.state.active, world.state.timing) == (1, LINGERING)


def test_a_new_child_that_is_ready_follows_at_once_though_an_older_one_is_still_leaving() -> None:
    world = reloading_beside_a_lingerer(Phase.CONNECTING)
    world.ready()
    world.step(Exited(2, "killed by SIGKILL"))
    world.ready()
    assert world.messages(3) == [Recover(generation=2), Activate()]
    assert Activate() not in world.messages(1)[1:]


@pytest.mark.parametrize("why", ["drained", "hangs", "is being ended"])
def test_a_lingerer_that_is_about_to_leave_does_not_take_over_and_recovery_waits_for_it(why: str) -> None:
    world = lingering()
    if why == "drained":
        world.step(HasDrained(1))
    elif why == "hangs":
        world.step(Rang(Alarm.HANG, 1))
    else:
        world.step(Broke(1, "garbage"))
    world.step(Exited(2, "killed by SIGKILL"))
    assert Activate() not in world.messages(1)[1:]
    if why == "hangs":
        assert world.messages(1)[-1] == Drain(limit=limits.HURRY_LIMIT), "it may wake up, and nobody serves"
    world.step(Rang(Alarm.BACKOFF))
    assert list(world.alive) == [1]
    world.step(Exited(1, "killed by SIGKILL"))
    assert world.alive == {3: Spawn(3, release("2"), True)}


@pytest.mark.parametrize("fault", ["gives up", "breaks", "exits", "hangs", "stays too long"])
def test_what_goes_wrong_with_a_lingerer_concerns_nobody_else(fault: str) -> None:
    world = lingering()
    if fault == "hangs":
        world.hang(1)
    elif fault == "stays too long":
        world.step(Rang(Alarm.DRAIN, 1))
    else:
        world.step(FAULTS[fault](1))
    if 1 in world.alive:
        assert world.ends(1)
        world.step(Exited(1, "killed by SIGTERM"))
    assert (world.phase(), world.state.active) == (Phase.SERVING, 2)
    assert world.messages(2)[-1] == Window(open=False)
    assert len(world.closed) == 1


def test_a_stop_ends_what_lingers_but_leaves_its_handlers_their_time() -> None:
    world = lingering()
    world.stop()
    assert world.messages(1)[-1] == Drain(limit=30)
    assert world.messages(2)[-1] == Drain(limit=30)
    assert world.timers[Alarm.DRAIN, 1] == 30 + limits.DRAIN_GRACE


def test_a_stop_while_the_old_child_drains_leaves_no_linger() -> None:
    world = reloading_until(Phase.DRAINING, LINGERING)
    world.stop()
    assert world.messages(1)[-1] == Drain(limit=30)
    world.step(Lingers(1, 2, 1))
    assert world.phase() is Phase.STOPPING


def test_a_new_child_that_is_being_killed_when_the_old_one_lingers_is_rolled_back() -> None:
    world = reloading_until(Phase.DRAINING, LINGERING)
    world.hang(2)
    world.lingers()
    assert 1 in world.unanswered
    world.step(Exited(2, "killed by SIGKILL"))
    world.activated()
    assert world.answers[1].result == "rolled-back"


def test_a_spare_comes_when_the_lingerer_which_can_take_over_itself_has_left() -> None:
    world = lingering(replace(LINGERING, spare=True))
    assert list(world.alive) == [1, 3]
    assert (Alarm.SPARE, 0) not in world.timers
    world.step(HasDrained(1))
    world.step(Exited(1, "exited with status 0"))
    assert world.state.spare == 4


# --- the spare --------------------------------------------------------------------------------------------------


def test_a_spare_comes_when_the_first_child_serves() -> None:
    world = serving(WITH_SPARE)
    assert world.alive[2] == Spawn(2, FIRST, True)
    assert world.shown() == "serving"
    world.step(Greeted(2))
    world.step(BecameReady(2))
    assert world.messages(2) == []
    assert (Alarm.READY, 2) not in world.timers
    assert world.closed == [], "nobody has handed anything over"


def test_a_spare_takes_over_at_once_and_another_comes() -> None:
    world = with_spare()
    world.step(Exited(1, "killed by SIGKILL"))
    world.ready()
    assert world.messages(2) == [Recover(generation=1), Activate()]
    world.activated()
    assert world.closed == [CloseHandoff("failover", 1, 2, "succeeded", "generation 1 died: killed by SIGKILL")]
    assert world.state.restarts == 1
    assert world.timers[Alarm.SPARE, 0] == TIMING.backoff_first, "not at once: what just crashed may do so again"
    assert world.bring_spare() == 3


def test_a_spare_that_connects_still_goes_on_when_the_active_child_dies() -> None:
    world = serving(WITH_SPARE)
    world.step(Exited(1, "killed"))
    assert world.phase() is Phase.SPAWNING
    world.greeted()
    world.ready()
    world.activated()
    assert world.closed[-1].kind == "failover"


def test_an_active_child_that_hangs_is_dead_before_the_spare_takes_over() -> None:
    world = with_spare()
    world.hang(1)
    assert world.messages(2) == []
    world.step(Exited(1, "killed by SIGKILL"))
    world.ready()
    assert world.messages(2) == [Recover(generation=1), Activate()]


def test_a_reload_drops_the_spare_before_it_spawns_and_another_comes_after() -> None:
    world = with_spare()
    world.reload()
    assert list(world.alive) == [1, 2], "a refused reload keeps it"
    assert Signal(2, "SIGTERM") in world.step(Prepared(release("2"), WITH_SPARE))
    assert world.phase() is Phase.CLEARING
    world.step(Exited(2, "exited with status 0"))
    assert list(world.alive) == [1, 3]
    world.cooperate()
    assert world.answers[1].result == "succeeded"
    assert world.alive[world.bring_spare()].release == release("2")


def test_a_reload_that_no_longer_wants_a_spare_leaves_none() -> None:
    world = with_spare()
    world.timing = TIMING
    world.reload()
    world.cooperate()
    assert world.state.spare is None
    assert (Alarm.SPARE, 0) not in world.timers


def test_a_spare_takes_over_while_a_reload_is_prepared_and_the_reload_waits() -> None:
    world = with_spare()
    command = world.reload(force=True)
    world.step(Exited(1, "killed"))
    world.ready()
    assert world.messages(2) == [Recover(generation=1), Activate()]
    assert world.state.waiting == (command,)
    world.activated()
    assert world.closed[-1].kind == "failover"
    assert world.preparing == [Prepare(None, True)]
    world.cooperate()
    assert world.answers[command].result == "succeeded"
    assert world.state.active == 3


def test_a_rollback_that_is_prepared_when_the_spare_takes_over_has_failed() -> None:
    world = with_spare()
    world.reload()
    world.cooperate()
    world.bring_spare()
    command = world.rollback()
    world.step(Exited(world.state.active or 0, "killed"))
    assert world.answers[command].result == "failed"
    world.cooperate()
    assert world.closed[-1].kind == "failover"


@pytest.mark.parametrize("fault", ["gives up", "breaks", "exits", "is not ready in time"])
def test_a_spare_that_fails_concerns_nobody_and_is_followed_after_a_while(fault: str) -> None:
    world = serving(WITH_SPARE)
    delays = []
    for _ in range(3):
        if (Alarm.SPARE, 0) in world.timers:
            world.step(Rang(Alarm.SPARE))
        world.step(FAULTS[fault](world.state.spare or 0))
        assert world.shown() == "serving"
        world.cooperate()
        delays.append(world.timers[Alarm.SPARE, 0])
    assert delays == [1, 2, 4]
    spare = world.bring_spare()
    assert world.state.spare_failures == 3, "one that is ready may still die again and again"
    world.step(Rang(Alarm.STABLE, spare))
    assert world.state.spare_failures == 0
    assert world.state.active == 1


def weighing() -> World:
    """Whether there is room for a spare is being looked at."""
    world = World.begun(WITH_SPARE)
    world.roomy = False
    world.cooperate()
    return world


def test_a_spare_is_weighed_before_it_is_spawned_and_refused_with_one_line_of_the_log() -> None:
    world = weighing()
    assert list(world.alive) == [1]
    effects = world.step(Weighed("too little memory: 1 of 2"))
    assert Note("no spare for now: too little memory: 1 of 2", True) in effects
    assert world.timers[Alarm.SPARE, 0] == TIMING.backoff_max
    world.step(Rang(Alarm.SPARE))
    assert not any(isinstance(effect, Note) for effect in world.step(Weighed("too little memory: 1 of 2")))
    world.step(Rang(Alarm.SPARE))
    world.step(Weighed(None))
    assert world.state.spare == 2


def test_a_reload_that_comes_while_the_spare_is_weighed_goes_first() -> None:
    world = weighing()
    world.reload()
    world.step(Weighed(None))
    assert world.state.spare is None
    world.cooperate()
    assert world.weighing


def test_an_active_child_that_dies_while_the_spare_is_weighed_is_restarted() -> None:
    world = weighing()
    world.step(Exited(1, "killed"))
    world.step(Weighed(None))
    assert list(world.alive) == []
    world.cooperate()
    assert world.state.active == 2


def test_a_stop_ends_the_spare_and_drains_the_active_child() -> None:
    world = with_spare()
    effects = world.step(Stop(7))
    assert Signal(2, "SIGTERM") in effects
    assert Send(1, Drain(limit=30)) in effects


# --- the first start --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [Phase.SPAWNING, Phase.CONNECTING])
def test_a_first_child_that_can_never_work_ends_the_supervisor(phase: Phase) -> None:
    world = World.begun()
    while world.state.phase is not phase:
        world.one_good_step()
    command = world.reload()
    world.step(GaveUp(1, "the token was refused", False))
    assert world.answers[command].result == "refused"
    assert world.exit is None
    world.step(Exited(1, "exited with status 1"))
    assert world.exit == Exit(EXIT_CONFIG, "generation 1: the token was refused")


def test_a_first_child_that_may_work_later_is_tried_again() -> None:
    world = World.begun()
    world.step(GaveUp(1, "Discord is unreachable", True))
    world.step(Rang(Alarm.BACKOFF))
    assert list(world.alive) == [1], "not before the first is dead"
    world.step(Exited(1, "exited with status 1"))
    assert list(world.alive) == [2]
    assert world.state.restarts == 0


def test_what_has_served_once_is_restarted_whatever_it_reports() -> None:
    world = serving()
    world.step(GaveUp(1, "the token was refused", False))
    world.step(Exited(1, "exited with status 1"))
    world.step(Rang(Alarm.BACKOFF))
    world.step(GaveUp(2, "the token was refused", False))
    world.step(Exited(2, "exited with status 1"))
    assert world.phase() is Phase.WAITING
    assert world.exit is None


# --- stopping ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [*HANDOFF, Phase.PROBATION])
def test_a_stop_in_every_phase_answers_all_drains_the_active_and_ends_the_rest(phase: Phase) -> None:
    world = reloading_until(phase)
    waiting = world.reload()
    stop = world.stop()
    assert world.answers[1].result == "failed"
    assert world.answers[waiting].result == "refused"
    assert world.answers[world.reload()].result == "refused"
    assert world.answers[world.rollback()].result == "refused"
    for generation in list(world.alive):
        may_handle = generation == world.state.active or phase in (Phase.ACTIVATING, *SWITCHED)
        drained = any(isinstance(message, Drain) for message in world.messages(generation))
        assert drained == may_handle
    world.cooperate()
    assert world.answers[stop].result == "succeeded"
    assert world.exit == Exit(0, None)


def test_a_stop_while_nobody_lives_ends_at_once() -> None:
    world = restarting_until(Phase.WAITING)
    stop = world.stop()
    assert world.answers[stop].result == "succeeded"
    assert world.exit == Exit(0, None)


@pytest.mark.parametrize("phase", [*HANDOFF, Phase.PROBATION])
def test_a_second_stop_kills_at_once(phase: Phase) -> None:
    world = reloading_until(phase)
    first = world.stop()
    living = set(world.alive)
    second = world.stop()
    assert world.killed == living
    world.cooperate()
    assert world.answers[first].result == world.answers[second].result == "succeeded"


def test_a_child_that_does_not_leave_on_a_stop_is_ended() -> None:
    world = serving()
    world.stop()
    assert Signal(1, "SIGTERM") in world.step(Rang(Alarm.DRAIN, 1))
    assert Signal(1, "SIGKILL") in world.step(Rang(Alarm.END, 1))


# --- other supervisors ------------------------------------------------------------------------------------------


def beside(phase: Phase) -> World:
    """Our first bot comes beside another supervisor's, which is active."""
    world = World.begun(company=True, waits=True)
    if phase is Phase.CONNECTING:
        world.greeted()
    return world


def waiting_to_be_called() -> World:
    world = beside(Phase.CONNECTING)
    world.step(BEFORE_US)
    world.ready()
    return world


def waiting_to_try_again() -> World:
    world = waiting_to_be_called()
    world.step(Exited(1, "killed"))
    return world


def called(world: World) -> World:
    world.step(AFTER_US)
    return world


def joined_by_another(world: World | None = None) -> World:
    world = world or serving()
    world.step(AFTER_US)
    return world


def yielding() -> World:
    world = joined_by_another()
    world.stop()
    return world


def yielding_without_a_bot() -> World:
    world = yielding()
    world.step(Exited(1, "killed"))
    return world


def claims_by_hand() -> World:
    world = serving()
    world.step(ByHand(True))
    return world


def test_what_another_supervisors_bot_has_left_is_gone_on_with_before_ours_is_activated() -> None:
    world = waiting_to_be_called()
    world.step(THEY_DIED)
    assert world.messages(1) == [Recover(generation=THEIRS)]
    world.ready()
    assert world.messages(1)[-1] == Activate()
    world.activated()
    assert world.state.bereft is None
    assert [closed.kind for closed in world.closed] == ["takeover"]


def test_what_another_supervisors_bot_has_left_is_nothing_to_one_that_serves() -> None:
    world = serving()
    world.step(THEY_DIED)
    assert world.messages(1) == [Activate()]


def test_a_bot_that_takes_over_from_one_that_stands_still_is_told_so() -> None:
    world = waiting_to_be_called()
    world.step(THEY_STAND_STILL)
    assert world.messages(1) == [Activate(still=THEIRS)]


def stood_back() -> World:
    """A supervisor stood still; one that came later has its bot active meanwhile."""
    world = joined_by_another()
    world.step(OVERTAKEN)
    return world


def test_one_that_stood_still_waits_behind_the_one_that_came_later() -> None:
    world = stood_back()
    assert (world.state.phase, world.state.active, world.state.incoming) == (Phase.CONNECTING, None, 1)
    assert world.messages(1)[-1] == Standby()
    world.step(AFTER_US)
    world.activated()
    assert (world.state.phase, world.state.active) == (Phase.SERVING, 1)


def test_one_that_stands_back_and_is_told_to_stop_drains() -> None:
    world = stood_back()
    world.stop()
    assert isinstance(world.messages(1)[-1], Drain)


def test_a_bot_that_dies_while_anothers_is_active_is_followed_by_one_that_waits_and_takes_nothing_back() -> None:
    world = stood_back()
    world.step(Exited(1, "its sessions were taken"))
    world.step(Rang(Alarm.BACKOFF))
    assert (world.state.incoming, world.state.waits, world.state.bereft) == (2, True, None)
    assert world.messages(2) == []


def test_how_long_an_old_one_waits_for_a_newcomer_follows_from_the_shards() -> None:
    world = joined_by_another()
    world.step(Stop(5, connecting=40.0))
    assert world.timers[Alarm.YIELD, 0] == world.state.timing.drain_timeout + 40.0


def test_a_bot_beside_another_supervisors_is_born_a_standby_and_waits_until_it_is_called() -> None:
    world = waiting_to_be_called()
    assert world.alive[1].standby
    assert world.messages(1) == []
    assert Send(1, Activate()) in world.step(AFTER_US)
    world.activated()
    assert world.phase() is Phase.SERVING


def test_one_that_is_called_before_it_is_ready_takes_over_as_soon_as_it_is() -> None:
    world = beside(Phase.CONNECTING)
    world.step(ALONE)
    assert world.messages(1) == []
    world.ready()
    assert world.messages(1) == [Activate()]


def test_one_that_dies_while_it_waits_is_followed_by_one_that_waits() -> None:
    world = waiting_to_try_again()
    world.step(Rang(Alarm.BACKOFF))
    assert world.alive[2].standby
    world.greeted()
    world.ready()
    assert world.messages(2) == []


def test_a_bot_claims_as_long_as_there_are_others() -> None:
    world = serving()
    world.step(AFTER_US)
    assert world.messages(1) == [Activate(), Window(open=True)]
    world.step(ALONE)
    assert world.messages(1)[-1] == Window(open=False)
    world.step(AFTER_US)
    assert world.messages(1)[-1] == Window(open=True)


def test_who_waits_ready_for_another_one_is_given_no_limit_when_a_shard_is_resumed() -> None:
    world = World.begun(company=True, waits=True)
    world.greeted()
    world.step(Progressed(1))
    world.ready()
    assert (Alarm.READY, 1) not in world.timers
    world.step(Progressed(1))
    assert (Alarm.READY, 1) not in world.timers


def test_a_first_bot_that_handles_events_from_birth_claims_them_as_soon_as_there_are_others() -> None:
    world = World.begun()
    world.step(AFTER_US)
    assert world.messages(1) == [Window(open=True)]


def test_a_reload_beside_others_leaves_the_window_open() -> None:
    world = joined_by_another()
    world.reload()
    world.cooperate()
    assert world.state.active == 2
    assert Window(open=False) not in world.messages(2)


def test_who_is_told_to_stop_drains_when_another_one_is_active() -> None:
    world = yielding()
    assert (world.phase(), world.shown()) == (Phase.SERVING, "stopping")
    assert world.timers[Alarm.YIELD, 0] == TIMING.drain_timeout
    world.step(BEFORE_US)
    assert world.messages(1)[-1] == Drain(limit=30)
    world.cooperate()
    assert world.exit == Exit(0, None)


@pytest.mark.parametrize(("event", "gives"), [(ALONE, False), (Rang(Alarm.YIELD), True)])
def test_who_is_told_to_stop_waits_no_longer_than_somebody_may_come(event: Event, gives: bool) -> None:
    world = yielding()
    world.step(event)
    assert world.messages(1)[-1] == Drain(limit=30, gives=gives)


@pytest.mark.parametrize("found", [None, ALONE, BEFORE_US])
def test_a_stop_drains_at_once_where_nobody_is_waited_for(found: Neighbours | None) -> None:
    world = serving()
    if found is not None:
        world.step(found)
    world.stop()
    assert world.messages(1)[-1] == Drain(limit=30)


def test_a_second_stop_waits_for_nobody() -> None:
    world = yielding()
    world.stop()
    assert world.killed == {1}


def test_who_yields_takes_no_reload() -> None:
    world = yielding()
    assert world.answers[world.reload()].result == "refused"
    assert world.answers[world.rollback()].result == "refused"


def test_a_bot_that_dies_while_its_supervisor_yields_is_followed_by_a_standby() -> None:
    world = yielding_without_a_bot()
    world.step(Rang(Alarm.BACKOFF))
    assert world.alive[2].standby
    assert world.state.yielding


def test_claims_by_hand_end_by_hand_at_once_or_by_their_time() -> None:
    world = claims_by_hand()
    assert world.messages(1) == [Activate(), Window(open=True)]
    assert world.timers[Alarm.BY_HAND, 0] == TIMING.window_timeout
    world.step(ByHand(False))
    assert world.messages(1)[-1] == Window(open=False)
    assert (Alarm.BY_HAND, 0) not in world.timers
    world = claims_by_hand()
    world.step(Rang(Alarm.BY_HAND))
    assert world.messages(1)[-1] == Window(open=False)


def test_the_time_of_claims_by_hand_counts_from_when_all_shards_are_ready() -> None:
    world = World.begun()
    world.step(ByHand(True))
    assert world.messages(1) == [Window(open=True)]
    assert (Alarm.BY_HAND, 0) not in world.timers
    world.greeted()
    world.ready()
    world.activated()
    assert (Alarm.BY_HAND, 0) in world.timers


def test_claims_that_others_need_are_not_switched_off_by_hand() -> None:
    world = joined_by_another()
    world.step(ByHand(False))
    assert world.messages(1) == [Activate(), Window(open=True)]


# --- the whole table --------------------------------------------------------------------------------------------


# --- shards of the active child that are away ---------------------------------------------------------------------


def away(timing: Timing = TIMING) -> World:
    """A child serves, and a shard of it is away for too long; whether there is room for a successor is looked at."""
    world = serving(timing)
    world.roomy = False
    world.step(Away(1, 3, "closed with 4000", 10.0))
    world.step(Rang(Alarm.AWAY, 1))
    return world


def replacing(phase: Phase) -> World:
    """Its successor has come to ``phase``."""
    world = away()
    world.step(Weighed(None))
    while world.state.phase is not phase:
        world.one_good_step()
    return world


REPLACING = [Phase.SPAWNING, Phase.CONNECTING, Phase.ACTIVATING]


def test_an_active_child_whose_shard_stays_away_for_ready_timeout_is_followed_by_one_of_the_same_release() -> None:
    world = serving()
    world.step(Away(1, 3, "closed with 4000", 10.0))
    assert world.timers[Alarm.AWAY, 1] == 90
    world.step(Rang(Alarm.AWAY, 1))
    assert world.phase() is Phase.SPAWNING
    assert world.state.replaces
    world.cooperate()
    assert world.state.active == 2
    assert world.state.good == FIRST
    assert world.state.previous is None, "it is not a release that one could go back to"
    closed = world.closed[-1]
    assert (closed.kind, closed.origin, closed.target, closed.result) == ("recovery", 1, 2, "succeeded")
    assert closed.reason == "shard 3 of generation 1 is away (closed with 4000)"


def test_a_shard_that_is_back_in_time_has_no_successor_tried() -> None:
    world = serving()
    world.step(Away(1, 3, "closed with 4000", 10.0))
    world.step(Back(1))
    assert (Alarm.AWAY, 1) not in world.timers
    assert (world.phase(), world.state.child(1).away) == (Phase.SERVING, "")  # type: ignore[union-attr]


@pytest.mark.parametrize("phase", REPLACING)
def test_a_successor_that_fails_leaves_the_active_child_serving_and_the_next_one_comes_later_each_time(
    phase: Phase,
) -> None:
    world = replacing(phase)
    delays = []
    for _ in range(3):
        while world.state.incoming is None:
            world.one_good_step()
        world.step(Exited(world.state.incoming, "exited with status 1"))
        assert world.state.active == 1
        assert world.closed[-1].result == "failed"
        delays.append(world.timers[Alarm.AWAY, 1])
        world.step(Rang(Alarm.AWAY, 1))
        world.step(Weighed(None))
    assert delays == [100, 200, 400]
    world.step(Back(1))
    world.step(Away(1, 3, "closed with 4000", 10.0))
    assert world.timers[Alarm.AWAY, 1] == 90, "a shard that was back begins anew"


def test_no_successor_is_tried_where_there_is_no_room_or_no_identify_for_it() -> None:
    world = away()
    world.step(Weighed("too few IDENTIFYs are left today"))
    assert (world.phase(), list(world.alive)) == (Phase.SERVING, [1])
    assert world.timers[Alarm.AWAY, 1] == 100


@pytest.mark.parametrize("phase", [*HANDOFF, Phase.PROBATION])
def test_a_handoff_under_way_comes_before_the_successor(phase: Phase) -> None:
    world = reloading_until(phase)
    active = world.state.active
    assert active is not None
    world.step(Away(active, 3, "closed with 4000", 10.0))
    world.step(Rang(Alarm.AWAY, active))
    assert (world.phase(), world.state.replaces) == (phase, False)
    if phase in (Phase.SPAWNING, Phase.CONNECTING, Phase.ACTIVATING):
        world.step(Exited(2, "exited with status 1"))
        assert world.state.replaces, "the handoff was in vain: now it is tried"
        world.cooperate()
        assert world.state.active == 3


def test_a_reload_asked_for_while_room_is_looked_for_goes_first_and_the_successor_is_not_needed() -> None:
    world = away()
    command = world.reload()
    world.step(Weighed(None))
    world.cooperate()
    assert world.answers[command].result == "succeeded"
    assert world.state.active == 2


def test_one_that_comes_while_a_successor_is_on_its_way_waits_for_it() -> None:
    world = replacing(Phase.CONNECTING)
    command = world.reload()
    assert command in world.state.waiting
    world.cooperate()
    assert world.answers[command].result == "succeeded"
    assert world.state.active == 3


def test_no_successor_is_tried_by_a_supervisor_that_stops_or_yields() -> None:
    world = yielding()
    world.step(Away(1, 3, "closed with 4000", 10.0))
    world.step(Rang(Alarm.AWAY, 1))
    assert not world.state.weighing
    world.stop()
    assert world.phase() is Phase.STOPPING
    assert list(world.alive) == [1]


def test_a_shard_that_is_back_while_the_successor_connects_does_not_end_it() -> None:
    world = replacing(Phase.CONNECTING)
    world.step(Back(1))
    world.cooperate()
    assert world.state.active == 2


def test_a_successor_waits_for_what_lingers() -> None:
    world = lingering()
    world.step(Away(2, 3, "closed with 4000", 10.0))
    world.step(Rang(Alarm.AWAY, 2))
    assert (world.phase(), world.state.weighing) == (Phase.SERVING, False)
    world.step(HasDrained(1))
    world.step(Exited(1, "exited with status 0"))
    assert world.state.replaces
    world.cooperate()
    assert world.state.active == 3


def test_a_spare_gives_way_to_a_successor_for_it_has_none_but_the_active_childs_sessions() -> None:
    world = with_spare()
    world.step(Away(1, 3, "closed with 4000", 10.0))
    world.step(Rang(Alarm.AWAY, 1))
    assert world.state.spare is None
    world.cooperate()
    assert world.state.active == 3


# --- a program that finds an earlier one's child -----------------------------------------------------------------


def test_a_new_program_lets_the_child_that_it_finds_tell_all_and_reloads() -> None:
    world = World.adopted()
    assert world.messages(1) == [Introduce()]
    assert not world.state.at_rest
    second = world.reload()
    assert world.phase() is Phase.SERVING, "who asks for a reload now means the same one"
    world.step(RoleTaken(1, "active"))
    assert world.phase() is Phase.PREPARING
    world.cooperate()
    assert world.state.active == 2
    assert {world.answers[command].result for command in (1, second)} == {"succeeded"}
    assert [(one.kind, one.origin, one.target) for one in world.closed] == [("reload", 1, 2)]
    assert world.state.previous == FIRST


def test_a_child_that_tells_nothing_is_taken_over_from_all_the_same() -> None:
    world = World.adopted()
    world.step(Rang(Alarm.ACK, 1))
    assert (Alarm.ACK, 1) not in world.timers
    world.cooperate()
    assert (world.state.active, world.answers[1].result) == (2, "succeeded")


def test_a_child_of_an_earlier_program_that_dies_is_recovered_by_the_new_release() -> None:
    world = World.adopted()
    world.step(Exited(1, "killed by SIGKILL"))
    world.cooperate()
    assert Recover(generation=1) in world.messages(2)
    assert (world.state.active, world.answers[1].result, world.closed[0].kind) == (2, "succeeded", "recovery")
    assert world.state.good == release("2")


def test_what_is_no_good_leaves_the_child_of_the_earlier_program_and_its_release() -> None:
    world = World.adopted()
    world.step(RoleTaken(1, "active"))
    world.step(Refused("no such program"))
    assert world.answers[1].result == "refused"
    assert (world.state.active, world.state.good, world.phase()) == (1, FIRST, Phase.SERVING)
    assert world.messages(1)[-1] == Window(open=False), "it may have had another child beside it"
    assert world.state.at_rest


def test_a_generation_is_not_used_again_by_a_later_program() -> None:
    state, _ = m.adopt(FIRST, TIMING, generation=3, newest=5, command=1)
    for event in (RoleTaken(3, "active"), Prepared(FIRST, TIMING)):
        state, effects = m.step(state, event)
    assert Spawn(6, FIRST, True) in effects


@pytest.mark.parametrize("situation", [with_spare, lingering])
def test_a_child_that_is_to_be_alone_is(situation: Callable[[], World]) -> None:
    world = situation()
    active = world.state.active
    world.step(Alone(True))
    assert set(world.alive) > {active}
    world.one_good_step()
    assert (set(world.alive), world.state.at_rest) == ({active}, True)
    world.step(Rang(Alarm.SPARE))
    assert set(world.alive) == {active}
    world.step(Alone(False))
    assert (world.state.spare is not None) == world.timing.spare


def every_event(generation: int) -> Iterator[Event]:
    yield from (Reload(900), Rollback(901), Stop(902))
    yield from (Prepared(release("x"), TIMING), Prepared(release("x"), TIMING, crowded=True), Refused("no"))
    yield from (Weighed(None), Weighed("too little memory"))
    yield from (ALONE, BEFORE_US, AFTER_US, THEY_DIED, THEY_STAND_STILL, OVERTAKEN, ByHand(True), ByHand(False))
    yield from (Alone(True), Alone(False))
    yield from (Greeted(generation), Progressed(generation))
    yield from (BecameReady(generation), BecameReady(generation, mirror=True))
    yield from (RoleTaken(generation, role) for role in ("starting", "standby", "active", "draining"))
    yield from (HasDrained(generation), Beaten(generation), Lingers(generation, 2, 1), Kicked(generation, 0))
    yield from (Away(generation, 1, "closed with 4000", 10.0), Back(generation))
    yield from (GaveUp(generation, "no", retryable) for retryable in (True, False))
    yield from (Broke(generation, "no", retryable) for retryable in (True, False))
    yield from (Exited(generation, "no", retryable) for retryable in (True, False))
    yield from (Rang(alarm, generation) for alarm in Alarm)


def reverting() -> World:
    world = reloading_until(Phase.CONNECTING)
    world.step(Broke(2, "garbage"))
    return world


def stopping() -> World:
    world = serving()
    world.stop()
    return world


def stopped() -> World:
    world = stopping()
    world.cooperate()
    return world


def draining_while_cut() -> World:
    world = reloading_until(Phase.DRAINING)
    world.step(Rang(Alarm.DRAIN, 1))
    return world


def taking_back() -> World:
    world = reloading_until(Phase.DRAINING)
    world.step(Broke(2, "garbage"))
    return world


def waiting_for_the_last_to_die() -> World:
    world = reloading_until(Phase.DRAINING)
    world.step(HasDrained(1))
    world.step(Exited(2, "killed"))
    world.reload()
    world.prepared()
    return world


def abandoned(phase: Phase) -> World:
    world = reloading_until(phase)
    world.step(Exited(1, "killed"))
    return world


def hanging(phase: Phase, generation: int) -> World:
    world = reloading_until(phase)
    world.hang(generation)
    return world


def spare_takes_over() -> World:
    world = with_spare()
    world.step(Exited(1, "killed"))
    return world


def spare_dropped() -> World:
    world = with_spare()
    world.reload()
    world.prepared()
    return world


def preparing_with_spare() -> World:
    world = with_spare()
    world.reload()
    return world


def rolling_back() -> World:
    world = reloading_until(Phase.PROBATION)
    world.rollback()
    return world


def crowded() -> World:
    world = lingering()
    world.reload()
    world.step(Prepared(release("2"), LINGERING, crowded=True))
    return world


def lingerer_hurried() -> World:
    world = reloading_beside_a_lingerer(Phase.CONNECTING)
    world.ready()
    return world


def reverting_beside_a_lingerer() -> World:
    world = reloading_beside_a_lingerer(Phase.CONNECTING)
    world.step(Broke(3, "garbage"))
    return world


def activating_beside_a_lingerer() -> World:
    world = lingerer_hurried()
    world.step(Exited(2, "killed"))
    return world


def waiting_for_a_lingerer() -> World:
    world = lingering()
    world.step(HasDrained(1))
    world.step(Exited(2, "killed"))
    world.step(Rang(Alarm.BACKOFF))
    return world


def stopping_beside_a_lingerer() -> World:
    world = lingering()
    world.stop()
    return world


def lingerer_takes_over() -> World:
    world = lingering()
    world.step(Exited(2, "killed"))
    return world


SITUATIONS: dict[str, Callable[[], World]] = {
    "starting": World.begun,
    "serving": serving,
    "of an earlier program": World.adopted,
    **{f"reload, {phase.value}": lambda phase=phase: reloading_until(phase) for phase in HANDOFF},  # type: ignore[misc]
    **{
        f"restart, {phase.value}": lambda phase=phase: restarting_until(phase)  # type: ignore[misc]
        for phase in (Phase.WAITING, Phase.SPAWNING, Phase.CONNECTING, Phase.ACTIVATING)
    },
    **{f"old dead, {phase.value}": lambda phase=phase: abandoned(phase) for phase in HANDOFF[:4]},  # type: ignore[misc]
    "reverting": reverting,
    "draining, old cut": draining_while_cut,
    "taking back": taking_back,
    "waiting for the last to die": waiting_for_the_last_to_die,
    "probation": lambda: reloading_until(Phase.PROBATION),
    "probation, rolling back": rolling_back,
    **{
        f"{phase.value}, generation {generation} hangs": lambda phase=phase, generation=generation: hanging(  # type: ignore[misc]
            phase, generation
        )
        for phase in [*HANDOFF, Phase.PROBATION]
        for generation in (1, 2)
        if generation == 1 or phase in (Phase.CONNECTING, Phase.ACTIVATING, *SWITCHED)
    },
    "spare is weighed": weighing,
    "with spare": with_spare,
    "with spare, preparing": preparing_with_spare,
    "spare dropped": spare_dropped,
    "spare takes over": spare_takes_over,
    "lingering": lingering,
    **{
        f"lingering, {phase.value}": lambda phase=phase: reloading_beside_a_lingerer(phase)  # type: ignore[misc]
        for phase in HANDOFF
    },
    "lingering, crowded": crowded,
    "lingering, new one ready": lingerer_hurried,
    "lingering, reverting": reverting_beside_a_lingerer,
    "lingering, new one ready and active dead": activating_beside_a_lingerer,
    "lingering, nobody serves": waiting_for_a_lingerer,
    "lingering, stopping": stopping_beside_a_lingerer,
    "lingerer takes over": lingerer_takes_over,
    "beside another, connecting": lambda: beside(Phase.CONNECTING),
    "beside another, ready": waiting_to_be_called,
    "beside another, called": lambda: called(waiting_to_be_called()),
    "beside another, failed": waiting_to_try_again,
    "another beside, serving": joined_by_another,
    "another beside, reloading": lambda: joined_by_another(reloading_until(Phase.CONNECTING)),
    "yielding": yielding,
    "yielding, bot dead": yielding_without_a_bot,
    "claims by hand": claims_by_hand,
    "a shard is away": away,
    **{f"a shard is away, {phase.value}": lambda phase=phase: replacing(phase) for phase in REPLACING},  # type: ignore[misc]
    "stopping": stopping,
    "stopped": stopped,
}


def test_the_situations_cover_every_phase() -> None:
    assert {situation().state.phase for situation in SITUATIONS.values()} == set(Phase)


def test_every_row_of_the_table_has_a_cell_for_every_phase() -> None:
    assert all(set(row) == set(Phase) for row in m._TABLE.values())


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("generation", [0, 1, 2, 3])
def test_every_event_has_an_answer_in_every_situation_and_leaves_a_way_back(situation: str, generation: int) -> None:
    for event in every_event(generation):
        world = SITUATIONS[situation]()
        if isinstance(event, Exited) and generation not in world.alive:
            assert m.step(world.state, event) == (world.state, ())
            continue
        if isinstance(event, Prepared | Refused) and not world.preparing:
            assert m.step(world.state, event) == (world.state, ())
            continue
        if isinstance(event, Weighed) and not world.weighing:
            continue
        if isinstance(event, Rang) and (event.alarm, generation) not in world.timers:
            continue  # a timer that does not run cannot ring
        world.step(event)
        if world.state.yielding:
            world.step(Rang(Alarm.YIELD))
        world.cooperate()
        assert world.unanswered == set()


@pytest.mark.parametrize("part", [Part.NOBODY])
def test_nothing_about_a_dead_child_changes_anything(part: Part) -> None:
    for situation in SITUATIONS.values():
        state = situation().state
        assert state.part(77) is part
        for event in every_event(77):
            if not isinstance(event, SlotEvent):
                assert m.step(state, event) == (state, ())


# --- at random --------------------------------------------------------------------------------------------------


def possible_events(world: World) -> list[Event]:
    """What can happen next: commands, answers, timers that run, and anything at all from children that live."""
    world.commands += 1
    events: list[Event] = [Reload(world.commands), Rollback(world.commands), Stop(world.commands)]
    if world.preparing:
        wanted = release(str(world.commands))
        events += [Prepared(wanted, world.timing, crowded) for crowded in (False, True)] + [Refused("no")] * 3
    if world.weighing:
        events += [Weighed(None), Weighed("too little memory")] * 3
    events += [ALONE, BEFORE_US, AFTER_US, THEY_DIED, THEY_STAND_STILL, OVERTAKEN, ByHand(True), ByHand(False)]
    events += [Alone(True), Alone(False)]
    events += [Rang(alarm, generation) for alarm, generation in sorted(world.timers, key=str)]
    for generation in sorted(world.alive):
        events += [event for event in every_event(generation) if not isinstance(event, SlotEvent | Rang)]
    return events


@settings(max_examples=300, deadline=None)
@given(
    choices=st.lists(st.tuples(st.booleans(), st.integers(0, 10_000)), max_size=60),
    patient=st.booleans(),
    beside=st.booleans(),
    timing=st.sampled_from(
        [
            TIMING,
            ON_PROBATION,
            WITH_SPARE,
            LINGERING,
            replace(ON_PROBATION, spare=True),
            replace(ON_PROBATION, linger=180, spare=True),
        ]
    ),
)
def test_whatever_happens_the_invariants_hold_and_there_is_a_way_back(
    choices: list[tuple[bool, int]], patient: bool, beside: bool, timing: Timing
) -> None:
    world = World.begun(timing, company=beside, waits=beside)
    world.roomy = False
    for good, choice in choices:
        events = [event for event in possible_events(world) if not (patient and isinstance(event, Stop))]
        if good and world.state.phase not in (Phase.SERVING, Phase.STOPPED) and world.alive:
            world.one_good_step()
        else:
            world.step(events[choice % len(events)])
    if world.state.yielding:
        world.step(Rang(Alarm.YIELD))
    world.cooperate()
    assert world.unanswered == set()
    if world.state.phase is Phase.SERVING and not world.state.yielding:
        extra = (world.state.spare, world.state.lingering)
        others = [child for child in world.state.children if child.generation not in extra]
        assert [child.standing for child in others] == [Standing.ACTIVE]
        command = world.reload()
        world.cooperate()
        assert world.answers[command].result == "succeeded"
    world.stop()
    if world.state.yielding:
        world.step(Rang(Alarm.YIELD))
    world.cooperate()
    assert world.exit is not None
    assert world.unanswered == set()
    assert world.alive == {}


def test_a_new_child_that_breaks_and_has_sessions_of_its_own_may_end_what_it_began() -> None:
    world = reloading_until(Phase.ACTIVATING)
    assert Signal(2, "SIGTERM") in world.step(Broke(2, "closed its pipe", retryable=True))
    world.step(Exited(2, "exited with status 0"))
    assert Recover(generation=2) not in world.messages(1), "the active one heard everything itself"


def test_a_new_child_that_dies_while_it_takes_the_sessions_leaves_them_to_the_one_that_serves() -> None:
    world = reloading_until(Phase.ACTIVATING, mirrors=True)
    world.step(Exited(2, "killed by SIGKILL"))
    assert world.messages(1)[-2:] == [Recover(generation=2), Window(open=False)]
    assert (world.state.active, world.answers[1].result) == (1, "failed")


def test_an_active_child_that_dies_while_its_sessions_are_taken_leaves_the_rest_to_the_new_one() -> None:
    world = reloading_until(Phase.ACTIVATING)
    world.step(Exited(1, "killed by SIGKILL"))
    assert world.messages(2)[-1] == Recover(generation=1)
    world.activated()
    assert (world.state.active, world.answers[1].result) == (2, "succeeded")


def test_where_sessions_cannot_be_resumed_the_next_child_of_the_same_attempt_has_its_own() -> None:
    world = reloading_until(Phase.ACTIVATING)
    effects = world.step(GaveUp(2, "Discord does not resume", retryable=True, apart=True))
    assert Signal(2, "SIGKILL") in effects
    assert (world.phase(), world.state.apart, 1 in world.answers) == (Phase.CLEARING, "Discord does not resume", False)
    world.step(Exited(2, "killed by SIGKILL"))
    assert world.phase() is Phase.SPAWNING
    world.cooperate()
    assert (world.state.active, world.answers[1].result) == (3, "succeeded")
    world.reload()
    assert world.state.apart is None, "the next attempt tries again"


def test_after_a_killed_supervisor_the_first_child_resumes_what_its_bot_has_left() -> None:
    state, effects = m.begin(FIRST, TIMING, bereft=FORMER)
    assert [effect for effect in effects if isinstance(effect, Spawn)] == [Spawn(1, FIRST, True)]
    assert Send(1, Recover(generation=FORMER)) in effects
    world = World(state, timing=TIMING)
    world.take(effects)
    world.step(Exited(1, "killed by SIGSEGV"))
    world.step(Rang(Alarm.BACKOFF))
    assert Recover(generation=FORMER) in world.messages(2), "nobody has resumed them yet"
    world.cooperate()
    assert (world.state.active, world.state.bereft) == (2, None)
