"""The ledger's file: made, opened by one child at a time, known again, and made anew when it was removed or damaged.

Children agree by what they find under one name. A file that is unlinked while it is open goes on working for those who
have it, and for nobody else; so each child remembers which file it opened, and looks whether the name still leads
there. A file that is of no use any more is never repaired: it is put aside under another name, and a new one made.

Knows the file system and how SQLite treats files: beside the database lie its ``-wal`` and ``-shm``, which stay the
same as long as anybody has it open. Knows nothing of what is in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from bastion.wire.private import foreign, open_private

_Identity = tuple[int, int] | None

_BESIDE = ("-wal", "-shm")


class Busy(sqlite3.OperationalError):
    """Another child is opening the file; to be tried again like any other lock."""

    sqlite_errorcode = sqlite3.SQLITE_BUSY


class LedgerFile:
    """One path, or ``:memory:``, and what this child knows of the file there."""

    def __init__(self, path: str, schema: str) -> None:
        self._in_memory = path == ":memory:"
        self.path = Path(path) if self._in_memory else Path(path).absolute()
        self._schema = schema
        self._opened: _Identity = None
        self._beside: list[_Identity] = [None for _ in _BESIDE]
        self._spoilt: _Identity = None

    @property
    def aside(self) -> Path:
        """Where a file that is of no use any more is put."""
        return self._with("-damaged")

    @property
    def spoilt(self) -> bool:
        """Whether the next `open` puts the file aside that is there now."""
        return self._spoilt is not None

    def spoil(self) -> None:
        """Have the next `open` put the file aside that this child opened last, if nobody has done so by then."""
        self._spoilt = self._opened

    def is_there(self) -> bool:
        """Whether the path still leads to the file that this child opened. Takes about 2 us."""
        if self._in_memory:
            return True
        try:
            found = self.path.lstat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._opened  # which stays its own for as long as it is open

    def is_whole(self) -> bool:
        """Whether that is so of what lies beside it, too."""
        pairs = zip(self._beside, self._found_beside(), strict=True)
        return self._in_memory or all(opened in (None, found) for opened, found in pairs)

    def open(self) -> sqlite3.Connection:
        """Open the file, making it if need be. It never waits.

        Raises sqlite3.Error; after one that tells of damage, `spoilt` says whether the file is known to be a ledger.
        """
        if self._in_memory:
            return self._connect()
        try:
            with _alone(self.path.parent):
                return self._open()
        except OSError as error:
            raise sqlite3.OperationalError(error.strerror) from error

    def _open(self) -> sqlite3.Connection:
        found = _identity(self.path)
        if found is not None and found == self._spoilt:
            self.path.replace(self.aside)
            found = None
        self._spoilt = None
        if found is not None and (problem := foreign(self.path.lstat())):
            raise sqlite3.OperationalError(f"it {problem}")
        if found is None:
            # A new database must not find the old one's: it would take them for its own.
            for suffix in _BESIDE:
                self._with(suffix).unlink(missing_ok=True)
            # Never an existing file: to close one would drop the locks that this process has on it through SQLite.
            os.close(open_private(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
            found = _identity(self.path)
        used = any(self._found_beside())
        try:
            db = self._connect()
        except sqlite3.Error as error:
            # Any file may have been configured by mistake. Only a database that is, or was, in use has those beside it.
            if is_damage(error) and used:
                self._spoilt = found
            raise
        self._opened = found
        self._beside = self._found_beside()
        return db

    def _with(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _found_beside(self) -> list[_Identity]:
        return [_identity(self._with(suffix)) for suffix in _BESIDE]

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=0, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = OFF")
            db.executescript(self._schema)
        except sqlite3.Error:
            db.close()
            raise
        return db


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error tells that the file's bytes are not what SQLite wrote."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return False
    return code == sqlite3.SQLITE_IOERR_SHORT_READ or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _identity(path: Path) -> _Identity:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep others from opening, or replacing, files of this directory meanwhile. Raises Busy if somebody else does."""
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Busy("another process is opening it") from None
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # a process forked meanwhile has the descriptor, too
    finally:
        os.close(lock)
