"""Soak: reloads in a row under traffic; whether anything grows.

After each reload the supervisor's memory, descriptors, threads and processes are looked at, and the ledger's files. The
memory is what a process has for itself: its share of what several map would change with who else runs. The slope is the
median of the slopes between all pairs of looks (Theil and Sen), with its 95 % interval; the first third is left out,
for caches, and the arenas of Python's allocator, fill there.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.installation import MIX, Supervised, discord, sandbox_settings, supervised
from benchmarks.processes import MIB, descriptors, family, own
from benchmarks.report import Benchmark, Result, Table
from benchmarks.stats import slope, spread
from benchmarks.svg import Chart, Line

_LEAST = 5
_SUPERVISOR, _BOT = "supervisor's own memory, KiB", "bot's own memory, KiB"


async def _look(supervisor: Supervised, ledger: Path, child: int) -> dict[str, float]:
    pid = supervisor.running.pid
    return {
        _SUPERVISOR: await asyncio.to_thread(own, pid) / 1024,
        _BOT: await asyncio.to_thread(own, child) / 1024,
        "descriptors": descriptors(pid),
        "threads": psutil.Process(pid).num_threads(),
        "processes": len(family(pid)),
        "ledger, KiB": sum(file.stat().st_size for file in ledger.iterdir()) / 1024,
    }


async def run(options: argparse.Namespace) -> Result:
    """Reload again and again."""
    looks: list[dict[str, float]] = []
    durations, lost, doubled, emitted = [], 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        ledger = Path(name)
        settings = sandbox_settings(shards=options.shards, skew=(0.0, 0.1), messages_per_channel=200)
        async with (
            discord(settings) as sandbox,
            supervised(sandbox, ledger__path=str(ledger / "l")) as supervisor,
        ):
            child = (await supervisor.serving())["pid"]
            for _ in range(options.reloads):
                sandbox.traffic.start(rate=options.rate, mix=MIX)
                began = time.monotonic()
                await supervisor.reload()
                durations.append(time.monotonic() - began)
                child = (await supervisor.serving())["pid"]
                await asyncio.sleep(1.2)  # by then the window is closed and the ledger emptied
                emitted += (await sandbox.traffic.stop()).total
                verdict = await sandbox.settled(timeout=10, linger=0.2)
                lost += verdict.lost
                doubled += verdict.duplicated
                sandbox.journal.clear()
                looks.append(await _look(supervisor, ledger, child))
    return _result(looks, durations, {"emitted": emitted, "lost": lost, "duplicated": doubled}, options)


def _result(
    looks: Sequence[dict[str, float]], durations: Sequence[float], verdict: dict[str, int], options: argparse.Namespace
) -> Result:
    kept = looks[len(looks) // 3 :]
    rows: list[dict[str, Any]] = []
    for name in looks[0]:
        values = [look[name] for look in kept]
        row: dict[str, Any] = {"what": name, "first": values[0], "last": values[-1], "value": spread(values).as_dict()}
        if len(values) >= _LEAST:
            per_reload, half = slope(list(enumerate(values)))
            row |= {"slope_per_100": round(100 * per_reload, 3), "half_width": round(100 * half, 3)}
            row["grows"] = per_reload - half > 0
        rows.append(row)
    table = Table(
        title=f"After each of {len(looks)} reloads",
        columns=["what", "median", "first", "last", "slope per 100 reloads", "grows"],
        rows=[
            [
                row["what"],
                float(row["value"]["median"]),
                float(row["first"]),
                float(row["last"]),
                f"{row['slope_per_100']:g} ± {row['half_width']:g}" if "slope_per_100" in row else None,
                {True: "yes", False: "no", None: None}[row.get("grows")],
            ]
            for row in rows
        ],
    )
    memory = [(float(number), look[_SUPERVISOR] * 1024 / MIB) for number, look in enumerate(looks)]
    bots = [(float(number), look[_BOT] * 1024 / MIB) for number, look in enumerate(looks)]
    chart = Chart(
        title="Memory after each reload",
        x="reload",
        y="MiB of its own",
        lines=[Line(name="supervisor", points=memory), Line(name="bot", points=bots)],
    )
    return Result(
        rows=[*rows, {"verdict": verdict, "reload_seconds": spread(durations).as_dict()}],
        ratios={"last / first": {row["what"]: round(row["last"] / row["first"], 3) for row in rows if row["first"]}},
        tables=[table],
        notes=[
            f"{verdict['emitted']} events, {verdict['lost']} lost, {verdict['duplicated']} twice; a reload took "
            f"{spread(durations).text(2)} s.",
            "The bot is a new process after each reload: what grows there would be a growing handoff, not a leak.",
        ],
        plots={"soak.svg": chart.svg()},
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--reloads", type=int, default=300)
    parser.add_argument("--rate", type=float, default=100.0, help="events/s meanwhile")
    parser.add_argument("--shards", type=int, default=2)


BENCHMARK = Benchmark(
    name="soak",
    summary="Reloads in a row under traffic: whether memory, descriptors, threads or the ledger grow.",
    limit=3600,
    arguments=arguments,
    run=run,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
