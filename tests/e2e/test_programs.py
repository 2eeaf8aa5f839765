"""Any bot as it is: programs of every layout, started by nothing but `supervisor run main.py`, reloaded and stopped."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from layouts import EXAMPLES, LAYOUTS, Program
from programs import (
    Installed,
    assert_exact,
    installed,
    reload_by_command,
    reload_by_hup,
    reload_of_a_broken_release,
    stopped,
)

pytestmark = pytest.mark.anyio

RATE = 50
"""Events a second of the wide suite."""


def cases(programs: list[Program]) -> list[Any]:
    return [pytest.param(program, id=program.name) for program in programs]


def named(name: str) -> Program:
    return next(program for program in LAYOUTS if program.name == name)


def require(program: Program, python: str) -> None:
    """Skip the test if the program needs a module or a newer Python."""
    asked = f"import sys{', ' + program.needs if program.needs else ''}; print(*sys.version_info[:2])"
    ran = subprocess.run([python or sys.executable, "-c", asked], capture_output=True, text=True, check=False)
    if ran.returncode:
        pytest.skip(f"{program.name} needs {program.needs}, which {python or sys.executable} does not have")
    version = tuple(int(number) for number in ran.stdout.split())
    if version < program.since:
        pytest.skip(f"{program.name} needs Python {'.'.join(map(str, program.since))}")


@pytest.mark.parametrize("program", cases([program for program in LAYOUTS if program.quick]))
async def test_a_program_is_started_reloaded_and_stopped_as_it_is(tmp_path: Path, program: Program) -> None:
    async with installed(tmp_path, program) as it:
        await it.start()
        commands = it.commands()
        it.traffic(20)
        await reload_by_command(it)
        await assert_exact(it, at_least=10)
        assert it.commands() == commands
        await stopped(it)
        assert it.marked("clean-up") == {1: 1, 2: 1}


@pytest.mark.wide
@pytest.mark.timeout(180)
@pytest.mark.parametrize("program", cases(LAYOUTS + EXAMPLES))
@pytest.mark.parametrize("on", ["this python", "the newest python"])
async def test_three_reloads_of_any_layout_lose_nothing_and_double_nothing(
    tmp_path: Path, program: Program, on: str, request: pytest.FixtureRequest
) -> None:
    python = request.getfixturevalue("newest_python") if on == "the newest python" else ""
    require(program, python)
    async with installed(tmp_path, program, python=python) as it:
        await it.start()
        commands = it.commands()
        it.traffic(RATE)
        await reload_by_command(it)
        await reload_by_hup(it)
        await reload_of_a_broken_release(it)
        await assert_serves(it, generation=3)
        await assert_exact(it, at_least=20 if program.kinds() else 0)
        assert it.commands() == commands
        await stopped(it)
        if program.cleans_up:
            assert it.marked("clean-up") == {1: 1, 2: 1, 3: 1}


async def assert_serves(it: Installed, *, generation: int) -> None:
    """Wait until the generation has handled an event; or has written a message, if the program handles no events."""
    journal = it.rig.sandbox.journal
    if it.program.kinds():
        await journal.until(lambda: journal.verdict().by_generation.get(generation, 0) > 0)
    else:
        await journal.until(lambda: any(call.method == "POST" and call.by == generation for call in journal.rest))


# --- the program's own logging and token ------------------------------------------------------------------------------


@pytest.mark.wide
async def test_a_log_file_of_its_own_has_each_line_once(tmp_path: Path) -> None:
    async with installed(tmp_path, named("own_logging")) as it:
        await it.start()
        await reload_by_command(it)
        await stopped(it)
        lines = (it.release / "bot.log").read_text().splitlines()
        assert len([line for line in lines if line.startswith("INFO:mybot:ready as ")]) == 2
        assert len([line for line in lines if line == "INFO:mybot:good-bye"]) == 2
        assert not [line for line in it.rig.log if "ready as" in line]


@pytest.mark.wide
@pytest.mark.parametrize(
    ("name", "said"), [("setup_logging", "ready as bastion"), ("plain_run", "logging in using static token")]
)
async def test_what_a_program_logs_on_its_own_is_in_the_log_once(tmp_path: Path, name: str, said: str) -> None:
    async with installed(tmp_path, named(name)) as it:
        await it.start()
        await it.rig.logged(said)
        await stopped(it)
        found = [line for line in it.rig.log if said in line]
        assert len(found) == 1, found
        assert re.search(r"INFO .*discord\.", found[0])


TOKEN = "a-token-as-long-as-others"
TALKATIVE = f"""import discord
client = discord.Client(intents=discord.Intents.none(), guild_ready_timeout=0.3)


@client.event
async def on_ready():
    print(f"on_ready: my token is {{client.http.token}}.", flush=True)


client.run("{TOKEN}")
"""


async def test_a_token_that_only_the_program_has_is_masked_in_the_log(tmp_path: Path) -> None:
    async with installed(tmp_path, named("plain_run"), token=TOKEN) as it:
        it.main.write_text(TALKATIVE)
        await it.start()
        line = await it.rig.logged("on_ready: my token is ")
        await stopped(it)
        assert it.rig.sandbox.token not in line
