"""The stream between the holder of the sessions and a mirror: frames, in order, over one Unix socket.

The order is the promise: whatever the holder writes first the mirror reads first. Each end shows a secret that the
supervisor gave to both, before anything else counts. What is unsent is bounded: a mirror that does not keep up is given
up, and the holder serves on.

A frame is its length (4 bytes), its kind (1), its shard (2), and a body. An example: an event of shard 3 with a text of
200 bytes is ``00 00 00 c8 | 02 | 00 03 | {"op":0,...``.

Knows bytes and secrets. Knows nothing of Discord, and not what a body says.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import IntEnum
from itertools import islice
from typing import Protocol, TypeAlias

from bastion.counted import counted

BODY_MAX = 32 * 1024 * 1024
"""Largest body in bytes. A guild with every list at Discord's limits (500 channels, 250 roles, 1,000 threads, 4,000
members in voice) has less than 4 MiB."""

UNSENT_MAX = 64 * 1024 * 1024
"""Bytes that may be unsent before a mirror is given up: some 60,000 events."""

SLICE_UNSENT = 1024 * 1024
"""Bytes that may be unsent while parts of a snapshot are added; live events are not held up by them then."""

PROOF_SECONDS = 2.0
"""How long the other end has to show its secret."""

_HEADER = struct.Struct("!IBH")
_PROOF_MAX = 1024
"""Largest secret in bytes: an end that has not proven itself makes us keep no more."""
_READ = 256 * 1024
"""Bytes read in one turn of the loop."""
_FRAMES_AT_ONCE = 512
"""Frames in one system call; the kernel takes at most 1,024 (IOV_MAX)."""


class Kind(IntEnum):
    """What the body of a frame is."""

    PROOF = 1
    """The secret of the end that sends it. The first frame in each direction."""
    PAYLOAD = 2
    """From the holder: the text of a gateway payload, as Discord sent it, or as one of a snapshot."""
    REQUEST = 3
    """From a mirror: the text of a gateway payload that the holder is to send to Discord."""
    SNAPSHOT = 4
    """From a mirror: a snapshot of the shard is wanted, and every payload from then on. No body."""
    NOTE = 5
    """From either end: a text of `notes`."""
    STATE = 6
    """From the old bot: its app's state, as `carry` writes it."""
    KEPT = 7
    """In a file alone: of whose bot it is, first of all; behind the payloads what children note down for each other."""


class StreamError(Exception):
    """The stream cannot go on. The text says why."""


def frame(kind: Kind, shard: int, body: bytes) -> bytes:
    """Return a frame."""
    return _HEADER.pack(len(body), kind, shard) + body


def frames(data: bytes) -> Iterator[tuple[Kind, int, bytes]]:
    """Yield kind, shard and body of each frame. Raises `StreamError` for one that is cut, `ValueError` for garbage."""
    at = 0
    while at < len(data):
        if len(data) - at < _HEADER.size:
            raise StreamError("it ends in the middle of a frame")
        length, kind, shard = _HEADER.unpack_from(data, at)
        at += _HEADER.size
        if len(data) - at < length:
            raise StreamError("it ends in the middle of a frame")
        yield Kind(kind), shard, data[at : at + length]
        at += length


class Channel(Protocol):
    """What those who write frames need of a stream, or of a file in the place of one."""

    @property
    def over(self) -> bool:
        """Whether nothing more is written, and nothing more will come."""

    @property
    def unsent(self) -> int:
        """Bytes that have not left yet."""

    def send(self, kind: Kind, shard: int, body: bytes) -> None:
        """Write a frame behind all others."""

    async def room(self, unsent: int = SLICE_UNSENT) -> None:
        """Wait until no more bytes than these are unsent. Raises `StreamError` if it is over."""

    def flush(self) -> None:
        """Have what was sent leave now."""

    def read_rest(self) -> None:
        """Take now all that the other end has written so far."""

    def close(self) -> None:
        """End it."""


OnFrame: TypeAlias = Callable[[Kind, int, bytes], None]
"""Takes kind, shard and body of a frame. What it raises ends the stream, with that as the reason."""


