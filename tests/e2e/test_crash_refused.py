"""The only bot is killed, and Discord does not let its sessions be resumed; or leave to IDENTIFY is long to come.

A session that cannot be resumed costs what was sent on it until its shard's own began, and no more: the bot serves
within seconds. One that can is not lost, however long its shard waits for leave to IDENTIFY.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import discord
import pytest
from discord.gateway import DiscordWebSocket
from discord.http import Route
from ordeal import WINDOW, ask_status, at_rest, of_moving
from rig import ALL_KINDS, APPS, Rig, active, rig

from bastion.sandbox import Entry
from bastion.sandbox.faults import Faults

pytestmark = [pytest.mark.anyio, pytest.mark.wide, pytest.mark.timeout(240)]

MESSAGES = {"message": 1.0}


@asynccontextmanager
async def in_traffic(
    tmp_path: Path, *, shards: int, rate: int = 50, mix: dict[str, float] | None = None, **options: Any
) -> AsyncIterator[Rig]:
    """An installation that serves, under traffic."""
    discord_settings = options.pop("settings", None) or of_moving(shards, max_concurrency=1, identify_window=WINDOW)
    options = {"discord__identify_window": WINDOW} | options
    async with rig(
        tmp_path, app="sharded_client:client", settings=discord_settings, handler_ms="0-5", **options
    ) as installation:
        await installation.start()
        installation.sandbox.traffic.start(rate=rate, mix=mix or MESSAGES)
        await installation.sandbox.journal.until(lambda: len(installation.sandbox.journal.entries) > rate)
        yield installation


async def kill(installation: Rig) -> float:
    """Kill the active bot; return when."""
    before = active(await installation.status())
    assert before is not None
    os.kill(before["pid"], signal.SIGKILL)
    return time.monotonic()


async def recovered(installation: Rig) -> dict[str, Any]:
    """Wait until the successor is active and has told all; return what came of the handoff."""
    await installation.logged("recovered what generation 1 left", timeout=60)
    await at_rest(installation)
    handoff: dict[str, Any] = (await ask_status(installation))["last_handoff"]
    return handoff


def handled_at(installation: Rig, entry: Entry) -> float | None:
    """Return when somebody first handled an event."""
    return min((one.at for one in installation.sandbox.journal.handlings(entry.kind, entry.key)), default=None)


REFUSALS: list[tuple[str, Callable[[Faults], object], float]] = [
    ("op-9", lambda faults: faults.refuse_resume("invalid", after=1.0), 4.0),
    ("4007", lambda faults: faults.refuse_resume(4007), 4.0),
    ("4009", lambda faults: faults.refuse_resume(4009), 4.0),
    ("1006", lambda faults: faults.refuse_resume("cut"), 6.0),
    ("silence", lambda faults: faults.withhold_resume(), 6.0),
]


@pytest.mark.parametrize(("arm", "within"), [pytest.param(*how, id=name) for name, *how in REFUSALS])
@pytest.mark.parametrize("shards", [1, 4])
async def test_who_cannot_resume_serves_within_seconds_and_says_what_is_not_known(
    tmp_path: Path, arm: Callable[[Faults], object], within: float, shards: int
) -> None:
    async with in_traffic(tmp_path, shards=shards) as installation:
        sandbox = installation.sandbox
        identified = len(sandbox.gateway.identifies)
        arm(sandbox.faults)
        died = await kill(installation)
        handoff = await recovered(installation)
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=15, quiet=1)
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"
        late = [
            entry
            for entry in sandbox.journal.entries
            if entry.at > died + within and (handled_at(installation, entry) or entry.at + 99) > entry.at + 1.0
        ]
        assert not late, f"{late[:5]}\n{handoff}\n{installation.tail()}"
        assert len(sandbox.gateway.identifies) == identified + shards, "its own session is kept, and its cache"
        said = handoff["recovered"]
        assert (said["sessions"], said["lost"]) == (shards, shards)
        assert 0 < said["unheard_seconds"] < within
        shown = await installation.command("status")
        assert "events missed: unknown, for about" in shown.out
        assert (await installation.reload())["result"] == "succeeded", installation.tail()


async def test_a_resume_that_is_cut_twice_and_then_accepted_loses_nothing(tmp_path: Path) -> None:
    async with in_traffic(tmp_path, shards=1, mix=ALL_KINDS) as installation:
        sandbox = installation.sandbox
        sandbox.faults.refuse_resume("cut", count=2)
        await kill(installation)
        handoff = await recovered(installation)
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=15, quiet=1)
        assert (handoff["recovered"]["lost"], handoff["recovered"]["unheard_seconds"]) == (0, 0.0)
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"
        counted = len(handoff["cut"]) + handoff["expired"] + found.refused + handoff["recovered"]["missed"]
        assert found.lost <= counted, f"{found}\n{installation.tail()}"


async def test_shards_that_wait_for_leave_for_longer_than_discord_keeps_a_session_lose_none(tmp_path: Path) -> None:
    """One IDENTIFY each 0.6 s, and a session that nobody resumes for 3 s is gone: the last shard waits for 9 s."""
    shards, life, window = 16, 3.0, 0.6
    settings = of_moving(shards, guilds=32, max_concurrency=1, identify_window=window, session_resume_seconds=life)
    async with in_traffic(
        tmp_path, shards=shards, settings=settings, discord__identify_window=window, restart__backoff_first=0.2
    ) as installation:
        sandbox = installation.sandbox
        await kill(installation)
        handoff = await recovered(installation)
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=15, quiet=1)
        assert (handoff["recovered"]["sessions"], handoff["recovered"]["lost"]) == (shards, 0), installation.tail()
        assert handoff["duration"] > 2 * life
        assert len(sandbox.gateway.identifies) == 2 * shards
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"
        assert found.lost <= len(handoff["cut"]), f"{found}\n{installation.tail(200)}"


EVERY_KIND = ALL_KINDS | {"voice": 1.0, "thread": 0.5}


@pytest.mark.parametrize(("kind", "shards"), [("PlainWitness", 1), ("ShardedWitness", 4)])
async def test_the_cache_is_what_discord_has_and_each_event_is_handled_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, shards: int
) -> None:
    async with rig(
        tmp_path,
        app="witness:client",
        settings=of_moving(shards, guilds=6, messages_per_channel=30),
        handler_ms="0-5",
        discord__identify_window=WINDOW,
    ) as installation:
        installation.environ |= {"WITNESS": kind, "WITNESS_SOCKETS": str(tmp_path), "PROBE_WAIT_S": "60"}
        sandbox = installation.sandbox
        await installation.start()
        sandbox.traffic.start(rate=100, mix=EVERY_KIND)
        await sandbox.journal.until(lambda: len(sandbox.journal.entries) > 200)
        identified = len(sandbox.gateway.identifies)
        await kill(installation)
        handoff = await recovered(installation)
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=15, quiet=2)
        assert len(sandbox.gateway.identifies) == identified + shards
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"
        counted = len(handoff["cut"]) + handoff["expired"] + found.refused + handoff["recovered"]["missed"]
        assert found.lost <= counted, f"{found}\n{handoff}\n{installation.tail()}"
        monkeypatch.setattr(Route, "BASE", sandbox.api_url)
        monkeypatch.setattr(DiscordWebSocket, "DEFAULT_GATEWAY", discord.gateway.yarl.URL(sandbox.gateway_url))
        ours = await listing(tmp_path / "2")
        theirs = await truth(sandbox.token, shards)
        differ = sorted(set(guilds_of(ours)) ^ set(guilds_of(theirs)))
        sides = [f"{'bot' if line in set(ours) else 'truth'} only: {line[:300]}" for line in differ[:30]]
        assert not differ, f"{len(differ)} lines of {len(ours)} differ:\n" + "\n".join(sides) + installation.tail()
        numbers = [line for line in ours if line.startswith("messages[") and ".id:" in line]
        assert len(numbers) == len(set(numbers)) > 50


async def listing(path: Path) -> list[str]:
    """Return all that a bot has cached, a line for each field."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    lines = (await reader.read()).decode().split("\n")
    writer.close()
    assert len(lines) > 1000
    return lines


