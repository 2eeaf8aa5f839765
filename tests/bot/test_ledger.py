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
from contextlib import ExitStack, closing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from mounts import full, not_writable, small

from bastion.bot import ledger as module
from bastion.bot.keys import Claimed
from bastion.bot.ledger import SQLiteLedger, number_key


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


def test_a_counted_claim_tells_the_others_where_it_stood(pair: tuple[SQLiteLedger, SQLiteLedger]) -> None:
    old, new = pair
    assert old.claim_number("digest", 1, "", 1.0)
    assert old.claim_number("digest", 2, "MESSAGE_CREATE:7", 2.0)
    assert old.claim_number("digest", 3, None, 3.0)
    assert not new.claim_number("digest", 2, "", 2.5)
    expected = [Claimed(1, "", 1.0), Claimed(2, "MESSAGE_CREATE:7", 2.0), Claimed(3, None, 3.0)]
    assert new.claimed_by_others("digest") == expected
    assert old.claimed_by_others("digest") == []
    assert new.claimed([number_key("digest", 2)]) == {number_key("digest", 2)}


def test_an_anchor_is_found_only_if_another_child_claimed_it(pair: tuple[SQLiteLedger, SQLiteLedger]) -> None:
    old, new = pair
    anchors = [f"MESSAGE_CREATE:{number}" for number in range(1200)]
    assert new.claim(anchors[0], 1.0)
    assert new.anchor_claimed_by_others(anchors) is None
    assert old.claim(anchors[1100], 2.5)
    assert new.anchor_claimed_by_others(anchors) == (anchors[1100], 2.5)


def test_it_is_known_when_another_child_received_what_it_claimed(pair: tuple[SQLiteLedger, SQLiteLedger]) -> None:
    old, new = pair
    keys = [f"INTERACTION_CREATE:{number}" for number in range(1200)]
    assert new.claim(keys[0], 1.0)
    assert old.claim(keys[1], 2.5)
    assert old.claim(keys[1100], 3.5)
    assert new.received_by_others(keys) == {keys[1]: 2.5, keys[1100]: 3.5}


def test_more_keys_than_one_query_takes_are_looked_up(pair: tuple[SQLiteLedger, SQLiteLedger]) -> None:
    old, new = pair
    keys = [f"k{number}" for number in range(2500)]
    for key in keys[::2]:
        old.claim(key, 1.0)
    assert new.claimed(keys) == set(keys[::2])


def test_clearing_forgets_every_claim(pair: tuple[SQLiteLedger, SQLiteLedger]) -> None:
    old, new = pair
    old.claim("k", 1.0)
    old.clear()
    assert new.claim("k", 2.0)


