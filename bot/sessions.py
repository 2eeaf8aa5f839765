"""What a child leaves behind for its successor: how far each gateway session was handled, and what was running.

One small file a generation, mapped into memory, in the private directory of the ledger. It outlives a SIGKILL because
the kernel keeps the pages; nothing is ever flushed. Two kinds of content, written in two ways:

- what changes rarely (which session, where to resume it) is a body with length and checksum, so that one that was
  being written when its writer died is recognised;
- what changes with every event is one store: the sequence handed to the app, and for each handler that runs a slot with
  its event, such as "MESSAGE_CREATE 123", up to the first zero byte. A free slot begins with one.

Knows files and bytes. Knows nothing of discord.py, of roles, or of how a session is resumed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bastion.wire import FORMER, beside_former, claimer, sessions_path, supervisor_of
from bastion.wire.private import is_held, open_private

MAX_SHARDS = 1024
"""Sessions that one file has room for: far more than one process can serve."""
RESUMABLE_SECONDS = 120.0
"""How long after a bot has stopped to read its sessions are worth a try: Discord keeps them for about as long."""
MAX_RUNNING = 512
"""Handlers whose events can be named at the same time; further ones are counted."""

_MAGIC = b"BASTION6"
_HEADER = struct.Struct("<8s16sQ")
_TIME = struct.Struct("<d")
_READING_AT = 32
_NOBODYS_AT = 40
"""Where in the header a shard that there is no room for has its sequence."""
_CLAIMER_AT = 48
"""Where in the header stands under which number the writer claims: a file may get another one's name."""
_UNNAMED = 56
"""Where in the header the number of running handlers stands that have no slot."""
_READING_AT_WALL = 64
"""The same as at `_READING_AT`, in seconds since 1970: the monotonic clock begins anew with the machine."""
_TAKEN_AT = 72
"""Where in the header stands whether another bot has taken the sessions of this one, which stood still."""
_HEADER_SIZE = 80
_EVENT = struct.Struct("64s")
"""A slot: an event, filled up with zeros."""
_SLOTS = range(_HEADER_SIZE, _HEADER_SIZE + MAX_RUNNING * _EVENT.size, _EVENT.size)
_RECORD = 512
_BODY = struct.Struct("<IH")
_BODY_AT = 8
_BODY_MAX = _RECORD - _BODY_AT - _BODY.size
_RECORDS_AT = _SLOTS.stop
_SIZE = _RECORDS_AT + MAX_SHARDS * _RECORD


class SessionFileError(Exception):
    """The file says nothing that can be used. The text says why."""


class TakenError(SessionFileError):
    """Another supervisor's bot goes on with the sessions."""

    def __init__(self) -> None:
        super().__init__("another supervisor's bot goes on with its sessions")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadSession:
    """A session whose process is gone. ``sequence`` is the last that was handed to the app."""

    shard: int
    shards: int
    session: str
    gateway: str
    sequence: int
    intents: int
    began: float
    """When it began, or became the writer's, in seconds of the machine's monotonic clock."""


