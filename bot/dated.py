"""How old an interaction is at least, though this machine's clock and Discord's may differ.

An id says when it was made, by Discord's clock. Here the machine's monotonic clock is read, which nobody sets. Whatever
arrives has been made before, so each difference between the two is at least that between the clocks, and the smallest
of the recent ones is near it. What is not known makes an interaction younger, never older: Discord itself says whether
it is too late.

Knows ids and clocks, and the note by which a child tells its successors. Knows nothing of gateways or roles.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Protocol

from bastion.bot.noted import DISCORD_CLOCK

_EPOCH_MS = 1_420_070_400_000
"""Unix milliseconds at which Discord's ids begin."""
_RECENT_SECONDS = 300.0
"""The smallest difference is forgotten after twice as long, at most: a machine that has slept has another one."""
_DRIFT = 2e-4
"""By how much the difference may have grown in each second since: clocks that nobody corrects are off by less."""
_CHANGED = 0.05


class Notes(Protocol):
    """What later children can read."""

    def note(self, key: str, value: str) -> None:
        """Write something down for later children."""

    def noted(self, key: str) -> str | None:
        """Return what was written down last."""


class DiscordClock:
    """The difference between this machine's monotonic clock and the clock that Discord's ids are made by."""

    def __init__(self, notes: Notes, clock: Callable[[], float] = time.monotonic) -> None:
        self._notes = notes
        self._clock = clock
        self._newer = self._older = float("inf")
        self._since = clock()
        self._note: tuple[float, float] | None = None
        """What is written down, as far as this child has read or written it: the difference, and when it was known."""

    def came(self, ident: int, at: float) -> None:
        """Note that something with this id has come. Takes half a microsecond."""
        if at - self._since > _RECENT_SECONDS:
            self._older, self._newer, self._since = self._newer, float("inf"), at
        self._newer = min(self._newer, at - _made(ident))

    def age(self, ident: int, now: float) -> float:
        """Return how many seconds ago this was made, at least."""
        return max(0.0, now - _made(ident) - min(self._newer, self._older, self._predecessors(now)))

    def write_down(self) -> None:
        """Tell later children what is known better than it is written down. Call it about once a second."""
        known, now = min(self._newer, self._older), self._clock()
        if known == float("inf"):
            return
        if self._note is None:
            self._read()
        if known < self._noted(now) - _CHANGED:
            self._note = known, now
            self._notes.note(DISCORD_CLOCK, f"{known} {now}")

    def _predecessors(self, now: float) -> float:
        self._read()
        return self._noted(now)

    def _read(self) -> None:
        with contextlib.suppress(ValueError):
            known, at = map(float, (self._notes.noted(DISCORD_CLOCK) or "").split())
            self._note = known, at

    def _noted(self, now: float) -> float:
        """Return what is written down, and by how much it may have grown since."""
        if self._note is None:
            return float("inf")
        known, at = self._note
        return known + max(0.0, now - at) * _DRIFT


def _made(ident: int) -> float:
    """Return the Unix seconds at which an id was made, by Discord's clock."""
    return ((ident >> 22) + _EPOCH_MS) / 1000
