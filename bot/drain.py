"""The end of a child's active time: waiting for what it began, and for what people are in the middle of.

Knows handlers under way, live controls and time limits; knows nothing of roles, claims or the supervisor. Every limit
is an `Order`. A later order can only hurry: each handler has the earliest end that any of them gives it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from bastion.bot.controls import Control, Controls
from bastion.bot.inflight import Handler, InFlight

GRACE = 2.0
"""Seconds that tasks which the app itself began inside a handler are waited for: some of them never end."""

COUNT_SECONDS = 0.1
"""How often live controls are counted at most: 500 views take 2 ms."""

_CLEAN_UP = 1.0
"""Seconds that handlers which are cut have to clean up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainResult:
    """How a drain ended: how many handlers finished, and the names of what was cut: handlers, views, modals."""

    finished: int
    cut: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """Leave to go on for ``limit`` seconds, and for ``linger`` seconds with what people are in the middle of.

    With ``linger``, a handler has ``limit`` seconds of its own from when it began or last waited for a person: a press
    during the linger begins one. Without, ``limit`` is the end of all.
    """

    at: float
    limit: float
    linger: float

    def end_of(self, handler: Handler) -> float:
        """Return when this order ends a handler."""
        if handler.own:
            return self.at + self.linger
        if not self.linger:
            return self.at + self.limit
        own = max(self.at, handler.since) + self.limit
        return max(own, self.at + self.linger) if handler.conversing else own


class Drain:
    """One drain.

    ``on_lingering`` is called once, with views and conversations, when only they are left; ``on_over`` when nothing is
    waited for any more: from there on, nothing new may begin. ``on_cut`` is told of what is cut, when it is.
    """

    def __init__(
        self,
        inflight: InFlight,
        controls: Controls,
        *,
        on_lingering: Callable[[int, int], None] = lambda *_: None,
        on_over: Callable[[], None] = lambda: None,
        on_cut: Callable[[list[str]], None] = lambda _: None,
    ) -> None:
        self.lingering = 0
        self._controls_then: list[Control] = []
        self._counted_at = 0.0
        """How many views, modals and conversations it waits for."""
        self.cut: list[str] = []
        """Names of what was cut so far."""
        self._inflight = inflight
        self._controls = controls
        self._on_lingering = on_lingering
        self._on_over = on_over
        self._on_cut = on_cut
        self._orders: list[Order] = []
        self._changed = asyncio.Event()
        self._told = False
        self._cancelled: set[asyncio.Task[object]] = set()

    def order(self, limit: float, linger: float = 0.0) -> None:
        """Give limits in seconds from now. The first order must come before `run`; the next ones hurry it."""
        self._orders.append(Order(at=asyncio.get_running_loop().time(), limit=limit, linger=linger))
        self._changed.set()

    async def run(self) -> DrainResult:
        """Wait until nothing is left, or the limits are over; cancel and name what has not ended by then.

        Tasks that the app began inside handlers get `GRACE` seconds after the last handler and are then left alone.
        """
        before = self._inflight.ended
        self._inflight.on_change = self._changed.set
        self._controls.on_change = self._count_again
        while (wake := self._advance()) is not None:
            await self._change(until=wake)
        self._on_over()
        await self._wait_for_own()
        finished = self._inflight.ended - before
        self._note_cut([control.name for control in self._live()])
        if self._cancelled:
            await asyncio.wait(self._cancelled, timeout=_CLEAN_UP)
        return DrainResult(finished=finished, cut=self.cut)

    @property
    def _lingers(self) -> bool:
        return self._orders[0].linger > 0

    def _advance(self) -> float | None:
        """Cut what is late. Return when the next thing will be, None if nothing is left to wait for."""
        self._changed.clear()
        now = asyncio.get_running_loop().time()
        ends = {handler: self._end_of(handler) for handler in self._handlers()}
        late = [handler for handler, end in ends.items() if end <= now and not handler.task.done()]
        for handler in late:
            del ends[handler]
            self._cancelled.add(handler.task)
        self._note_cut([self._inflight.cut(handler) for handler in late])
        controls = self._counted(now) if now < self._linger_end() else []
        self._note(controls, list(ends))
        wakes = [*ends.values(), *(min(control.until, self._linger_end()) for control in controls)]
        if controls and now > self._counted_at:
            wakes.append(self._counted_at + COUNT_SECONDS)
        return min(wakes, default=None)

    def _count_again(self) -> None:
        self._counted_at = float("-inf")
        self._changed.set()

    def _counted(self, now: float) -> list[Control]:
        """Return the live controls, or those of a moment ago: each press of one of hundreds would count them all."""
        over = min((control.until for control in self._controls_then), default=now)
        if over <= now or now - self._counted_at >= COUNT_SECONDS:
            self._controls_then, self._counted_at = self._live(), now
        return self._controls_then

    def _note_cut(self, names: list[str]) -> None:
        if names:
            self.cut += names
            self._on_cut(names)

    def _note(self, controls: list[Control], handlers: list[Handler]) -> None:
        conversations = sum(1 for handler in handlers if handler.conversing) if self._lingers else 0
        self.lingering = len(controls) + conversations
        if self.lingering and conversations == len(handlers) and not self._told:
            self._told = True
            self._on_lingering(len(controls), conversations)

    def _handlers(self) -> list[Handler]:
        return [handler for handler in self._inflight.handlers() if self._lingers or not handler.own]

    def _live(self) -> list[Control]:
        return self._controls.live(modal_life=self._orders[0].linger) if self._lingers else []

    def _end_of(self, handler: Handler) -> float:
        return min(order.end_of(handler) for order in self._orders)

    def _linger_end(self) -> float:
        return min(order.at + order.linger for order in self._orders)

    async def _wait_for_own(self) -> None:
        end = asyncio.get_running_loop().time() + GRACE
        while self._inflight.beside():
            until = min(end, *(order.at + order.limit + order.linger for order in self._orders))
            if until <= asyncio.get_running_loop().time():
                return
            self._changed.clear()
            await self._change(until=until)

    async def _change(self, *, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                await self._changed.wait()
        except TimeoutError:
            pass