class SessionFile:
    """The file of one generation: written by it, then read, and carried on, by its successor."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Use `create` or `open`."""
        self.path = path
        self._map = mmap.mmap(descriptor, _SIZE)
        self.words = memoryview(self._map).cast("Q")
        """The file as words of eight bytes."""
        self._lock = -1
        self._slots: dict[int, int] = {}
        self._free = list(reversed(_SLOTS))

    @classmethod
    def create(cls, path: Path, *, token: str, supervisor: int, claimer: int = 0) -> SessionFile:
        """Make the file, in the place of any that is there. ``supervisor`` is the parent's process id. Raises OSError.

        ``claimer`` is the number under which the writer claims.
        All of its half megabyte is taken at once: to store where there is no room for it any more would be a SIGBUS.
        """
        path.unlink(missing_ok=True)
        descriptor = open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            os.posix_fallocate(descriptor, 0, _SIZE)
            made = cls(path, descriptor)
        finally:
            os.close(descriptor)
        made._hold()  # behind that: a process that closes a descriptor of a file lets go of its lock
        _HEADER.pack_into(made._map, 0, _MAGIC, _digest(token), supervisor)
        made.words[_CLAIMER_AT // 8] = claimer
        made.reading_at = time.monotonic()  # nothing has come that could be unread
        return made

    @classmethod
    def open(cls, path: Path, *, token: str, supervisor: int | None) -> SessionFile:
        """Open what another generation left, of any supervisor's with None. Raises `SessionFileError`."""
        try:
            descriptor = open_private(path, os.O_RDWR)
        except OSError as error:
            raise SessionFileError(f"its file cannot be read ({error.strerror or error})") from None
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

    def _hold(self) -> None:
        """Lock the file for as long as this process lives: by that the supervisors of other bots know that it does.

        A record lock (fcntl), not flock's: what a bot forks has that too, and may outlive the bot.
        """
        self._lock = open_private(self.path, os.O_RDWR)
        fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _adopt(self, token: str, supervisor: int | None) -> None:
        magic, digest, parent = _HEADER.unpack_from(self._map, 0)
        if magic != _MAGIC:
            raise SessionFileError("its file is another version's, or damaged")
        if digest != _digest(token):
            raise SessionFileError("its file is of another token")
        if supervisor is not None and parent != supervisor:
            raise SessionFileError("its file is of another supervisor's time")
        for slot, body in self._found():
            self._slots[body["shard"]] = slot
        self._free = [at for at in _SLOTS if not self._map[at]]

    def session(self, *, shard: int, shards: int, session: str, gateway: str, intents: int, began: float = 0.0) -> None:
        """Note a shard's new session. Nothing of it has been handed over yet."""
        slot = self._slots.setdefault(shard, len(self._slots))
        said = {"shard": shard, "shards": shards, "session": session, "gateway": gateway}
        said |= {"intents": intents, "began": began}
        encoded = json.dumps(said, separators=(",", ":")).encode()
        if slot >= MAX_SHARDS or len(encoded) > _BODY_MAX:
            return
        at = _RECORDS_AT + slot * _RECORD
        _BODY.pack_into(self._map, at + _BODY_AT, 0, 0)
        self.words[at // 8] = 0
        start = at + _BODY_AT + _BODY.size
        self._map[start : start + len(encoded)] = encoded
        _BODY.pack_into(self._map, at + _BODY_AT, zlib.crc32(encoded), len(encoded))

    @property
    def claimer(self) -> int:
        """Under which number the writer claims."""
        return self.words[_CLAIMER_AT // 8]

    @property
    def reading_at(self) -> float:
        """When the child was last seen to read what came, in seconds of the machine's monotonic clock."""
        return float(_TIME.unpack_from(self._map, _READING_AT)[0])

    @reading_at.setter
    def reading_at(self, at: float) -> None:
        _TIME.pack_into(self._map, _READING_AT, at)
        _TIME.pack_into(self._map, _READING_AT_WALL, time.time() - (time.monotonic() - at))

    @property
    def taken(self) -> bool:
        """Whether another bot has taken the sessions, though this one's process lives: its writer handles nothing more.

        The other one notes that first, and then reads how far the sessions were handled.
        """
        return bool(self.words[_TAKEN_AT // 8])

    def take(self, supervisor: int) -> bool:
        """Note that the sessions are those of this supervisor's bots from now on; False if another one has them.

        ``supervisor`` is its number among those who share the ledger.
        """
        by = self.words[_TAKEN_AT // 8]
        if by not in (0, supervisor + 1):
            return False
        self.words[_TAKEN_AT // 8] = supervisor + 1
        return True

    def outlive_reboot(self) -> None:
        """Tell `reading_at` by this machine's present clock, should it have been started anew."""
        (wall,) = _TIME.unpack_from(self._map, _READING_AT_WALL)
        if wall:
            _TIME.pack_into(self._map, _READING_AT, time.monotonic() - (time.time() - wall))

    def handed(self, shard: int, sequence: int) -> None:
        """Note that everything up to this sequence was handed to the app."""
        self.words[self.word(shard)] = sequence

    def word(self, shard: int) -> int:
        """Return which of the `words` says how far a shard's sessions were handed over, the present and later ones.

        Of one that there is no room for, one that nobody reads.
        """
        slot = self._slots.get(shard, MAX_SHARDS)
        return (_RECORDS_AT + slot * _RECORD if slot < MAX_SHARDS else _NOBODYS_AT) // 8

    def catch_up(self, other: SessionFile) -> None:
        """Note that in each session that both files have, everything was handed over that was by either."""
        further = {one.session: one.sequence for one in other.sessions()}
        for one in self.sessions():
            if further.get(one.session, 0) > one.sequence:
                self.handed(one.shard, further[one.session])

    def sessions(self) -> list[DeadSession]:
        """Return the sessions of which something was handed to the app."""
        found = []
        for slot, body in self._found():
            sequence = self.words[(_RECORDS_AT + slot * _RECORD) // 8]
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

    def began(self, event: str) -> Callable[[], None]:
        """Note the event of a handler that runs now, or its beginning. Call what is returned when that has ended."""
        if not self._free:
            self.words[_UNNAMED // 8] += 1
            return self._ended_unnamed
        at = self._free.pop()
        _EVENT.pack_into(self._map, at, event.encode()[: _EVENT.size - 1])
        return partial(self._ended, at)

    def _ended(self, at: int) -> None:
        self._map[at] = 0
        self._free.append(at)

    def _ended_unnamed(self) -> None:
        self.words[_UNNAMED // 8] -= 1

    def running(self) -> tuple[list[str], int]:
        """Return the event of each handler that was running, and how many more there were."""
        noted = (_EVENT.unpack_from(self._map, at)[0].partition(b"\0")[0] for at in _SLOTS)
        return [event.decode(errors="replace") for event in noted if event], self.words[_UNNAMED // 8]

    def close(self) -> None:
        """Let go of the memory. The file stays."""
        self.words.release()
        self._map.close()
        if self._lock >= 0:
            os.close(self._lock)


def whose(generation: int) -> str:
    """Return how messages name the dead bot of this generation, or of this number if it is another supervisor's."""
    if generation == FORMER:
        return "the bot of an earlier supervisor"
    other = supervisor_of(generation)
    return f"the bot of supervisor {other}" if other else f"generation {generation}"


def former_file(ledger: str, *, token: str) -> SessionFile:
    """Open what the bot of an earlier supervisor left. Raises `SessionFileError`.

    If another bot of that supervisor's had taken some of its sessions, its own file says how far it was in those.
    """
    found = SessionFile.open(Path(sessions_path(ledger, claimer(0, FORMER))), token=token, supervisor=None)
    found.outlive_reboot()
    beside = Path(beside_former(ledger))
    return _furthest(found, beside.parent.glob(f"{beside.name}*"), token=token)


def neighbours_file(ledger: str, number: int, *, token: str) -> SessionFile:
    """Open what another supervisor's bot with this number has left, or leaves, for it stands still.

    If another bot of that supervisor's, which is dead too, had taken some of its sessions, that one's own file says how
    far it was in those. Raises `SessionFileError`.
    """
    path = Path(sessions_path(ledger, number))
    found = SessionFile.open(path, token=token, supervisor=None)
    prefix = path.name.removesuffix(str(number))
    others = [
        other
        for other in path.parent.glob(f"{prefix}*")
        if (of := other.name.removeprefix(prefix)).isdecimal() and supervisor_of(int(of)) == supervisor_of(number)
    ]
    return _furthest(found, (other for other in others if other != path and not is_held(other)), token=token)


def _furthest(found: SessionFile, others: Iterable[Path], *, token: str) -> SessionFile:
    """Return the file, caught up with others of the same time. Raises `SessionFileError` if that is too long ago."""
    if not 0 <= time.monotonic() - found.reading_at < RESUMABLE_SECONDS:
        found.close()
        raise SessionFileError("it has stopped to read too long ago")
    for path in others:
        with contextlib.suppress(SessionFileError):
            other = SessionFile.open(path, token=token, supervisor=None)
            found.catch_up(other)
            other.close()
    return found


def _digest(token: str) -> bytes:
    return hashlib.blake2b(token.encode(), digest_size=16, person=b"bastion sessions"[:16]).digest()
