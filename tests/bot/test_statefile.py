"""The file that a stopped bot leaves: it says what was written, or that it cannot be used; half of it says nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from bastion import wire
from bastion.bot.session import statefile
from bastion.bot.session.statefile import Replay, Saved, StateFileError, Writing, read
from bastion.bot.session.stream import Kind, StreamError

pytestmark = pytest.mark.anyio

WANTS = wire.Wants(
    application=1,
    account="a",
    api_url="http://here",
    intents=7,
    shards=2,
    ids=[0, 1],
    any_count=False,
    library="2.7",
    stream=1,
    members=3,
    messages=True,
    chunks=True,
)


async def written(path: Path) -> Path:
    file = Writing(path, WANTS)
    for number in range(100):
        file.send(Kind.PAYLOAD, number % 2, b'{"number": %d}' % number)
    await file.room(0)
    file.send(Kind.NOTE, 0, b'{"note":"latency","seconds":0.1}')  # for a mirror, of which there is none
    await file.finish(notes={"presence": "online"}, state=b"json\n1")
    return path


async def test_what_was_written_is_read_once(tmp_path: Path) -> None:
    path = await written(tmp_path / "bot.saved")
    assert path.stat().st_mode & 0o777 == 0o600
    saved = read(path)
    assert list(tmp_path.iterdir()) == []
    assert saved.head.wants == WANTS
    assert saved.payloads == {
        shard: [b'{"number": %d}' % number for number in range(shard, 100, 2)] for shard in (0, 1)
    }
    assert (saved.state, saved.notes) == (b"json\n1", {"presence": "online"})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: b"", "none of ours"),
        (lambda data: b"#!/bin/sh\n" * 20, "none of ours"),
        (lambda data: data[:7] + b"\x02" + data[8:], "another version"),
        (lambda data: data[:-1], "damaged"),
        (lambda data: data[: len(data) // 2], "damaged"),
        (lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:], "damaged"),
        (lambda data: data + b"x", "damaged"),
    ],
    ids=["empty", "foreign", "newer", "cut", "half", "changed", "more"],
)
async def test_a_file_that_is_not_as_it_was_written_says_so_and_is_gone(tmp_path: Path, change: Any, why: str) -> None:
    path = await written(tmp_path / "bot.saved")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(StateFileError, match=why):
        read(path)
    assert not path.exists(), "it would be in the way of the next start too"


async def test_frames_that_make_no_sense_are_another_versions(tmp_path: Path) -> None:
    file = Writing(tmp_path / "bot.saved", WANTS)
    file.send(Kind.KEPT, 0, b"[]")
    await file.finish(notes={}, state=b"none\n")
    with pytest.raises(StateFileError, match="another version"):
        read(tmp_path / "bot.saved")


def test_a_file_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / "bot.saved").symlink_to(tmp_path / "elsewhere")
    for name in ("bot.saved", "nothing"):
        with pytest.raises(StateFileError, match="cannot be read"):
            read(tmp_path / name)


async def test_until_it_is_whole_there_is_no_file_and_one_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bot.saved"
    file = Writing(path, WANTS)
    await file.room(0)
    assert not path.exists()
    file.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StateFileError):
        await file.finish(notes={}, state=b"none\n")


async def test_a_disk_that_is_full_gives_the_file_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = Writing(tmp_path / "bot.saved", WANTS)

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(statefile.os, "write", full)
    with pytest.raises(StreamError, match="No space left on device"):
        await file.room(0)
    with pytest.raises(StateFileError, match="No space left on device"):
        await file.finish(notes={}, state=b"none\n")
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_is_sent_each_shard_once_and_discord_nothing() -> None:
    taken: list[tuple[Kind, int, bytes]] = []
    saved = Saved(head=statefile.Head(wants=WANTS, at=0.0), payloads={0: [b"a", b"b"], 1: [b"c"]})
    replay = Replay(saved, lambda *frame: taken.append(frame))
    replay.send(Kind.REQUEST, 0, b"members")
    replay.send(Kind.SNAPSHOT, 0, b"")
    replay.send(Kind.SNAPSHOT, 0, b"")
    assert taken == [(Kind.PAYLOAD, 0, b"a"), (Kind.PAYLOAD, 0, b"b")]