class Stream:
    """One end of a connected socket. ``on_lost`` is called once, with the reason, when nothing more will come.

    It reads and writes the socket itself. asyncio's transports forget what has come as soon as a write fails; but a
    mirror whose holder is killed needs every byte that the holder has left behind.
    """

    def __init__(
        self,
        *,
        shows: bytes,
        expects: bytes,
        on_frame: OnFrame,
        on_lost: Callable[[str], None],
        on_open: Callable[[Stream], bool] = lambda stream: True,
    ) -> None:
        """``on_open`` is asked once the other end has shown its secret; False ends the stream."""
        self._shows, self._expects = shows, expects
        self._on_frame, self._on_lost, self._on_open = on_frame, on_lost, on_open
        self._socket: socket.socket | None = None
        self._outbox = Outbox()
        self._read = bytearray()
        self._proven = False
        self._over = False
        self._patience: asyncio.TimerHandle | None = None

    def begin(self, connected: socket.socket) -> None:
        """Show the secret on a connected socket, and read what comes."""
        connected.setblocking(False)
        self._socket = connected
        loop = asyncio.get_running_loop()
        loop.add_reader(connected, self._readable)
        self._patience = loop.call_later(
            PROOF_SECONDS, self.fail, f"the other end has shown no secret for {PROOF_SECONDS:g} s"
        )
        with suppress(OSError):  # reading tells of a socket that is broken already
            connected.send(frame(Kind.PROOF, 0, self._shows))

    def send(self, kind: Kind, shard: int, body: bytes) -> None:
        """Write a frame behind all others, once the other end has shown its secret. After the end it is dropped."""
        if self._over:
            return
        if self.unsent + len(body) > UNSENT_MAX:
            self.fail(f"the other bot does not keep up: {self.unsent >> 20} MiB are unsent")
            return
        self._outbox.add(frame(kind, shard, body))

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._outbox.unsent

    async def room(self, unsent: int = SLICE_UNSENT) -> None:
        """Wait until no more bytes than these are unsent. Raises `StreamError` if the stream is over."""
        await self._outbox.room(unsent)
        if self._over:
            raise StreamError("the stream is over")

    def read_rest(self) -> None:
        """Take now, without a turn of the loop, all that the other end has written so far."""
        while not self._over and self._readable():
            pass

    def flush(self) -> None:
        """Give the kernel now what was sent; else it leaves at the end of this turn of the loop."""
        self._outbox.flush()

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self._over

    def close(self) -> None:
        """End the stream behind what the kernel takes at once. ``on_lost`` is not called."""
        if not self._over:
            self._outbox.flush()
            self._end()

    def fail(self, reason: str) -> None:
        """End the stream at once, and tell ``on_lost`` why."""
        if not self._over:
            self._end()
            self._on_lost(reason)

    def _end(self) -> None:
        self._over = True
        self._end_patience()
        self._outbox.close()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    def _end_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()

    def _readable(self) -> bool:
        """Take what has come, as far as one read brings it; return whether there was anything."""
        assert self._socket is not None
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError:
            return False
        except OSError:  # it has closed, and not read all that it was sent
            data = b""
        if not data:
            rest = f" in the middle of a frame, with {counted(len(self._read), 'byte')} of it" if self._read else ""
            self.fail(f"the other end has closed it{rest}")
            return False
        self._read += data
        try:
            self._take_frames()
        except StreamError as error:
            self.fail(str(error))
        except Exception as error:  # of whoever takes frames: what it cannot read must not end the bot
            self.fail(f"a frame cannot be used: {type(error).__name__}: {error}")
        return True

    def _take_frames(self) -> None:
        at = 0
        while not self._over and len(self._read) - at >= _HEADER.size:
            length, kind, shard = _HEADER.unpack_from(self._read, at)
            self._check(length, kind)
            end = at + _HEADER.size + length
            if len(self._read) < end:
                break
            self._take(Kind(kind), shard, bytes(self._read[at + _HEADER.size : end]))
            at = end
        del self._read[:at]

    def _check(self, length: int, kind: int) -> None:
        """Refuse what no end of ours sends, before any of its body is kept."""
        if self._proven is (kind == Kind.PROOF) or (not self._proven and length > _PROOF_MAX):
            raise StreamError("the other end is not who it should be: its first frame shows no secret")
        if length > BODY_MAX or kind not in Kind.__members__.values():
            raise StreamError(f"garbage: a frame of kind {kind} with {counted(length, 'byte')} is announced")

    def _take(self, kind: Kind, shard: int, body: bytes) -> None:
        if self._proven:
            self._on_frame(kind, shard, body)
            return
        if not hmac.compare_digest(body, self._expects):
            raise StreamError("the other end is not who it should be: it shows another secret")
        self._proven = True
        self._end_patience()
        assert self._socket is not None
        self._outbox.open(self._socket)
        if not self._on_open(self):
            raise StreamError("it is not wanted any more")


