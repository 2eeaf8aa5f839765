"""Loops over reloads: real children; a database that both write to is the judge."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sqlite3
import time
from pathlib import Path

import psutil
import pytest
from rig import Rig, active, rig

from bastion.sandbox import SandboxSettings

pytestmark = pytest.mark.anyio

WINDOW = 0.25
SWITCH = 0.25
"""Seconds that a switch may delay a tick. It takes some milliseconds; the rest is for a busy machine."""


def settings() -> SandboxSettings:
    return SandboxSettings(identify_window=WINDOW, member_request_window=0.0, identifies_per_day=100_000)


def written(database: Path, kind: str) -> list[tuple[float, int]]:
    with sqlite3.connect(database) as connection:
        return list(connection.execute("SELECT at, generation FROM ticks WHERE kind = ? ORDER BY at", (kind,)))


def assert_none_doubled_none_missing(database: Path, *, generations: int) -> None:
    ticks = written(database, "tick")
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(ticks)]
    assert min(gaps) > 1 - SWITCH, f"a tick was doubled: {gaps}"
    assert max(gaps) < 1 + SWITCH, f"a tick is missing: {gaps}"
    strikes = [round(at) for at, _ in written(database, "strike")]
    assert strikes == list(range(strikes[0], strikes[-1] + 1)), "a time of day was doubled or left out"
    for kind in ("tick", "strike"):
        by = [generation for _, generation in written(database, kind)]
        assert by == sorted(by), "an old child went on after the new one had begun"
        assert by[-1] == generations


WIDE = [pytest.mark.wide, pytest.mark.timeout(400)]


@pytest.mark.parametrize(
    ("times", "probation"),
    [
        pytest.param(2, 0, id="2"),
        pytest.param(20, 0, id="20", marks=WIDE),
        pytest.param(5, 1, id="5-on-probation", marks=WIDE),
    ],
)
async def test_loops_tick_on_over_reloads_none_doubled_none_missing(
    tmp_path: Path, times: int, probation: float
) -> None:
    async with rig(
        tmp_path,
        app="ticking:client",
        settings=settings(),
        discord__identify_window=WINDOW,
        handoff__probation=probation,
    ) as installation:
        database = tmp_path / "ticks.sqlite3"
        installation.environ["TICKS"] = str(database)
        await installation.start()
        for _ in range(times):
            outcome = await installation.reload()
            assert (outcome["result"], outcome["handoff"]["cut"]) == ("succeeded", [])
        await _ticked(installation, database, generation=times + 1)
        assert_none_doubled_none_missing(database, generations=times + 1)


async def _ticked(installation: Rig, database: Path, *, generation: int) -> None:
    def both(status: dict[str, object]) -> bool:
        return (
            all(sum(by == generation for _, by in written(database, kind)) >= 2 for kind in ("tick", "strike"))
            and active(status) is not None
        )

    await installation.until(both)


@pytest.mark.wide
async def test_a_new_child_that_dies_on_probation_hands_the_loops_back(tmp_path: Path) -> None:
    async with rig(
        tmp_path,
        app="ticking:client",
        settings=settings(),
        discord__identify_window=WINDOW,
        handoff__probation=60,
    ) as installation:
        database = tmp_path / "ticks.sqlite3"
        installation.environ["TICKS"] = str(database)
        await installation.start()
        installation.hup()
        status = await installation.until(lambda status: (active(status) or {}).get("generation") == 2)
        await _ticked(installation, database, generation=2)
        psutil.Process(next(c["pid"] for c in status["children"] if c["generation"] == 2)).kill()
        count = len(written(database, "tick"))
        await installation.until(
            lambda status: (active(status) or {}).get("generation") == 1 and len(written(database, "tick")) > count + 1
        )
        by = [generation for _, generation in written(database, "tick")]
        assert (by[0], by[-1]) == (1, 1)
        assert 2 in by


LONG = 8.0
"""As in the app: a loop of so many seconds must be marked to keep its step."""


@pytest.mark.wide
@pytest.mark.timeout(180)
async def test_a_marked_loop_of_a_long_interval_keeps_its_step_over_reloads_and_a_death(tmp_path: Path) -> None:
    async with rig(
        tmp_path, app="ticking:client", settings=settings(), discord__identify_window=WINDOW, restart__backoff_first=0.2
    ) as installation:
        database = tmp_path / "ticks.sqlite3"
        installation.environ["TICKS"] = str(database)
        await installation.start()
        for number in range(3):
            await asyncio.sleep(1.5 if number else 0)
            assert (await installation.reload())["result"] == "succeeded"
        count = len(written(database, "remind"))
        status = await installation.until(lambda _: len(written(database, "remind")) > count)
        serving = active(status)
        assert serving is not None
        os.kill(serving["pid"], signal.SIGKILL)
        await installation.until(lambda status: (active(status) or {}).get("generation") == 5)
        assert time.time() < written(database, "remind")[-1][0] + LONG, "it took too long to tell anything"
        await installation.until(lambda _: sum(by == 5 for _, by in written(database, "remind")) >= 2)
        reminders = written(database, "remind")
        gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(reminders)]
        assert min(gaps) > LONG - SWITCH, f"a reminder was doubled: {reminders}"
        assert max(gaps) < LONG + SWITCH, f"a reminder is missing: {reminders}"
        fills = [at for at, _ in written(database, "fill")]
        extra = min(later - earlier for earlier, later in itertools.pairwise(fills))
        assert extra < LONG - SWITCH, "a turn too many of one that is not marked would be seen"
