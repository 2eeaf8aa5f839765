"""Wrong programs: one message, the documented exit code, and the old bot goes on serving."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from layouts import LAYOUTS
from misfits import DATABASE, HOPEFUL, HOPELESS, UNTRUE_TOKEN, Misfit
from programs import Installed, another_release, assert_exact, free_port, gone, installed, reload_by_command, stopped
from rig import Ended

pytestmark = pytest.mark.anyio

CONFIGURATION = 78
FAILED = 1
GOOD = next(program for program in LAYOUTS if program.name == "cogs_main")
QUICK = ("not there", "syntax error", "no token", "raises", "exits with 3")
"""The cases of the fast suite."""


def cases(misfits: list[Misfit]) -> list[Any]:
    marks = {True: [], False: [pytest.mark.wide]}
    return [pytest.param(one, id=one.name.replace(" ", "-"), marks=marks[one.name in QUICK]) for one in misfits]


def closed_port(it: Installed) -> int:
    """Tell the program of a database that does not listen; return its port."""
    port = free_port()
    it.rig.environ["DATABASE"] = str(port)
    return port


# --- at a start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("misfit", cases(HOPELESS))
async def test_what_no_second_try_can_help_ends_the_start_with_78(tmp_path: Path, misfit: Misfit) -> None:
    async with installed(tmp_path, GOOD) as it:
        misfit.place(it.release)
        await it.rig.start(*misfit.words, serving=False)
        assert await it.rig.stopped() == CONFIGURATION, it.rig.tail()
        said = [line for line in it.rig.log if line.startswith("supervisor: ")]
        assert re.search(misfit.says, "\n".join(said)), it.rig.tail()
        assert len(said) == 2, said
        assert_tracebacks_begin_in_the_program(it.rig.log)
        assert UNTRUE_TOKEN not in "\n".join(it.rig.log)
        await gone(it.bots())


def assert_tracebacks_begin_in_the_program(log: list[str]) -> None:
    """Assert that each traceback in the log begins in the program: its author looks there first."""
    first = re.findall(r'Traceback \(most recent call last\):\n.*?File "([^"]+)"', "\n".join(log))
    assert not [file for file in first if re.search(r"/(supervisor|bot|wire|bastion)/[^/]*\.py$", file)], first


@pytest.mark.parametrize("misfit", cases(HOPEFUL))
async def test_everything_else_is_tried_again_with_backoff(tmp_path: Path, misfit: Misfit) -> None:
    async with installed(tmp_path, GOOD, restart__backoff_first=0.2, **misfit.options) as it:
        closed_port(it)
        misfit.place(it.release)
        await it.rig.start(*misfit.words, serving=False)
        await it.rig.logged("generation 3 spawned")
        assert re.search(misfit.says, "\n".join(it.rig.log)), it.rig.tail()
        assert_tracebacks_begin_in_the_program(it.rig.log)
        await stopped(it)


@pytest.mark.wide
async def test_a_database_that_comes_up_later_is_found_at_the_next_try(tmp_path: Path) -> None:
    """Tries come 1, 2, 4 ... s after each failure: with the defaults the third or the fourth finds it."""
    async with installed(tmp_path, GOOD) as it:
        port = closed_port(it)
        it.main.write_text(DATABASE)
        await it.rig.start("main.py", serving=False)
        await it.rig.logged("ConnectionRefusedError")
        await asyncio.sleep(5)  # the time that the database takes; no condition is waited for
        before = spawned(it)
        async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", port):
            await it.rig.until(lambda status: status["supervisor"]["state"] == "serving", timeout=12)
            assert spawned(it) <= before + 1, it.rig.tail()
            await stopped(it)


def spawned(it: Installed) -> int:
    return len([line for line in it.rig.log if re.search(r"generation \d+ spawned", line)])


# --- on a reload ------------------------------------------------------------------------------------------------------


@pytest.mark.wide
@pytest.mark.timeout(240)
async def test_on_a_reload_none_of_them_touches_the_bot_that_serves(tmp_path: Path) -> None:
    async with installed(tmp_path, GOOD) as it:
        closed_port(it)
        await it.start()
        commands = it.commands()
        it.traffic(50)
        for misfit in HOPELESS + HOPEFUL:
            if misfit.words == ("main.py",):
                assert_said(await reload_of(it, misfit), misfit)
                assert await it.generation() == 1
        await reload_by_command(it)
        await assert_exact(it, at_least=100)
        assert it.commands() == commands
        await stopped(it)


async def reload_of(it: Installed, misfit: Misfit) -> Ended:
    with another_release(it) as release:
        misfit.place(release)
        it.rig.configure(**misfit.options)
        return await it.rig.command("reload")


def assert_said(ended: Ended, misfit: Misfit) -> None:
    assert ended.code == FAILED, f"{misfit.name}: {ended}"
    assert re.search(misfit.says, ended.err), f"{misfit.name}: {ended.err}"
    assert ended.err.endswith(" Generation 1 goes on serving.\n"), f"{misfit.name}: {ended.err}"
    assert UNTRUE_TOKEN not in ended.out + ended.err
