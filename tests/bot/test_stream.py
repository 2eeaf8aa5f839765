"""The stream keeps order, proves both ends, and a mirror that misbehaves costs the holder nothing."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bastion.bot.session import stream
from bastion.bot.session.stream import Kind, Listener, Stream, StreamError, connect

pytestmark = pytest.mark.anyio

HOLDERS, MIRRORS = b"the holder's secret", b"the mirror's secret"


@dataclass
class End:
    """One end, and what it was told."""

    shows: bytes
    expects: bytes
    wanted: bool = True
    frames: list[tuple[Kind, int, bytes]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    stream: Stream | None = None

    def make(self) -> Stream:
        self.stream = Stream(
            shows=self.shows,
            expects=self.expects,
            on_frame=self._frame,
            on_lost=self._lost,
            on_open=lambda _: self.wanted,
        )
        return self.stream

    def _frame(self, kind: Kind, shard: int, body: bytes) -> None:
        if body == b"unreadable":
            raise KeyError("op")
        self.frames.append((kind, shard, body))
        self.news.set()

    def _lost(self, reason: str) -> None:
        self.lost.append(reason)
        self.news.set()

    async def until(self, count: int = 1) -> None:
        async with asyncio.timeout(5):
            while len(self.frames) + len(self.lost) < count:
                self.news.clear()
                await self.news.wait()

    def send(self, body: bytes, *, shard: int = 0, kind: Kind = Kind.PAYLOAD) -> None:
        assert self.stream is not None
        self.stream.send(kind, shard, body)


def holder() -> End:
    return End(shows=HOLDERS, expects=MIRRORS)


def mirror(**changes: bytes) -> End:
    return End(**({"shows": MIRRORS, "expects": HOLDERS} | changes))


def pause(end: End) -> None:
    """Let an end read nothing."""
    assert end.stream is not None
    assert end.stream._socket is not None
    asyncio.get_running_loop().remove_reader(end.stream._socket)


def resume(end: End) -> None:
    assert end.stream is not None
    assert end.stream._socket is not None
    asyncio.get_running_loop().add_reader(end.stream._socket, end.stream._readable)


async def meet(path: str, one: End, other: End) -> None:
    """Connect two ends, until the first one has got a frame."""
    connect(path, other.make())
    other.send(b"hello")
    await one.until()


@asynccontextmanager
async def listening(path: Path, end: End, *others: End) -> AsyncIterator[str]:
    listener = Listener(str(path / "stream.sock"), end.make)
    listener.open()
    try:
        yield str(path / "stream.sock")
    finally:
        listener.close()
        for one in (end, *others):
            if one.stream is not None:
                one.stream.close()


async def test_frames_arrive_whole_and_in_order_in_both_directions(tmp_path: Path) -> None:
    one, other = holder(), mirror()
    async with listening(tmp_path, one, other) as path:
        connect(path, other.make())
        bodies = [bytes([number % 251]) * (number * 37 % 5000) for number in range(2000)]
        for number, body in enumerate(bodies):
            other.send(body, shard=number % 7, kind=Kind.REQUEST)
        await one.until(2000)
        one.send(b"x" * 3_000_000, shard=65535)
        await other.until()
        assert one.frames == [(Kind.REQUEST, number % 7, body) for number, body in enumerate(bodies)]
        assert other.frames == [(Kind.PAYLOAD, 65535, b"x" * 3_000_000)]


async def test_an_end_that_closes_has_sent_everything(tmp_path: Path) -> None:
    one, other = holder(), mirror()
    async with listening(tmp_path, one, other) as path:
        await meet(path, one, other)
        other.send(b"last words")
        assert other.stream is not None
        other.stream.close()
        await one.until(3)
        assert [body for _, _, body in one.frames] == [b"hello", b"last words"]
        assert (one.lost, other.lost) == (["the other end has closed it"], [])


@pytest.mark.parametrize("changes", [{"shows": b"a guess"}, {"shows": b""}, {"expects": b"another holder's"}])
async def test_who_does_not_know_the_secrets_is_told_nothing(tmp_path: Path, changes: dict[str, bytes]) -> None:
    one, other = holder(), mirror(**changes)
    async with listening(tmp_path, one, other) as path:
        connect(path, other.make())
        other.send(b"let me in")
        await other.until()
        await one.until()
        assert (one.frames, other.frames) == ([], [])
        assert any("not who it should be" in reason for reason in one.lost + other.lost)


async def test_a_stranger_that_shows_nothing_is_closed_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PROOF_SECONDS", 0.1)
    one = holder()
    async with listening(tmp_path, one) as path:
        _, writer = await asyncio.open_unix_connection(path)
        await one.until()
        assert one.lost == ["the other end has shown no secret for 0.1 s"]
        writer.close()


async def test_an_end_that_is_not_wanted_any_more_is_closed(tmp_path: Path) -> None:
    one, other = holder(), mirror()
    one.wanted = False
    async with listening(tmp_path, one, other) as path:
        connect(path, other.make())
        await other.until()
        assert other.lost


GARBAGE = {
    "a gibibyte is announced": struct.pack("!IBH", 1 << 30, Kind.PAYLOAD, 0),
    "a kind that nobody knows": struct.pack("!IBH", 3, 99, 0) + b"abc",
    "noise": b"GET / HTTP/1.1\r\n\r\n",
    "a second proof": struct.pack("!IBH", len(MIRRORS), Kind.PROOF, 0) + MIRRORS,
    "a body that cannot be read": struct.pack("!IBH", 10, Kind.PAYLOAD, 0) + b"unreadable",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_ends_the_stream_with_a_reason(tmp_path: Path, garbage: bytes) -> None:
    one = holder()
    async with listening(tmp_path, one) as path:
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(struct.pack("!IBH", len(MIRRORS), Kind.PROOF, 0) + MIRRORS + garbage)
        await one.until()
        assert (one.frames, len(one.lost)) == ([], 1)
        assert any(word in one.lost[0] for word in ("garbage", "not who it should be", "cannot be used")), one.lost
        writer.close()


async def test_whatever_a_killed_holder_has_left_is_read_though_nothing_can_be_written_to_it(tmp_path: Path) -> None:
    one, other = holder(), mirror()
    async with listening(tmp_path, one, other) as path:
        await meet(path, one, other)
        pause(other)
        for number in range(1000):
            one.send(b"%d" % number)
        assert one.stream is not None
        one.stream.close()
        for _ in range(3):
            other.send(b"are you there?")
            await asyncio.sleep(0)
        resume(other)
        await other.until(1001)
        assert [int(body) for _, _, body in other.frames] == list(range(1000))
        assert len(other.lost) == 1


async def test_an_end_in_the_middle_of_a_frame_is_named(tmp_path: Path) -> None:
    one = holder()
    async with listening(tmp_path, one) as path:
        _, writer = await asyncio.open_unix_connection(path)
        whole = struct.pack("!IBH", 5, Kind.PAYLOAD, 0) + b"whole"
        writer.write(struct.pack("!IBH", len(MIRRORS), Kind.PROOF, 0) + MIRRORS + whole + whole[:9])
        writer.close()
        await one.until(2)
        assert one.frames == [(Kind.PAYLOAD, 0, b"whole")]
        assert one.lost == ["the other end has closed it in the middle of a frame, with 9 bytes of it"]


async def test_a_mirror_that_reads_nothing_is_given_up_and_costs_a_bounded_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "UNSENT_MAX", 4_000_000)
    one = holder()
    async with listening(tmp_path, one) as path:
        silent = socket.socket(socket.AF_UNIX)
        silent.connect(path)
        silent.sendall(struct.pack("!IBH", len(MIRRORS), Kind.PROOF, 0) + MIRRORS)
        await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
            if one.stream is not None:
                one.send(b"e" * 100_000)
        assert one.stream is not None
        assert one.lost == ["the other bot does not keep up: 3 MiB are unsent"]
        one.send(b"e" * 100_000)
        assert one.stream.unsent <= 4_000_000
        silent.close()


async def test_a_snapshot_waits_for_room_and_live_events_do_not(tmp_path: Path) -> None:
    one, other = holder(), mirror()
    async with listening(tmp_path, one, other) as path:
        await meet(path, one, other)
        assert one.stream is not None
        pause(other)
        for _ in range(30):
            one.send(b"s" * 100_000)
        waiting = asyncio.ensure_future(one.stream.room())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        one.send(b"live")
        resume(other)
        await asyncio.wait_for(waiting, 5)
        await other.until(31)
        assert other.frames[-1][2] == b"live"


async def test_who_waits_for_room_is_told_of_the_end(tmp_path: Path) -> None:
    one, other = holder(), mirror()
    async with listening(tmp_path, one, other) as path:
        await meet(path, one, other)
        assert one.stream is not None
        pause(other)
        for _ in range(30):
            one.send(b"s" * 100_000)
        waiting = asyncio.ensure_future(one.stream.room())
        await asyncio.sleep(0)
        one.stream.fail("enough")
        with pytest.raises(StreamError):
            await asyncio.wait_for(waiting, 5)


async def test_a_listener_takes_the_place_of_one_that_was_killed_and_removes_its_own_socket(tmp_path: Path) -> None:
    (tmp_path / "stream.sock").write_text("left over")
    one, other = holder(), mirror()
    async with listening(tmp_path, one, other) as path:
        await meet(path, one, other)
    assert list(tmp_path.iterdir()) == []
