"""The child's end of the pipe.

Knows file descriptors and `bastion.wire`; knows nothing of discord.py. Writing never waits: what the pipe does not
take is kept and sent when it does. The end of the command pipe means that the supervisor is gone.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
from collections.abc import Callable

from bastion import wire

_log = logging.getLogger("bastion.link")

_PR_SET_PDEATHSIG = 1
_READ = 65536


def die_with_parent(parent: int) -> bool:
    """Ask the kernel for SIGTERM when the parent dies. False: it has died already (or this is not Linux' prctl)."""
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    except (OSError, AttributeError):
        _log.warning("no prctl on this system: only the pipe tells of the supervisor's death")
    return os.getppid() == parent


class Link:
    """Reads commands and writes messages on two file descriptors.

    ``on_message`` gets every command; ``on_lost`` is called once, when the supervisor is gone or says what cannot be
    understood.
    """

    def __init__(
        self, read_fd: int, write_fd: int, *, on_message: Callable[[wire.ToChild], None], on_lost: Callable[[str], None]
    ) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._on_message = on_message
        self._on_lost = on_lost
        self._lines = wire.LineBuffer()
        self._unsent = bytearray()
        self._lost = False

    def open(self) -> None:
        """Begin to read. Must be called from within the running loop."""
        for fd in (self._read_fd, self._write_fd):
            os.set_blocking(fd, False)
            os.set_inheritable(fd, False)
        asyncio.get_running_loop().add_reader(self._read_fd, self._readable)

    def send(self, message: wire.FromChild) -> None:
        """Write one message. After the supervisor's death it goes nowhere."""
        if self._lost:
            return
        self._unsent += wire.encode(message)
        self._flush()

    def flush_now(self) -> None:
        """Write what is left, waiting for the pipe if need be: last words before an exit."""
        if not self._lost and self._unsent:
            os.set_blocking(self._write_fd, True)
            self._flush()

    def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._unsent:
                del self._unsent[: os.write(self._write_fd, self._unsent)]
        except BlockingIOError:
            loop.add_writer(self._write_fd, self._flush)
            return
        except OSError:
            self._unsent.clear()
        loop.remove_writer(self._write_fd)

    def _readable(self) -> None:
        try:
            data = os.read(self._read_fd, _READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose("the supervisor is gone")
            return
        try:
            for line in self._lines.feed(data):
                self._on_message(wire.decode_to_child(line))
        except wire.WireError as error:
            self._lose(f"the supervisor said what cannot be understood: {error}")

    def _lose(self, reason: str) -> None:
        self._lost = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._read_fd)
        loop.remove_writer(self._write_fd)
        self._on_lost(reason)
