"""What a stop and a start costs: how long the bot is silent, what is lost, how many sessions begin anew.

The silence is the longest time between two events that the bot has handled, over the stop and the start. What comes
beyond the start of an interpreter with its imports is the end of the old bot, the supervisor's own start, and the way
to the sessions: with `restart.resume_directory` the cache of before and a RESUME, without it IDENTIFYs.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
from typing import Any

from bastion.sandbox import Sandbox
from benchmarks.installation import discord, sandbox_settings, supervised
from benchmarks.reload_time import importing
from benchmarks.report import Benchmark, Result, Table, numbers
from benchmarks.stats import spread

AFTER = 3.0
"""Seconds of traffic after the start, in which what came late is handled."""


async def _restarts(guilds: int, *, keeps: bool, options: argparse.Namespace) -> dict[str, Any]:
    silences, over, lost, identifies = [], [], 0, 0
    with tempfile.TemporaryDirectory(prefix="bastion-bench-") as directory:
        for _ in range(options.rounds):
            settings = sandbox_settings(
                shards=options.shards,
                guilds=guilds,
                channels_per_guild=options.channels,
                members_per_guild=options.members,
                network_delay=options.distance,
                send_limit=1_000_000,
            )
            async with discord(settings) as sandbox:
                imports = await importing(sandbox)
                silence, missed, begun = await _restart(sandbox, directory if keeps else "", options)
            silences.append(silence)
            over.append(silence - imports)
            lost, identifies = lost + missed, max(identifies, begun)
    return {
        "guilds": guilds,
        "keeps": keeps,
        "silence": spread(silences).as_dict(),
        "beyond_imports": spread(over).as_dict(),
        "lost": lost,
        "identifies": identifies,
    }


async def _restart(sandbox: Sandbox, directory: str, options: argparse.Namespace) -> tuple[float, int, int]:
    """Stop a bot in traffic and start it; return the silence, how many events were lost, and how many IDENTIFYs."""
    kept: dict[str, Any] = {"restart__resume_directory": directory, "start_timeout": 300.0}
    environ = {"BENCH_PRESENCES": "1"}
    async with supervised(sandbox, environ=environ, **kept):
        sandbox.traffic.start(rate=options.rate, mix={"message": 1.0})
        await asyncio.sleep(options.quiet)
        before = len(sandbox.gateway.identifies)
    async with supervised(sandbox, environ=environ, **kept):
        await asyncio.sleep(AFTER)
        await sandbox.traffic.stop()
        verdict = await sandbox.settled(timeout=20, quiet=2)
        begun = len(sandbox.gateway.identifies) - before
    times = sorted(
        one.at for entry in sandbox.journal.entries for one in sandbox.journal.handlings("message", entry.key)
    )
    return max(later - earlier for earlier, later in itertools.pairwise(times)), verdict.lost, begun


async def run(options: argparse.Namespace) -> Result:
    """Stop and start with each number of guilds, with and without the directory."""
    rows = [
        await _restarts(guilds, keeps=keeps, options=options) for guilds in options.guilds for keeps in (True, False)
    ]
    table = Table(
        title="Seconds without a handled event over a stop and a start",
        columns=["guilds", "cache and sessions", "silence", "beyond imports", "events lost", "IDENTIFYs"],
        rows=[
            [
                row["guilds"],
                "kept" if row["keeps"] else "not kept",
                f"{row['silence']['median']:.2f}",
                f"{row['beyond_imports']['median']:.2f}",
                row["lost"],
                row["identifies"],
            ]
            for row in rows
        ],
    )
    found = {(row["guilds"], row["keeps"]): row["silence"]["median"] for row in rows}
    return Result(
        rows=rows,
        ratios={
            "silence, kept / not kept": {
                str(guilds): round(found[guilds, True] / found[guilds, False], 3) for guilds in options.guilds
            }
        },
        tables=[table],
        notes=[
            f"{options.rounds} stops and starts each, {options.rate:g} messages/s, {options.shards} shards; "
            f"{options.channels} channels and {options.members} members a guild; Discord "
            f"{1000 * options.distance:g} ms away and back. The bot is given its members with its guilds."
        ],
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--guilds", type=numbers, default=[100, 1000], metavar="N,N")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--channels", type=int, default=50, help="of a guild")
    parser.add_argument("--members", type=int, default=100, help="of a guild")
    parser.add_argument("--distance", type=float, default=0.02, help="seconds to Discord and back")
    parser.add_argument("--rounds", type=int, default=3, help="of each")
    parser.add_argument("--quiet", type=float, default=3.0, help="seconds of traffic before the stop")
    parser.add_argument("--rate", type=float, default=100.0, help="messages/s")


BENCHMARK = Benchmark(
    name="restart",
    summary="What a stop and a start costs, with the cache and the sessions kept and without.",
    limit=600,
    arguments=arguments,
    run=run,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
