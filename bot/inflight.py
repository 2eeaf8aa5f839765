"""Handlers under way: which tasks an event began, and which of them wait for a person.

Knows asyncio tasks and the event that each descends from; knows nothing of roles, claims or time limits. A task factory
sees every task; one that is created while an event is being handled belongs to that event.

A handler that waits for something a person may do (`Client.wait_for`, the `wait` of a view or a modal) is in a
*conversation*. It may wait in a task of its own making, as for `asyncio.gather`: then all handlers of its event are.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import discord

_DIRECT = (
    "discord.py: ",
    "CommandTree-invoker",
    "discord-ui-view-dispatch-",
    "discord-ui-modal-dispatch-",
    "discord-ui-dynamic-item-",
)
"""How discord.py names the tasks that run an app's handlers."""

_LIBRARY = os.path.dirname(discord.__file__) + os.sep  # noqa: PTH120 - compared with code objects' file names
_ENDLESS = ("__timeout_task_impl", "do_typing", "_loop", "_poll_voice_ws")
"""discord.py's own tasks that only end when something else does: view timeouts, typing indicators, ext.tasks loops,
voice connections."""


class Origin(Protocol):
    """What a task descends from."""

    decision: bool | None
    """Whether the event was let through to handlers; None while nobody knows."""

    def describe(self) -> str:
        """Return a name for logs."""


current: ContextVar[Origin | None] = ContextVar("current", default=None)
"""The gateway event that the running code descends from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A handler as it is now.

    ``since`` is when it last stopped waiting for a person or, if somebody cared by then, when it began; in the loop's
    time, 0 if neither is known.
    """

    task: asyncio.Task[Any]
    since: float
    conversing: bool
    own: bool
    """A task that the app began beside its handlers, and that waits for a person."""


@dataclass(slots=True, eq=False)
class _Waits:
    """How often something waits for a person now, and since when it does not (the loop's time)."""

    now: int = 0
    until: float = 0.0


_NO_WAITS = _Waits()


class Watcher(Protocol):
    """Who is told of tasks as they come and go. Must be quick."""

    def began(self, task: asyncio.Task[Any]) -> None:
        """Learn of a task; it has no name yet."""

    def ended(self, task: asyncio.Task[Any]) -> None:
        """Learn that it has ended."""


