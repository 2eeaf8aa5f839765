"""What is said of shards of the active bot that are away: once that they are, once that they are back.

A shard is away from when it was ready last. That it breaks and is resumed within a second is nothing; after
`SAID_AFTER` seconds the operator reads why, what it means and what happens next. An example, in seconds:

    0.0   shards 1 and 2 are closed with 4000
    10.0  one line about both; `Away`, with the reason of the one that is away for longest
    14.2  shard 1 is ready: a line; `Away` once more, about shard 2
    19.0  shard 2 is ready: a line; `Back`

Knows what was observed of one child and the time that it is given; sets no timer, writes no line, decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from bastion.counted import named, verb
from bastion.supervisor.events import Away, Back
from bastion.supervisor.observed import Observation
from bastion.wire import ShardState

SAID_AFTER = 10.0
"""Seconds after which it is said: a RESUME that is refused three times has been followed by a new session by then."""
TOGETHER = 0.5
"""Seconds within which shards leave, or come back, that are told of in one line."""

_MEANS: dict[ShardState, str] = {
    "closed": "it tries again and again, and Discord keeps the events of its session for a while",
    "resuming": "it tries again and again to go on with its session, whose events Discord keeps for a while",
    "waiting": "its session is over, so what is sent now is lost; a new one waits for leave to IDENTIFY",
    "connecting": "its session is over, so what is sent now is lost; Discord does not say that the new one is ready",
}


@dataclass(frozen=True, slots=True)
class Said:
    """What is to be told now. ``due``: at which time something more will be, if nothing happens until then."""

    lines: tuple[str, ...] = ()
    good: bool = False
    """The lines are good news."""
    event: Away | Back | None = None
    due: float | None = None


@dataclass(slots=True)
class Absences:
    """The absences of one child at a time, as far as they have been told."""

    _generation: int | None = None
    _said: dict[int, float] = field(default_factory=dict)
    """Since when each shard is away of which it has been said."""
    _longest: int | None = None
    """The one of them that `Away` was about."""

    def look(self, seen: Observation | None, *, limit: float, now: float) -> list[Said]:
        """Return what is to be told of the active child, and when to look again if no shard changes before.

        ``limit``: after how many seconds a successor is tried.
        """
        if seen is None or seen.generation != self._generation:
            self._generation = None if seen is None else seen.generation
            self._said, self._longest = {}, None
        if seen is None:
            return []
        return [*self._back(seen, now), *self._left(seen, limit, now), *self._reported(seen, now), self._next(seen)]

    def _back(self, seen: Observation, now: float) -> Iterable[Said]:
        gone = {shard: since for shard, since in self._said.items() if shard not in seen.away}
        if gone:
            self._said = {shard: since for shard, since in self._said.items() if shard in seen.away}
            which, longest = named(gone, "shard"), now - min(gone.values())
            text = f"{which} of generation {seen.generation} {verb(len(gone))} ready again, after {longest:.0f} s"
            yield Said((text,), good=True)

    def _left(self, seen: Observation, limit: float, now: float) -> Iterable[Said]:
        new = {shard: absence for shard, absence in seen.away.items() if shard not in self._said}
        if not new or now < min(absence.since for absence in new.values()) + SAID_AFTER:
            return
        new = {shard: absence for shard, absence in new.items() if now >= absence.since + SAID_AFTER - TOGETHER}
        self._said |= {shard: absence.since for shard, absence in new.items()}
        reasons: dict[tuple[str, ShardState], list[int]] = {}
        for shard, absence in new.items():
            reasons.setdefault((absence.told, seen.shards[shard]), []).append(shard)
        yield Said(tuple(self._line(seen, *reason, shards, limit) for reason, shards in reasons.items()))

    def _line(self, seen: Observation, why: str, state: ShardState, shards: list[int], limit: float) -> str:
        which = f"{named(shards, 'shard')} of generation {seen.generation} {verb(len(shards), 'has', 'have')}"
        whole = len(seen.away) == len(seen.shards)
        what = "no event reaches the bot" if whole else f"no event of {verb(len(shards), 'its', 'their')} guilds comes"
        means = _MEANS.get(state, "")
        everywhere = "; if Discord is down (discordstatus.com) nothing else helps" if whole and len(shards) > 1 else ""
        return (
            f"{which} not been ready for {SAID_AFTER:g} s: {why}. Until then {what}; {means}. "
            f"After {limit:g} s (handoff.ready_timeout) a successor is tried{everywhere}"
        )

    def _reported(self, seen: Observation, now: float) -> Iterable[Said]:
        longest = min(self._said, key=lambda shard: (self._said[shard], shard), default=None)
        if longest == self._longest:
            return
        self._longest = longest
        if longest is None:
            yield Said(event=Back(seen.generation))
        else:
            absence = seen.away[longest]
            yield Said(event=Away(seen.generation, longest, absence.told, now - absence.since))

    def _next(self, seen: Observation) -> Said:
        unsaid = [absence.since for shard, absence in seen.away.items() if shard not in self._said]
        return Said(due=min(unsaid) + SAID_AFTER if unsaid else None)
