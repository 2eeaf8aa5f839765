"""A drain with a linger: what people are in the middle of may go on, handlers have their own limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import discord
import pytest

from bastion.bot import internals
from bastion.bot.controls import Controls
from bastion.bot.drain import Drain, DrainResult, Order
from bastion.bot.inflight import Handler, InFlight, current

pytestmark = pytest.mark.anyio

LONG = 600.0


@dataclass(frozen=True)
class Event:
    """What a handler descends from."""

    name: str = "MESSAGE_CREATE 1"
    decision: bool | None = True

    def describe(self) -> str:
        return self.name


class PagerView(discord.ui.View):
    """A timed view."""

    @discord.ui.button(label="next")
    async def press(self, interaction: discord.Interaction[Any], button: discord.ui.Button[Any]) -> None: ...


@dataclass
class Child:
    """A client whose drain is watched."""

    client: discord.Client
    inflight: InFlight
    controls: Controls
    told: list[tuple[int, int]] = field(default_factory=list)
    over: list[bool] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    drain: Drain | None = None

    def begin(self, work: Callable[[], Awaitable[Any]], name: str = "discord.py: on_message") -> asyncio.Task[Any]:
        token = current.set(Event())
        try:
            return asyncio.create_task(work(), name=name)  # type: ignore[arg-type]
        finally:
            current.reset(token)

    def sends(self, view: Any, message: int | None = None) -> Any:
        self.client._connection.store_view(view, message)
        return view

    def drained(self, limit: float, linger: float) -> asyncio.Task[DrainResult]:
        self.drain = Drain(
            self.inflight,
            self.controls,
            on_lingering=lambda *counts: self.told.append(counts),
            on_over=lambda: self.over.append(True),
            on_cut=self.cut.extend,
        )
        self.drain.order(limit, linger)
        return asyncio.create_task(self.drain.run())

    async def waits(self) -> None:
        await self.client.wait_for("message")

    def hears(self) -> None:
        internals.feed_waiters(self.client, "message", object())


@pytest.fixture
async def child(monkeypatch: pytest.MonkeyPatch) -> Child:
    owner = next(kind for kind in discord.ui.View.__mro__ if "wait" in vars(kind))
    monkeypatch.setattr(owner, "wait", vars(owner)["wait"])  # so that it is put back
    client = discord.Client(intents=discord.Intents.none())
    await client._async_setup_hook()
    inflight, controls = InFlight(), Controls(client)
    inflight.install(asyncio.get_running_loop())
    controls.install()
    internals.on_wait_for(client, inflight.note_wait)
    internals.around_view_waits(inflight.waiting)
    return Child(client, inflight, controls)


@pytest.fixture(autouse=True)
def quick_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bastion.bot.drain.GRACE", 0.01)


async def turns(count: int = 8) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_drain_waits_for_a_live_view_to_its_end_and_says_so_once(child: Child) -> None:
    view = child.sends(PagerView(timeout=LONG), 123)
    draining = child.drained(LONG, LONG)
    await turns()
    assert child.told == [(1, 0)]
    assert child.drain is not None
    assert child.drain.lingering == 1
    view.stop()
    assert await draining == DrainResult(finished=0, cut=[])
    assert child.told == [(1, 0)]


async def test_nothing_new_may_begin_while_tasks_of_the_app_have_their_grace(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bastion.bot.drain.GRACE", LONG)
    view = child.sends(PagerView(timeout=LONG), 123)
    saving = asyncio.Event()
    child.begin(saving.wait, "worker of the app")
    draining = child.drained(LONG, LONG)
    await turns()
    assert child.over == []
    view.stop()
    await turns()
    assert child.over == [True]
    assert not draining.done()
    saving.set()
    assert await draining == DrainResult(finished=0, cut=[])


async def test_a_view_that_times_out_ends_the_linger(child: Child) -> None:
    child.sends(PagerView(timeout=0.05), 123)
    assert await asyncio.wait_for(child.drained(LONG, LONG), 10) == DrainResult(finished=0, cut=[])


async def test_without_a_linger_views_are_not_waited_for_and_a_conversation_has_the_limit(child: Child) -> None:
    view = child.sends(PagerView(timeout=LONG), 123)
    child.begin(child.waits)
    await turns()
    result = await child.drained(0.05, 0.0)
    assert result == DrainResult(finished=0, cut=["discord.py: on_message (MESSAGE_CREATE 1)"])
    assert child.told == []
    assert not view.is_finished()
    view.stop()


async def test_at_the_end_of_the_linger_views_modals_and_conversations_are_cut_and_named(child: Child) -> None:
    view = child.sends(PagerView(timeout=LONG), 123)
    child.begin(child.waits)
    await turns()
    draining = child.drained(0.01, 0.2)
    await asyncio.sleep(0.05)
    child.sends(discord.ui.Modal(title="Feedback"))
    result = await draining
    assert child.told == [(1, 1)]
    assert sorted(result.cut) == [
        "discord.py: on_message (MESSAGE_CREATE 1)",
        "modal Feedback",
        "view PagerView of message 123",
    ]
    view.stop()


async def test_a_handler_over_its_limit_is_cut_while_others_linger(child: Child) -> None:
    view = child.sends(PagerView(timeout=LONG), 123)
    stuck = child.begin(asyncio.Event().wait)
    draining = child.drained(0.05, LONG)
    await asyncio.wait({stuck})
    assert stuck.cancelled()
    await turns()
    assert not draining.done()
    assert child.told == [(1, 0)], "told when nothing else ran any more"
    named = ["discord.py: on_message (MESSAGE_CREATE 1)"]
    assert child.cut == named, "told at once: the linger may be taken back, or the process be killed"
    view.stop()
    assert (await draining).cut == child.cut == named


async def test_a_conversation_outlives_the_limit_and_then_has_it_anew(child: Child) -> None:
    async def ask() -> None:
        await child.waits()
        await asyncio.sleep(0.05)

    task = child.begin(ask)
    await turns()
    draining = child.drained(0.2, LONG)
    await asyncio.sleep(0.3)
    assert not task.done()
    child.hears()
    assert await draining == DrainResult(finished=1, cut=[])


async def test_a_conversation_over_a_view_outlives_the_limit(child: Child) -> None:
    view = child.sends(PagerView(timeout=LONG), 123)
    task = child.begin(view.wait)
    await turns()
    draining = child.drained(0.02, LONG)
    await asyncio.sleep(0.1)
    assert not task.done()
    assert child.told == [(1, 1)]
    view.stop()
    assert await draining == DrainResult(finished=1, cut=[])


async def test_a_press_during_the_linger_begins_a_handler_with_a_limit_of_its_own(child: Child) -> None:
    view = child.sends(PagerView(timeout=LONG), 123)
    draining = child.drained(0.2, LONG)
    await asyncio.sleep(0.3)
    pressed = child.begin(lambda: asyncio.sleep(0.05), "discord-ui-view-dispatch-1")
    await pressed
    assert not draining.done()
    view.stop()
    assert await draining == DrainResult(finished=1, cut=[])


async def test_a_view_that_a_press_sends_is_waited_for_too(child: Child) -> None:
    first = child.sends(PagerView(timeout=LONG), 123)
    draining = child.drained(LONG, LONG)
    await turns()
    second = child.sends(PagerView(timeout=LONG), 124)
    first.stop()
    await turns()
    assert not draining.done()
    second.stop()
    assert await draining == DrainResult(finished=0, cut=[])


async def test_a_modal_is_waited_for_until_it_is_submitted(child: Child) -> None:
    modal = child.sends(discord.ui.Modal(title="Feedback"))
    draining = child.drained(LONG, LONG)
    await turns()
    assert child.told == [(1, 0)]
    modal.stop()
    assert await draining == DrainResult(finished=0, cut=[])


async def test_a_dismissed_modal_counts_no_longer_than_the_linger_since_it_was_opened(child: Child) -> None:
    child.sends(discord.ui.Modal(title="Feedback"))
    await asyncio.sleep(0.4)
    loop = asyncio.get_running_loop()
    before = loop.time()
    assert await child.drained(LONG, 0.8) == DrainResult(finished=0, cut=[])
    assert loop.time() - before < 0.75


@pytest.mark.parametrize("hurry", [(0.0, 0.0), (LONG, 0.0), (0.0, 0.02)])
async def test_a_second_order_cuts_a_linger_short(child: Child, hurry: tuple[float, float]) -> None:
    view = child.sends(PagerView(timeout=LONG), 123)
    draining = child.drained(LONG, LONG)
    await turns()
    assert child.drain is not None
    child.drain.order(*hurry)
    assert (await asyncio.wait_for(draining, 10)).cut == ["view PagerView of message 123"]
    view.stop()


async def test_a_second_order_cannot_put_off_the_end_of_a_linger(child: Child) -> None:
    view = child.sends(PagerView(timeout=LONG), 123)
    draining = child.drained(LONG, 0.1)
    assert child.drain is not None
    child.drain.order(LONG, LONG)
    assert (await asyncio.wait_for(draining, 10)).cut == ["view PagerView of message 123"]
    view.stop()


async def test_a_drain_that_is_taken_back_leaves_views_and_conversations_alive(child: Child) -> None:
    view = child.sends(PagerView(timeout=LONG), 123)
    task = child.begin(child.waits)
    await turns()
    draining = child.drained(LONG, LONG)
    await turns()
    draining.cancel()
    await asyncio.wait({draining})
    assert not view.is_finished()
    assert not task.done()
    again = child.drained(LONG, LONG)
    await turns()
    assert child.told == [(1, 1)] * 2
    child.hears()
    view.stop()
    assert await again == DrainResult(finished=1, cut=[])


async def test_views_that_others_answer_as_well_or_that_nobody_sees_are_not_waited_for(child: Child) -> None:
    lasting = discord.ui.View(timeout=None).add_item(discord.ui.Button(custom_id="role"))
    child.client.add_view(lasting)
    child.client.add_view(discord.ui.View(timeout=None).add_item(discord.ui.Button(custom_id="poll")), message_id=120)
    child.sends(discord.ui.View(timeout=LONG).add_item(discord.ui.Button(custom_id="role")), 121)
    edited_away = child.sends(PagerView(timeout=LONG), 122)
    child.client._connection.prevent_view_updates_for(122)  # what discord.py does when it edits a message's view
    assert child.controls.live(modal_life=LONG) == []
    assert await child.drained(LONG, LONG) == DrainResult(finished=0, cut=[])
    edited_away.stop()


async def test_a_view_of_a_class_that_is_not_hashable_is_sent_and_waited_for_as_any(child: Child) -> None:
    class Equal(PagerView):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Equal)

        __hash__ = None  # type: ignore[assignment]

    views = [child.sends(Equal(timeout=LONG), number) for number in (1, 2)]
    draining = child.drained(LONG, LONG)
    await turns()
    assert child.told == [(2, 0)]
    for view in views:
        view.stop()
    assert await draining == DrainResult(finished=0, cut=[])


async def test_five_hundred_views_are_waited_for_at_once(child: Child) -> None:
    views = [child.sends(PagerView(timeout=LONG), number) for number in range(1, 501)]
    draining = child.drained(LONG, LONG)
    await turns()
    assert child.told == [(500, 0)]
    for view in views:
        view.stop()
        await asyncio.sleep(0)
    assert await draining == DrainResult(finished=0, cut=[])


@pytest.mark.parametrize(
    ("since", "conversing", "linger", "end"),
    [
        (90.0, False, 60.0, 130.0),
        (120.0, False, 60.0, 150.0),
        (90.0, True, 60.0, 160.0),
        (150.0, True, 60.0, 180.0),
        (90.0, True, 10.0, 130.0),
        (90.0, False, 0.0, 130.0),
        (120.0, True, 0.0, 130.0),
    ],
)
async def test_when_an_order_given_at_100_with_a_limit_of_30_ends_a_handler(
    since: float, conversing: bool, linger: float, end: float
) -> None:
    task = asyncio.current_task()
    assert task is not None
    handler = Handler(task=task, origin=Event(), since=since, conversing=conversing, own=False)
    assert Order(at=100.0, limit=30.0, linger=linger).end_of(handler) == end
