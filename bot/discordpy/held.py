"""A session that is resumed before its shard can go on with it: what it brings is held back, until the cache is there.

The connection is an ordinary one of discord.py's, which answers heartbeats and so on. An example, of a session that
stood at 41:

    RESUME from 41    42, 43, RESUMED come and are held
    `release`         discord.py polls the connection: it gets 42, 43, RESUMED, then what comes

Knows where discord.py receives. Which session it is, and who goes on with it, it does not know.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import discord
import msgspec
import yarl
from discord.gateway import DiscordWebSocket, ReconnectWebSocket

HELD_COUNT = 20_000
"""Most payloads of one session that are held back, of about 1 KB each."""
HELD_SECONDS = 300.0
"""Longest time a payload is held back."""

_from_client = DiscordWebSocket.from_client.__func__  # type: ignore[attr-defined]
"""As it is before anybody is put around it: a RESUME needs no permit."""


class SessionGoneError(Exception):
    """A session cannot be resumed, now or later. The text says why."""


class Payload(msgspec.Struct):
    """What is read of a payload here."""

    op: int
    d: msgspec.Raw
    s: int | None = None
    t: str | None = None


_payload = msgspec.json.Decoder(Payload)
decoded = _payload.decode
"""Reads the text of a payload."""


class Held:
    """One connection. Raises, in whatever is awaited, `SessionGoneError`, and `ConnectionError` for what may pass."""

    def __init__(self, websocket: DiscordWebSocket, former: Held | None) -> None:
        """Use `resume`."""
        self.websocket = websocket
        self.sequence = websocket.sequence
        """Of the last payload that has come."""
        self.dropped: int = 0 if former is None else former.dropped
        """Payloads that were held back for too long, or were too many."""
        self._texts: deque[tuple[float, str]] = deque() if former is None else former._texts
        self._own = websocket.received_message
        self._heard: Callable[[str, Payload], None] = lambda text, payload: None
        websocket.received_message = self._hold  # type: ignore[method-assign]

    @classmethod
    async def resume(
        cls,
        client: discord.Client,
        former: Held | None,
        *,
        shard: int,
        session: str,
        sequence: int,
        gateway: str | None,
    ) -> Held:
        """Resume a session; ``former`` is the connection that has broken, whose payloads are still held back."""
        opening = _from_client(
            DiscordWebSocket,
            client,
            gateway=None if gateway is None else yarl.URL(gateway),
            shard_id=shard,
            session=session,
            sequence=sequence if former is None else former.sequence,
            resume=True,
        )
        return cls(await _told(opening), former)

    async def read(self, heard: Callable[[str, Payload], None]) -> None:
        """Receive until this is cancelled; ``heard`` is told of each event."""
        self._heard = heard
        while True:
            await _told(self.websocket.poll_event())

    async def _hold(self, message: Any, /) -> None:
        text = self.websocket._decompressor.decompress(message) if isinstance(message, bytes) else message
        if text is None:
            return
        payload = _payload.decode(text)
        if payload.t is None:
            await self._own(text)
            return
        self.sequence = payload.s or self.sequence
        self._texts.append((time.monotonic(), text))
        while len(self._texts) > HELD_COUNT or self._texts[-1][0] - self._texts[0][0] > HELD_SECONDS:
            self._texts.popleft()
            self.dropped += 1
        self._heard(text, payload)

    def take(self) -> list[tuple[float, str]]:
        """Take away what is held back, each with when it came: for a session that no shard can change over to."""
        taken = list(self._texts)
        self._texts.clear()
        return taken

    def release(self, sequence: int, emptied: Callable[[], None]) -> None:
        """Let discord.py have what is held back, which begins behind ``sequence``; then ``emptied`` is called."""
        websocket, poll = self.websocket, self.websocket.poll_event
        websocket.sequence, websocket.received_message = sequence, self._own  # type: ignore[method-assign]

        async def poll_event() -> None:
            if self._texts:
                await websocket.received_message(self._texts.popleft()[1])
                return
            websocket.poll_event = poll  # type: ignore[method-assign]
            emptied()
            await poll()

        websocket.poll_event = poll_event  # type: ignore[method-assign]

    async def discard(self) -> None:
        """Close it, unless Discord has, and leave the session open, for whoever resumes it next."""
        with contextlib.suppress(Exception):
            if self.websocket.open:
                await self.websocket.close(4000)


async def _told(doing: Awaitable[Any]) -> Any:
    try:
        return await doing
    except ReconnectWebSocket as error:
        if not error.resume:
            raise SessionGoneError("Discord no longer knows it (op 9)") from None
        raise ConnectionError("the connection was lost") from None
    except discord.ConnectionClosed as error:
        raise SessionGoneError(f"Discord closed the connection (close code {error.code})") from None
    except (OSError, TimeoutError, aiohttp.ClientError) as error:
        raise ConnectionError(str(error) or type(error).__name__) from None
