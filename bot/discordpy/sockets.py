"""The connections below discord.py's websockets: which one a shard gets, what comes on it, and its latency.

Knows where discord.py opens, reads and measures connections. Knows nothing of sessions and streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

import discord
import msgspec
import yarl
from discord.gateway import DiscordWebSocket, ReconnectWebSocket

_log = logging.getLogger("bastion.session")

CONNECT_SECONDS = 5.0
"""How long a connection may take to open, and then its HELLO to come: a matter of round trips, each a fraction of a
second. It is half as long as a broken shard is waited for before another bot takes over. discord.py waits 60 s in all,
as long as Discord keeps a session."""

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


class _Payload(msgspec.Struct):
    op: int
    t: str | None = None
    d: Any = None


_payload = msgspec.json.Decoder(_Payload)


def pace(
    websocket: DiscordWebSocket, stopped: Callable[[], bool], broke: Callable[[str], None] = lambda why: None
) -> None:
    """Let the loop turn after each message of a connection, and drop all that come once ``stopped`` says so.

    aiohttp hands over messages that have come in one piece without a turn of the loop: a command and its edit, and the
    command's handler would begin only after both, and see the edited text. To close a connection is not to stop it:
    ``close`` lets what is queued through first. What is dropped has not been counted, so Discord sends it again.

    What cannot be read breaks the connection, and its session is resumed; discord.py would end the client. ``broke`` is
    told why, as of an op 7 or 9, before discord.py connects anew. Call it after `tap`.
    """
    own, log_receive = websocket.received_message, websocket.log_receive
    text: Any = None

    def note(received: Any) -> None:
        nonlocal text
        text = received
        log_receive(received)

    async def received_message(message: Any, /) -> None:
        nonlocal text
        if stopped():
            return
        text = None
        try:
            await own(message)
        except (ReconnectWebSocket, discord.ConnectionClosed):
            broke(_asked(text))
            raise
        except Exception as error:
            if (name := _event(text)) is None:
                await _break(websocket, f"what came is no payload of Discord's: {type(error).__name__}", broke)
            elif name in ("READY", "RESUMED"):
                raise
            _log.exception("an event of Discord's, %s, cannot be read, and nothing of it reaches the app", name)
        await asyncio.sleep(0)

    websocket.log_receive = note  # type: ignore[method-assign]
    websocket.received_message = received_message  # type: ignore[method-assign]


def _event(text: Any) -> str | None:
    """Return the name of the event that a text is; None if it is none."""
    try:
        return _payload.decode(text).t
    except (msgspec.DecodeError, UnicodeError, TypeError):
        return None


def _asked(text: Any) -> str:
    """Say in which words Discord has asked for another connection."""
    try:
        payload = _payload.decode(text)
    except (msgspec.DecodeError, UnicodeError, TypeError):
        return ""
    match payload.op:
        case 7:
            return "Discord asked for another connection (op 7)"
        case 9 if payload.d is True:
            return "Discord asked for another connection (op 9)"
        case 9:
            return "Discord has ended the session (op 9)"
        case _:
            return ""


async def _break(websocket: DiscordWebSocket, why: str, broke: Callable[[str], None]) -> None:
    """Close a connection, and have discord.py resume its session on another one."""
    broke(why)
    _log.warning("shard %s: %s; its session is resumed on another connection", websocket.shard_id or 0, why)
    with contextlib.suppress(Exception):
        await asyncio.wait_for(websocket.close(4000), CLOSE_SECONDS)
    raise ReconnectWebSocket(websocket.shard_id)


def expect_hello(seconds: float = CONNECT_SECONDS) -> None:
    """Have every connection of this process fail if HELLO is not the first that comes, and in so many seconds."""
    own = DiscordWebSocket.__init__

    def begin(self: DiscordWebSocket, *args: Any, **options: Any) -> None:
        own(self, *args, **options)

        async def first() -> None:
            del self.poll_event  # from the second message on it is discord.py's own
            try:
                async with asyncio.timeout(seconds):
                    await self.poll_event()
            except (discord.ConnectionClosed, OSError):  # with it TimeoutError
                await _give_up(self)
                raise
            except Exception as error:
                await _give_up(self)
                code = self.socket.close_code
                why = f"closed with {code}" if isinstance(error, ReconnectWebSocket) else type(error).__name__
                raise ConnectionError(f"no HELLO came: {why}") from error

        self.poll_event = first  # type: ignore[method-assign]

    DiscordWebSocket.__init__ = begin  # type: ignore[method-assign]


async def _give_up(websocket: DiscordWebSocket) -> None:
    with contextlib.suppress(Exception):
        await asyncio.wait_for(websocket.close(4000), CLOSE_SECONDS)


def notice_death(connection: Any) -> None:
    """Have the kernel ask the other end of a connection for a sign of life, once nothing has come for 10 s.

    Of an end that is gone without a word (half-open TCP) discord.py learns after 60 s, so after 20 s this way.
    """
    end = connection.get_extra_info("socket")
    if end is None:
        return
    with contextlib.suppress(OSError):  # no TCP
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 20_000)


class Opened:
    """Connections that are opened before they are needed, by shard."""

    def __init__(self, connect: Callable[..., Awaitable[Any]]) -> None:
        """``connect`` is discord.py's own way, as `choose_sockets` returns it."""
        self._connect = connect
        self._sockets: dict[int, tuple[str, float, Any]] = {}

    async def open(self, shard: int, url: str) -> None:
        """Open one, in the place of any that is there. Raises what discord.py's own way raises."""
        await self.discard(shard)
        self._sockets[shard] = url, time.monotonic(), await self._open(url)

    async def take(self, shard: int, url: str) -> Any:
        """Return a shard's connection to this address: the one that was opened before, or a new one."""
        address, opened_at, websocket = self._sockets.pop(shard, ("", 0.0, None))
        if websocket is not None:
            if address == url and not websocket.closed and time.monotonic() - opened_at < OPEN_SECONDS:
                return websocket
            await _close(websocket)
        return await self._open(url)

    async def _open(self, url: str) -> Any:
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await self._connect(url)
        notice_death(connection)
        return connection

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


def why_ended(websocket: DiscordWebSocket) -> str:
    """Say why a connection has ended, by its close code."""
    code = closed_by_discord(websocket)
    if code is None:
        return "no answer to heartbeats"
    return "the connection broke (1006)" if code in (0, 1006) else f"closed with {code}"


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
