"""A new bot that fails on probation: the old one, still connected, is active again, and nobody notices."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from casualties import Reload, child, longest_silence, unexplained
from rig import ALL_KINDS, Rig, active, rig

from bastion.sandbox import SandboxSettings

pytestmark = pytest.mark.anyio

WINDOW = 0.25
SHARDS = 2
HANG_TIMEOUT = 3
QUIET = 1.0
"""Longest silence in seconds under 100 events a second, where nothing hangs."""


@asynccontextmanager
async def on_probation(tmp_path: Path, *, seconds: float = 60.0) -> AsyncIterator[tuple[Rig, Reload]]:
    """Under 100 events a second, a reload has switched to generation 2; generation 1 stands by."""
    settings = SandboxSettings(
        max_concurrency=2,
        identify_window=WINDOW,
        recommended_shards=SHARDS,
        member_request_window=0.0,
        identifies_per_day=100_000,
    )
    async with rig(
        tmp_path,
        app="sharded_client:client",
        settings=settings,
        handler_ms="20-20",
        discord__identify_window=WINDOW,
        handoff__probation=seconds,
        restart__hang_timeout=HANG_TIMEOUT,
    ) as installation:
        await installation.start()
        installation.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        reload = Reload(installation)
        await reload.until("probation")
        yield installation, reload


async def the_end(installation: Rig, *, late: bool = False) -> None:
    """Nothing was doubled and nothing is left behind. ``late``: some answers were for interactions about to expire."""
    await installation.sandbox.traffic.stop()
    found = await installation.sandbox.settled(timeout=8, quiet=2)
    assert found.duplicated == 0, f"{found}\n{installation.tail()}"
    assert late or found.refused == 0, f"{found}\n{installation.tail()}"
    assert await installation.stop() == 0


@pytest.mark.parametrize(
    "fault", ["is killed", *(pytest.param(fault, marks=pytest.mark.wide) for fault in ("gives up", "hangs"))]
)
async def test_a_new_bot_that_fails_on_probation_is_rolled_back_and_nobody_notices(tmp_path: Path, fault: str) -> None:
    async with on_probation(tmp_path) as (installation, reload):
        sandbox = installation.sandbox
        before = await installation.until(
            lambda status: [c["role"] for c in status["children"]] == ["standby", "active"]
        )
        identifies = len(sandbox.gateway.identifies)
        failed_at = time.monotonic()
        if fault == "gives up":
            assert sandbox.faults.close(0, 4014, which="newest").hits == 1
        else:
            os.kill(child(before, 2)["pid"], signal.SIGKILL if fault == "is killed" else signal.SIGSTOP)

        assert await reload.result() == 1, reload.lines
        served_at = time.monotonic()
        assert reload.lines[-1].startswith("reload rolled back after"), reload.lines
        after = await installation.until(lambda status: len(status["children"]) == 1)
        assert [(one["generation"], one["role"]) for one in after["children"]] == [(1, "active")]
        assert (after["last_handoff"]["kind"], after["last_handoff"]["result"]) == ("reload", "rolled-back")
        assert len(sandbox.gateway.identifies) == identifies, "the old bot was connected all the while"
        # One that hangs must be found out and dead first; what Discord takes no answer to by then has expired.
        limit = HANG_TIMEOUT + 3.0 if fault == "hangs" else QUIET
        assert longest_silence(installation, failed_at - 1, served_at) < limit

        installation.configure(handoff__probation=0)
        assert (await installation.reload())["result"] == "succeeded"
        await the_end(installation, late=fault == "hangs")
        # What came to the one that hung is sent once more when the old one has its sessions again.
        excused_until = served_at + 1.0 if fault == "hangs" else failed_at
        missing = unexplained(installation, 2, failed_at, excused_until)
        assert not missing, f"{missing}\n{installation.tail()}"


async def test_a_rollback_on_probation_ends_the_reload_and_needs_no_new_bot(tmp_path: Path) -> None:
    async with on_probation(tmp_path) as (installation, reload):
        sandbox = installation.sandbox
        identifies = len(sandbox.gateway.identifies)
        rolled_back_at = time.monotonic()
        ended = await installation.command("rollback")
        assert ended.code == 0, ended
        assert "generation 1 is active" in ended.out
        assert await reload.result() == 1
        assert "rolled back by command" in reload.lines[-1]
        status = await installation.until(lambda status: len(status["children"]) == 1)
        assert [(one["generation"], one["role"]) for one in status["children"]] == [(1, "active")]
        assert (status["last_handoff"]["kind"], status["last_handoff"]["result"]) == ("rollback", "succeeded")
        assert len(sandbox.gateway.identifies) == identifies
        assert longest_silence(installation, rolled_back_at - 1, time.monotonic()) < QUIET
        await the_end(installation)
        assert (found := sandbox.journal.verdict()).lost == 0, f"{found}\n{installation.tail()}"


@pytest.mark.wide
async def test_a_rollback_after_the_probation_starts_the_release_before(tmp_path: Path) -> None:
    async with on_probation(tmp_path, seconds=0.5) as (installation, reload):
        assert await reload.result() == 0, reload.lines
        ended = await installation.command("rollback")
        assert ended.code == 0, ended
        serving = active(await installation.until(lambda status: len(status["children"]) == 1))
        assert serving is not None
        assert serving["generation"] == 3
        await the_end(installation)
        assert (found := installation.sandbox.journal.verdict()).lost == 0, f"{found}\n{installation.tail()}"
