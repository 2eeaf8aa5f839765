"""Loops of `discord.ext.tasks`: none runs in two children, no turn is doubled or left out at a switch.

In a child that is not active a loop is held before its first turn. One that is drained, or put into standby, ends its
loops after their present turn, and starts them anew if it is made active again. At a switch both children may be active
for some milliseconds, so while another child is beside this one each turn is taken from the ledger:

- a turn at a time of day is claimed by that time;
- a turn at an interval follows a turn: the ledger holds each loop's last one, and who replaces it has the next. A new
  child's first turn comes when the old one's next would have come, if that is soon; else at once, as at any start.
  Where the app has marked a loop (`bastion.lifecycle.in_step`), however late that is; each turn of such a loop is
  noted, so that the successor of a child that died knows it too.

Knows loops, the ledger and the role; knows nothing of events or pipes. `await loop()` by hand is the app's own affair.
"""

from __future__ import annotations

import asyncio
import datetime
import functools
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakValueDictionary

from discord.ext import tasks

from bastion.bot import internals
from bastion.bot.lifecycle import Lifecycle
from bastion.bot.noted import LOOP

PACE = 5.0
"""Seconds that a new child's first turn may wait to be due. Apps fill caches in it: a long wait would break them.

A loop that the app has marked has no such limit."""

_CANCEL_SECONDS = 1.0
_TASK_PREFIX = "discord-ext-tasks: "
"""How discord.py names the task of a loop that the app gave no name."""


class Turns(Protocol):
    """Where loops of several children agree. Times are seconds on the machine's monotonic clock."""

    def claim(self, key: str, at: float) -> bool:
        """Claim a turn at a time of day. True: it is this child's."""

    def take_turn(self, name: str, last: float | None, at: float) -> bool:
        """Claim the turn that follows the one at ``last``. True: it is this child's."""

    def note_turn(self, name: str, at: float) -> None:
        """Write down a loop's last turn."""

    def last_turn(self, name: str) -> float | None:
        """Return a loop's last turn, None if none is written down."""

    def note(self, key: str, value: str) -> None:
        """Write something down that is kept also when no other child is there, and after a death."""

    def noted(self, key: str) -> str | None:
        """Return what was written down last."""


@dataclass(slots=True, eq=False, kw_only=True)
class _Watched:
    """What is known of one loop since it was first started."""

    name: str
    turn: Callable[..., Awaitable[Any]] | None = None
    """What the loop calls each turn: ours, around the app's own."""
    args: tuple[Any, ...] = ()
    options: dict[str, Any]
    began: bool = False
    """Whether it has had a turn since its start."""
    in_turn: bool = False
    follows: bool = True
    """Whether its next start goes on with what another child, or this one in an earlier time, has begun."""
    last: float | None = None
    """When its last turn at an interval began, in whichever child."""
    due: str | None = None
    """The newest time of day whose turn is this child's."""
    paused: bool = False
    """Ended here, not by the app: it goes on when the child is active again."""


