"""A reload moves the gateway sessions to the new bot: no IDENTIFY, nothing lost or doubled, a pause of milliseconds."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from casualties import Reload, child, unexplained
from environments import BASE, must
from ordeal import WINDOW, of_moving
from rig import ALL_KINDS, Rig, active, rig

pytestmark = pytest.mark.anyio

PAUSE_MS = 3000.0
"""Longest pause of a shard on a busy machine; the benchmarks say what it is on a quiet one."""


@asynccontextmanager
async def serving(
    directory: Path,
    *,
    app: str = "sharded_client",
    shards: int = 4,
    far: float = 0.0,
    start: bool = True,
    **changes: Any,
) -> AsyncIterator[Rig]:
    """An installation that serves. ``far``: seconds to Discord and back."""
    settings = of_moving(shards, network_delay=far)
    options = {"discord__identify_window": WINDOW} | changes
    async with rig(directory, app=f"{app}:client", settings=settings, handler_ms="20-20", **options) as installation:
        if start:
            await installation.start()
        yield installation


async def the_end(installation: Rig, *, identifies: int) -> None:
    """Nothing was lost or doubled, and nobody began a session in the meantime."""
    await installation.sandbox.traffic.stop()
    found = await installation.sandbox.settled(timeout=8, quiet=2)
    assert found.clean, f"{found}\n{installation.tail()}"
    assert len(installation.sandbox.gateway.identifies) == identifies, installation.tail()


@pytest.mark.parametrize(
    ("app", "shards"),
    [
        ("plain_client", 1),
        ("sharded_bot", 4),
        pytest.param("prefix_bot", 1, marks=pytest.mark.wide),
        pytest.param("sharded_client", 1, marks=pytest.mark.wide),
        pytest.param("sharded_client", 16, marks=pytest.mark.wide),
    ],
)
async def test_reloads_in_a_row_cost_no_identify_and_no_event(tmp_path: Path, app: str, shards: int) -> None:
    async with serving(tmp_path, app=app, shards=shards) as installation:
        installation.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        for generation in range(2, 5):
            outcome = await installation.reload()
            assert outcome["result"] == "succeeded", f"{outcome}\n{installation.tail()}"
            handoff = (await installation.status())["last_handoff"]
            assert (handoff["session"], handoff["why"], handoff["identifies"]) == ("moved", None, 0)
            assert 0 < handoff["pause_ms"] < PAUSE_MS
            assert handoff["to"] == generation
        await the_end(installation, identifies=shards)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"handoff__session": "overlap"}, 'handoff.session = "overlap"'),
        pytest.param({"bot__shards": 2}, "shards: 4 -> 2", marks=pytest.mark.wide),
    ],
)
async def test_where_sessions_cannot_move_the_new_bot_begins_its_own_and_the_status_says_why(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    async with serving(tmp_path) as installation:
        installation.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        installation.configure(**change)
        assert (await installation.reload())["result"] == "succeeded"
        handoff = (await installation.status())["last_handoff"]
        assert (handoff["session"], handoff["why"]) == ("overlap", why)
        assert handoff["identifies"] == change.get("bot__shards", 4)
        await the_end(installation, identifies=4 + handoff["identifies"])


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.wide)])
async def test_a_new_bot_that_dies_on_probation_gives_the_sessions_back(tmp_path: Path, number: signal.Signals) -> None:
    async with serving(tmp_path, handoff__probation=60, restart__hang_timeout=3) as installation:
        installation.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        reload = Reload(installation)
        await reload.until("probation")
        status = await installation.status()
        installation.hurt[2] = 0.0
        os.kill(child(status, 2)["pid"], number)
        assert await reload.result() == 1
        after = await installation.until(lambda status: len(status["children"]) == 1)
        assert (active(after) or {})["generation"] == 1
        assert after["last_handoff"]["result"] == "rolled-back"
        assert len(installation.sandbox.gateway.identifies) == 4, "its sessions came back"
        installation.configure(handoff__probation=0)
        assert (await installation.reload())["result"] == "succeeded", installation.tail()
        await installation.sandbox.traffic.stop()
        found = await installation.sandbox.settled(timeout=8, quiet=2)
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"


async def test_rollback_on_probation_moves_the_sessions_back(tmp_path: Path) -> None:
    async with serving(tmp_path, handoff__probation=60) as installation:
        installation.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        reload = Reload(installation)
        await reload.until("probation")
        assert (await installation.command("rollback")).code == 0
        assert await reload.result() == 1
        after = await installation.until(lambda status: len(status["children"]) == 1)
        assert (active(after) or {})["generation"] == 1
        assert (after["last_handoff"]["session"], after["last_handoff"]["identifies"]) == ("moved", 0)
        installation.configure(handoff__probation=0)
        assert (await installation.reload())["result"] == "succeeded"
        await the_end(installation, identifies=4)


MOMENTS = [0.0, 0.25, 0.5, 0.75, 1.0]
"""Seconds after the switch has been asked for: connections are opened, the first shard moves, the others move."""


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("number", "victim", "moment"),
    [
        pytest.param(
            number, victim, moment, marks=() if (number, moment) == (signal.SIGKILL, 0.5) else pytest.mark.wide
        )
        for number in (signal.SIGKILL, signal.SIGSTOP)
        for victim in (1, 2)
        for moment in MOMENTS
    ],
)
async def test_a_bot_that_is_hurt_in_the_middle_of_a_switch_costs_what_it_ran(
    tmp_path: Path, number: signal.Signals, victim: int, moment: float
) -> None:
    """Discord is far away, so that a switch takes a second and a half; and the old bot stays for four."""
    async with serving(
        tmp_path, far=0.2, restart__backoff_first=0.2, restart__hang_timeout=3, handoff__probation=4
    ) as installation:
        sandbox = installation.sandbox
        sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        reload = Reload(installation)
        await reload.until("activating")
        pids = {one["generation"]: one["pid"] for one in (await installation.status())["children"]}
        await asyncio.sleep(moment)
        hurt_at = time.monotonic()
        if victim in pids:
            with suppress(ProcessLookupError):
                os.kill(pids[victim], number)
        if number == signal.SIGSTOP:
            await asyncio.sleep(1)
            with suppress(ProcessLookupError):
                os.kill(pids[victim], signal.SIGCONT)
        await reload.result()
        await installation.until(
            lambda status: (
                status["supervisor"]["state"] == "serving"
                and len(status["children"]) == 1
                and active(status) is not None
            )
        )
        served_at = time.monotonic()
        installation.configure(handoff__probation=0)
        again = await installation.reload()
        assert again["result"] == "succeeded", f"{again}\n{installation.tail()}"
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=10, quiet=3)
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"
        killed = number == signal.SIGKILL
        if not killed:
            assert found.lost == 0, f"{found}\n{installation.tail()}"
            return
        missing = unexplained(installation, victim, hurt_at, served_at, resumed=True)
        assert not missing, f"{missing}\n{found}\n{installation.tail()}"


@pytest.mark.parametrize("how", ["invalid", pytest.param("cut", marks=pytest.mark.wide)])
async def test_a_session_that_cannot_be_resumed_costs_that_one_and_the_reload_goes_by_overlap(
    tmp_path: Path, how: Any
) -> None:
    async with serving(tmp_path) as installation:
        sandbox = installation.sandbox
        sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        count = 1 if how == "invalid" else 3
        with sandbox.faults.refuse_resume(how, count=count):
            outcome = await installation.reload()
        assert outcome["result"] == "succeeded", f"{outcome}\n{installation.tail()}"
        handoff = outcome["handoff"]
        assert handoff["session"] == "overlap"
        assert "Discord does not resume the session of shard" in handoff["why"]
        assert handoff["to"] == 3
        assert len(sandbox.gateway.identifies) == 4 + 1 + 4, "the canary's, by the old bot; and the new bot's"
        assert (await installation.reload())["result"] == "succeeded"
        assert (await installation.status())["last_handoff"]["session"] == "moved"
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=8, quiet=2)
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"


async def test_a_spare_mirrors_and_takes_over_from_a_bot_that_is_killed_without_an_identify(tmp_path: Path) -> None:
    async with serving(tmp_path, restart__spare=True, restart__backoff_first=0.2) as installation:
        sandbox = installation.sandbox
        sandbox.traffic.start(rate=60, mix=ALL_KINDS)
        killed = {}
        for spare in (2, 3):
            await installation.logged(f"generation {spare} is ready, as a spare")
            status = await installation.status()
            os.kill(child(status, spare - 1)["pid"], signal.SIGKILL)
            at = time.monotonic()
            await installation.logged(f"generation {spare} is active")
            killed[spare - 1] = at, time.monotonic()
        await installation.until(lambda status: status["supervisor"]["state"] == "serving")
        assert len(sandbox.gateway.identifies) == 4, installation.tail()
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=10, quiet=3)
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"
        missing = [unexplained(installation, generation, *times, resumed=True) for generation, times in killed.items()]
        neither = [entry for entry in missing[0] if entry in missing[1]]
        assert not neither, f"{neither}\n{found}\n{installation.tail()}"


HEARS = """
from sharded_client import ShardedClient
import discord

