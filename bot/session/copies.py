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

LOOK_SECONDS = 0.1
"""How often it is looked whether a shard has what can be mirrored: a session, and the guilds that discord.py fills its
cache with and tells nobody of."""
GUILDS_SECONDS = 5.0
"""How long a new session's guilds are waited for: one that Discord has announced may be down for hours."""

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
        self.waits: set[int] = set()
        """Shards that were asked for, and have nothing yet that could be mirrored."""
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
            if self._is_whole(shard):
                self.begin_with_snapshot(shard)
            else:
                self._spawn(self._begin_when_whole(shard))
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

    def _is_whole(self, shard: int) -> bool:
        """Say whether a shard has a session, and the guilds of it."""
        position = self.position(shard)
        if position is None:
            return False
        guilds = [one for one in self._client.guilds if (one.id >> 22) % position.shards == shard]
        return all(one.name or not one.unavailable for one in guilds)

    async def _begin_when_whole(self, shard: int) -> None:
        """Wait for a shard whose session has ended, and which begins another one."""
        waited = 0.0
        self.waits.add(shard)
        while not self._is_whole(shard):
            await asyncio.sleep(LOOK_SECONDS)
            waited = 0.0 if self.position(shard) is None else waited + LOOK_SECONDS
            if waited > GUILDS_SECONDS:
                break
        self.waits.discard(shard)
        self.begin_with_snapshot(shard)

    def begin_with_snapshot(self, shard: int) -> None:
        """Send a shard's cache, and all that comes from now on. Raises `StreamError`: it has no session now."""
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
