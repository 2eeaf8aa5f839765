"""A handoff under load: what is lost or doubled, and what people near the switch notice, against quiet.

Latency is from emission to the end of the handler, so it includes each session's skew. The switch is the moment of the
new child's first handling; what was emitted within 2 s of it is compared with as long a time of quiet just before the
reload was asked for. Silence is the longest time in which nothing at all was handled.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from bastion.sandbox import Sandbox
from benchmarks.installation import MIX, Supervised, discord, sandbox_settings, supervised
from benchmarks.processes import cpu_seconds
from benchmarks.report import Benchmark, Result, Table, numbers
from benchmarks.stats import percentile, spread
from benchmarks.svg import Chart, Line

NEAR: Final = 2.0
"""Seconds before and after the switch."""
_BIN: Final = 0.2
_SHARES: Final = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


@dataclass(slots=True, kw_only=True)
class Switch:
    """One handoff as the journal saw it. Times are seconds."""

    quiet: list[float]
    near: list[float]
    silence_quiet: float
    silence_near: float
    points: list[tuple[float, float]]
    """(emission relative to the switch, latency)."""


@dataclass(slots=True)
class Seen:
    """All handoffs at one rate."""

    emitted: int = 0
    seconds: float = 0.0
    lost: int = 0
    duplicated: int = 0
    late: int = 0
    switches: list[Switch] = field(default_factory=list)
    busy: dict[str, list[float]] = field(default_factory=dict)
    """CPU share of one core in quiet, by process."""


async def _at(rate: int, options: argparse.Namespace) -> Seen:
    seen = Seen()
    settings = sandbox_settings(shards=options.shards, skew=(0.0, options.skew), messages_per_channel=500)
    async with discord(settings) as sandbox, supervised(sandbox) as supervisor:
        for _ in range(options.reloads):
            with _no_pauses():
                await _one(sandbox, supervisor, rate, seen)
    return seen


async def _one(sandbox: Sandbox, supervisor: Supervised, rate: int, seen: Seen) -> None:
    child = await supervisor.serving()
    sandbox.journal.clear()
    sandbox.traffic.start(rate=rate, mix=MIX)
    await asyncio.sleep(1.0)
    quiet_from = time.monotonic()
    with _cpu(seen, {"sandbox": os.getpid(), "bot": child["pid"], "supervisor": supervisor.running.pid}):
        await asyncio.sleep(2 * NEAR)
    quiet = (quiet_from, time.monotonic())
    handoff = await supervisor.reload()
    await asyncio.sleep(NEAR + 0.5)
    report = await sandbox.traffic.stop()
    verdict = await sandbox.settled(timeout=20, quiet=5)
    seen.emitted += report.total
    seen.seconds += report.seconds
    seen.lost += verdict.lost
    seen.duplicated += verdict.duplicated
    seen.late += verdict.late
    seen.switches.append(_switch(sandbox, handoff["to"], quiet))


def _switch(sandbox: Sandbox, generation: int, quiet: tuple[float, float]) -> Switch:
    handled = []
    latencies = []
    switch = float("inf")
    for entry in sandbox.journal.entries:
        found = sandbox.journal.handlings(entry.kind, entry.key)
        if found:
            latencies.append((entry.at, found[0].at - entry.at))
        for one in found:
            handled.append(one.at)
            if one.by == generation:
                switch = min(switch, one.at)
    handled.sort()
    near = (switch - NEAR, switch + NEAR)
    return Switch(
        quiet=[latency for at, latency in latencies if quiet[0] <= at < quiet[1]],
        near=[latency for at, latency in latencies if near[0] <= at < near[1]],
        silence_quiet=_silence(handled, quiet),
        silence_near=_silence(handled, near),
        points=[(at - switch, latency) for at, latency in latencies if abs(at - switch) < 2 * NEAR],
    )


def _silence(handled: list[float], span: tuple[float, float]) -> float:
    """Return the longest gap between handlings of which a part is in the span."""
    gaps = (later - earlier for earlier, later in pairwise(handled) if later > span[0] and earlier < span[1])
    return max(gaps, default=span[1] - span[0])


@contextmanager
def _no_pauses() -> Iterator[None]:
    """Keep this process, which is Discord here, from stopping to collect garbage in the middle."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


@contextmanager
def _cpu(seen: Seen, pids: dict[str, int]) -> Iterator[None]:
    began = time.monotonic()
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    yield
    seconds = time.monotonic() - began
    for name, pid in pids.items():
        seen.busy.setdefault(name, []).append((cpu_seconds(pid) - before[name]) / seconds)


