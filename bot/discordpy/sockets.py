"""The connections below discord.py's websockets: which one a shard gets, what comes on it, and its latency.

Knows where discord.py opens, reads and measures connections. Knows nothing of sessions and streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import discord
import yarl
from discord.gateway import DiscordWebSocket

CLOSE_SECONDS = 0.25
"""How long the answer to a close is waited for."""

OPEN_SECONDS = 15.0
"""How long a connection that was opened before is used. No heartbeat is sent on it until RESUME; Discord expects the
first one within 41 s (heartbeat_interval), other gateways sooner."""


def choose_sockets(client: discord.Client, choose: Callable[[str], Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Have ``choose`` make each gateway connection of a client, from its address; return discord.py's own way."""
    own: Callable[..., Awaitable[Any]] = client.http.ws_connect

    async def ws_connect(url: str, **options: Any) -> Any:
        return await choose(url)

    client.http.ws_connect = ws_connect  # type: ignore[method-assign]
    return own


def tap(websocket: DiscordWebSocket, heard: Callable[[str], None]) -> None:
    """Have ``heard`` told of each payload's text, after decompression and before it is parsed."""
    own = websocket.log_receive

    def log_receive(text: Any) -> None:
        heard(text)
        own(text)

    websocket.log_receive = log_receive  # type: ignore[method-assign]


def pace(websocket: DiscordWebSocket, stopped: Callable[[], bool]) -> None:
    """Let the loop turn after each message of a connection, and drop all that come once ``stopped`` says so.

    aiohttp hands over messages that have come in one piece without a turn of the loop: a command and its edit, and the
    command's handler would begin only after both, and see the edited text. To close a connection is not to stop it:
    ``close`` lets what is queued through first. What is dropped has not been counted, so Discord sends it again.
    """
    own = websocket.received_message

    async def received_message(message: Any, /) -> None:
        if stopped():
            return
        await own(message)
        await asyncio.sleep(0)

    websocket.received_message = received_message  # type: ignore[method-assign]


class Opened:
    """Connections that are opened before they are needed, by shard."""

    def __init__(self, connect: Callable[..., Awaitable[Any]]) -> None:
        """``connect`` is discord.py's own way, as `choose_sockets` returns it."""
        self._connect = connect
        self._sockets: dict[int, tuple[str, float, Any]] = {}

    async def open(self, shard: int, url: str) -> None:
        """Open one, in the place of any that is there. Raises what discord.py's own way raises."""
        await self.discard(shard)
        self._sockets[shard] = url, time.monotonic(), await self._connect(url)

    async def take(self, shard: int, url: str) -> Any:
        """Return a shard's connection to this address: the one that was opened before, or a new one."""
        address, opened_at, websocket = self._sockets.pop(shard, ("", 0.0, None))
        if websocket is not None:
            if address == url and not websocket.closed and time.monotonic() - opened_at < OPEN_SECONDS:
                return websocket
            await _close(websocket)
        return await self._connect(url)

    async def discard(self, shard: int) -> None:
        """Close a shard's, if it was not taken."""
        _, _, websocket = self._sockets.pop(shard, ("", 0.0, None))
        if websocket is not None:
            await _close(websocket)

    async def close(self) -> None:
        """Close all that were not taken."""
        for shard in list(self._sockets):
            await self.discard(shard)


async def _close(websocket: Any) -> None:
    with contextlib.suppress(Exception):
        await asyncio.wait_for(websocket.close(code=4000), CLOSE_SECONDS)


def is_in_session(websocket: DiscordWebSocket) -> bool:
    """Whether a connection is open and has a session."""
    return websocket.session_id is not None and websocket.sequence is not None and not websocket.socket.closed


def closed_by_discord(websocket: DiscordWebSocket) -> int | None:
    """Return the code with which the other side has ended a connection, 1006 or 1000 for none; None if we have."""
    return websocket.socket.close_code if websocket._close_code is None else None


def go_on_with(websocket: DiscordWebSocket, *, session: str, gateway: str, sequence: int) -> None:
    """Have discord.py resume another session than its own when a websocket closes next."""
    websocket.session_id, websocket.sequence, websocket.gateway = session, sequence, yarl.URL(gateway)


async def end_session(websocket: DiscordWebSocket) -> None:
    """Close a websocket in such a way that Discord ends its session, and discord.py reconnects."""
    socket = websocket.socket
    own = socket.close

    async def close(*, code: int = 1000, message: bytes = b"") -> bool:
        return await own(code=1000, message=message)  # discord.py closes with 4000 what it finds closing

    socket.close = close  # type: ignore[method-assign]
    websocket._close_code = 4000  # of 1000 discord.py would believe that nothing is to be resumed
    with contextlib.suppress(Exception):
        await asyncio.wait_for(close(), CLOSE_SECONDS)


def resume_url(websocket: DiscordWebSocket, opened_with: str) -> str:
    """Return the address at which discord.py resumes a websocket's session, given the one it was opened with."""
    gateway = websocket.gateway or websocket.DEFAULT_GATEWAY
    return str(gateway.with_query(yarl.URL(opened_with).query))


class _Borrowed:
    """In the place of the thread that sends heartbeats: somebody else sends them, and knows the latency."""

    def __init__(self, latency: Callable[[], float]) -> None:
        self._latency = latency

    @property
    def latency(self) -> float:
        return self._latency()

    def ack(self) -> None: ...
    def tick(self) -> None: ...
    def stop(self) -> None: ...


def borrow_latency(websocket: DiscordWebSocket, latency: Callable[[], float]) -> None:
    """Let a websocket without heartbeats of its own answer with another one's latency, in seconds.

    Without a figure it would be infinite, and ``round(bot.latency * 1000)``, which many bots have, would raise.
    """
    websocket._keep_alive = _Borrowed(latency)  # type: ignore[assignment]


async def send(websocket: DiscordWebSocket, text: str) -> None:
    """Send a payload that another process has written, within Discord's limit for this connection."""
    await websocket.send(text)
