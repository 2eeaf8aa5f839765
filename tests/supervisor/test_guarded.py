"""A command that is run to its end and of which nothing is left, however it ends and whoever is killed meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bastion.supervisor import guarded

STARTS = """
import os, subprocess, sys, time
for i in range(2):
    subprocess.Popen(["sleep", "600"])
subprocess.Popen(["sleep", "600"], process_group=0)
subprocess.Popen(["sleep", "600"], start_new_session=True)
subprocess.run("setsid sleep 600 > /dev/null 2>&1 &", shell=True)
with open("pids", "w") as file:
    file.write(f"{os.getpid()}")
os.rename("pids", "started")
"""
"""Starts processes in its group, out of its group, out of its session, and one that it is not the parent of."""


def run(source: str, directory: Path, *, timeout: float = 20.0) -> guarded.Done:
    return guarded.run([sys.executable, "-c", source], timeout=timeout, environ=os.environ, directory=directory)


def left(directory: Path) -> list[psutil.Process]:
    """Return the processes that work in a directory."""

    def works_here(process: psutil.Process) -> bool:
        try:
            return process.cwd() == str(directory)
        except psutil.Error:
            return False

    return [process for process in psutil.process_iter() if works_here(process)]


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_it_prints_and_its_exit_code_are_told(tmp_path: Path) -> None:
    done = run("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)", tmp_path)
    assert (done.code, done.out, done.last) == (3, "out\n", "err")


def test_a_signal_that_ends_it_is_told(tmp_path: Path) -> None:
    assert run("import os; os.kill(os.getpid(), 11)", tmp_path).code == 128 + signal.SIGSEGV


def test_of_what_it_prints_without_end_the_last_is_kept(tmp_path: Path) -> None:
    done = run("import sys; [print('x' * 1000, file=sys.stderr) for _ in range(5000)]; sys.exit('end')", tmp_path)
    assert len(done.last) <= guarded.LAST_BYTES
    assert done.last.endswith("end")


def test_a_command_that_is_not_there_is_told_from_one_that_fails(tmp_path: Path) -> None:
    done = guarded.run(["/nope"], timeout=5, environ={}, directory=tmp_path)
    assert (done.unstarted, done.last) == (True, "No such file or directory")


def test_nothing_that_it_started_is_left_when_it_has_ended(tmp_path: Path) -> None:
    assert run(STARTS, tmp_path).code == 0
    assert (tmp_path / "started").exists()
    assert left(tmp_path) == []


def test_nothing_that_it_started_is_left_when_its_time_is_over(tmp_path: Path) -> None:
    assert run(f"{STARTS}\ntime.sleep(600)", tmp_path, timeout=1.5).timed_out
    assert (tmp_path / "started").exists()
    assert left(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_that_it_started_is_left_when_whoever_asked_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    asks = f"""
import os, signal, sys
from pathlib import Path
from bastion.supervisor import guarded
signal.signal(signal.SIGINT, signal.default_int_handler)
source = {STARTS + "time.sleep(600)"!r}
guarded.run([sys.executable, "-c", source], timeout=600, environ=os.environ, directory=Path({str(tmp_path)!r}))
"""
    with subprocess.Popen([sys.executable, "-c", asks], stderr=subprocess.DEVNULL) as process:
        wait_until((tmp_path / "started").exists)
        assert len(left(tmp_path)) == 7, "the guard, the command and what it started: they are seen"
        process.send_signal(number)
        process.wait()
    wait_until(lambda: left(tmp_path) == [])
