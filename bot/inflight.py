"""Handlers under way: which tasks an event began, and which of them wait for a person.

Knows asyncio tasks and the event that each descends from; knows nothing of roles, claims or time limits. A task factory
sees every task; one that is created while an event is being handled belongs to that event, until its done callback.

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
import msgspec

ANSWER = "answer for an expired control"
"""How the task is named that answers in place of the app."""
JOIN = "guild_join, which discord.py tells when it has the members"
"""How the task is named that lasts from a join until the app is told of it."""

_DIRECT = (
    ANSWER,
    JOIN,
    "discord.py: ",
    "CommandTree-invoker",
    "discord-ui-view-dispatch-",
    "discord-ui-modal-dispatch-",
    "discord-ui-dynamic-item-",
)
"""How the tasks are named that run an app's handlers, by discord.py, or answer for them."""

_LIBRARY = os.path.dirname(discord.__file__) + os.sep  # noqa: PTH120 - compared with code objects' file names
_ENDLESS = (
    *("__timeout_task_impl", "do_typing", "_loop", "_poll_voice_ws"),
    *("_chunk_and_dispatch", "chunk_guild"),
)
"""discord.py's own tasks that only end when something else does, or that something else stands for: view timeouts,
typing indicators, ext.tasks loops, voice connections; waiting for the members of a guild."""


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

    ``since`` is when it began or last stopped waiting for a person, in the loop's time.
    """

    task: asyncio.Task[Any]
    origin: Origin
    since: float
    conversing: bool
    own: bool
    """A task that the app began beside its handlers, and that waits for a person."""


class _Waits(msgspec.Struct, eq=False):
    """How often something waits for a person now, and since when it does not (the loop's time)."""

    until: float = 0.0
    now: int = 0


_NO_WAITS = _Waits()


class Begun(_Waits, eq=False, kw_only=True):
    """A task that an event began, and how it waits itself. A struct, for these are made without a frame of Python."""

    task: asyncio.Task[Any]
    origin: Origin
    over: Callable[[], object] | None = None
    """What is to be done when the task has ended, or is cut."""
    ended: bool = False
    """Whether that is the case."""


class InFlight:
    """All unfinished tasks that descend from events."""

    def __init__(self) -> None:
        self.on_change: Callable[[], None] | None = None
        """Called, once somebody cares, when a task ends and when a wait does."""
        self.ended = 0
        """Handlers that came to their own end since somebody cares."""
        self.watcher: Callable[[Begun], object] | None = None
        """Told of each task as it begins; it has no name yet."""
        self._tasks: dict[asyncio.Task[Any], Begun] = {}
        self._beside: WeakKeyDictionary[Origin, _Waits] = WeakKeyDictionary()
        """By event, the waits of its tasks that are no handlers themselves: all its handlers wait with them."""

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
                begun = self._tasks[task] = Begun(task=task, origin=origin, until=loop.time())
                task.add_done_callback(self._end)
                if self.watcher is not None:
                    self.watcher(begun)
            return task

        loop.set_task_factory(factory)  # type: ignore[arg-type]

    def count(self) -> int:
        """Return how many handlers are running, not counting what they began beside themselves."""
        return sum(1 for task in self._tasks if _is_direct(task) and not task.done())

    def handlers(self) -> list[Handler]:
        """Return what runs and is to be waited for, without the task that asks.

        These are handlers, what discord.py itself does for them (deleting after a delay), and tasks of the app beside
        them as long as they are in a conversation.
        """
        here = asyncio.current_task()
        found = []
        for task, begun in self._tasks.items():
            direct = _is_direct(task)
            beside = self._beside.get(begun.origin, _NO_WAITS) if direct else _NO_WAITS
            conversing = begun.now > 0 or beside.now > 0
            waited_for = direct or conversing or (_is_library(task) and not _is_endless(task))
            if waited_for and task is not here:  # one that is done just now counts as ended a turn later
                since = max(begun.until, beside.until)
                own = conversing and not direct
                found.append(Handler(task=task, origin=begun.origin, since=since, conversing=conversing, own=own))
        return found

    def beside(self) -> list[asyncio.Task[Any]]:
        """Return all unfinished tasks that may end by themselves, without the task that asks."""
        here = asyncio.current_task()
        return [task for task in self._tasks if task is not here and not task.done() and not _is_endless(task)]

    def of(self, origin: Origin) -> list[asyncio.Task[Any]]:
        """Return the unfinished tasks of one event that may end by themselves, without the task that asks."""
        return [task for task in self.beside() if self._tasks[task].origin is origin]

    def cut(self, handler: Handler) -> str:
        """Cancel a handler and forget it. Returns its name and its event's."""
        self._forget(handler.task)
        handler.task.cancel()
        return f"{handler.task.get_name()} ({handler.origin.describe()})"

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

    def _end(self, task: asyncio.Task[Any]) -> None:
        known = self._forget(task)
        if self.on_change is not None:
            self.ended += known and _is_direct(task)
            self.on_change()

    def _forget(self, task: asyncio.Task[Any]) -> bool:
        begun = self._tasks.pop(task, None)
        if begun is None:
            return False
        begun.ended = True
        if begun.over is not None:
            begun.over()
        return True

    def _begin_wait(self) -> Callable[[], None]:
        task = asyncio.current_task()
        begun = None if task is None else self._tasks.get(task)
        if task is None or begun is None:
            return lambda: None
        counted = [begun] if _is_direct(task) else [begun, self._beside.setdefault(begun.origin, _Waits())]
        for one in counted:
            one.now += 1

        def end() -> None:
            for one in counted:
                one.now -= 1
                one.until = asyncio.get_running_loop().time()
            if self.on_change is not None:
                self.on_change()

        return end


def is_handler(name: str) -> bool:
    """Whether a task of this name runs a handler of the app."""
    return name.startswith(_DIRECT)


def _is_direct(task: asyncio.Task[Any]) -> bool:
    return is_handler(task.get_name())


def _is_library(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename.startswith(_LIBRARY)


def _is_endless(task: asyncio.Task[Any]) -> bool:
    return _is_library(task) and task.get_coro().__name__ in _ENDLESS  # type: ignore[union-attr]
