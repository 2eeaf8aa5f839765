"""Whoever reads the log may stand still, be gone, or never have been there: bots, commands and signals go on."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from installed import PATIENCE, installed

from bastion.supervisor import reexec

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (?:supervisor|gen \d+): .")
NUMBERED = re.compile(r" gen (\d+): (\d{6}) x{80}$")
FLOOD = 20_000
"""Lines of 115 bytes with their prefix: twice what is kept for a reader."""
FITS = 4_000
"""Lines of which none is lost, however slow the reader is: lines are taken again once half of the room is free."""


class Reader:
    """A pipe for the log, from which nobody reads at first."""

    def __init__(self) -> None:
        self.descriptor, self.writer = os.pipe()
        self.lines: list[str] = []
        self._thread = threading.Thread(target=self._read)

    def go_on(self) -> None:
        """Read from now on. All lines are there when the supervisor has ended."""
        os.close(self.writer)
        self.writer = -1
        self._thread.start()

    def leave(self) -> None:
        """Go away, without having read."""
        os.close(self.descriptor)
        self.descriptor = -1

    def close(self) -> None:
        """Close what is open, if nobody reads."""
        if self.writer >= 0:
            os.close(self.writer)
            if self.descriptor >= 0:
                self.leave()

    def _read(self) -> None:
        with os.fdopen(self.descriptor, "rb") as pipe:
            for line in pipe:
                self.lines.append(line.decode().rstrip("\n"))

    def rest(self) -> list[str]:
        """Return all lines, once the supervisor has ended."""
        self._thread.join(PATIENCE)
        return self.lines

    def numbers(self, generation: int) -> list[int]:
        """Return the numbers of a flood that have come."""
        found = (NUMBERED.search(line) for line in self.lines)
        return [int(one[2]) for one in found if one and int(one[1]) == generation]


@pytest.fixture
def reader() -> Iterator[Reader]:
    reader = Reader()
    yield reader
    reader.close()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_reader_that_stands_still_loses_lines_and_nobody_else_anything(tmp_path: Path, reader: Reader) -> None:
    with installed(tmp_path, f"flood={FLOOD}", start=False) as it:
        it.start(output=reader.writer)
        it.serving(1)
        assert it.reload()["result"] == "succeeded"
        it.serving(2)
        reader.go_on()
        until(lambda: any("lines dropped" in line for line in reader.lines))
        it.configure(bot__args=[f"flood={FITS}"])
        assert it.reload()["result"] == "succeeded"
        assert it.stop() == 0
    lines = reader.rest()
    greeting = next(line for line in lines if line.startswith("supervisor "))
    assert not [line for line in lines if line != greeting and not LINE.match(line)]
    (dropped,) = (line for line in lines if "dropped" in line)
    assert re.search(r"Z supervisor: [\d,]{5,} lines dropped: nobody read them fast enough for \d+ s$", dropped)
    assert reader.numbers(1) == list(range(len(reader.numbers(1))))
    assert reader.numbers(3) == list(range(FITS))


def test_the_end_does_not_wait_for_a_reader_that_stands_still(tmp_path: Path, reader: Reader) -> None:
    with installed(tmp_path, f"flood={FLOOD}", start=False) as it:
        it.start(output=reader.writer)
        it.serving(1)
        began = time.monotonic()
        assert it.stop() == 0
        assert time.monotonic() - began < 5.0


def test_what_is_not_read_yet_survives_a_re_execution_whole_and_in_order(tmp_path: Path, reader: Reader) -> None:
    with installed(tmp_path, "flood=5000", start=False) as it:
        it.start(output=reader.writer)
        it.serving(1)
        it.signal(signal.SIGUSR2)
        it.until(lambda: reexec.VARIABLE in psutil.Process(it.pid).environ() and it.child())
        reader.go_on()
        until(lambda: any("re-executed: supervisor" in line for line in reader.lines))
        assert it.stop() == 0
    reader.rest()
    assert reader.numbers(1) == list(range(5000))


REDIRECTIONS = [
    "<&- >&- 2>&-",
    ">/dev/full 2>&1",
    *(pytest.param(one, marks=pytest.mark.wide) for one in (">&-", "2>&-", ">&- 2>&-", ">/dev/full", "2>/dev/full")),
]


@pytest.mark.parametrize("redirected", REDIRECTIONS)
def test_streams_that_are_closed_or_full_stop_no_bot(tmp_path: Path, redirected: str) -> None:
    with installed(tmp_path, start=False) as it:
        it.start(redirected=redirected)
        it.serving(1)
        assert it.reload()["result"] == "succeeded"
        targets = {str(Path(f"/proc/{it.pid}/fd/{number}").readlink()).partition(":")[0] for number in range(3)}
        assert targets <= {"/dev/null", "/dev/full", "pipe"}
        it.signal(signal.SIGUSR2)
        it.until(lambda: reexec.VARIABLE in psutil.Process(it.pid).environ() and it.child())
        assert it.reload()["result"] == "succeeded"
        assert it.stop() == 0


def test_a_reader_that_has_gone_stops_no_bot(tmp_path: Path, reader: Reader) -> None:
    reader.leave()
    with installed(tmp_path, start=False) as it:
        it.start(output=reader.writer)
        it.serving(1)
        assert it.reload()["result"] == "succeeded"
        assert it.stop() == 0


FORGED = "2026-01-01T00:00:00Z supervisor: generation 9 is active"
"""What a line of the supervisor's looks like."""


