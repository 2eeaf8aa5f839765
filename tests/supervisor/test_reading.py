"""Files that an operator names are read within a time, or it is said which one was not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hung import hung

from bastion.supervisor import reading
from bastion.supervisor.reading import UnansweredError, answered, content

SOON = 0.1


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PATIENCE", SOON)


@pytest.fixture
def never() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_look_returns_or_raises_what_it_comes_to() -> None:
    assert answered("it", lambda: 3) == 3
    assert answered("it", lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        answered("it", lambda: 1 / 0)


def test_one_that_hangs_is_given_up_and_named(soon: None, never: threading.Event) -> None:
    with pytest.raises(UnansweredError, match=r"^/mnt/token: its file system has not answered for 0\.1 s$"):
        answered("/mnt/token", never.wait)
    assert answered("another", lambda: 3) == 3


def test_where_no_thread_is_to_be_had_it_is_looked_at_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert answered("it", lambda: 3) == 3


def test_the_program_ends_though_a_look_does_not() -> None:
    program = """
import threading
from bastion.supervisor import reading
reading.PATIENCE = 0.01
try:
    reading.answered("it", threading.Event().wait)
except reading.UnansweredError:
    print("given up")
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert (ended.stdout, ended.stderr) == ("given up\n", "")


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abcdef")
    assert content(path, what="it", limit=6) == b"abcdef"
    assert content(path, what="it", limit=2) == b"abc"


def test_only_a_regular_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path, said in (
            (tmp_path, "it is a directory"),
            (tmp_path / "pipe", "it is a pipe, which could not be read a second time"),
            (tmp_path / "socket", "it is no regular file"),
            (Path("/dev/zero"), "it is no regular file"),
            (tmp_path / "none", "No such file or directory"),
        ):
            with pytest.raises(OSError, match=said):
                content(path, what="it", limit=1)


def test_a_disk_that_hangs_is_given_up(tmp_path: Path, soon: None) -> None:
    with hung(tmp_path) as disk:
        with pytest.raises(UnansweredError, match="settings: its file system"):
            content(tmp_path / "bastion.toml", what="settings", limit=10)
        disk.mend()
        with pytest.raises(FileNotFoundError):
            content(tmp_path / "bastion.toml", what="settings", limit=10)
