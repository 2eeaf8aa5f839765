"""The ledger: one claim, one child. And whatever is wrong with it, no event is dropped for that."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mounts import full, not_writable, small

from bastion.bot import ledger as module
from bastion.bot.ledger import Among, SQLiteLedger

AMONG = Among(0.0, 10.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def pair(path: Path) -> Iterator[tuple[SQLiteLedger, SQLiteLedger]]:
    with closing(SQLiteLedger(str(path), 1)) as old, closing(SQLiteLedger(str(path), 2)) as new:
        yield old, new


def test_a_claim_is_won_by_the_first_who_asks_and_by_nobody_else(pair: tuple[SQLiteLedger, SQLiteLedger]) -> None:
    old, new = pair
    assert old.claim("MESSAGE_CREATE:1", 1.0)
    assert not new.claim("MESSAGE_CREATE:1", 1.0)
    assert not old.claim("MESSAGE_CREATE:1", 2.0), "a second delivery of one event is not a second event"
    assert new.claimed(["MESSAGE_CREATE:1", "MESSAGE_CREATE:2"]) == {"MESSAGE_CREATE:1"}
    assert (old.won, old.lost, old.errors) == (1, 1, 0)
    assert (new.won, new.lost, new.errors) == (0, 1, 0)


def test_equal_events_are_paired_with_those_of_another_child_each_once(
    pair: tuple[SQLiteLedger, SQLiteLedger],
) -> None:
    old, new = pair
    assert [old.claim_occurrence("add", at, among=AMONG) for at in (1.0, 2.0)] == [True, True]
    assert [new.claim_occurrence("add", at, among=AMONG) for at in (1.5, 2.5, 3.5)] == [False, False, True]
    assert [old.claim_occurrence("add", at, among=AMONG) for at in (3.0, 4.0)] == [False, True]
    assert (old.won, old.lost, new.won, new.lost) == (3, 1, 1, 2)


def test_only_what_another_child_has_handled_at_about_that_time_is_paired(
    pair: tuple[SQLiteLedger, SQLiteLedger],
) -> None:
    old, new = pair
    assert old.claim_occurrence("add", 5.0, among=AMONG)
    assert new.claim_occurrence("add", 50.0, among=Among(40.0, 60.0))
    assert new.claim_occurrence("remove", 5.0, among=AMONG)
    assert not new.claim_occurrence("add", 6.0, among=AMONG)


def test_what_was_claimed_as_a_session_began_counts_only_if_both_came_at_once(
    pair: tuple[SQLiteLedger, SQLiteLedger],
) -> None:
    """It may be of an event that this session never brought."""
    old, new = pair
    young = Among(0.0, 40.0, sure=5.5)
    for digest, at in (("a", 4.9), ("b", 4.9), ("c", 5.6)):
        assert old.claim_occurrence(digest, at, among=AMONG)
    assert not new.claim_occurrence("a", 5.1, among=young)
    assert new.claim_occurrence("b", 6.1, among=young)
    assert not new.claim_occurrence("c", 15.0, among=young)


def test_three_children_pair_with_the_one_that_has_handled_it(path: Path) -> None:
    one, two, three = (SQLiteLedger(str(path), number) for number in (1, 2, 3))
    assert one.claim_occurrence("add", 1.0, among=AMONG)
    for other in (two, three):
        assert not other.claim_occurrence("add", 1.0, among=AMONG)
        assert other.claim_occurrence("add", 11.0, among=Among(9.0, 19.0)) is (other is two)
    for ledger in (one, two, three):
        ledger.close()


def test_to_pair_claims_nothing(pair: tuple[SQLiteLedger, SQLiteLedger]) -> None:
    old, new = pair
    assert not new.pair("add", 1.0, among=AMONG)
    assert old.claim_occurrence("add", 1.0, among=AMONG)
    assert new.pair("add", 1.0, among=AMONG)
    assert not new.pair("add", 1.0, among=AMONG), "that was another one"
    assert (new.won, new.lost) == (0, 0)


def test_more_keys_than_one_query_takes_are_looked_up(pair: tuple[SQLiteLedger, SQLiteLedger]) -> None:
    old, new = pair
    keys = [f"k{number}" for number in range(2500)]
    for key in keys[::2]:
        old.claim(key, 1.0)
    assert new.claimed(keys) == set(keys[::2])


def test_clearing_forgets_every_claim(pair: tuple[SQLiteLedger, SQLiteLedger]) -> None:
    old, new = pair
    old.claim("k", 1.0)
    old.claim_occurrence("abc", 1.0, among=AMONG)
    old.clear()
    assert new.claim("k", 2.0)
    assert new.claim_occurrence("abc", 2.0, among=AMONG)


RACER = """
import sys
from bastion.bot.ledger import Among, SQLiteLedger
ledger = SQLiteLedger(sys.argv[1], int(sys.argv[2]))
def first(claim):
    for key in range(1500):
        if key % 100 == 0:
            ledger.trim(0.0)  # as once a second, which patience comes back with
        if claim(str(key)):
            yield key
