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

    ``clock`` is the machine's monotonic clock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turned: float | None = None
        """When the loop was last seen to turn, if it is watched."""
        self._began: float | None = None
        """The last turn before a stall whose end is the newest turn."""

    async def watch(self, wanted: Callable[[], bool]) -> None:
        """Watch the running loop as long as it is wanted."""
        try:
            while wanted():
                self._turn(self._clock())
                await asyncio.sleep(TURN_SECONDS)
        finally:
            self._turned = self._began = None

    def _turn(self, now: float) -> None:
        if self._turned is not None and now - self._turned > 2 * TURN_SECONDS:
            self._began = self._turned if self._began is None else self._began
        else:
            self._began = None
        self._turned = now

    def came(self, at: float) -> float:
        """Return the earliest time at which what the loop read at ``at``, just now, can have come.

        Once the loop has turned in time again, all that piled up has been read.
        """
        if self._began is not None:
            return self._began
        if self._turned is not None and at - self._turned > 2 * TURN_SECONDS:
            return self._turned  # it has just begun to turn again
        return at
