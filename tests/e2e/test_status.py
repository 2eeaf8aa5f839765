"""`supervisor status`: the contract's keys, and nothing in them that is not true."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from rig import ALL_KINDS, Rig, active, rig

from bastion.sandbox import SandboxSettings
from bastion.supervisor import __version__

pytestmark = pytest.mark.anyio

WINDOW = 0.25
"""Seconds of the sandbox's IDENTIFY window in tests; Discord's is 5."""
SHARDS = 2
QUICK = "from sharded_bot import ShardedBot\nclient = ShardedBot(guild_ready_timeout=0.5)\n"
"""A probe that is ready soon: discord.py waits 2 s for guilds unless told otherwise."""
ORDINARY = "from sharded_bot import ShardedBot\nclient = ShardedBot()\n"

# The contract, as docs and scripts have it.
TOP = {"supervisor", "children", "last_handoff", "restarts", "session_start_limit"}
SUPERVISOR = {"pid", "version", "started_at", "state", "config", "beside"}
CHILD = {
    *(
        "generation",
        "pid",
        "role",
        "spare",
        "release",
        "app",
        "program",
        "started_at",
        "ready_at",
        "active_at",
        "shards",
        "guilds",
    ),
    *("rss_bytes", "cpu_percent", "in_flight", "lingering", "handled", "claims", "last_beat_at", "loop_lag_ms"),
}
SHARD = {"id", "state", "latency_ms", "away", "why"}
CLAIMS = {"won", "lost", "errors"}
HANDOFF = {
    *("kind", "from", "to", "result", "reason", "started_at", "duration", "phases", "replayed", "expired", "cut"),
    *("overflowed", "unclaimed", "recovered", "state", "session", "why", "pause_ms", "identifies"),
}
LIMIT = {"total", "remaining", "reset_after", "max_concurrency"}


@asynccontextmanager
async def serving(
    directory: Path, *, source: str = QUICK, handler_ms: str = "0-50", **options: Any
) -> AsyncIterator[Rig]:
    """A bot with two shards that serves, and answers its heartbeats often."""
    settings = SandboxSettings(
        max_concurrency=16,
        identify_window=WINDOW,
        member_request_window=0.0,
        recommended_shards=SHARDS,
        heartbeat_interval=0.5,
    )
    options = {"discord__identify_window": WINDOW, "restart__backoff_first": 0.1} | options
    async with rig(directory, app="app:client", settings=settings, handler_ms=handler_ms, **options) as installation:
        installation.configure(bot__directory=str(installation.release("app", source)))
        await installation.start()
        yield installation
        assert await installation.stop() == 0


def instant(stamp: str) -> datetime:
    """Read a time of the status, which is UTC and says so."""
    assert stamp.endswith("Z"), stamp
    found = datetime.fromisoformat(stamp)
    assert found.tzinfo == UTC
    return found


async def the_active(installation: Rig) -> dict[str, Any]:
    child = active(await installation.status())
    assert child is not None
    return child


async def test_it_has_the_keys_of_the_contract_with_true_values(tmp_path: Path) -> None:
    async with serving(tmp_path) as installation:
        process = installation.process
        assert process is not None
        sandbox = installation.sandbox
        status = await installation.until(
            lambda status: all(shard["latency_ms"] is not None for shard in status["children"][0]["shards"])
        )
        now = datetime.now(UTC)

        assert set(status) == TOP
        supervisor = status["supervisor"]
        assert set(supervisor) == SUPERVISOR
        assert (supervisor["pid"], supervisor["state"]) == (process.pid, "serving")
        assert (supervisor["version"], supervisor["config"]) == (__version__, str(installation.config))
        assert (status["last_handoff"], status["restarts"]) == (None, 0)

        [child] = status["children"]
        assert set(child) == CHILD
        assert (child["generation"], child["role"], child["app"]) == (1, "active", "app:client")
        assert child["release"] == str((tmp_path / "release").resolve())
        born = instant(supervisor["started_at"])
        life = [instant(child[key]) for key in ("started_at", "ready_at", "active_at", "last_beat_at")]
        assert [born, *life, now] == sorted([born, *life, now])
        assert (now - life[-1]).total_seconds() < 3
        assert (now - born).total_seconds() < 30

        bot = psutil.Process(child["pid"])
        assert (bot.is_running(), bot.ppid()) == (True, process.pid)
        assert "--generation" in bot.cmdline()
        assert child["rss_bytes"] == pytest.approx(bot.memory_info().rss, rel=0.2)
        assert 0 <= child["cpu_percent"] <= 100 * psutil.cpu_count()

        assert all(set(shard) == SHARD for shard in child["shards"])
        assert [(shard["id"], shard["state"]) for shard in child["shards"]] == [(0, "ready"), (1, "ready")]
        assert all(0 <= shard["latency_ms"] < 1000 for shard in child["shards"])
        assert child["guilds"] == len(sandbox.world.guilds)
        assert child["claims"] == {"won": 0, "lost": 0, "errors": 0}
        assert child["in_flight"] == 0
        assert 0 <= child["loop_lag_ms"] < 1000

        limit = status["session_start_limit"]
        assert set(limit) == LIMIT
        assert (limit["total"], limit["max_concurrency"]) == (sandbox.settings.identifies_per_day, 16)
        assert limit["remaining"] == limit["total"] - SHARDS
        assert 0 < limit["reset_after"] <= 24 * 3600


async def test_it_counts_what_is_handled_and_what_is_under_way(tmp_path: Path) -> None:
    async with serving(tmp_path, handler_ms="700-900") as installation:
        sandbox = installation.sandbox
        before = (await the_active(installation))["handled"]
        sent = [sandbox.emit_message() for _ in range(12)]
        busy = await installation.until(lambda status: status["children"][0]["in_flight"] > 0, timeout=10)
        assert busy["children"][0]["in_flight"] <= len(sent)
        for entry in sent:
            await sandbox.journal.wait_handled(entry)
        status = await installation.until(lambda status: status["children"][0]["in_flight"] == 0, timeout=10)
        assert status["children"][0]["handled"] == before + len(sent)


async def test_it_tells_how_the_last_handoff_went(tmp_path: Path) -> None:
    async with serving(tmp_path, source=ORDINARY) as installation:
        sandbox = installation.sandbox
        sandbox.traffic.start(rate=50, mix=ALL_KINDS)
        began = time.monotonic()
        assert (await installation.reload())["result"] == "succeeded"
        took = time.monotonic() - began

        status = await installation.status()
        handoff = status["last_handoff"]
        assert set(handoff) == HANDOFF
        assert (handoff["kind"], handoff["from"], handoff["to"]) == ("reload", 1, 2)
        assert (handoff["result"], handoff["reason"], handoff["cut"]) == ("succeeded", None, [])
        assert 0 < handoff["duration"] <= took
        assert list(handoff["phases"]) == ["preparing", "spawning", "connecting", "activating", "draining"]
        assert sum(handoff["phases"].values()) == pytest.approx(handoff["duration"], abs=0.05)
        assert instant(status["supervisor"]["started_at"]) < instant(handoff["started_at"]) < datetime.now(UTC)
        assert handoff["expired"] == 0
        [child] = status["children"]
        assert (child["generation"], child["role"]) == (2, "active")
        counted = await installation.until(lambda status: status["children"][0]["claims"] is not None)
        assert set(counted["children"][0]["claims"]) == CLAIMS
        assert set(counted["children"][0]["claims"].values()) == {0}, "where sessions move nothing is claimed"
        assert counted["session_start_limit"]["remaining"] == 1000 - SHARDS, "no IDENTIFY for the second bot"
        assert (handoff["session"], handoff["why"], handoff["identifies"]) == ("moved", None, 0)
        assert 0 < handoff["pause_ms"] < 1000

        installation.configure(bot__app="broken_import:client")
        ended = await installation.command("reload")
        assert ended.code == 1
        status = await installation.status()
        failed = status["last_handoff"]
        assert set(failed) == HANDOFF
        assert (failed["kind"], failed["from"], failed["to"], failed["result"]) == ("reload", 2, 3, "failed")
        assert "this release is broken" in failed["reason"]
        assert failed["reason"] in ended.err
        assert "activating" not in failed["phases"]
        assert instant(failed["started_at"]) > instant(handoff["started_at"])
        assert (await the_active(installation))["generation"] == 2
        assert status["restarts"] == 0

        await sandbox.traffic.stop()
        verdict = await sandbox.settled(timeout=10)
        assert verdict.clean, f"{verdict}\n{installation.tail()}"
        assert handoff["replayed"] <= verdict.by_generation[2]


async def test_it_counts_restarts_and_names_the_crash(tmp_path: Path) -> None:
    async with serving(tmp_path) as installation:
        os.kill((await the_active(installation))["pid"], signal.SIGKILL)
        status = await installation.until(
            lambda status: (serving := active(status)) is not None and serving["generation"] == 2
        )
        assert (status["restarts"], status["supervisor"]["state"]) == (1, "serving")
        handoff = status["last_handoff"]
        assert (handoff["kind"], handoff["from"], handoff["to"]) == ("recovery", 1, 2)
        assert handoff["result"] == "succeeded"
        assert handoff["reason"].startswith("generation 1 died: killed by SIGKILL, which nobody here has sent")


async def test_while_a_handoff_is_under_way_both_children_and_its_phase_are_there(tmp_path: Path) -> None:
    async with serving(tmp_path) as installation:
        installation.configure(bot__app="broken_hang:client")
        reload = asyncio.ensure_future(installation.command("reload"))
        status = await installation.until(
            lambda status: status["last_handoff"] is not None and "connecting" in status["last_handoff"]["phases"]
        )
        assert status["supervisor"]["state"] == "handing-off"
        assert [(child["generation"], child["role"]) for child in status["children"]] == [
            (1, "active"),
            (2, "starting"),
        ]
        starting = status["children"][1]
        assert (starting["ready_at"], starting["active_at"], starting["guilds"]) == (None, None, None)
        assert (starting["shards"], starting["handled"], starting["app"]) == ([], 0, "broken_hang:client")
        handoff = status["last_handoff"]
        assert (handoff["from"], handoff["to"], handoff["result"], handoff["reason"]) == (1, 2, None, None)
        assert await installation.stop() == 0
        assert (await reload).code == 1


async def test_as_a_table_it_is_readable(tmp_path: Path) -> None:
    async with serving(tmp_path) as installation:
        await installation.reload()
        status = await installation.until(lambda status: status["supervisor"]["state"] == "serving")
        ended = await installation.command("status")
        assert (ended.code, ended.err) == (0, "")
        lines = ended.out.splitlines()
        pid, child = status["supervisor"]["pid"], status["children"][0]
        assert lines[0].startswith(f"supervisor {__version__} (pid {pid}) is serving, up ")
        assert lines[0].endswith(f"config {installation.config}")
        header, row = lines[2], lines[3]
        assert header.split() == [
            *("gen", "role", "pid", "shards", "guilds", "memory", "cpu", "in", "flight", "handled", "beat", "up"),
            "release",
        ]
        assert row.split()[:5] == ["2", "active", str(child["pid"]), "2/2", str(child["guilds"])]
        assert row.endswith(str((tmp_path / "release").resolve()))
        for title in ("role", "release"):
            assert row[header.index(title) - 1] == " "
            assert row[header.index(title)] != " "
        assert lines[5].startswith("last handoff: reload 1 -> 2 succeeded after ")
        assert "\x1b" not in ended.out
        assert "None" not in ended.out
        assert lines[-1].startswith("restarts: 0; IDENTIFYs left: 998 of 1,000, reset in 23 h 59 min")
