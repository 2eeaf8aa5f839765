"""Who handles an event that two children hear: claims, in a database in a private directory on tmpfs.

Each child claims an event before it handles it. What happens once belongs to whoever is first to insert its key. Any
other event may happen again, so equal ones are paired: one that this child's session brings is the same as one that
another child has claimed, if this child has paired nothing with that claim before, and both came at about the same
time (`Among`). An example, of a reaction that is added, removed and added again within a second. Generation 1 is
active, 2 holds what it hears, and is made active after the removal:

    1 hears add, remove     handles both:    claims (add, 1) and (remove, 1)
    2 hears add, remove     pairs both with those claims: they are handled
    2 hears add             finds no claim that is not paired: claims (add, 2), and handles it

To look for a claim and to insert one's own is one statement, so of two children never both handle an event. Beside the
claims lie the last turns of loops, and notes for later children.

A ledger that fails (locked by a process that is stopped, full, gone, damaged) costs nobody an event: what cannot be
claimed is handled, and counted. Whoever finds that the file is gone makes a new one, at most once a second.

Knows keys and generations; knows nothing of discord.py or of roles. A claim takes about 10 us and runs on the event
loop, so a lock is waited for only for `PATIENCE`, and after that was in vain hardly for a while.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bastion.wire.private import foreign, open_private

_log = logging.getLogger("bastion.ledger")

PAIR_WITHIN = 30.0
"""Seconds by which two children may hear one event apart: longer than the 20 s (`restart.hang_timeout`) after which one
that stands still is ended. Sessions that are well differ by some tenths of a second."""

SKEW = 1.0
"""Seconds by which sessions that are well may bring one event apart, on a busy machine. Not more than a child with
sessions of its own waits before it is active (`recovery.SURE_AFTER`): nothing is left out then at the switch."""

KEPT_SECONDS = 900.0
"""How long claims are kept: longer than a child holds an event back (5 minutes), and than Discord keeps a session whose
connection was cut."""

PATIENCE, IMPATIENCE = 0.2, 0.001
"""Seconds for which a claim waits for another process's lock, and until the next `trim` once that was in vain.

Another process has it for microseconds, unless it is stopped, or put off by a busy machine."""

_BATCH = 500
"""Keys per query; SQLite takes at least 999 variables."""

_QUIET_SECONDS = 10.0
"""One log line per burst of errors: a burst ends when there was none for so long."""

_REOPEN_SECONDS = 1.0

_TRIMMED = 2000
"""Oldest claims that each `trim` looks at: more than a second brings, and a millisecond's work."""


class Among(NamedTuple):
    """Which claims of another child may be of an event that this child's session has brought.

    Times are seconds of the machine's monotonic clock.
    """

    since: float
    until: float
    sure: float = float("-inf")
    """What was claimed before may be of an event that this session never brought, for it had not begun. So it counts
    only within `SKEW`."""


# Rows lie in the order in which they came, so the oldest need no index.

_SCHEMA = """
CREATE TABLE IF NOT EXISTS claims (key TEXT UNIQUE NOT NULL, generation INTEGER NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS occurrences (digest TEXT NOT NULL, generation INTEGER NOT NULL, at REAL NOT NULL, twin INT);
CREATE INDEX IF NOT EXISTS by_digest ON occurrences (digest, at);
CREATE INDEX IF NOT EXISTS by_twin ON occurrences (twin, generation) WHERE twin IS NOT NULL;
CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS turns (name TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""
"""The ``twin`` of an occurrence is the row of another child that has handled it; NULL: this child has."""

_TWIN = """
SELECT other.rowid FROM occurrences AS other
WHERE other.digest = :digest AND other.generation != :generation AND other.twin IS NULL
AND other.at BETWEEN :since AND :until AND (other.at >= :sure OR abs(other.at - :at) <= :skew) AND NOT EXISTS (
    SELECT 1 FROM occurrences AS own WHERE own.twin = other.rowid AND own.generation = :generation
) ORDER BY abs(other.at - :at) LIMIT 1
"""
_CLAIM = "INSERT OR IGNORE INTO claims VALUES (?, ?, ?)"
_CLAIM_OCCURRENCE = f"INSERT INTO occurrences VALUES (:digest, :generation, :at, ({_TWIN}))"
_PAIR = f"INSERT INTO occurrences SELECT :digest, :generation, :at, rowid FROM ({_TWIN})"
_TRIM = """
DELETE FROM {0} WHERE rowid IN (SELECT rowid FROM {0} ORDER BY rowid LIMIT {1}) AND at NOT BETWEEN :before AND :now
"""
"""What is from before the machine's start has a time that is still to come."""


