"""Whether discord.py has all members of its guilds, and when it asks Discord for them.

Knows discord.py's requests for members. Knows nothing of streams; that there may be another bot it is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import discord
from discord.gateway import DiscordWebSocket

from bastion.bot import internals
from bastion.bot.discordpy import payloads
from bastion.bot.internals import Parser

GIVE_WAY_SECONDS = 2.0
"""How much later a child asks for a guild's members that leaves the first answer to another: more than the time
between the two receipts of a join."""


class MemberRequests:
    """Asks Discord for the members of guilds, for discord.py.

    Discord answers one such request a guild and 30 s, over all sessions of a bot, and discord.py does not know the
    refusal: a bot that starts soon after another one would be ready with half a cache. What was put off is asked again,
    and readiness waits ``patience`` seconds for it. discord.py does not know either that a request went down with its
    connection, so what is open is asked again on each new one. Nobody answers for a guild that the bot has left
    meanwhile: whoever waits for its members is done.

    A ready child that ``gives_way`` asks a little later: that of a guild which is joined now is for the child whose app
    is told of it. Where both have one session, the answer reaches both, and is taken as one's own by the child that
    has not asked; so nobody asks twice. What a bot was asking for when its session went to another one, that one asks
    for (`asking`, `ask`).
    """

    def __init__(
        self, client: discord.Client, *, patience: float, gives_way: Callable[[], bool] = lambda: False
    ) -> None:
        self._client = client
        self._state = client._connection
        self._patience = patience
        self._gives_way = gives_way
        self._own_chunker = self._state.chunker
        self._own_timeout = self._state._chunk_timeout
        self._own_guild_delete = self._state.parsers["GUILD_DELETE"]
        self._own_chunk = self._state.parsers["GUILD_MEMBERS_CHUNK"]
        self._put_back: dict[asyncio.TimerHandle, tuple[int, str | None]] = {}

    def install(self) -> None:
        """Take the place of discord.py's own asking."""
        state = self._state
        state.parsers["GUILD_DELETE"] = self._left
        state.parsers["RATE_LIMITED"] = self._refused
        state.parsers["GUILD_MEMBERS_CHUNK"] = self._answered
        state.parsers["READY"] = self._connected(state.parsers["READY"], lambda data: data.get("shard", (0, 1))[0])
        state.parsers["RESUMED"] = self._connected(state.parsers["RESUMED"], lambda data: data.get("__shard_id__") or 0)
        state.chunker = self._chunk  # type: ignore[method-assign]
        state._chunk_timeout = self._timeout  # type: ignore[method-assign]

    def ask_now(self) -> None:
        """Ask for what was left to another child: this one gives way no longer."""
        for handle, request in self._put_back.items():
            handle.cancel()
            asyncio.get_running_loop().create_task(self._again(*request))
        self._put_back.clear()

    async def ask(self, guild_ids: Iterable[int]) -> None:
        """Ask for the members of guilds that another bot was asking for, unless they are here."""
        for guild in filter(None, map(self._client.get_guild, guild_ids)):
            if self._state._guild_needs_chunking(guild):
                await self._state.chunk_guild(guild, wait=False)

    async def _chunk(self, guild_id: int, *args: Any, **options: Any) -> None:
        if not (self._client.is_ready() and self._gives_way()):
            await self._ask(guild_id, *args, **options)
            return
        loop = asyncio.get_running_loop()
        handle: asyncio.TimerHandle = loop.call_later(
            GIVE_WAY_SECONDS, lambda: loop.create_task(self._again(*self._put_back.pop(handle)))
        )
        self._put_back[handle] = guild_id, options.get("nonce")

    async def _ask(self, guild_id: int, *args: Any, **options: Any) -> None:
        if self._client.get_guild(guild_id) is None:
            for key in self._open(guild_id):
                # Whoever asks begins to wait for the request only when this returns.
                asyncio.get_running_loop().call_soon(self._close, key)
            return
        # On a connection that has just broken the request would raise, and readiness would never come.
        with contextlib.suppress(OSError, discord.ConnectionClosed):
            await self._own_chunker(guild_id, *args, **options)

    async def _again(self, guild_id: int, nonce: str | None) -> None:
        requests = self._state._chunk_requests.values()
        if not self._client.is_closed() and any(request.nonce == nonce for request in requests):
            await self._ask(guild_id, nonce=nonce)

    def _open(self, guild_id: int) -> list[Any]:
        return [key for key, request in self._state._chunk_requests.items() if request.guild_id == guild_id]

    def _close(self, key: Any) -> None:
        if request := self._state._chunk_requests.pop(key, None):
            request.done()

    def _answered(self, data: Any) -> None:
        """Take members; also those that another bot has asked for, of whose question discord.py knows nothing here."""
        self._own_chunk(data)
        guild, asked = self._client.get_guild(int(data["guild_id"])), self._state._chunk_requests.values()
        if guild is None or any(request.nonce == data.get("nonce") for request in asked):
            return
        if self._state.member_cache_flags.joined:
            payloads.add_unknown_members(guild, data)
        if guild.chunked:
            for key in self._open(guild.id):
                self._state._chunk_requests[key].buffer = list(guild.members)
                self._close(key)

    def _left(self, data: Any) -> None:
        for key in self._open(int(data["id"])):
            self._close(key)
        self._own_guild_delete(data)

    def _refused(self, data: Mapping[str, Any]) -> None:
        meta = data.get("meta") or {}
        if data.get("opcode") != DiscordWebSocket.REQUEST_MEMBERS or "guild_id" not in meta:
            return
        request = int(meta["guild_id"]), meta.get("nonce")
        loop = asyncio.get_running_loop()
        loop.call_later(float(data.get("retry_after", 1.0)), lambda: loop.create_task(self._again(*request)))

    def _connected(self, parser: Parser, shard_of: Callable[[Any], int]) -> Parser:
        def parse(data: Any) -> None:
            parser(data)
            for request in list(self._state._chunk_requests.values()):
                if (request.guild_id >> 22) % (self._state.shard_count or 1) == shard_of(data):
                    asyncio.get_running_loop().create_task(self._again(request.guild_id, request.nonce))

        return parse

    def _timeout(self, guild: discord.Guild) -> float:
        internals.heed_cancellation()
        return self._own_timeout(guild) + (0.0 if self._client.is_ready() else self._patience)


def asking(client: discord.Client, shard: int) -> list[int]:
    """Return the guilds of a shard whose members were asked for, and are not all here."""
    count = client.shard_count or 1
    guilds = {request.guild_id for request in client._connection._chunk_requests.values()}
    return sorted(guild for guild in guilds if (guild >> 22) % count == shard)
