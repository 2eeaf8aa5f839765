"""Handlers under way: which tasks belong to an event, and what a drain waits for."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

import discord
import pytest
from discord.ext import tasks

from bastion.bot import drain, internals
from bastion.bot.controls import Controls
from bastion.bot.drain import GRACE, Drain, DrainResult
from bastion.bot.inflight import Begun, InFlight, current

pytestmark = pytest.mark.anyio

LONG = 600.0
"""Longer than a test may take: what waits for it never comes back."""


@dataclass(frozen=True, eq=False)
class Event:
    """What a task descends from, as the gate's events are."""

    name: str = "MESSAGE_CREATE 1"
    decision: bool | None = True

    def describe(self) -> str:
        return self.name


@contextmanager
def handling(event: Event | None) -> Iterator[None]:
    token = current.set(event)
    try:
        yield
    finally:
        current.reset(token)


@asynccontextmanager
async def cleared(*begun: asyncio.Task[Any]) -> AsyncIterator[None]:
    """Leave none of these tasks behind."""
    try:
        yield
    finally:
        for task in begun:
            task.cancel()
        await asyncio.wait(begun)


@pytest.fixture
async def watch() -> InFlight:
    watch = InFlight()
    watch.install(asyncio.get_running_loop())
    return watch


async def forever() -> None:
    await asyncio.Event().wait()


def drained(watch: InFlight, limit: float) -> Coroutine[Any, Any, DrainResult]:
    """Drain what a client without any view has under way."""
    draining = Drain(watch, Controls(discord.Client(intents=discord.Intents.none())))
    draining.order(limit)
    return draining.run()


async def nothing() -> None:
    pass


def begin(name: str, work: Callable[[], Awaitable[Any]] = forever, event: Event | None = None) -> asyncio.Task[Any]:
    with handling(event or Event()):
        return asyncio.create_task(work(), name=name)  # type: ignore[arg-type]


def of_the_library(work: Callable[..., Any], *, name: str | None = None) -> Callable[..., Any]:
    """Let a coroutine function pass for one of discord.py's own: it is told by where its code lies."""
    code: CodeType = work.__code__
    moved = code.replace(co_filename=discord.message.__file__, co_name=name or code.co_name)
    return FunctionType(moved, work.__globals__, name or code.co_name, None, work.__closure__)


async def test_a_task_factory_that_was_there_before_goes_on_making_the_tasks() -> None:
    loop = asyncio.get_running_loop()
    made: list[str | None] = []

    def app_factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=loop, **options)
        made.append(task.get_name())
        return task

    loop.set_task_factory(app_factory)
    watch = InFlight()
    watch.install(loop)
    task = begin("discord.py: on_message")
    async with cleared(task):
        assert len(made) == 1
        assert watch.count() == 1


@pytest.mark.parametrize(
    "name",
    [
        "discord.py: on_message",
        "CommandTree-invoker",
        "discord-ui-view-dispatch-1",
        "discord-ui-modal-dispatch-1",
        "discord-ui-dynamic-item-Button-x",
    ],
)
async def test_a_task_that_runs_a_handler_counts_until_it_ends(watch: InFlight, name: str) -> None:
    done = asyncio.Event()
    task = begin(name, done.wait)
    assert watch.count() == 1
    done.set()
    await task
    await asyncio.sleep(0)
    assert watch.count() == 0


async def test_a_handler_whose_wait_nobody_else_knows_of_is_no_garbage(watch: InFlight) -> None:
    begin("discord.py: on_message")
    await asyncio.sleep(0)
    gc.collect()
    assert watch.count() == 1
    assert (await drained(watch, 0.0)).cut == ["discord.py: on_message (MESSAGE_CREATE 1)"]


