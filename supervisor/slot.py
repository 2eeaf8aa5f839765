"""One active role and the children around it: carries out what the machine decides.

A slot turns messages, exits and timers into the machine's events and the machine's effects into deeds. It decides
nothing, and it knows nothing of signals, settings or commands: that is its host's, the engine.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

from bastion.counted import counted
from bastion.supervisor import limits, machine, ports
from bastion.supervisor.absences import Absences
from bastion.supervisor.child import Child, CommandFactory, HeldChild, Launch, SpawnError, Stream, adopt, spawn
from bastion.supervisor.effects import (
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
from bastion.supervisor.events import (
    Beaten,
    BecameReady,
    Broke,
    Event,
    Exited,
    GaveUp,
    Greeted,
    HasDrained,
    Kicked,
    Lingers,
    Progressed,
    Rang,
    RoleTaken,
)
from bastion.supervisor.hearing import Comparison, Kicks
from bastion.supervisor.identify import IdentifyQueue, Wish
from bastion.supervisor.inquest import Inquest
from bastion.supervisor.leftovers import Remains
from bastion.supervisor.meeting import Meeting
from bastion.supervisor.observed import ActiveReadiness, HandoffRecord, Observation, Summary, Totals, utc
from bastion.supervisor.outcome import Progress
from bastion.supervisor.release import Release
from bastion.supervisor.state import SWITCHED, Alarm, Phase, Standing, State, Timing
from bastion.supervisor.status import ChildStatus, HandoffResult
from bastion.supervisor.timers import Timers
from bastion.wire import (
    FORMER,
    Beat,
    Cut,
    Drain,
    Drained,
    Fatal,
    FromChild,
    Hello,
    Identify,
    Imported,
    Importing,
    Launched,
    Limits,
    Lingering,
    LoggedIn,
    Mirror,
    Moved,
    Overlap,
    Permit,
    Ping,
    Ready,
    Recover,
    Recovered,
    Remark,
    Role,
    Serving,
    Shard,
    Starting,
    ToChild,
    Wants,
    supervisor_of,
)
from bastion.wire.alike import OTHER_APPLICATION

MAX_SHARDS = 65536
"""Shard numbers at or above this are not believed."""
INQUEST_PATIENCE = 2.0
"""Seconds that an outcome waits for the names of what a dead child left running. Living ones tell within their turn."""


class Host(Protocol):
    """What a slot asks of the engine. Called in the event loop; must not block."""

    @property
    def permits(self) -> IdentifyQueue:
        """Return the queue of permits."""

    async def launch(self, release: Release, *, generation: int, standby: bool) -> Launch:
        """Return what a new child is told, once its release can be reached. Raises `SpawnError`."""

    def prepare(self, release: Release | None, *, force: bool) -> None:
        """Find out whether a child can be spawned; answer the newest question with `Slot.happen`."""

    def weigh(self, release: Release) -> None:
        """Find out whether there is room for a spare; answer with `Slot.happen`."""

    def permits_changed(self) -> None:
        """Give the permits that can be given now."""

    def keep_sessions(self, generations: set[int]) -> None:
        """Remove what all other generations have left of their gateway sessions."""

    def holds(self, generation: int) -> None:
        """Write down which child has the sessions."""

    def answered(self, commands: Sequence[int], result: HandoffResult, reason: str | None) -> None:
        """Answer commands."""

    def progressed(self) -> None:
        """Tell those who wait for a handoff how far it is."""

    def handed_over(self) -> None:
        """Learn that a handoff has ended, however."""

    def stepped(self) -> None:
        """Learn that what had happened has been worked off."""

    def finished(self, code: int, reason: str | None) -> None:
        """Learn that nothing is left to do."""

    def crashed(self, error: Exception) -> None:
        """Learn of an error in the supervisor itself."""

    def saves(self) -> str:
        """Return where a child that is stopped leaves its cache for the next start; empty: it leaves nothing."""

    def saved(self) -> str:
        """Return where the cache of a bot is that was stopped before this start; empty: nowhere."""

    def stream_path(self, generation: int) -> str:
        """Return where the holder of the sessions is to listen for a child."""

    def ask_neighbours(self, generation: int, wants: Wants) -> bool:
        """Ask other supervisors what a new child is to do; return whether anybody could answer."""

    def company_keeps_apart(self, mirrors: Collection[int]) -> str | None:
        """Return why the bots of other supervisors keep ours from being moved, None if all are among these mirrors."""

    def answer_neighbour(self, bot: int, message: ToChild) -> None:
        """Tell another supervisor's bot what to do."""

    def keeps_sessions_apart(self) -> str | None:
        """Return why sessions are not to be moved, whatever the children are like; None if they may be."""

    def log(self, text: str, *, generation: int | None = None, level: int = logging.INFO) -> None:
        """Write a line."""


