"""The holder's side of a stream: every payload of its shards is copied to one mirror, and its requests are sent.

Knows which shards are copied, and where their sessions stand. Knows nothing of how a session moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import discord
from discord.gateway import DiscordWebSocket

from bastion.bot.discordpy import sockets
from bastion.bot.discordpy.messages import Recent
from bastion.bot.session import snapshot
from bastion.bot.session.snapshot import Position
from bastion.bot.session.stream import Kind, Stream, StreamError


class Copies:
    """What one mirror gets."""

    def __init__(
        self,
        client: discord.Client,
        recent: Recent,
        stream: Stream,
        websocket_of: Callable[[int], DiscordWebSocket | None],
    ) -> None:
        """``websocket_of`` returns a shard's connection, None while it is between two."""
        self._client, self._recent, self._stream = client, recent, stream
        self._websocket_of = websocket_of
        self._copied: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def heard(self, shard: int, text: str) -> None:
        """Copy a payload that a shard has received. Call it before the payload is parsed."""
        if shard in self._copied:
            self._stream.send(Kind.PAYLOAD, shard, text.encode())

    def take(self, kind: Kind, shard: int, body: bytes) -> None:
        """Take a frame of the mirror's. Raises `StreamError` if it is none that a mirror sends."""
        if kind is Kind.SNAPSHOT:
            self._begin(shard)
        elif kind is Kind.REQUEST:
            self._spawn(self._request(shard, body.decode()))
        else:
            raise StreamError(f"a mirror does not send frames of kind {kind.name}")

    def position(self, shard: int) -> Position | None:
        """Return where a shard's session stands; None without one."""
        websocket = self._websocket_of(shard)
        if websocket is None or websocket.session_id is None or websocket.sequence is None:
            return None
        return Position(
            shard=shard,
            shards=self._client.shard_count or 1,
            session=websocket.session_id,
            gateway=str(websocket.gateway),
            sequence=websocket.sequence,
        )

    def _begin(self, shard: int) -> None:
        position = self.position(shard)
        if position is None:
            raise StreamError(f"shard {shard} has no session that could be mirrored")
        rest = snapshot.begin(self._client, self._recent, position, lambda text: self._send(shard, text))
        self._copied.add(shard)
        self._spawn(self._write(rest))

    async def _write(self, rest: snapshot.Snapshot) -> None:
        try:
            await rest.write(self._stream.room)
        except StreamError:
            return  # whoever made the stream is told of its end

    def _send(self, shard: int, text: bytes) -> None:
        self._stream.send(Kind.PAYLOAD, shard, text)

    async def _request(self, shard: int, text: str) -> None:
        websocket = self._websocket_of(shard)
        if websocket is not None:  # else it is lost, as on a broken connection: discord.py asks again
            await sockets.send(websocket, text)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Copy nothing more."""
        self._copied.clear()
        for task in self._tasks:
            task.cancel()
