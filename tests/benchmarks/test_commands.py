"""Every benchmark, with the smallest parameters that measure anything: it ends in time, its JSON has its shape."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parent.parent.parent


async def measured(name: str, *flags: str, limit: float) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"benchmarks.{name}", "--limit", str(limit), *flags),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), limit + 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    text, _, line = out.decode().rstrip().rpartition("\n")
    assert text.startswith("**")
    found: dict[str, Any] = json.loads(line)
    assert set(found) == {"benchmark", "parameters", "machine", "seconds", "ratios", "rows", "notes"}
    assert found["benchmark"] == name
    assert found["seconds"] <= limit
    assert found["rows"]
    return found


def check_spread(found: dict[str, Any], count: int) -> None:
    assert set(found) == {"median", "q1", "q3", "n"}
    assert found["n"] == count
    assert found["q1"] <= found["median"] <= found["q3"]


QUIET = ("active", "active, window", "joined, window", "standby")


async def test_quiet_compares_every_kind_in_every_state() -> None:
    found = await measured("quiet", "--rounds", "2", "--batch", "10", "--turns", "0", limit=60)
    kinds = [row["kind"] for row in found["rows"]]
    assert len(kinds) == 7
    for row in found["rows"]:
        for state in QUIET:
            check_spread(row[state]["ratio"], 2)
    assert {name: list(values) for name, values in found["ratios"].items()} == {
        f"{state} / alone": kinds for state in QUIET
    }


async def test_claims_race_and_each_key_is_won_once() -> None:
    found = await measured("claims", "--processes", "1,2", "--claims", "300", "--rounds", "1", limit=60)
    for row in found["rows"]:
        check_spread(row["per_second_each"], row["processes"])
        assert row["won"] - row["errors"] <= 300
        assert row["won"] + row["lost"] == 300 * row["processes"]
    assert set(found["ratios"]) == {"p50 of 2 / 1", "p99 of 2 / 1"}


LONG: Sequence[Any] = [
    pytest.param("handoff_load", ("--rates", "20", "--reloads", "1", "--shards", "2"), id="handoff_load"),
    pytest.param(
        "moved",
        ("--shards", "1", "--guilds", "8", "--overlap", "1", "--few", "8", "--rounds", "1", "--window", "0.1"),
        id="moved",
    ),
    pytest.param("restart", ("--guilds", "8", "--rounds", "1", "--quiet", "1"), id="restart"),
    pytest.param(
        "reload_time",
        ("--shards", "1", "--max-concurrency", "16", "--rounds", "1", "--window", "0.1", "--stock", "1"),
        id="reload_time",
    ),
    pytest.param(
        "quiet", ("--rounds", "1", "--batch", "5", "--starts", "1", "--turns", "1", "--seconds", "0.5"), id="quiet"
    ),
    pytest.param("memory", ("--rounds", "1", "--shards", "1", "--seconds", "0.5", "--idle", "1"), id="memory"),
    pytest.param("command_line", ("--rounds", "2", "--reloads", "1"), id="command_line"),
    pytest.param("soak", ("--reloads", "2", "--rate", "20"), id="soak"),
    pytest.param("others", ("--reloads", "1", "--rate", "20", "--shards", "1", "--no-npm"), id="others"),
]


@pytest.mark.wide
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "flags"), LONG)
async def test_a_benchmark_with_real_bots_measures_and_ends(name: str, flags: Sequence[str], tmp_path: Path) -> None:
    found = await measured(name, *flags, "--plots", str(tmp_path), limit=200)
    assert found["ratios"]
    assert all(path.read_text(encoding="utf-8").startswith("<svg") for path in tmp_path.iterdir())


@pytest.mark.wide
@pytest.mark.timeout(300)
async def test_where_there_is_no_npm_the_others_are_skipped_and_it_is_said_why() -> None:
    flags = ("--reloads", "1", "--rate", "20", "--shards", "1", "--no-npm", "--only", "supervisor")
    found = await measured("others", *flags, limit=200)
    assert [row["way"] for row in found["rows"]] == ["supervisor reload"]
    assert any("are skipped: left out by --no-npm" in note for note in found["notes"])