class Loops:
    """All loops of this process. ``beside`` says whether another child may begin turns of the same loops."""

    def __init__(
        self,
        *,
        lifecycle: Lifecycle,
        ledger: Turns,
        beside: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lifecycle = lifecycle
        self._ledger = ledger
        self._beside = beside
        self._clock = clock
        self._watched: WeakKeyDictionary[tasks.Loop[Any], _Watched] = WeakKeyDictionary()
        self._named: WeakValueDictionary[str, tasks.Loop[Any]] = WeakValueDictionary()
        """Which loop has, or had last, each name."""
        self._own: WeakKeyDictionary[Callable[..., Any], Callable[..., Any]] = WeakKeyDictionary()
        """The app's coroutine functions by ours around them."""
        self._limits: list[asyncio.TimerHandle] = []
        self._over = asyncio.Event()
        """Nothing more is waited for: turns that were cut have had time to clean up."""
        self._cut: set[str] = set()

    def install(self) -> None:
        """Watch the loops of this process. Call it before the app is imported."""
        internals.wrap_loops(started=self._started, before_loop=self._before_loop)

    def write_down(self) -> None:
        """Write down where each loop stands, for the child that is coming."""
        for watched in self._watched.values():
            if watched.last is not None:
                self._ledger.note_turn(watched.name, watched.last)

    def pause(self) -> None:
        """End each loop after its present turn; one that is between two turns, at once."""
        for loop, watched in list(self._watched.items()):
            if not loop.is_running():
                continue
            watched.paused = watched.follows = True
            if watched.in_turn or _is_due(loop):
                loop.stop()
            else:
                loop.cancel()

    def resume(self) -> None:
        """Start what `pause` ended, with the arguments that it had."""
        while self._limits:
            self._limits.pop().cancel()
        self._over.clear()
        self._cut.clear()
        for loop, watched in list(self._watched.items()):
            if not watched.paused:
                continue
            watched.paused = False
            task = loop.get_task()
            if task is None or task.done():
                loop.start(*watched.args, **watched.options)
            else:
                task.add_done_callback(functools.partial(self._start_again, loop))

    def order(self, limit: float) -> None:
        """Cut the turns that `pause` left under way, if they are not over in ``limit`` seconds."""
        self._limits.append(asyncio.get_running_loop().call_later(limit, self._cut_turns))

    async def finish(self) -> list[str]:
        """Wait until the turns that `pause` left under way have ended or been cut; return the names of the latter."""
        if ending := list(self._ending()):
            waits = [asyncio.ensure_future(asyncio.wait(ending)), asyncio.ensure_future(self._over.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        return sorted(self._cut)

    def _ending(self) -> dict[asyncio.Task[None], str]:
        return {
            task: watched.name
            for loop, watched in self._watched.items()
            if watched.paused and (task := loop.get_task()) is not None and not task.done()
        }

    def _cut_turns(self) -> None:
        for task, name in self._ending().items():
            if task.cancel():
                self._cut.add(f"loop {name}")
        self._limits.append(asyncio.get_running_loop().call_later(_CANCEL_SECONDS, self._over.set))

    def _start_again(self, loop: tasks.Loop[Any], _: object) -> None:
        if self._lifecycle.role == "active" and not loop.is_running():
            watched = self._watched[loop]
            loop.start(*watched.args, **watched.options)

    def _started(self, loop: tasks.Loop[Any], args: tuple[Any, ...], options: dict[str, Any]) -> None:
        watched = self._watched.get(loop)
        if watched is None:
            watched = self._watched[loop] = _Watched(name=self._name(loop), options=options)
        elif self._named.get(watched.name) is not loop:
            watched.name = self._name(loop)
        watched.args, watched.options, watched.began = args, options, False
        if watched.turn is None or watched.turn is not loop.coro:
            self._put_around(loop, watched)

    def _name(self, loop: tasks.Loop[Any]) -> str:
        """Name a loop alike in all children: several of one name are counted in the order of their first starts.

        One that has ended leaves its name to the next: an app that reloads a cog makes its loops anew.
        """
        task = loop.get_task()
        assert task is not None
        first = f"{loop.coro.__module__}.{task.get_name().removeprefix(_TASK_PREFIX)}"
        names = itertools.chain([first], (f"{first}#{number}" for number in itertools.count(2)))
        name = next(name for name in names if self._is_free(name))
        self._named[name] = loop
        return name

    def _is_free(self, name: str) -> bool:
        holder = self._named.get(name)
        if holder is None:
            return True
        task = holder.get_task()
        assert task is not None
        return (task.done() or task.cancelling() > 0) and not self._watched[holder].paused

    def _put_around(self, loop: tasks.Loop[Any], watched: _Watched) -> None:
        # A loop made of another one (discord.py does for each instance of a class) has that one's function.
        own = self._own.get(loop.coro, loop.coro)

        @functools.wraps(own)
        async def turn(*args: Any, **options: Any) -> Any:
            if watched.in_turn or asyncio.current_task() is not loop.get_task():
                return await own(*args, **options)  # called by hand
            if not self._takes(loop, watched):
                return None
            watched.began = watched.in_turn = True
            watched.follows = False
            try:
                return await own(*args, **options)
            finally:
                watched.in_turn = False

        self._own[turn] = own
        loop.coro = watched.turn = turn

    async def _before_loop(self, loop: tasks.Loop[Any], own: Callable[[], Awaitable[None]]) -> None:
        await self._lifecycle.wait_until_active()
        await own()
        await self._fall_in(loop, self._watched[loop])

    async def _fall_in(self, loop: tasks.Loop[Any], watched: _Watched) -> None:
        """Wait for a first turn at an interval until it is due after the last one of the child before.

        A marked loop waits for as long as that takes, another one only if it is soon.
        """
        marked = _is_marked(loop)
        while (interval := _interval(loop)) is not None and (watched.follows if marked else self._beside()):
            if marked and (noted := self._ledger.noted(_note_of(watched))) is not None:
                self._ledger.note_turn(watched.name, float(noted))  # It has outlived a child whose turns are forgotten.
            watched.last = self._ledger.last_turn(watched.name)
            now = self._clock()
            wait = 0.0 if watched.last is None else watched.last + interval - now
            if watched.last is None or wait <= 0 or (wait > PACE and not marked):
                return
            today = datetime.datetime.now(datetime.UTC)
            await internals.sleep_until_turn(
                loop,
                last=today - datetime.timedelta(seconds=now - watched.last),
                due=today + datetime.timedelta(seconds=wait),
            )  # The other child may take that turn, in the moment in which both are active.

    def _takes(self, loop: tasks.Loop[Any], watched: _Watched) -> bool:
        """Whether the turn that is due now is this child's."""
        now, interval = self._clock(), _interval(loop)
        if interval is None:
            return self._takes_at(internals.turn_due(loop).isoformat(), watched, now)
        if internals.tries_again(loop):
            return True
        marked = _is_marked(loop)
        if self._beside() and not self._ledger.take_turn(watched.name, watched.last, now):
            if marked or watched.began or interval <= PACE:
                watched.last = self._ledger.last_turn(watched.name)
                return False
            self._ledger.note_turn(watched.name, now)  # It is no repetition of the other child's: it fills caches.
        watched.last = now
        if marked:
            self._ledger.note(_note_of(watched), repr(now))
        return True

    def _takes_at(self, due: str, watched: _Watched, now: float) -> bool:
        if due != watched.due:  # else discord.py tries a turn again that failed
            if self._beside() and not self._ledger.claim(f"loop:{watched.name}:{due}", now):
                return False
            watched.due = due
        return True


def _is_marked(loop: tasks.Loop[Any]) -> bool:
    """Whether the app wants this loop in step with its predecessor; see `bastion.lifecycle.in_step`."""
    return getattr(loop.coro, "in_step", False) is True


def _note_of(watched: _Watched) -> str:
    return f"{LOOP}{watched.name}"


def _interval(loop: tasks.Loop[Any]) -> float | None:
    """Return the seconds between two turns, None for a loop that has times of day."""
    if loop.time is not None:
        return None
    return (loop.hours or 0.0) * 3600 + (loop.minutes or 0.0) * 60 + (loop.seconds or 0.0)


def _is_due(loop: tasks.Loop[Any]) -> bool:
    """Whether a time of day has come whose turn has not begun only because the event loop is late."""
    due = loop.next_iteration
    return loop.time is not None and due is not None and due <= datetime.datetime.now(datetime.UTC)
