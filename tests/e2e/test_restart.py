"""A stop and a start: what came in between is handled late, not lost, and no session is begun anew."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from ordeal import WINDOW, of_moving
from rig import ALL_KINDS, Rig, active, rig
from test_moved import the_end

pytestmark = pytest.mark.anyio

INTERACTIONS = ("slash", "autocomplete", "button", "select", "modal")
IN_TIME = {kind: weight for kind, weight in ALL_KINDS.items() if kind not in INTERACTIONS}
"""What is worth handling late: Discord waits 3 s for the answer to an interaction."""


@asynccontextmanager
async def serving(
    directory: Path, *, app: str, shards: int, far: float = 0.0, handler_ms: str = "20-20", **changes: Any
) -> AsyncIterator[Rig]:
    """An installation that serves, and leaves its cache when it is stopped. ``far``: seconds to Discord and back."""
    options = {
        "discord__identify_window": WINDOW,
        "restart__resume_directory": str(directory / "lasting"),
        "handoff__drain_timeout": 5,
    }
    (directory / "lasting").mkdir(mode=0o700)
    async with rig(
        directory, app=app, settings=of_moving(shards, network_delay=far), handler_ms=handler_ms, **options | changes
    ) as made:
        await made.start()
        yield made


def saved(installation: Rig) -> Path:
    return installation.directory / "lasting" / "bot.saved"


@pytest.mark.parametrize(
    ("app", "shards"), [("plain_client:client", 1), pytest.param("sharded_bot:client", 4, marks=pytest.mark.wide)]
)
async def test_a_stop_and_a_start_lose_nothing_and_begin_no_session(tmp_path: Path, app: str, shards: int) -> None:
    async with serving(tmp_path, app=app, shards=shards) as installation:
        installation.sandbox.traffic.start(rate=100, mix=IN_TIME)
        await asyncio.sleep(1)
        for _ in range(2):
            assert await installation.stop() == 0
            assert saved(installation).exists()
            await installation.start()
            assert not saved(installation).exists(), "it is read once"
            await asyncio.sleep(1)
        await the_end(installation, identifies=shards)
        assert (active(await installation.status()) or {})["generation"] == 1


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def age(path: Path) -> None:
    os.utime(path, (time.time() - 1000,) * 2)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut, "it is damaged"),
        pytest.param(lambda path: path.write_bytes(b""), "it is none of ours", marks=pytest.mark.wide),
        pytest.param(
            lambda path: path.write_bytes(b"BASTION\x09" + bytes(99)), "another version", marks=pytest.mark.wide
        ),
        pytest.param(lambda path: path.unlink(), "beside new ones, for there is no cache", marks=pytest.mark.wide),
        pytest.param(age, "longer than restart.resume_within", marks=pytest.mark.wide),
    ],
    ids=["cut", "empty", "newer", "gone", "old"],
)
async def test_a_file_that_cannot_be_used_costs_new_sessions_and_no_event(
    tmp_path: Path, spoil: Callable[[Path], Any], said: str
) -> None:
    async with serving(tmp_path, app="sharded_client:client", shards=2) as installation:
        installation.sandbox.traffic.start(rate=50, mix={"message": 1.0, "reaction_add": 1.0})
        await asyncio.sleep(1)
        await installation.stop()
        spoil(saved(installation))
        await installation.start()
        await installation.logged(said)
        await asyncio.sleep(1)
        await the_end(installation, identifies=4)


@pytest.mark.wide
async def test_a_bot_with_another_number_of_shards_begins_new_sessions_and_loses_no_event(tmp_path: Path) -> None:
    async with serving(tmp_path, app="sharded_client:client", shards=2) as installation:
        installation.sandbox.traffic.start(rate=50, mix={"message": 1.0})
        await asyncio.sleep(1)
        await installation.stop()
        installation.configure(bot__shards=4)
        await installation.start()
        await installation.logged("shards: 2 -> 4")
        await asyncio.sleep(1)
        await the_end(installation, identifies=6)


@pytest.mark.wide
async def test_sessions_that_discord_keeps_no_more_begin_anew_and_the_cache_stays(tmp_path: Path) -> None:
    async with serving(tmp_path, app="sharded_client:client", shards=2) as installation:
        sandbox = installation.sandbox
        await installation.stop()
        for shard in (0, 1):
            sandbox.faults.vanish(shard)
        await installation.start()
        await installation.logged("Discord no longer knows the session of shard 0")
        await sandbox.journal.wait_handled(sandbox.emit_message())
        assert len(sandbox.gateway.identifies) == 4


@pytest.mark.wide
async def test_a_stop_that_is_to_leave_nothing_ends_the_sessions(tmp_path: Path) -> None:
    async with serving(tmp_path, app="plain_client:client", shards=1, restart__resume_within=0) as installation:
        await installation.stop()
        assert not list(saved(installation).parent.glob("bot*")), "not even what a killed bot leaves"
        await installation.start()
        await the_end(installation, identifies=2)


@pytest.mark.wide
async def test_a_killed_supervisors_bot_is_followed_from_that_directory(tmp_path: Path) -> None:
    async with serving(tmp_path, app="sharded_client:client", shards=2) as installation:
        sandbox = installation.sandbox
        await sandbox.journal.wait_handled(sandbox.emit_message())
        assert installation.process is not None
        installation.process.kill()
        await installation.stopped()
        missed = [sandbox.emit_message() for _ in range(20)]
        await installation.start()
        for entry in missed:
            await sandbox.journal.wait_handled(entry)
        await the_end(installation, identifies=4)


async def test_the_apps_state_comes_with_it(tmp_path: Path) -> None:
    async with serving(tmp_path, app="stateful:client", shards=1) as installation:
        sandbox = installation.sandbox
        for _ in range(3):
            await sandbox.journal.wait_handled(sandbox.emit_message())
        await installation.stop()
        await installation.start()
        asked = sandbox.emit_message(content="how many?")
        await sandbox.journal.wait_handled(asked)
        assert sandbox.journal.notes("seen") == ["4:4"]
        assert sandbox.journal.notes("import") == ["first"]
        await installation.stop()
        cut(saved(installation))
        await installation.start()
        await sandbox.journal.wait_handled(sandbox.emit_message(content="how many?"))
        assert sandbox.journal.notes("seen")[1] == "5:5", "the checkpoint is of the stop"


@pytest.mark.wide
async def test_what_is_left_of_another_bot_is_not_imported(tmp_path: Path) -> None:
    async with serving(tmp_path, app="stateful:client", shards=1, state__checkpoint=0.1) as installation:
        sandbox = installation.sandbox
        await sandbox.journal.wait_handled(sandbox.emit_message())
        await installation.stop()
        for path in saved(installation).parent.glob("bot-sessions-*"):
            path.write_bytes(path.read_bytes()[:8] + bytes(16) + path.read_bytes()[24:])  # another token's digest
        saved(installation).unlink()
        await installation.start()
        await sandbox.journal.wait_handled(sandbox.emit_message(content="how many?"))
        assert sandbox.journal.notes("seen") == ["1:1"]


@pytest.mark.wide
async def test_a_cache_without_the_rest_is_used_and_does_not_stay(tmp_path: Path) -> None:
    async with serving(tmp_path, app="plain_client:client", shards=1) as installation:
        sandbox = installation.sandbox
        await installation.stop()
        for path in saved(installation).parent.glob("bot-*"):
            path.unlink()
        missed = sandbox.emit_message()
        await installation.start()
        await sandbox.journal.wait_handled(missed)
        assert not saved(installation).exists()
        assert len(sandbox.gateway.identifies) == 1


async def test_a_guild_whose_members_had_not_come_yet_holds_nothing_up(tmp_path: Path) -> None:
    async with serving(tmp_path, app="sharded_client:client", shards=1, far=1.0) as installation:
        sandbox = installation.sandbox
        sandbox.emit_guild_join()
        await sandbox.journal.wait_handled(sandbox.emit_message())  # so it has come, and its members are asked for
        await installation.stop()
        began = time.monotonic()
        await installation.start()
        assert time.monotonic() - began < 15, "discord.py waits for members for minutes"
        await the_end(installation, identifies=1)


@pytest.mark.wide
async def test_a_bot_that_is_killed_over_its_handlers_has_left_its_file(tmp_path: Path) -> None:
    async with serving(tmp_path, app="sharded_client:client", shards=1, handler_ms="60000-60000") as installation:
        sandbox = installation.sandbox
        sandbox.emit_message()
        await installation.until(lambda status: status["children"][0]["in_flight"] == 1)
        assert installation.process is not None
        installation.process.terminate()
        async with asyncio.timeout(5):
            while not saved(installation).exists():  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.01)
        installation.process.terminate()
        await installation.stopped()
        installation.environ["PROBE_HANDLER_MS"] = "0-0"
        missed = sandbox.emit_message()
        await installation.start()
        await sandbox.journal.wait_handled(missed)
        assert len(sandbox.gateway.identifies) == 1
