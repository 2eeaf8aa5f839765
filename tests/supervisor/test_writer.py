"""Nobody waits for whoever reads what is written; what is lost is counted."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bastion.supervisor.writer import Writer

SECONDS = 10.0


class Pipe:
    """A pipe of 64 KiB, of which this test is the reader."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def read(self) -> bytes:
        """Take what is there."""
        with suppress(BlockingIOError):
            return os.read(self.reader, 1024 * 1024)
        return b""

    def read_until(self, end: bytes) -> bytes:
        """Read until something came at the end."""
        found, deadline = b"", time.monotonic() + SECONDS
        while not found.endswith(end):
            assert time.monotonic() < deadline, found[-200:]
            found += self.read()
            time.sleep(0.001)
        return found

    def full(self) -> bool:
        """Whether nothing more fits. Not a count of bytes: short pieces take a page each, and fill it early."""
        return not select.select([], [self.writer], [], 0)[1]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for fd in (pipe.writer, pipe.reader):
        with suppress(OSError):
            os.close(fd)


def lines(count: int, *, first: int = 0) -> list[bytes]:
    return [f"{number:06} {'x' * 92}\n".encode() for number in range(first, first + count)]  # 100 bytes each


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("blocking", [True, False])
def test_everything_comes_in_order_though_the_reader_is_late(pipe: Pipe, blocking: bool) -> None:
    os.set_blocking(pipe.writer, blocking)
    writer, said = Writer(pipe.writer), lines(5_000)
    for line in said:
        writer.put(line)
    until(pipe.full)
    assert pipe.read_until(said[-1]) == b"".join(said)


def test_a_reader_that_stands_still_keeps_nobody_and_is_told_what_it_missed(pipe: Pipe) -> None:
    writer, said = Writer(pipe.writer, limit=200_000), lines(5_000)
    for line in said[:1_000]:
        writer.put(line)
    until(pipe.full)
    for line in said[1_000:]:
        writer.put(line)
    found = pipe.read_until(b" s\n").splitlines()
    kept = [line for line in found if b"x" in line]
    assert kept == [line.rstrip() for line in said[: len(kept)]]
    assert found[-1] == f"{5_000 - len(kept):,} lines dropped: nobody read them fast enough for 0 s".encode()
    writer.put(b"later\n")
    assert pipe.read_until(b"later\n") == b"later\n"


def test_what_is_kept_is_bounded(pipe: Pipe) -> None:
    writer, said = Writer(pipe.writer, limit=20_000), lines(20_000)
    while not pipe.full():  # before it is, all of it may be written and nothing kept
        writer.put(said[0])
    for line in said:
        writer.put(line)
    assert 0 < len(writer.hold()) <= 20_000


def test_of_a_reader_that_is_slow_each_gap_is_told_once_and_the_counts_are_right(pipe: Pipe) -> None:
    writer, said = Writer(pipe.writer, limit=20_000), lines(5_000)
    found = b""
    for number, line in enumerate(said):
        writer.put(line)
        if number % 50 == 0:
            found += pipe.read()
            time.sleep(0.0005)
    writer.put(b"end\n")
    until(lambda: not writer._unwritten or pipe.full())
    found += pipe.read()
    until(lambda: not writer._unwritten)
    found += pipe.read()
    gaps = [line for line in found.splitlines() if b"dropped" in line]
    kept = [line for line in found.splitlines() if b"x" in line]
    dropped = sum(int(gap.split()[0].replace(b",", b"")) for gap in gaps)
    assert len(kept) + dropped + found.endswith(b"end\n") in (5_000, 5_001)
    assert len(gaps) < 100


def test_a_disk_that_was_full_gets_whole_lines_again_and_the_count(tmp_path: Path) -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    writer = Writer(fd)
    for number, line in enumerate(lines(3), 1):
        writer.put(line)
        until(lambda number=number: writer._gap.lines == number)
    file = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(file, fd)
    writer.put(b"again\n")
    until((tmp_path / "log").read_bytes)
    writer.flush(SECONDS)
    os.close(file)
    os.close(fd)
    what = "3 lines dropped: they could not be written (No space left on device) for 0 s"
    assert (tmp_path / "log").read_text().splitlines() == ["again", what]


def test_a_reader_that_has_gone_is_no_error(pipe: Pipe) -> None:
    writer = Writer(pipe.writer)
    os.close(pipe.reader)
    for line in lines(100):
        writer.put(line)
    writer.flush(SECONDS)
    assert not writer._unwritten


def test_held_is_all_that_is_unwritten_and_nothing_that_is(pipe: Pipe) -> None:
    writer, said = Writer(pipe.writer), lines(2_000)
    for line in said:
        writer.put(line)
    until(pipe.full)
    held = writer.hold()  # by now, nothing would be written that is not in the pipe: the process may execute another
    assert pipe.read() + held == b"".join(said)


def test_it_goes_on_after_it_was_held(pipe: Pipe) -> None:
    writer = Writer(pipe.writer)
    assert writer.hold() == b""
    writer.put(b"one\n")
    assert pipe.read() == b""
    writer.release()
    assert pipe.read_until(b"\n") == b"one\n"


def test_its_thread_takes_no_signal(pipe: Pipe) -> None:
    before = set(threading.enumerate())
    Writer(pipe.writer)
    (made,) = set(threading.enumerate()) - before
    status = Path(f"/proc/self/task/{made.native_id}/status").read_text()
    blocked = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk")), 16)
    assert blocked & (1 << 0) and blocked & (1 << 14) and blocked & (1 << 21)  # noqa: PT018 - HUP, TERM, TTOU
