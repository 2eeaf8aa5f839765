"""Unmodified discord.py works against the sandbox: login, caches, every kind of event, REST, RESUME."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import discord
import pytest
from discord.ext import commands
from sandbox_bots import CardView, add_commands, running

from bastion.sandbox import KINDS, Entry, Sandbox, SandboxSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    settings = SandboxSettings(guilds=4, skew=(0, 0.05), identify_window=0, invalid_session_delay=0)
    async with Sandbox(settings) as running_sandbox:
        yield running_sandbox


class Reporter(commands.Bot):
    """Reports every event it hears under the documented key, and answers what can be answered."""

    def __init__(self, sandbox: Sandbox, **options: Any) -> None:
        super().__init__("!", intents=discord.Intents.all(), **options)
        self.sandbox = sandbox
        add_commands(self.tree)

    async def setup_hook(self) -> None:
        await self.tree.sync()

    def report(self, kind: str, *parts: object) -> None:
        self.sandbox.journal.handled(kind, ":".join(map(str, parts)))

    async def on_message(self, message: discord.Message) -> None:
        if not message.author.bot:
            self.report("message", message.id)
            if message.content.startswith("<"):
                await message.reply("card")

    async def on_raw_message_edit(self, payload: discord.RawMessageUpdateEvent) -> None:
        if not payload.message.author.bot:
            self.report("edit", payload.message_id, payload.data["edited_timestamp"])

    async def on_raw_message_delete(self, payload: discord.RawMessageDeleteEvent) -> None:
        self.report("delete", payload.message_id)

    async def on_raw_reaction_add(self, payload: discord.RawReactionActionEvent) -> None:
        self._reaction("reaction_add", payload)

    async def on_raw_reaction_remove(self, payload: discord.RawReactionActionEvent) -> None:
        self._reaction("reaction_remove", payload)

    def _reaction(self, kind: str, payload: discord.RawReactionActionEvent) -> None:
        emoji = payload.emoji.id or payload.emoji.name
        self.report(kind, payload.channel_id, payload.message_id, payload.user_id, emoji)

    async def on_typing(self, channel: Any, user: discord.abc.User, when: datetime) -> None:
        self.report("typing", channel.id, user.id, int(when.timestamp()))

    async def on_member_join(self, member: discord.Member) -> None:
        assert member.joined_at is not None
        self.report("member_join", member.guild.id, member.id, member.joined_at.isoformat())

    async def on_raw_member_remove(self, payload: discord.RawMemberRemoveEvent) -> None:
        self.report("member_leave", payload.guild_id, payload.user.id)

    async def on_member_update(self, before: discord.Member, after: discord.Member) -> None:
        self.report("member_update", after.guild.id, after.id, after.nick)

    async def on_guild_join(self, guild: discord.Guild) -> None:
        self.report("guild_join", guild.id)

    async def on_guild_remove(self, guild: discord.Guild) -> None:
        self.report("guild_leave", guild.id)


def content_of(sandbox: Sandbox, message_id: int | None) -> str:
    for channel in sandbox.world.channels.values():
        if message_id is not None and message_id in channel.messages:
            text: str = channel.messages[message_id].body["content"]
            return text
    raise LookupError(message_id)


async def test_a_client_logs_in_and_knows_the_world(sandbox: Sandbox) -> None:
    async with running(discord.Client(intents=discord.Intents.all()), sandbox) as client:
        assert client.user is not None
        assert client.user.id == sandbox.world.bot.id
        assert {guild.id for guild in client.guilds} == set(sandbox.world.guilds)
        for guild in client.guilds:
            there = sandbox.world.guilds[guild.id]
            assert {channel.id for channel in guild.channels} == set(there.channels)
            assert {member.id for member in guild.members} == set(there.members)
            assert guild.chunked
            assert guild.me.guild_permissions.administrator
        assert (await client.application_info()).id == sandbox.world.application_id


async def test_members_are_chunked_when_presences_are_not_asked_for(sandbox: Sandbox) -> None:
    intents = discord.Intents.default()
    intents.members = True
    async with running(discord.Client(intents=intents), sandbox) as client:
        assert all(len(guild.members) == len(sandbox.world.guilds[guild.id].members) for guild in client.guilds)


async def test_a_wrong_token_fails_the_login(sandbox: Sandbox) -> None:
    with pytest.raises(discord.LoginFailure):
        async with running(discord.Client(intents=discord.Intents.default()), sandbox, token="wrong"):
            pass


async def test_disallowed_intents_fail_with_discord_pys_own_error(sandbox: Sandbox) -> None:
    sandbox.settings.disallowed_intents = 1 << 15
    with pytest.raises(discord.PrivilegedIntentsRequired):
        async with running(discord.Client(intents=discord.Intents.all()), sandbox):
            pass


async def test_a_sharded_client_takes_the_recommended_shards_and_hears_every_guild(sandbox: Sandbox) -> None:
    sandbox.settings.recommended_shards = 2
    client = discord.AutoShardedClient(intents=discord.Intents.all())
    heard: list[int] = []

    async def no_pause(shard: int | None, *, initial: bool) -> None:
        """discord.py sleeps 5 s between IDENTIFYs."""

    @client.event
    async def on_message(message: discord.Message) -> None:
        heard.append(message.id)
        sandbox.journal.handled("message", str(message.id))

    client.before_identify_hook = no_pause  # type: ignore[method-assign, assignment]
    sandbox.journal.expect(["message"])
    async with running(client, sandbox):
        assert client.shard_count == 2
        assert len(client.guilds) == 4
        sent = [sandbox.emit_message(guild=guild).message_id for guild in sandbox.world.guilds for _ in range(3)]
        assert (await sandbox.settled(timeout=5, linger=0)).clean
        assert sorted(heard) == sorted(number for number in sent if number is not None)
    assert not sandbox.gateway.violations


async def test_every_kind_of_event_is_dispatched_and_its_documented_key_can_be_computed(sandbox: Sandbox) -> None:
    sandbox.journal.expect(KINDS)
    async with running(Reporter(sandbox), sandbox):
        first = sandbox.emit_slash("ping")
        await sandbox.journal.wait_handled(first)
        await sandbox.traffic.run(rate=150, seconds=4)
        while len(sandbox.world.guilds) < 4:
            sandbox.emit_guild_join()
        home, *others = list(sandbox.world.guilds.values())[:4]
        # Each another member's: handlers are given the cached member, which has the newest of several new names.
        for guild, member in zip(others, home.people()[:3], strict=True):
            sandbox.emit_guild_leave(guild=guild.id)
            sandbox.emit_guild_join()
            sandbox.emit_member_update(guild=home.id, user=member.user.id)
            sandbox.emit_member_join(guild=home.id)
        for member in home.people()[3:6]:
            sandbox.emit_member_leave(guild=home.id, user=member.user.id)
        verdict = await sandbox.settled(timeout=10)
    assert verdict.clean, str(verdict)
    assert set(verdict.kinds) == set(KINDS), str(verdict)
    assert verdict.emitted == verdict.handled_once


async def test_the_same_reaction_again_counts_as_a_new_event(sandbox: Sandbox) -> None:
    sandbox.journal.expect(["reaction_add", "reaction_remove"])
    async with running(Reporter(sandbox), sandbox):
        asked = sandbox.emit_message()
        where = {"message": asked.message_id or 0, "user": asked.user_id, "emoji": "🔥"}
        for _ in range(3):
            sandbox.emit_reaction_add(**where)  # type: ignore[arg-type]
            sandbox.emit_reaction_remove(**where)  # type: ignore[arg-type]
        verdict = await sandbox.settled(timeout=5)
        assert (verdict.emitted, verdict.handled_once, verdict.duplicated) == (6, 6, 0)


async def test_commands_components_and_modals_are_answered(sandbox: Sandbox) -> None:
    journal = sandbox.journal
    async with running(Reporter(sandbox), sandbox) as bot:
        names = {command["name"] for command in sandbox.world.commands[None].values()}
        assert names == {"ping", "search", "set"}
        assert {command.name for command in await bot.tree.fetch_commands()} == names
        ping = sandbox.emit_slash("ping", options=[{"name": "times", "type": 4, "value": 3}])
        await journal.wait_handled(ping)
        await journal.until(lambda: bool(sandbox.world.components))
        message = next(iter(sandbox.world.components.values())).message_id
        assert content_of(sandbox, message) == "pong 3"
        await journal.wait_handled(sandbox.emit_select(message=message, custom_id="who"))
        await journal.wait_handled(sandbox.emit_select(message=message, custom_id="pick", values=["b"]))
        modal = sandbox.world.modals[0]
        submitted = sandbox.emit_modal(modal, values={modal.components[0]["components"][0]["custom_id"]: "Ann"})
        await journal.wait_handled(submitted)
        answer = sandbox.world.interactions[submitted.interaction_id or 0].original_id
        assert content_of(sandbox, answer) == "called Ann"
        await journal.wait_handled(sandbox.emit_button(message=message))
        assert content_of(sandbox, message) == "pressed"
        await journal.wait_handled(sandbox.emit_autocomplete("search", text="li"))
        await journal.wait_handled(sandbox.emit_slash("search"))
        await journal.wait_handled(sandbox.emit_slash("set"))
    assert journal.verdict().clean


async def test_a_second_process_that_answers_too_is_refused_and_recorded(sandbox: Sandbox) -> None:
    async with running(Reporter(sandbox), sandbox), running(Reporter(sandbox), sandbox):
        entry = sandbox.emit_slash("search")
        await sandbox.journal.until(lambda: bool(sandbox.journal.refused))
        refused = sandbox.journal.refused[0]
        assert (refused.kind, refused.key, refused.code) == ("slash", entry.key, 40060)
        verdict = await sandbox.settled(timeout=5)
        assert (verdict.handled_once, verdict.duplicated, verdict.refused) == (1, 0, 1)
        assert not verdict.clean
        sandbox.emit_message(content="<card>", kind="command_message")
        await sandbox.journal.until(lambda: sandbox.journal.verdict().duplicated == 1)


async def test_what_the_bot_writes_comes_back_as_events(sandbox: Sandbox) -> None:
    heard: Counter[str] = Counter()
    client = discord.Client(intents=discord.Intents.all())
    for name in ("message", "message_edit", "message_delete", "reaction_add", "reaction_remove", "typing"):

        async def listener(*args: Any, name: str = name) -> None:
            heard[name] += 1

        listener.__name__ = f"on_{name}"
        client.event(listener)
    async with running(client, sandbox):
        channel = client.guilds[0].text_channels[0]
        files = [discord.File(io.BytesIO(b"x" * 10), "a.txt")]
        sent = await channel.send("hi", files=files, embed=discord.Embed(title="t"), view=CardView(timeout=1))
        assert sent.attachments[0].filename == "a.txt"
        assert sent.attachments[0].size == 10
        assert sent.embeds[0].title == "t"
        await sent.edit(content="ho")
        await sent.add_reaction("👍")
        fetched = await channel.fetch_message(sent.id)
        assert (fetched.content, fetched.reactions[0].me) == ("ho", True)
        assert [user.id async for user in fetched.reactions[0].users()] == [sandbox.world.bot.id]
        await sent.remove_reaction("👍", client.user)  # type: ignore[arg-type]
        await sent.pin()
        assert [message.id async for message in channel.pins()] == [sent.id]
        assert [message.id async for message in channel.history(limit=5)] == [sent.id]
        thread = await channel.create_thread(name="t", type=discord.ChannelType.public_thread)
        await thread.send("in it")
        await sent.delete()
        await _until(lambda: heard["message_delete"] == 1)
        with pytest.raises(discord.NotFound) as missing:
            await channel.fetch_message(sent.id)
        assert missing.value.code == 10008
        someone = next(member for member in channel.guild.members if not member.bot)
        direct = await someone.send("psst")
        assert direct.guild is None
        assert (await channel.guild.fetch_member(someone.id)).id == someone.id
        await _until(lambda: heard["message"] == 3)
    assert heard == {
        "message": 3,
        "message_edit": 2,
        "message_delete": 1,
        "reaction_add": 1,
        "reaction_remove": 1,
    }


async def test_a_reply_removed_after_its_question_handles_the_deletion_once(sandbox: Sandbox) -> None:
    client = discord.Client(intents=discord.Intents.all())
    replies: dict[int, discord.Message] = {}

    @client.event
    async def on_message(message: discord.Message) -> None:
        if not message.author.bot:
            replies[message.id] = await message.reply("card")

    @client.event
    async def on_raw_message_delete(payload: discord.RawMessageDeleteEvent) -> None:
        if payload.message_id in replies:
            await replies[payload.message_id].delete()

    sandbox.journal.expect(["command_message", "delete"])
    async with running(client, sandbox):
        asked = sandbox.emit_message(content="<x>", kind="command_message")
        await sandbox.journal.wait_handled(asked)
        await _until(lambda: asked.message_id in replies)
        deleted = sandbox.emit_delete(message=asked.message_id or 0)
        assert deleted.detail == {"replied": True}
        await sandbox.journal.wait_handled(deleted)
        with pytest.raises(discord.NotFound):
            await replies[asked.message_id or 0].delete()
        assert [(one.kind, one.key, one.code) for one in sandbox.journal.refused] == [("delete", asked.key, 10008)]
        with pytest.raises(discord.HTTPException) as gone:
            await client.get_partial_messageable(asked.channel_id or 0).send(
                "late",
                reference=discord.MessageReference(message_id=asked.message_id or 0, channel_id=asked.channel_id or 0),
            )
        assert gone.value.code == 50035


@pytest.mark.parametrize("fault", ["drop", "reconnect", "invalid resumable", "invalid", "close"])
async def test_a_client_recovers_from_each_connection_fault_and_hears_everything(sandbox: Sandbox, fault: str) -> None:
    client = Reporter(sandbox)
    sandbox.journal.expect(["message"])
    async with running(client, sandbox):
        if fault == "drop":
            sandbox.faults.drop_shard(0)
        elif fault == "reconnect":
            sandbox.faults.reconnect(0)
        elif fault == "close":
            sandbox.faults.close(0, 4000)
        else:
            sandbox.faults.invalidate(0, resumable=fault != "invalid")
        if fault == "invalid":
            await sandbox.gateway.wait_for(lambda: len(sandbox.gateway.identifies) == 2)
            await sandbox.gateway.wait_ready(1)
        for _ in range(10):
            sandbox.emit_message()
        verdict = await sandbox.settled(timeout=10)
        assert verdict.clean, str(verdict)
        assert verdict.handled_once == 10
        session = sandbox.gateway.sessions[0]
        assert session.resumed == (0 if fault == "invalid" else 1)


async def _until(condition: Callable[[], bool]) -> None:
    """Wait for what only the client can see: it gives no sign that could be awaited."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError("the condition did not come true in 5 s")


def test_an_entry_says_where_it_went() -> None:
    entry = Entry(kind="message", key="1", at=0.0)
    assert (entry.audience, entry.delivered) == (0, [])
