"""Timers run no further while the supervisor itself stands still; here its event loop is blocked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from bastion.supervisor import timers
from bastion.supervisor.state import Alarm
from bastion.supervisor.timers import Timers

pytestmark = pytest.mark.anyio


@dataclass
class Bells:
    """Timers, and when they rang or it was noticed that they stood still."""

    timers: Timers = field(init=False)
    rang: dict[Alarm, float] = field(default_factory=dict)
    still: list[float] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.timers = Timers(lambda alarm, _: self.note(alarm), self.still.append)

    def note(self, alarm: Alarm) -> None:
        self.rang[alarm] = time.monotonic() - self.began


@pytest.fixture
async def bells(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bells]:
    monkeypatch.setattr(timers, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(timers, "STOOD_STILL", 0.1)
    made = Bells()
    yield made
    made.timers.stop()


async def rung(bells: Bells, *alarms: Alarm) -> None:
    async with asyncio.timeout(5):
        while not set(alarms) <= bells.rang.keys():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_timer_rings_in_time_and_once(bells: Bells) -> None:
    bells.timers.start(Alarm.HANG, 1, 0.25)
    bells.timers.start(Alarm.ACK, 1, 0.05)
    bells.timers.cancel(Alarm.ACK, 1)
    await rung(bells, Alarm.HANG)
    assert bells.rang.keys() == {Alarm.HANG}
    assert bells.rang[Alarm.HANG] >= 0.25
    assert not bells.still
    assert bells.timers.left(Alarm.HANG, 1) == bells.timers.left(Alarm.ACK, 1) == 0.0


async def test_timers_that_were_due_while_all_stood_still_have_the_time_that_was_left(bells: Bells) -> None:
    bells.timers.start(Alarm.HANG, 1, 0.3)
    bells.timers.start(Alarm.ACK, 1, 0.9)
    time.sleep(0.8)  # noqa: ASYNC251 - that is the standstill
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not bells.rang
    assert len(bells.still) == 1
    assert 0.2 <= bells.timers.left(Alarm.HANG, 1) <= 0.4
    assert 0.8 <= bells.timers.left(Alarm.ACK, 1) <= 1.0
    await rung(bells, Alarm.HANG, Alarm.ACK)
    assert bells.rang[Alarm.HANG] >= 1.05
    assert len(bells.still) == 1, "it is noticed once"


async def test_a_loop_that_is_late_by_less_puts_nothing_off(bells: Bells) -> None:
    bells.timers.start(Alarm.HANG, 1, 0.05)
    time.sleep(0.08)  # noqa: ASYNC251
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert bells.rang
    assert not bells.still
