"""What Prometheus is told: the names, types and labels of all metrics.

Knows the status and the totals; knows nothing of HTTP. Names are a contract: dashboards and alert rules rely on them.
Counters come from `Totals`, which children that come and go do not set back, so they only grow while the supervisor
lives. Gauges that every child has are added up by role (or the worst is taken), so that a reload makes no new series.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from bastion.supervisor.observed import DURATION_BOUNDS, ActiveReadiness, Durations, Totals
from bastion.supervisor.status import (
    ChildStatus,
    HandoffKind,
    HandoffResult,
    SessionStartLimit,
    SessionWay,
    Status,
    SupervisorState,
)
from bastion.wire import RoleName, ShardState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(status: Status, totals: Totals, readiness: ActiveReadiness | None, *, tasks: int) -> bytes:
    """Return all metrics in Prometheus' text format. ``tasks`` counts the supervisor's own."""
    registry = CollectorRegistry()
    registry.register(_Families(lambda: _families(status, totals, readiness, tasks)))
    return generate_latest(registry)


class _Families(Collector):
    """The library asks for a collector; ours is one call."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        return self._families()


def _families(status: Status, totals: Totals, readiness: ActiveReadiness | None, tasks: int) -> Iterator[Metric]:
    yield from _supervisor(status, readiness, tasks)
    yield from _children(status.children)
    serving = None if readiness is None or readiness.standby else readiness.generation
    active = next((child for child in status.children if child.generation == serving), None)
    yield from _active(active)
    yield from _shards(status.children, active)
    yield from _counted(totals)
    yield from _handoffs(totals)
    yield _counter(
        "bastion_restarts", "Bots that followed a dead one: spawned for it, or there to take over", status.restarts
    )
    if status.session_start_limit is not None:
        yield from _identifies(status.session_start_limit)


def _supervisor(status: Status, readiness: ActiveReadiness | None, tasks: int) -> Iterator[Metric]:
    build = GaugeMetricFamily("bastion_build_info", "Always 1", labels=["version", "python"])
    build.add_metric([status.supervisor.version, platform.python_version()], 1)
    yield build
    started = datetime.fromisoformat(status.supervisor.started_at).timestamp()
    yield _gauge("bastion_start_time_seconds", "When the supervisor started, in seconds since 1970", started)
    yield _gauge("bastion_resident_memory_bytes", "Resident memory of the supervisor alone", _resident())
    yield _gauge("bastion_tasks", "asyncio tasks of the supervisor", tasks)
    state = GaugeMetricFamily("bastion_state", "1 for the state that the supervisor is in", labels=["state"])
    for name in get_args(SupervisorState):
        state.add_metric([name], name == status.supervisor.state)
    yield state
    ready = readiness is not None and readiness.ready
    text = "1 if every shard of the active bot, or of one that waits to take over, is ready, as /readyz says it"
    yield _gauge("bastion_ready", text, ready)


def _children(children: list[ChildStatus]) -> Iterator[Metric]:
    yield _by_role("bastion_children", "Bot processes", children, lambda found: len(found))
    yield _by_role(
        "bastion_child_resident_memory_bytes",
        "Resident memory of the bot processes",
        children,
        lambda found: sum(child.rss_bytes or 0 for child in found),
    )
    yield _by_role(
        "bastion_child_loop_lag_seconds",
        "By how much a bot's event loop woke late at worst in the last second",
        children,
        lambda found: max((child.loop_lag_ms or 0.0 for child in found), default=0.0) / 1000,
    )
    yield _by_role(
        "bastion_handlers_in_flight",
        "Handlers under way",
        children,
        lambda found: sum(child.in_flight for child in found),
    )


def _active(active: ChildStatus | None) -> Iterator[Metric]:
    generation = active.generation if active else 0
    yield _gauge("bastion_active_generation", "Generation that serves, 0 if none does", generation)
    guilds = (active.guilds or 0) if active else 0
    yield _gauge("bastion_guilds", "Guilds in the cache of the active bot", guilds)


