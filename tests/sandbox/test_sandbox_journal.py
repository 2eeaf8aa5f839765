"""The journal's arithmetic: once, lost, doubled, late, by whom, and when everything has settled."""

from __future__ import annotations

import time

import pytest

from bastion.sandbox import KINDS, Entry, Journal

pytestmark = pytest.mark.anyio


def emitted(journal: Journal, kind: str, key: str, *, ago: float = 0.0) -> Entry:
    return journal.emitted(Entry(kind=kind, key=key, at=time.monotonic() - ago, audience=1))


@pytest.fixture
def journal() -> Journal:
    journal = Journal()
    journal.expect(KINDS)
    return journal


async def test_handled_once_is_neither_lost_nor_doubled(journal: Journal) -> None:
    emitted(journal, "slash", "1")
    journal.handled("slash", "1", by=2)
    verdict = journal.verdict()
    assert (verdict.emitted, verdict.handled_once, verdict.lost, verdict.duplicated) == (1, 1, 0, 0)
    assert verdict.clean
    assert verdict.by_generation == {2: 1}


async def test_not_handled_is_lost_and_named_unless_it_is_too_young(journal: Journal) -> None:
    emitted(journal, "message", "7")
    assert [example.key for example in journal.verdict().kinds["message"].lost_examples] == ["7"]
    assert not journal.verdict().clean
    young = journal.verdict(settle=60)
    assert (young.lost, young.pending) == (0, 1)


async def test_handled_twice_is_doubled_and_says_by_whom(journal: Journal) -> None:
    emitted(journal, "delete", "7")
    journal.handled("delete", "7", by=1)
    journal.handled("delete", "7", by=2)
    verdict = journal.verdict()
    assert (verdict.handled_once, verdict.duplicated) == (1, 1)
    assert verdict.kinds["delete"].duplicated_examples[0].by == 2
    assert "doubled delete 7" in str(verdict)


async def test_repeats_of_a_key_are_compared_by_count(journal: Journal) -> None:
    for _ in range(3):
        emitted(journal, "reaction_add", "c:m:u:e")
    for _ in range(2):
        journal.handled("reaction_add", "c:m:u:e")
    verdict = journal.verdict()
    assert (verdict.emitted, verdict.handled_once, verdict.lost, verdict.duplicated) == (3, 2, 1, 0)


async def test_an_observed_answer_and_its_report_are_one_handling(journal: Journal) -> None:
    emitted(journal, "command_message", "5")
    journal.handled("message", "5", by=1, source="observed")
    journal.handled("message", "5", by=1)
    assert journal.verdict().clean
    journal.handled("message", "5", by=2)
    assert journal.verdict().duplicated == 1


async def test_late_is_handled_but_counted(journal: Journal) -> None:
    emitted(journal, "edit", "1:t", ago=5)
    journal.handled("edit", "1:t")
    verdict = journal.verdict()
    assert (verdict.handled_once, verdict.late, verdict.lost) == (1, 1, 0)
    assert verdict.latency.max >= 5
    assert journal.verdict(late=10).late == 0


async def test_latencies_are_summarised_by_span_of_emission(journal: Journal) -> None:
    now = time.monotonic()
    for index in range(100):
        entry = emitted(journal, "typing", str(index), ago=10 if index < 50 else 1)
        journal.handled("typing", str(index), at=entry.at + (0.1 if index < 50 else 0.2))
    verdict = journal.verdict(spans={"before": (now - 20, now - 5), "after": (now - 5, now + 5)})
    assert verdict.spans["before"].count == verdict.spans["after"].count == 50
    assert verdict.spans["before"].p99 == pytest.approx(0.1)
    assert verdict.spans["after"].p50 == pytest.approx(0.2)
    assert sum(second.emitted for second in verdict.timeline) == 100


async def test_a_report_of_what_was_never_emitted_is_a_stray(journal: Journal) -> None:
    journal.handled("message", "404")
    verdict = journal.verdict()
    assert verdict.strays == 1
    assert not verdict.clean


async def test_kinds_of_a_test_bots_own_are_notes_and_no_part_of_the_verdict(journal: Journal) -> None:
    journal.handled("wait_for", "1", by=3)
    assert [one.by for one in journal.handlings("wait_for", "1")] == [3]
    assert journal.verdict().clean


async def test_only_expected_entries_count(journal: Journal) -> None:
    emitted(journal, "message", "1")
    emitted(journal, "slash", "2")
    assert journal.outstanding == 2
    journal.expect(["slash"])
    assert journal.outstanding == 1
    assert set(journal.verdict().kinds) == {"slash"}
    journal.expect(lambda entry: entry.key == "1")
    assert set(journal.verdict().kinds) == {"message"}
    with pytest.raises(ValueError, match="unknown kinds: slahs"):
        journal.expect(["slahs"])


async def test_settled_returns_as_soon_as_nothing_is_outstanding(journal: Journal) -> None:
    emitted(journal, "slash", "1")
    journal.handled("slash", "1")
    assert await journal.settled(timeout=60, quiet=60, linger=0)
    emitted(journal, "slash", "2")
    started = time.monotonic()
    assert not await journal.settled(timeout=60, quiet=0.05, linger=0)
    assert time.monotonic() - started < 5


async def test_an_empty_verdict_prints(journal: Journal) -> None:
    assert "all" in str(journal.verdict())
    assert journal.verdict().as_dict()["clean"] is True
