"""Handlers under way: which tasks an event began, and which of them wait for a person.

Knows asyncio tasks and the event that each descends from; knows nothing of roles, claims or time limits. A task factory
sees every task; one that is created while an event is being handled belongs to that event. Handlers of a kind that is
known, which nearly every event begins, come a shorter way: they are noted in `sessions`' briefs, say themselves which
event theirs is, and are looked for among the loop's tasks when somebody asks.

A handler that waits for something a person may do (`Client.wait_for`, the `wait` of a view or a modal) is in a
*conversation*. It may wait in a task of its own making, as for `asyncio.gather`: then all handlers of its event are.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakKeyDictionary, ref

import discord

from bastion.bot import internals
from bastion.bot.sessions import Briefs

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

    name: str
    data: Any
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


class Begun(ref["asyncio.Task[Any]"]):
    """A task that an event began, and what is to be done when it ends.

    It holds the task's coroutine, for that keeps the task alive as long as it is suspended (what it waits for holds the
    task), and not when it has ended.
    """

    __slots__ = ("coroutine", "origin", "over")
    coroutine: object
    origin: Origin
    over: Callable[[], object] | None
    """Called once, when the task has ended."""

    def end(self) -> None:
        """Do what is to be done at the end."""
        if self.over is not None:
            self.over()
            self.over = None


@dataclass(slots=True, eq=False)
class Kinds:
    """How the handlers of one method are noted: the name of their tasks, and by event the number of their kind."""

    task: str
    of: dict[str, int] = field(default_factory=dict)
    """What their briefs say."""


def _the_long_way(origin: Origin, coro: object, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return False


class InFlight:
    """All unfinished tasks that descend from events.

    Every event pays for this, so a new task is only referred to weakly. Nearly all end with their first step and are
    freed by that, which tells that they have ended: a callback of the loop's would cost more than all the rest. What is
    there when somebody asks, or a second later, has its callback.
    """

    def __init__(self) -> None:
        self.on_change: Callable[[], None] | None = None
        """Called, once somebody cares, when a task ends and when a wait does."""
        self.ended = 0
        """Handlers that came to their own end since somebody cares."""
        self._new: dict[Begun, None] = {}
        self._tasks: dict[asyncio.Task[Any], Begun] = {}
        """Those that have outlasted a look."""
        self._waits: dict[asyncio.Task[Any], _Waits] = {}
        self._beside: WeakKeyDictionary[Origin, _Waits] = WeakKeyDictionary()
        """By event, the waits of its tasks that are no handlers themselves: all its handlers wait with them."""
        self.watcher: Callable[[Begun], object] | None = None
        """Told of each task as it begins; it has no name yet. It may set what is to be done at the end."""
        self.kinds: Mapping[str, Kinds] = {}
        """By method, how its handlers are noted; those of others are told to the watcher."""
        self.begin: Callable[[Origin, Any, str, tuple[Any, ...], dict[str, Any]], bool] = _the_long_way
        """Begin a handler the short way, of an event that was let through. False: it has to go the long way.

        It takes the event, the handler, its method's name, and what the handler is called with."""
        self._briefs: Briefs | None = None
        self._run: Callable[..., Any] | None = None
        """What runs in the tasks that came the short way."""
        self._all_found = False
        """Whether none of these can be new."""
        self._factory: Callable[..., Any] | None = None
        self._theirs = False
        """Whether the loop makes tasks in a way of the app's own."""

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch the creation of tasks, keeping any task factory that is there already."""
        inner: Callable[..., Any] | None = loop.get_task_factory()
        new = self._new

        def freed(begun: Begun) -> None:
            new.pop(begun, None)
            if begun.over is not None:
                begun.over()

        def factory(
            loop: asyncio.AbstractEventLoop, coro: Generator[Any, None, Any], **options: Any
        ) -> asyncio.Task[Any]:
            task: asyncio.Task[Any] = (
                inner(loop, coro, **options) if inner else asyncio.Task(coro, loop=loop, **options)
            )
            context = options.get("context")
            origin = current.get() if context is None else context.get(current)
            if origin is not None and origin.decision:
                begun = Begun(task, freed)
                begun.coroutine, begun.origin, begun.over = coro, origin, None
                if self.on_change is None:
                    new[begun] = None
                else:
                    self._keep(task, begun)
                    self._waits[task] = _Waits(until=loop.time())
                if self.watcher is not None:
                    self.watcher(begun)
            return task

        loop.set_task_factory(factory)  # type: ignore[arg-type]
        self._factory = None if inner else factory
        self._watch_factory(loop)

    def _watch_factory(self, loop: asyncio.AbstractEventLoop) -> None:
        """Notice at once when the app puts in a task factory; on a loop that takes no attributes, at the next look.

        To ask for it before each handler would be one more frame of Python.
        """

        def set_task_factory(factory: Any) -> None:
            type(loop).set_task_factory(loop, factory)
            self._theirs = factory is not self._factory

        self._theirs = loop.get_task_factory() is not self._factory
        with suppress(AttributeError):
            loop.set_task_factory = set_task_factory  # type: ignore[method-assign]

    def begin_handlers(self, client: discord.Client, briefs: Briefs) -> None:
        """Have `begin` begin handlers of this client whose kind is known. They are noted in ``briefs``.

        Such a one tells its own end, so it needs neither a weak reference nor to be asked for its name. As soon as
        somebody cares when tasks end, and where the app has a task factory or runs its handlers in another way than
        discord.py does, all go the long way.
        """
        if internals.runs_its_own_way(client):
            return
        words, free, loop = briefs.words, briefs.free, asyncio.get_running_loop()
        run = self._run = internals.handler_run(client, words, free, current.set)
        self._briefs = briefs

        def begin(origin: Origin, coro: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
            kinds = self.kinds.get(method)
            if kinds is None or self.on_change is not None:
                return False
            kind, data = kinds.of.get(origin.name), origin.data
            if kind is None or self._theirs or not (free or briefs.look()):
                return False
            brief = free.pop()
            try:
                words[brief - 1] = int(data["id"]) if "id" in data else 0
            except (TypeError, ValueError):  # it has no data, or its id is no number, or one of more than 64 bits
                return False
            words[brief] = kind
            asyncio.Task(run(brief, origin, coro, method, *args, **kwargs), loop=loop, name=kinds.task)
            return True

        self.begin = begin

    def count(self) -> int:
        """Return how many handlers are running, not counting what they began beside themselves."""
        self.look()
        return sum(1 for task in self._tasks if _is_direct(task))

    def handlers(self) -> list[Handler]:
        """Return what runs and is to be waited for, without the task that asks.

        These are handlers, what discord.py itself does for them (deleting after a delay), and tasks of the app beside
        them as long as they are in a conversation.
        """
        self.look()
        here = asyncio.current_task()
        found = []
        for task, begun in self._tasks.items():
            direct = _is_direct(task)
            mine = self._waits.get(task, _NO_WAITS)
            beside = self._beside.get(begun.origin, _NO_WAITS) if direct else _NO_WAITS
            conversing = mine.now > 0 or beside.now > 0
            waited_for = direct or conversing or (_is_library(task) and not _is_endless(task))
            if waited_for and task is not here:  # one that is done just now counts as ended a turn later
                since = max(mine.until, beside.until)
                own = conversing and not direct
                found.append(Handler(task=task, since=since, conversing=conversing, own=own))
        return found

    def beside(self) -> list[asyncio.Task[Any]]:
        """Return all unfinished tasks that may end by themselves, without the task that asks."""
        self.look()
        here = asyncio.current_task()
        return [task for task in self._tasks if task is not here and not task.done() and not _is_endless(task)]

    def of(self, origin: Origin) -> list[asyncio.Task[Any]]:
        """Return the unfinished tasks of one event that may end by themselves, without the task that asks."""
        return [task for task in self.beside() if self._tasks[task].origin is origin]

    def cut(self, task: asyncio.Task[Any]) -> str:
        """Cancel a task and forget it. Returns its name and its event's."""
        name = self.name(task)
        self._forget(task)
        task.cancel()
        return name

    def name(self, task: asyncio.Task[Any]) -> str:
        """Return the name of a task under way, and of its event."""
        begun = self._tasks.get(task)
        return f"{task.get_name()} ({begun.origin.describe() if begun else 'unknown event'})"

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

    def look(self) -> None:
        """Give their callback to the new tasks that have not ended. Call it about once a second, within the loop."""
        self._look_at_new()
        if self._run is None or self._briefs is None or self._all_found:
            return
        self._theirs = asyncio.get_running_loop().get_task_factory() is not self._factory
        living = set()
        for task in asyncio.all_tasks():
            if (found := internals.run_by(self._run, task)) is not None:
                brief, origin = found
                living.add(brief)
                self._adopt(task, origin)
        self._briefs.reclaim(living)
        self._all_found = self.on_change is not None  # from then on nothing comes the short way

    def _look_at_new(self) -> None:
        for begun in list(self._new):
            del self._new[begun]
            task = begun()
            if task is None or task.done():
                begun.end()
            else:
                self._keep(task, begun)

    def _adopt(self, task: asyncio.Task[Any], origin: Origin) -> None:
        """Keep a task that came the short way. It gives its brief back itself."""
        if task not in self._tasks:
            begun = Begun(task)
            begun.coroutine, begun.origin, begun.over = task.get_coro(), origin, None
            self._keep(task, begun)

    def _keep(self, task: asyncio.Task[Any], begun: Begun) -> None:
        self._tasks[task] = begun
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[Any]) -> None:
        begun = self._forget(task)
        if self.on_change is not None:
            self.ended += begun is not None and _is_direct(task)
            self.on_change()

    def _forget(self, task: asyncio.Task[Any]) -> Begun | None:
        begun = self._tasks.pop(task, None)
        if begun is not None:
            self._waits.pop(task, None)
            begun.end()
        return begun

    def _begin_wait(self) -> Callable[[], None]:
        self._look_at_new()
        task = asyncio.current_task()
        if task is None:
            return lambda: None
        if self._run is not None and (found := internals.run_by(self._run, task)) is not None:
            self._adopt(task, found[1])
        begun = self._tasks.get(task)
        if begun is None:
            return lambda: None
        waits = self._waits.setdefault(task, _Waits())
        counted = [waits] if _is_direct(task) else [waits, self._beside.setdefault(begun.origin, _Waits())]
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
