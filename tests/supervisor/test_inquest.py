"""What dead children left running: asked of all who live, told once."""

from __future__ import annotations

import pytest

from bastion.supervisor.inquest import Inquest
from bastion.wire import Cut, Drained, Inquire, Recovered, ToChild


class Slot:
    def __init__(self) -> None:
        self.sent: list[tuple[int, ToChild]] = []
        self.inquest = Inquest(lambda generation, message: self.sent.append((generation, message)))


@pytest.fixture
def slot() -> Slot:
    return Slot()


def test_all_who_live_are_asked_and_the_first_answer_counts(slot: Slot) -> None:
    slot.inquest.left(1, living=[2, 3])
    assert slot.sent == [(2, Inquire(generation=1)), (3, Inquire(generation=1))]
    answer = Cut(generation=1, names=["on_message"])
    assert slot.inquest.heard(2, answer) == answer
    assert slot.inquest.heard(3, answer) is None


def test_what_a_dead_child_left_is_kept_until_somebody_has_told(slot: Slot) -> None:
    slot.inquest.left(1, living=[])
    assert slot.inquest.open == {1}
    slot.inquest.spawned(2)
    assert slot.sent == [(2, Inquire(generation=1))]
    slot.inquest.heard(2, Cut(generation=1, names=[]))
    assert slot.inquest.open == set()
    slot.inquest.spawned(3)
    assert len(slot.sent) == 1


def test_who_is_asked_and_dies_is_asked_about_in_turn(slot: Slot) -> None:
    slot.inquest.left(1, living=[2])
    slot.inquest.left(2, living=[])
    slot.inquest.spawned(3)
    assert slot.sent[1:] == [(3, Inquire(generation=1)), (3, Inquire(generation=2))]


def test_children_that_die_before_they_answer_are_not_asked_about(slot: Slot) -> None:
    """They die while their app is imported, as each may for days: the questions would fill the next one's pipe."""
    slot.inquest.left(1, living=[])
    for generation in range(2, 1000):
        slot.inquest.spawned(generation)
        slot.inquest.left(generation, living=[])
    assert slot.inquest.open == {1}
    slot.inquest.spawned(1000)
    slot.inquest.heard(1000, Cut(generation=1, names=[]))
    slot.inquest.left(1000, living=[1001])
    assert slot.sent[-1] == (1001, Inquire(generation=1000))


def test_nobody_is_asked_about_a_child_that_has_drained(slot: Slot) -> None:
    assert slot.inquest.heard(1, Drained(finished=3, cut=["on_message"])) is None
    slot.inquest.left(1, living=[2])
    assert (slot.sent, slot.inquest.open) == ([], set())


def test_a_child_that_had_cut_something_and_lives_on_is_asked_about_when_it_dies(slot: Slot) -> None:
    said = Cut(generation=1, names=["on_message"], lives=True)
    assert slot.inquest.heard(1, said) == said
    slot.inquest.left(1, living=[2])
    assert slot.sent == [(2, Inquire(generation=1))]


def test_a_child_that_gives_up_says_itself_what_it_cuts(slot: Slot) -> None:
    said = Cut(generation=2, names=["on_message"])
    assert slot.inquest.heard(2, said) == said
    slot.inquest.left(2, living=[1])
    assert (slot.sent, slot.inquest.open) == ([], set())


def test_what_nobody_asked_for_is_not_believed(slot: Slot) -> None:
    assert slot.inquest.heard(2, Cut(generation=7, names=["on_message"])) is None
    assert slot.inquest.heard(2, Recovered(generation=1, sessions=1, cut=["on_message"])) is None
