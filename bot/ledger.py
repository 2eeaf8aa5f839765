"""Where claims are kept: WAL SQLite in a private directory on tmpfs, shared by the children of one supervisor.

Beside the claims of events it holds the last turns of loops, and notes that outlive a window. Knows keys and
generations; knows nothing of discord.py or of roles. A claim takes about 13 us and never waits: the busy timeout is
zero and a lock is tried again for as long as `_PATIENCE` lasts, because this runs on the event loop.

An error is never read as "not mine". An event that may be answered twice is better than one answered by nobody, so
whatever cannot be claimed is handled, and counted.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from bot.keys import Claimed, Others

_log = logging.getLogger("bastion.ledger")

_PATIENCE = 0.3
"""Seconds for which claims may hold up the event loop while another process has the lock.

It has it for microseconds, but a busy machine may put that process off for some tenths of a second; to give up then is
to handle an event twice. One that is stopped keeps it for ever: patience is used up, and comes back slowly."""

_PATIENCE_BACK = 0.05
"""Seconds of patience that come back each second: the most of the event loop that a lost lock costs."""

_ORDINARY = 0.005
"""Seconds that a lock may take without a loss of patience: another process's claims, between which the lock changes
hands. Two that race for thousands of claims a second wait a quarter of the time, a tenth of a millisecond each."""
_BATCH = 500
"""Keys per query; SQLite takes at least 999 variables."""

_QUIET_SECONDS = 10.0
"""One log line per burst of errors: a burst ends when there was none for so long."""

_REOPEN_SECONDS = 1.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS claims (
    key TEXT PRIMARY KEY,
    generation INTEGER NOT NULL,
    digest TEXT,
    number INTEGER,
    mark TEXT,
    at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS claims_by_digest ON claims (digest, number) WHERE digest IS NOT NULL;
CREATE INDEX IF NOT EXISTS claims_by_age ON claims (at);
CREATE TABLE IF NOT EXISTS passed (
    digest TEXT NOT NULL,
    generation INTEGER NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (digest, generation)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS turns (name TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""


_PASS = """
INSERT INTO passed VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET number = max(number, excluded.number)
"""

_PAST = """
SELECT max(number) FROM (
    SELECT number FROM claims WHERE digest = ? AND (generation = ? OR at < ?)
    UNION ALL SELECT number FROM passed WHERE digest = ? AND generation = ?
)
"""

_TRIM = """
DELETE FROM claims WHERE at >= ? AND at < ? AND (digest IS NULL OR EXISTS (
    SELECT 1 FROM claims AS newer WHERE newer.digest = claims.digest AND newer.number > claims.number
))
"""


class Ledger(Others, Protocol):
    """The right to handle one event, given to exactly one child."""

    won: int
    lost: int
    errors: int

    def claim(self, key: str, at: float) -> bool:
        """Claim a unique event. True: this child handles it (also when the ledger failed)."""

    def claim_number(self, digest: str, number: int, mark: str | None, at: float) -> bool:
        """Claim one occurrence of a counted event."""

    def past(self, digest: str, before: float) -> int:
        """Return how many occurrences of a digest this child is past, 0 if none.

        It has claimed them, or has asked and found them claimed, or they were claimed ``before`` a time.
        """

    def claimed(self, keys: Sequence[str]) -> set[str]:
        """Return those of the keys that some child has claimed."""

    def trim(self, before: float, *, idle: float, counts: Callable[[str], bool]) -> None:
        """Forget claims from before a time, but for the newest of each digest.

        From before ``idle``, the earlier time, that one too is forgotten, unless the caller ``counts`` its digest.
        """

    def forget(self, digests: Sequence[str]) -> bool:
        """Forget all claims of these digests. False: they could not be forgotten now."""

    def clear(self) -> None:
        """Forget all claims."""

    def close(self) -> None:
        """Let go of the file."""


def number_key(digest: str, number: int) -> str:
    """Return the key of one occurrence of a counted event."""
    return f"{digest}#{number}"


class SQLiteLedger:
    """The ledger in a file. It opens lazily and opens anew after an error, at most once a second."""

    def __init__(self, path: str, generation: int) -> None:
        self.won = 0
        self.lost = 0
        self.errors = 0
        self._path = path
        self._generation = generation
        self._db: sqlite3.Connection | None = None
        self._opened_at = float("-inf")
        self._failed_at = float("-inf")
        self._trimmed = self._trimmed_idle = float("-inf")
        self._patience = _PATIENCE
        self._waited_at = time.monotonic()

    def claim(self, key: str, at: float) -> bool:
        """Claim a unique event."""
        return self._insert((key, self._generation, None, None, None, at))

    def claim_number(self, digest: str, number: int, mark: str | None, at: float) -> bool:
        """Claim one occurrence of a counted event, telling the others where it stood."""
        if self._insert((number_key(digest, number), self._generation, digest, number, mark, at)):
            return True
        self._run(_PASS, (digest, self._generation, number))
        return False

    def past(self, digest: str, before: float) -> int:
        """Return how many occurrences of a digest this child is past; 0 if the ledger fails."""
        rows = self._rows(_PAST, (digest, self._generation, before, digest, self._generation))
        return (rows[0][0] or 0) if rows else 0

    def claimed(self, keys: Sequence[str]) -> set[str]:
        """Return those of the keys that some child has claimed; none if the ledger fails."""
        found: set[str] = set()
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            marks = ",".join("?" * len(batch))
            found.update(row[0] for row in self._rows(f"SELECT key FROM claims WHERE key IN ({marks})", batch))
        return found

    def claimed_by_others(self, digest: str) -> Sequence[Claimed]:
        """Return the other children's claims of this digest, by number; none if the ledger fails."""
        rows = self._rows(
            "SELECT number, mark, at FROM claims WHERE digest = ? AND generation != ? ORDER BY number",
            (digest, self._generation),
        )
        return [Claimed(*row) for row in rows]

    def anchor_claimed_by_others(self, anchors: Collection[str]) -> tuple[str, float] | None:
        """Return one of these anchors that another child has claimed, and when that child received it."""
        keys = list(anchors)
        for start in range(0, len(keys), _BATCH):
            batch = keys[start : start + _BATCH]
            marks = ",".join("?" * len(batch))
            found = self._rows(
                f"SELECT key, at FROM claims WHERE key IN ({marks}) AND generation != ? LIMIT 1",
                (*batch, self._generation),
            )
            if found:
                return found[0]
        return None

    def trim(self, before: float, *, idle: float, counts: Callable[[str], bool]) -> None:
        """Forget old claims, each call what has come of age since the one before; what fails is done by the next."""
        if self._try(_TRIM, (self._trimmed, before)) is not None:
            self._trimmed = before
        old = self._try(
            "SELECT DISTINCT digest FROM claims WHERE at >= ? AND at < ? AND digest IS NOT NULL",
            (self._trimmed_idle, idle),
        )
        if old is None:
            return
        digests = [digest for (digest,) in old if not counts(digest)]
        if self.forget(digests) and self._try(_TRIM, (self._trimmed_idle, idle)) is not None:
            self._trimmed_idle = idle

    def forget(self, digests: Sequence[str]) -> bool:
        """Forget all claims of these digests."""
        for start in range(0, len(digests), _BATCH):
            batch = digests[start : start + _BATCH]
            marks = ",".join("?" * len(batch))
            for table in ("claims", "passed"):
                if self._try(f"DELETE FROM {table} WHERE digest IN ({marks})", batch) is None:
                    return False
        return True

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

    def forget_notes(self) -> None:
        """Forget what children of an earlier supervisor wrote down."""
        self._run("DELETE FROM notes", ())

    def clear(self) -> None:
        """Forget all claims and turns."""
        self._run("DELETE FROM claims", ())
        self._run("DELETE FROM passed", ())
        self._run("DELETE FROM turns", ())

    def close(self) -> None:
        """Let go of the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _insert(self, row: tuple[object, ...]) -> bool:
        cursor = self._run("INSERT OR IGNORE INTO claims VALUES (?, ?, ?, ?, ?, ?)", row)
        if cursor is None or cursor.rowcount == 1:
            self.won += 1
            return True
        self.lost += 1
        return False

    def _rows(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        cursor = self._run(sql, values)
        return [] if cursor is None else cursor.fetchall()

    def _run(self, sql: str, values: Sequence[object]) -> sqlite3.Cursor | None:
        waiting: float | None = None
        while True:
            try:
                cursor = self._open().execute(sql, values)
            except sqlite3.Error as error:
                now = time.monotonic()
                if waiting is None:
                    waiting = now
                    self._patience = min(_PATIENCE, self._patience + _PATIENCE_BACK * (now - self._waited_at))
                if _is_lock(error) and now - waiting < self._patience:
                    time.sleep(0.0002)
                    continue
                self._fail(error, now)
                cursor = None
            if waiting is not None:
                self._waited_at = time.monotonic()
                lost = self._waited_at - waiting - _ORDINARY
                self._patience = max(0.0, self._patience - max(0.0, lost))
            return cursor

    def _try(self, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]] | None:
        """Do what can as well be done later: nothing is waited for, and failing is no error."""
        try:
            return self._open().execute(sql, values).fetchall()
        except sqlite3.Error:
            return None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            now = time.monotonic()
            if now - self._opened_at < _REOPEN_SECONDS:
                raise sqlite3.DatabaseError("not open since the last error")
            self._opened_at = now
            db = sqlite3.connect(self._path, timeout=0, isolation_level=None)
            try:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = OFF")
                db.executescript(_SCHEMA)
            except sqlite3.Error as error:
                db.close()
                if _is_lock(error):
                    self._opened_at = float("-inf")
                raise
            self._db = db
        return self._db

    def _fail(self, error: sqlite3.Error, now: float) -> None:
        self.errors += 1
        if now - self._failed_at > _QUIET_SECONDS:
            _log.error(
                "the ledger %s fails (%s): events are handled without a claim, so during a handoff one may be "
                "handled twice; check that its directory exists, is writable and has room",
                self._path,
                error,
            )
        self._failed_at = now
        if not _is_lock(error):
            self.close()


def _is_lock(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", None) in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_BUSY_SNAPSHOT,
        sqlite3.SQLITE_BUSY_RECOVERY,
    )
