"""When the event loop stood still, and so how long something that it read may have waited to be read.

Knows time alone; nothing of what is read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

TURN_SECONDS = 0.1
"""How often the loop is looked at. A stall of less than twice that is not noticed, and is less than sessions differ."""


class Stalls:
    """Notes since when the event loop has stood still, while it is watched.

    ``clock`` is the machine's monotonic clock. ``unread`` tells whether something has come that the loop has not read.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, unread: Callable[[], bool] = lambda: False) -> None:
        self._clock = clock
        self._unread = unread
        self._turned: float | None = None
        """When the loop was last seen to turn, if it is watched."""
        self._began: float | None = None
        """The last turn before a stall, until what piled up in it has been read."""
        self._ended: float = 0.0
        """The first turn after it."""

    async def watch(self, wanted: Callable[[], bool]) -> None:
        """Watch the running loop as long as it is wanted."""
        try:
            while wanted():
                self.turned(self._clock())
                await asyncio.sleep(TURN_SECONDS)
        finally:
            self._turned = self._began = None

    def turned(self, now: float) -> None:
        """Note that the loop turns at a time."""
        if self._turned is not None and now - self._turned > 2 * TURN_SECONDS:
            self._began = self._turned if self._began is None else self._began
            self._ended = now
        elif self._began is not None and not self._piled_up(now, self._began):
            self._began = None
        self._turned = now

    def _piled_up(self, now: float, began: float) -> bool:
        """Whether what came meanwhile is still being read. If it takes longer than the stall, it is what comes now."""
        return self._unread() and now - self._ended < self._ended - began

    def came(self, at: float) -> float:
        """Return the earliest time at which what the loop read at ``at``, just now, can have come."""
        if self._began is not None:
            return self._began
        if self._turned is not None and at - self._turned > 2 * TURN_SECONDS:
            return self._turned  # it has just begun to turn again
        return at
