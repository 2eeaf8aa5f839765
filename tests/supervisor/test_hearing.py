"""A standby that hears nothing while the active child hears much is not activated."""

from __future__ import annotations

from bastion.supervisor.hearing import KICK_WITHIN, MUCH, Comparison, Kicks


def compared(*counts: int) -> Comparison:
    comparison = Comparison()
    for count in counts:
        comparison.active_heard(count)
    return comparison


def test_silence_beside_much_is_deafness_and_the_reason_has_the_number() -> None:
    reason = compared(100, 110, 100 + MUCH).deaf(0)
    assert reason is not None
    assert f"heard {MUCH} events" in reason


def test_silence_beside_little_proves_nothing() -> None:
    assert compared(100, 100 + MUCH - 1).deaf(0) is None
    assert compared(10_000).deaf(0) is None
    assert Comparison().deaf(0) is None


def test_a_standby_that_heard_anything_is_not_deaf() -> None:
    assert compared(0, 10_000).deaf(1) is None


def test_what_was_heard_before_the_standbys_youngest_session_does_not_count() -> None:
    comparison = compared(0, 10_000)
    comparison.restart()
    assert comparison.deaf(0) is None
    comparison.active_heard(10_000)
    comparison.active_heard(10_000 + MUCH)
    assert comparison.deaf(0) is not None


def test_a_session_that_ends_as_anothers_begins_was_kicked_by_it() -> None:
    kicks = Kicks()
    kicks.begins(2, 0, 4, now=10.0)
    kicks.ended(1, 0, 4, now=10.1)
    assert kicks.kicked_by(1, 0) == 2


def test_a_session_that_ends_for_another_reason_was_kicked_by_none() -> None:
    kicks = Kicks()
    kicks.begins(2, 0, 4, now=10.0)
    kicks.ended(1, 0, 4, now=10.0 + KICK_WITHIN)
    kicks.ended(1, 1, 4, now=10.1)
    kicks.ended(1, 0, 2, now=10.1)
    kicks.ended(2, 0, 4, now=10.1)
    assert [kicks.kicked_by(generation, shard) for generation in (1, 2) for shard in (0, 1)] == [None] * 4


def test_a_kick_is_past_when_the_child_identifies_anew_or_the_other_has_gone() -> None:
    for last in (lambda kicks: kicks.begins(1, 0, 4, now=20.0), lambda kicks: kicks.forget(2)):
        kicks = Kicks()
        kicks.begins(2, 0, 4, now=10.0)
        kicks.ended(1, 0, 4, now=10.1)
        last(kicks)
        assert kicks.kicked_by(1, 0) is None
