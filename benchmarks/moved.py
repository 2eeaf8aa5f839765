"""What a reload costs whose sessions move, by shards and by guilds, and the same reload by overlap beside it.

The floor of either is an interpreter that imports discord.py and the bot. The pause of a shard is from when the old bot
stops reading it until Discord has accepted the new bot's RESUME.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from bastion.sandbox import Sandbox
from benchmarks.installation import MIX, discord, sandbox_settings, supervised
from benchmarks.reload_time import importing
from benchmarks.report import Benchmark, Result, Table, numbers
from benchmarks.stats import spread
from benchmarks.svg import Chart, Line

PER_SHARD = 2500
"""Guilds that Discord allows a shard."""
REPORTED = 0.5
"""Seconds until what a bot notes has come."""


async def _reloads(shards: int, guilds: int, session: str, options: argparse.Namespace) -> dict[str, Any]:
    settings = sandbox_settings(
        shards=shards,
        guilds=guilds,
        channels_per_guild=options.channels,
        members_per_guild=options.members,
        identify_window=options.window,
        network_delay=options.distance,
        send_limit=1_000_000,  # else a start with 1,000 guilds would measure how often members may be asked for
    )
    took, over, pauses, identifies = [], [], [], []
    quiet, blocked = [], []
    environ = {"BENCH_PRESENCES": "1", "BENCH_LAG": "1"}
    async with (
        discord(settings) as sandbox,
        supervised(sandbox, start_timeout=300.0, environ=environ, handoff__session=session) as supervisor,
    ):
        sandbox.traffic.start(rate=options.rate, mix=MIX)
        for _ in range(options.rounds):
            await asyncio.sleep(options.window)
            imports = await importing(sandbox)
            began = time.monotonic()
            await asyncio.sleep(options.quiet)
            asked = time.monotonic()
            handoff = await supervisor.reload()
            await asyncio.sleep(REPORTED)
            quiet.append(_longest_block(sandbox, handoff["from"], began, asked))
            blocked.append(_longest_block(sandbox, handoff["from"], asked, time.monotonic()))
            phases = handoff["phases"]
            took.append(sum(phases[name] for name in ("spawning", "connecting", "activating")))
            over.append(took[-1] - imports)
            pauses.append(handoff["pause_ms"])
            identifies.append(handoff["identifies"])
            await supervisor.serving()
    return {
        "shards": shards,
        "guilds": guilds,
        "session": session,
        "active_after": spread(took).as_dict(),
        "beyond_imports": spread(over).as_dict(),
        "pause_ms": spread(pauses).as_dict(),
        "identifies": max(identifies),
        "block_quiet_ms": spread(quiet).as_dict(),
        "block_ms": spread(blocked).as_dict(),
    }


def _longest_block(sandbox: Sandbox, generation: int, since: float, until: float) -> float:
    """Return for how many milliseconds a bot's event loop was blocked at most, 0 for less than it reports."""
    notes = (note.split(":") for note in sandbox.journal.notes("lag"))
    return max((float(ms) for by, at, ms in notes if int(by) == generation and since < float(at) < until), default=0.0)


