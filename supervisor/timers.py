"""The timers of one slot, which run no further while the supervisor itself stands still.

Whoever is stopped (SIGSTOP, a paused container, a machine that hands out no time) wakes up with all its timers due, and
would accuse children of a silence that it did not listen to; most likely they were stopped as well. So once a second a
look is taken at how late it comes. That is the one thing here that no event can tell of.

Knows names of timers and the event loop's clock. What it means that one rings is the slot's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bastion.supervisor.state import Alarm

LOOK_SECONDS = 1.0
STOOD_STILL = 0.5
"""By how many seconds a look must be late: a machine that is only busy is late by tenths."""

Key = tuple[Alarm, int]


class Timers:
    """Timers by name and generation. ``ring`` is called when one is due, ``stood_still`` with the seconds after it."""

    def __init__(self, ring: Callable[[Alarm, int], None], stood_still: Callable[[float], None]) -> None:
        """Needs a running event loop; `stop` ends what runs in it."""
        self._loop = asyncio.get_running_loop()
        self._on_ring = ring
        self._stood_still = stood_still
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._looked_at = self._loop.time()
        self._looking = self._loop.call_later(LOOK_SECONDS, self._look_again)

    def start(self, alarm: Alarm, generation: int, seconds: float) -> None:
        """Have one ring in so many seconds; if it runs already, then only."""
        self.cancel(alarm, generation)
        self._set((alarm, generation), self._loop.time() + seconds)

    def cancel(self, alarm: Alarm, generation: int) -> None:
        """Have one not ring, if it runs."""
        if timer := self._timers.pop((alarm, generation), None):
            timer.cancel()

    def left(self, alarm: Alarm, generation: int) -> float:
        """Return in how many seconds one rings; 0 if it does not run."""
        timer = self._timers.get((alarm, generation))
        return max(0.0, timer.when() - self._loop.time()) if timer else 0.0

    def stop(self) -> None:
        """Let none ring any more."""
        self._looking.cancel()
        for timer in self._timers.values():
            timer.cancel()

    def _set(self, key: Key, when: float) -> None:
        self._timers[key] = self._loop.call_at(when, self._ring, key)

    def _ring(self, key: Key) -> None:
        if self._look():
            return  # it has been put off
        del self._timers[key]
        self._on_ring(*key)

    def _look_again(self) -> None:
        self._look()
        self._looked_at = self._loop.time()
        self._looking = self._loop.call_later(LOOK_SECONDS, self._look_again)

    def _look(self) -> bool:
        """Give every timer as much longer as nobody looked, if that was too long; say whether it was."""
        now = self._loop.time()
        unseen, late = now - self._looked_at, now - self._looked_at - LOOK_SECONDS
        if late < STOOD_STILL:
            return False
        self._looked_at = now
        for key, timer in list(self._timers.items()):
            timer.cancel()
            self._set(key, timer.when() + unseen)
        self._stood_still(late)
        return True
