"""One active role and the children around it: carries out what the machine decides.

A slot turns messages, exits and timers into the machine's events and the machine's effects into deeds. It decides
nothing, and it knows nothing of signals, settings or commands: that is its host's, the engine.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from supervisor import machine
from supervisor.child import Child, CommandFactory, Launch, SpawnError, Stream
from supervisor.hearing import Comparison
from supervisor.identify import IdentifyQueue
from supervisor.machine import Alarm, Phase
from supervisor.observed import HandoffRecord, Observation
from supervisor.outcome import Progress
from supervisor.release import Release
from supervisor.status import ChildStatus, HandoffResult
from supervisor.wire import (
    Beat,
    Drained,
    Fatal,
    FromChild,
    Hello,
    Identify,
    Limits,
    Permit,
    Ping,
    Ready,
    Role,
    Shard,
    WindowAck,
)

MAX_SHARDS = 65536
"""Shard numbers at or above this are not believed."""


class Host(Protocol):
    """What a slot asks of the engine. Called in the event loop; must not block."""

    @property
    def permits(self) -> IdentifyQueue:
        """Return the queue of permits."""

    def launch(self, *, generation: int, standby: bool) -> Launch:
        """Return what a new child is told."""

    def prepare(self, release: Release | None, *, force: bool) -> None:
        """Find out whether a child can be spawned; answer the newest question with `Slot.happen`."""

    def permits_changed(self) -> None:
        """Give the permits that can be given now."""

    def answered(self, commands: Sequence[int], result: HandoffResult, reason: str | None) -> None:
        """Answer commands."""

    def progressed(self) -> None:
        """Tell those who wait for a handoff how far it is."""

    def finished(self, code: int, reason: str | None) -> None:
        """Learn that nothing is left to do."""

    def crashed(self, error: Exception) -> None:
        """Learn of an error in the supervisor itself."""

    def log(self, text: str, *, generation: int | None = None, level: int = logging.INFO) -> None:
        """Write a line."""


@dataclass(frozen=True, slots=True)
class _Member:
    child: Child
    seen: Observation


class Slot:
    """The machine's state, its children, its timers. `begin` starts it, `happen` moves it on."""

    def __init__(self, host: Host, *, command: CommandFactory) -> None:
        """``command`` gives the start of a child's command line."""
        self._host = host
        self._command = command
        self._loop = asyncio.get_running_loop()
        self._members: dict[int, _Member] = {}
        self._timers: dict[tuple[Alarm, int], asyncio.TimerHandle] = {}
        self._events: deque[machine.Event] = deque()
        self._busy = False
        self._closed = False
        self._pings = 0
        self._hearing = Comparison()
        self._left = asyncio.Event()
        self.handoff: HandoffRecord | None = None
        """The newest handoff, under way or ended."""
        self.state: machine.State

    def begin(self, release: Release, timing: machine.Timing) -> None:
        """Spawn the first child."""
        self.state, effects = machine.begin(release, timing)
        self._busy = True
        self._carry_out(effects)
        self._busy = False
        self._work()

    def happen(self, *events: machine.Event) -> None:
        """Let events reach the machine, after those that are being worked on."""
        self._events.extend(events)
        self._work()

    def send_permit(self, generation: int, shard: int) -> None:
        """Pass a permit on."""
        if member := self._members.get(generation):
            member.child.send(Permit(shard=shard))

    def kill(self) -> None:
        """End every child at once, whatever the machine thinks, and let nothing happen any more."""
        self._closed = True
        for timer in self._timers.values():
            timer.cancel()
        for member in self._members.values():
            member.child.signal("SIGKILL")

    async def emptied(self) -> None:
        """Wait until no child lives."""
        while self._members:
            self._left.clear()
            await self._left.wait()

    def children(self) -> list[ChildStatus]:
        """Return what is known of the living children, by generation."""
        statuses = []
        for _, member in sorted(self._members.items()):
            rss, cpu = member.child.sample()
            statuses.append(member.seen.status(rss_bytes=rss, cpu_percent=cpu))
        return statuses

    def pid(self, generation: int | None) -> int | None:
        """Return the process id of a living child."""
        member = self._members.get(generation or 0)
        return member.child.pid if member else None

    def pids(self) -> set[int]:
        """Return the process ids of all children whose exit has not been reported."""
        return {member.child.pid for member in self._members.values()}

    def shards(self, generation: int | None) -> int | None:
        """Return how many shards a living child connects, None if it has not said so."""
        member = self._members.get(generation or 0)
        return member.seen.shards_total if member else None

    def _work(self) -> None:
        """Take events one by one; what an effect brings about is queued, so the machine is not re-entered."""
        if self._busy or self._closed:
            return
        self._busy = True
        try:
            while self._events and not self._closed:
                self.state, effects = machine.step(self.state, self._events.popleft())
                self._carry_out(effects)
        except Exception as error:
            self._host.crashed(error)
        finally:
            self._busy = False

    # Effects.

    def _carry_out(self, effects: Sequence[machine.Effect]) -> None:
        for effect in effects:
            self._do(effect)
        for generation, member in self._members.items():
            member.child.set_expendable(self.state.active not in (None, generation))
        if self.handoff is not None and self.handoff.result is None and self.state.handoff is not None:
            self.handoff.kind = self.state.handoff.kind
            self.handoff.target = self.state.handoff.target

    def _do(self, effect: machine.Effect) -> None:
        match effect:
            case machine.Spawn():
                self._spawn(effect)
            case machine.Send(generation=generation, message=message):
                if member := self._members.get(generation):
                    member.child.send(message)
            case machine.Signal(generation=generation, name=name):
                if member := self._members.get(generation):
                    self._host.log(f"{name} to generation {generation}")
                    member.child.signal(name)
            case machine.StartTimer(alarm=alarm, generation=generation, seconds=seconds):
                self._start_timer(alarm, generation, seconds)
            case machine.CancelTimer(alarm=alarm, generation=generation):
                if timer := self._timers.pop((alarm, generation), None):
                    timer.cancel()
            case machine.Prepare(release=release, force=force):
                self._host.prepare(release, force=force)
            case machine.Answer(commands=commands, result=result, reason=reason):
                self._host.answered(commands, result, reason)
            case machine.Note(text=text, serious=serious):
                self._host.log(text, level=logging.WARNING if serious else logging.INFO)
            case machine.Exit(code=code, reason=reason):
                self._host.finished(code, reason)
            case _:
                self._record(effect)

    def _record(self, effect: machine.OpenHandoff | machine.PhaseEntered | machine.CloseHandoff) -> None:
        """Keep the record of the handoff, and tell those who wait."""
        now = self._loop.time()
        match effect:
            case machine.OpenHandoff():
                handoff = self.state.handoff
                assert handoff is not None
                self.handoff = HandoffRecord(began=now, kind=handoff.kind, origin=handoff.origin)
            case machine.PhaseEntered(phase=phase):
                if self.handoff is not None and self.handoff.result is None:
                    self.handoff.enter(phase, now=now)
                self._host.progressed()
            case machine.CloseHandoff(kind=kind, target=target, result=result, reason=reason):
                assert self.handoff is not None
                self.handoff.kind, self.handoff.target = kind, target
                self.handoff.close(result, reason, now=now)
                way = f"{self.handoff.origin or 'none'} -> {target or 'none'}"
                self._host.log(f"{kind} {way} {result} after {now - self.handoff.began:.1f} s")

    def _spawn(self, effect: machine.Spawn) -> None:
        generation, release = effect.generation, effect.release
        launch = self._host.launch(generation=generation, standby=effect.standby)
        try:
            child = Child(release, launch, self, command=self._command)
        except SpawnError as error:
            self._events.append(machine.Exited(generation, str(error), error.retryable))
            return
        seen = Observation(generation=generation, pid=child.pid, release=release, standby=effect.standby)
        self._members[generation] = _Member(child, seen)
        role = "standby" if effect.standby else "active"
        self._host.log(
            f"generation {generation} spawned as {role}: pid {child.pid}, {release.app} in {release.directory}"
        )

    def _start_timer(self, alarm: Alarm, generation: int, seconds: float) -> None:
        key = (alarm, generation)
        if old := self._timers.pop(key, None):
            old.cancel()
        self._timers[key] = self._loop.call_later(seconds, self._ring, key)

    def _ring(self, key: tuple[Alarm, int]) -> None:
        del self._timers[key]
        self.happen(machine.Rang(*key))

    # What children do (`child.Listener`).

    def heard(self, child: Child, message: FromChild) -> None:
        """Note what the message says, and pass it to whom it concerns."""
        member = self._members.get(child.generation)
        if member is None:
            return
        if isinstance(message, Identify | Shard) and not 0 <= _shard(message) < MAX_SHARDS:
            self.broke(child, f"sent the shard number {_shard(message)}", retryable=False)
            return
        was_in_flight = member.seen.in_flight
        member.seen.take(message)
        if self.handoff is not None:
            self.handoff.heard(child.generation, message)
        self._permits(child.generation, message)
        self._compare(child.generation, message)
        if event := self._meant(member, message):
            self.happen(event)
        if isinstance(message, Drained):
            self._ask_for_numbers()
        if isinstance(message, Limits | Shard | Identify) or member.seen.in_flight != was_in_flight:
            self._host.progressed()

    def broke(self, child: Child, reason: str, *, retryable: bool) -> None:
        """The child cannot be talked to."""
        self.happen(machine.Broke(child.generation, reason, retryable))

    def printed(self, child: Child, stream: Stream, line: str) -> None:
        """Carry a line of output on."""
        self._host.log(line, generation=child.generation)

    def left(self, child: Child, reason: str, *, retryable: bool) -> None:
        """The process is gone."""
        self._members.pop(child.generation, None)
        self._left.set()
        self._host.log(f"generation {child.generation} has left: {reason}")
        self._host.permits.forget(child.generation)
        self.happen(machine.Exited(child.generation, reason, retryable))
        self._host.permits_changed()

    def _compare(self, generation: int, message: FromChild) -> None:
        """Follow what the active child hears while another one's sessions are young."""
        if generation == self.state.active and isinstance(message, Beat):
            self._hearing.active_heard(message.heard)
        elif generation == self.state.incoming and isinstance(message, Shard) and message.state == "connecting":
            self._hearing.restart()
            self._ask_for_numbers()

    def _meant(self, member: _Member, message: FromChild) -> machine.Event | None:
        """Return what a message means to the machine. A deaf standby that calls itself ready has failed."""
        generation = member.seen.generation
        if isinstance(message, Ready) and generation == self.state.incoming and member.seen.standby:
            heard = member.seen.beat.heard if member.seen.beat else 0
            if reason := self._hearing.deaf(heard):
                return machine.Broke(generation, reason, True)
        return _event(generation, message)

    def _permits(self, generation: int, message: FromChild) -> None:
        permits = self._host.permits
        match message:
            case Identify(shard=shard):
                permits.ask(generation, shard)
            case Shard(id=shard, state="connecting"):
                permits.identified(generation, shard)
            case Limits():
                permits.update(message)
            case _:
                return
        self._host.permits_changed()

    def _ask_for_numbers(self) -> None:
        """Have the active child beat now, so that the handoff's record has its replay before the old one has left."""
        if member := self._members.get(self.state.active or 0):
            self._pings += 1
            member.child.send(Ping(n=self._pings))

    # Progress.

    def progress(self) -> Progress:
        """Return how far the present attempt is."""
        state = self.state
        new = self._members.get((state.active if state.phase in machine.SWITCHED else state.incoming) or 0)
        return Progress(
            phase=state.phase.value,
            message=self._message(new),
            generation=new.seen.generation if new else None,
            shards_ready=new.seen.shards_ready if new else 0,
            shards_total=new.seen.shards_total if new else None,
        )

    def _message(self, new: _Member | None) -> str:
        state = self.state
        name = f"generation {new.seen.generation}" if new else "the new child"
        match state.phase:
            case Phase.PREPARING:
                return "reading the settings, looking at the release"
            case Phase.OPENING:
                return f"waiting for generation {state.active} to claim its events"
            case Phase.SPAWNING:
                return f"waiting for {name} to start"
            case Phase.CONNECTING:
                return self._connecting(new) if new else name
            case Phase.ACTIVATING:
                return f"waiting for {name} to become active"
            case Phase.DRAINING:
                old = self._members.get(state.outgoing or 0)
                count = old.seen.in_flight if old else 0
                return f"waiting for generation {state.outgoing} to finish ({count} handlers under way)"
            case Phase.PROBATION:
                return f"{name} is active; generation {state.outgoing} stands by for {state.timing.probation:g} s"
            case Phase.WAITING:
                return "nobody serves; the next start waits"
            case _:
                return str(state.phase.value)

    def _connecting(self, new: _Member) -> str:
        seen = new.seen
        text = f"generation {seen.generation}: {seen.shards_ready} of {seen.shards_total or '?'} shards ready"
        if (seconds := self._host.permits.out_of_budget) is not None:
            return f"{text}; today's IDENTIFYs are used up, more in {seconds:.0f} s"
        if waiting := self._host.permits.waiting(seen.generation):
            text += f", {waiting} waiting for a permit"
        return text


def _shard(message: Identify | Shard) -> int:
    return message.shard if isinstance(message, Identify) else message.id


def _event(generation: int, message: FromChild) -> machine.Event | None:
    """Return what a message means to the machine."""
    match message:
        case Hello():
            return machine.Greeted(generation)
        case Shard(state="ready"):
            return machine.Progressed(generation)
        case Ready():
            return machine.BecameReady(generation)
        case Role(role=role):
            return machine.RoleTaken(generation, role)
        case WindowAck(open=open):
            return machine.WindowAnswered(generation, open)
        case Drained():
            return machine.HasDrained(generation)
        case Fatal(reason=reason, retryable=retryable):
            return machine.GaveUp(generation, reason, retryable)
        case Beat():
            return machine.Beaten(generation)
        case Identify() | Limits() | Shard():
            return None