async def test_what_is_to_be_done_at_a_tasks_end_is_done_once_however_it_ends(watch: InFlight) -> None:
    over: list[str] = []

    def watcher(begun: Begun) -> None:
        begun.over = lambda: over.append(begun.origin.describe())

    watch.watcher = watcher
    begin("discord.py: on_a", nothing, Event("at once"))
    kept = begin("discord.py: on_b", nothing, Event("at once, and kept by somebody"))
    later = begin("discord.py: on_c", forever, Event("later"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert over == ["at once", "at once, and kept by somebody"]
    assert watch.count() == 1
    later.cancel()
    await asyncio.wait([kept, later])
    await asyncio.sleep(0)
    assert over == ["at once", "at once, and kept by somebody", "later"]
    del kept, later
    assert len(over) == 3


async def test_discord_py_names_the_tasks_of_handlers_as_the_count_expects(watch: InFlight) -> None:
    began = asyncio.Event()

    class App(discord.Client):
        async def on_message(self, message: object) -> None:
            began.set()
            await forever()

    client = App(intents=discord.Intents.none())
    await client._async_setup_hook()
    with handling(Event()):
        client.dispatch("message", object())
    await began.wait()
    assert watch.count() == 1
    result = await drained(watch, 0.0)
    assert result.cut == ["discord.py: on_message (MESSAGE_CREATE 1)"]


async def test_what_a_handler_begins_beside_itself_is_not_counted_as_a_handler(watch: InFlight) -> None:
    task = begin("Task-of-the-app")
    async with cleared(task):
        assert watch.count() == 0


@pytest.mark.parametrize("event", [None, Event(decision=False)])
async def test_a_task_without_an_event_or_with_one_that_did_not_pass_is_no_part_of_a_drain(
    watch: InFlight, event: Event | None
) -> None:
    with handling(event):
        task = asyncio.create_task(forever(), name="discord.py: on_message")
    async with cleared(task):
        assert watch.count() == 0
        assert await drained(watch, LONG) == DrainResult(finished=0, cut=[])
        assert not task.done()


async def test_an_explicit_context_says_which_event_a_task_descends_from(watch: InFlight) -> None:
    without = copy_context()
    with handling(Event("one")):
        within = copy_context()
        outside = asyncio.create_task(forever(), name="discord.py: on_a", context=without)
    inside = asyncio.create_task(forever(), name="discord.py: on_b", context=within)
    async with cleared(outside, inside):
        assert watch.count() == 1
        assert (await drained(watch, 0.0)).cut == ["discord.py: on_b (one)"]
        assert not outside.done()


async def test_a_task_inherits_the_event_of_the_task_that_began_it(watch: InFlight) -> None:
    async def handler() -> None:
        asyncio.create_task(forever(), name="discord.py: on_noticed")  # noqa: RUF006 - the drain ends it

    await begin("discord.py: on_message", handler)
    assert (await drained(watch, 0.0)).cut == ["discord.py: on_noticed (MESSAGE_CREATE 1)"]


async def test_a_drain_with_nothing_under_way_returns_without_a_turn_of_the_loop(watch: InFlight) -> None:
    draining = drained(watch, LONG)
    with pytest.raises(StopIteration) as returned:
        draining.send(None)
    assert returned.value.value == DrainResult(finished=0, cut=[])


async def test_a_drain_ends_as_soon_as_the_last_handler_does_and_counts_them(watch: InFlight) -> None:
    go = asyncio.Event()
    for number in range(3):
        begin(f"discord.py: on_{number}", go.wait)
    draining = asyncio.ensure_future(drained(watch, LONG))
    await asyncio.sleep(0)
    assert not draining.done()
    go.set()
    assert await draining == DrainResult(finished=3, cut=[])


async def test_a_drain_also_waits_for_handlers_that_begin_while_it_waits(watch: InFlight) -> None:
    first, second = asyncio.Event(), asyncio.Event()

    async def command() -> None:
        await first.wait()
        asyncio.create_task(second.wait(), name="discord.py: on_command_completion")  # noqa: RUF006

    task = begin("discord.py: on_message", command)
    draining = asyncio.ensure_future(drained(watch, LONG))
    await asyncio.sleep(0)
    first.set()
    await task
    for _ in range(3):
        await asyncio.sleep(0)
    assert not draining.done()
    second.set()
    assert (await draining).finished == 2


async def test_the_handler_that_asks_for_the_drain_is_not_waited_for(watch: InFlight) -> None:
    result = await begin("discord.py: on_message", lambda: drained(watch, LONG))
    assert result == DrainResult(finished=0, cut=[])


async def test_the_limit_cuts_what_still_runs_and_names_it_with_its_event(watch: InFlight) -> None:
    stuck = begin("discord.py: on_message", event=Event("MESSAGE_CREATE 77"))
    finishing = begin("CommandTree-invoker", nothing)
    result = await drained(watch, 0.05)
    assert result == DrainResult(finished=1, cut=["discord.py: on_message (MESSAGE_CREATE 77)"])
    assert stuck.cancelled()
    assert finishing.done()


async def test_a_handler_that_is_cut_may_still_clean_up(watch: InFlight) -> None:
    cleaned: list[bool] = []
    began = asyncio.Event()

    async def handler() -> None:
        try:
            began.set()
            await forever()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    begin("discord.py: on_message", handler)
    await began.wait()
    await drained(watch, 0.0)
    assert cleaned == [True]


async def test_a_nested_task_of_discord_py_is_waited_for_to_its_end(
    watch: InFlight, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `delete_after` makes one: the message would stay otherwise."""
    monkeypatch.setattr(drain, "GRACE", 0.0)
    go = asyncio.Event()

    async def delete() -> None:
        await go.wait()

    nested = begin("Task-1", of_the_library(delete))
    draining = asyncio.ensure_future(drained(watch, LONG))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not draining.done()
    go.set()
    result = await draining
    assert nested.done()
    assert result == DrainResult(finished=0, cut=[])


async def test_the_timeout_of_a_view_is_not_waited_for(watch: InFlight) -> None:
    client = discord.Client(intents=discord.Intents.none())
    view = discord.ui.View(timeout=LONG)
    view.add_item(discord.ui.Button(custom_id="x"))
    with handling(Event()):
        client._connection.store_view(view, 5)
    assert await asyncio.wait_for(drained(watch, LONG), GRACE / 2) == DrainResult(finished=0, cut=[])
    assert not view.is_finished()
    view.stop()


async def test_a_typing_indicator_is_not_waited_for(watch: InFlight) -> None:
    class Channel(discord.abc.Messageable):
        _state: Any

        async def _get_channel(self) -> Any:
            await forever()

    channel = Channel()
    channel._state = type("State", (), {"loop": asyncio.get_running_loop()})()
    typing = discord.context_managers.Typing(channel)
    task = begin("typing", typing.do_typing)
    async with cleared(task):
        assert await asyncio.wait_for(drained(watch, LONG), GRACE / 2) == DrainResult(finished=0, cut=[])


async def test_a_loop_of_ext_tasks_is_not_waited_for(watch: InFlight) -> None:
    @tasks.loop(seconds=LONG)
    async def every_now_and_then() -> None: ...

    with handling(Event()):
        task = every_now_and_then.start()
    async with cleared(task):
        assert await asyncio.wait_for(drained(watch, LONG), GRACE / 2) == DrainResult(finished=0, cut=[])
        assert not task.done()


async def test_a_voice_connection_that_a_handler_opened_is_not_waited_for(watch: InFlight) -> None:
    assert hasattr(discord.voice_state.VoiceConnectionState, "_poll_voice_ws")

    async def poll() -> None:
        await asyncio.Event().wait()

    task = begin("Voice websocket poller", of_the_library(poll, name="_poll_voice_ws"))
    async with cleared(task):
        assert await asyncio.wait_for(drained(watch, LONG), GRACE / 2) == DrainResult(finished=0, cut=[])


async def test_a_task_of_the_app_gets_a_grace_and_then_is_left_alone(
    watch: InFlight, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "GRACE", 0.05)
    task = begin("worker of the app")
    async with cleared(task):
        assert await drained(watch, LONG) == DrainResult(finished=0, cut=[])
        assert not task.done()


@pytest.mark.parametrize("name", ["save", "save_loop"])
async def test_a_task_of_the_app_that_ends_within_the_grace_is_waited_for_whatever_its_name(
    watch: InFlight, name: str
) -> None:
    go = asyncio.Event()

    async def save() -> None:
        await go.wait()

    save.__name__ = name
    task = begin("worker of the app", save)
    draining = asyncio.ensure_future(drained(watch, LONG))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not draining.done()
    go.set()
    await draining
    assert task.done()


def conversing(watch: InFlight) -> list[str]:
    return [handler.task.get_name() for handler in watch.handlers() if handler.conversing]


@pytest.fixture
async def client(watch: InFlight) -> discord.Client:
    client = discord.Client(intents=discord.Intents.none())
    await client._async_setup_hook()
    internals.on_wait_for(client, watch.note_wait)
    return client


async def wakes(client: discord.Client) -> None:
    """Give the conversations what they wait for, and let them go on."""
    internals.feed_waiters(client, "message", object())
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_handler_is_in_a_conversation_as_long_as_it_waits(watch: InFlight, client: discord.Client) -> None:
    async def ask() -> None:
        await client.wait_for("message")
        await forever()

    task = begin("discord.py: on_message", ask)
    other = begin("discord.py: on_message", forever)
    async with cleared(task, other):
        await asyncio.sleep(0)
        assert [handler.conversing for handler in watch.handlers()] == [True, False]
        before = [handler.since for handler in watch.handlers()]
        await wakes(client)
        assert conversing(watch) == []
        after = [handler.since for handler in watch.handlers()]
        assert after[0] > before[0], "its time begins anew"
        assert after[1] == before[1], "another handler of the event has its own"


async def test_a_wait_that_times_out_is_over(watch: InFlight, client: discord.Client) -> None:
    over = asyncio.Event()

    async def ask() -> None:
        with suppress(TimeoutError):
            await client.wait_for("message", timeout=0.01)
        over.set()
        await forever()

    task = begin("discord.py: on_message", ask)
    async with cleared(task):
        await over.wait()
        assert conversing(watch) == []


async def test_a_handler_that_gathers_waits_is_in_a_conversation_until_the_last_one(
    watch: InFlight, client: discord.Client
) -> None:
    async def listen(content: str) -> None:
        await client.wait_for("message", check=lambda message: message == content)

    async def ask() -> None:
        await asyncio.gather(listen("one"), listen("two"))
        await forever()

    task = begin("discord.py: on_message", ask)
    async with cleared(task):
        for _ in range(3):
            await asyncio.sleep(0)
        for content in ("one", "two"):
            assert "discord.py: on_message" in conversing(watch)
            internals.feed_waiters(client, "message", content)
            for _ in range(5):
                await asyncio.sleep(0)
        assert conversing(watch) == []


async def test_a_wait_in_a_task_that_a_handler_left_behind_is_a_conversation_of_its_own(
    watch: InFlight, client: discord.Client
) -> None:
    left: list[asyncio.Task[Any]] = []

    async def wizard() -> None:
        await client.wait_for("message")

    async def ask() -> None:
        left.append(asyncio.create_task(wizard(), name="wizard"))

    await begin("discord.py: on_message", ask)
    await asyncio.sleep(0)
    assert conversing(watch) == ["wizard"]
    assert watch.handlers()[0].own
    await wakes(client)
    assert watch.handlers() == []


async def test_waiting_for_a_view_is_a_conversation_too(watch: InFlight, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = next(kind for kind in discord.ui.View.__mro__ if "wait" in vars(kind))
    monkeypatch.setattr(owner, "wait", vars(owner)["wait"])  # so that it is put back
    internals.around_view_waits(watch.waiting)
    view = discord.ui.View(timeout=None)
    task = begin("discord.py: on_message", view.wait)
    await asyncio.sleep(0)
    assert conversing(watch) == ["discord.py: on_message"]
    view.stop()
    await task
    await asyncio.sleep(0)
    assert watch.handlers() == []


async def test_what_waits_without_descending_from_an_event_is_nobodys_conversation(
    watch: InFlight, client: discord.Client
) -> None:
    task = asyncio.ensure_future(client.wait_for("message"))
    async with cleared(task):
        await asyncio.sleep(0)
        assert watch.handlers() == []


async def test_a_drain_that_is_itself_cancelled_leaves_its_handlers_running(watch: InFlight) -> None:
    task = begin("discord.py: on_message")
    draining = asyncio.ensure_future(drained(watch, LONG))
    await asyncio.sleep(0)
    draining.cancel()
    with suppress(asyncio.CancelledError):
        await draining
    async with cleared(task):
        assert watch.count() == 1