class InFlight:
    """All unfinished tasks that descend from events. It costs every event, so it counts no more than is asked for."""

    def __init__(self) -> None:
        self.on_change: Callable[[], None] | None = None
        """Called, once somebody cares, when a task ends and when a wait does."""
        self.ended = 0
        """Handlers that came to their own end since somebody cares."""
        self._tasks: dict[asyncio.Task[Any], Origin] = {}
        self._waits: dict[asyncio.Task[Any], _Waits] = {}
        self._beside: WeakKeyDictionary[Origin, _Waits] = WeakKeyDictionary()
        """By event, the waits of its tasks that are no handlers themselves: all its handlers wait with them."""
        self.watcher: Watcher | None = None

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch the creation of tasks, keeping any task factory that is there already."""
        inner: Callable[..., Any] | None = loop.get_task_factory()

        def factory(
            loop: asyncio.AbstractEventLoop, coro: Generator[Any, None, Any], **options: Any
        ) -> asyncio.Task[Any]:
            task: asyncio.Task[Any] = (
                inner(loop, coro, **options) if inner else asyncio.Task(coro, loop=loop, **options)
            )
            context = options.get("context")
            origin = current.get() if context is None else context.get(current)
            if origin is not None and origin.decision:
                self._tasks[task] = origin
                loop.call_soon(self._took_a_step, task)
                if self.on_change is not None:
                    self._waits[task] = _Waits(until=loop.time())
                if self.watcher is not None:
                    self.watcher.began(task)
            return task

        loop.set_task_factory(factory)  # type: ignore[arg-type]

    def count(self) -> int:
        """Return how many handlers are running, not counting what they began beside themselves."""
        return sum(1 for task in self._tasks if _is_direct(task))

    def handlers(self) -> list[Handler]:
        """Return what runs and is to be waited for, without the task that asks.

        These are handlers, what discord.py itself does for them (deleting after a delay), and tasks of the app beside
        them as long as they are in a conversation.
        """
        here = asyncio.current_task()
        found = []
        for task, origin in self._tasks.items():
            direct = _is_direct(task)
            mine = self._waits.get(task, _NO_WAITS)
            beside = self._beside.get(origin, _NO_WAITS) if direct else _NO_WAITS
            conversing = mine.now > 0 or beside.now > 0
            waited_for = direct or conversing or (_is_library(task) and not _is_endless(task))
            if waited_for and task is not here:  # one that is done just now counts as ended a turn later
                since = max(mine.until, beside.until)
                own = conversing and not direct
                found.append(Handler(task=task, since=since, conversing=conversing, own=own))
        return found

    def beside(self) -> list[asyncio.Task[Any]]:
        """Return all unfinished tasks that may end by themselves, without the task that asks."""
        here = asyncio.current_task()
        return [task for task in self._tasks if task is not here and not task.done() and not _is_endless(task)]

    def of(self, origin: Origin) -> list[asyncio.Task[Any]]:
        """Return the unfinished tasks of one event that may end by themselves, without the task that asks."""
        return [task for task in self.beside() if self._tasks[task] is origin]

    def cut(self, task: asyncio.Task[Any]) -> str:
        """Cancel a task and forget it. Returns its name and its event's."""
        origin = self._forget(task)
        task.cancel()
        return f"{task.get_name()} ({origin.describe() if origin else 'unknown event'})"

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the running code as waiting for a person within this block."""
        end = self._begin_wait()
        try:
            yield
        finally:
            end()

    def note_wait(self, future: asyncio.Future[Any]) -> None:
        """Count the running code as waiting for a person until ``future`` is done."""
        end = self._begin_wait()
        future.add_done_callback(lambda _: end())

    def name(self, task: asyncio.Task[Any]) -> str | None:
        """Return what a handler is called in logs; None for a task that is none, or has ended."""
        origin, name = self._tasks.get(task), task.get_name()
        return f"{name} ({origin.describe()})" if origin is not None and name.startswith(_DIRECT) else None

    def _took_a_step(self, task: asyncio.Task[Any]) -> None:
        """Look after a task that has just begun. Most end at once: a callback would cost one more turn of the loop."""
        if task.done():
            self._end(task)
        else:
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[Any]) -> None:
        origin = self._forget(task)
        if self.on_change is not None:
            self.ended += origin is not None and _is_direct(task)
            self.on_change()

    def _forget(self, task: asyncio.Task[Any]) -> Origin | None:
        origin = self._tasks.pop(task, None)
        if origin is not None:
            if self._waits:
                self._waits.pop(task, None)
            if self.watcher is not None:
                self.watcher.ended(task)
        return origin

    def _begin_wait(self) -> Callable[[], None]:
        task = asyncio.current_task()
        origin = self._tasks.get(task) if task is not None else None
        if task is None or origin is None:
            return lambda: None
        waits = self._waits.setdefault(task, _Waits())
        counted = [waits] if _is_direct(task) else [waits, self._beside.setdefault(origin, _Waits())]
        for one in counted:
            one.now += 1

        def end() -> None:
            for one in counted:
                one.now -= 1
                one.until = asyncio.get_running_loop().time()
            if self.on_change is not None:
                self.on_change()

        return end


def _is_direct(task: asyncio.Task[Any]) -> bool:
    return task.get_name().startswith(_DIRECT)


def _is_library(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename.startswith(_LIBRARY)


def _is_endless(task: asyncio.Task[Any]) -> bool:
    return _is_library(task) and task.get_coro().__name__ in _ENDLESS  # type: ignore[union-attr]
