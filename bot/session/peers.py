"""The bot at the other end of a stream: what is copied to it, what is mirrored of it, and its notes.

Both ends are alike, for the direction of a shard's payloads turns when its session moves.

Knows frames and where they go. Decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import discord
from discord.gateway import DiscordWebSocket

from bastion.bot.discordpy.messages import Recent
from bastion.bot.session import notes
from bastion.bot.session.copies import Copies
from bastion.bot.session.mirror import Mirror
from bastion.bot.session.stream import Channel, Kind

if TYPE_CHECKING:
    from bastion.bot.session.giving import Giving


class Peer:
    """One other bot."""

    def __init__(
        self,
        client: discord.Client,
        recent: Recent,
        websocket_of: Callable[[int], DiscordWebSocket | None],
        *,
        noted: Callable[[Peer, int, notes.Note], None],
        state_came: Callable[[bytes], None],
    ) -> None:
        """``noted`` takes its notes, with their shard; ``state_came`` the state of its app."""
        self._client, self._recent, self._websocket_of = client, recent, websocket_of
        self._noted, self._state_came = noted, state_came
        self._tasks: set[asyncio.Task[None]] = set()
        self.number: int | None = None
        """The generation of a bot that has connected to this one; of another supervisor's bot its claimer."""
        self.giving: Giving | None = None
        """The switch that it has asked for."""
        self.stream: Channel
        self.copies: Copies
        self.mirror: Mirror

    def begin(self, stream: Channel) -> None:
        """Use this stream."""
        self.stream = stream
        self.copies = Copies(self._client, self._recent, stream, self._websocket_of)
        self.mirror = Mirror(stream)

    def take(self, kind: Kind, shard: int, body: bytes) -> None:
        """Take a frame. What cannot be read is raised, and ends the stream."""
        if kind is Kind.PAYLOAD:
            self.mirror.take(kind, shard, body)
        elif kind is Kind.NOTE:
            self._noted(self, shard, notes.decode(body))
        elif kind is Kind.STATE:
            self._state_came(body)
        else:
            self.copies.take(kind, shard, body)

    def note(self, note: notes.Note, *, shard: int = 0) -> None:
        """Send a note."""
        self.stream.send(Kind.NOTE, shard, notes.encode(note))

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run something for as long as the stream lasts."""
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Copy nothing more, and let a switch go on by itself: what it has ended it must see to."""
        self.copies.close()
        if self.giving is not None:
            self.giving.lost()
