"""The supervisor is upgraded in place under load: real supervisor, real bots, real websockets."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from rig import ALL_KINDS, Rig, active, rig
from test_handoff import WINDOW, assert_clean, reload_by_command, settings, verdict

pytestmark = pytest.mark.anyio

DONE = "re-executed: supervisor"


async def reexecute(installation: Rig) -> None:
    before = sum(DONE in line for line in installation.log)
    assert installation.process is not None
    installation.process.send_signal(signal.SIGUSR2)
    await logged(installation, DONE, times=before + 1)


async def logged(installation: Rig, text: str, *, times: int = 1) -> None:
    async with asyncio.timeout(30):
        while sum(text in line for line in installation.log) < times:
            installation._grew.clear()
            await installation._grew.wait()


def identity(status: dict[str, Any]) -> tuple[Any, ...]:
    (child,) = status["children"]
    supervisor = status["supervisor"]
    return (
        *(supervisor[key] for key in ("pid", "started_at", "state")),
        *(child[key] for key in ("generation", "pid", "role", "started_at", "ready_at", "active_at")),
        [(shard["id"], shard["state"]) for shard in child["shards"]],
        status["restarts"],
    )


@pytest.mark.parametrize("times", [2, pytest.param(10, marks=[pytest.mark.wide, pytest.mark.timeout(300)])])
async def test_it_is_not_noticed(tmp_path: Path, times: int) -> None:
    async with rig(
        tmp_path, app="sharded_bot:client", settings=settings(), discord__identify_window=WINDOW
    ) as installation:
        await installation.start()
        before = identity(await installation.status())
        installation.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        for _ in range(times):
            handled = (await installation.status())["children"][0]["handled"]
            await reexecute(installation)
            await installation.until(
                lambda status, handled=handled: status["children"][0]["handled"] > handled,
            )
            assert identity(await installation.status()) == before
        await reload_by_command(installation)
        assert_clean(await verdict(installation, at_least=times * 50), installation, at_least=times * 50)

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
async def test_asked_for_during_a_handoff_it_follows(tmp_path: Path) -> None:
    async with rig(
        tmp_path, app="sharded_bot:client", settings=settings(), discord__identify_window=WINDOW
    ) as installation:
        await installation.start()
        installation.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        assert installation.process is not None
        reload = asyncio.ensure_future(reload_by_command(installation))
        await installation.until(lambda status: status["supervisor"]["state"] == "handing-off")
        installation.process.send_signal(signal.SIGUSR2)
        await installation.logged("the re-execution waits")
        await reload  # the command has its answer though its supervisor is another program soon
        await logged(installation, DONE)
        await reload_by_command(installation)
        assert_clean(await verdict(installation, at_least=100), installation, at_least=100)
        assert await installation.stop() == 0


@pytest.mark.wide
async def test_what_the_command_line_names_is_named_to_the_new_code_and_to_later_bots(tmp_path: Path) -> None:
    async with rig(tmp_path, app="sharded_bot:client", settings=settings(), bot__args=["--slow"]) as installation:
        await installation.start("--", "--fast", "--")
        await reexecute(installation)
        await reload_by_command(installation)
        bot = active(await installation.status())
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
        assert {child.pid for child in psutil.Process(process.pid).children()} == children
        process.send_signal(signal.SIGHUP)
        await line("generation 2 is active")
        await line("generation 1 has left: exited with status 0")
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
