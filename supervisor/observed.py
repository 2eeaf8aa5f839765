"""What was seen of a child and of a handoff: the source of `status`.

Only bookkeeping: messages and times go in, the structs of `status` come out. Nothing here decides anything, and nothing
is shown that was not observed.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field

from supervisor.machine import Phase
from supervisor.release import Release
from supervisor.status import ChildStatus, HandoffKind, HandoffResult, HandoffStatus, ShardStatus
from supervisor.wire import Beat, Claims, Drained, FromChild, Limits, Ready, Role, RoleName, Shard, ShardState


def utc_now() -> str:
    """Return the time as `status` writes it, to the millisecond."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
    latencies: dict[int, float] = field(default_factory=dict)
    shards_total: int | None = None
    guilds: int | None = None
    beat: Beat | None = None
    last_beat_at: str | None = None

    @property
    def shards_ready(self) -> int:
        """Return how many shards are ready now."""
        return sum(state == "ready" for state in self.shards.values())

    @property
    def in_flight(self) -> int:
        """Return how many handlers ran at the last beat."""
        return self.beat.in_flight if self.beat else 0

    def take(self, message: FromChild) -> None:
        """Note what a message tells."""
        match message:
            case Limits(shards=shards):
                self.shards_total = shards
            case Shard(id=id, state=state, latency_ms=latency):
                self.shards[id] = state
                if latency is not None:
                    self.latencies[id] = latency
            case Ready(shards=shards, guilds=guilds):
                self.shards_total, self.guilds, self.ready_at = shards, guilds, utc_now()
                self.role = "standby" if self.standby else "starting"
            case Role(role=role) if self.ready_at is not None:
                self.role = role
                if role == "active":
                    self.active_at = utc_now()
            case Beat():
                self.beat, self.last_beat_at = message, utc_now()
                self.latencies |= {id: ms for id, ms in message.latencies.items() if id in self.shards}
                if self.ready_at is not None:
                    self.guilds = message.guilds
            case _:
                pass

    def status(self, *, rss_bytes: int | None, cpu_percent: float | None) -> ChildStatus:
        """Return all of it as `status` shows it."""
        beat = self.beat
        return ChildStatus(
            generation=self.generation,
            pid=self.pid,
            role=self.role,
            release=str(self.release.directory),
            app=self.release.app,
            started_at=self.started_at,
            ready_at=self.ready_at,
            active_at=self.active_at,
            shards=[
                ShardStatus(id=id, state=state, latency_ms=self.latencies.get(id))
                for id, state in sorted(self.shards.items())
            ],
            guilds=self.guilds,
            rss_bytes=rss_bytes,
            cpu_percent=cpu_percent,
            in_flight=self.in_flight,
            handled=beat.handled if beat else 0,
            claims=beat.claims if beat else Claims(),
            last_beat_at=self.last_beat_at,
            loop_lag_ms=beat.loop_lag_ms if beat else None,
        )


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
    cut: list[str] = field(default_factory=list)
    _phases: dict[str, float] = field(default_factory=dict)
    _phase: Phase | None = None
    _since: float = 0.0

    def enter(self, phase: Phase, *, now: float) -> None:
        """Begin a phase; the one before has ended. A phase that comes again adds up."""
        self._finish_phase(now)
        self._phase, self._since = phase, now

    def close(self, result: HandoffResult, reason: str | None, *, now: float) -> None:
        """Note how it ended."""
        self._finish_phase(now)
        self._phase = None
        self.result, self.reason, self.ended = result, reason, now

    def heard(self, generation: int, message: FromChild) -> None:
        """Note what a message tells about this handoff: the new child's replay, what the old one's drain has cut."""
        match message:
            case Beat(replayed=replayed, expired=expired) if generation == self.target:
                self.replayed, self.expired = replayed, expired
            case Drained(cut=cut) if generation == self.origin:
                self.cut = list(cut)
            case _:
                pass

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
            cut=list(self.cut),
        )
