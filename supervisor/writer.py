"""A descriptor that nobody waits for: what it does not take is kept, and then dropped and counted.

A thread writes. Whoever reads may stand still (a pager, a stopped terminal, a log collector that hangs), may have gone,
or the disk may be full; whoever puts something in learns nothing of it. Knows bytes, and lines only to count them.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from bastion.counted import counted

LIMIT = 1024 * 1024
"""Bytes that are kept: a minute and a half of a bot that logs 10 KB/s."""
_PIECE = select.PIPE_BUF
"""Bytes that a pipe takes whole or not at all, so that none are written twice by the program after an execve."""
HOLD_TIMEOUT = 0.2
"""Seconds for a piece that is being written: a reader that lives takes it in microseconds."""


@dataclass(slots=True)
class _Gap:
    """What has been dropped. ``since``: in monotonic seconds."""

    lines: int = 0
    since: float = 0.0
    why: str = ""

    def add(self, data: bytes | bytearray, why: str) -> None:
        self.since = self.since or time.monotonic()
        self.lines += data.count(b"\n")
        self.why = why

    def __str__(self) -> str:
        return f"{counted(self.lines, 'line')} dropped: {self.why} for {time.monotonic() - self.since:.0f} s"


class Writer:
    """Writes to a descriptor, in order, from a thread of its own. The descriptor stays its owner's."""

    def __init__(self, fd: int, *, limit: int = LIMIT) -> None:
        """``limit``: how many bytes are kept."""
        self.remark: Callable[[str], str] = "{}\n".format
        """Gives the form of the line about a gap."""
        self._fd = fd
        self._limit = limit
        self._changed = threading.Condition()
        self._unwritten = bytearray()
        self._gap = _Gap()
        self._full = False
        """Whether lines are dropped until half of the room is free: else every second line would be."""
        self._torn = False
        """Whether a line was half written when writing failed."""
        self._writing = self._held = False
        _start(self._run)

    def put(self, data: bytes) -> None:
        """Take whole lines. Does not wait."""
        with self._changed:
            self._full = self._full or len(self._unwritten) + len(data) > self._limit
            if self._full:
                self._gap.add(data, "nobody read them fast enough")
                return
            if self._torn and not self._unwritten:
                self._unwritten += b"\n"
            self._unwritten += data
            self._changed.notify_all()

    def flush(self, timeout: float) -> None:
        """Wait until everything is written, at most ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._unwritten, timeout)

    def hold(self) -> bytes:
        """Write no more until `release`; return what is unwritten."""
        with self._changed:
            self._held = True
            self._changed.wait_for(lambda: not self._writing, HOLD_TIMEOUT)
            return bytes(self._unwritten)

    def release(self) -> None:
        """Go on."""
        with self._changed:
            self._held = False
            self._changed.notify_all()

    # In the thread.

    def _run(self) -> None:
        while True:
            piece = self._next()
            try:
                self._wrote(piece[: os.write(self._fd, piece)])
            except BlockingIOError:  # another process that has the descriptor too made it non-blocking
                select.select([], [self._fd], [])
            except OSError as error:
                self._failed(error.strerror or str(error))

    def _next(self) -> bytes:
        with self._changed:
            self._writing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._unwritten and not self._held)
            self._writing = True
            return bytes(self._unwritten[:_PIECE])

    def _wrote(self, piece: bytes) -> None:
        with self._changed:
            del self._unwritten[: len(piece)]
            self._torn = not piece.endswith(b"\n")
            if self._gap.lines and len(self._unwritten) <= self._limit // 2:
                self._unwritten += self.remark(str(self._gap)).encode("utf-8", "backslashreplace")
                self._gap, self._full = _Gap(), False

    def _failed(self, why: str) -> None:
        """Drop what there is: a reader that has gone does not come back, and a full disk gives its own time."""
        with self._changed:
            self._gap.add(self._unwritten.lstrip(b"\n"), f"they could not be written ({why})")
            self._unwritten.clear()


def _start(work: Callable[[], None]) -> None:
    """Start a thread that gets no signals: they are the main thread's, and SIGTTOU would stop a write to a terminal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        threading.Thread(target=work, name="writer", daemon=True).start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