def _shards(children: list[ChildStatus], active: ChildStatus | None) -> Iterator[Metric]:
    shards = GaugeMetricFamily("bastion_shards", "Shards by role of their bot and by state", labels=["role", "state"])
    for role in get_args(RoleName):
        states = [shard.state for child in children if child.role == role for shard in child.shards]
        for state in get_args(ShardState):
            shards.add_metric([role, state], states.count(state))
    yield shards
    latency = GaugeMetricFamily(
        "bastion_shard_latency_seconds", "Time of a gateway heartbeat of the active bot", labels=["shard"]
    )
    for shard in active.shards if active else ():
        if shard.latency_ms is not None:
            latency.add_metric([str(shard.id)], shard.latency_ms / 1000)
    yield latency


def _counted(totals: Totals) -> Iterator[Metric]:
    yield _counter("bastion_events_received", "Gateway events that reached a bot, standby or active", totals.received)
    yield _counter("bastion_events_handled", "Events that went to handlers", totals.handled)
    yield _counter("bastion_events_replayed", "Held events that a bot handled when it became active", totals.replayed)
    yield _counter("bastion_events_expired", "Interactions that were too old to be answered", totals.expired)
    yield _counter("bastion_events_overflowed", "Events that a standby could not hold", totals.overflowed)
    yield _counter(
        "bastion_handlers_cut",
        "Handlers, loops, views, modals and conversations that drains, or deaths, cut",
        totals.cut,
    )
    claims = CounterMetricFamily("bastion_claims", "Claims by what they came to", labels=["result"])
    counts = {"won": totals.claims_won, "lost": totals.claims_lost, "error": totals.claim_errors}
    for result, count in counts.items():
        claims.add_metric([result], count)
    yield claims


def _handoffs(totals: Totals) -> Iterator[Metric]:
    """Every kind and result is there from the start: an increase from nothing would not be seen as one."""
    duration = HistogramMetricFamily(
        "bastion_handoff_duration_seconds", "Time of handoffs from the command to the end", labels=["kind", "result"]
    )
    for kind in get_args(HandoffKind):
        for result in get_args(HandoffResult):
            found = totals.handoffs.get((kind, result), Durations())
            buckets = [(str(bound), float(n)) for bound, n in zip(DURATION_BOUNDS, found.within, strict=True)]
            duration.add_metric([kind, result], [*buckets, ("+Inf", float(found.count))], found.seconds)
    yield duration
    sessions = CounterMetricFamily(
        "bastion_handoff_sessions", "Handoffs by what became of the gateway sessions", labels=["session"]
    )
    for way in get_args(SessionWay):
        sessions.add_metric([way], totals.sessions.get(way, 0))
    yield sessions
    text = "Longest time that a shard received nothing in the newest handoff whose sessions moved"
    yield _gauge("bastion_handoff_pause_seconds", text, totals.pause_ms / 1000)
    yield _counter("bastion_handoff_identifies", "Sessions that were begun in handoffs", totals.identifies)


def _identifies(limit: SessionStartLimit) -> Iterator[Metric]:
    yield _gauge("bastion_session_start_limit", "IDENTIFYs that Discord allows in a day", limit.total)
    yield _gauge("bastion_session_start_remaining", "IDENTIFYs that are left today", limit.remaining)
    yield _gauge("bastion_session_start_reset_seconds", "Time until the budget is whole again", limit.reset_after)
    yield _gauge("bastion_session_start_concurrency", "Shards that may IDENTIFY at once", limit.max_concurrency)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _by_role(
    name: str, text: str, children: list[ChildStatus], measure: Callable[[list[ChildStatus]], float]
) -> Metric:
    family = GaugeMetricFamily(name, f"{text}, by role", labels=["role"])
    for role in get_args(RoleName):
        family.add_metric([role], measure([child for child in children if child.role == role]))
    return family


def _resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
