"""The door of the control socket: lets connections in up to a bound, and tells a client why it is turned away.

Knows sockets and file descriptors. Of requests and answers it knows only the line that turns a client away.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import resource
import socket
from collections.abc import Callable
from contextlib import suppress

import anyio
import anyio.lowlevel

from bastion.supervisor.crowd import Crowd

MAX_CLIENTS = 64
"""Connections at a time. One that has not asked for anything makes room for the next."""
BACKLOG = 128
"""Connections that the kernel keeps until they are let in; further clients wait."""
ACCEPT_PAUSE = 0.5
"""Seconds until a failing accept is tried again: no event tells when a descriptor is free."""

_logger = logging.getLogger("supervisor.control")


class Stream:
    """A client's connection: an accepted socket, read and written by the event loop."""

    def __init__(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        self.peer = peer
        self._loop = asyncio.get_running_loop()

    async def receive(self, size: int) -> bytes:
        """Return what is there, at most ``size`` bytes. Raises `anyio.EndOfStream` at the end, OSError."""
        data = await self._loop.sock_recv(self.peer, size)
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, data: bytes) -> None:
        """Write all of it, after what was begun before has had its turn. Raises OSError."""
        await anyio.lowlevel.checkpoint()
        await self._loop.sock_sendall(self.peer, data)

    def send_away(self, why: str = "") -> None:
        """Say that the supervisor is busy, and why. The socket stays open, and receives nothing more."""
        why = why or f"{MAX_CLIENTS} connections are open"
        line = {"type": "error", "error": f"the supervisor is busy ({why}); ask again in a moment", "busy": True}
        with suppress(OSError):
            self.peer.send(json.dumps(line).encode() + b"\n")
            self.peer.shutdown(socket.SHUT_RDWR)


class Door:
    """Lets clients in. ``welcome`` is called with each client; ``crowd`` must be told when a client has left."""

    def __init__(self, listener: socket.socket, welcome: Callable[[Stream], None]) -> None:
        listener.setblocking(False)
        self.crowd = Crowd()
        self._listener = listener
        self._welcome = welcome
        self._loop = asyncio.get_running_loop()
        self._again: asyncio.TimerHandle | None = None
        self._reserve = _descriptor()
        """A descriptor kept for telling a client that the supervisor has no descriptor left."""

    def open(self) -> None:
        """Take connections."""
        self._again = None
        self._reserve = self._reserve or _descriptor()
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Leave new clients in the socket's queue."""
        self._loop.remove_reader(self._listener.fileno())
        if self._again is not None:
            self._again.cancel()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except BlockingIOError:  # the client has left already
            return
        except OSError as error:
            self._cannot(error)
            return
        stream = Stream(peer)
        if self.crowd.enter(stream, most=MAX_CLIENTS):
            self._welcome(stream)
        else:
            with peer:
                stream.send_away()

    def _cannot(self, error: OSError) -> None:
        """Tell a client that no descriptor is left; without the reserve, pause."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        _logger.warning("control socket: a client could not be accepted: %s (limit %d)", error, limit)
        if self._reserve is not None and error.errno in (errno.EMFILE, errno.ENFILE):
            os.close(self._reserve)
            with suppress(OSError), self._listener.accept()[0] as peer:
                Stream(peer).send_away(f"it has no file descriptor left, of {limit}")
            self._reserve = _descriptor()
        if self._reserve is None:
            self._loop.remove_reader(self._listener.fileno())
            self._again = self._loop.call_later(ACCEPT_PAUSE, self.open)


def _descriptor() -> int | None:
    with suppress(OSError):
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    return None
