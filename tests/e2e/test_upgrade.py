"""The supervisor is upgraded in place under load: real supervisor, real bots, real websockets."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from casualties import unexplained
from rig import ALL_KINDS, Rig, active
from test_handoff import reload_by_command
from test_lingering import assert_answered_right, nothing_more, opened
from test_lingering import installed as lingering
from test_moved import serving, the_end

pytestmark = pytest.mark.anyio

DONE = "re-executed: supervisor"


async def logged(installation: Rig, text: str, *, times: int = 1) -> None:
    async with asyncio.timeout(30):
        while sum(text in line for line in installation.log) < times:
            installation._grew.clear()
            await installation._grew.wait()


def ask(installation: Rig) -> None:
    assert installation.process is not None
    installation.process.send_signal(signal.SIGUSR2)


async def upgraded(installation: Rig, *, result: str = "succeeded") -> dict[str, Any]:
    """Send SIGUSR2; return the status as soon as the handoff that belongs to it has ended."""
    before = sum("re-execution's reload " + result in line for line in installation.log)
    ask(installation)
    await logged(installation, "re-execution's reload " + result, times=before + 1)
    return await installation.status()


def known(status: dict[str, Any]) -> tuple[Any, ...]:
    """What the operator knows the supervisor by."""
    return tuple(status["supervisor"][key] for key in ("pid", "started_at"))


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=[pytest.mark.wide, pytest.mark.timeout(300)])])
async def test_it_costs_no_event_and_no_identify(tmp_path: Path, times: int) -> None:
    async with serving(tmp_path, app="sharded_bot") as installation:
        before = await installation.status()
        installation.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        for generation in range(2, times + 2):
            status = await upgraded(installation)
            assert known(status) == known(before)
            assert (active(status) or {})["generation"] == generation
            handoff = status["last_handoff"]
            assert (handoff["kind"], handoff["from"], handoff["to"]) == ("reload", generation - 1, generation)
            assert (handoff["session"], handoff["identifies"], handoff["cut"]) == ("moved", 0, [])
            assert status["session_start_limit"]["max_concurrency"] == 16
        await reload_by_command(installation)
        await the_end(installation, identifies=4)

        bot = active(await installation.status())
        assert bot is not None
        os.kill(bot["pid"], signal.SIGUSR1)
        await installation.logged(f'gen {bot["generation"]}:   File "')
        os.kill(bot["pid"], signal.SIGKILL)
        await installation.until(
            lambda status: (active(status) or bot)["generation"] > bot["generation"] and status["restarts"] == 1
        )
        assert await installation.stop() == 0


@pytest.mark.wide
async def test_where_sessions_do_not_move_no_two_identifies_come_too_close(tmp_path: Path) -> None:
    async with serving(
        tmp_path, app="sharded_bot", handoff__session="overlap", discord__identify_window=1.0
    ) as installation:
        installation.sandbox.settings.identify_window = 1.0
        installation.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        for _ in range(3):
            assert (await upgraded(installation))["last_handoff"]["session"] == "overlap"
        await the_end(installation, identifies=16)
        assert not installation.sandbox.gateway.violations
        assert await installation.stop() == 0


async def test_what_people_are_in_the_middle_of_ends_where_it_began(tmp_path: Path) -> None:
    async with lingering(tmp_path) as installation:
        sandbox = installation.sandbox
        before = await opened(sandbox)
        status = await upgraded(installation)
        assert [(child["generation"], child["role"]) for child in status["children"]] == [
            (1, "draining"),
            (2, "active"),
        ]
        assert status["last_handoff"]["cut"] == []
        await assert_answered_right(sandbox, before, opener=1, newest=2)
        # The next one has the older bot leave first, and what is open in the newer one goes on.
        await opened(sandbox)
        status = await upgraded(installation)
        assert {child["generation"] for child in status["children"]} <= {2, 3}
        await nothing_more(sandbox)
        assert await installation.stop() == 0


async def test_a_new_bot_that_is_no_good_leaves_the_old_one_which_serves_under_the_new_program(tmp_path: Path) -> None:
    async with serving(tmp_path) as installation:
        installation.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        app = installation.options["bot__app"]
        installation.configure(bot__app="no_such:client")
        await upgraded(installation, result="failed")
        status = await installation.until(lambda status: status["supervisor"]["state"] == "serving")
        (bot,) = status["children"]
        assert (bot["generation"], bot["role"], len(bot["shards"])) == (1, "active", 4)
        assert "there is no module no_such" in status["last_handoff"]["reason"]
        installation.configure(bot__app=app)
        await reload_by_command(installation)
        assert (await installation.status())["last_handoff"]["session"] == "moved"
        await the_end(installation, identifies=4)
        assert await installation.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.wide)])
async def test_a_bot_that_dies_while_it_is_by_itself_is_recovered(tmp_path: Path, number: signal.Signals) -> None:
    async with serving(tmp_path, app="sharded_bot") as installation:
        installation.sandbox.traffic.start(rate=50, mix={"message": 1.0, "reaction_add": 1.0})
        process, bot = await by_itself(installation)
        installation.hurt[1] = killed_at = time.monotonic()
        os.kill(bot, number)
        process.resume()
        status = await installation.until(
            lambda status: (
                status["supervisor"]["state"] == "serving" and (active(status) or {}).get("generation", 0) > 1
            )
        )
        assert status["last_handoff"]["kind"] == "recovery"
        assert status["last_handoff"]["recovered"] == {"sessions": 4, "lost": 0, "unheard_seconds": 0.0, "missed": 0}
        served_at = time.monotonic()
        await installation.sandbox.traffic.stop()
        found = await installation.sandbox.settled(timeout=8, quiet=2)
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"
        assert unexplained(installation, 1, killed_at, served_at, resumed=True) == []
        assert len(installation.sandbox.gateway.identifies) == 8
        assert await installation.stop() == 0


async def test_a_supervisor_that_is_killed_in_the_middle_leaves_nobody(tmp_path: Path) -> None:
    """The bot lives no longer than the process, whatever program that runs; the next start has its sessions."""
    async with serving(tmp_path, app="sharded_bot", start=False) as installation:
        (tmp_path / "run").mkdir(mode=0o700)
        installation.environ["RUNTIME_DIRECTORY"] = str(tmp_path / "run")  # where no other supervisor tidies up
        await installation.start()
        installation.sandbox.traffic.start(rate=50, mix={"message": 1.0, "reaction_add": 1.0})
        process, bot = await by_itself(installation)
        process.kill()
        assert await installation.stopped() == -signal.SIGKILL
        await asyncio.to_thread(psutil.wait_procs, [psutil.Process(bot)] if psutil.pid_exists(bot) else [], 5)
        assert not psutil.pid_exists(bot)
        await installation.start()
        await the_end(installation, identifies=8)
        assert await installation.stop() == 0


async def by_itself(installation: Rig) -> tuple[psutil.Process, int]:
    """Stop the supervisor (SIGSTOP) as soon as its new program runs, which has not spoken to the bot yet."""
    assert installation.process is not None
    process = psutil.Process(installation.process.pid)
    bot = active(await installation.status())
    assert bot is not None
    ask(installation)

    def stop_when_executed() -> None:
        end = time.monotonic() + 20
        while "BASTION_CARRIED" not in executed(process):
            assert time.monotonic() < end, installation.tail()
            time.sleep(0.001)
        process.suspend()

    await asyncio.to_thread(stop_when_executed)
    assert not any(DONE in line for line in installation.log)
    return process, bot["pid"]


def executed(process: psutil.Process) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process.pid}/environ").read_text(errors="replace")
    return ""


@pytest.mark.wide
async def test_asked_for_during_a_handoff_it_follows(tmp_path: Path) -> None:
    async with serving(tmp_path, app="sharded_bot") as installation:
        installation.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        reload = asyncio.ensure_future(reload_by_command(installation))
        await installation.until(lambda status: status["supervisor"]["state"] == "handing-off")
        ask(installation)
        await installation.logged("the re-execution waits")
        await reload  # the command has its answer though its supervisor is another program soon
        await logged(installation, "re-execution's reload succeeded")
        await reload_by_command(installation)
        await the_end(installation, identifies=4)
        assert await installation.stop() == 0


@pytest.mark.wide
async def test_what_the_command_line_names_is_named_to_the_new_code_and_to_later_bots(tmp_path: Path) -> None:
    async with serving(tmp_path, app="sharded_bot", start=False, bot__args=["--slow"]) as installation:
        await installation.start("--", "--fast", "--")
        bot = active(await upgraded(installation))
        assert bot is not None
        assert psutil.Process(bot["pid"]).cmdline()[-3:] == ["--", "--fast", "--"]
        assert await installation.stop() == 0


@pytest.mark.wide
async def test_with_the_shipped_sandbox_the_sandbox_goes_on_too(tmp_path: Path) -> None:
    config = tmp_path / "bastion.toml"
    config.write_text(
        f'[control]\nsocket = "{tmp_path}/s.sock"\n[health]\nlisten = ""\n[handoff]\nprobation = 0\nlinger = 0\n'
    )
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("BASTION_", "DISCORD_"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bastion.supervisor", "run", "--sandbox", "--config", str(config)),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None

    async def line(text: str) -> None:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            while text not in (heard := (await process.stdout.readline()).decode()):
                assert heard, f"the supervisor ended before it said {text}"

    try:
        await line("generation 1 is active")
        children = {child.pid for child in psutil.Process(process.pid).children()}
        assert len(children) == 2
        process.send_signal(signal.SIGUSR2)
        await line(DONE)
        await line("generation 2 is active")
        await line("generation 1 has left: exited with status 0")
        assert len(children & {child.pid for child in psutil.Process(process.pid).children()}) == 1, "the sandbox"
        process.send_signal(signal.SIGTERM)
        await line("stop succeeded")
        assert await process.wait() == 0
        assert not any(psutil.pid_exists(pid) for pid in children)
    finally:
        if process.returncode is None:
            for child in psutil.Process(process.pid).children():
                child.kill()
            process.kill()
            await process.wait()
