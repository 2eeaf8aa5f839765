"""Handlers under way: which tasks an event began, and waiting for them to end.

Knows asyncio tasks and the event that each descends from; knows nothing of roles or claims. A task factory sees every
task; one that is created while an event is being handled belongs to that event.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import discord

GRACE = 2.0
"""Seconds that tasks which the app itself began inside a handler are waited for: some of them never end."""

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

    @property
    def passed(self) -> bool:
        """Whether the event was let through to handlers."""

    def describe(self) -> str:
        """Return a name for logs."""


current: ContextVar[Origin | None] = ContextVar("current", default=None)
"""The gateway event that the running code descends from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainResult:
    """How a drain ended: how many handlers finished, and the names of those that the limit cut."""

    finished: int
    cut: list[str]


class InFlight:
    """All unfinished tasks that descend from events."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], Origin] = {}

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
            if origin is not None and origin.passed:
                self._tasks[task] = origin
                task.add_done_callback(self._forget)
            return task

        loop.set_task_factory(factory)  # type: ignore[arg-type]

    def count(self) -> int:
        """Return how many handlers are running, not counting what they began beside themselves."""
        return sum(1 for task in self._tasks if _is_direct(task))

    async def drain(self, limit: float) -> DrainResult:
        """Wait until all handlers have ended, at most ``limit`` seconds; cancel and name what has not.

        Tasks that the app began inside handlers get `GRACE` seconds after the last handler and are then left alone.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + limit
        finished = 0
        while (waited := self._of(_is_waited_for)) and (left := end - loop.time()) > 0:
            done, _ = await asyncio.wait(waited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finished += sum(1 for task in done if _is_direct(task))
        cut = self._of(_is_waited_for)
        names = [self._describe(task) for task in cut]
        if not cut:
            await self._wait_for_own(min(GRACE, max(0.0, end - loop.time())))
        for task in cut:
            task.cancel()
        if cut:
            await asyncio.wait(cut, timeout=1.0)
        return DrainResult(finished=finished, cut=names)

    async def _wait_for_own(self, limit: float) -> None:
        own = self._of(lambda task: not _is_endless(task))
        if own and limit > 0:
            await asyncio.wait(own, timeout=limit)

    def _of(self, which: Callable[[asyncio.Task[Any]], bool]) -> list[asyncio.Task[Any]]:
        here = asyncio.current_task()
        return [task for task in self._tasks if task is not here and not task.done() and which(task)]

    def _describe(self, task: asyncio.Task[Any]) -> str:
        origin = self._tasks.get(task)
        return f"{task.get_name()} ({origin.describe() if origin else 'unknown event'})"

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)


def _is_direct(task: asyncio.Task[Any]) -> bool:
    return task.get_name().startswith(_DIRECT)


def _is_waited_for(task: asyncio.Task[Any]) -> bool:
    return _is_direct(task) or (_is_library(task) and not _is_endless(task))


def _is_library(task: asyncio.Task[Any]) -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and code.co_filename.startswith(_LIBRARY)


def _is_endless(task: asyncio.Task[Any]) -> bool:
    return _is_library(task) and task.get_coro().__name__ in _ENDLESS  # type: ignore[union-attr]
