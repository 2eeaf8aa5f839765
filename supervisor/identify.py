"""Who may IDENTIFY when: one queue of permits for all children and all their reconnects.

Discord lets ``max_concurrency`` shards IDENTIFY per window (5 s), one in each bucket ``shard_id % max_concurrency``,
and so many a day. This module knows that rule and a clock that it is given; no process, no pipe, no timer. It is asked
`grant` whenever something has changed, and when `next_due` has come.

Supervisors that share a ledger share the rule too (`Common`).

A permit counts from the moment the child has reported its IDENTIFY, not from when it was given: a slow connect must
not bring two IDENTIFYs closer together than the window.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from bastion.supervisor.status import SessionStartLimit
from bastion.wire import Limits

MARGIN = 0.02
"""Seconds added to the window against jitter between the child's report and Discord's clock: 0.4 % of 5 s."""
PATIENCE = 30.0
"""Seconds after which a permit that led to no reported IDENTIFY counts as used."""
RETRY = 0.02
"""Seconds after which what all supervisors have in common is asked for again, if another one is just at it."""
DAY = 24 * 3600.0
"""Seconds after which Discord's budget is whole again."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Leave that a child asks for, or has been given."""

    generation: int
    shard: int


class Common(Protocol):
    """What is known of the IDENTIFYs of other supervisors' bots. Times are the clock's."""

    def held(self) -> AbstractContextManager[bool]:
        """Have it to oneself, and say whether it is so."""

    def used(self) -> list[tuple[int, float]]:
        """Return shard and time of the newest, our own included."""

    def note(self, shard: int, when: float) -> None:
        """Note one of ours, or that there may be one from now on."""


@dataclass(slots=True)
class _Budget:
    total: int
    remaining: int
    resets_at: float


