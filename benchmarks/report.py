"""What every benchmark prints: a table for people and one line of JSON for everything else.

Knows command lines, tables and the machine it runs on; measures nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

PLOTS = Path(__file__).resolve().parent.parent / "docs" / "performance"


class BenchmarkError(Exception):
    """Something that must work before anything can be measured does not. The text has its last lines."""


@dataclass(slots=True, kw_only=True)
class Table:
    """Rows of cells under headings. Numbers are right-aligned."""

    title: str
    columns: Sequence[str]
    rows: list[Sequence[object]] = field(default_factory=list)

    def text(self) -> str:
        """Return it as Markdown that also reads well on a terminal."""
        cells = [list(self.columns), *([_cell(cell) for cell in row] for row in self.rows)]
        widths = [max(len(row[index]) for row in cells) for index in range(len(self.columns))]
        lines = ["| " + " | ".join(_padded(row, widths)) + " |" for row in cells]
        rule = (
            "|" + "|".join("-" * (width + 1) + ("-" if not index else ":") for index, width in enumerate(widths)) + "|"
        )
        return "\n".join([f"**{self.title}**", "", lines[0], rule, *lines[1:]])


@dataclass(slots=True, kw_only=True)
class Result:
    """What a benchmark found.

    ``ratios`` are what it is for: each compares two sides of this very run. ``rows`` hold the figures behind them.
    ``plots`` are SVG texts by file name.
    """

    rows: list[dict[str, Any]]
    ratios: dict[str, Any]
    tables: list[Table]
    notes: list[str] = field(default_factory=list)
    plots: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """One command. ``limit`` is its longest time in seconds with the default parameters."""

    name: str
    summary: str
    limit: float
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Awaitable[Result]]

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run it as a command. Exit codes: 0 measured; 1 it could not be, or not within its limit; 2 usage."""
        parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{self.name}", description=self.summary)
        parser.add_argument("--json", action="store_true", help="print the JSON line alone")
        parser.add_argument("--plots", type=Path, metavar="DIRECTORY", help="write the plots there, as SVG")
        parser.add_argument("--limit", type=float, default=self.limit, help="give up after so many seconds")
        self.arguments(parser)
        options = parser.parse_args(argv)
        # Should the event loop itself hang, the kernel ends this process, and with it all that it started.
        signal.alarm(math.ceil(options.limit) + 60)
        try:
            line, result = asyncio.run(self._measure(options))
        except BenchmarkError as error:
            print(f"{self.name}: {error}", file=sys.stderr)
            return 1
        finally:
            signal.alarm(0)
        if options.plots is not None:
            options.plots.mkdir(parents=True, exist_ok=True)
            for name, text in result.plots.items():
                (options.plots / name).write_text(text, encoding="utf-8")
        if not options.json:
            print("\n\n".join([table.text() for table in result.tables]))
            print("".join(f"\n- {note}" for note in result.notes))
        print(json.dumps(line))
        return 0

    async def _measure(self, options: argparse.Namespace) -> tuple[dict[str, Any], Result]:
        before = _load()
        began = time.monotonic()
        try:
            async with asyncio.timeout(options.limit) as limit:
                result = await self.run(options)
        except TimeoutError:
            if limit.expired():
                raise BenchmarkError(f"not done within {options.limit:g} s, given up") from None
            raise
        seconds = round(time.monotonic() - began, 1)
        ours = {"json", "plots", "limit"}
        line = {
            "benchmark": self.name,
            "parameters": {name: value for name, value in vars(options).items() if name not in ours},
            "machine": machine() | {"load_before": before, "load_after": _load()},
            "seconds": seconds,
            "ratios": result.ratios,
            "rows": result.rows,
            "notes": result.notes,
        }
        return line, result


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "discord.py": version("discord.py"),
    }


def numbers(text: str) -> list[int]:
    """Read "1,4,16" from a command line."""
    return [int(part) for part in text.split(",") if part]


def _load() -> float:
    """Return how many processes wanted to run in the last minute: more than the cores, and times say little."""
    return round(os.getloadavg()[0], 2)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.rjust(width) if index else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