def _row(rate: int, seen: Seen) -> dict[str, Any]:
    quiet = [latency for switch in seen.switches for latency in switch.quiet]
    near = [latency for switch in seen.switches for latency in switch.near]
    over = [
        percentile(switch.near, 0.99) / percentile(switch.quiet, 0.99)
        for switch in seen.switches
        if switch.near and switch.quiet
    ]
    longer = [switch.silence_near - switch.silence_quiet for switch in seen.switches]
    return {
        "rate": rate,
        "reached": round(seen.emitted / seen.seconds, 1) if seen.seconds else 0.0,
        "emitted": seen.emitted,
        "lost": seen.lost,
        "duplicated": seen.duplicated,
        "late": seen.late,
        "quiet_ms": {name: round(1000 * percentile(quiet, share), 1) for name, share in _SHARES.items()},
        "near_ms": {name: round(1000 * percentile(near, share), 1) for name, share in _SHARES.items()},
        "p99 near / quiet": spread(over).as_dict() if over else None,
        "silence_quiet_ms": spread([1000 * switch.silence_quiet for switch in seen.switches]).as_dict(),
        "silence_near_ms": spread([1000 * switch.silence_near for switch in seen.switches]).as_dict(),
        "silence near - quiet_ms": spread([1000 * value for value in longer]).as_dict(),
        "busy": {name: round(spread(values).median, 3) for name, values in seen.busy.items()},
    }


async def run(options: argparse.Namespace) -> Result:
    """Hand over at every rate."""
    found = {rate: await _at(rate, options) for rate in options.rates}
    rows = [_row(rate, seen) for rate, seen in found.items()]
    table = Table(
        title="Handoffs under load",
        columns=["events/s", "reached", "events", "lost", "twice", "latency in quiet, ms: p50, p99, p99.9, max",
                 "within 2 s of the switch", "p99 near / quiet", "silence in quiet, ms", "near"],
        rows=[
            [
                str(row["rate"]),
                row["reached"],
                row["emitted"],
                row["lost"],
                row["duplicated"],
                ", ".join(f"{value:.0f}" for value in row["quiet_ms"].values()),
                ", ".join(f"{value:.0f}" for value in row["near_ms"].values()),
                f"{row['p99 near / quiet']['median']:.2f}" if row["p99 near / quiet"] else None,
                f"{row['silence_quiet_ms']['median']:.0f}",
                f"{row['silence_near_ms']['median']:.0f}",
            ]
            for row in rows
        ],
    )  # fmt: skip
    names = ("sandbox", "bot", "supervisor")
    busy = Table(
        title="Share of one core that each process takes in quiet",
        columns=["events/s", *names],
        rows=[[str(row["rate"]), *(f"{row['busy'].get(name, 0):.3f}" for name in names)] for row in rows],
    )
    return Result(
        rows=rows,
        ratios={"p99 near / quiet": {str(row["rate"]): row["p99 near / quiet"] for row in rows}},
        tables=[table, busy],
        notes=[
            f"{options.reloads} handoffs at each rate, {options.shards} shards, skew 0 to "
            f"{1000 * options.skew:.0f} ms; medians of handoffs, percentiles over all of them."
        ],
        plots={"handoff_load.svg": _plot(found)},
    )


def _plot(found: dict[int, Seen]) -> str:
    lines = []
    for rate, seen in found.items():
        bins: dict[int, list[float]] = {}
        for switch in seen.switches:
            for at, latency in switch.points:
                bins.setdefault(round(at / _BIN), []).append(1000 * latency)
        points = [(number * _BIN, percentile(values, 0.99)) for number, values in sorted(bins.items())]
        lines.append(Line(name=f"{rate} events/s", points=points))
    return Chart(
        title="99 of 100 events are handled within, by when they happened",
        x="seconds from the switch",
        y="ms",
        lines=lines,
        marks=[("switch", 0.0)],
    ).svg()


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--rates", type=numbers, default=[10, 100, 1000, 3000], metavar="N,N", help="events/s")
    parser.add_argument("--reloads", type=int, default=3, help="handoffs at each rate")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--skew", type=float, default=0.3, help="largest delay of a session, in seconds")


BENCHMARK = Benchmark(
    name="handoff_load",
    summary="Handoffs under load: lost, doubled, latency and silence near the switch against quiet.",
    limit=600,
    arguments=arguments,
    run=run,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