async def run(options: argparse.Namespace) -> Result:
    """Reload for every number of shards with few guilds, and for every number of guilds with few shards."""
    moved = [(shards, options.few) for shards in options.shards] + [
        (math.ceil(guilds / PER_SHARD), guilds) for guilds in options.guilds
    ]
    rows = [await _reloads(shards, guilds, "auto", options) for shards, guilds in moved]
    rows += [await _reloads(shards, options.few, "overlap", options) for shards in options.overlap]
    table = Table(
        title="Seconds from spawn to active, without the imports, and what the switch took",
        columns=[
            *("shards", "guilds", "session", "active after", "beyond imports", "pause ms", "IDENTIFYs"),
            *("longest block of the old bot, ms", "and without a reload, ms"),
        ],
        rows=[
            [
                row["shards"],
                row["guilds"],
                "moved" if row["session"] == "auto" else "overlap",
                f"{row['active_after']['median']:.2f}",
                f"{row['beyond_imports']['median']:.2f}",
                f"{row['pause_ms']['median']:.0f}",
                row["identifies"],
                f"{row['block_ms']['median']:.0f}",
                f"{row['block_quiet_ms']['median']:.0f}",
            ]
            for row in rows
        ],
    )
    by_overlap = {row["shards"]: row["active_after"]["median"] for row in rows if row["session"] == "overlap"}
    return Result(
        rows=rows,
        ratios={
            "active after, moved / overlap": {
                str(row["shards"]): round(row["active_after"]["median"] / by_overlap[row["shards"]], 3)
                for row in rows
                if row["session"] == "auto" and row["guilds"] == options.few and row["shards"] in by_overlap
            }
        },
        tables=[table],
        plots={
            "moved_pause.svg": _pauses([row for row in rows if row["session"] == "auto"], options.few),
            "moved_reload.svg": _times([row for row in rows if row["session"] == "auto"], options.few),
        },
        notes=[
            f"{options.rounds} reloads each under {options.rate:g} events/s; {options.channels} channels and "
            f"{options.members} members a guild; the gateway {1000 * options.distance:g} ms away and back; IDENTIFY "
            f"window {options.window:g} s (Discord's is 5 s). Probation is off. The bot has the presences intent."
        ],
    )


def _pauses(moved: Sequence[dict[str, Any]], few: int) -> str:
    """Return the longest pause of a shard against the number of shards, where there are few guilds."""
    points = sorted((row["shards"], row["pause_ms"]["median"]) for row in moved if row["guilds"] == few)
    return Chart(
        title="Longest pause of a shard at the switch",
        x="shards",
        y="ms",
        lines=[Line(name=f"{few} guilds", points=points)],
    ).svg()


def _times(moved: Sequence[dict[str, Any]], few: int) -> str:
    """Return how long a reload takes against the number of guilds, with as few shards as these need."""
    fewest = min((row["shards"] for row in moved if row["guilds"] == few), default=0)
    chosen = [row for row in moved if row["guilds"] != few or row["shards"] == fewest]

    def points(name: str) -> list[tuple[float, float]]:
        return sorted((row["guilds"], row[name]["median"]) for row in chosen)

    return Chart(
        title="From spawn to active",
        x="guilds",
        y="s",
        lines=[
            Line(name="in all", points=points("active_after")),
            Line(name="beyond imports", points=points("beyond_imports")),
        ],
    ).svg()


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--shards", type=numbers, default=[1, 4, 16, 32, 64], metavar="N,N")
    parser.add_argument(
        "--guilds",
        type=numbers,
        default=[500, 1000, 2500, 5000],
        metavar="N,N",
        help="with as few shards as Discord allows",
    )
    parser.add_argument("--overlap", type=numbers, default=[1, 16], metavar="N,N", help="shards, by overlap")
    parser.add_argument("--few", type=int, default=100, help="guilds where shards are varied")
    parser.add_argument("--channels", type=int, default=50, help="of a guild")
    parser.add_argument("--members", type=int, default=100, help="of a guild")
    parser.add_argument("--distance", type=float, default=0.02, help="seconds to the gateway and back")
    parser.add_argument("--rounds", type=int, default=3, help="reloads of each")
    parser.add_argument("--quiet", type=float, default=3.0, help="seconds before each reload, to compare with")
    parser.add_argument("--window", type=float, default=0.5, help="seconds of the IDENTIFY window")
    parser.add_argument("--rate", type=float, default=20.0, help="events/s meanwhile")


BENCHMARK = Benchmark(
    name="moved",
    summary="What a reload costs whose sessions move, by shards and by guilds, beside one by overlap.",
    limit=900,
    arguments=arguments,
    run=run,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
