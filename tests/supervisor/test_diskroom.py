"""Room for the ledger and the session files: what is looked at, and how a lack of it is named."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bastion.bot import sessions
from bastion.supervisor import diskroom

MIB = 1024**2


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


def has(monkeypatch: pytest.MonkeyPatch, *, free_mib: float, files: int = 100, files_left: int = 50) -> None:
    """A file system of 64 MiB."""
    blocks: dict[str, Any] = {"f_frsize": 1024, "f_blocks": 65536, "f_bavail": int(free_mib * 1024)}
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(**blocks, f_files=files, f_favail=files_left))


def test_a_session_file_is_smaller_than_what_is_reckoned_for_it() -> None:
    assert sessions._SIZE < diskroom.SESSION_FILE


def test_where_there_is_room_nothing_is_wrong(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, free_mib=8)
    assert diskroom.shortage(ledger) is None


def test_too_little_room_is_named_with_the_figures(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, free_mib=7.9)
    reason = diskroom.shortage(ledger) or ""
    assert f"too little room in {ledger.parent} for the ledger and the session files" in reason
    assert "they need 8.0 MiB, and 7.9 MiB of 64.0 MiB are free" in reason


def test_what_the_ledger_has_taken_already_it_need_not_take_again(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.with_name(f"{ledger.name}-wal").write_bytes(bytes(4 * MIB))
    has(monkeypatch, free_mib=4)
    assert diskroom.shortage(ledger) is None
    ledger.write_bytes(bytes(40 * MIB))
    has(monkeypatch, free_mib=0.9)
    assert "they need 1.0 MiB" in (diskroom.shortage(ledger) or "")


@pytest.mark.parametrize(("files", "left", "wrong"), [(100, 0, True), (100, 1, False), (0, 0, False)])
def test_a_file_system_has_no_room_for_one_more_file_if_it_counts_them_and_none_is_left(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, files: int, left: int, wrong: bool
) -> None:
    has(monkeypatch, free_mib=64, files=files, files_left=left)
    assert ("no room for one more file, all 100 are used" in (diskroom.shortage(ledger) or "")) is wrong


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    reason = diskroom.shortage(tmp_path / "gone" / "ledger.sqlite3") or ""
    assert f"there is no directory {tmp_path}/gone" in reason


def test_an_error_names_the_path_and_where_room_is_lacking_how_much_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, free_mib=0)
    full = OSError(errno.ENOSPC, "No space left on device")
    assert diskroom.named(full, tmp_path) == f"{tmp_path}: No space left on device (0 B of 64.0 MiB are free)"
    other = OSError(errno.EROFS, "Read-only file system", "/somewhere/file")
    assert diskroom.named(other, tmp_path) == "/somewhere/file: Read-only file system"
