"""Memory and idle CPU: the supervisor by itself, with one bot and with two; a bot under it and alone; a handoff's peak.

Proportional set size (PSS): a page that n processes share counts 1/n for each, so sums are what the machine gives up.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

from benchmarks.installation import (
    MIX,
    Supervised,
    alone,
    discord,
    sandbox_settings,
    supervised,
    supervised_without_child,
)
from benchmarks.processes import MIB, cpu_seconds, family, pss, watching
from benchmarks.report import Benchmark, Result, Table
from benchmarks.stats import Spread, spread

WITHOUT, ONE, TWO = "supervisor, no bot", "supervisor, one bot", "supervisor, two bots"
CHILD, STOCK = "bot under the supervisor", "the same bot alone"
BEFORE, PEAK, AFTER = "all before a handoff", "all at a handoff's peak", "all after it"


async def _round(options: argparse.Namespace) -> dict[str, float]:
    found: dict[str, float] = {}
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(discord(sandbox_settings(shards=options.shards)))
        second = await stack.enter_async_context(discord(sandbox_settings(shards=options.shards)))
        stock = await stack.enter_async_context(alone(first, shards=options.shards))
        supervisor = await stack.enter_async_context(supervised(second))
        lonely = await stack.enter_async_context(supervised_without_child(second))
        for sandbox in (first, second):
            await sandbox.traffic.run(rate=options.rate, seconds=options.seconds, mix=MIX)
            await sandbox.settled(timeout=10, linger=0.2)
        child = await supervisor.serving()
        found[WITHOUT] = pss(lonely.pid)
        found[ONE] = pss(supervisor.running.pid)
        found[CHILD], found[STOCK] = pss(child["pid"]), pss(stock.pid)
        await _handoff(supervisor, found)
        spare = await stack.enter_async_context(
            supervised(second, restart__spare=True, start_roles=("active", "standby"))
        )
        found[TWO] = pss(spare.running.pid)
    return found


async def _handoff(supervisor: Supervised, found: dict[str, float]) -> None:
    pid = supervisor.running.pid
    found[BEFORE] = sum(pss(one) for one in family(pid))
    async with watching(lambda: family(pid), every=0.05) as peak:
        await supervisor.reload()
    found[PEAK] = peak.bytes
    await supervisor.serving()
    found[AFTER] = sum(pss(one) for one in family(pid))


async def _idle(options: argparse.Namespace) -> tuple[float, float]:
    """CPU per cent of the supervisor with a bot of many shards, without and with traffic of 10 events/s."""
    percent = []
    async with discord(sandbox_settings(shards=options.idle_shards)) as sandbox, supervised(sandbox) as supervisor:
        for rate in (0, 10):
            if rate:
                sandbox.traffic.start(rate=rate, mix=MIX)
            began, spent = time.monotonic(), cpu_seconds(supervisor.running.pid)
            await asyncio.sleep(options.idle)
            used = cpu_seconds(supervisor.running.pid) - spent
            percent.append(100 * used / (time.monotonic() - began))
    return percent[0], percent[1]


async def run(options: argparse.Namespace) -> Result:
    """Look at everything in each round."""
    rounds = [await _round(options) for _ in range(options.rounds)]
    sizes = {name: spread([found[name] / MIB for found in rounds]) for name in rounds[0]}
    over: dict[str, Any] = {
        "bot: supervised / alone": spread([found[CHILD] / found[STOCK] for found in rounds]).as_dict(),
        "handoff: peak / before": spread([found[PEAK] / found[BEFORE] for found in rounds]).as_dict(),
        "handoff: after / before": spread([found[AFTER] / found[BEFORE] for found in rounds]).as_dict(),
        "supervisor: two bots / one": spread([found[TWO] / found[ONE] for found in rounds]).as_dict(),
    }
    tables = [_table(sizes)]
    rows: list[dict[str, Any]] = [{"what": name, "pss_mib": size.as_dict()} for name, size in sizes.items()]
    if options.idle:
        quiet, busy = await _idle(options)
        what = f"supervisor of a bot with {options.idle_shards} shards"
        rows.append({"what": what, "cpu_percent_idle": round(quiet, 3), "cpu_percent_10_events_s": round(busy, 3)})
        tables.append(
            Table(
                title=f"CPU of a {what}, in % of one core over {options.idle:g} s each",
                columns=["traffic", "%"],
                rows=[["none", f"{quiet:.2f}"], ["10 events/s", f"{busy:.2f}"]],
            )
        )
    return Result(
        rows=rows,
        ratios=over,
        tables=tables,
        notes=[
            f"{options.rounds} rounds, {options.shards} shards; {options.rate * options.seconds:.0f} events before the "
            f"look. The bot under the supervisor takes {over['bot: supervised / alone']['median']:.2f} times what it "
            f"takes alone; a handoff's peak is {over['handoff: peak / before']['median']:.2f} times all before."
        ],
    )


def _table(sizes: dict[str, Spread]) -> Table:
    order = (WITHOUT, ONE, TWO, STOCK, CHILD, BEFORE, PEAK, AFTER)
    return Table(title="PSS in MiB", columns=["what", "MiB"], rows=[[name, sizes[name].text()] for name in order])


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--rate", type=float, default=200.0, help="events/s before the look")
    parser.add_argument("--seconds", type=float, default=5.0, help="of that traffic")
    parser.add_argument("--idle", type=float, default=20.0, help="seconds of each idle time; 0 leaves them out")
    parser.add_argument("--idle-shards", type=int, default=16)


BENCHMARK = Benchmark(
    name="memory",
    summary="Memory of supervisor and bot, alone and together and in a handoff; the supervisor's idle CPU.",
    limit=300,
    arguments=arguments,
    run=run,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
