"""The pause between a failed start and its end, as PID 1 of a container.

The engine of a container starts it again at once, whatever its exit code, for as long as its restart policy says so. A
configuration that cannot work would be tried ten times a minute. Knows signals and time, nothing of the reasons.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable

SECONDS = 20.0
"""So that a container starts at most three times a minute."""
_STOPS = (signal.SIGTERM, signal.SIGINT)


def before_exit(code: int, *, tell: Callable[[str], object]) -> None:
    """As PID 1 say that the exit is put off, and wait. SIGTERM and SIGINT end the wait at once."""
    if os.getpid() != 1:
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # Python writes each signal's number there. An exception of a handler could be lost in whatever it interrupts.
    signal.set_wakeup_fd(writing)
    for number in _STOPS:
        signal.signal(number, lambda *_: None)
    tell(
        f"PID 1 of a container may be started again at once: the supervisor waits {SECONDS:g} s, then exits "
        f"with {code}. A stop (SIGTERM) or Ctrl-C ends the wait"
    )
    _wait(reading, until=time.monotonic() + SECONDS)
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)


def _wait(reading: int, *, until: float) -> None:
    while (left := until - time.monotonic()) > 0:
        if select.select([reading], [], [], left)[0] and not {*os.read(reading, 64)}.isdisjoint(_STOPS):
            return
