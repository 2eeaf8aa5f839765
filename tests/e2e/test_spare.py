"""A spare takes over from an active bot that is killed, and nobody notices but for what the killed one had begun."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from casualties import child, longest_silence, missed, unexplained
from ordeal import MOMENT
from rig import ALL_KINDS, Rig, active, rig

from bastion.sandbox import SandboxSettings

pytestmark = pytest.mark.anyio

WINDOW = 0.25
QUIET = 1.0
"""Longest silence in seconds under 100 events a second."""


def serving_with_spare(active: int, spare: int) -> Any:
    def holds(status: dict[str, Any]) -> bool:
        return [(one["generation"], one["role"], one["spare"]) for one in status["children"]] == [
            (active, "active", False),
            (spare, "standby", True),
        ]

    return holds


@asynccontextmanager
async def with_spare(directory: Path, *, member_request_window: float = 0.0, **changes: Any) -> AsyncIterator[Rig]:
    """A supervisor that keeps a spare, on its way to serve."""
    settings = SandboxSettings(
        max_concurrency=2,
        identify_window=WINDOW,
        recommended_shards=2,
        member_request_window=member_request_window,
        identifies_per_day=100_000,
        replay_buffer=3500,  # on a busy machine it takes long to find out and to replace one that hangs
    )
    async with rig(
        directory,
        app="app:client",
        settings=settings,
        handler_ms="20-20",
        discord__identify_window=WINDOW,
        restart__spare=True,
        restart__backoff_first=0.2,
        **changes,
    ) as installation:
        source = "from sharded_client import ShardedClient\nclient = ShardedClient(guild_ready_timeout=0.5)\n"
        installation.configure(bot__directory=str(installation.release("app", source)))
        await installation.start(serving=False)
        yield installation


async def test_a_spare_takes_over_at_once_is_followed_by_another_and_gives_way_to_a_reload(tmp_path: Path) -> None:
    async with with_spare(tmp_path) as installation:
        sandbox = installation.sandbox
        before = await installation.until(serving_with_spare(1, 2))
        assert child(before, 2)["rss_bytes"] > 10_000_000
        sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        await sandbox.journal.until(lambda: len(sandbox.journal.entries) > 150)

        os.kill(child(before, 1)["pid"], signal.SIGKILL)
        killed_at = time.monotonic()
        after = await installation.until(serving_with_spare(2, 3))
        assert (after["last_handoff"]["kind"], after["last_handoff"]["result"]) == ("failover", "succeeded")
        assert longest_silence(installation, killed_at - 1, time.monotonic()) < QUIET

        outcome = await installation.reload()
        assert outcome["result"] == "succeeded", outcome
        await installation.until(serving_with_spare(4, 5))
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=8, quiet=2)
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"
        assert found.refused == 0, f"{found}\n{installation.tail()}"
        missing = unexplained(installation, 1, killed_at, killed_at)
        assert not missing, f"{missing}\n{found}\n{installation.tail()}"
        assert await installation.stop() == 0


@pytest.mark.wide
async def test_a_spare_that_comes_after_the_active_bot_has_hung_brings_what_that_one_missed(tmp_path: Path) -> None:
    async with with_spare(tmp_path, restart__hang_timeout=5, handoff__session="overlap") as installation:
        sandbox = installation.sandbox
        await installation.until(lambda status: active(status) is not None)
        sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        before = await installation.until(
            lambda status: [one["generation"] for one in status["children"] if one["spare"]] == [2]
        )
        stopped_at = time.monotonic()
        os.kill(child(before, 1)["pid"], signal.SIGSTOP)
        after = await installation.until(serving_with_spare(2, 3))
        served_at = time.monotonic()
        handoff = after["last_handoff"]
        assert (handoff["kind"], handoff["result"]) == ("failover", "succeeded")
        assert handoff["recovered"]["sessions"] == 2, "both of its own are younger than what the dead one has read"
        assert handoff["recovered"]["lost"] == 0
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=8, quiet=2)
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"
        missing = unexplained(installation, 1, stopped_at, served_at, unread=MOMENT, resumed=True)
        told = [entry for entry in missing if not missed(entry, sandbox)]
        assert not told, f"{told}\n{found}\n{installation.tail()}"
        counted = (await installation.status())["last_handoff"]["recovered"]["missed"]
        assert len(missing) <= counted, f"{missing}\n{found}\n{installation.tail()}"


@pytest.mark.wide
async def test_the_members_of_a_guild_that_is_joined_come_to_the_active_bot_first(tmp_path: Path) -> None:
    """Discord answers one such request a guild and half a minute: the spare's would be in its way."""
    async with with_spare(tmp_path, member_request_window=4, handoff__session="overlap") as installation:
        await installation.until(serving_with_spare(1, 2))
        sandbox = installation.sandbox
        gateway, journal = sandbox.gateway, sandbox.journal

        def asked(generation: int, guild: int | None) -> bool:
            numbers = [one.info.number for one in gateway.sessions if one.generation == generation]
            return any((number, guild) in gateway.members_at for number in numbers)

        joins = [sandbox.emit_guild_join() for _ in range(6)]
        for join in joins:
            await journal.wait_handled(join, timeout=10)
            assert journal.handlings(join.kind, join.key)[0].by == 1
            assert (asked(1, join.guild_id), asked(2, join.guild_id)) == (True, False)
        await installation.until(lambda _: all(asked(2, join.guild_id) for join in joins))
        assert await installation.stop() == 0


@pytest.mark.wide
async def test_a_spare_to_which_discord_gives_nothing_is_none(tmp_path: Path) -> None:
    async with with_spare(tmp_path, handoff__session="overlap") as installation:
        sandbox = installation.sandbox
        await installation.logged("generation 2 is ready, as a spare")
        sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        with sandbox.faults.deaf_sessions():
            os.kill(child(await installation.status(), 2)["pid"], signal.SIGKILL)
            await installation.logged("generation 3, the spare: heard nothing while the active one heard", timeout=20)
            assert not any("generation 3 is ready" in line for line in installation.log)
        await installation.until(lambda status: any("is ready, as a spare" in line for line in installation.log[-5:]))
        serving = next(one for one in (await installation.status())["children"] if one["role"] == "active")
        assert serving["generation"] == 1, "which nothing has happened to"
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=8, quiet=2)
        assert found.clean, f"{found}\n{installation.tail()}"
        assert await installation.stop() == 0
