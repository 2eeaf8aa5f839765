"""Where claims are kept: WAL SQLite in a private directory on tmpfs, shared by the children of one supervisor.

Beside the claims of events it holds the last turns of loops, and notes that outlive a window. Knows keys and
generations; knows nothing of discord.py or of roles. A claim takes about 10 us and never waits: the busy timeout is
zero and a lock is tried again for as long as `_PATIENCE` lasts, because this runs on the event loop.

Should the file be removed, replaced or damaged while it is in use, each child that finds out turns to the file that is
there under its name by then, and carries over what it knows: `ledgerfile` sees to it that all come to the same one.

An error is never read as "not mine". An event that may be answered twice is better than one answered by nobody, so
whatever cannot be claimed is handled, and counted.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from bastion.bot.keys import Claimed, Others
from bastion.bot.ledgerfile import LedgerFile, is_damage

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

_LOOK_SECONDS = 0.01
"""How often at most claims look whether the file is still there: its loss doubles no more than what comes in that time.

A look is an eighth of a claim; so few of them take 0.02 % of a core, however many claims there are."""

_RECENT = 5000
"""Newest claims kept in memory too, for when the file that had them cannot be read: some seconds of the heaviest
traffic, in about 1 MB."""

_SWEEP = 1000
"""Claims that each trim looks at: a third of a millisecond."""

_SWEEP_PER_CLAIM = 3
"""And for each claim since the trim before: all are looked at within half of the time for which they are kept."""

_SWEEP_MOST = 10_000
"""At most: three milliseconds."""

_LAST_KEY = "\U0010ffff"
"""After every key."""

_CARRY_SECONDS = 0.1
"""Longest wait for a lock while claims are carried over."""

_TABLES = ("claims", "passed", "notes", "turns")

# There is no index by age: to keep it is a quarter of a claim's time, and only what is 15 minutes old is looked for.

_SCHEMA = """
CREATE TABLE IF NOT EXISTS claims (
    key TEXT PRIMARY KEY,
    generation INTEGER NOT NULL,
    digest TEXT,
    number INTEGER,
    mark TEXT,
    at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS passed (
    digest TEXT NOT NULL,
    generation INTEGER NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (digest, generation)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS turns (name TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID;
"""


_CLAIM = "INSERT OR IGNORE INTO claims VALUES (?, ?, ?, ?, ?, ?)"

_PASS = """
INSERT INTO passed VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET number = max(number, excluded.number)
"""

# The occurrences of a digest lie side by side, as their keys begin with it and "#": "$" is the next character.

_RECEIVED = "SELECT key, at FROM claims WHERE key IN ({}) AND generation != ?"
_OTHERS = (
    "SELECT number, mark, at FROM claims WHERE key > ? || '#' AND key < ? || '$' AND generation != ? ORDER BY number"
)

_PAST = """
SELECT max(number) FROM (
    SELECT number FROM claims WHERE key > ? || '#' AND key < ? || '$' AND (generation = ? OR at < ?)
    UNION ALL SELECT number FROM passed WHERE digest = ? AND generation = ?
)
"""

_SWEPT_TO = "SELECT key FROM claims WHERE key > ? ORDER BY key LIMIT 1 OFFSET ?"

_TRIM = """
DELETE FROM claims WHERE key > :above AND key <= :to AND at < :before AND (digest IS NULL OR EXISTS (
    SELECT 1 FROM claims AS newer
    WHERE newer.key > claims.digest || '#' AND newer.key < claims.digest || '$' AND newer.number > claims.number
))
"""

_IDLE = """
SELECT DISTINCT digest FROM claims WHERE key > :above AND key <= :to AND at < :idle AND digest IS NOT NULL
"""

_FORGET = """
WITH gone (digest) AS (VALUES {marks})
DELETE FROM claims WHERE key IN (
    SELECT claims.key FROM gone CROSS JOIN claims
    ON claims.key > gone.digest || '#' AND claims.key < gone.digest || '$'
)
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
        """Forget claims from before a time, but for the newest of each digest. Call it about once a second.

        From before ``idle``, the earlier time, that one too is forgotten, unless the caller ``counts`` its digest. Each
        call looks at some of the claims: one may be kept for half as long again.
        """

    def forget(self, digests: Sequence[str]) -> bool:
        """Forget all claims of these digests. False: they could not be forgotten now."""

    def clear(self) -> None:
        """Forget all claims."""

    def check(self) -> None:
        """See whether the ledger is still the one that the other children find. Call it about once a second."""

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
        self._file = LedgerFile(path, _SCHEMA)
        self._generation = generation
        self._db: sqlite3.Connection | None = None
        self._lost: sqlite3.Connection | None = None
        """What was removed while it was open, until its content is carried over."""
        self._recent: deque[tuple[Any, ...]] = deque(maxlen=_RECENT)
        """What this child has claimed, or handled while it could not claim."""
        self._looked_at = float("-inf")
        self._opened_at = float("-inf")
        self._renewed_at = float("-inf")
        self._failed_at = float("-inf")
        self._swept = ""
        """The key up to which old claims have been looked for; "" at the beginning."""
        self._swept_asked = 0
        """How many claims had been asked for by then."""
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
        rows = self._rows(_PAST, (digest, digest, self._generation, before, digest, self._generation))
        return (rows[0][0] or 0) if rows else 0

    def claimed(self, keys: Sequence[str]) -> set[str]:
        """Return those of the keys that some child has claimed; none if the ledger fails."""
        return {key for (key,) in self._of_keys("SELECT key FROM claims WHERE key IN ({})", keys)}

    def claimed_by_others(self, digest: str) -> Sequence[Claimed]:
        """Return the other children's claims of this digest, by number; none if the ledger fails."""
        return [Claimed(*row) for row in self._rows(_OTHERS, (digest, digest, self._generation))]

    def received_by_others(self, keys: Collection[str]) -> Mapping[str, float]:
        """Return when the others received those of these events that they have claimed."""
        return dict(self._of_keys(_RECEIVED, keys, self._generation))

    def anchor_claimed_by_others(self, anchors: Collection[str]) -> tuple[str, float] | None:
        """Return one of these anchors that another child has claimed, and when that child received it."""
        return next(self._of_keys(f"{_RECEIVED} LIMIT 1", anchors, self._generation), None)

    def trim(self, before: float, *, idle: float, counts: Callable[[str], bool]) -> None:
        """Forget old claims among the next ones by key; what fails is done by the next call."""
        asked = self.won + self.lost
        count = min(_SWEEP + _SWEEP_PER_CLAIM * (asked - self._swept_asked), _SWEEP_MOST)
        last = self._try(_SWEPT_TO, (self._swept, count))
        if last is None:
            return
        to: str = last[0][0] if last else _LAST_KEY
        span = {"above": self._swept, "to": to, "before": before, "idle": idle}
        idle_digests = self._try(_IDLE, span)
        if idle_digests is None or self._try(_TRIM, span) is None:
            return
        if self.forget([digest for (digest,) in idle_digests if not counts(digest)]):
            self._swept, self._swept_asked = (to if last else ""), asked

    def forget(self, digests: Sequence[str]) -> bool:
        """Forget all claims of these digests."""
        if digests:
            forgotten = set(digests)
            self._recent = deque((row for row in self._recent if row[2] not in forgotten), maxlen=_RECENT)
        for start in range(0, len(digests), _BATCH):
            batch = digests[start : start + _BATCH]
            claims = _FORGET.format(marks=",".join(["(?)"] * len(batch)))
            passed = f"DELETE FROM passed WHERE digest IN ({','.join('?' * len(batch))})"
            if self._try(claims, batch) is None or self._try(passed, batch) is None:
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

    def notes(self) -> dict[str, str]:
        """Return all that was written down."""
        return {str(key): str(value) for key, value in self._rows("SELECT key, value FROM notes", ())}

    def forget_notes(self) -> None:
        """Forget what children of an earlier supervisor wrote down."""
        self._run("DELETE FROM notes", ())

    def clear(self) -> None:
        """Forget all claims and turns."""
        self._recent.clear()
        for table in ("claims", "passed", "turns"):
            self._run(f"DELETE FROM {table}", ())
            if self._lost is not None:
                self._lost.execute(f"DELETE FROM {table}")

    def check(self) -> None:
        """See whether the file is the one that other children find under its name; else turn to that one.

        A claim looks at the file itself only, not at what lies beside it.
        """
        try:
            self._open()
            if not self._file.is_whole():
                self._file.spoil()
                self._lose()
                self._open()
        except sqlite3.Error as error:
            if not _is_lock(error):
                self._fail(error, time.monotonic())

    def close(self) -> None:
        """Let go of the file."""
        for db in (self._db, self._lost):
            if db is not None:
                db.close()
        self._db = self._lost = None

    def _insert(self, row: tuple[object, ...]) -> bool:
        cursor = None
        if self._db is not None and time.monotonic() - self._looked_at < _LOOK_SECONDS:
            try:
                cursor = self._db.execute(_CLAIM, row)  # as nearly always: what `_run` does, without its frames
            except sqlite3.Error:
                cursor = None
        if cursor is None:
            cursor = self._run(_CLAIM, row)
        if cursor is None or cursor.rowcount == 1:
            self._recent.append(row)
            self.won += 1
            return True
        self.lost += 1
        return False

    def _of_keys(self, sql: str, keys: Collection[str], *values: object) -> Iterator[tuple[Any, ...]]:
        """Yield what a query says of these keys, asked in as many parts as need be. It has ``{}`` in their place."""
        wanted = list(keys)
        for start in range(0, len(wanted), _BATCH):
            batch = wanted[start : start + _BATCH]
            yield from self._rows(sql.format(",".join("?" * len(batch))), (*batch, *values))

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

    def _try(self, sql: str, values: Sequence[object] | Mapping[str, object]) -> list[tuple[Any, ...]] | None:
        """Do what can as well be done later: nothing is waited for, and failing is no error."""
        try:
            return self._open().execute(sql, values).fetchall()
        except sqlite3.Error:
            return None

    def _open(self) -> sqlite3.Connection:
        now = time.monotonic()
        if self._db is not None:
            if now - self._looked_at < _LOOK_SECONDS:
                return self._db
            self._looked_at = now
            if self._file.is_there():
                return self._db
            self._lose()
        if now - self._opened_at < _REOPEN_SECONDS:
            raise sqlite3.DatabaseError("not open since the last error")
        self._opened_at = now
        try:
            db = self._file.open()
            try:
                self._carry_over(db)
            except sqlite3.Error:
                db.close()
                raise
        except sqlite3.Error as error:
            if _is_lock(error):
                self._opened_at = float("-inf")
            raise
        if self._lost is not None:
            self._lost.close()
            self._lost = None
            self._tell(
                now,
                "the ledger %s was removed or replaced while it was in use: claims go on in the file that is there "
                "now, with what was in the other one; an event of that moment may have been handled twice; find out "
                "what removes files there, or set ledger.path",
                self._file.path,
            )
        self._db = db
        self._looked_at = now
        return db

    def _lose(self) -> None:
        """Let go of a file that other children do not find, but for what is in it."""
        self.errors += 1
        self._lost, self._db = self._db, None
        self._renew()

    def _renew(self) -> None:
        """Have the file opened anew at once; but if that was so a moment ago, not before the usual time."""
        now = time.monotonic()
        if now - self._renewed_at >= _REOPEN_SECONDS:
            self._opened_at = float("-inf")
        self._renewed_at = now

    def _carry_over(self, db: sqlite3.Connection) -> None:
        """Write into a file that was opened just now what this child knows to be claimed."""
        if self._lost is not None:
            try:
                self._copy(self._lost)
            except sqlite3.Error as error:
                if _is_lock(error):
                    raise
        if self._recent:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(_CLAIM, self._recent)
            db.execute("COMMIT")

    def _copy(self, lost: sqlite3.Connection) -> None:
        # 90,000 rows, which is as many as 15 minutes of heavy traffic leave, take a tenth of a second.
        lost.execute(f"PRAGMA busy_timeout = {round(_CARRY_SECONDS * 1000)}")
        lost.execute("ATTACH ? AS found", (str(self._file.path),))
        try:
            lost.execute("PRAGMA found.synchronous = OFF")
            lost.execute("BEGIN")
            for table in _TABLES:
                lost.execute(f"INSERT OR IGNORE INTO found.{table} SELECT * FROM main.{table}")
            lost.execute("COMMIT")
        finally:
            if lost.in_transaction:
                lost.execute("ROLLBACK")
            lost.execute("DETACH found")

    def _fail(self, error: sqlite3.Error, now: float) -> None:
        self.errors += 1
        if is_damage(error):
            if self._db is not None:
                self._file.spoil()
            self._renew()
        if self._file.spoilt:
            self._tell(
                now,
                "the ledger %s is damaged (%s): it is put aside as %s, and a new one made; an event of that moment may "
                "be handled twice; find out what else writes to that file, or set ledger.path",
                self._file.path,
                error,
                self._file.aside,
            )
        else:
            self._tell(
                now,
                "the ledger %s fails (%s): events are handled without a claim, so during a handoff one may be "
                "handled twice; check that its directory exists, is writable and has room, and that the file, if "
                "there is one, is a ledger",
                self._file.path,
                error,
            )
        if self._db is not None and not _is_lock(error):
            self._db.close()
            self._db = None

    def _tell(self, now: float, text: str, *args: object) -> None:
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