RACER = """
import sys
from bastion.bot.ledger import SQLiteLedger
ledger = SQLiteLedger(sys.argv[1], int(sys.argv[2]))
sys.stdin.readline()
print(*[key for key in range(3000) if ledger.claim(str(key), 0.0)])
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
    won = [int(key) for out, _ in ended for key in out.split()]
    assert set(won) == set(range(3000))
    assert len(won) - 3000 <= errors, "a key is won twice only where the ledger said that it failed"
    assert errors <= 90, "1 % at full speed, which is far beyond what Discord sends"


class TestFaults:
    """Each is counted, logged once a burst, and costs no event."""

    def claims_go_on(self, ledger: SQLiteLedger, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.ERROR):
            assert all(ledger.claim(f"k{number}", 1.0) for number in range(5))
            assert ledger.claim_number("d", 1, "", 1.0)
            assert ledger.claimed(["k1"]) == set()
            assert ledger.claimed_by_others("d") == []
            assert ledger.anchor_claimed_by_others(["k1"]) is None
            assert ledger.received_by_others(["k1"]) == {}
        assert ledger.errors == 10
        assert len(caplog.records) == 1
        assert "events are handled without a claim" in caplog.text

    def test_a_directory_that_is_missing(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with closing(SQLiteLedger(str(tmp_path / "gone" / "ledger.db"), 1)) as ledger:
            self.claims_go_on(ledger, caplog)

    def test_a_file_that_is_no_database(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path.write_bytes(b"this is not a database" * 100)
        with closing(SQLiteLedger(str(path), 1)) as ledger:
            self.claims_go_on(ledger, caplog)

    def test_a_lock_that_somebody_keeps(
        self, pair: tuple[SQLiteLedger, SQLiteLedger], path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        ledger, _ = pair
        assert ledger.claim("before", 1.0)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            began = time.monotonic()
            for number in range(20):
                assert ledger.claim(f"k{number}", 1.0)
            assert time.monotonic() - began < 1.0, "the event loop is held up once, not at each claim"
            assert ledger.errors == 20
            other.execute("ROLLBACK")
        assert ledger.claim("after", 1.0)
        assert ledger.errors == 20
        assert "locked" in caplog.text

    def test_a_lock_whose_holder_is_put_off_by_a_busy_machine_costs_no_claim(
        self, pair: tuple[SQLiteLedger, SQLiteLedger], path: Path
    ) -> None:
        ledger, rival = pair
        assert rival.claim("k", 1.0)
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            release = threading.Timer(0.1, lambda: other.execute("ROLLBACK"))
            release.start()
            assert not ledger.claim("k", 1.0)
            release.join()
        assert ledger.errors == 0

    def test_two_that_race_for_a_long_time_lose_no_patience_with_each_other(
        self, pair: tuple[SQLiteLedger, SQLiteLedger], path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A thousand waits of a millisecond each are no lock that somebody keeps."""
        ledger, _ = pair
        assert ledger.claim("before", 1.0)
        now, left = time.monotonic(), 0

        def sleep(seconds: float) -> None:
            nonlocal now, left
            now, left = now + seconds, left - 1
            if not left:
                other.execute("ROLLBACK")

        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            for number in range(1000):
                other.execute("BEGIN IMMEDIATE")
                left = 5
                assert ledger.claim(f"k{number}", 1.0)
                assert left == 0
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
                    assert (
                        len([one for one in caplog.records if "events are handled without a claim" in one.message]) == 1
                    )
                    assert "full" in caplog.text
                    assert len(caplog.records) == 1
                failed = old.errors
                assert old.claim("after", 1.0)
                assert not new.claim("after", 1.0)
                assert not new.claim("before", 1.0), "what was claimed before is not forgotten"
                assert not new.claim(f"full {4}" * 1000, 1.0), "nor what was handled meanwhile"
                assert new.claim("new", 1.0)
                assert not old.claim("new", 1.0)
                assert (old.errors, new.errors) == (failed, 0)

    def test_a_directory_that_is_not_writable(
        self, path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with not_writable(tmp_path), closing(SQLiteLedger(str(path), 1)) as ledger:
            self.claims_go_on(ledger, caplog)

    def test_a_directory_that_is_not_writable_any_more_and_then_again(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(module, "_REOPEN_SECONDS", 0.0)
        monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
        with closing(SQLiteLedger(str(path), 1)) as old, closing(SQLiteLedger(str(path), 2)) as new:
            assert old.claim("before", 1.0)
            with not_writable(tmp_path):
                assert old.claim("k", 1.0), "who has the file open goes on"
                assert old.errors == 0
                assert new.claim("l", 1.0)
                assert new.claim("m", 1.0)
                assert new.errors == 2
                assert len(caplog.records) == 1
            assert not new.claim("k", 1.0)
            assert not old.claim("l", 1.0), "what was handled meanwhile is not handled again"
            assert (old.errors, new.errors) == (0, 2)

    GONE = (("", "-wal", "-shm"), ("",), ("-wal",), ("-shm",))

    @pytest.mark.parametrize("gone", GONE, ids=["all", "database", "wal", "shm"])
    @pytest.mark.parametrize("first", ["old", "new", "newcomer"])
    def test_a_file_that_is_removed_while_it_is_open(
        self,
        path: Path,
        gone: tuple[str, ...],
        first: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
        with ExitStack() as stack:
            old, new, newcomer = (stack.enter_context(closing(SQLiteLedger(str(path), number))) for number in (1, 2, 3))
            for number in range(100):
                assert old.claim(f"k{number}", 1.0)
                assert old.claim_number("digest", number, f"k{number}", 1.0)
            old.note("note", "value")
            assert not new.claim("k1", 1.0)
            for suffix in gone:
                path.with_name(path.name + suffix).unlink()
            for one in {"old": (old, new), "new": (new, old), "newcomer": (newcomer, old, new)}[first]:
                one.check()
            newcomer.check()
            newcomer.check()
            for ledger in (old, new, newcomer):
                assert ledger.claimed([f"k{number}" for number in range(100)]) == {
                    f"k{number}" for number in range(100)
                }
                assert ledger.noted("note") == "value"
            assert len(newcomer.claimed_by_others("digest")) == 100
            for number, (winner, others) in enumerate(((old, (new, newcomer)), (new, (old,)), (newcomer, (old, new)))):
                assert winner.claim(f"after {number}", 2.0)
                assert not any(other.claim(f"after {number}", 2.0) for other in others)
            assert old.errors == new.errors == 1
            assert newcomer.errors <= 1, "it may have opened what is left"
            assert sum("was removed or replaced" in one.message for one in caplog.records) >= 2
            assert len(caplog.records) == 2 + newcomer.errors

    def test_a_claim_finds_out_that_the_file_is_gone(
        self, pair: tuple[SQLiteLedger, SQLiteLedger], path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
        old, new = pair
        assert old.claim("before", 1.0)
        assert not new.claim("before", 1.0)
        path.unlink()
        assert new.claim("after", 1.0)
        assert not new.claim("before", 1.0)
        assert not old.claim("after", 1.0)
        assert (old.errors, new.errors) == (1, 1)

    def test_a_directory_that_is_removed_and_comes_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
        monkeypatch.setattr(module, "_REOPEN_SECONDS", 0.0)
        directory = tmp_path / "directory"
        directory.mkdir()
        path = str(directory / "ledger.db")
        with closing(SQLiteLedger(path, 1)) as old, closing(SQLiteLedger(path, 2)) as new:
            assert old.claim("before", 1.0)
            assert not new.claim("before", 1.0)
            shutil.rmtree(directory)
            assert old.claim("meanwhile", 1.0)
            assert old.claim("meanwhile too", 1.0)
            assert old.errors == 3, "one that it is gone, two that there is no other"
            assert len(caplog.records) == 1
            directory.mkdir()
            assert not old.claim("before", 1.0)
            for key in ("before", "meanwhile", "meanwhile too"):
                assert not new.claim(key, 1.0)
            assert (old.errors, new.errors) == (3, 1)

    def test_a_window_that_closes_forgets_also_what_was_removed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
        monkeypatch.setattr(module, "_REOPEN_SECONDS", 0.0)
        directory = tmp_path / "directory"
        directory.mkdir()
        with closing(SQLiteLedger(str(directory / "ledger.db"), 1)) as ledger:
            assert ledger.claim("k", 1.0)
            ledger.note("note", "value")
            shutil.rmtree(directory)
            ledger.clear()
            directory.mkdir()
            assert ledger.claim("k", 1.0)
            assert ledger.noted("note") == "value"

    @pytest.mark.parametrize("garbled", GONE[:2], ids=["all", "database"])
    def test_a_file_that_is_overwritten_while_it_is_open(
        self, path: Path, garbled: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)
        with ExitStack() as stack:
            old, new, newcomer = (stack.enter_context(closing(SQLiteLedger(str(path), number))) for number in (1, 2, 3))
            for number in range(100):
                assert old.claim(f"k{number}", 1.0)
            assert not new.claim("k1", 1.0)
            if garbled == ("",):  # else SQLite finds all that it needs in the -wal, and nothing is wrong
                with closing(sqlite3.connect(path)) as db:
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for suffix in garbled:
                file = path.with_name(path.name + suffix)
                with file.open("r+b") as opened:
                    opened.write(os.urandom(file.stat().st_size))
            for _ in range(2):
                for ledger in (newcomer, new, old):
                    ledger.check()
                    ledger.claimed(["k1"])
            for number in range(100):
                assert not any(ledger.claim(f"k{number}", 1.0) for ledger in (newcomer, new, old))
            for number, winner in enumerate((old, new, newcomer)):
                assert [ledger.claim(f"after {number}", 1.0) for ledger in (winner, old, new, newcomer)].count(
                    True
                ) == 1
            assert sum("is damaged" in one.message for one in caplog.records) == 1
            assert sum(ledger.errors for ledger in (old, new, newcomer)) >= 2
            assert len(caplog.records) <= 3, "one of each at most"
            assert path.with_name(path.name + "-damaged").exists()

    def test_a_file_that_is_no_ledger_is_left_as_it_is(self, path: Path) -> None:
        content = b"somebody's own, configured by mistake" * 100
        path.write_bytes(content)
        with closing(SQLiteLedger(str(path), 1)) as ledger:
            for number in range(3):
                assert ledger.claim(str(number), 1.0)
        assert path.read_bytes() == content
        assert list(path.parent.iterdir()) == [path]

    def test_a_file_that_was_corrupted_is_opened_anew_when_it_is_whole_again(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "_REOPEN_SECONDS", 0.0)
        path.write_bytes(b"this is not a database" * 100)
        with closing(SQLiteLedger(str(path), 1)) as ledger:
            assert ledger.claim("k", 1.0)
            path.unlink()
            assert not ledger.claim("k", 1.0), "it was handled, though not claimed"
            assert ledger.claim("l", 1.0)
            assert ledger.errors == 1


def keys_in(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as db:
        return {row[0] for row in db.execute("SELECT key FROM claims")}


def test_old_claims_are_trimmed_but_for_the_newest_of_each_digest(
    pair: tuple[SQLiteLedger, SQLiteLedger], path: Path
) -> None:
    old, new = pair
    for at in range(10):
        old.claim(f"MESSAGE_CREATE:{at}", float(at))
        old.claim_number("counted", at + 1, "", float(at))
    new.claim_number("forgotten", 1, "", 0.5)
    new.claim_number("resting", 1, "", 4.0)
    new.trim(8.0, idle=1.0, counts=lambda digest: digest == "counted")
    assert keys_in(path) == {"MESSAGE_CREATE:8", "MESSAGE_CREATE:9", "counted#9", "counted#10", "resting#1"}
    new.trim(20.0, idle=5.0, counts=lambda digest: digest == "counted")
    assert keys_in(path) == {"counted#10"}
    assert new.forget(["counted"])
    assert keys_in(path) == set()
    assert (old.errors, new.errors) == (0, 0)


def test_each_trim_looks_at_some_of_the_claims_and_a_few_trims_at_all(
    pair: tuple[SQLiteLedger, SQLiteLedger], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever their order: claims lie by key, not by age."""
    monkeypatch.setattr("bastion.bot.ledger._SWEEP", 4)
    old, new = pair
    for number in range(40):
        old.claim(f"MESSAGE_CREATE:{number:02}", 1.0 + number % 2)
    for number in range(1, 10):
        old.claim_number("digest", number, "", 1.0)
    left = [len(keys_in(path))]
    for _ in range(14):
        new.trim(2.0, idle=0.0, counts=lambda _: False)
        left.append(len(keys_in(path)))
    assert all(0 <= before - after <= 5 for before, after in pairwise(left))
    assert left[-1] == 21, "the younger half, and the newest of the digest"
    for _ in range(14):
        new.trim(3.0, idle=2.0, counts=lambda _: False)
    assert keys_in(path) == set()


def test_a_trim_looks_at_more_where_more_is_claimed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bastion.bot.ledger._SWEEP", 1)
    only = SQLiteLedger(str(path), 1)
    for second in range(200):
        for number in range(10):
            only.claim(f"MESSAGE_CREATE:{second * 7919 % 199:03}{second}{number}", float(second))
        only.trim(second - 60.0, idle=0.0, counts=lambda _: True)
        assert len(keys_in(path)) <= 10 * (60 + 60 / 2 + 2)
    only.close()


def test_a_trim_that_finds_the_ledger_locked_is_no_error_and_is_made_up_for(
    pair: tuple[SQLiteLedger, SQLiteLedger], path: Path
) -> None:
    old, new = pair
    old.claim("MESSAGE_CREATE:1", 1.0)
    old.claim_number("digest", 1, "", 1.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        new.trim(5.0, idle=2.0, counts=lambda _: False)
        assert not new.forget(["digest"])
        assert time.monotonic() - began < 0.25, "it has waited for as long as patience lasts"
    assert len(keys_in(path)) == 2
    new.trim(5.0, idle=2.0, counts=lambda _: False)
    assert keys_in(path) == set()
    assert new.errors == 0


def test_a_child_is_past_what_it_claimed_what_it_found_claimed_and_what_is_old(path: Path) -> None:
    with closing(SQLiteLedger(str(path), 1)) as old, closing(SQLiteLedger(str(path), 2)) as new:
        assert new.past("d", 0.0) == 0
        for number in (1, 2, 3, 4):
            assert old.claim_number("d", number, "", 10.0 + number)
        assert (new.past("d", 0.0), new.past("d", 12.5), old.past("d", 0.0)) == (0, 2, 4)
        assert not new.claim_number("d", 3, "", 13.1)
        assert not new.claim_number("d", 2, "", 13.2)
        assert new.past("d", 12.5) == 3
        assert new.claim_number("d", 5, "", 15.0)
        assert (new.past("d", 0.0), old.past("d", 0.0)) == (5, 4)


@pytest.mark.parametrize("how", ["forget", "clear"])
def test_what_a_child_found_claimed_is_forgotten_with_the_claims(path: Path, how: str) -> None:
    with closing(SQLiteLedger(str(path), 1)) as old, closing(SQLiteLedger(str(path), 2)) as new:
        assert old.claim_number("d", 1, "", 1.0)
        assert not new.claim_number("d", 1, "", 1.0)
        if how == "forget":
            assert old.forget(["d"])
        else:
            old.clear()
        assert new.past("d", 0.0) == 0
