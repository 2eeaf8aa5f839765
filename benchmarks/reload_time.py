"""Time to reload by overlap, phase by phase, against the least that it can take, and against stock's own start.

The floor of a reload is an interpreter that imports discord.py and the bot, plus the windows in which Discord lets that
many shards IDENTIFY, plus the 2 s for which discord.py waits after the last guild before it calls itself ready.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import time
from typing import Any, Final

from bastion.sandbox import Sandbox
from benchmarks.installation import (
    BOTS,
    MIX,
    discord,
    environment,
    ready,
    sandbox_settings,
    start_alone,
    supervised,
)
from benchmarks.report import Benchmark, BenchmarkError, Result, Table, numbers
from benchmarks.stats import spread

GUILD_READY: Final = 2.0
"""discord.py's default ``guild_ready_timeout``, in seconds."""

PHASES: Final = ("preparing", "spawning", "connecting", "activating", "draining")


async def importing(sandbox: Sandbox) -> float:
    """Return how many seconds an interpreter takes to import discord.py and the bot, and to exit."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "import discord, sharded", cwd=BOTS, env=environment(sandbox) | {"PYTHONPATH": str(BOTS)}
    )
    if await process.wait():
        raise BenchmarkError("the bot cannot be imported")
    return time.monotonic() - began


async def _reloads(shards: int, concurrency: int, options: argparse.Namespace) -> dict[str, Any]:
    windows = (math.ceil(shards / concurrency) - 1) * options.window
    settings = sandbox_settings(shards=shards, max_concurrency=concurrency, identify_window=options.window)
    phases: dict[str, list[float]] = {name: [] for name in PHASES}
    imports, ready_after, over, after_ready = [], [], [], []
    async with (
        discord(settings) as sandbox,
        supervised(sandbox, start_timeout=windows + 90, handoff__session="overlap") as supervisor,
    ):
        sandbox.traffic.start(rate=options.rate, mix=MIX)
        for _ in range(options.rounds):
            await asyncio.sleep(options.window)  # else the newest IDENTIFY would still count against the first
            imports.append(await importing(sandbox))
            handoff = await supervisor.reload()
            for name in PHASES:
                phases[name].append(handoff["phases"].get(name, 0.0))
            took = handoff["phases"]["spawning"] + handoff["phases"]["connecting"]
            ready_after.append(took)
            over.append(took / (imports[-1] + windows + GUILD_READY))
            after_ready.append(handoff["phases"]["activating"] + handoff["phases"]["draining"])
            await supervisor.serving()
    return {
        "shards": shards,
        "max_concurrency": concurrency,
        "floor": {"imports": spread(imports).as_dict(), "identify": windows, "guild_ready": GUILD_READY},
        "ready_after": spread(ready_after).as_dict(),
        "ready_after / floor": spread(over).as_dict(),
        "phases": {name: spread(values).as_dict() for name, values in phases.items()},
        "switch_to_gone": spread(after_ready).as_dict(),
    }


async def _stock(shards: int) -> float:
    async with discord(sandbox_settings(shards=shards)) as sandbox:
        began = time.monotonic()
        running = await start_alone(sandbox, shards=shards)
        try:
            return await ready(sandbox, running, timeout=60 + 6 * shards) - began
        finally:
            await running.end()


async def run(options: argparse.Namespace) -> Result:
    """Reload for every number of shards and every max_concurrency."""
    rows = [
        await _reloads(shards, concurrency, options)
        for shards in options.shards
        for concurrency in options.max_concurrency
    ]
    stock = {shards: await _stock(shards) for shards in options.shards if shards <= options.stock}
    for row in rows:
        row["stock_start"] = stock.get(row["shards"])
    table = Table(
        title="Seconds from spawn to ready, the floor, and the phases of a reload",
        columns=[
            "shards, max_concurrency",
            "ready after",
            "floor",
            "ready / floor",
            *PHASES,
            "switch to gone",
            "stock start",
        ],
        rows=[
            [
                f"{row['shards']}, {row['max_concurrency']}",
                row["ready_after"]["median"],
                row["floor"]["imports"]["median"] + row["floor"]["identify"] + GUILD_READY,
                f"{row['ready_after / floor']['median']:.3f}",
                *(f"{row['phases'][name]['median']:.2f}" for name in PHASES),
                f"{row['switch_to_gone']['median']:.3f}",
                row["stock_start"],
            ]
            for row in rows
        ],
    )
    return Result(
        rows=rows,
        ratios={
            "ready after / floor": {
                f"{row['shards']}, {row['max_concurrency']}": row["ready_after / floor"]["median"] for row in rows
            },
            "ready after / stock start": {
                f"{row['shards']}, {row['max_concurrency']}": round(
                    row["ready_after"]["median"] / row["stock_start"], 3
                )
                for row in rows
                if row["stock_start"]
            },
        },
        tables=[table],
        notes=[
            f"{options.rounds} reloads each, the imports of the floor measured before each; IDENTIFY window "
            f"{options.window:g} s (Discord's is 5 s). Stock discord.py sleeps 5 s a shard, whatever the window is."
        ],
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--shards", type=numbers, default=[1, 4, 16, 64], metavar="N,N")
    parser.add_argument("--max-concurrency", type=numbers, default=[1, 16], metavar="N,N")
    parser.add_argument("--rounds", type=int, default=3, help="reloads of each")
    parser.add_argument("--window", type=float, default=0.5, help="seconds of the IDENTIFY window")
    parser.add_argument("--rate", type=float, default=20.0, help="events/s meanwhile")
    parser.add_argument("--stock", type=int, default=16, help="largest number of shards that stock is started with")


BENCHMARK = Benchmark(
    name="reload_time",
    summary="How long a reload by overlap takes, phase by phase, against its floor and stock discord.py's own start.",
    limit=900,
    arguments=arguments,
    run=run,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
