"""PID 1 of a container whose start fails: the engine starts it again, so it does not hurry."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bastion.supervisor import pause

RUN = (sys.executable, "-m", "bastion.supervisor", "run")
IN_A_CONTAINER = ("unshare", "--pid", "--fork", "--kill-child")
BROKEN = "[bot\n"


def why_not() -> str | None:
    """Say why no process can be PID 1 here, or None."""
    if shutil.which("unshare") is None:
        return "there is no unshare(1)"
    done = subprocess.run((*IN_A_CONTAINER, "true"), capture_output=True, check=False)
    return f"no process can be made PID 1 here: {done.stderr.decode()}" if done.returncode else None


@contextmanager
def started(directory: Path, *words: str, pid_1: bool = True) -> Iterator[subprocess.Popen[str]]:
    """Run the supervisor with a file that it cannot read."""
    (directory / "bastion.toml").write_text(BROKEN)
    command = (*IN_A_CONTAINER, *RUN) if pid_1 else RUN
    with subprocess.Popen((*command, *words), cwd=directory, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str], text: str) -> list[str]:
    """Read until a line has the text."""
    assert process.stderr is not None
    read: list[str] = []
    while not read or text not in read[-1]:
        line = process.stderr.readline()
        assert line, f"it ended with {process.wait()} and has said {read}"
        read.append(line)
    return read


def child_of(process: subprocess.Popen[str]) -> int:
    """Return the pid, here, of the process that is PID 1 there."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())


needs_pid_1 = pytest.mark.skipif(os.geteuid() != 0 or why_not() is not None, reason=why_not() or "it takes root")


@needs_pid_1
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_why_and_waits_and_a_stop_ends_the_wait_at_once(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path) as process:
        said = lines(process, "waits 20 s, then exits with 78")
        assert "bastion.toml: not valid TOML" in said[0]
        began = time.monotonic()
        os.kill(child_of(process), number)
        assert process.wait(pause.SECONDS / 2) == 78
        assert time.monotonic() - began < 2


@needs_pid_1
def test_a_command_line_that_is_wrong_is_not_tried_in_a_hurry_either(tmp_path: Path) -> None:
    with started(tmp_path, "--no-such-option") as process:
        said = lines(process, "waits 20 s, then exits with 2")
        assert "No such option" in "".join(said)


def test_another_process_exits_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with started(tmp_path, pid_1=False) as process:
        assert process.wait(pause.SECONDS / 2) == 78
        assert "PID 1" not in (process.stderr.read() if process.stderr else "")
    assert time.monotonic() - began < pause.SECONDS / 2


@needs_pid_1
@pytest.mark.wide
@pytest.mark.timeout(90)
def test_it_starts_at_most_three_times_a_minute(tmp_path: Path) -> None:
    """Whoever starts it again does so at once."""
    began, starts = time.monotonic(), 0
    while time.monotonic() - began < 60:
        starts += 1
        with started(tmp_path) as process:
            lines(process, "waits 20 s")
            if starts == 3:
                break
            assert process.wait(pause.SECONDS * 2) == 78
    assert time.monotonic() - began > 2 * pause.SECONDS
