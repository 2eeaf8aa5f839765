"""IDENTIFYs of bots of several supervisors: no two in one bucket within a window."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from pathlib import Path

import pytest

from bastion.supervisor import common_identifies
from bastion.supervisor.common_identifies import CommonIdentifies
from bastion.supervisor.identify import MARGIN, IdentifyQueue, Wish

WINDOW = 0.2


def queue(file: Path) -> IdentifyQueue:
    """One supervisor's."""
    return IdentifyQueue(window=WINDOW, clock=time.monotonic, common=CommonIdentifies(file))


def granted(of: IdentifyQueue) -> list[Wish]:
    """Wait for the next permits."""
    deadline = time.monotonic() + 5
    while not (found := of.grant(active=None)):
        due = of.next_due()
        assert due is not None
        assert time.monotonic() < deadline
        time.sleep(max(0.0, due - time.monotonic()))
    return found


def test_a_bucket_that_another_supervisors_bot_has_used_is_waited_for(tmp_path: Path) -> None:
    first, second = queue(tmp_path / "file"), queue(tmp_path / "file")
    first.ask(1, 0)
    second.ask(1, 0)
    assert granted(first) == [Wish(1, 0)]
    assert second.grant(active=None) == []
    first.identified(1, 0)
    at = time.monotonic()
    assert granted(second) == [Wish(1, 0)]
    assert time.monotonic() - at >= WINDOW


def test_another_bucket_is_not_waited_for(tmp_path: Path) -> None:
    first, second = queue(tmp_path / "file"), queue(tmp_path / "file")
    for one, shard in ((first, 0), (second, 1)):
        one.max_concurrency = 2
        one.ask(1, shard)
        assert one.grant(active=None) == [Wish(1, shard)]


def test_who_does_not_get_the_lock_asks_again_a_moment_later(tmp_path: Path) -> None:
    one = queue(tmp_path / "file")
    other = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(other, fcntl.LOCK_EX)
    one.ask(1, 0)
    assert one.grant(active=None) == []
    assert (one.next_due() or 0.0) < time.monotonic() + 0.1
    os.close(other)
    assert granted(one) == [Wish(1, 0)]


def test_one_that_stands_still_with_the_lock_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common_identifies, "LOCK_PATIENCE", 0.1)
    one = queue(tmp_path / "file")
    other = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(other, fcntl.LOCK_EX)
    one.ask(1, 0)
    assert granted(one) == [Wish(1, 0)]
    os.close(other)


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", bytes(8) + struct.pack("<qd", 0, time.monotonic() + 1e6), bytes(8) + struct.pack("<qd", 0, -1.0)],
    ids=["empty", "garbage", "of another boot", "before all time"],
)
def test_what_a_file_cannot_mean_is_waited_for_by_nobody(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    one = queue(tmp_path / "file")
    one.ask(1, 0)
    assert one.grant(active=None) == [Wish(1, 0)]


def test_where_there_can_be_no_file_the_limit_is_kept_for_oneself(tmp_path: Path) -> None:
    one = queue(tmp_path / "nowhere" / "file")
    one.ask(1, 0)
    one.ask(1, 1)
    assert one.grant(active=None) == [Wish(1, 0)]
    one.identified(1, 0)
    at = time.monotonic()
    assert granted(one) == [Wish(1, 1)]
    assert time.monotonic() - at >= WINDOW + MARGIN - 0.05


def test_the_newest_are_kept(tmp_path: Path) -> None:
    common = CommonIdentifies(tmp_path / "file")
    for number in range(600):
        common.note(number, time.monotonic())
    shards = {shard for shard, _ in common.used()}
    assert shards == set(range(600 - 256, 600))
    common.close()