class Outbox:
    """Frames that the kernel has not taken. All of one turn of the loop leave together, in one system call.

    A socket that takes nothing any more is closed here alone: what it has brought is still to be read.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._frames: deque[bytes | memoryview] = deque()
        self._waits = False
        """Whether a flush is due, in this turn of the loop or when the kernel takes more."""
        self._closed = False
        self._progress = asyncio.Event()
        self.unsent = 0

    def open(self, connected: socket.socket) -> None:
        """Let out what was added, and what will be."""
        self._socket = connected
        self.flush()

    def add(self, frame: bytes) -> None:
        """Put a frame behind the others."""
        if self._closed:
            return
        self._frames.append(frame)
        self.unsent += len(frame)
        if self._socket is not None and not self._waits:
            self._waits = True
            asyncio.get_running_loop().call_soon(self.flush)

    async def room(self, unsent: int) -> None:
        """Wait until no more bytes than these are unsent, or it is closed."""
        while self.unsent > unsent and not self._closed:
            self._progress.clear()
            await self._progress.wait()

    def flush(self) -> None:
        """Give the kernel what it takes, and wait for it to take more."""
        if self._socket is None or self._closed:
            return
        loop = asyncio.get_running_loop()
        loop.remove_writer(self._socket)
        self._waits = False
        try:
            while self._frames:
                self._sent(self._socket.sendmsg(list(islice(self._frames, _FRAMES_AT_ONCE))))
        except BlockingIOError:
            self._waits = True
            loop.add_writer(self._socket, self.flush)
        except OSError:
            self.close()

    def _sent(self, count: int) -> None:
        self.unsent -= count
        while count and count >= len(self._frames[0]):
            count -= len(self._frames.popleft())
        if count:
            self._frames[0] = memoryview(self._frames[0])[count:]  # no copy: a frame may have 32 MiB
        self._progress.set()

    def close(self) -> None:
        """Drop what is left, and whatever is added."""
        self._closed = True
        self._frames.clear()
        self._progress.set()
        if self._socket is not None:
            asyncio.get_running_loop().remove_writer(self._socket)


class Listener:
    """Where mirrors connect: a Unix socket, for as long as it is open. The caller's directory keeps others out."""

    def __init__(self, path: str, make: Callable[[], Stream]) -> None:
        """``make`` makes this end for each connection; one that proves nothing is closed by itself."""
        self._path, self._make = path, make
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Listen. Raises `OSError`."""
        with suppress(FileNotFoundError):
            os.unlink(self._path)  # noqa: PTH108 - a leftover of a holder that was killed
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        with _short(self._path) as path:
            self._socket.bind(path)
        self._socket.listen()
        asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        assert self._socket is not None
        with suppress(OSError):
            connected, _ = self._socket.accept()
            self._make().begin(connected)

    def close(self) -> None:
        """Take no further connection. Those that are there stay."""
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
        with suppress(OSError):
            os.unlink(self._path)  # noqa: PTH108


@contextmanager
def _short(path: str) -> Iterator[str]:
    """Yield a name for a socket that fits into its address, which has room for 107 bytes."""
    directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY)  # noqa: PTH120
    try:
        yield f"/proc/self/fd/{directory}/{os.path.basename(path)}"  # noqa: PTH119
    finally:
        os.close(directory)


def connect(path: str, stream: Stream) -> None:
    """Connect this end to a `Listener`; on a Unix socket that waits for nobody. Raises `OSError`."""
    connected = socket.socket(socket.AF_UNIX)
    try:
        connected.setblocking(False)
        with _short(path) as short:
            connected.connect(short)
    except OSError:
        connected.close()
        raise
    stream.begin(connected)
