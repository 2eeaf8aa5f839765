"""Where claims are kept: WAL SQLite in a private directory on tmpfs, shared by the children of one supervisor.

Knows keys and generations; knows nothing of discord.py or of roles. A claim takes about 13 us and never waits: the
busy timeout is zero and a lock is tried again for at most `_RETRY_SECONDS`, because this runs on the event loop.

An error is never read as "not mine". An event that may be answered twice is better than one answered by nobody, so
whatever cannot be claimed is handled, and counted.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Collection, Sequence
from typing import Any, Protocol

from bot.keys import Claimed, Others

_log = logging.getLogger("bastion.ledger")

_RETRY_SECONDS = 0.02
"""Longest time that a claim may hold up the event loop; at 5,000 claims a second 99 of 100 need less than 2 ms."""
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

    def claimed(self, keys: Sequence[str]) -> set[str]:
        """Return those of the keys that some child has claimed."""

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

    def claim(self, key: str, at: float) -> bool:
        """Claim a unique event."""
        return self._insert((key, self._generation, None, None, None, at))

    def claim_number(self, digest: str, number: int, mark: str | None, at: float) -> bool:
        """Claim one occurrence of a counted event, telling the others where it stood."""
        return self._insert((number_key(digest, number), self._generation, digest, number, mark, at))

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

    def clear(self) -> None:
        """Forget all claims."""
        self._run("DELETE FROM claims", ())

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
        give_up = 0.0
        while True:
            try:
                return self._open().execute(sql, values)
            except sqlite3.Error as error:
                now = time.monotonic()
                give_up = give_up or now + _RETRY_SECONDS
                if not _is_lock(error) or now >= give_up:
                    self._fail(error, now)
                    return None
                time.sleep(0.0002)

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
