"""The child's end of the two pipes.

A thread of its own reads commands for as long as the process lives: also while the program imports, migrates a database
or has no event loop. Writing never waits: what the pipe does not take is kept, and the thread sends it when it does.

Knows file descriptors and `bastion.wire`; knows nothing of discord.py, of event loops or of what a message means. The
end of the command pipe means that the supervisor is gone.
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import threading
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

    ``on_message`` gets every command, ``on_lost`` is called once, when the supervisor is gone or says what cannot be
    understood. Both are called in the link's thread.
    """

    def __init__(
        self,
        read_fd: int,
        write_fd: int,
        *,
        on_message: Callable[[wire.ToChild], None],
        on_lost: Callable[[str], None],
        unread: bytes = b"",
    ) -> None:
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._on_message = on_message
        self._on_lost = on_lost
        self._lines = wire.LineBuffer()
        self._unread = unread
        self._unsent = bytearray()
        self._writing = threading.Lock()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lost = False

    def open(self) -> None:
        """Begin to read."""
        for fd in (self._read_fd, self._write_fd):
            os.set_blocking(fd, False)
            os.set_inheritable(fd, False)
        threading.Thread(target=self._run, name="bastion-link", daemon=True).start()

    def send(self, message: wire.FromChild) -> None:
        """Write one message, from whichever thread. After the supervisor's death it goes nowhere."""
        with self._writing:
            if self._lost:
                return
            self._unsent += wire.encode(message)
            self._write()
            if self._unsent:
                os.eventfd_write(self._wake_fd, 1)

    def flush_now(self) -> None:
        """Write what is left, waiting for the pipe if need be: last words before an exit."""
        with self._writing:
            if not self._lost and self._unsent:
                os.set_blocking(self._write_fd, True)
                self._write()

    def _write(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: os.write(self._write_fd, self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._unsent.clear()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._read_fd, select.POLLIN)
        poll.register(self._wake_fd, select.POLLIN)
        self._take(self._unread)
        while not self._lost:
            for fd, _ in poll.poll():
                if fd == self._read_fd:
                    self._readable()
                elif fd == self._wake_fd:
                    os.eventfd_read(self._wake_fd)
                    poll.register(self._write_fd, select.POLLOUT)
                elif self._written():
                    poll.unregister(self._write_fd)

    def _written(self) -> bool:
        with self._writing:
            self._write()
            return not self._unsent

    def _readable(self) -> None:
        try:
            data = os.read(self._read_fd, _READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._take(data)
        else:
            self._lose("the supervisor is gone")

    def _take(self, data: bytes) -> None:
        try:
            for line in self._lines.feed(data):
                self._on_message(wire.decode_to_child(line))
        except wire.WireError as error:
            self._lose(f"the supervisor said what cannot be understood: {error}")

    def _lose(self, reason: str) -> None:
        with self._writing:
            self._lost = True
        self._on_lost(reason)