class Ledger(Protocol):
    """The right to handle one event, given to exactly one child."""

    won: int
    lost: int
    errors: int

    def claim(self, key: str, at: float) -> bool:
        """Claim an event that happens once. True: this child handles it (also when the ledger failed)."""

    def claim_occurrence(self, digest: str, at: float, *, among: Among) -> bool:
        """Claim an event that may happen again, unless another child has claimed it."""

    def pair(self, digest: str, at: float, *, among: Among) -> bool:
        """Return whether another child has handled such an event, without claiming it (or if the ledger failed: no)."""

    def claimed(self, keys: Sequence[str]) -> set[str]:
        """Return those of the keys that some child has claimed."""

    def trim(self, now: float, *, kept: float = KEPT_SECONDS) -> bool:
        """Forget some of the claims that are ``kept`` seconds old, and see that the file is there.

        Call it about once a second. Returns whether there were any (if the ledger failed: no).
        """

    def clear(self) -> None:
        """Forget all claims and turns."""

    def close(self) -> None:
        """Let go of the file."""


class SQLiteLedger:
    """The ledger in a file. It opens lazily and opens anew after an error, at most once a second."""

    def __init__(self, path: str, generation: int) -> None:
        self.won = 0
        self.lost = 0
        self.errors = 0
        self._path = path
        self._generation = generation
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        """Which file that is, by device and inode."""
        self._opened_at = self._failed_at = float("-inf")

    def claim(self, key: str, at: float) -> bool:
        """Claim an event that happens once."""
        cursor = self._run(_CLAIM, (key, self._generation, at))
        return self._count(mine=cursor is None or cursor.rowcount == 1)

    def claim_occurrence(self, digest: str, at: float, *, among: Among) -> bool:
        """Claim an event that may happen again."""
        cursor = self._run(_CLAIM_OCCURRENCE, self._occurrence(digest, at, among))
        rows = [] if cursor is None else self._rows("SELECT twin FROM occurrences WHERE rowid = ?", (cursor.lastrowid,))
        return self._count(mine=not rows or rows[0][0] is None)

    def pair(self, digest: str, at: float, *, among: Among) -> bool:
        """Return whether another child has handled such an event, without claiming it."""
        cursor = self._run(_PAIR, self._occurrence(digest, at, among))
        return cursor is not None and cursor.rowcount == 1

    def _occurrence(self, digest: str, at: float, among: Among) -> dict[str, Any]:
        told = {"since": among.since, "until": among.until, "sure": among.sure, "skew": SKEW}
        return {"digest": digest, "generation": self._generation, "at": at} | told

    def _count(self, *, mine: bool) -> bool:
        self.won += mine
        self.lost += not mine
        return mine

    def claimed(self, keys: Sequence[str]) -> set[str]:
        """Return those of the keys that some child has claimed; none if the ledger fails."""
        return {key for (key,) in self._of_keys("SELECT key FROM claims WHERE key IN ({})", keys)}

    def trim(self, now: float, *, kept: float = KEPT_SECONDS) -> bool:
        """Forget some of the claims that are ``kept`` seconds old, and see that the file is there."""
        forgotten = 0
        if self._db is not None and not self._is_there():
            self.errors += 1
            self._close()
            self._tell(
                "the ledger %s was removed or replaced while it was in use, so an event of that moment may have been "
                "handled twice; claims go on in a new one; find out what removes files there, or set ledger.path",
                self._path,
            )
        try:
            db = self._open()
            self._be_patient(0)
            for table in ("claims", "occurrences"):
                span = {"before": now - kept, "now": now + _REOPEN_SECONDS}
                forgotten += db.execute(_TRIM.format(table, _TRIMMED), span).rowcount
        except sqlite3.Error as error:
            if not _is_lock(error):
                self._fail(error)
        self._be_patient(PATIENCE)
        return forgotten > 0

    def _be_patient(self, seconds: float) -> None:
        if self._db is not None:
            self._db.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")

    def take_turn(self, name: str, last: float | None, at: float) -> bool:
        """Put ``at`` in the place of a loop's last turn. True if that was ``last`` (or if the ledger failed)."""
        if last is None:
            cursor = self._run("INSERT OR IGNORE INTO turns VALUES (?, ?)", (name, at))
        else:
            cursor = self._run("UPDATE turns SET at = ? WHERE name = ? AND at = ?", (at, name, last))
        return cursor is None or cursor.rowcount == 1

    def note_turn(self, name: str, at: float) -> None:
        """Write down a loop's last turn, unless a later one is."""
        self._run("INSERT INTO turns VALUES (?, ?) ON CONFLICT DO UPDATE SET at = max(at, excluded.at)", (name, at))

    def last_turn(self, name: str) -> float | None:
        """Return when a loop's last turn began, None if that is not written down (or if the ledger failed)."""
        rows = self._rows("SELECT at FROM turns WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def note(self, key: str, value: str) -> None:
        """Write something down for later children."""
        self._run("INSERT OR REPLACE INTO notes VALUES (?, ?)", (key, value))

    def noted(self, key: str) -> str | None:
        """Return what was written down last; None if nothing was (or if the ledger failed)."""
        rows = self._rows("SELECT value FROM notes WHERE key = ?", (key,))
        return rows[0][0] if rows else None

    def notes(self) -> dict[str, str]:
        """Return all that was written down."""
        return {str(key): str(value) for key, value in self._rows("SELECT key, value FROM notes", ())}

    def forget_notes(self) -> None:
        """Forget what children of an earlier supervisor wrote down."""
        self._run("DELETE FROM notes", ())

    def forget_turns(self) -> None:
        """Forget the last turns of loops: no other child begins any."""
        self._run("DELETE FROM turns", ())

    def clear(self) -> None:
        """Forget all claims and turns."""
        for table in ("claims", "occurrences", "turns"):
            self._run(f"DELETE FROM {table}", ())

    def close(self) -> None:
        """Let go of the file."""
        self._close()

    def _of_keys(self, sql: str, keys: Collection[str]) -> Iterator[tuple[Any, ...]]:
        """Yield what a query says of these keys, asked in as many parts as need be. It has ``{}`` in their place."""
        wanted = list(keys)
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            yield from self._rows(sql.format(",".join("?" * len(batch))), batch)

    def _rows(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        cursor = self._run(sql, values)
        return [] if cursor is None else cursor.fetchall()

    def _run(self, sql: str, values: Sequence[object] | Mapping[str, object]) -> sqlite3.Cursor | None:
        try:
            return self._open().execute(sql, values)
        except sqlite3.Error as error:
            self._fail(error)
            return None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            now = time.monotonic()
            if now - self._opened_at < _REOPEN_SECONDS:
                raise sqlite3.OperationalError("not open since the last error")
            self._opened_at = now
            self._db = self._connect()
        return self._db

    def _connect(self) -> sqlite3.Connection:
        path = Path(self._path)
        if self._path != ":memory:":
            try:
                self._make(path)
                found = path.stat()
            except OSError as error:
                raise sqlite3.OperationalError(error.strerror) from error
            self._file = found.st_dev, found.st_ino
        db = sqlite3.connect(self._path, timeout=PATIENCE, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = OFF")
            db.executescript(_SCHEMA)
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _make(self, path: Path) -> None:
        """Make the file unless it is there. It must be ours alone, and so must be what SQLite puts beside it."""
        try:
            os.close(open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            if problem := foreign(path.lstat()):
                raise sqlite3.OperationalError(f"it {problem}") from None
        else:
            for suffix in ("-wal", "-shm"):  # of one that was removed: they would be taken for the new one's
                path.with_name(path.name + suffix).unlink(missing_ok=True)

    def _is_there(self) -> bool:
        """Whether the path still leads to the file that this child has open, as it does for the others."""
        if self._path == ":memory:":
            return True
        try:
            found = os.lstat(self._path)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._file

    def _fail(self, error: sqlite3.Error) -> None:
        self.errors += 1
        self._tell(
            "the ledger %s fails (%s): events are handled without a claim, so during a handoff one may be handled "
            "twice; check that its directory exists, is writable and has room, and that the file, if there is one, is "
            "a ledger",
            self._path,
            error,
        )
        if self._db is None:
            return
        if _is_lock(error):
            self._be_patient(IMPATIENCE)  # else the loop would stand still with the process that has the lock
            return
        self._close()
        if _is_damage(error):
            Path(self._path).unlink(missing_ok=True)  # it was a ledger when it was opened here

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _tell(self, text: str, *args: object) -> None:
        now = time.monotonic()
        if now - self._failed_at > _QUIET_SECONDS:
            _log.error(text, *args)
        self._failed_at = now


def _is_lock(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", None) in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_BUSY_SNAPSHOT,
        sqlite3.SQLITE_BUSY_RECOVERY,
    )


def _is_damage(error: sqlite3.Error) -> bool:
    """Whether an error tells that the file's bytes are not what SQLite wrote."""
    code = getattr(error, "sqlite_errorcode", 0) or 0
    return code == sqlite3.SQLITE_IOERR_SHORT_READ or code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
