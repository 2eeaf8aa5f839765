"""What takes the place of a websocket in a mirror: the stream's payloads come out of it, as if Discord had sent them.

discord.py polls it, parses what comes, and keeps its cache right, as with any connection. What discord.py sends on it
goes to the holder, which has the real connection. An example, for one shard:

    discord.py sends   {"op": 2, ...}         IDENTIFY: the holder is asked for a snapshot
    `receive` brings   READY, GUILD_CREATE .. and every event that the holder receives, meanwhile and from then on
    discord.py sends   {"op": 8, ...}         a question for members: the holder asks Discord, the stream has the answer
    `receive` brings   the close code 4000    discord.py reconnects, with the payloads' session and sequence

Knows the five members of aiohttp's websocket that discord.py uses. Knows nothing of sockets, streams and snapshots.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import msgspec
from aiohttp import WSMessage, WSMsgType

IDENTIFY, HEARTBEAT, RESUME = 2, 1, 6
"""Opcodes that end here. Whatever else discord.py sends (presence, voice, members) is for Discord."""

_ACKNOWLEDGED = '{"op":11,"d":null,"s":null,"t":null}'
"""The first message: discord.py polls for a HELLO before it sends anything, and a HELLO would begin a thread that sends
heartbeats. An acknowledged heartbeat begins nothing."""


class _Sent(msgspec.Struct):
    op: int


_sent = msgspec.json.Decoder(_Sent)


class StandIn:
    """One shard's connection, where the shard is mirrored."""

    def __init__(self, *, identified: Callable[[], None], asked: Callable[[str], None]) -> None:
        """``identified`` is called at an IDENTIFY, ``asked`` with each text that is for Discord."""
        self._identified, self._asked = identified, asked
        self._texts: deque[str] = deque([_ACKNOWLEDGED])
        self._news = asyncio.Event()
        self.close_code: int | None = None

    @property
    def closed(self) -> bool:
        """Whether nothing more will come, but for what is here already."""
        return self.close_code is not None

    def feed(self, text: str) -> None:
        """Take the next payload. After the end it is dropped."""
        if self.close_code is None:
            self._texts.append(text)
            self._news.set()

    def end(self, code: int) -> None:
        """Close, behind all payloads that have been fed, as Discord would close with this code."""
        if self.close_code is None:
            self.close_code = code
            self._news.set()

    async def receive(self, timeout: float | None = None) -> WSMessage:
        """Return the next payload, or the close.

        The timeout of aiohttp is for a connection that is dead. A mirror's holder may have nothing to say for long.
        Each call lets the loop turn: else a handler would begin only after all the payloads that are here, and see
        what they have made of its message.
        """
        await asyncio.sleep(0)
        while not self._texts:
            if self.close_code is not None:
                return WSMessage(WSMsgType.CLOSED, None, None)
            self._news.clear()
            await self._news.wait()
        return WSMessage(WSMsgType.TEXT, self._texts.popleft(), None)

    async def send_str(self, data: str) -> None:
        """Take what discord.py sends. After the close it is lost, as it would be on a broken connection."""
        op = _sent.decode(data).op
        if self.close_code is not None or op in (HEARTBEAT, RESUME):
            return
        if op == IDENTIFY:
            self._identified()
        else:
            self._asked(data)

    async def close(self, *, code: int = 1000, message: bytes = b"") -> bool:
        """Close from this side. Returns whether it was open. ``message`` is for a peer, and here is none."""
        was_open = self.close_code is None
        self._texts.clear()
        self.end(code)
        return was_open