def test_no_text_of_a_bots_looks_like_a_line_of_the_supervisors(tmp_path: Path) -> None:
    says = "".join(
        f"x{separator}{FORGED}" for separator in ("\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\x1b[2K\x1b[1G")
    )
    words = (f"print={says}", "fatal=ready", f"reason=x\n{FORGED}")
    with installed(tmp_path, *words, start=False) as it:
        it.start()
        it.logged("generation 1 has left")
        assert it.process is not None
        it.process.terminate()
        it.process.wait(PATIENCE)
    assert FORGED in it.text
    assert not [line for line in it.text.splitlines() if line.startswith(FORGED[:20])]
    assert "\x1b" not in it.text


TERMINAL = """
import os, signal, subprocess, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
with open(sys.argv[1] + "/pid", "w") as file:
    process = subprocess.Popen(sys.argv[2:])
    file.write(str(process.pid))
process.wait()
"""
"""A shell of whose session the terminal is."""


def test_the_end_of_its_terminal_is_a_reload_and_the_bot_goes_on(tmp_path: Path) -> None:
    with installed(tmp_path, start=False) as it:
        ours, theirs = pty.openpty()
        words = [sys.executable, "-m", "bastion.supervisor", "run", "--config", str(it.config)]
        # setsid: the terminal becomes that of this session, as under sshd.
        shell = subprocess.Popen(
            [*("setsid", "--ctty", sys.executable, "-c", TERMINAL, str(tmp_path)), *words],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=tmp_path,
            env={**os.environ, "DISCORD_TOKEN": "x" * 20, "PYTHONPATH": str(tmp_path / "lib")},
        )
        os.close(theirs)
        it.process = shell  # type: ignore[assignment]
        it.serving(1)
        supervisor = psutil.Process(int((tmp_path / "pid").read_text()))
        try:
            os.close(ours)
            shell.wait(PATIENCE)
            deadline = time.monotonic() + PATIENCE
            while it.status()["last_handoff"] is None or it.status()["last_handoff"]["result"] is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert it.status()["last_handoff"]["kind"] == "reload"
            assert it.status()["last_handoff"]["result"] == "succeeded"
            supervisor.terminate()
            psutil.wait_procs([supervisor], timeout=PATIENCE)
            assert not supervisor.is_running()
        finally:
            if supervisor.is_running():
                for process in (*supervisor.children(recursive=True), supervisor):
                    process.kill()
