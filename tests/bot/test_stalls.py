"""What the event loop read, and since when that may have waited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bastion.bot import stalls
from bastion.bot.stalls import Stalls

pytestmark = pytest.mark.anyio


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def watched(them: Stalls) -> AsyncIterator[None]:
    wanted = True
    watching = asyncio.create_task(them.watch(lambda: wanted))
    await asyncio.sleep(0)
    yield
    wanted = False
    await watching


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock of its own, and turns that need no time."""
    monkeypatch.setattr(stalls, "TURN_SECONDS", 0.0)
    return Clock()


async def turn() -> None:
    """Have it look twice at least."""
    for _ in range(4):
        await asyncio.sleep(0)


async def test_what_is_read_as_the_loop_turns_has_just_come(clock: Clock) -> None:
    them = Stalls(clock)
    async with watched(them):
        await turn()
        assert them.came(100.0) == 100.0


async def test_what_is_read_as_the_loop_turns_again_may_have_come_since_it_stood_still(clock: Clock) -> None:
    them = Stalls(clock)
    async with watched(them):
        await turn()
        clock.now = 102.0
        assert them.came(102.0) == 100.0


async def test_so_may_what_is_read_before_it_has_turned_in_time(clock: Clock) -> None:
    them = Stalls(clock)
    async with watched(them):
        await turn()
        for clock.now in (102.0, 103.0):  # the second is spent on reading what piled up in the first
            await asyncio.sleep(0)
            assert them.came(clock.now) == 100.0
        await turn()
        assert them.came(103.0) == 103.0


@pytest.mark.parametrize(("read_after", "over_at"), [(0.5, 102.5), (60.0, 104.0)])
async def test_so_may_what_is_read_as_long_as_something_is_unread_but_no_longer_than_it_stood_still(
    read_after: float, over_at: float
) -> None:
    now = 100.0
    them = Stalls(unread=lambda: now < 102.0 + read_after)
    them.turned(now)
    for now in [102.0 + tenth / 10 for tenth in range(40)]:
        them.turned(now)
        assert them.came(now) == (100.0 if now < over_at else now)


async def test_nobody_tells_when_nobody_looks(clock: Clock) -> None:
    them = Stalls(clock)
    assert them.came(102.0) == 102.0
    async with watched(them):
        clock.now = 105.0
        await asyncio.sleep(0)
    assert them.came(110.0) == 110.0


async def test_a_real_loop_that_is_blocked() -> None:
    them = Stalls()
    async with watched(them):
        before = time.monotonic()
        time.sleep(3 * stalls.TURN_SECONDS)  # noqa: ASYNC251 - a handler that blocks
        after = time.monotonic()
        assert them.came(after) <= before
        await asyncio.sleep(0)
        assert them.came(after) <= before
