"""The connections below discord.py's websockets: which one a shard gets, what comes on it, and its latency.

Knows where discord.py opens, reads and measures connections. Knows nothing of sessions and streams.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import discord
from discord.gateway import DiscordWebSocket


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
