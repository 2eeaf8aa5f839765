"""What was seen of a child and of a handoff: the source of `status`.

Only bookkeeping: messages and times go in, the structs of `status` come out. Nothing here decides anything, and nothing
is shown that was not observed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from bastion.supervisor.release import Release
from bastion.supervisor.state import Phase
from bastion.supervisor.status import (
    ChildStatus,
    HandoffKind,
    HandoffResult,
    HandoffStatus,
    RecoveryStatus,
    SessionWay,
    ShardStatus,
    SupervisorState,
)
from bastion.wire import (
    Beat,
    Claims,
    Cut,
    Drained,
    FromChild,
    Imported,
    Importing,
    Limits,
    Lingering,
    LoggedIn,
    Moved,
    Ready,
    Recovered,
    Remark,
    Role,
    RoleName,
    Shard,
    ShardState,
    Starting,
)

DURATION_BOUNDS = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds: a handoff of one shard takes some, one of a hundred shards and long handlers minutes."""
_NO_BEAT = Beat(n=0, loop_lag_ms=0.0, in_flight=0, handled=0)


def utc_now() -> str:
    """Return the time as `status` writes it."""
    return utc(time.time())


def utc(at: float) -> str:
    """Return unix seconds as `status` writes a time, to the millisecond."""
    seconds, milliseconds = divmod(int(at * 1000), 1000)
    return time.strftime(f"%Y-%m-%dT%H:%M:%S.{milliseconds:03}Z", time.gmtime(seconds))


@dataclass(slots=True, kw_only=True)
class Absence:
    """A shard that was ready, and is not: since when, in monotonic seconds, why at first, and why by now."""

    since: float
    why: str
    newest: str = ""

    @property
    def told(self) -> str:
        """Return all that is known of the reason, in a few words."""
        why = self.why or "the bot does not say why"
        return why if self.newest in ("", self.why) else f"{why}; since then {self.newest}"


MAX_REMARKS = 8
"""Remarks that are kept of one child."""


