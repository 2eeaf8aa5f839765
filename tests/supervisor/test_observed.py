"""The record of a handoff: what was cut, by whoever tells it."""

from __future__ import annotations

import pytest

from supervisor.observed import HandoffRecord
from supervisor.status import HandoffResult
from supervisor.wire import Cut, Recovered


@pytest.fixture
def record() -> HandoffRecord:
    return HandoffRecord(began=0.0, kind="failover", origin=2, target=1)


def test_what_a_child_had_cut_and_what_it_ran_when_it_died_are_both_named(record: HandoffRecord) -> None:
    record.died(Cut(generation=1, names=["on_message 1"], lives=True))
    record.died(Cut(generation=1, names=["on_message 2"]))
    assert record.cut == {1: ["on_message 1", "on_message 2"]}


def test_what_two_tell_of_one_death_is_named_once(record: HandoffRecord) -> None:
    record.heard(1, Recovered(generation=2, sessions=1, cut=["on_message 1"]))
    record.died(Cut(generation=2, names=["on_message 1"]))
    assert record.cut == {2: ["on_message 1"]}


@pytest.mark.parametrize(
    ("result", "state"), [("succeeded", "carrying"), ("failed", "failed: "), ("rolled-back", "failed: ")]
)
def test_state_is_on_its_way_only_as_long_as_it_may_arrive(
    record: HandoffRecord, result: HandoffResult, state: str
) -> None:
    record.state = "carrying"
    record.close(result, None, now=1.0)
    assert record.state.startswith(state)


def test_who_has_no_part_in_it_is_not_named(record: HandoffRecord) -> None:
    record.died(Cut(generation=3, names=["on_message 1"]))
    assert record.cut == {}
