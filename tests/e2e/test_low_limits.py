"""Low limits in the middle of a reload, on descriptors, on processes, on memory: the old bot serves, they are named."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from ordeal import Following, pid
from rig import Rig, active, rig

pytestmark = [pytest.mark.anyio, pytest.mark.wide]

UID = 61234
"""A user without an account."""
AS_USER = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
READS_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
"""The interpreter may be in a home that is closed to others."""
OPTIONS = {"discord__identify_window": 0.2, "handoff__drain_timeout": 3}


async def still_serves(installation: Rig, generation: int) -> None:
    """The bot that was active before is so still, alone, and handles what comes now."""
    status = await installation.until(
        lambda status: status["supervisor"]["state"] == "serving" and len(status["children"]) == 1
    )
    assert (active(status) or {})["generation"] == generation
    entry = installation.sandbox.emit_message(content="hello")
    await installation.sandbox.journal.wait_handled(entry, timeout=20)


def lowest_free(process: int) -> int:
    """Return the number of the next descriptor that a process would open."""
    taken = {int(file.name) for file in Path(f"/proc/{process}/fd").iterdir()}
    return next(number for number in range(4096) if number not in taken)


async def test_a_supervisor_that_may_open_no_more_files_keeps_its_bot_and_names_the_limit(tmp_path: Path) -> None:
    async with rig(tmp_path, app="stateful:Stateful", **OPTIONS) as installation:
        await installation.start()
        assert installation.process is not None
        supervisor = installation.process.pid
        serving, succeeded = 1, 0
        for more in (0, 1, 2, 3, 5, 7, 9, 11, 13):
            ended = len(installation.log)
            limit = lowest_free(supervisor) + more
            resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (limit, 4096))
            installation.hup()
            line = await outcome(installation, ended)
            resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (1024, 4096))
            if "reload succeeded" in line:
                status = await installation.until(lambda status: len(status["children"]) == 1)
                serving, succeeded = status["children"][0]["generation"], succeeded + 1
            else:
                assert f"a process may have {limit} files open: RLIMIT_NOFILE" in line, line
            await still_serves(installation, serving)
        assert (await installation.reload())["result"] == "succeeded", installation.tail()
        assert await installation.stop() == 0
        assert succeeded < 5
        assert not any("supervisor: Traceback" in line for line in installation.log)


async def outcome(installation: Rig, after: int) -> str:
    """Wait for the line that tells of a reload's end."""
    while True:
        await installation.logged("reload ")
        for line in installation.log[after:]:
            if any(f"supervisor: reload {result}" in line for result in ("succeeded", "failed", "refused")):
                return line
        installation._grew.clear()
        await installation._grew.wait()


def threads_of_user() -> int:
    """Count as RLIMIT_NPROC does."""
    count = 0
    for process in psutil.process_iter():
        try:
            count += process.num_threads() if process.uids().real == UID else 0
        except psutil.Error:
            continue
    return count


def limit_processes(process: int, limit: int) -> None:
    subprocess.run([*AS_USER, "prlimit", f"--pid={process}", f"--nproc={limit}:4096"], check=True)


async def test_a_supervisor_that_may_start_no_more_processes_keeps_its_bot_and_names_the_limit(
    tmp_path: Path,
) -> None:
    if os.geteuid():
        pytest.skip("root is exempt from this limit, and only root may start a supervisor as somebody else")
    if not (shutil.which("setpriv") and shutil.which("prlimit")):
        pytest.skip("there is no setpriv or no prlimit (util-linux) to run a supervisor as a user with a low limit")
    os.chown(tmp_path, UID, UID)
    async with rig(tmp_path, app="stateful:Stateful", **OPTIONS) as installation:
        installation.prefix = (*AS_USER, *READS_ALL)
        await installation.start()
        assert installation.process is not None
        supervisor, serving = installation.process.pid, 1
        for more in range(4):
            limit = threads_of_user() + more
            limit_processes(supervisor, limit)
            ended = await installation.reload()
            limit_processes(supervisor, 1024)
            if ended["result"] == "succeeded":
                serving = ended["generation"]
                assert ended["handoff"]["duration"] < 20, "the old one has left by itself"
            else:
                assert f"{limit} for uid {UID}, RLIMIT_NPROC" in ended["reason"]
                assert more < 3
            await still_serves(installation, serving)
        assert await installation.stop() == 0


async def test_a_new_bot_that_the_kernel_kills_in_the_middle_of_a_reload_is_told_of_with_the_memory_there_is(
    tmp_path: Path,
) -> None:
    async with rig(tmp_path, app="stateful:Stateful", **OPTIONS) as installation:
        await installation.start()
        for phase, generation in (("spawning", 2), ("connecting", 3)):
            reloading = Following(installation)
            await reloading.until(phase)
            await installation.logged(f"generation {generation} spawned")
            os.kill(pid(installation, generation), signal.SIGKILL)
            ended = await reloading.result()
            assert ended["result"] == "failed"
            reason = (
                f"generation {generation}: killed by SIGKILL, which nobody here has sent: perhaps the kernel, for want"
            )
            assert ended["reason"].startswith(reason), ended
            assert " are used (" in ended["reason"], "the tightest limit is named"
            await still_serves(installation, 1)
        assert (await installation.reload())["result"] == "succeeded"
