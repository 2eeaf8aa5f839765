"""Loops of ext.tasks by role: held, paced, claimed, ended and begun again."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from discord.ext import tasks

from bastion.bot import loops
from bastion.bot.ledger import SQLiteLedger
from bastion.bot.lifecycle import Lifecycle, in_step
from bastion.bot.loops import PACE, Loops

pytestmark = pytest.mark.anyio

NAME = f"{__name__}.tick"


class Child:
    """What surrounds the loops of one child; another child speaks through ``other``, the same ledger."""

    def __init__(self, ledger: Path) -> None:
        self.lifecycle = Lifecycle()
        self.ledger = SQLiteLedger(str(ledger), 2)
        self.other = SQLiteLedger(str(ledger), 1)
        self.window = False
        self.loops = Loops(lifecycle=self.lifecycle, ledger=self.ledger, beside=lambda: self.window)
        self.loops.install()

    def enter(self, role: Any) -> None:
        self.lifecycle.enter(role)
        if role == "active":
            self.loops.resume()
        else:
            self.loops.pause()


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Child]:
    monkeypatch.setattr(tasks.Loop, "start", tasks.Loop.start)
    monkeypatch.setattr(tasks.Loop, "_call_loop_function", tasks.Loop._call_loop_function)
    made = Child(tmp_path / "ledger")
    yield made
    made.ledger.close()
    made.other.close()


class Ticks:
    """Counts the turns of a loop, and lets a test wait for them."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self._grew = asyncio.Event()

    def add(self, what: Any = None) -> None:
        self.seen.append(what)
        self._grew.set()

    async def reach(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.seen) < count:
                self._grew.clear()
                await self._grew.wait()


def ticking(ticks: Ticks, **pace: Any) -> tasks.Loop[Any]:
    async def tick(*args: Any) -> None:
        ticks.add(args)

    tick.__qualname__ = "tick"
    return tasks.loop(**pace)(tick)


async def turns_of_the_event_loop(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def soon(seconds: float) -> datetime.time:
    return (datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)).timetz()


async def test_a_loop_of_a_standby_begins_when_the_child_is_active(child: Child) -> None:
    child.enter("standby")
    ticks, before = Ticks(), Ticks()
    loop = ticking(ticks, seconds=60)

    @loop.before_loop
    async def prepare() -> None:
        before.add()

    loop.start("an argument")
    await turns_of_the_event_loop()
    assert (ticks.seen, before.seen, loop.is_running()) == ([], [], True)
    child.enter("active")
    await ticks.reach(1)
    assert (ticks.seen, before.seen) == ([("an argument",)], [None])
    loop.cancel()


async def test_a_loop_of_an_active_child_begins_at_once(child: Child) -> None:
    ticks = Ticks()
    loop = ticking(ticks, seconds=60)
    loop.start()
    await ticks.reach(1)
    loop.cancel()


async def test_a_held_loop_can_be_cancelled_and_started_again(child: Child) -> None:
    child.enter("standby")
    ticks = Ticks()
    loop = ticking(ticks, seconds=60)
    loop.start(1)
    await turns_of_the_event_loop()
    loop.cancel()
    await turns_of_the_event_loop()
    assert not loop.is_running()
    loop.start(2)
    child.enter("active")
    await ticks.reach(1)
    assert ticks.seen == [(2,)]
    loop.cancel()


async def test_a_call_by_hand_is_never_held(child: Child) -> None:
    child.enter("standby")
    ticks = Ticks()
    loop = ticking(ticks, seconds=60)
    loop.start()
    await loop()
    assert len(ticks.seen) == 1
    loop.cancel()


async def test_what_before_loop_raises_ends_the_loop_as_ever(child: Child) -> None:
    ticks = Ticks()
    loop = ticking(ticks, seconds=60)

    async def fail() -> None:
        raise KeyError("x")

    loop.before_loop(fail)
    with pytest.raises(KeyError):
        await loop.start()
    assert ticks.seen == []


async def test_a_loop_between_two_turns_ends_at_once_and_goes_on_with_its_arguments(child: Child) -> None:
    ticks = Ticks()
    loop = ticking(ticks, seconds=60)
    loop.start("kept")
    await ticks.reach(1)
    child.enter("draining")
    await turns_of_the_event_loop()
    assert not loop.is_running()
    child.enter("active")
    await ticks.reach(2)
    assert ticks.seen == [("kept",), ("kept",)]
    loop.cancel()


