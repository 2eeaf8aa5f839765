"""What a bot that is stopped leaves for the next start: the stream that a mirror would get, written to a file.

    magic       8 bytes, with the format's number
    frames      as on a stream (`stream.frame`), compressed
    checksum    16 bytes, of all before

The frames are a `Head`, each shard's snapshot with what came to the shard meanwhile and later, the state of the app,
and the notes that children share. The last payload of a shard that has a sequence is where its session is resumed.

The file has another name until it is whole. It is read once: whoever reads it removes it first, for a bot that dies of
what it says must not die of it again.

Knows bytes, frames and the disk. Knows nothing of Discord, and not what a payload says.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bastion import wire
from bastion.bot.session.stream import SLICE_UNSENT, Kind, StreamError, frame, frames
from bastion.wire.private import open_private

_MAGIC = b"BASTION\x01"
_CHECKSUM = 16
_LEVEL = 1
"""Of compression: a fifth of the bytes, at some 100 MB/s."""
MAX_BYTES = 1024 * 1024 * 1024
"""Largest file that is read, and most bytes that it may become: some 30,000 guilds."""


class StateFileError(Exception):
    """The file cannot be written, or says nothing that can be used. The text says why."""


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """Of what bot the file is, and when it was begun, in seconds since 1970."""

    wants: wire.Wants
    at: float


class Writing:
    """A file that is being written. Towards `Copies` it is a stream of which nobody reads the other end."""

    def __init__(self, path: Path, wants: wire.Wants) -> None:
        """Begin the file beside ``path``. Raises `StateFileError`."""
        self._path, self._unfinished = path, path.with_name(f"{path.name}.new")
        try:
            with contextlib.suppress(FileNotFoundError):
                self._unfinished.unlink()
            self._file: int | None = open_private(self._unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except OSError as error:
            raise StateFileError(f"{self._unfinished}: {error.strerror or error}") from None
        self._compressor, self._checksum = zlib.compressobj(_LEVEL), _hash()
        self._frames: list[bytes] = []
        self._one_at_a_time = asyncio.Lock()
        self._failed: str | None = None
        self.unsent = 0
        """Bytes that are not on the way to the disk yet."""
        self._begun = False
        self.send(Kind.KEPT, 0, msgspec.json.encode(Head(wants=wants, at=time.time())))

    @property
    def over(self) -> bool:
        """Whether nothing more is written."""
        return self._file is None or self._failed is not None

    def send(self, kind: Kind, shard: int, body: bytes) -> None:
        """Write a frame behind all others. After the end it is dropped."""
        if not self.over:
            self._frames.append(frame(kind, shard, body))
            self.unsent += len(body)

    async def room(self, unsent: int = SLICE_UNSENT) -> None:
        """Return when no more bytes than these are unsent. Raises `StreamError` if the disk takes no more."""
        while self.unsent > unsent and not self.over:
            await self._write()
        if self.over:
            raise StreamError(self._failed or "the file is closed")

    async def _write(self, *, last: bool = False) -> None:
        async with self._one_at_a_time:
            data, self._frames, self.unsent = b"".join(self._frames), [], 0
            try:
                await asyncio.to_thread(self._append, data, last=last)
            except (OSError, RuntimeError) as error:
                self._failed = str(getattr(error, "strerror", None) or error)

    def _append(self, data: bytes, *, last: bool) -> None:
        assert self._file is not None
        packed = self._compressor.compress(data) + (self._compressor.flush() if last else b"")
        if not self._begun:
            self._begun, packed = True, _MAGIC + packed
        self._checksum.update(packed)
        _write_all(self._file, packed + (self._checksum.digest() if last else b""))
        if last:
            os.fsync(self._file)

    async def finish(self, *, notes: Mapping[str, str], state: bytes) -> None:
        """Put the file into its place, with the notes and the app's state. Raises `StateFileError`."""
        self.send(Kind.KEPT, 0, msgspec.json.encode(dict(notes)))
        self.send(Kind.STATE, 0, state)
        if not self.over:
            await self._write(last=True)
        failed = self._failed or ("it was closed" if self.over else None)
        if failed is None:
            try:
                await asyncio.to_thread(self._unfinished.rename, self._path)
            except OSError as error:
                failed = error.strerror or str(error)
        self._end(remove=failed is not None)
        if failed is not None:
            raise StateFileError(f"{self._path}: {failed}")

    def close(self) -> None:
        """Drop what was written, unless it is in its place."""
        self._end(remove=True)

    def _end(self, *, remove: bool) -> None:
        if self._file is None:
            return
        os.close(self._file)
        self._file = None
        if remove:
            with contextlib.suppress(OSError):
                self._unfinished.unlink()

    def flush(self) -> None:
        """Do nothing: a file has no moment at which what was sent must have left."""

    def read_rest(self) -> None:
        """Do nothing: a file brings nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What a file says. ``payloads`` has each shard's, in order."""

    head: Head
    payloads: dict[int, list[bytes]] = field(default_factory=dict)
    state: bytes | None = None
    notes: dict[str, str] = field(default_factory=dict)


