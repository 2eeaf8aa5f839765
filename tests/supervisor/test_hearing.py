"""A standby that hears nothing while the active child hears much is not activated."""

from __future__ import annotations

from supervisor.hearing import MUCH, Comparison


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
