"""The standard streams of a command: there in any case, and never the reason for its end.

Standard output and error may be closed, full, or read by nobody. What cannot be written is lost, and the command goes
on to its result. A process that serves does not wait either: see `never_wait`. All commands of this package use this,
so it belongs to none of them. Knows descriptors; knows nothing of what is written.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

FLUSH_TIMEOUT = 1.0
"""Seconds at the end for what a slow reader has not taken."""


class Writer(Protocol):
    """What writes in the place of a stream, and waits for its reader in the place of the process."""

    def put(self, data: bytes) -> None:
        """Take a text. Returns at once."""

    def flush(self, timeout: float) -> None:
        """Wait until it is written, at most ``timeout`` seconds."""


class Output(io.FileIO):
    """A standard stream whose writing never fails."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "w", closefd=False)
        self.failure: OSError | None = None
        """The first one."""
        self.waits = True
        """Whether writing waits for a reader that stands still. If not, the text is lost."""
        self.writer: Writer | None = None
        """Writes in place of this object."""

    def write(self, data: ReadableBuffer) -> int:
        """Write, or lose what cannot be written."""
        text = bytes(data)
        if self.writer is not None:
            self.writer.put(text)
            return len(text)
        if not self.waits:
            text = text[: select.PIPE_BUF]  # a pipe that has room takes as much at once
            if not select.select([], [self], [], 0)[1]:
                return len(text)
        try:
            written = super().write(text)
            if written is None:  # another process that has the descriptor too made it non-blocking
                select.select([], [self], [])
            return written or 0
        except OSError as error:
            self.failure = self.failure or error
            return len(text)


class Streams:
    """Stands for the standard streams of this process from now on. First of all: no descriptor may be opened before."""

    def __init__(self) -> None:
        _open_missing()
        self.out, self.err = Output(1), Output(2)
        sys.stdout, sys.stderr = _text(self.out, sys.stdout), _text(self.err, sys.stderr, line_buffering=True)

    @property
    def lost(self) -> bool:
        """Whether nobody gets what is written to standard output."""
        return self.out.failure is not None

    def never_wait(self, writer: Writer) -> None:
        """Wait for no reader from now on: ``writer`` writes to standard error."""
        self.out.waits, self.err.writer = False, writer

    def finish(self, name: str) -> None:
        """Write what is left; say what standard output did not take, unless its reader has simply gone.

        ``name`` is what the command is called.
        """
        sys.stdout.flush()
        failure = self.out.failure
        if failure is not None and failure.errno != errno.EPIPE:
            print(f"{name}: the output cannot be written: {failure.strerror or failure}", file=sys.stderr)
        sys.stderr.flush()
        if self.err.writer is not None:
            self.err.writer.flush(FLUSH_TIMEOUT)


def _open_missing() -> None:
    """Put /dev/null where a standard stream is closed: a socket or a pipe would get its number, and what is printed."""
    for fd, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        if stream is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            os.set_inheritable(fd, True)


def _text(output: Output, before: TextIO | None, *, line_buffering: bool = False) -> TextIO:
    """Return a text stream. Text that its encoding lacks is escaped: half a character of a path ends no command."""
    errors = (before.errors if before else None) or "strict"
    return io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=before.encoding if before else "utf-8",
        errors="backslashreplace" if errors == "strict" else errors,
        line_buffering=line_buffering or output.isatty(),
    )
