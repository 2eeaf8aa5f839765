"""The holder's side of a stream: every payload of its shards is copied to one mirror, and its requests are sent.

Knows which shards are copied, and where their sessions stand. Knows nothing of how a session moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import discord
import msgspec
from discord.gateway import DiscordWebSocket

from bastion.bot.discordpy import sockets
from bastion.bot.discordpy.messages import Recent
from bastion.bot.session import snapshot
from bastion.bot.session.snapshot import Position
from bastion.bot.session.stream import Channel, Kind, StreamError

_DISPATCH = 0
"""Opcode of an event."""


class _Sent(msgspec.Struct):
    op: int


_sent = msgspec.json.Decoder(_Sent)


class Copies:
    """What one mirror gets."""

    def __init__(
        self,
        client: discord.Client,
        recent: Recent,
        stream: Channel,
        websocket_of: Callable[[int], DiscordWebSocket | None],
    ) -> None:
        """``websocket_of`` returns a shard's connection, None while it is between two."""
        self._client, self._recent, self._stream = client, recent, stream
        self._websocket_of = websocket_of
        self._copied: set[int] = set()
        self._kept: list[tuple[int, bytes]] | None = None
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def heard(self, shard: int, text: str) -> None:
        """Copy an event that a shard has received. Call it before the event is parsed.

        What concerns the connection alone (heartbeats, "reconnect") is no event, and the mirror's is another one.
        """
        if shard in self._copied and _sent.decode(text).op == _DISPATCH:
            if self._kept is None:
                self._stream.send(Kind.PAYLOAD, shard, text.encode())
            else:
                self._kept.append((shard, text.encode()))

    @property
    def feeds(self) -> bool:
        """Whether what comes of some shard is copied."""
        return bool(self._copied)

    def begin(self, shard: int) -> None:
        """Copy a shard's events from now on, to a mirror whose cache is complete."""
        self._copied.add(shard)

    def keep(self) -> None:
        """Send nothing until `release`: what is copied counts as handled, and it is not yet.

        Should this bot die before, the mirror goes on from where the copies end, and is sent all of it.
        """
        self._kept = []

    def release(self) -> None:
        """Send what was kept, and from now on at once."""
        kept, self._kept = self._kept or [], None
        for shard, text in kept:
            self._stream.send(Kind.PAYLOAD, shard, text)

    def end(self, shard: int) -> None:
        """Copy nothing more of a shard."""
        self._copied.discard(shard)

    def take(self, kind: Kind, shard: int, body: bytes) -> None:
        """Take a frame of the mirror's. Raises `StreamError` if it is none that a mirror sends."""
        if kind is Kind.SNAPSHOT:
            self._begin_with_snapshot(shard)
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

    async def snapshots_written(self) -> None:
        """Wait until every snapshot that was asked for has been written, or cannot be."""
        await asyncio.gather(*self._tasks)

    def _begin_with_snapshot(self, shard: int) -> None:
        position = self.position(shard)
        if position is None:
            raise StreamError(f"shard {shard} has no session that could be mirrored")
        rest = snapshot.begin(self._client, self._recent, position, lambda text: self._send(shard, text))
        self._copied.add(shard)
        self._spawn(self._write(rest))

    async def _write(self, rest: snapshot.Snapshot) -> None:
        try:
            await rest.write(self._stream.room, self._turn)
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
