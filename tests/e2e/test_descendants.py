"""Whatever a bot has started ends with it: after a reload, a crash and a stop no process of the bot's is left."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest
from rig import Rig, active, rig

pytestmark = pytest.mark.anyio

COUNT = 6
"""Processes that tests/apps/with_processes.py starts."""


def living(pids: Iterable[int]) -> list[int]:
    """Return the processes that run. A dead process stays in /proc until its parent has waited for it."""
    found = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            pass
    return found


def started(directory: Path, generation: int) -> list[int]:
    """Return the processes that a generation has started."""
    return [int(path.name.partition("-")[2]) for path in directory.glob(f"{generation}-*")]


async def serving(installation: Rig, generation: int) -> int:
    """Wait until only this generation lives, and is active; return its pid."""
    status = await installation.until(
        lambda status: (
            [(child["generation"], child["role"]) for child in status["children"]] == [(generation, "active")]
        )
    )
    child = active(status)
    assert child is not None
    return int(child["pid"])


@pytest.mark.wide
async def test_reload_crash_and_stop_leave_no_process_of_the_bots(tmp_path: Path) -> None:
    directory = tmp_path / "processes"
    directory.mkdir()
    async with rig(tmp_path, app="with_processes:client") as installation:
        installation.environ["PROCESSES"] = str(directory)
        await installation.start()
        await serving(installation, 1)
        assert len(living(started(directory, 1))) == COUNT

        assert (await installation.reload())["result"] == "succeeded"
        pid = await serving(installation, 2)
        assert living(started(directory, 1)) == []
        assert len(living(started(directory, 2))) == COUNT, "another generation's go on"

        os.kill(pid, signal.SIGKILL)
        pid = await serving(installation, 3)
        assert living(started(directory, 2)) == []
        assert len(living(started(directory, 3))) == COUNT
        await installation.logged("generation 1 left ")
        await installation.logged(f"generation 2 left {COUNT} processes behind, ended: ")

        assert installation.process is not None
        supervisor = psutil.Process(installation.process.pid)
        parents = {psutil.Process(pid).ppid() for pid in started(directory, 3)}
        assert parents == {pid, supervisor.pid}, "orphans are handed to the supervisor"
        assert [child.pid for child in supervisor.children() if child.status() == psutil.STATUS_ZOMBIE] == []
        assert await installation.stop() == 0
        assert living(started(directory, 3)) == []


@pytest.mark.wide
async def test_a_bot_that_starts_a_copy_of_itself_is_restarted_once_by_the_supervisor(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    async with rig(tmp_path, app="copies_itself:client", restart__backoff_first=0.1) as installation:
        installation.environ["COPY"] = str(copy)
        await installation.start(serving=False)
        await installation.logged("generation 1 has left")
        await serving(installation, 2)
        name = f"{Path(sys.executable).name} copies_itself.py"
        pid = int(copy.read_text())
        assert living([pid]) == []
        await installation.logged("generation 1 left ")
        await installation.logged(
            "generation 1 has left: exited with status 0, "
            f"after it had started a copy of itself ({name}), which was ended"
        )
        assert await installation.stop() == 0
