"""When bots of all supervisors that share a ledger sent IDENTIFY: Discord's limit is the application's, not a bot's.

A small file beside the ledger has the newest of them, each with its shard and its time, by the machine's monotonic
clock. Whoever gives a permit holds a lock on the file (flock) while it looks and writes, so two do not give the same
one. The lock is never waited for: it is held for microseconds, and who does not get it tries again a moment later.

Knows the file. What the limit is `identify` knows.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bastion.wire.private import open_private

_RECORD = struct.Struct("<qd")
_ROOM = 256
"""IDENTIFYs that are kept. Of 64 shards at once, each noted twice, in two supervisors."""
_HEADER = struct.Struct("<Q")
_AHEAD = 1.0
"""A time that is further ahead, in seconds, is from before the machine was started anew."""
LOCK_PATIENCE = 5.0
"""Seconds for which the lock may be somebody else's. One that is stopped while it holds it must not stop all others."""


class CommonIdentifies:
    """The file, opened at its first use. Where it cannot be used, each supervisor keeps the limit for itself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._refused_since: float | None = None

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Hold the lock, and say whether it is held, or need not be waited for any longer."""
        if not self._open():
            yield True
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            now = time.monotonic()
            self._refused_since = now if self._refused_since is None else self._refused_since
            yield now - self._refused_since > LOCK_PATIENCE
            return
        self._refused_since = None
        try:
            yield True
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def used(self) -> list[tuple[int, float]]:
        """Return shard and time of the newest IDENTIFYs, and of the permits for such, of all supervisors."""
        if not self._open():
            return []
        with suppress(OSError):
            data = os.pread(self._descriptor, _HEADER.size + _ROOM * _RECORD.size, 0)[_HEADER.size :]
            whole = len(data) // _RECORD.size * _RECORD.size
            latest = time.monotonic() + _AHEAD
            return [(shard, when) for shard, when in _RECORD.iter_unpack(data[:whole]) if 0 < when <= latest]
        return []

    def note(self, shard: int, when: float) -> None:
        """Note that a bot of ours sends IDENTIFY for a shard, or may do so from now on."""
        if not self._open():
            return
        with suppress(OSError):
            header = os.pread(self._descriptor, _HEADER.size, 0)
            count = _HEADER.unpack(header)[0] if len(header) == _HEADER.size else 0
            os.pwrite(self._descriptor, _RECORD.pack(shard, when), _HEADER.size + count % _ROOM * _RECORD.size)
            os.pwrite(self._descriptor, _HEADER.pack(count + 1), 0)

    def _open(self) -> bool:
        if self._descriptor < 0:
            with suppress(OSError):
                self._descriptor = open_private(self._path, os.O_RDWR | os.O_CREAT)
        return self._descriptor >= 0

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
