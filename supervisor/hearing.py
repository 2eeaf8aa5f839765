"""Do two children with sessions of the same shards both hear?

Discord documents several sessions of one shard as allowed, and they have been seen to work; trackers report the
opposite too: the newer session got nothing, or it ended the older one. A standby that hears nothing must not be
activated: the bot would fall silent. A child whose session was ended by another's must not simply identify anew: that
would end the other's, in turns and for as long as there are IDENTIFYs left. Counts and times in, answers out; no clock,
no process.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bastion.counted import counted

MUCH = 20
"""Events of the active child from which a standby's silence is no coincidence: if each had one chance in five to miss
the standby for some good reason, all of them would in about one case of 10^14."""

KICK_WITHIN = 5.0
"""Seconds from the permit for one child's IDENTIFY in which the end of another's session of that shard is taken for its
consequence. If it was chance, the other child identifies anew a little later than it could have."""


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
            f"heard nothing while the active one heard {counted(heard, 'event')}: Discord seems to give a second "
            "session nothing. Another try may do better; if none does, this bot can only be restarted"
        )


@dataclass(slots=True)
class Kicks:
    """Whose session of a shard has ended because another child's began. Times in monotonic seconds."""

    _began: dict[tuple[int, int | None], tuple[int, float]] = field(default_factory=dict)
    """Who was let IDENTIFY last, and when, by shard and shard count: other counts are other shards."""
    _lost: dict[tuple[int, int], int] = field(default_factory=dict)

    def begins(self, generation: int, shard: int, count: int | None, *, now: float) -> None:
        """Note that this child identifies this shard now."""
        self._began[shard, count] = generation, now
        self._lost.pop((generation, shard), None)

    def ended(self, generation: int, shard: int, count: int | None, *, now: float) -> None:
        """Note that a session of this child has ended."""
        by, at = self._began.get((shard, count), (generation, 0.0))
        if by != generation and now - at < KICK_WITHIN:
            self._lost[generation, shard] = by

    def kicked_by(self, generation: int, shard: int) -> int | None:
        """Return whose session has ended this one's, None if it was none's."""
        return self._lost.get((generation, shard))

    def forget(self, generation: int) -> None:
        """Forget a child that is gone."""
        self._began = {key: one for key, one in self._began.items() if one[0] != generation}
        self._lost = {key: by for key, by in self._lost.items() if generation not in (key[0], by)}
