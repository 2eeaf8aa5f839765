"""The examples of docs/adopting.md, each run as a program and reloaded."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from rig import Rig, rig

from bastion.sandbox import Entry, SandboxSettings
from bastion.sandbox.world import Component

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
WINDOW = 0.25


@asynccontextmanager
async def example(tmp_path: Path, name: str, **options: Any) -> AsyncIterator[Rig]:
    async with rig(
        tmp_path,
        settings=SandboxSettings(identify_window=WINDOW, member_request_window=0.0, identifies_per_day=100_000),
        **{
            "bot__directory": str(EXAMPLES / name),
            "discord__identify_window": WINDOW,
            "handoff__probation": 0,
            "handoff__linger": 180,
        }
        | options,
    ) as installation:
        installation.environ["DATABASE"] = str(tmp_path / "database")
        await installation.start("main.py")
        yield installation


async def said(installation: Rig, text: str, *, count: int = 1) -> None:
    """Wait until the bot has written something, so many times."""
    world = installation.sandbox.world

    def there() -> bool:
        messages = [message for channel in world.channels.values() for message in channel.messages.values()]
        return sum(message.author is world.bot and text in message.body["content"] for message in messages) == count

    await installation.sandbox.journal.until(there)


async def reload(installation: Rig) -> None:
    outcome = await installation.reload()
    assert (outcome["result"], outcome["handoff"]["cut"]) == ("succeeded", []), outcome


async def use(installation: Rig, emit: Callable[[], Entry]) -> int:
    """Let a person do something; return the generation that answered it."""
    handled = await installation.sandbox.journal.wait_handled(emit())
    return handled.by


def newest(installation: Rig) -> Component:
    return list(installation.sandbox.world.components.values())[-1]


async def test_a_plain_client_goes_on_with_a_conversation(tmp_path: Path) -> None:
    async with example(tmp_path, "plain_client") as installation:
        sandbox = installation.sandbox
        asked = sandbox.emit_message(content="!hello")
        await said(installation, "How are you?")
        await reload(installation)
        sandbox.emit_message(
            guild=asked.guild_id, channel=asked.channel_id, author=asked.user_id, content="fine, thank you"
        )
        await said(installation, "You are fine, thank you. I see.")
        sandbox.emit_message(content="!hello")
        await said(installation, "How are you?", count=2)


async def test_a_bot_of_cogs_answers_what_was_opened_before(tmp_path: Path) -> None:
    async with example(tmp_path, "cogs_bot") as installation:
        sandbox = installation.sandbox
        await use(installation, lambda: sandbox.emit_slash("poll"))
        lasting = newest(installation)
        await use(installation, lambda: sandbox.emit_slash("quick"))
        quick = newest(installation)
        assert await use(installation, lambda: sandbox.emit_component(quick, values=["Cats"])) == 1
        await reload(installation)
        assert await use(installation, lambda: sandbox.emit_component(lasting)) == 2
        assert newest(installation).custom_id == "vote:1"
        quick = next(one for one in sandbox.world.components.values() if one.type == 3)
        assert await use(installation, lambda: sandbox.emit_component(quick, values=["Cats"])) == 1
        await said(installation, "Cats: 2")
        assert await use(installation, lambda: sandbox.emit_slash("poll")) == 2


def saved(database: Path) -> int:
    with sqlite3.connect(database) as connection:
        (count,) = connection.execute("SELECT sum(count) FROM messages").fetchone()
    return count or 0


async def test_a_bot_with_state_a_loop_and_a_database_counts_each_message_once(tmp_path: Path) -> None:
    async with example(tmp_path, "stateful_bot", state__checkpoint=0) as installation:
        sandbox = installation.sandbox
        sandbox.traffic.start(rate=50, mix={"message": 1.0})
        for _ in range(2):
            await reload(installation)
        await sandbox.traffic.stop()
        count = sum(entry.kind == "message" for entry in sandbox.journal.entries)
        async with asyncio.timeout(10):
            while saved(tmp_path / "database") < count:  # noqa: ASYNC110 - a database tells nobody
                await asyncio.sleep(0.05)
        sandbox.emit_message(content="!total")
        await said(installation, f"{count + 1} messages")