async def test_a_turn_under_way_is_finished_and_the_loop_ends_behind_it(child: Child) -> None:
    began, go, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @tasks.loop(seconds=0.01)
    async def slow() -> None:
        began.set()
        await go.wait()
        ended.set()

    slow.start()
    await began.wait()
    child.enter("draining")
    child.loops.order(5)
    finishing = asyncio.ensure_future(child.loops.finish())
    await turns_of_the_event_loop()
    assert not finishing.done()
    began.clear()
    go.set()
    assert await finishing == []
    assert ended.is_set()
    assert not began.is_set(), "there was a turn after the last"


async def test_a_turn_that_the_limit_ends_is_named(child: Child) -> None:
    began = asyncio.Event()

    @tasks.loop(seconds=60)
    async def endless() -> None:
        began.set()
        await asyncio.Event().wait()

    endless.start()
    await began.wait()
    child.enter("draining")
    child.loops.order(60)
    child.loops.order(0.05)
    cut = await child.loops.finish()
    assert len(cut) == 1
    assert cut[0].startswith(f"loop {__name__}.")
    assert cut[0].endswith("endless")
    assert not endless.is_running()


async def test_a_child_made_active_while_a_turn_ends_goes_on_behind_it(child: Child) -> None:
    ticks, go = Ticks(), asyncio.Event()

    @tasks.loop(seconds=0.01)
    async def slow() -> None:
        ticks.add()
        await go.wait()

    slow.start()
    await ticks.reach(1)
    child.enter("standby")
    child.enter("active")
    go.set()
    await ticks.reach(3)
    slow.cancel()


async def test_a_loop_that_the_app_ended_itself_stays_ended(child: Child) -> None:
    ticks = Ticks()
    loop = ticking(ticks, seconds=60)
    loop.start()
    await ticks.reach(1)
    loop.cancel()
    await turns_of_the_event_loop()
    child.enter("draining")
    child.enter("active")
    await turns_of_the_event_loop()
    assert not loop.is_running()


# --- turns at an interval -------------------------------------------------------------------------------------------


async def test_the_opening_of_a_window_writes_down_where_each_loop_stands(child: Child) -> None:
    ticks = Ticks()
    loop = ticking(ticks, seconds=60)
    before = time.monotonic()
    loop.start()
    await ticks.reach(1)
    assert child.ledger.last_turn(NAME) is None
    child.loops.write_down()
    assert before <= (child.other.last_turn(NAME) or 0) <= time.monotonic()
    loop.cancel()


async def test_the_first_turn_comes_when_the_other_childs_next_one_would_have_come(child: Child) -> None:
    child.window = True
    child.enter("standby")
    last = time.monotonic() - 0.8
    child.other.note_turn(NAME, last)
    ticks = Ticks()
    loop = ticking(ticks, seconds=1)
    loop.start()
    child.enter("active")
    await ticks.reach(1)
    assert 1.0 <= time.monotonic() - last < 1.6
    assert (child.other.last_turn(NAME) or 0) > last + 0.9
    loop.cancel()


async def test_a_first_turn_that_the_other_child_takes_meanwhile_is_left_to_it(child: Child) -> None:
    """Both are active for a moment: the old one's turn falls into it."""
    child.window = True
    child.enter("standby")
    last = time.monotonic() - 0.5
    child.other.note_turn(NAME, last)
    ticks = Ticks()
    loop = ticking(ticks, seconds=1)
    loop.start()
    child.enter("active")
    await turns_of_the_event_loop()  # it waits for its turn by now
    taken = last + 1
    assert child.other.take_turn(NAME, last, taken)
    await ticks.reach(1)
    assert 1.0 <= time.monotonic() - taken < 1.6
    loop.cancel()


async def test_a_turn_that_another_child_took_is_not_run_and_the_next_one_is(child: Child) -> None:
    ticks = Ticks()
    loop = ticking(ticks, seconds=0.2)
    loop.start()
    await ticks.reach(1)
    child.window = True
    child.loops.write_down()
    last = child.other.last_turn(NAME)
    taken = time.monotonic()
    assert child.other.take_turn(NAME, last, taken)
    await ticks.reach(2)
    assert time.monotonic() - taken > 0.3, "the turn after 0.2 s was the other child's"
    loop.cancel()


async def test_a_long_interval_begins_with_a_turn_as_at_any_start(child: Child) -> None:
    child.window = True
    child.enter("standby")
    child.other.note_turn(NAME, time.monotonic() - 10)
    ticks = Ticks()
    loop = ticking(ticks, seconds=10 + 2 * PACE)
    loop.start()
    child.enter("active")
    await ticks.reach(1)
    loop.cancel()


async def test_a_ledger_that_fails_leaves_out_no_turn(child: Child, tmp_path: Path) -> None:
    child.window = True
    (tmp_path / "ledger").mkdir()
    ticks = Ticks()
    loop = ticking(ticks, seconds=0.01)
    loop.start()
    await ticks.reach(3)
    assert child.ledger.errors
    loop.cancel()