def read(path: Path) -> Saved:
    """Read a file, and remove it. Raises `StateFileError`. It blocks: call it in a thread."""
    try:
        descriptor = open_private(path, os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as file:
            if os.fstat(descriptor).st_size > MAX_BYTES:
                raise StateFileError("it is larger than any that is written")
            data = file.read()
        path.unlink()
    except OSError as error:
        raise StateFileError(f"it cannot be read: {error.strerror or error}") from None
    return _decoded(data)


def _decoded(data: bytes) -> Saved:
    if not data.startswith(_MAGIC[:-1]):
        raise StateFileError("it is none of ours")
    if not data.startswith(_MAGIC):
        raise StateFileError("it is of another version")
    whole = _hash()
    whole.update(data[:-_CHECKSUM])
    if whole.digest() != data[-_CHECKSUM:]:
        raise StateFileError("it is damaged")
    unpacking = zlib.decompressobj()
    plain = unpacking.decompress(data[len(_MAGIC) : -_CHECKSUM], MAX_BYTES)
    if unpacking.unconsumed_tail:
        raise StateFileError("it is larger than any that is written")
    try:
        (_, _, head), *rest = frames(plain)
        saved = Saved(head=msgspec.json.decode(head, type=Head))
        return _filled(saved, rest)
    except (ValueError, StreamError, msgspec.MsgspecError) as error:
        raise StateFileError(f"it is of another version: {error}") from None


def _filled(saved: Saved, rest: list[tuple[Kind, int, bytes]]) -> Saved:
    state: bytes | None = None
    for kind, shard, body in rest:
        if kind is Kind.PAYLOAD:
            saved.payloads.setdefault(shard, []).append(body)
        elif kind is Kind.STATE:
            state = body
        elif kind is Kind.KEPT:
            saved.notes.update(msgspec.json.decode(body, type=dict[str, str]))
    return Saved(head=saved.head, payloads=saved.payloads, state=state, notes=saved.notes)


class Replay:
    """What was saved, towards a mirror: the stream of a holder that has stopped."""

    over = False
    unsent = 0

    def __init__(self, saved: Saved, take: Callable[[Kind, int, bytes], None]) -> None:
        """``take`` takes frames, as from a stream."""
        self._payloads, self._take = dict(saved.payloads), take

    def send(self, kind: Kind, shard: int, body: bytes) -> None:
        """Answer what a mirror asks for a shard, once; what is meant for Discord is lost, as on a broken connection."""
        if kind is Kind.SNAPSHOT:
            for text in self._payloads.pop(shard, ()):
                self._take(Kind.PAYLOAD, shard, text)

    async def room(self, unsent: int = SLICE_UNSENT) -> None:
        """Return at once."""

    def flush(self) -> None:
        """Do nothing: nobody reads."""

    def read_rest(self) -> None:
        """Do nothing: all is there."""

    def close(self) -> None:
        """Do nothing."""


def _hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=_CHECKSUM, person=b"bastion state")


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
