"""The end of a program's process: busy threads, child processes, and restart commands."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from layouts import LAYOUTS, Program
from programs import Installed, another_release, assert_exact, gone, installed, reload_by_command, stopped

pytestmark = pytest.mark.anyio

ALLOWED = 3.0
"""Longest delay in seconds that a busy thread or a child process may cause."""
SLACK = 1.5
"""For a busy machine."""


def named(name: str) -> Program:
    return next(program for program in LAYOUTS if program.name == name)


PLAIN = named("own_loop")
"""A program whose process ends at once."""


@pytest.mark.wide
@pytest.mark.parametrize(
    "name",
    ["web_thread", "database_open", "busy_thread", "system_child", "pool_spawn", "pool_forkserver", "pool_fork"],
)
async def test_what_keeps_a_process_costs_a_reload_three_seconds_at_most_and_is_named(
    tmp_path: Path, name: str
) -> None:
    program = named(name)
    async with installed(tmp_path, PLAIN) as it:
        await it.start()
        await reload_by_command(it)
        before = await timed_reload(it)

        with another_release(it, program):
            await reload_by_command(it)
            await used(it, program)
            after = await timed_reload(it)

        assert after - before < ALLOWED + SLACK, f"{before:.1f} s, with {name} {after:.1f} s\n{it.rig.tail()}"
        assert program.holds in "\n".join(it.rig.log), it.rig.tail()
        assert not [line for line in it.rig.log if "hang" in line], it.rig.tail()
        await stopped(it)


async def timed_reload(it: Installed) -> float:
    """Reload; return the seconds from the command to the end of the old bot's process."""
    old = it.bots()
    began = time.monotonic()
    await reload_by_command(it)
    await gone(old, seconds=30)
    return time.monotonic() - began


async def used(it: Installed, program: Program) -> None:
    """Ask the program once: a pool has no processes before its first task."""
    sandbox = it.rig.sandbox
    await sandbox.journal.wait_handled(sandbox.emit_message(content=program.says[0], kind="command_message"))


@pytest.mark.parametrize(
    "name",
    [
        "system_child",
        *(
            pytest.param(name, marks=pytest.mark.wide)
            for name in ("pool_spawn", "pool_forkserver", "pool_fork", "web_thread")
        ),
    ],
)
async def test_what_a_program_has_started_ends_with_it_when_it_crashes_and_when_it_is_stopped(
    tmp_path: Path, name: str
) -> None:
    program = named(name)
    async with installed(tmp_path, program, restart__backoff_first=0.1) as it:
        await it.start()
        await used(it, program)
        old = it.bots()
        serving = (await it.rig.status())["children"][0]
        os.kill(serving["pid"], signal.SIGKILL)
        await gone(old)
        await it.rig.until(recovered)
        await used(it, program)
        await stopped(it)


@pytest.mark.wide
@pytest.mark.parametrize("name", ["system_child", "pool_spawn", "pool_forkserver", "pool_fork"])
async def test_child_processes_of_a_program_obey_sigterm_as_they_would_without_a_supervisor(
    tmp_path: Path, name: str
) -> None:
    program = named(name)
    async with installed(tmp_path, program) as it:
        await it.start()
        await used(it, program)
        serving = (await it.rig.status())["children"][0]
        children = [process for process in it.bots() if process.pid != serving["pid"] and works(process)]
        assert children
        for process in children:
            with suppress(psutil.NoSuchProcess):  # a pool that has lost one worker ends the others
                process.terminate()
        await gone(children)
        await stopped(it)


def works(process: psutil.Process) -> bool:
    """Say whether a child process is for work. multiprocessing has others for itself, which ignore signals."""
    return not process.children() and "resource_tracker" not in " ".join(process.cmdline())


def recovered(status: dict[str, Any]) -> bool:
    return [child["generation"] for child in status["children"] if child["role"] == "active"] == [2]


@pytest.mark.parametrize(
    "name",
    ["popen_restart", *(pytest.param(name, marks=pytest.mark.wide) for name in ("exec_restart", "run_forever"))],
)
async def test_a_program_that_restarts_itself_is_restarted_once_by_the_supervisor(tmp_path: Path, name: str) -> None:
    async with installed(tmp_path, named(name), restart__backoff_first=0.1) as it:
        await it.start()
        old = it.bots()
        it.rig.sandbox.emit_message(content="!restart", kind="message")
        await it.rig.until(recovered)
        await gone(old)
        it.traffic(50)
        await asyncio.sleep(1)  # a copy of the program would answer too, and a second restart would show
        await assert_exact(it, at_least=20)
        assert await it.generation() == 2
        assert len({process.pid for process in it.bots()}) == 1
        await stopped(it)
