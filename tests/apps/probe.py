"""What every probe app does: handle each kind of event, take a random time over it, report it.

A probe is an ordinary discord.py client. Its handlers are shared here, so that the four apps differ in class alone.
Keys are made before the handler takes its time: what is cached may change meanwhile.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import discord
from components import CountButton, LastingView
from discord.ext import commands
from reports import Reports, handler_seconds
from slash import add_slash_commands

# The mixins have no client class among their bases, so that each app has the bases of an ordinary one.
if TYPE_CHECKING:
    AnyClient = discord.Client
    AnyBot = commands.Bot
else:
    AnyClient = AnyBot = object

PROBE_INTENTS = discord.Intents(
    guilds=True, members=True, messages=True, message_content=True, reactions=True, typing=True, voice_states=True
)


def wait_seconds() -> float:
    """How long a conversation waits for its user: PROBE_WAIT_S, default 60."""
    return float(os.environ.get("PROBE_WAIT_S", "60"))


class Probe(AnyClient):
    """Handlers for all that any client can hear. A mixin: name it before the client class."""

    probe_tree: discord.app_commands.CommandTree[Any]

    def __init__(self, *args: Any, **options: Any) -> None:
        options.setdefault("heartbeat_timeout", float(os.environ.get("PROBE_HEARTBEAT_TIMEOUT", "60")))
        super().__init__(*args, intents=PROBE_INTENTS, allowed_mentions=discord.AllowedMentions.none(), **options)
        self.reports = Reports()
        tree = getattr(self, "tree", None)
        self.probe_tree = tree if tree is not None else discord.app_commands.CommandTree(self)
        add_slash_commands(self.probe_tree, self)

    async def setup_hook(self) -> None:
        self.add_view(LastingView())
        self.add_dynamic_items(CountButton)
        await self.probe_tree.sync()

    async def close(self) -> None:
        await super().close()
        await self.reports.close()

    async def on_ready(self) -> None:
        """Report kind "ready", key the generation. Every process does, also one that does not handle events yet."""
        await self.reports.handled("ready", self.reports.generation)

    async def pause(self) -> None:
        """Take a while."""
        await asyncio.sleep(handler_seconds())

    async def handled(self, kind: str, key: object) -> None:
        """Take a while, then report."""
        await self.pause()
        await self.reports.handled(kind, key)

    def next_message(self, *, user_id: int, channel_id: int) -> asyncio.Task[discord.Message | None]:
        """Listen for a user's next message in a channel; reported as kind "wait_for". None: none came in time."""

        def wanted(message: discord.Message) -> bool:
            return message.author.id == user_id and message.channel.id == channel_id

        async def listen() -> discord.Message | None:
            try:
                message: discord.Message = await self.wait_for("message", check=wanted, timeout=wait_seconds())
            except TimeoutError:
                return None
            await self.reports.handled("wait_for", message.id)
            return message

        return asyncio.create_task(listen())

    def next_reaction(self, *, user_id: int, channel_id: int) -> asyncio.Task[discord.RawReactionActionEvent | None]:
        """Listen for a user's next reaction in a channel; reported as kind "wait_for". None: none came in time."""

        def wanted(event: discord.RawReactionActionEvent) -> bool:
            return event.user_id == user_id and event.channel_id == channel_id

        async def listen() -> discord.RawReactionActionEvent | None:
            try:
                event: discord.RawReactionActionEvent = await self.wait_for(
                    "raw_reaction_add", check=wanted, timeout=wait_seconds()
                )
            except TimeoutError:
                return None
            await self.reports.handled("wait_for", reaction_key(event))
            return event

        return asyncio.create_task(listen())

    def next_press(self, custom_id: str) -> asyncio.Task[discord.Interaction[Any] | None]:
        """Listen for a press of a component; reported as kind "wait_for". None: none came in time."""

        def wanted(press: discord.Interaction[Any]) -> bool:
            return press.data is not None and press.data.get("custom_id") == custom_id

        async def listen() -> discord.Interaction[Any] | None:
            try:
                press: discord.Interaction[Any] = await self.wait_for(
                    "interaction", check=wanted, timeout=wait_seconds()
                )
            except TimeoutError:
                return None
            await self.reports.handled("wait_for", press.id)
            return press

        return asyncio.create_task(listen())

    # --- messages ---------------------------------------------------------------------------------------------------

    async def on_message(self, message: discord.Message, /) -> None:
        if not message.author.bot:
            await self.handled("message", message.id)

    async def on_raw_message_edit(self, payload: discord.RawMessageUpdateEvent) -> None:
        edited = payload.data.get("edited_timestamp")
        if edited is not None and not payload.message.author.bot:
            await self.handled("edit", f"{payload.message_id}:{edited}")

    async def on_raw_message_delete(self, payload: discord.RawMessageDeleteEvent) -> None:
        await self.handled("delete", payload.message_id)

    async def on_raw_reaction_add(self, payload: discord.RawReactionActionEvent) -> None:
        if not self._is_self(payload.user_id):
            await self.handled("reaction_add", reaction_key(payload))

    async def on_raw_reaction_remove(self, payload: discord.RawReactionActionEvent) -> None:
        if not self._is_self(payload.user_id):
            await self.handled("reaction_remove", reaction_key(payload))

    async def on_raw_typing(self, payload: discord.RawTypingEvent) -> None:
        await self.handled("typing", f"{payload.channel_id}:{payload.user_id}:{int(payload.timestamp.timestamp())}")

    # --- members and guilds -----------------------------------------------------------------------------------------

    async def on_member_join(self, member: discord.Member) -> None:
        joined = member.joined_at.isoformat() if member.joined_at else ""
        await self.handled("member_join", f"{member.guild.id}:{member.id}:{joined}")

    async def on_raw_member_remove(self, payload: discord.RawMemberRemoveEvent) -> None:
        await self.handled("member_leave", f"{payload.guild_id}:{payload.user.id}")

    async def on_member_update(self, before: discord.Member, after: discord.Member) -> None:
        if before.nick != after.nick:
            await self.handled("member_update", f"{after.guild.id}:{after.id}:{after.nick or ''}")

    # --- voice and threads ------------------------------------------------------------------------------------------

    async def on_voice_state_update(
        self, member: discord.Member, before: discord.VoiceState, after: discord.VoiceState
    ) -> None:
        kind = "voice_leave" if after.channel is None else "voice_join" if before.channel is None else "voice_mute"
        await self.handled(kind, f"{member.guild.id}:{member.id}:{after.session_id}")

    async def on_thread_create(self, thread: discord.Thread) -> None:
        if thread.owner_id is None or not self._is_self(thread.owner_id):
            await self.handled("thread_create", thread.id)

    async def on_raw_thread_update(self, payload: discord.RawThreadUpdateEvent) -> None:
        await self.handled("thread_update", f"{payload.thread_id}:{payload.data['name']}")

    async def on_raw_thread_delete(self, payload: discord.RawThreadDeleteEvent) -> None:
        await self.handled("thread_delete", payload.thread_id)

    async def on_guild_join(self, guild: discord.Guild) -> None:
        await self.handled("guild_join", guild.id)

    async def on_guild_remove(self, guild: discord.Guild) -> None:
        await self.handled("guild_leave", guild.id)

    def _is_self(self, user_id: int) -> bool:
        return self.user is not None and self.user.id == user_id