async def test_a_turn_that_failed_is_tried_again_without_asking(child: Child) -> None:
    child.window = True
    ticks = Ticks()

    @tasks.loop(seconds=0.01)
    async def tick() -> None:
        ticks.add()
        if len(ticks.seen) == 1:
            # Another child's turn, as far as the ledger knows: the second try is still this child's.
            child.other.note_turn(f"{__name__}.{tick.coro.__qualname__}", time.monotonic() + 60)
            raise OSError("once")

    tick.start()
    await ticks.reach(2)
    tick.cancel()


# --- marked loops ---------------------------------------------------------------------------------------------------


SHORT = 0.1
INTERVAL = 0.6


@pytest.fixture
def short_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that an interval of less than a second is a long one."""
    monkeypatch.setattr(loops, "PACE", SHORT)


def marked(ticks: Ticks, **pace: Any) -> tasks.Loop[Any]:
    return in_step(ticking(ticks, **({"seconds": INTERVAL} | pace)))


async def assert_in_step(ticks: Ticks, *, last: float, count: int = 1) -> None:
    await ticks.reach(count)
    assert INTERVAL <= time.monotonic() - last < INTERVAL + 0.5


@pytest.mark.usefixtures("short_pace")
async def test_a_loop_without_a_mark_has_a_turn_at_once_where_a_marked_one_waits(child: Child) -> None:
    child.window = True
    child.enter("standby")
    last = time.monotonic() - 0.2
    child.other.note_turn(NAME, last)
    ticks = Ticks()
    loop = ticking(ticks, seconds=INTERVAL)
    loop.start()
    child.enter("active")
    await ticks.reach(1)
    assert time.monotonic() - last < INTERVAL, "this test cannot tell"
    loop.cancel()


@pytest.mark.usefixtures("short_pace")
@pytest.mark.parametrize("window", [pytest.param(True, id="at a switch"), pytest.param(False, id="after a death")])
async def test_a_marked_loop_keeps_its_predecessors_step(child: Child, window: bool) -> None:
    child.window = window
    child.enter("standby")
    last = time.monotonic() - 0.2
    child.other.note(f"loop:{NAME}", repr(last))
    ticks = Ticks()
    loop = marked(ticks)
    loop.start()
    child.enter("active")
    await assert_in_step(ticks, last=last)
    await ticks.reach(2)
    loop.cancel()


@pytest.mark.usefixtures("short_pace")
async def test_each_turn_of_a_marked_loop_is_noted_and_that_is_kept_over_the_end_of_a_window(child: Child) -> None:
    ticks = Ticks()
    loop = marked(ticks, seconds=60)
    before = time.monotonic()
    loop.start()
    await ticks.reach(1)
    child.ledger.clear()
    assert before <= float(child.other.noted(f"loop:{NAME}") or 0) <= time.monotonic()
    loop.cancel()


@pytest.mark.usefixtures("short_pace")
async def test_a_marked_loop_whose_turn_is_overdue_or_that_had_none_begins_at_once(child: Child) -> None:
    child.other.note(f"loop:{NAME}", repr(time.monotonic() - 61))
    for name in (None, "had none"):
        ticks = Ticks()
        loop = marked(ticks, seconds=60, name=name)
        loop.start()
        await ticks.reach(1)
        loop.cancel()


@pytest.mark.usefixtures("short_pace")
async def test_a_marked_turn_that_the_other_child_takes_meanwhile_is_left_to_it(child: Child) -> None:
    child.window = True
    child.enter("standby")
    last = time.monotonic() - 0.2
    child.other.note_turn(NAME, last)
    ticks = Ticks()
    loop = marked(ticks)
    loop.start()
    child.enter("active")
    await turns_of_the_event_loop()  # it waits for its turn by now
    taken = last + INTERVAL
    assert child.other.take_turn(NAME, last, taken)
    await assert_in_step(ticks, last=taken)
    loop.cancel()


@pytest.mark.usefixtures("short_pace")
async def test_a_marked_loop_of_a_child_that_is_active_again_keeps_the_step(child: Child) -> None:
    ticks = Ticks()
    loop = marked(ticks)
    loop.start()
    await ticks.reach(1)
    last = time.monotonic()
    child.window = True
    child.loops.write_down()
    child.enter("standby")
    await turns_of_the_event_loop()
    assert not loop.is_running()
    child.enter("active")
    await assert_in_step(ticks, last=last - 0.05, count=2)
    loop.cancel()


async def test_a_marked_loop_that_waits_for_its_turn_ends_at_once_when_it_is_drained(child: Child) -> None:
    child.other.note(f"loop:{NAME}", repr(time.monotonic()))
    ticks = Ticks()
    loop = marked(ticks, hours=1)
    loop.start()
    await turns_of_the_event_loop()
    child.enter("draining")
    child.loops.order(60)
    assert await child.loops.finish() == []
    assert not loop.is_running()
    assert ticks.seen == []


async def test_a_marked_loop_that_waits_tells_when_its_turn_comes_and_a_new_interval_moves_it(child: Child) -> None:
    child.other.note(f"loop:{NAME}", repr(time.monotonic() - 600))
    ticks = Ticks()
    loop = marked(ticks, seconds=0, hours=1)
    loop.start()
    await turns_of_the_event_loop()
    assert loop.next_iteration is not None
    left = loop.next_iteration - datetime.datetime.now(datetime.UTC)
    assert datetime.timedelta(minutes=49) < left <= datetime.timedelta(minutes=50)
    loop.change_interval(seconds=600.2)
    await ticks.reach(1)
    loop.cancel()


async def test_a_marked_loop_that_the_app_itself_starts_again_begins_at_once(child: Child) -> None:
    ticks = Ticks()
    loop = marked(ticks, hours=1)
    loop.start()
    await ticks.reach(1)
    loop.restart()
    await ticks.reach(2)
    loop.cancel()


async def test_a_loop_made_anew_has_the_name_and_the_step_of_the_one_that_it_replaces(child: Child) -> None:
    """As when an app reloads a cog."""
    first, second = Ticks(), Ticks()
    old, new = marked(first, hours=1), marked(second, hours=1)
    old.start()
    await first.reach(1)
    old.cancel()
    new.start()
    await turns_of_the_event_loop(20)
    assert second.seen == []
    assert new.is_running()
    old.start()  # beside the other, so by another name
    await first.reach(2)
    assert child.other.noted(f"loop:{NAME}#2") is not None
    new.cancel()
    old.cancel()


@pytest.mark.usefixtures("short_pace")
async def test_a_ledger_that_fails_leaves_out_no_turn_of_a_marked_loop(child: Child, tmp_path: Path) -> None:
    child.window = True
    (tmp_path / "ledger").mkdir()
    ticks = Ticks()
    loop = marked(ticks, seconds=0.2)
    loop.start()
    await ticks.reach(3)
    assert child.ledger.errors
    loop.cancel()


# --- turns at times of day ------------------------------------------------------------------------------------------


async def test_a_turn_at_a_time_of_day_is_run_by_the_child_that_claims_it(child: Child) -> None:
    child.window = True
    due = soon(0.2)
    when = datetime.datetime.combine(datetime.datetime.now(datetime.UTC).date(), due)
    ticks = Ticks()
    loop = ticking(ticks, time=[due, soon(0.5)])
    assert child.other.claim(f"loop:{NAME}:{when.isoformat()}", 0.0)
    loop.start()
    await ticks.reach(1)
    assert datetime.datetime.now(datetime.UTC) >= when + datetime.timedelta(seconds=0.25)
    assert child.ledger.lost == 1
    loop.cancel()


async def test_a_turn_that_came_due_before_the_drain_is_still_run(child: Child) -> None:
    """The event loop was late: the new child looks for times after its activation, so this one is the old child's."""
    ticks = Ticks()
    loop = ticking(ticks, time=soon(0.1))
    loop.start()
    await asyncio.sleep(0.02)
    time.sleep(0.15)  # noqa: ASYNC251 - the event loop is late
    child.enter("draining")
    child.loops.order(1)
    assert await child.loops.finish() == []
    assert len(ticks.seen) == 1


# --- names ----------------------------------------------------------------------------------------------------------


async def test_loops_of_one_function_have_names_of_their_own_in_the_order_of_their_starts(child: Child) -> None:
    class Cog:
        def __init__(self) -> None:
            self.ticks = Ticks()

        @tasks.loop(seconds=60)
        async def work(self) -> None:
            self.ticks.add()

    child.window = True
    cogs = [Cog(), Cog()]
    for cog in cogs:
        cog.work.start()
        await cog.ticks.reach(1)
    name = f"{__name__}.{Cog.__qualname__}.work"
    assert child.other.last_turn(name) is not None
    assert child.other.last_turn(f"{name}#2") is not None
    for cog in cogs:
        cog.work.cancel()


async def test_a_name_that_the_app_gave_is_the_loops_name(child: Child) -> None:
    child.window = True
    ticks = Ticks()
    loop = ticking(ticks, seconds=60, name="reminder 7")
    loop.start()
    await ticks.reach(1)
    assert child.other.last_turn(f"{__name__}.reminder 7") is not None
    loop.cancel()
