"""Numbers with their nouns, for people: "1 shard is", "2 shards are", "no shard is".

Knows how an English noun goes with a number, and nothing of what is counted.
"""

from __future__ import annotations

from collections.abc import Iterable


def counted(count: int, noun: str, *, many: str | None = None) -> str:
    """Return the number with its noun, whose plural is ``many`` if it does not just end with an s: "1 reply"."""
    return f"{count:,} {noun if count == 1 else many or f'{noun}s'}"


def verb(count: int, one: str = "is", many: str = "are") -> str:
    """Return the form of a verb that goes with so many."""
    return one if count == 1 else many


def named(numbers: Iterable[int], noun: str, *, limit: int = 10) -> str:
    """Name things by their numbers: "shard 3", "shards 3 and 5", "shards 0 to 15"."""
    found = sorted(numbers)
    if len(found) == 1:
        return f"{noun} {found[0]}"
    if len(found) > 2 and found == list(range(found[0], found[-1] + 1)):
        return f"{noun}s {found[0]} to {found[-1]}"
    if len(found) > limit:
        return f"{noun}s {', '.join(map(str, found[:limit]))} and {len(found) - limit} more"
    return f"{noun}s {', '.join(map(str, found[:-1]))} and {found[-1]}"
