"""What a child leaves behind for its successor: how far each gateway session was handled, and what was running.

One small file a generation, mapped into memory, in the private directory of the ledger. It outlives a SIGKILL because
the kernel keeps the pages; nothing is ever flushed. Two kinds of content, written in two ways:

- what changes rarely (which session, where to resume it) is a body with length and checksum, so that one that was
  being written when its writer died is recognised;
- what changes with every event (the sequence handed to the app) is one aligned eight-byte store.

Knows files and bytes. Knows nothing of discord.py, of roles, or of how a session is resumed.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_SHARDS = 1024
"""Sessions that one file has room for: far more than one process can serve."""
MAX_RUNNING = 256
"""Handlers that can be named at the same time; further ones are counted."""

_MAGIC = b"BASTION1"
_HEADER = struct.Struct("<8s16sQ")
_HEADER_SIZE = 64
_ACTIVE_SINCE = struct.Struct("<d")
_ACTIVE_SINCE_AT = 48
_UNNAMED = 56
"""Where in the header the number of running handlers without a name stands."""
_NAME = 128
_RECORD = 512
_BODY = struct.Struct("<IH")
_BODY_AT = 8
_BODY_MAX = _RECORD - _BODY_AT - _BODY.size
_RECORDS_AT = _HEADER_SIZE + MAX_RUNNING * _NAME
_SIZE = _RECORDS_AT + MAX_SHARDS * _RECORD


class SessionFileError(Exception):
    """The file says nothing that can be used. The text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadSession:
    """A session whose process is gone. ``sequence`` is the last that was handed to the app."""

    shard: int
    shards: int
    session: str
    gateway: str
    sequence: int


class SessionFile:
    """The file of one generation: written by it, then read, and carried on, by its successor."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Use `create` or `open`."""
        self.path = path
        self._map = mmap.mmap(descriptor, _SIZE)
        self._words = memoryview(self._map).cast("Q")
        self._slots: dict[int, int] = {}
        self._free = list(range(MAX_RUNNING - 1, -1, -1))

    @classmethod
    def create(cls, path: Path, *, token: str, supervisor: int) -> SessionFile:
        """Make the file, in the place of any that is there. ``supervisor`` is the parent's process id. Raises OSError.

        It takes memory only as far as it is used.
        """
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, _SIZE)
            made = cls(path, descriptor)
        finally:
            os.close(descriptor)
        _HEADER.pack_into(made._map, 0, _MAGIC, _digest(token), supervisor)
        return made

    @classmethod
    def open(cls, path: Path, *, token: str, supervisor: int) -> SessionFile:
        """Open what another generation left. Raises `SessionFileError`."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise SessionFileError(f"its file cannot be read ({error.strerror})") from None
        try:
            if os.fstat(descriptor).st_size != _SIZE:
                raise SessionFileError("its file has another version's size, or is damaged")
            found = cls(path, descriptor)
        except (OSError, ValueError) as error:
            raise SessionFileError(f"its file cannot be read ({error})") from None
        finally:
            os.close(descriptor)
        try:
            found._adopt(token, supervisor)
        except SessionFileError:
            found.close()
            raise
        return found

    def _adopt(self, token: str, supervisor: int) -> None:
        magic, digest, parent = _HEADER.unpack_from(self._map, 0)
        if magic != _MAGIC:
            raise SessionFileError("its file is another version's, or damaged")
        if digest != _digest(token):
            raise SessionFileError("its file is of another token")
        if parent != supervisor:
            raise SessionFileError("its file is of another supervisor's time")
        for slot, body in self._found():
            self._slots[body["shard"]] = slot
        self._free = [slot for slot in range(MAX_RUNNING) if not self._map[_HEADER_SIZE + slot * _NAME]]

    def session(self, *, shard: int, shards: int, session: str, gateway: str) -> None:
        """Note a shard's new session. Nothing of it has been handed over yet."""
        slot = self._slots.setdefault(shard, len(self._slots))
        said = {"shard": shard, "shards": shards, "session": session, "gateway": gateway}
        encoded = json.dumps(said, separators=(",", ":")).encode()
        if slot >= MAX_SHARDS or len(encoded) > _BODY_MAX:
            return
        at = _RECORDS_AT + slot * _RECORD
        _BODY.pack_into(self._map, at + _BODY_AT, 0, 0)
        self._words[at // 8] = 0
        start = at + _BODY_AT + _BODY.size
        self._map[start : start + len(encoded)] = encoded
        _BODY.pack_into(self._map, at + _BODY_AT, zlib.crc32(encoded), len(encoded))

    @property
    def active_since(self) -> float:
        """When the child became active, in seconds of the machine's monotonic clock; 0.0 if it began as that."""
        return float(_ACTIVE_SINCE.unpack_from(self._map, _ACTIVE_SINCE_AT)[0])

    @active_since.setter
    def active_since(self, at: float) -> None:
        _ACTIVE_SINCE.pack_into(self._map, _ACTIVE_SINCE_AT, at)

    def handed(self, shard: int, sequence: int) -> None:
        """Note that everything up to this sequence was handed to the app."""
        slot = self._slots.get(shard, MAX_SHARDS)
        if slot < MAX_SHARDS:
            self._words[_RECORDS_AT // 8 + slot * (_RECORD // 8)] = sequence

    def sessions(self) -> list[DeadSession]:
        """Return the sessions of which something was handed to the app."""
        found = []
        for slot, body in self._found():
            sequence = self._words[(_RECORDS_AT + slot * _RECORD) // 8]
            if sequence:
                found.append(DeadSession(sequence=sequence, **body))
        return found

    def _found(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for slot in range(MAX_SHARDS):
            at = _RECORDS_AT + slot * _RECORD + _BODY_AT
            checksum, length = _BODY.unpack_from(self._map, at)
            if not length:
                if not checksum and not any(self._map[at - _BODY_AT : at + _BODY.size + 1]):
                    return
                continue
            encoded = self._map[at + _BODY.size : at + _BODY.size + min(length, _BODY_MAX)]
            if zlib.crc32(encoded) == checksum:
                yield slot, json.loads(encoded)

    def began(self, name: str) -> int:
        """Note a handler that runs now; the answer is for `ended`. Only the beginning of a long name is kept."""
        if not self._free:
            self._words[_UNNAMED // 8] += 1
            return -1
        slot = self._free.pop()
        text = name.encode()[: _NAME - 1]
        at = _HEADER_SIZE + slot * _NAME
        self._map[at + 1 : at + 1 + len(text)] = text
        self._map[at] = len(text)
        return slot

    def ended(self, slot: int) -> None:
        """Note that a handler has ended."""
        if slot < 0:
            self._words[_UNNAMED // 8] -= 1
            return
        self._map[_HEADER_SIZE + slot * _NAME] = 0
        self._free.append(slot)

    def running(self) -> tuple[list[str], int]:
        """Return the names of the handlers that were running, and how many more there were."""
        names = []
        for slot in range(MAX_RUNNING):
            at = _HEADER_SIZE + slot * _NAME
            if length := self._map[at]:
                names.append(self._map[at + 1 : at + 1 + min(length, _NAME - 1)].decode(errors="replace"))
        return names, self._words[_UNNAMED // 8]

    def close(self) -> None:
        """Let go of the memory. The file stays."""
        self._words.release()
        self._map.close()


def _digest(token: str) -> bytes:
    return hashlib.blake2b(token.encode(), digest_size=16, person=b"bastion sessions"[:16]).digest()