@dataclass(slots=True, kw_only=True)
class Observation:
    """One child, as far as it has told about itself."""

    generation: int
    pid: int
    release: Release
    standby: bool
    started_at: str = field(default_factory=utc_now)
    ready_at: str | None = None
    active_at: str | None = None
    role: RoleName = "starting"
    shards: dict[int, ShardState] = field(default_factory=dict)
    away: dict[int, Absence] = field(default_factory=dict)
    """The shards that were ready before, and are not."""
    latencies: dict[int, float] = field(default_factory=dict)
    shards_total: int | None = None
    guilds: int | None = None
    lingering: int = 0
    beat: Beat | None = None
    last_beat_at: str | None = None
    fault: str | None = None
    """Why it gives up, as it said at first."""
    remarks: list[str] = field(default_factory=list)
    """What the operator should know about the release, the newest `MAX_REMARKS` of it."""
    doing: str | None = None
    """Where its program is that has not logged in yet."""

    @property
    def shards_ready(self) -> int:
        """Return how many shards are ready now."""
        return sum(state == "ready" for state in self.shards.values())

    @property
    def in_flight(self) -> int:
        """Return how many handlers ran at the last beat."""
        return self.beat.in_flight if self.beat else 0

    def readiness(self, *, standby: bool = False) -> ActiveReadiness:
        """Return which shards are not ready, also those that have not been heard of. ``standby``: it is not active."""
        known = range(self.shards_total) if self.shards_total is not None else sorted(self.shards)
        return ActiveReadiness(
            generation=self.generation,
            shards=len(known),
            not_ready={id: state for id in known if (state := self.shards.get(id, "waiting")) != "ready"},
            standby=standby,
        )

    def take(self, message: FromChild) -> None:
        """Note what a message tells."""
        match message:
            case Starting(doing=doing):
                self.doing = doing
            case Remark(text=text):
                self.remarks = [*self.remarks, text][-MAX_REMARKS:]
            case LoggedIn():
                self.doing = None
            case Limits(shards=shards):
                self.shards_total = shards
            case Shard(id=id, state=state, latency_ms=latency, why=why):
                self._note_absence(id, state, why)
                self.shards[id] = state
                if latency is not None:
                    self.latencies[id] = latency
            case Ready(shards=shards, guilds=guilds):
                self.shards_total, self.guilds, self.ready_at = shards, guilds, utc_now()
                self.role = "standby" if self.standby else "starting"
            case Role(role=role) if self.ready_at is not None:
                self.role, self.lingering = role, 0
                if role == "active":
                    self.active_at = utc_now()
            case Lingering(views=views, conversations=conversations):
                self.lingering = views + conversations
            case Beat():
                self.beat, self.last_beat_at, self.lingering = message, utc_now(), message.lingering
                self.latencies |= {id: ms for id, ms in message.latencies.items() if id in self.shards}
                if self.ready_at is not None:
                    self.guilds = message.guilds
            case _:
                pass

    def _note_absence(self, shard: int, state: ShardState, why: str) -> None:
        if state == "ready":
            self.away.pop(shard, None)
        elif (absence := self.away.get(shard)) is not None:
            absence.newest = why
        elif self.ready_at is not None or self.shards.get(shard) == "ready":
            self.away[shard] = Absence(since=time.monotonic(), why=why)

    def _shard(self, shard: int, state: ShardState) -> ShardStatus:
        absence = self.away.get(shard)
        return ShardStatus(
            id=shard,
            state=state,
            latency_ms=self.latencies.get(shard),
            away=None if absence is None else round(time.monotonic() - absence.since, 1),
            why="" if absence is None else absence.told,
        )

    def status(self, *, rss_bytes: int | None, cpu_percent: float | None, spare: bool = False) -> ChildStatus:
        """Return all of it as `status` shows it."""
        beat = self.beat
        return ChildStatus(
            generation=self.generation,
            pid=self.pid,
            role=self.role,
            spare=spare,
            release=str(self.release.directory),
            app=self.release.entry,
            program=self.release.program,
            started_at=self.started_at,
            ready_at=self.ready_at,
            active_at=self.active_at,
            shards=[self._shard(id, state) for id, state in sorted(self.shards.items())],
            guilds=self.guilds,
            rss_bytes=rss_bytes,
            cpu_percent=cpu_percent,
            in_flight=self.in_flight,
            lingering=self.lingering,
            handled=beat.handled if beat else 0,
            claims=beat.claims if beat else Claims(),
            last_beat_at=self.last_beat_at,
            loop_lag_ms=beat.loop_lag_ms if beat else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveReadiness:
    """The shards of the active child, or of one that can take over at once: how many, and those that are not ready."""

    generation: int
    shards: int
    not_ready: dict[int, ShardState]
    standby: bool = False
    """It waits until another supervisor's bot hands over."""

    @property
    def ready(self) -> bool:
        """Say whether every shard is ready. A child without shards is not."""
        return self.shards > 0 and not self.not_ready


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What runs, in a few words. ``generation``, ``shards``, ``ready`` and ``since`` are the active child's."""

    state: SupervisorState
    generation: int | None
    shards: int
    ready: int
    since: str | None
    message: str
    """What is under way."""
    patience: float
    """Seconds in which what is under way has ended or come further."""


@dataclass(slots=True)
class Durations:
    """How often something took how long."""

    within: list[int] = field(default_factory=lambda: [0] * len(DURATION_BOUNDS))
    """For each of `DURATION_BOUNDS`: how often it took at most so long."""
    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.within = [count + (seconds <= bound) for count, bound in zip(self.within, DURATION_BOUNDS, strict=True)]
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class Totals:
    """Counts since the supervisor's start, over all generations: they only grow, though children come and go."""

    received: int = 0
    handled: int = 0
    replayed: int = 0
    expired: int = 0
    overflowed: int = 0
    claims_won: int = 0
    claims_lost: int = 0
    claim_errors: int = 0
    cut: int = 0
    handoffs: dict[tuple[HandoffKind, HandoffResult], Durations] = field(default_factory=dict)
    sessions: dict[SessionWay, int] = field(default_factory=dict)
    """How the sessions went, of the handoffs in which a bot came to have some."""
    pause_ms: float = 0.0
    """The longest pause of the newest one in which they moved."""
    identifies: int = 0

    def add(self, beat: Beat, *, since: Beat | None) -> None:
        """Count what a child did between two of its beats; ``since`` is None for its first one."""
        past = since or _NO_BEAT
        self.received += max(0, beat.received - past.received)
        self.handled += max(0, beat.handled - past.handled)
        self.replayed += max(0, beat.replayed - past.replayed)
        self.expired += max(0, beat.expired - past.expired)
        self.overflowed += max(0, beat.overflowed - past.overflowed)
        self.claims_won += max(0, beat.claims.won - past.claims.won)
        self.claims_lost += max(0, beat.claims.lost - past.claims.lost)
        self.claim_errors += max(0, beat.claims.errors - past.claims.errors)

    def ended(self, record: HandoffRecord, result: HandoffResult, *, seconds: float) -> None:
        """Count a handoff."""
        self.handoffs.setdefault((record.kind, result), Durations()).add(seconds)
        self.identifies += record.identifies
        if record.session is not None:
            self.sessions[record.session] = self.sessions.get(record.session, 0) + 1
        if record.session == "moved":
            self.pause_ms = record.pause_ms


@dataclass(slots=True, kw_only=True)
class HandoffRecord:
    """One handoff: its steps and how long they took. Times given as ``now`` are monotonic seconds."""

    began: float
    kind: HandoffKind
    origin: int | None
    target: int | None = None
    started_at: str = field(default_factory=utc_now)
    result: HandoffResult | None = None
    reason: str | None = None
    ended: float | None = None
    replayed: int = 0
    expired: int = 0
    overflowed: int = 0
    unclaimed: int = 0
    cut: dict[int, list[str]] = field(default_factory=dict)
    """Names of what was ended before it was done, by the generation in which it ran."""
    recovered: Recovered | None = None
    session: SessionWay | None = None
    why: str | None = None
    pause_ms: float = 0.0
    identifies: int = 0
    state: str = "none"
    taker: int | None = None
    """The child for which state was last on its way."""
    _phases: dict[str, float] = field(default_factory=dict)
    _phase: Phase | None = None
    _since: float = 0.0

    def enter(self, phase: Phase, *, now: float) -> None:
        """Begin a phase; the one before has ended. A phase that comes again adds up."""
        self._finish_phase(now)
        self._phase, self._since = phase, now

    def close(self, result: HandoffResult, reason: str | None, *, now: float) -> None:
        """Note how it ended. The state of a handoff that has not succeeded is on its way no more."""
        if self.state == "carrying" and result != "succeeded":
            self.state = "failed: the bot that it was meant for is not the active one"
        self._finish_phase(now)
        self._phase = None
        self.result, self.reason, self.ended = result, reason, now

    def failed_to_claim(self, beat: Beat, *, since: Beat | None) -> None:
        """Note how often the ledger failed a child between two of its beats; ``since`` is None for its first one."""
        if self.result is None:
            self.unclaimed += max(0, beat.claims.errors - (since or _NO_BEAT).claims.errors)

    def heard(self, generation: int, message: FromChild) -> None:
        """Note what a message tells about this handoff: what the new child replayed, what the old one had cut."""
        match message:
            case Beat() if generation == self.target:
                self.replayed, self.expired, self.overflowed = message.replayed, message.expired, message.overflowed
            case Drained(cut=cut) if generation == self.origin:
                self.cut[generation] = list(cut)
            case Recovered(generation=dead, cut=cut) if generation == self.target:
                self.cut[dead], self.recovered = list(cut), message
            case Importing() if generation == self.target:
                self.state, self.taker = "carrying", generation
            case Imported(source=source, reason=reason) if generation == self.target:
                self.state = f"failed: {reason}" if reason else "carried" if source == "handoff" else source
            case Moved(pause_ms=pause) if generation in (self.origin, self.target):
                self.session, self.why, self.pause_ms = "moved", None, pause
            case Shard(state="connecting") if generation in (self.origin, self.target):
                self.identifies += 1
            case _:
                pass

    def overlaps(self, why: str | None) -> None:
        """Note that the new child has sessions of its own, and why."""
        alone = self.origin is None and self.kind != "takeover"
        self.session, self.why = ("identified", None) if alone else ("overlap", why)

    def left(self, generation: int) -> None:
        """Note that a child is gone: state that was on its way to it arrives nowhere, however the handoff ends."""
        if self.state == "carrying" and generation == self.taker:
            self.state = f"failed: generation {generation} left before it had taken it"

    def died(self, message: Cut) -> None:
        """Note what ran in a child of this handoff when it died, or what it had cut before it went on after all."""
        if message.generation in (self.origin, self.target):
            named = self.cut.setdefault(message.generation, [])
            named += [name for name in message.names if name not in named]  # who recovers may have told them

    def _finish_phase(self, now: float) -> None:
        if self._phase is not None:
            name = self._phase.value
            self._phases[name] = self._phases.get(name, 0.0) + now - self._since

    def status(self, *, now: float) -> HandoffStatus:
        """Return it as `status` shows it; a phase under way counts up to ``now``."""
        phases = dict(self._phases)
        if self._phase is not None:
            phases[self._phase.value] = phases.get(self._phase.value, 0.0) + now - self._since
        return HandoffStatus(
            kind=self.kind,
            from_generation=self.origin,
            to_generation=self.target,
            result=self.result,
            reason=self.reason,
            started_at=self.started_at,
            duration=round((now if self.ended is None else self.ended) - self.began, 3),
            phases={name: round(seconds, 3) for name, seconds in phases.items()},
            replayed=self.replayed,
            expired=self.expired,
            cut=[name for _, names in sorted(self.cut.items()) for name in names],
            overflowed=self.overflowed,
            unclaimed=self.unclaimed,
            recovered=_recovery(self.recovered),
            session=self.session,
            why=self.why,
            pause_ms=self.pause_ms,
            identifies=self.identifies,
            state=self.state,
        )


def _recovery(message: Recovered | None) -> RecoveryStatus | None:
    if message is None:
        return None
    return RecoveryStatus(
        sessions=message.sessions, lost=message.lost, unheard_seconds=message.unheard, missed=message.missed
    )
