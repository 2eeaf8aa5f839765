"""Commands told to Discord: by the active child alone, once a release, one process at a time."""

from __future__ import annotations

import asyncio
import fcntl
from pathlib import Path
from typing import Any

import discord
import pytest
from discord import app_commands

from bastion.bot import registration
from bastion.bot.ledger import SQLiteLedger
from bastion.bot.lifecycle import Lifecycle
from bastion.bot.registration import Registration

pytestmark = pytest.mark.anyio


class Discord:
    """What is registered, and how often it was replaced."""

    def __init__(self) -> None:
        self.commands: dict[int | None, list[Any]] = {}
        self.puts = 0
        self.broken = False

    async def put(self, guild: int | None, payload: Any) -> list[Any]:
        self.puts += 1
        if self.broken:
            raise discord.DiscordException("no")
        self.commands[guild] = [
            {**one, "id": str(n), "application_id": "1", "version": "1"} for n, one in enumerate(payload)
        ]
        return self.commands[guild]


class Child:
    def __init__(self, server: Discord, tmp_path: Path, *, role: Any, name: str = "ping") -> None:
        self.client = discord.Client(intents=discord.Intents.none(), application_id=1)
        http: Any = self.client.http
        http.bulk_upsert_global_commands = lambda app, payload: server.put(None, payload)
        http.bulk_upsert_guild_commands = lambda app, guild, payload: server.put(guild, payload)
        http.get_global_commands = lambda app: asyncio.sleep(0, server.commands.get(None, []))
        http.get_guild_commands = lambda app, guild: asyncio.sleep(0, server.commands.get(guild, []))
        self.lifecycle = Lifecycle()
        self.lifecycle.enter(role)
        self.ledger = SQLiteLedger(str(tmp_path / "ledger"), 1)
        self.remarks: list[str] = []
        self.registration = Registration(
            lifecycle=self.lifecycle,
            notes=self.ledger,
            lock=str(tmp_path / "ledger.commands"),
            remark=self.remarks.append,
        )
        self.registration.install(self.client)
        self.tree = app_commands.CommandTree(self.client)

        @self.tree.command(name=name)
        async def command(interaction: discord.Interaction[Any]) -> None: ...

    async def sync(self, **options: Any) -> list[str]:
        return [command.name for command in await self.tree.sync(**options)]

    async def activate(self) -> None:
        self.lifecycle.enter("active")
        await self.registration.catch_up()
        self.ledger.close()


async def test_an_active_child_tells_at_once_but_not_what_was_told_last(tmp_path: Path) -> None:
    server = Discord()
    child = Child(server, tmp_path, role="active")
    assert (await child.sync(), server.puts) == (["ping"], 1)
    assert (await child.sync(), server.puts) == (["ping"], 1)
    again = Child(server, tmp_path, role="active")
    assert (await again.sync(), server.puts) == (["ping"], 1)
    changed = Child(server, tmp_path, role="active", name="pong")
    assert (await changed.sync(), server.puts) == (["pong"], 2)


@pytest.mark.parametrize("role", ["standby", "draining"])
async def test_a_child_that_is_not_active_is_answered_with_what_is_registered(tmp_path: Path, role: str) -> None:
    server = Discord()
    await Child(server, tmp_path, role="active").sync()
    child = Child(server, tmp_path, role=role, name="pong")
    assert (await child.sync(), server.puts) == (["ping"], 1)
    await child.activate()
    assert ([one["name"] for one in server.commands[None]], server.puts) == (["pong"], 2)


async def test_each_guild_is_a_scope_of_its_own(tmp_path: Path) -> None:
    server = Discord()
    child = Child(server, tmp_path, role="standby")
    child.tree.copy_global_to(guild=discord.Object(7))
    assert await child.sync(guild=discord.Object(7)) == []
    assert await child.sync() == []
    await child.activate()
    assert (sorted(server.commands, key=str), server.puts) == ([7, None], 2)


async def test_a_refusal_after_the_switch_is_logged_and_tried_again_by_the_next_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Discord()
    server.broken = True
    child = Child(server, tmp_path, role="standby")
    await child.sync()
    await child.activate()
    assert "users see those of the last release: no" in caplog.text
    server.broken = False
    assert await Child(server, tmp_path, role="active").sync() == ["ping"]


async def test_two_processes_do_not_change_commands_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Discord()
    child = Child(server, tmp_path, role="active")
    with (tmp_path / "ledger.commands").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        syncing = asyncio.ensure_future(child.sync())
        await asyncio.sleep(0.1)
        assert server.puts == 0
    assert await syncing == ["ping"]

    monkeypatch.setattr(registration, "LOCK_SECONDS", 0.1)
    with (tmp_path / "ledger.commands").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert await Child(server, tmp_path, role="active", name="pong").sync() == ["pong"], "it does not wait for ever"


async def test_commands_that_a_change_deletes_are_named(tmp_path: Path) -> None:
    """A program that was started without its extensions has an empty tree."""
    server = Discord()
    await server.put(None, [{"name": name, "type": 1, "description": "x"} for name in ("play", "stop", "ping")])
    child = Child(server, tmp_path, role="standby")
    await child.sync()
    assert child.remarks == []
    await child.activate()
    assert child.remarks == ["the global commands no longer have 2 that were registered before: play, stop"]


async def test_commands_that_are_added_need_no_remark(tmp_path: Path) -> None:
    server = Discord()
    child = Child(server, tmp_path, role="active")
    await child.sync()
    assert (server.puts, child.remarks) == (1, [])
    child.ledger.close()
