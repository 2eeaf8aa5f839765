"""Claims: how many a second, how long one takes, and what of it holds up the event loop, with 1, 2 and 4 processes.

Every process claims the same keys in the same order, so all but one lose each: the worst that a handoff can bring. A
claim runs on the event loop, so what it takes is what everything else there waits.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bastion.bot.ledger import SQLiteLedger
from benchmarks.installation import environment_of_this
from benchmarks.report import Benchmark, BenchmarkError, Result, Table, numbers
from benchmarks.stats import percentile, spread

_MEMORY = Path("/dev/shm")


def work(path: str, generation: int, count: int, rate: float) -> dict[str, Any]:
    """Be one process: wait for the others, claim, say how long each claim took. ``rate`` 0 is as fast as it goes."""
    ledger = SQLiteLedger(path, generation)
    ledger.claimed(["open"])
    print("ready", flush=True)
    begin = float(sys.stdin.readline())
    time.sleep(max(0.0, begin - time.monotonic()))
    times = []
    cpu = 0.0
    began = time.monotonic()
    for number in range(count):
        if rate and (early := began + number / rate - time.monotonic()) > 0:
            time.sleep(early)
        key = f"MESSAGE_CREATE:{number:019}"
        spent, at = time.thread_time(), time.monotonic()
        ledger.claim(key, at)
        times.append(time.monotonic() - at)
        cpu += time.thread_time() - spent
    return {
        "seconds": time.monotonic() - began,
        "cpu": cpu,
        "won": ledger.won,
        "lost": ledger.lost,
        "errors": ledger.errors,
        "times": times,
    }


async def _race(processes: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as directory:
        path = str(Path(directory) / "ledger.sqlite")
        SQLiteLedger(path, 0).clear()
        started = []
        try:
            for generation in range(1, processes + 1):
                words = [path, str(generation), str(options.claims), str(options.rate)]
                started.append(
                    await asyncio.create_subprocess_exec(
                        *(sys.executable, "-m", "benchmarks.claims", "--work", *words),
                        env=environment_of_this(),
                        stdin=asyncio.subprocess.PIPE,
                        stdout=asyncio.subprocess.PIPE,
                        limit=2**26,
                    )
                )
            for process in started:
                assert process.stdout is not None
                if await process.stdout.readline() != b"ready\n":
                    raise BenchmarkError("a process that claims ended before it began")
            begin = f"{time.monotonic() + 0.2}\n".encode()
            outs = await asyncio.gather(*(process.communicate(begin) for process in started))
        except BaseException:
            for process in started:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            raise
    return [json.loads(out) for out, _ in outs]


async def _rounds(processes: int, options: argparse.Namespace) -> dict[str, Any]:
    found = [await _race(processes, options) for _ in range(options.rounds)]
    everything = [one for race in found for one in race]
    times = [1e6 * value for one in everything for value in one["times"]]
    won = sum(one["won"] for one in everything)
    return {
        "processes": processes,
        "per_second_each": spread([options.claims / one["seconds"] for one in everything]).as_dict(),
        "us": {name: round(percentile(times, share), 1) for name, share in _SHARES.items()},
        "cpu_us": spread([1e6 * one["cpu"] / options.claims for one in everything]).as_dict(),
        "waiting": round(max(0.0, 1 - sum(one["cpu"] for one in everything) * 1e6 / sum(times)), 3),
        "won": won,
        "lost": sum(one["lost"] for one in everything),
        "errors": sum(one["errors"] for one in everything),
        "won_twice": won - options.rounds * options.claims,
    }


_SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


async def run(options: argparse.Namespace) -> Result:
    """Race with every number of processes."""
    rows = [await _rounds(processes, options) for processes in options.processes]
    alone = rows[0]
    table = Table(
        title="Claims, all processes racing for the same keys",
        columns=[
            *("processes", "claims/s each", "us: p50", "p99", "p99.9", "max", "CPU us", "waits", "errors", "won twice")
        ],
        rows=[
            [
                str(row["processes"]),
                row["per_second_each"]["median"],
                *row["us"].values(),
                row["cpu_us"]["median"],
                f"{100 * row['waiting']:.0f} %",
                row["errors"],
                row["won_twice"],
            ]
            for row in rows
        ],
    )
    return Result(
        rows=rows,
        ratios={
            f"{name} of {row['processes']} / {alone['processes']}": round(row["us"][name] / alone["us"][name], 2)
            for row in rows[1:]
            for name in ("p50", "p99")
        },
        tables=[table],
        notes=[
            f"{options.rounds} rounds of {options.claims} claims a process, "
            + (f"{options.rate:g} a second each. " if options.rate else "as fast as they go. ")
            + '"waits" is the share of the time of claims in which their process has no CPU: another one holds the '
            "lock, or the core."
        ],
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--processes", type=numbers, default=[1, 2, 4], metavar="N,N")
    parser.add_argument("--claims", type=int, default=20_000, help="of each process in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=2500.0, help="claims/s of each process; 0: as fast as it goes")


BENCHMARK = Benchmark(
    name="claims",
    summary="Claims a second and what one takes, with 1, 2 and 4 processes racing for the same keys.",
    limit=300,
    arguments=arguments,
    run=run,
)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        print(json.dumps(work(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))))
        sys.exit(0)
    sys.exit(BENCHMARK.main())
