"""Shards side by side: as fast as Discord's IDENTIFY limit allows, and never faster."""

from __future__ import annotations

import asyncio
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rig import ALL_KINDS, Rig, active, rig

from bastion.bot.runtime import SILENT_PATIENCE
from bastion.sandbox import SandboxSettings

pytestmark = pytest.mark.anyio

WINDOW = 0.5
SHARDS = 16


def settings(max_concurrency: int, shards: int) -> SandboxSettings:
    return SandboxSettings(
        max_concurrency=max_concurrency,
        identify_window=WINDOW,
        recommended_shards=shards,
        member_request_window=0.0,
        identifies_per_day=100_000,
        guilds=SHARDS,
    )


def seconds_to_ready(child: dict[str, Any]) -> float:
    started, ready = (datetime.fromisoformat(child[key]) for key in ("started_at", "ready_at"))
    return (ready - started).total_seconds()


async def serving(installation: Rig) -> dict[str, Any]:
    child = active(await installation.status())
    assert child is not None
    return child


@pytest.mark.parametrize("max_concurrency", [*(pytest.param(few, marks=pytest.mark.wide) for few in (1, 4)), 16])
async def test_sixteen_shards_are_ready_as_soon_as_the_identify_limit_allows(
    tmp_path: Path, max_concurrency: int
) -> None:
    async with rig(
        tmp_path, app="sharded_client:client", settings=settings(max_concurrency, 1), discord__identify_window=WINDOW
    ) as installation:
        await installation.start()
        connect = seconds_to_ready(await serving(installation))
        installation.sandbox.settings.recommended_shards = SHARDS
        outcome = await installation.reload()
        assert outcome["result"] == "succeeded", outcome
        child = await serving(installation)
        limit = math.ceil(SHARDS / max_concurrency) * WINDOW
        assert [shard["state"] for shard in child["shards"]] == ["ready"] * SHARDS
        # The first child was ready with its last guild; a standby that hears nothing listens a while.
        # Two windows are for a machine that runs other tests; a shard a window would take many more.
        assert seconds_to_ready(child) <= limit + connect + SILENT_PATIENCE + 2 * WINDOW
        assert not installation.sandbox.gateway.violations


@pytest.mark.wide
async def test_no_identify_comes_too_early_also_when_the_old_child_loses_a_session_in_a_handoff(
    tmp_path: Path,
) -> None:
    async with rig(
        tmp_path,
        app="sharded_client:client",
        settings=settings(1, 4),
        discord__identify_window=WINDOW,
        handoff__session="overlap",
    ) as installation:
        sandbox = installation.sandbox
        await installation.start()
        sandbox.traffic.start(rate=50, mix=ALL_KINDS)
        before = len(sandbox.gateway.identifies)
        reload = asyncio.ensure_future(installation.reload())
        await sandbox.gateway.wait_for(lambda: len(sandbox.gateway.identifies) >= before + 2, timeout=20)
        sandbox.faults.invalidate(3, resumable=False, which="oldest")
        outcome = await reload
        assert outcome["result"] == "succeeded", outcome
        await sandbox.traffic.stop()
        assert len(sandbox.gateway.identifies) == before + 5
        assert not sandbox.gateway.violations
        found = await sandbox.settled(timeout=15, quiet=3)
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"
        journal = sandbox.journal
        heard_and_lost = [
            entry
            for entry in journal.entries
            if installation.expected(entry) and entry.delivered and not journal.handlings(entry.kind, entry.key)
        ]
        assert heard_and_lost == [], installation.tail()