class IdentifyQueue:
    """Permits in the order in which they were asked for, as fast as the rule allows and no faster."""

    def __init__(
        self, *, window: float, clock: Callable[[], float], patience: float = PATIENCE, common: Common | None = None
    ) -> None:
        """``window`` and ``patience`` in seconds; ``clock`` is the machine's monotonic one, in seconds.

        ``common``: what other supervisors' bots have sent, if there may be any.
        """
        self._common = common
        self._refused = False
        """Whether another supervisor had it just now."""
        self._window = window + MARGIN
        self._clock = clock
        self._patience = patience
        self._waiting: list[Wish] = []
        self._out: dict[Wish, float] = {}
        self._used: list[tuple[int, float]] = []
        """(shard, when) of the IDENTIFYs within the last window; buckets are reckoned when needed, for they change."""
        self._budget: _Budget | None = None
        self.max_concurrency = 1

    @property
    def out(self) -> bool:
        """Say whether an IDENTIFY may leave at any moment, under a permit that was given."""
        self._tidy()
        return bool(self._out)

    def begin_with(self, limit: SessionStartLimit | None) -> None:
        """Go on for a queue whose permits are all used, the last of them a moment ago, for all that is known."""
        if limit is not None:
            self.max_concurrency = limit.max_concurrency
            self._budget = _Budget(limit.total, limit.remaining, self._clock() + limit.reset_after)
        self._used = [(bucket, self._clock()) for bucket in range(self.max_concurrency)]

    def ask(self, generation: int, shard: int) -> None:
        """Queue a wish; asking again for the same shard keeps its place.

        A child that asks again while its permit is out has tried and failed; whether Discord saw the IDENTIFY is
        unknown, so the permit counts as used.
        """
        wish = Wish(generation, shard)
        if self._out.pop(wish, None) is not None:
            self._use(shard)
        if wish not in self._waiting:
            self._waiting.append(wish)

    def identified(self, generation: int, shard: int) -> None:
        """Note that the IDENTIFY of this shard has just left."""
        self._out.pop(Wish(generation, shard), None)
        self._use(shard)

    def forget(self, generation: int) -> None:
        """Drop what a dead child asked for; a permit of its may have been used until now."""
        self._waiting = [wish for wish in self._waiting if wish.generation != generation]
        for wish in [wish for wish in self._out if wish.generation == generation]:
            del self._out[wish]
            self._use(wish.shard)

    def update(self, limits: Limits) -> None:
        """Take over what Discord said last."""
        self.max_concurrency = max(1, limits.max_concurrency)
        self._budget = _Budget(limits.total, limits.remaining, self._clock() + limits.reset_after)

    def grant(self, *, active: int | None) -> list[Wish]:
        """Return the permits that can be given now, and count them as given. The active child's wishes go first."""
        if self._common is None or not self._waiting:
            return self._grant(active)
        with self._common.held() as ours:
            self._refused = not ours
            granted = self._grant(active) if ours else []
            for wish in granted:
                self._common.note(wish.shard, self._clock())
        return granted

    def _grant(self, active: int | None) -> list[Wish]:
        self._tidy()
        now, busy, granted = self._clock(), self._busy(), []
        for wish in sorted(self._waiting, key=lambda wish: wish.generation != active):
            if wish.shard % self.max_concurrency in busy:
                continue
            if self._exhausted():
                break
            busy.add(wish.shard % self.max_concurrency)
            self._out[wish] = now
            granted.append(wish)
        self._waiting = [wish for wish in self._waiting if wish not in self._out]
        return granted

    def next_due(self) -> float | None:
        """Return the clock's time at which `grant` may have something, None if nothing waits for time to pass."""
        if not self._waiting:
            return None
        if self._refused:
            return self._clock() + RETRY
        times = [given + self._patience for given in self._out.values()]
        times += [when + self._window for _, when in self._all_used()]
        if self._budget is not None and self._exhausted():
            times = [self._budget.resets_at]
        return min(times, default=self._clock())

    def waiting(self, generation: int) -> int:
        """Return how many shards of a child wait for a permit."""
        return sum(wish.generation == generation for wish in self._waiting)

    @property
    def out_of_budget(self) -> float | None:
        """Return in how many seconds the daily budget is whole again, if there is nothing left of it."""
        return max(0.0, self._budget.resets_at - self._clock()) if self._budget and self._exhausted() else None

    def shortage(self, *, needed: int, reserve: int) -> float | None:
        """Return in how many seconds ``needed`` IDENTIFYs can be afforded beside ``reserve``, None if they can now.

        A reserve that a whole day's budget could not hold is not asked for. An unknown budget stops nothing.
        """
        limit = self.limit()
        if limit is None:
            return None
        reserve = min(reserve, max(0, limit.total - needed))
        return None if needed + reserve <= limit.remaining - len(self._out) else limit.reset_after

    def seconds_for(self, shards: int) -> float:
        """Return how long it takes until so many shards may have sent IDENTIFY."""
        return -(-shards // self.max_concurrency) * self._window

    def limit(self) -> SessionStartLimit | None:
        """Return the daily budget as it stands now, None before a child has asked Discord."""
        self._tidy()
        budget = self._budget
        if budget is None:
            return None
        return SessionStartLimit(
            total=budget.total,
            remaining=budget.remaining,
            reset_after=max(0.0, budget.resets_at - self._clock()),
            max_concurrency=self.max_concurrency,
        )

    def _use(self, shard: int) -> None:
        self._used.append((shard, self._clock()))
        if self._common is not None:
            self._common.note(shard, self._clock())
        if self._budget is not None:
            self._budget.remaining = max(0, self._budget.remaining - 1)

    def _busy(self) -> set[int]:
        """Return the buckets in which nobody may IDENTIFY now."""
        shards = [shard for shard, _ in self._all_used()] + [wish.shard for wish in self._out]
        return {shard % self.max_concurrency for shard in shards}

    def _all_used(self) -> list[tuple[int, float]]:
        """Return the IDENTIFYs within the last window, those of other supervisors' bots included."""
        others = self._common.used() if self._common is not None else []
        return self._used + [(shard, when) for shard, when in others if self._clock() < when + self._window]

    def _exhausted(self) -> bool:
        """Say whether one more IDENTIFY could exceed the budget: Discord answers that by resetting the token."""
        return self._budget is not None and self._budget.remaining <= len(self._out)

    def _tidy(self) -> None:
        """Let time pass: permits without an IDENTIFY run out, windows end, the day begins anew."""
        now = self._clock()
        for wish in [wish for wish, given in self._out.items() if now >= given + self._patience]:
            del self._out[wish]
            self._use(wish.shard)
        self._used = [(shard, when) for shard, when in self._used if now < when + self._window]
        if self._budget is not None and now >= self._budget.resets_at:
            self._budget.remaining = self._budget.total
            self._budget.resets_at += DAY * (1 + (now - self._budget.resets_at) // DAY)
