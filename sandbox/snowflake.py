"""Discord's ids: how they are made and how they are spread over shards.

Knows the id layout only: milliseconds since 2015 in the upper 42 bits, a counter below.
"""

from __future__ import annotations

import time

EPOCH_MS = 1_420_070_400_000
"""Unix milliseconds of 2015-01-01T00:00:00Z, where Discord's ids begin."""

WORLD_MS = 1_704_067_200_000
"""Unix milliseconds of 2024-01-01T00:00:00Z, where the seeded world's ids begin: the same seed gives the same ids."""

_COUNTER_BITS = 22


class Snowflakes:
    """Makes ids that only grow: ``next`` from the clock, ``seeded`` from a fixed past moment.

    ``ahead``: by how many seconds the clock is ahead of the machine's.
    """

    __slots__ = ("_ahead_ms", "_guild_ms", "_last", "_seeded_ms")

    def __init__(self, ahead: float = 0.0) -> None:
        self._ahead_ms = round(ahead * 1000)
        self._last = 0
        self._seeded_ms = WORLD_MS - EPOCH_MS
        self._guild_ms = self._seeded_ms - 10_000_000

    def next(self) -> int:
        """A new id of this moment. More than 4 million in one millisecond run into the next one."""
        self._last = max(self._last + 1, (time.time_ns() // 1_000_000 + self._ahead_ms - EPOCH_MS) << _COUNTER_BITS)
        return self._last

    def seeded(self) -> int:
        """A new id of the seeded world."""
        self._seeded_ms += 1
        return self._seeded_ms << _COUNTER_BITS

    def seeded_guild(self) -> int:
        """A guild's id in the seeded world, one millisecond after the last: so they spread evenly over shards."""
        self._guild_ms += 1
        return self._guild_ms << _COUNTER_BITS


def shard_of(guild_id: int, num_shards: int) -> int:
    """The shard that receives a guild's events among ``num_shards``."""
    return (guild_id >> _COUNTER_BITS) % num_shards


def created_at(snowflake: int) -> float:
    """Unix seconds at which an id was made."""
    return ((snowflake >> _COUNTER_BITS) + EPOCH_MS) / 1000