@dataclass(frozen=True, slots=True)
class _Member:
    child: Child
    seen: Observation


@dataclass(frozen=True, slots=True)
class _Coming:
    """A child that will be spawned as soon as the disks have answered, and what it is to be told then."""

    task: asyncio.Task[None]
    messages: list[ToChild] = field(default_factory=list)


class Slot:
    """The machine's state, its children, its timers. `begin` or `adopt` starts it, `happen` moves it on."""

    def __init__(self, host: Host, *, command: CommandFactory) -> None:
        """``command`` gives the start of a child's command line."""
        self._host = host
        self._command = command
        self._loop = asyncio.get_running_loop()
        self._members: dict[int, _Member] = {}
        self._coming: dict[int, _Coming] = {}
        self._timers = Timers(self._ring, self._stood_still)
        self._events: deque[Event] = deque()
        self._busy = False
        self._closed = False
        self._pings = 0
        self._hearing = Comparison()
        self._absences = Absences()
        self._absent_until: asyncio.TimerHandle | None = None
        """When the absences are looked at once more."""
        self._kicks = Kicks()
        self._put_off: list[Wish] = []
        """Shards that children have lost to each other and may not have back for now."""
        self._meeting = Meeting(self._send)
        self._inquest = Inquest(self._send)
        self._died_in: dict[int, HandoffRecord] = {}
        """The newest handoff when a child died of which nobody has told yet."""
        self._untold: list[Callable[[], None]] = []
        """What waits until it is known what the dead left running."""
        self._untold_until: asyncio.TimerHandle | None = None
        self._left = asyncio.Event()
        self.handoff: HandoffRecord | None = None
        """The newest handoff, under way or ended."""
        self.totals = Totals()
        self._holder: int | None = None
        """Which child's having the sessions is written down."""
        self.state: State

    def begin(
        self,
        release: Release,
        timing: Timing,
        *,
        company: bool = False,
        waits: bool = False,
        bereft: int | None = None,
    ) -> None:
        """Spawn the first child; ``company``, ``waits`` and ``bereft`` as for `machine.begin`."""
        self._start(*machine.begin(release, timing, company=company, waits=waits, bereft=bereft))

    def adopt(self, held: HeldChild, timing: Timing, *, newest: int, command: int) -> None:
        """Go on with the child of an earlier program; ``newest`` and ``command`` as for `machine.adopt`."""
        child = adopt(held, self)
        seen = Observation(generation=child.generation, pid=child.pid, release=child.release, standby=False)
        seen.started_at = utc(child.born)
        self._members[child.generation] = _Member(child, seen)
        self._start(*machine.adopt(child.release, timing, generation=child.generation, newest=newest, command=command))

    def _start(self, state: State, effects: Sequence[Effect]) -> None:
        self.state = state
        self._busy = True
        self._carry_out(effects)
        self._busy = False
        self._work()

    @property
    def at_rest(self) -> bool:
        """Say whether nothing is under way, here or in the machine."""
        busy = self._busy or self._closed or self._events or self._coming or self._inquest.open
        return not busy and self.state.at_rest and self._active.silent

    @property
    def alone(self) -> bool:
        """Say whether that is so, and the active child is the only one."""
        return self.at_rest and len(self._members) == 1

    @property
    def held(self) -> HeldChild:
        """Return the active child, which lives, as `adopt` needs it."""
        return self._active.held

    @property
    def _active(self) -> Child:
        return self._members[self.state.active or 0].child

    def happen(self, *events: Event) -> None:
        """Let events reach the machine, after those that are being worked on."""
        self._events.extend(events)
        self._work()

    def send_permit(self, generation: int, shard: int) -> None:
        """Pass a permit on."""
        if member := self._members.get(generation):
            self._kicks.begins(generation, shard, member.seen.shards_total, now=self._loop.time())
            member.child.send(Permit(shard=shard))

    def kill(self) -> None:
        """End every child at once, whatever the machine thinks, and let nothing happen any more."""
        self._closed = True
        self._tell()
        self._timers.stop()
        if self._absent_until is not None:
            self._absent_until.cancel()
        for coming in self._coming.values():
            coming.task.cancel()
        for member in self._members.values():
            member.child.signal("SIGKILL")

    def when_told(self, then: Callable[[], None]) -> None:
        """Call this when it is known what the dead left running; at once if it is, or if nobody lives to tell."""
        self._untold.append(then)
        if not self._inquest.open or not self._members:
            self._tell()
        elif self._untold_until is None:
            self._untold_until = self._loop.call_later(INQUEST_PATIENCE, self._tell)

    def _tell(self) -> None:
        if self._untold_until is not None:
            self._untold_until.cancel()
            self._untold_until = None
        untold, self._untold = self._untold, []
        for then in untold:
            then()

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
            spare = member.seen.generation == self.state.spare
            statuses.append(member.seen.status(rss_bytes=rss, cpu_percent=cpu, spare=spare))
        return statuses

    def readiness(self) -> ActiveReadiness | None:
        """Return how ready the active child is or, where none is, the one that is ready to take over.

        None if there is none, or if it takes nothing new any more.
        """
        state = self.state
        heir = state.child(state.incoming) if state.active is None else None
        waiting = heir is not None and heir.ready
        member = self._members.get((state.incoming if waiting else state.active) or 0)
        stopping = state.phase in (Phase.STOPPING, Phase.STOPPED)
        return None if member is None or stopping else member.seen.readiness(standby=waiting)

    def summary(self) -> Summary:
        """Return in a few words what runs."""
        state, timing = self.state, self.state.timing
        member = self._members.get(state.active or 0)
        readiness = member.seen.readiness() if member else None
        stopping = state.shown == "stopping"
        return Summary(
            state=state.shown,
            generation=readiness.generation if readiness else None,
            shards=readiness.shards if readiness else 0,
            ready=readiness.shards - len(readiness.not_ready) if readiness else 0,
            since=member.seen.active_at if member else None,
            message=self.progress().message,
            patience=timing.drain_timeout + (0.0 if stopping else timing.ready_timeout + timing.probation),
        )

    def pid(self, generation: int | None) -> int | None:
        """Return the process id of a living child."""
        member = self._members.get(generation or 0)
        return member.child.pid if member else None

    def pids(self) -> set[int]:
        """Return the process ids of all children whose exit has not been reported."""
        return {member.child.pid for member in self._members.values()}

    def lingering(self) -> int:
        """Return what the lingering child still waits for; 0 if none lingers."""
        member = self._members.get(self.state.lingering or 0)
        return member.seen.lingering if member else 0

    def remarks(self, generation: int | None) -> list[str]:
        """Return what a living child has said that its operator should know."""
        member = self._members.get(generation or 0)
        return member.seen.remarks if member else []

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
        self._note_holder()
        self._look_at_shards()
        self._host.stepped()

    def _look_at_shards(self) -> None:
        """Tell of shards of the active child that are away, or back."""
        if self._busy or self._closed:
            return
        if self._absent_until is not None:
            self._absent_until.cancel()
            self._absent_until = None
        stopping = self.state.phase in (Phase.STOPPING, Phase.STOPPED)
        member = None if stopping else self._members.get(self.state.active or 0)
        limit, now = self.state.timing.ready_timeout, self._loop.time()
        for said in self._absences.look(None if member is None else member.seen, limit=limit, now=now):
            for line in said.lines:
                self._host.log(line, level=logging.INFO if said.good else logging.WARNING)
            if said.due is not None:
                self._absent_until = self._loop.call_at(said.due, self._look_at_shards)
            if said.event is not None:
                self._loop.call_soon(self.happen, said.event)

    # Effects.

    def _carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            self._do(effect)
        self._set_expendable()
        if self.handoff is not None and self.handoff.result is None and self.state.handoff is not None:
            self.handoff.kind = self.state.handoff.kind
            self.handoff.target = self.state.handoff.target
        self._ask_again()

    def _set_expendable(self) -> None:
        for generation, member in self._members.items():
            member.child.set_expendable(self.state.active not in (None, generation))

    def _do(self, effect: Effect) -> None:
        match effect:
            case Spawn(generation=generation):
                self._coming[generation] = _Coming(self._loop.create_task(self._bring(effect)))
            case Send(generation=generation, message=message):
                self._send(generation, self._with_files(generation, message))
            case Signal(generation=generation, name=name):
                self._signal(generation, name)
            case StartTimer(alarm=alarm, generation=generation, seconds=seconds):
                self._timers.start(alarm, generation, seconds)
            case CancelTimer(alarm=alarm, generation=generation):
                self._timers.cancel(alarm, generation)
            case Prepare(release=release, force=force):
                self._host.prepare(release, force=force)
            case Weigh(release=release):
                self._host.weigh(release)
            case Answer(commands=commands, result=result, reason=reason):
                self._host.answered(commands, result, reason)
            case Note(text=text, serious=serious):
                self._host.log(text, level=logging.WARNING if serious else logging.INFO)
            case Exit(code=code, reason=reason):
                self._tell()
                self._host.finished(code, reason)
            case _:
                self._record(effect)

    def _send(self, generation: int, message: ToChild) -> None:
        if supervisor_of(generation):
            self._host.answer_neighbour(generation, message)
        elif member := self._members.get(generation):
            member.child.send(message)
        elif coming := self._coming.get(generation):
            coming.messages.append(message)

    def _signal(self, generation: int, name: Literal["SIGTERM", "SIGKILL", "SIGUSR1"]) -> None:
        """Signal a child; one that is still to be spawned never is."""
        if member := self._members.get(generation):
            self._host.log(f"{name} to generation {generation}")
            member.child.signal(name)
        elif coming := self._coming.pop(generation, None):
            coming.task.cancel()
            self._events.append(Exited(generation, "ended before it was spawned", True))

    def _record(self, effect: OpenHandoff | PhaseEntered | CloseHandoff) -> None:
        """Keep the record of the handoff, and tell those who wait."""
        now = self._loop.time()
        match effect:
            case OpenHandoff():
                handoff = self.state.handoff
                assert handoff is not None
                self.handoff = HandoffRecord(began=now, kind=handoff.kind, origin=handoff.origin)
                if handoff.kind == "takeover":
                    self._note_earlier(self.handoff)
            case PhaseEntered(phase=phase):
                if self.handoff is not None and self.handoff.result is None:
                    self.handoff.enter(phase, now=now)
                self._host.progressed()
            case CloseHandoff(kind=kind, target=target, result=result, reason=reason):
                assert self.handoff is not None
                self.handoff.kind, self.handoff.target = kind, target
                self.handoff.close(result, reason, now=now)
                self._keep_sessions()
                self.totals.ended(self.handoff, result, seconds=now - self.handoff.began)
                way = f"{self.handoff.origin or 'none'} -> {target or 'none'}"
                self._host.log(f"{kind} {way} {result} after {now - self.handoff.began:.1f} s")
                self._host.handed_over()

    def _with_files(self, generation: int, message: ToChild) -> ToChild:
        """Say where a child that is stopped leaves its cache, and where the first child finds that of before."""
        if isinstance(message, Drain) and self.state.phase is Phase.STOPPING and self._may_hold(generation):
            return msgspec.structs.replace(message, save=self._host.saves())
        if isinstance(message, Recover) and message.generation == FORMER:
            return msgspec.structs.replace(message, saved=self._host.saved())
        return message

    def _may_hold(self, generation: int) -> bool:
        """Say whether a child may have the sessions: who serves, or is just taking them from that one."""
        taking = self.state.incoming if self.state.incoming in self._meeting.mirrors else None
        return generation in (self.state.active, taking)

    def _keep_sessions(self) -> None:
        if self.state.phase in (Phase.STOPPING, Phase.STOPPED) and self._host.saves():
            return
        bereft = () if self.state.bereft is None else (self.state.bereft,)
        self._host.keep_sessions({*self._members, *self._inquest.open, *bereft})

    def _note_holder(self) -> None:
        """Have it written down who has the sessions: who serves, or served last, else who is on the way to."""
        state = self.state
        holder = next((one for one in (state.active, state.bereft, state.incoming) if one is not None), None)
        if holder is not None and holder != self._holder:
            self._holder = holder
            self._host.holds(holder)

    async def _bring(self, effect: Spawn) -> None:
        """Spawn a child. Nobody but the child waits for the disks that it needs."""
        generation, release = effect.generation, effect.release
        try:
            launch = await self._host.launch(release, generation=generation, standby=effect.standby)
            coming = self._coming.pop(generation)
            self._spawn(effect, launch)
        except SpawnError as error:
            self._coming.pop(generation, None)
            self.happen(Exited(generation, str(error), error.retryable))
            return
        except Exception as error:
            self._host.crashed(error)
            return
        for message in coming.messages:
            self._send(generation, message)
        self._set_expendable()
        self._host.stepped()

    def _spawn(self, effect: Spawn, launch: Launch) -> None:
        generation, release = effect.generation, effect.release
        child = spawn(release, launch, self, command=self._command)
        seen = Observation(generation=generation, pid=child.pid, release=release, standby=effect.standby)
        self._members[generation] = _Member(child, seen)
        role = "standby" if effect.standby else "active"
        self._host.log(
            f"generation {generation} spawned as {role}: pid {child.pid}, {release.entry} in {release.directory}"
        )
        self._inquest.spawned(generation)

    def _ring(self, alarm: Alarm, generation: int) -> None:
        member = self._members.get(generation)
        self.happen(Rang(alarm, generation, doing=member.seen.doing if member else None))

    def _stood_still(self, seconds: float) -> None:
        self._host.log(f"the supervisor stood still for {seconds:.1f} s: its children have as much more time")

    # What children do (`child.Listener`).

    def heard(self, child: Child, message: FromChild) -> None:
        """Note what the message says, and pass it to whom it concerns."""
        member = self._members.get(child.generation)
        if member is None:
            return
        if isinstance(message, Identify | Shard) and not 0 <= _shard(message) < MAX_SHARDS:
            self.broke(child, f"sent the shard number {_shard(message)}", retryable=False)
            return
        was_under_way = member.seen.in_flight, member.seen.lingering
        if isinstance(message, Shard) and message.state == "closed" and member.seen.shards.get(message.id) == "ready":
            self._kicks.ended(child.generation, message.id, member.seen.shards_total, now=self._loop.time())
        self._count(message, since=member.seen.beat)
        member.seen.take(message)
        if self.handoff is not None:
            self.handoff.heard(child.generation, message)
        self._permits(child.generation, message)
        self._meet(child.generation, message)
        if cut := self._inquest.heard(child.generation, message):
            self._tell_cut(cut)
        self._compare(child.generation, message)
        if isinstance(message, Shard):
            self._look_at_shards()
        if event := self._meant(member, message):
            self.happen(event)
        if isinstance(message, Drained):
            self._ask_for_numbers()
        under_way = member.seen.in_flight, member.seen.lingering
        counts_down = isinstance(message, Beat) and self.state.phase is Phase.PROBATION
        if isinstance(message, Limits | Shard | Identify | Ready) or under_way != was_under_way or counts_down:
            self._host.progressed()

    def _meet(self, generation: int, message: FromChild) -> None:
        """Find out with a new child how it gets its sessions."""
        if isinstance(message, Wants) and self.state.active is None and self._host.ask_neighbours(generation, message):
            self._meeting.wants[generation] = message
        elif isinstance(message, Wants):
            self._meeting.wanted(
                generation,
                message,
                holder=self.state.active,
                path=self._host.stream_path(generation),
                obstacle=self._obstacle(),
            )
            self._wait_for_holder(generation)
        elif isinstance(message, Serving):
            self._meeting.serving(generation, message)
            if not self._meeting.is_asked(generation):
                self._timers.cancel(Alarm.ANSWER, generation)
        else:
            return
        self._note_way()

    # Children of other supervisors, known by their number (`claimer`).

    @property
    def generations(self) -> set[int]:
        """Return the children that live, or are about to."""
        return {*self._members, *self._coming}

    @property
    def has_sessions(self) -> bool:
        """Say whether the active child has sessions, and keeps them for now, that another child could mirror."""
        active = self.state.child(self.state.active)
        if active is None or active.standing is not Standing.ACTIVE or active.hung:
            return False
        return active.generation in self._meeting.wants and self.state.phase is not Phase.ACTIVATING

    def neighbour_asks(self, bot: int, wants: Wants, *, path: str) -> None:
        """Answer for another supervisor's child; ``path`` is where ours is to listen. See `has_sessions`."""
        theirs = self._meeting.wants.get(self.state.active or 0)
        why = self._host.keeps_sessions_apart()
        if theirs is not None and theirs.application != wants.application:
            why = OTHER_APPLICATION
            text = f"supervisor {supervisor_of(bot)}, which shares the ledger, runs another application's bot"
            self._host.log(f"{text}: give each application a ledger.path of its own", level=logging.WARNING)
        self._meeting.wanted(bot, wants, holder=self.state.active, path=path, obstacle=why)
        self._wait_for_holder(bot)

    def neighbour_left(self, bot: int) -> None:
        """Forget another supervisor's child that has ended. If it was taking sessions, ours goes on with them."""
        self._meeting.left(bot)
        active = self.state.child(self.state.active)
        if active is not None and active.standing is Standing.ACTIVE:
            self._send(active.generation, Recover(generation=bot))

    def neighbour_answers(self, generation: int, answer: Mirror | Overlap) -> None:
        """Tell a child of ours what another supervisor has answered."""
        if isinstance(answer, Overlap) and answer.why == OTHER_APPLICATION:
            reason = "another supervisor runs another application's bot in ledger.path: each needs a path of its own"
            self.happen(Broke(generation, reason, retryable=False))
            return
        if isinstance(answer, Overlap) and answer.why:
            self._host.log(f"generation {generation} begins sessions of its own, for it cannot mirror: {answer.why}")
        self._meeting.told(generation, answer)
        self._note_way()

    def _wait_for_holder(self, generation: int) -> None:
        """Give the holder time to answer a new child: after some the new one is no mirror, then the holder is ended.

        One that hangs is found out by its beats before. One that beats, and cannot be told anything, would fail every
        reload.
        """
        if (holder := self._meeting.waits_for(generation)) is not None:
            self._loop.call_later(limits.ACK_TIMEOUT, self._meeting.overdue, generation)
            self._timers.start(Alarm.ANSWER, holder, self.state.timing.hang_timeout)

    def _note_earlier(self, handoff: HandoffRecord) -> None:
        """Note how a bot got its sessions that has waited for another supervisor's to end, perhaps for days."""
        self._note_way()
        incoming = self._members.get(self.state.incoming or 0)
        if handoff.session == "overlap" and incoming is not None:
            handoff.identifies = incoming.seen.shards_total or 0

    def _note_way(self) -> None:
        if self.handoff is not None and (why := self._meeting.reasons.get(self.state.incoming or 0)) is not None:
            self.handoff.overlaps(why)

    def sessions_may_move(self) -> bool:
        """Say whether the active child's sessions are such that another child could take them over."""
        return self.state.active in self._meeting.wants and self._obstacle() is None

    def _obstacle(self) -> str | None:
        active = self.state.child(self.state.active)
        if self.state.by_hand:
            return "claims are switched on by hand"
        if self.state.company and (why := self._host.company_keeps_apart(self._meeting.mirrors)):
            return why
        if active is not None and (active.standing is not Standing.ACTIVE or active.hung):
            return f"generation {active.generation} is being ended"
        if active is not None and active.away:
            return active.away
        return self.state.apart or self._host.keeps_sessions_apart()

    def _count(self, message: FromChild, *, since: Beat | None) -> None:
        if isinstance(message, Beat):
            self.totals.add(message, since=since)
            if self.handoff is not None:
                self.handoff.failed_to_claim(message, since=since)
        elif isinstance(message, Drained):
            self.totals.cut += len(message.cut)

    def _tell_cut(self, message: Cut) -> None:
        """Name what a child left running that died, or what one had cut that goes on after all."""
        self.totals.cut += len(message.names)
        died_in = self._died_in.pop(message.generation, None)
        for record in [died_in] if died_in is self.handoff else [died_in, self.handoff]:
            if record is not None:
                record.died(message)
        for name in [] if message.lives else message.names:  # who lives has logged it
            self._host.log(f"cut, for generation {message.generation} died: {name}", level=logging.WARNING)
        self._keep_sessions()
        if not self._inquest.open:
            self._tell()
        self._host.stepped()

    def broke(self, child: Child, reason: str, *, retryable: bool) -> None:
        """The child cannot be talked to."""
        self.happen(Broke(child.generation, reason, retryable))

    def printed(self, child: Child, stream: Stream, line: str) -> None:
        """Carry a line of output on."""
        self._host.log(line, generation=child.generation)

    def outlived(self, child: Child, remains: Remains) -> None:
        """Name what the child has left running."""
        self._host.log(f"generation {child.generation} {remains}", level=logging.WARNING)

    def left(self, child: Child, reason: str, *, retryable: bool) -> None:
        """The process is gone."""
        self._members.pop(child.generation, None)
        self._left.set()
        reason = self._with_holder(reason)
        self._host.log(f"generation {child.generation} has left: {reason}")
        self._host.permits.forget(child.generation)
        self._kicks.forget(child.generation)
        self._put_off = [wish for wish in self._put_off if wish.generation != child.generation]
        self._meeting.left(child.generation)
        self._note_way()
        if self.handoff is not None:
            self.handoff.left(child.generation)
        self._inquest.left(child.generation, living=sorted(self._members))
        if self.handoff is not None and child.generation in self._inquest.open:
            self._died_in[child.generation] = self.handoff
        if not self._members:
            self._tell()
        self.happen(Exited(child.generation, reason, retryable))
        self._keep_sessions()
        self._host.permits_changed()

    def _compare(self, generation: int, message: FromChild) -> None:
        """Follow what the active child hears while another one's sessions are young."""
        if generation == self.state.active and isinstance(message, Beat):
            self._hearing.active_heard(message.heard)
        elif generation == self._newcomer and isinstance(message, Shard) and message.state == "connecting":
            self._hearing.restart()
            self._ask_for_numbers()

    @property
    def _newcomer(self) -> int | None:
        """The child whose sessions are young: a spare comes only while no other one does."""
        return self.state.incoming or self.state.spare

    def _meant(self, member: _Member, message: FromChild) -> Event | None:
        """Return what a message means to the machine. A deaf standby that calls itself ready has failed."""
        generation = member.seen.generation
        if isinstance(message, Ready):
            mirror = generation in self._meeting.mirrors
            if not mirror:
                self._ask_for_numbers()  # the machine waits for that beat
            return self._ready(member, mirror=mirror)
        if isinstance(message, Fatal):
            if member.seen.fault is None:
                member.seen.fault = self._with_holder(message.reason)
            return GaveUp(generation, member.seen.fault, message.retryable, message.apart)
        return _event(generation, message)

    def _ready(self, member: _Member, *, mirror: bool) -> Event:
        generation = member.seen.generation
        if generation == self._newcomer and member.seen.standby and not mirror:
            heard = member.seen.beat.heard if member.seen.beat else 0
            if reason := self._hearing.deaf(heard):
                return Broke(generation, reason, True)
        return BecameReady(generation, mirror=mirror)

    def _with_holder(self, reason: str) -> str:
        """Add who holds the port, where a port that is taken is the reason."""
        generations = {member.child.pid: generation for generation, member in self._members.items()}
        return ports.with_holder(reason, generations=generations)

    def _permits(self, generation: int, message: FromChild) -> None:
        permits = self._host.permits
        match message:
            case Identify(shard=shard):
                self._ask(Wish(generation, shard))
            case Shard(id=shard, state="connecting"):
                permits.identified(generation, shard)
            case Limits():
                permits.update(message)
            case _:
                return
        self._host.permits_changed()

    def _ask(self, wish: Wish) -> None:
        """Queue a wish for a permit, unless it would take the shard from whom it went to."""
        if self._must_wait(wish):
            self._put_off.append(wish)
            self.happen(Kicked(wish.generation, wish.shard))
        else:
            self._host.permits.ask(wish.generation, wish.shard)

    def _must_wait(self, wish: Wish) -> bool:
        by = self._kicks.kicked_by(wish.generation, wish.shard)
        return by is not None and machine.identifies_later(self.state, wish.generation, kicked_by=by)

    def _ask_again(self) -> None:
        """Queue the wishes that need not wait any more."""
        free = [wish for wish in self._put_off if not self._must_wait(wish)]
        self._put_off = [wish for wish in self._put_off if wish not in free]
        for wish in free:
            self._host.permits.ask(wish.generation, wish.shard)
        if free:
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
        generation = state.active if state.phase in SWITCHED else state.incoming
        new = self._members.get(generation or 0)
        return Progress(
            phase=state.phase.value,
            message=self._message(generation, new),
            generation=generation,
            shards_ready=new.seen.shards_ready if new else 0,
            shards_total=new.seen.shards_total if new else None,
        )

    def _message(self, generation: int | None, new: _Member | None) -> str:
        state = self.state
        name = "the new child" if generation is None else f"generation {generation}"
        match state.phase:
            case Phase.PREPARING:
                return "reading the settings, looking at the release"
            case Phase.CLEARING if state.lingering is not None:
                return f"waiting for generation {state.lingering} to leave, for its memory is needed"
            case Phase.CLEARING:
                return "waiting for a failed child to leave"
            case Phase.SPAWNING:
                return f"waiting for {name} to start"
            case Phase.CONNECTING:
                return self._connecting(new) if new else name
            case Phase.ACTIVATING if generation in self._meeting.mirrors and state.active is not None:
                return f"moving the sessions of generation {state.active} to {name}"
            case Phase.ACTIVATING:
                return f"waiting for {name} to become active"
            case Phase.DRAINING:
                old = self._members.get(state.outgoing or 0)
                count = old.seen.in_flight if old else 0
                return f"waiting for generation {state.outgoing} to finish ({counted(count, 'handler')} under way)"
            case Phase.PROBATION:
                left = f"{self._seconds_left(Alarm.PROBATION, state.outgoing or 0)} s left"
                return f"{name} is active, on probation, {left}; generation {state.outgoing} stands by"
            case Phase.WAITING:
                return "nobody serves; the next start waits"
            case Phase.REVERTING:
                return f"generation {state.active} serves; waiting for a failed one to leave"
            case _:
                return str(state.phase.value)

    def _seconds_left(self, alarm: Alarm, generation: int) -> int:
        """Return in how many seconds, rounded up, a timer rings; 0 if it does not run."""
        return math.ceil(self._timers.left(alarm, generation))

    def _connecting(self, new: _Member) -> str:
        seen, state = new.seen, self.state
        total = "? shards" if seen.shards_total is None else counted(seen.shards_total, "shard")
        text = f"generation {seen.generation}: {seen.shards_ready} of {total} ready"
        child = state.child(seen.generation)
        if child is not None and child.ready and state.waits:
            return f"{text}; waiting until another supervisor's bot hands over"
        if child is not None and child.ready and state.lingering is not None:
            return f"{text}; waiting for generation {state.lingering}, older still, to leave"
        if child is not None and child.ready and state.active is not None:
            return f"{text}; waiting for a sign of life of generation {state.active}"
        if (seconds := self._host.permits.out_of_budget) is not None:
            return f"{text}; today's IDENTIFYs are used up, more in {seconds:.0f} s"
        if waiting := self._host.permits.waiting(seen.generation):
            text += f", {waiting} waiting for a permit"
        return text


def _shard(message: Identify | Shard) -> int:
    return message.shard if isinstance(message, Identify) else message.id


def _event(generation: int, message: FromChild) -> Event | None:
    """Return what a message means to the machine."""
    match message:
        case Hello():
            return Greeted(generation)
        case Shard(state="ready"):
            return Progressed(generation)
        case Role(role=role):
            return RoleTaken(generation, role)
        case Lingering(views=views, conversations=conversations):
            return Lingers(generation, views, conversations)
        case Drained():
            return HasDrained(generation)
        case Beat():
            return Beaten(generation)
        case Launched() | Starting() | LoggedIn() | Remark() | Identify() | Limits() | Shard() | Ready():
            return None
        case Fatal() | Recovered() | Cut() | Importing() | Imported() | Wants() | Serving() | Moved():
            return None
