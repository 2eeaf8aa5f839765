"""A child process of which we have nothing but its pid: it was spawned before the supervisor re-executed itself.

Knows signals and wait; looks like the part of `subprocess.Popen` that is used here.
"""

from __future__ import annotations

import os
import select
import subprocess
from contextlib import suppress
from typing import Protocol


class Process(Protocol):
    """A child process, spawned or adopted."""

    pid: int

    def send_signal(self, sig: int, /) -> None:
        """Signal it; nobody, if it has been waited for."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit status, the negative signal if one killed it."""


class Adopted:
    """A child process that was spawned by this process, but not by this program."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def send_signal(self, sig: int, /) -> None:
        """Signal it. Until it has been waited for, its pid cannot be another's."""
        if self._status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status as `subprocess.Popen.wait` does. Raises `subprocess.TimeoutExpired`."""
        if self._status is None:
            if timeout is not None and not self._ends_within(timeout):
                raise subprocess.TimeoutExpired([str(self.pid)], timeout)
            try:
                self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:  # somebody else has waited for it; Popen says 0 too
                self._status = 0
        return self._status

    def _ends_within(self, seconds: float) -> bool:
        try:
            end = os.pidfd_open(self.pid)
        except OSError:
            return True
        try:
            return bool(select.select([end], [], [], seconds)[0])
        finally:
            os.close(end)