class PrefixProbe(Probe, AnyBot):
    """A probe with prefix commands. A message that is a command is reported by the command, any other by on_message."""

    def __init__(self, **options: Any) -> None:
        super().__init__(command_prefix="!", help_command=None, **options)
        self.add_command(ping)
        self.add_command(ask)
        self.add_command(confirm)

    async def on_message(self, message: discord.Message, /) -> None:
        context = await self.get_context(message)
        if context.command is not None and not message.author.bot:
            await self.invoke(context)
        else:
            await super().on_message(message)


@commands.command()
async def ping(context: commands.Context[PrefixProbe]) -> None:
    await context.reply("pong")
    await context.bot.handled("message", context.message.id)


@commands.command()
async def ask(context: commands.Context[PrefixProbe]) -> None:
    waiting = context.bot.next_message(user_id=context.author.id, channel_id=context.channel.id)
    await context.reply("Tell me.")
    heard = await waiting
    await context.send("I did not hear you." if heard is None else f"You said: {heard.content}")
    await context.bot.handled("message", context.message.id)


@commands.command()
async def confirm(context: commands.Context[PrefixProbe]) -> None:
    waiting = context.bot.next_reaction(user_id=context.author.id, channel_id=context.channel.id)
    await context.reply("React to something.")
    seen = await waiting
    await context.send("You did not react." if seen is None else f"You reacted with {seen.emoji}")
    await context.bot.handled("message", context.message.id)


def reaction_key(event: discord.RawReactionActionEvent) -> str:
    """The journal's key of a reaction: channel, message, user, emoji id or name."""
    return f"{event.channel_id}:{event.message_id}:{event.user_id}:{event.emoji.id or event.emoji.name}"
