"""``python -m benchmarks``: all benchmarks one after the other, and their results into docs/performance.md.

Each runs as a command of its own, so that none inherits another's memory; one that fails does not keep the others from
being run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.report import PLOTS

ORDER = (
    "handoff_load",
    "moved",
    "restart",
    "reload_time",
    "quiet",
    "claims",
    "memory",
    "command_line",
    "soak",
    "others",
)
PAGE = PLOTS.parent / "performance.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Run them. Exit codes: 0 all measured, 1 some not, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Run all benchmarks in turn.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(ORDER)}; all by default")
    parser.add_argument("--record", action="store_true", help="put results and plots into docs/")
    options = parser.parse_args(argv)
    if unknown := set(options.names) - set(ORDER):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    failed = []
    for name in options.names or ORDER:
        print(f"\n## {name}\n", flush=True)
        words = [sys.executable, "-m", f"benchmarks.{name}", *(("--plots", str(PLOTS)) if options.record else ())]
        ended = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
        print(ended.stdout, flush=True)
        if ended.returncode:
            failed.append(name)
        elif options.record:
            PAGE.write_text(record(PAGE.read_text(encoding="utf-8"), name, ended.stdout), encoding="utf-8")
    if failed:
        print(f"not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def record(page: str, name: str, output: str) -> str:
    """Return the page with a benchmark's output in its place. Raises `ValueError` if the page has none for it."""
    text, _, last = output.rstrip().rpartition("\n")
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    head, found, rest = page.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no place for {name}: {begin} ... {end}")
    return f"{head}{begin}\n{text.strip()}\n\n{_circumstances(json.loads(last))}\n{end}{tail}"


def _circumstances(line: dict[str, Any]) -> str:
    machine = line["machine"]
    given = {f"--{name.replace('_', '-')}": value for name, value in line["parameters"].items()}
    flags = " ".join(f"{flag} {_word(value)}".strip() for flag, value in given.items() if value not in (False, ""))
    return (
        f"`python -m benchmarks.{line['benchmark']} {flags}`: {line['seconds']:.0f} s on {machine['cores']} cores "
        f"({machine['processor']}, {machine['system']}), Python {machine['python']}, "
        f"discord.py {machine['discord.py']}; load average {machine['load_before']} before, "
        f"{machine['load_after']} after."
    )


def _word(value: object) -> str:
    if value is True:
        return ""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    sys.exit(main())
