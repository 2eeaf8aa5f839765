"""The record of a handoff: what was cut, by whoever tells it."""

from __future__ import annotations

import pytest

from bastion.supervisor.observed import HandoffRecord
from bastion.supervisor.status import HandoffResult
from bastion.wire import Beat, Claims, Cut, Imported, Importing, Recovered


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
    record.heard(1, Importing())
    record.close(result, None, now=1.0)
    assert record.state.startswith(state)


def test_state_for_a_child_that_has_left_is_on_its_way_no_more_whoever_ends_the_handoff(record: HandoffRecord) -> None:
    record.heard(1, Importing())
    record.left(2)
    assert record.state == "carrying", "who gives it may leave"
    record.target = 3
    record.left(1)
    record.close("succeeded", None, now=1.0)
    assert record.state == "failed: generation 1 left before it had taken it"


def test_state_that_has_arrived_has_arrived_also_if_its_child_leaves(record: HandoffRecord) -> None:
    record.heard(1, Importing())
    record.heard(1, Imported(source="handoff"))
    record.left(1)
    assert record.state == "carried"


def test_who_has_no_part_in_it_is_not_named(record: HandoffRecord) -> None:
    record.died(Cut(generation=3, names=["on_message 1"]))
    assert record.cut == {}


def beat(errors: int) -> Beat:
    return Beat(n=1, loop_lag_ms=0, in_flight=0, handled=0, claims=Claims(errors=errors))


def test_what_the_ledger_fails_at_counts_while_the_handoff_goes_on_and_from_where_each_child_was(
    record: HandoffRecord,
) -> None:
    record.failed_to_claim(beat(7), since=beat(4))
    record.failed_to_claim(beat(2), since=None)
    record.close("succeeded", None, now=1.0)
    record.failed_to_claim(beat(9), since=beat(7))
    assert record.status(now=2.0).unclaimed == 5