async def truth(token: str, shards: int) -> list[str]:
    """Return what a bot has cached that has just connected."""
    sys.path.insert(0, str(APPS))
    from caches import listing as lines_of
    from probe import PROBE_INTENTS

    if shards == 1:
        client: discord.Client = discord.Client(intents=PROBE_INTENTS)
    else:
        client = discord.AutoShardedClient(intents=PROBE_INTENTS, shard_count=shards)
    async with client:
        await client.login(token)
        connecting = asyncio.create_task(client.connect())
        await asyncio.wait_for(client.wait_until_ready(), 60)
        found = lines_of(client)
        await client.close()
        await connecting
    return found


def guilds_of(lines: list[str]) -> list[str]:
    """Leave out what also a bot that lived on does not have as a new session brings it.

    That is messages and the newest one's id; the bot's own user, of whom each shard's READY makes another one; and
    whether the bot itself is in a thread, of which nobody tells it when the thread is made.
    """
    # The newest READY's user is that of a member, unless no guild has come to its shard since.
    of_the_bot = (re.match(r"user: as .*_members\[(\d+)\]|user\.id: (\d+)", line) for line in lines)
    own = next(found[1] or found[2] for found in of_the_bot if found)
    other = rf"messages\[|user\b|.*(\.last_message_id|_members\[{own}\]\._user|_threads\[\d+\]\.me)\b"
    return [line for line in lines if not re.match(other, line)]
