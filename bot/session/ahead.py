"""A session that is resumed ahead of the shard that is to go on with it: the shard has no cache yet.

Discord forgets a session after some minutes, and a new bot may wait longer than that for leave to IDENTIFY. So its dead
predecessor's session is resumed at once, and what it brings is held back. When the shard has its cache, the connection
is put under discord.py's own reconnect, in the place of a new one. An example, of a session that stood at 41:

    connection opened    HELLO comes and is kept, RESUME from 41 leaves
    `hold`               42, 43, RESUMED come and are kept; heartbeats are sent and answered
    discord.py reads     HELLO, then sends its own RESUME from 41, which is swallowed
    discord.py reads     42, 43, RESUMED, then what comes on the connection

Knows one connection and the few payloads that concern it. Which session it is, and who goes on with it, it does not
know.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import WSMessage, WSMsgType

from bastion.bot.discordpy import sockets

DISPATCH, HEARTBEAT, RESUME, RECONNECT, INVALID, HELLO = 0, 1, 6, 7, 9, 10
HELD_COUNT = 20_000
"""Most payloads of one session that are held back, of about 1 KB each."""
HELD_SECONDS = 300.0
"""Longest time a payload is held back."""


class GoneError(Exception):
    """Discord no longer knows the session."""


class Payload(msgspec.Struct):
    """What is read of a payload here."""

    op: int
    d: msgspec.Raw
    s: int | None = None
    t: str | None = None


class _Op(msgspec.Struct):
    op: int


class _Hello(msgspec.Struct):
    heartbeat_interval: float


_payload = msgspec.json.Decoder(Payload)
_op = msgspec.json.Decoder(_Op)
_hello = msgspec.json.Decoder(_Hello)


class Ahead:
    """One connection. It has what discord.py uses of aiohttp's websocket, and takes its place."""

    def __init__(self, socket: Any, inflate: sockets.Inflate, sequence: int) -> None:
        """Use `open`. ``sequence`` is of the last payload that somebody has handled."""
        self.socket = socket
        self._close_code: int | None = None  # as of a `DiscordWebSocket` that was not closed from this side
        self.sequence = sequence
        """Of the last payload that has come."""
        self.dropped = 0
        """Payloads that were held back for too long, or were too many."""
        self._inflate = inflate
        self._held: deque[tuple[float, str]] = deque()
        self._hello = ""
        self._beating: asyncio.Task[None] | None = None
        self._resumes = True
        self._emptied: Callable[[], None] | None = None

    @classmethod
    async def open(cls, connection: sockets.Connect, *, gateway: str, session: str, sequence: int, token: str) -> Ahead:
        """Open a connection and send RESUME on it. Raises `ConnectionError`."""
        socket, inflate = await sockets.connect_to(connection, gateway)
        made = cls(socket, inflate, sequence)
        try:
            made._hello = await made._text()
            interval = _hello.decode(_payload.decode(made._hello).d).heartbeat_interval / 1000
            resume = {"op": RESUME, "d": {"seq": sequence, "session_id": session, "token": token}}
            await socket.send_str(msgspec.json.encode(resume).decode())
        except (msgspec.DecodeError, OSError, RuntimeError) as error:
            await made.discard()
            raise ConnectionError(str(error) or type(error).__name__) from None
        except asyncio.CancelledError:
            await made.discard()
            raise
        made._beating = asyncio.ensure_future(made._beat(interval))
        return made

    def go_on_from(self, former: Ahead) -> None:
        """Hold back what a connection has brought that has broken."""
        self._held, self.dropped = former._held, former.dropped

    async def hold(self, heard: Callable[[str, Payload], None]) -> None:
        """Keep what comes, until this is cancelled. ``heard`` is told of each payload.

        Raises `GoneError` and `ConnectionError`.
        """
        while True:
            text = await self._text()
            payload = _payload.decode(text)
            if payload.op == INVALID and bytes(payload.d) == b"false":
                raise GoneError
            if payload.op in (INVALID, RECONNECT):
                raise ConnectionError("Discord asks for another connection")
            if payload.op == HEARTBEAT:
                await self._send_heartbeat()
            if payload.op == DISPATCH:
                self.sequence = payload.s or self.sequence
                self._held.append((time.monotonic(), text))
                self._drop_old()
            heard(text, payload)

    def _drop_old(self) -> None:
        while len(self._held) > HELD_COUNT or self._held[-1][0] - self._held[0][0] > HELD_SECONDS:
            self._held.popleft()
            self.dropped += 1

    def put_under(self, emptied: Callable[[], None]) -> None:
        """Let discord.py read from now on, from HELLO on, and call ``emptied`` when it has all that was held back.

        Nobody may `hold` any more.
        """
        self._stop_beating()
        self._emptied = emptied
        self._held.appendleft((0.0, self._hello))

    async def discard(self) -> None:
        """Close it and leave the session open, for whoever resumes it next."""
        self._stop_beating()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.socket.close(code=4000), sockets.CLOSE_SECONDS)

    # What discord.py uses.

    async def receive(self, timeout: float | None = None) -> WSMessage:
        """Return the next message: what is held back first. Each call lets the loop turn, as `StandIn.receive`."""
        if not self._held:
            if self._emptied is not None:
                self._emptied()
                self._emptied = None
            return await self._next(timeout)
        await asyncio.sleep(0)
        return WSMessage(WSMsgType.TEXT, self._held.popleft()[1], None)

    async def send_str(self, data: str) -> None:
        """Send what discord.py sends, but for its first RESUME: that has been sent."""
        if self._resumes and _op.decode(data).op == RESUME:
            self._resumes = False
            return
        await self.socket.send_str(data)

    async def close(self, *, code: int = 1000, message: bytes = b"") -> bool:
        """Close the connection. Returns whether it was open."""
        self._held.clear()
        return bool(await self.socket.close(code=code, message=message))

    @property
    def closed(self) -> bool:
        """Whether nothing more will come, but for what is held back."""
        return bool(self.socket.closed) and not self._held

    @property
    def close_code(self) -> int | None:
        """The code with which either side has closed it."""
        code: int | None = self.socket.close_code
        return code

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the transport."""
        return self.socket.get_extra_info(name, default)

    # The connection itself.

    async def _next(self, timeout: float | None = None) -> WSMessage:
        """Return the next whole message, inflated."""
        while True:
            message: WSMessage = await self.socket.receive(timeout)
            if message.type is not WSMsgType.BINARY:
                return message
            if (text := self._inflate(message.data)) is not None:
                return WSMessage(WSMsgType.TEXT, text, None)

    async def _text(self) -> str:
        message = await self._next()
        if message.type is not WSMsgType.TEXT:
            raise ConnectionError(f"closed with {self.socket.close_code}")
        return str(message.data)

    async def _beat(self, interval: float) -> None:
        await asyncio.sleep(interval * random.random())  # as Discord's documentation asks
        while True:
            await self._send_heartbeat()
            await asyncio.sleep(interval)

    async def _send_heartbeat(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # it is being closed, as its reader will see
            await self.socket.send_str(msgspec.json.encode({"op": HEARTBEAT, "d": self.sequence}).decode())

    def _stop_beating(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            self._beating = None