sys.stdin.readline()
print(*first(lambda key: ledger.claim(key, 0.0)))
print(*first(lambda key: ledger.claim_occurrence(key, 0.0, among=Among(0.0, 0.0))))
print(ledger.errors, file=sys.stderr)
"""


def test_processes_that_race_win_each_key_exactly_once(path: Path) -> None:
    SQLiteLedger(str(path), 9).clear()
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(path), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (1, 2, 3)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    ended = [racer.communicate(timeout=60) for racer in racers]
    errors = sum(int(err.splitlines()[-1]) for _, err in ended)
    for kind in (0, 1):
        won = [int(key) for out, _ in ended for key in out.splitlines()[kind].split()]
        assert set(won) == set(range(1500))
        assert len(won) - 1500 <= errors, "a key is won twice only where the ledger said that it failed"
    assert errors <= 90, "1 % at full speed, which is far beyond what Discord sends"


class TestFaults:
    """Each is counted, logged once a burst, and costs no event."""

    def claims_go_on(self, ledger: SQLiteLedger, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.ERROR):
            assert all(ledger.claim(f"k{number}", 1.0) for number in range(5))
            assert ledger.claim_occurrence("d", 1.0, among=AMONG)
            assert ledger.claimed(["k1"]) == set()
            assert not ledger.pair("d", 1.0, among=AMONG)
            ledger.trim(2.0)
        assert ledger.errors >= 8
        assert ledger.won == 6
        assert len(caplog.records) == 1
        assert "events are handled without a claim" in caplog.text

    def test_a_directory_that_is_missing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with closing(SQLiteLedger(str(tmp_path / "gone" / "ledger.db"), 1)) as ledger:
            self.claims_go_on(ledger, caplog)

    def test_a_file_that_is_no_database(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        content = b"somebody's own, configured by mistake" * 100
        path.write_bytes(content)
        path.chmod(0o600)
        with closing(SQLiteLedger(str(path), 1)) as ledger:
            self.claims_go_on(ledger, caplog)
        assert path.read_bytes() == content

    def test_a_directory_that_is_not_writable(
        self, path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with not_writable(tmp_path), closing(SQLiteLedger(str(path), 1)) as ledger:
            self.claims_go_on(ledger, caplog)

    def test_a_lock_that_somebody_keeps_is_waited_for_once_a_second(
        self, pair: tuple[SQLiteLedger, SQLiteLedger], path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        ledger, _ = pair
        assert ledger.claim("before", 1.0)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            for _ in range(2):
                began = time.monotonic()
                for number in range(20):
                    assert ledger.claim(f"k{number}", 1.0)
                assert module.PATIENCE < time.monotonic() - began < 5 * module.PATIENCE
                ledger.trim(1.0)
            assert ledger.errors == 40, "that nothing is trimmed is no error"
            other.execute("ROLLBACK")
        assert ledger.claim("after", 1.0)
        assert ledger.errors == 40
        assert "locked" in caplog.text

    def test_a_lock_that_is_kept_for_a_moment_costs_no_claim(
        self, pair: tuple[SQLiteLedger, SQLiteLedger], path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "PATIENCE", 5.0)
        ledger, rival = pair
        assert rival.claim("k", 1.0)
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            release = threading.Timer(0.05, lambda: other.execute("ROLLBACK"))
            release.start()
            assert not ledger.claim("k", 1.0)
            release.join()
        assert ledger.errors == 0

    def test_a_full_disk_and_what_comes_after_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(module, "_REOPEN_SECONDS", 0.0)
        with small(tmp_path, "1m"):
            path = str(tmp_path / "ledger.db")
            with closing(SQLiteLedger(path, 1)) as old, closing(SQLiteLedger(path, 2)) as new:
                assert old.claim("before", 1.0)
                assert not new.claim("before", 1.0)
                with full(tmp_path):
                    handled = 0
                    while not old.errors:
                        assert old.claim(f"filling {handled}", 1.0)
                        handled += 1
                    failed = old.errors
                    for number in range(5):
                        assert old.claim(f"full {number}" * 1000, 1.0), "it is handled"
                    assert old.errors >= failed + 5
                    assert "full" in caplog.text
                    assert len(caplog.records) == 1
                failed = old.errors
                assert old.claim("after", 1.0)
                assert not new.claim("after", 1.0)
                assert not new.claim("before", 1.0), "what was claimed before is not forgotten"
                assert (old.errors, new.errors) == (failed, 0)

    GONE = (("", "-wal", "-shm"), ("",))

    @pytest.mark.parametrize("gone", GONE, ids=["all", "database"])
    @pytest.mark.parametrize("first", [0, 1])
    def test_children_whose_file_is_removed_meet_in_a_new_one_within_a_second(
        self,
        pair: tuple[SQLiteLedger, SQLiteLedger],
        path: Path,
        gone: tuple[str, ...],
        first: int,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(module, "_REOPEN_SECONDS", 0.0)
        old, new = pair
        assert old.claim("before", 1.0)
        assert not new.claim("before", 1.0)
        for suffix in gone:
            path.with_name(path.name + suffix).unlink()
        for ledger in (pair[first], pair[1 - first]):
            ledger.trim(2.0)
        assert old.claim("after", 2.0)
        assert not new.claim("after", 2.0)
        assert (old.errors, new.errors) == (1, 1)
        assert [("was removed or replaced" in one.message) for one in caplog.records] == [True, True]

    def test_a_directory_that_is_removed_and_comes_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(module, "_REOPEN_SECONDS", 0.0)
        directory = tmp_path / "directory"
        directory.mkdir()
        with closing(SQLiteLedger(str(directory / "ledger.db"), 1)) as ledger:
            assert ledger.claim("before", 1.0)
            shutil.rmtree(directory)
            ledger.trim(2.0)
            assert ledger.claim("meanwhile", 2.0)
            assert len(caplog.records) == 1
            failed = ledger.errors
            directory.mkdir()
            assert ledger.claim("after", 2.0)
            assert not ledger.claim("after", 2.0)
            assert ledger.errors == failed

    def test_a_file_that_is_overwritten_while_it_is_open_is_made_anew(
        self, pair: tuple[SQLiteLedger, SQLiteLedger], path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_REOPEN_SECONDS", 0.0)
        old, new = pair
        for number in range(100):
            assert old.claim(f"k{number}", 1.0)
        assert not new.claim("k1", 1.0)
        for suffix in self.GONE[0]:
            file = path.with_name(path.name + suffix)
            with file.open("r+b") as opened:
                opened.write(os.urandom(file.stat().st_size))
        for number in range(100):
            assert old.claim(f"after {number}", 1.0) or new.claim(f"after {number}", 1.0), "somebody handles it"
        for _ in range(2):
            for ledger in pair:
                ledger.trim(2.0)
        failed = old.errors + new.errors
        assert failed > 0
        assert old.claim("at last", 2.0)
        assert not new.claim("at last", 2.0)
        assert old.errors + new.errors == failed


def keys_in(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as db:
        return {row[0] for row in db.execute("SELECT key FROM claims UNION SELECT digest FROM occurrences")}


def test_old_claims_are_trimmed_and_those_of_before_the_machine_started(path: Path) -> None:
    now = 10_000.0
    with closing(SQLiteLedger(str(path), 1)) as ledger:
        for name, at in (("old", now - module.KEPT_SECONDS - 1), ("young", now - 1), ("of before", 5 * now)):
            assert ledger.claim(name, at)
            assert ledger.claim_occurrence(f"{name} digest", at, among=Among(at, at))
        assert ledger.trim(now)
        assert keys_in(path) == {"young", "young digest"}
        assert not ledger.trim(now)
        assert ledger.trim(now, kept=0.5)
    assert keys_in(path) == set()


def test_a_trim_that_finds_the_ledger_locked_is_no_error_and_is_made_up_for(path: Path) -> None:
    with closing(SQLiteLedger(str(path), 1)) as ledger:
        assert ledger.claim("old", 1.0)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            ledger.trim(5000.0)
            assert time.monotonic() - began < module.PATIENCE
            other.execute("ROLLBACK")
        assert ledger.errors == 0
        ledger.trim(5000.0)
    assert keys_in(path) == set()
