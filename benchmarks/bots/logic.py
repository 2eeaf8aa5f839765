"""The bot that every benchmark runs: it handles each kind of event and tells the sandbox so.

Ordinary discord.py code, the same whoever runs it. Reports are collected and posted a few times a second, so that
thousands of events a second can be reported; each carries the moment at which its handler had done its work.

BENCH_HANDLER_MS ("low-high", default "0-0") is how long a handler works. With BENCH_PRESENCES=1 each guild comes with
its members: discord.py asks for those of no more than 110 guilds a minute. With BENCH_LAG=1 blocks of the event loop
are reported.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import time
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import discord
from yarl import URL

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    AnyClient = discord.Client
else:
    AnyClient = object

INTENTS = discord.Intents(guilds=True, members=True, messages=True, message_content=True, reactions=True, typing=True)
INTENTS.presences = os.environ.get("BENCH_PRESENCES") == "1"
LAG_EVERY: Final = 0.002
"""Seconds between two looks at the event loop."""
LAG_LEAST: Final = 0.002
"""Blocks that are shorter are not reported."""
POST_EVERY: Final = 0.1
"""Seconds between two posts of reports."""
AT_ONCE: Final = os.environ.get("BENCH_POST") == "at once"
"""Whether a handler waits until its report has been taken, so that nothing is reported by halves when it is killed."""
ATTEMPTS: Final = 5
LARGE_BLOCK: Final = 1 << 20


class Reports:
    """What was handled, on its way to the sandbox."""

    def __init__(self) -> None:
        api = URL(os.environ.get("DISCORD_API_URL", "http://127.0.0.1:0"))
        self._url = api.origin() / "sandbox" / "handled"
        self._by = int(os.environ.get("BASTION_GENERATION", os.environ.get("BENCH_GENERATION", "0")))
        self._kept: list[dict[str, Any]] = []
        self._session: aiohttp.ClientSession | None = None
        self._posting: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()

    def note(self, kind: str, key: object) -> None:
        """Report one handling, now."""
        self._kept.append({"kind": kind, "key": str(key), "by": self._by, "at": time.monotonic()})
        if self._posting is None or self._posting.done():
            self._posting = asyncio.get_running_loop().create_task(self._post_soon(), name="reports")

    async def _post_soon(self) -> None:
        await asyncio.sleep(POST_EVERY)
        await self.flush()

    async def flush(self) -> None:
        """Post what is there."""
        async with self._sending:
            while self._kept:
                batch, self._kept = self._kept, []
                await self._post(json.dumps(batch))

    async def _post(self, body: str) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10))
        for attempt in range(ATTEMPTS):
            try:
                async with self._session.post(self._url, data=body) as answer:
                    if answer.status < 300:
                        return
                    log.error("REPORT REFUSED: %s", await answer.text())
            except (aiohttp.ClientError, OSError, TimeoutError):
                await asyncio.sleep(0.05 * 2**attempt)
        log.error("REPORTS LOST")

    async def close(self) -> None:
        """Post the rest and close."""
        if self._posting is not None:
            self._posting.cancel()
        await self.flush()
        if self._session is not None:
            await self._session.close()


def handler_seconds() -> float:
    """How long this handler works."""
    low, _, high = os.environ.get("BENCH_HANDLER_MS", "0-0").partition("-")
    return random.uniform(float(low), float(high or low)) / 1000


class Bot(AnyClient):
    """The handlers. A mixin: name it before the client class."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, intents=INTENTS, allowed_mentions=discord.AllowedMentions.none(), **options)
        self.reports = Reports()
        self.bench_tree = discord.app_commands.CommandTree(self)

        @self.bench_tree.command(description="Answers at once")
        async def ping(interaction: discord.Interaction[Any]) -> None:
            await interaction.response.send_message("pong")
            await self.handled("slash", interaction.id)

    async def setup_hook(self) -> None:
        await self.bench_tree.sync()
        if os.environ.get("BENCH_LAG") == "1":
            self.lag = asyncio.create_task(self.watch_loop())

    async def watch_loop(self) -> None:
        """Report how long the loop was blocked: "<generation>:<monotonic seconds>:<milliseconds>"."""
        generation = os.environ.get("BASTION_GENERATION", "0")
        while not self.is_closed():
            began = time.monotonic()
            await asyncio.sleep(LAG_EVERY)
            late = time.monotonic() - began - LAG_EVERY
            if late >= LAG_LEAST:
                self.reports.note("lag", f"{generation}:{began:.4f}:{1000 * late:.1f}")

    async def close(self) -> None:
        await self.reports.close()
        await super().close()

    async def on_ready(self) -> None:
        # What the READY of a bot with many guilds does. Once a large block was freed, glibc takes those that a socket
        # is read into from its heap, not from the kernel; else which side had freed one would decide.
        bytes(LARGE_BLOCK)
        self.reports.note("ready", os.getpid())

    async def handled(self, kind: str, key: object) -> None:
        """Work for a while, then report."""
        seconds = handler_seconds()
        if seconds:
            self.reports.note("began", f"{kind}:{key}")
            if AT_ONCE:
                await self.reports.flush()
            await asyncio.sleep(seconds)
        self.reports.note(kind, key)
        if AT_ONCE:
            await self.reports.flush()

    async def on_message(self, message: discord.Message, /) -> None:
        if not message.author.bot:
            await self.handled("message", message.id)

    async def on_raw_message_edit(self, payload: discord.RawMessageUpdateEvent) -> None:
        edited = payload.data.get("edited_timestamp")
        if edited is not None:
            await self.handled("edit", f"{payload.message_id}:{edited}")

    async def on_raw_message_delete(self, payload: discord.RawMessageDeleteEvent) -> None:
        await self.handled("delete", payload.message_id)

    async def on_raw_reaction_add(self, payload: discord.RawReactionActionEvent) -> None:
        await self.handled("reaction_add", reaction_key(payload))

    async def on_raw_reaction_remove(self, payload: discord.RawReactionActionEvent) -> None:
        await self.handled("reaction_remove", reaction_key(payload))

    async def on_raw_typing(self, payload: discord.RawTypingEvent) -> None:
        await self.handled("typing", f"{payload.channel_id}:{payload.user_id}:{int(payload.timestamp.timestamp())}")

    async def on_member_update(self, before: discord.Member, after: discord.Member) -> None:
        if before.nick != after.nick:
            await self.handled("member_update", f"{after.guild.id}:{after.id}:{after.nick or ''}")


def reaction_key(event: discord.RawReactionActionEvent) -> str:
    """The journal's key of a reaction: channel, message, user, emoji."""
    return f"{event.channel_id}:{event.message_id}:{event.user_id}:{event.emoji.id or event.emoji.name}"
