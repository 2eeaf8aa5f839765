"""How long the commands take: status, healthcheck, reload --no-wait, against the interpreter by itself.

Whole processes, from before the start until after the end, in turn with ``python -c pass``.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import time
from collections.abc import Sequence

from bastion.supervisor.cli import cli
from benchmarks.installation import Supervised, discord, sandbox_settings, supervised
from benchmarks.report import Benchmark, BenchmarkError, Result, Table
from benchmarks.stats import Spread, ratios, spread

PASS = "python -c pass"


def _commands(supervisor: Supervised) -> dict[str, Sequence[str]]:
    config = ["--config", str(supervisor.config)]
    start = [sys.executable, "-m", "bastion.supervisor"]
    found: dict[str, Sequence[str]] = {
        PASS: [sys.executable, "-c", "pass"],
        "status": [*start, "status", *config],
        "status --json": [*start, "status", "--json", *config],
        "healthcheck": [*start, "healthcheck", *config],
        "--version": [*start, "--version"],
        "reload --no-wait": [*start, "reload", "--no-wait", *config],
    }
    return {name: command for name, command in found.items() if name != "healthcheck" or "healthcheck" in cli.commands}


async def _timed(command: Sequence[str], environ: dict[str, str]) -> tuple[float, float]:
    """Return wall and CPU seconds of a process."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *command, env=environ, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    spent = _children()
    if await process.wait():
        raise BenchmarkError(f"{' '.join(command)} exited with {process.returncode}")
    return time.monotonic() - began, _children() - spent


def _children() -> float:
    """CPU seconds of this process's ended children; supervisor and bots live on, so a command's own appear here."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


async def run(options: argparse.Namespace) -> Result:
    """Run every command in turn; a reload is let to end before the next turn."""
    async with discord(sandbox_settings(shards=1)) as sandbox, supervised(sandbox) as supervisor:
        commands = _commands(supervisor)
        wall: dict[str, list[float]] = {name: [] for name in commands}
        cpu: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(options.rounds):
            for name, command in commands.items():
                if name == "reload --no-wait" and turn >= options.reloads:
                    continue
                took, spent = await _timed(command, supervisor.environ)
                wall[name].append(took)
                cpu[name].append(spent)
            if turn < options.reloads:
                await supervisor.serving()
    over = {name: ratios(times, wall[PASS][: len(times)]).as_dict() for name, times in wall.items() if name != PASS}
    table = Table(
        title="Milliseconds of a whole command",
        columns=["command", "wall", "CPU", "wall / python -c pass"],
        rows=[
            [
                name,
                _ms(wall[name]).text(),
                _ms(cpu[name]).text(),
                f"{over[name]['median']:.2f}" if name in over else "1",
            ]
            for name in commands
        ],
    )
    allowed = 1.5 * _ms(wall[PASS]).median + 60
    return Result(
        rows=[
            {"command": name, "wall_ms": _ms(wall[name]).as_dict(), "cpu_ms": _ms(cpu[name]).as_dict()}
            for name in commands
        ],
        ratios=over,
        tables=[table],
        notes=[f"{options.rounds} rounds in turn. 1.5 x python -c pass + 60 ms is {allowed:.0f} ms in this run."],
    )


def _ms(seconds: Sequence[float]) -> Spread:
    return spread([1000 * value for value in seconds])


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--reloads", type=int, default=5, help="rounds that also reload")


BENCHMARK = Benchmark(
    name="command_line",
    summary="How long status, healthcheck and reload --no-wait take, against the interpreter by itself.",
    limit=180,
    arguments=arguments,
    run=run,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