class Hears(ShardedClient):
    async def on_disconnect(self): print("app hears disconnect", flush=True)
    async def on_resumed(self): print("app hears resumed", flush=True)
    async def on_shard_disconnect(self, shard): print("app hears shard_disconnect", flush=True)
    async def on_shard_resumed(self, shard): print("app hears shard_resumed", flush=True)

client = Hears(guild_ready_timeout=0.5, activity=discord.Game("NUMBER"))
"""


async def test_no_app_hears_of_a_moving_connection_and_a_presence_of_the_constructors_is_set(tmp_path: Path) -> None:
    async with serving(tmp_path, app="app", start=False, handoff__probation=60) as installation:
        installation.configure(bot__directory=str(installation.release("app", HEARS.replace("NUMBER", "one"))))
        await installation.start()
        gateway = installation.sandbox.gateway
        installation.release("app", HEARS.replace("NUMBER", "two"))
        reload = Reload(installation)
        await reload.until("probation")
        await gateway.wait_for(lambda: "two" in str(gateway.presence))
        assert (await installation.command("rollback")).code == 0
        await reload.result()
        await gateway.wait_for(lambda: "one" in str(gateway.presence))
        assert "app hears" not in "\n".join(installation.log)
        assert len(gateway.identifies) == 4

        installation.sandbox.faults.drop_shard(0)  # what is no handover the app hears of, as ever
        await installation.logged("app hears shard_disconnect")
        await installation.logged("app hears shard_resumed")


@pytest.mark.wide
@pytest.mark.parametrize(
    ("version", "session", "why"),
    [
        ("2.7.0", "moved", None),
        ("2.6.4", "overlap", "discord.py 2.7 -> 2.6"),
        ("2.5.0", "overlap", "discord.py 2.7 -> 2.5"),
    ],
)
async def test_between_versions_of_discord_py_sessions_move_within_a_minor_one(
    tmp_path: Path, version: str, session: str, why: str | None
) -> None:
    other = tmp_path / "other"
    must(BASE, "-m", "pip", "install", "-q", "--no-deps", "--target", other, f"discord.py=={version}", cwd=tmp_path)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{other}:$PYTHONPATH" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    async with serving(tmp_path) as installation:
        installation.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        before = len(installation.sandbox.gateway.identifies)
        installation.configure(bot__python=str(python))
        outcome = await installation.reload()
        assert outcome["result"] == "succeeded", f"{outcome}\n{installation.tail()}"
        assert (outcome["handoff"]["session"], outcome["handoff"]["why"]) == (session, why)
        assert (await installation.reload())["handoff"]["session"] == "moved", "from that version on"
        await the_end(installation, identifies=before + outcome["handoff"]["identifies"])


@pytest.mark.wide
@pytest.mark.timeout(300)
async def test_a_session_moves_between_two_versions_of_python(tmp_path: Path, newest_python: str) -> None:
    async with serving(tmp_path) as installation:
        installation.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        for python in (newest_python, sys.executable):
            installation.configure(bot__python=python)
            outcome = await installation.reload()
            assert outcome["result"] == "succeeded", f"{outcome}\n{installation.tail()}"
            assert (outcome["handoff"]["session"], outcome["handoff"]["identifies"]) == ("moved", 0)
        await the_end(installation, identifies=4)
