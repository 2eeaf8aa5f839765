"""Does a standby hear what the active child hears?

Discord documents several sessions of one shard as allowed, and they have been seen to work; trackers report the
opposite too. A standby that hears nothing must not be activated: the bot would fall silent. Counts in, an answer out;
no clock, no process.
"""

from __future__ import annotations

from dataclasses import dataclass

MUCH = 20
"""Events of the active child from which a standby's silence is no coincidence: if each had one chance in five to miss
the standby for some good reason, all of them would in about one case of 10^14."""


@dataclass(slots=True, kw_only=True)
class Comparison:
    """What the active child has heard since the standby's youngest session began."""

    _first: int | None = None
    _newest: int = 0

    def restart(self) -> None:
        """A session of the standby begins: what the active child heard before proves nothing."""
        self._first = None

    def active_heard(self, count: int) -> None:
        """Take the count of a beat of the active child: events since it began that every session should get."""
        if self._first is None:
            self._first = count
        self._newest = count

    def deaf(self, standby_heard: int) -> str | None:
        """Return why the standby may not be activated, or None. ``standby_heard``: its own count since it began."""
        if self._first is None or standby_heard or (heard := self._newest - self._first) < MUCH:
            return None
        return (
            f"heard nothing while the active one heard {heard} events: Discord seems to give a second session nothing. "
            "Another try may do better; if none does, this bot can only be restarted"
        )
