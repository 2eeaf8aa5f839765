"""Distance: a port that leads to the gateway as if it were far away.

Knows bytes and time; knows nothing of websockets. Every byte arrives half the round trip later, in both directions. A
connection is open one round trip after it was asked for, as TCP's handshake takes one.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import cast


class Distance:
    """Relays connections to one local port, ``round_trip`` seconds away."""

    def __init__(self, host: str, port: int, round_trip: float) -> None:
        self._host, self._to, self._round_trip = host, port, round_trip
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._near: set[asyncio.Transport] = set()

    @property
    def port(self) -> int:
        """The port to connect to instead."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Listen on a free port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Side(self._asked, self._near.discard), self._host, 0)

    async def stop(self) -> None:
        """Close the port, and cut whatever is still connected."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        for transport in list(self._near):
            transport.abort()

    def _asked(self, near: _Side) -> None:
        self._near.add(near.transport)
        near.transport.pause_reading()
        task = asyncio.get_running_loop().create_task(self._connect(near))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, near: _Side) -> None:
        await asyncio.sleep(self._round_trip)
        loop = asyncio.get_running_loop()
        try:
            _, far = await loop.create_connection(_Side, self._host, self._to)
        except OSError:
            near.transport.abort()
            return
        near.leads_to(far.transport, self._round_trip / 2)
        far.leads_to(near.transport, self._round_trip / 2)
        near.transport.resume_reading()


class _Side(asyncio.Protocol):
    """One of a relay's two sockets. What it reads goes to the other one, later."""

    transport: asyncio.Transport

    def __init__(
        self,
        made: Callable[[_Side], None] = lambda side: None,
        lost: Callable[[asyncio.Transport], None] = lambda transport: None,
    ) -> None:
        self._made, self._lost = made, lost
        self._other: asyncio.Transport | None = None
        self._lag = _Lag(0.0)

    def leads_to(self, other: asyncio.Transport, seconds: float) -> None:
        self._other, self._lag = other, _Lag(seconds)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._made(self)

    def data_received(self, data: bytes) -> None:
        if self._other is not None:
            self._lag.do(lambda other=self._other: other.write(data))  # type: ignore[misc]

    def connection_lost(self, error: Exception | None) -> None:
        self._lost(self.transport)
        if self._other is not None:
            self._lag.do(self._other.close if error is None else self._other.abort)


class _Lag:
    """Does what it is given later, in order."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: deque[tuple[float, Callable[[], None]]] = deque()

    def do(self, action: Callable[[], None]) -> None:
        self._due.append((asyncio.get_running_loop().time() + self._seconds, action))
        if len(self._due) == 1:
            self._wait()

    def _wait(self) -> None:
        asyncio.get_running_loop().call_at(self._due[0][0], self._act)

    def _act(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._due and self._due[0][0] <= now:
            self._due.popleft()[1]()
        if self._due:
            self._wait()
