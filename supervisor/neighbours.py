"""Who else shares the ledger: supervisors side by side that know each other by files in one directory alone.

Each has a small file in the register, a directory beside the ledger, and holds a lock (flock) on it for as long as it
lives. The kernel lets go of the lock when the process is gone, however it went, so nobody has to be believed and
nothing that is left behind means anything: a file whose lock is free is a dead one's. That holds across containers of
one machine that have mounted the directory, on whatever file system keeps locks in this kernel (tmpfs, ext4, xfs ...;
not a network's). Pids are not compared, for each container counts its own.

In its file each says its stage, and which of its bots has the gateway sessions. Numbers are given once and never again,
so a higher one came later, and claims can be told apart by them.

One that lives and does nothing (stopped, stuck, its container paused) keeps its lock. So each counts its own looks in
its file, and who is looked at `STILL_LOOKS` times without having looked itself counts as *still*: it holds no role that
somebody else would wait for. It is company all the same, for its bot may go on, and claims what it handles. Looks are
counted against looks and no clock is read: who was stopped, or asleep with the whole machine, has not looked either.

The others are looked at every `LOOK_SECONDS`: the kernel tells nobody but inotify's readers that a file has changed,
which Python has no module for, and all that lateness costs is that a handover takes that long.

Knows files and locks; what follows from who is there is decided by the pure functions here and by `machine`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any

from bastion.supervisor import exchange, lastwords
from bastion.supervisor.events import Neighbours
from bastion.supervisor.state import Phase, Relief, State
from bastion.wire import claimer, supervisor_of
from bastion.wire.private import ForeignFileError, open_private

LOOK_SECONDS = 0.25
"""How often the others are looked at; a look at one other takes some 25 us."""
STILL_LOOKS = 60
"""Looks of ours within which another one looks at least once, if it is well: 15 s."""
END_PATIENCE = 30.0
"""Seconds for which a newcomer waits until bots of dead supervisors are dead, too: they end within 2 s if they can."""
_COUNTER = "counter"
_DIGITS = 12
"""Most digits of a supervisor's number: more were never given."""
_UNFINISHED = ".new"
_RECORD = struct.Struct("<4scQ")
_EVERYBODY = 2**63
"""For up to which number a supervisor's children claim: an earlier version waits until that is its own."""
_MAGIC = b"BSN1"
_CHECKSUM = struct.Struct("<I")
_SIZE = _RECORD.size + _CHECKSUM.size
_LOOKS = struct.Struct("<Q")
_HOLDER = struct.Struct("<Q")
_WHOLE = _SIZE + _LOOKS.size + _CHECKSUM.size + _HOLDER.size + _CHECKSUM.size
"""Earlier versions read the first part alone, or the first two, and write no more."""


class Stage(Enum):
    """How far a supervisor is, as the others need to know it."""

    ARRIVING = b"a"
    """Its bot is on its way, and will wait until it is called."""
    READY = b"r"
    """Its bot could take over at once."""
    STARTING = b"s"
    """Its bot is on its way to the active role and waits for nobody."""
    ACTIVE = b"A"
    YIELDING = b"y"
    """It was told to stop, and serves until another one does."""
    LEAVING = b"l"
    """It takes nothing new any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """Another supervisor.

    ``looks``: how often it has looked at the others, None if it does not say; ``still``: it lives, and does nothing.
    ``holder``: the generation of its bot that has gateway sessions, or had them last, 0 if none has.
    ``bot_gone``: that bot's process is dead, as the kernel says.
    """

    number: int
    stage: Stage
    alive: bool = True
    looks: int | None = field(default=None, compare=False)
    still: bool = False
    holder: int = field(default=0, compare=False)
    bot_gone: bool = field(default=False, compare=False)

    @property
    def well(self) -> bool:
        """Say whether it lives and looks at the others."""
        return self.alive and not self.still

    @property
    def bot(self) -> int:
        """Return under which number its bot claims that has the sessions, 0 if it has none."""
        return claimer(self.number, self.holder) if self.holder else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """Our own place in a register: its directory, our number, the descriptor that holds our file's lock."""

    directory: Path
    number: int
    lock: int


# --- what follows, pure -------------------------------------------------------------------------------------------


def stage_of(state: State) -> Stage:
    """Return what the others are told of a state."""
    if state.phase in (Phase.STOPPING, Phase.STOPPED):
        return Stage.LEAVING
    if state.yielding:
        return Stage.YIELDING
    if state.waits:
        incoming = state.child(state.incoming)
        return Stage.READY if incoming is not None and incoming.ready else Stage.ARRIVING
    return Stage.STARTING if state.active is None else Stage.ACTIVE


def holder_of(state: State) -> int:
    """Return the generation of our child that has the sessions, or had them last; 0 if none ever had."""
    starting = None if state.waits else state.incoming
    own = (one for one in (state.active, state.bereft, starting) if one is not None and not supervisor_of(one))
    return next(own, 0)


def verdict(own: int, others: Sequence[Neighbour]) -> Neighbours:
    """Return what the others mean for the supervisor with this number."""
    well = [other for other in others if other.well]
    stages = {other.stage for other in well}
    coming = {Stage.ARRIVING, Stage.READY, Stage.STARTING}
    if Stage.ACTIVE in stages:
        relief = Relief.THERE
    elif stages & coming or any(other not in well and other.stage is not Stage.LEAVING for other in others):
        relief = Relief.COMING  # who was killed may be started again, who stands still may wake up
    else:
        relief = Relief.NONE
    taken = bool(stages & {Stage.ACTIVE, Stage.STARTING})
    before_us = any(other.number < own and other.stage is Stage.READY for other in well)
    ends = any(not other.alive and not other.bot_gone for other in others)
    return Neighbours(
        company=any(other.alive for other in others),
        relief=relief,
        free=not (taken or before_us or ends),
        dead=_newest_bot(other for other in others if other.bot_gone),
        still=_newest_bot(other for other in others if other.still),
        younger=any(other.number > own and other.stage is Stage.ACTIVE for other in well),
        ready=any(other.stage is Stage.READY for other in well),
    )


_HAS_SESSIONS = {Stage.ARRIVING: 1, Stage.LEAVING: 1, Stage.STARTING: 2, Stage.YIELDING: 3, Stage.ACTIVE: 3}
"""The stages in which a supervisor's bot may have gateway sessions, the most certain with the highest number."""


def _newest_bot(others: Iterable[Neighbour]) -> int:
    """Return the number of the bot among these that had the sessions last, 0 if none had any."""
    had = [other for other in others if _had_sessions(other)]
    newest = max(had, key=lambda other: (_HAS_SESSIONS[other.stage], other.number), default=None)
    return newest.bot if newest else 0


def _had_sessions(other: Neighbour) -> bool:
    return bool(other.bot) and other.stage in _HAS_SESSIONS


def may_answer(others: Sequence[Neighbour]) -> bool:
    """Say whether some other supervisor has, or is about to have, a bot with sessions that ours could mirror."""
    return any(other.well and other.stage in (Stage.ACTIVE, Stage.YIELDING, Stage.STARTING) for other in others)


def must_wait(own: int, others: Sequence[Neighbour]) -> bool:
    """Say whether the first bot waits until it is called: a supervisor that came earlier is there."""
    return any(other.alive and other.number < own for other in others)


# --- the register -------------------------------------------------------------------------------------------------


def register_of(ledger: Path) -> Path:
    """Return the register's directory: beside the ledger."""
    return ledger.with_name(f"{ledger.name}-supervisors")


def join(ledger: Path) -> Membership:
    """Enter the register under a new number, and remove the dead from it that have left no bot's sessions.

    Raises OSError.
    """
    directory = register_of(ledger)
    directory.mkdir(mode=0o700, exist_ok=True)
    with _counted(directory / _COUNTER) as number:
        others = _look(directory, own=number)
        for other in others:
            if not other.alive and not _had_sessions(other):
                (directory / str(other.number)).unlink(missing_ok=True)
        living = {other.number for other in others if other.alive}
        lastwords.forget(directory, living=living)
        exchange.forget(directory, living=living)
        unfinished = directory / f"{number}{_UNFINISHED}"
        lock = open_private(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            # Locked and written before it has the name under which it is looked for.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(lock, _encoded(Stage.ARRIVING, 0, 0), 0)
            unfinished.rename(directory / str(number))
        except OSError:
            os.close(lock)
            raise
    return Membership(directory=directory, number=number, lock=lock)


def report(ledger: Path, why: str) -> None:
    """Tell the others why a supervisor does not come to enter the register. Raises OSError, if there is none too."""
    directory = register_of(ledger)
    with _counted(directory / _COUNTER) as number:
        lastwords.forget(directory, living={other.number for other in _look(directory, own=0) if other.alive})
        lastwords.leave(directory, number, why)


class Register:
    """The register as one of its members sees it."""

    def __init__(self, membership: Membership) -> None:
        self.membership = membership
        self._told: tuple[Stage, int] = Stage.ARRIVING, 0
        self.words = lastwords.Words(membership.directory, membership.number)
        self._looks = 0
        self._dead_before = present(membership) - living(membership)
        """They died before we came: nobody waits for them to be started again."""
        self._seen: dict[int, tuple[int | None, int]] = {}
        """Of each other: how often it had looked when that last changed, and our look that found it so."""

    @property
    def number(self) -> int:
        """Return our own number."""
        return self.membership.number

    def tell(self, stage: Stage, *, holder: int = 0) -> None:
        """Say how far we are, and which child has sessions. Raises OSError."""
        if self._told != (stage, holder):
            self._write(stage, holder)

    def is_lost(self) -> bool:
        """Say whether our file is not in the directory any more."""
        return os.fstat(self.membership.lock).st_nlink == 0

    def look(self, *, keep_dead: bool = False) -> list[Neighbour]:
        """Return the others, by number, and have them know that we look.

        The dead, who may be started again, are forgotten after `STILL_LOOKS` unless they are to be kept.
        """
        self._looks += 1
        with contextlib.suppress(OSError):  # then others take us for still: better than not to look
            self._write(*self._told)
        others = [self._judged(other) for other in _look(self.membership.directory, own=self.number)]
        self._seen = {other.number: self._seen[other.number] for other in others}
        if not keep_dead:
            for other in others:
                if not other.alive and self._is_silent(other.number):
                    with contextlib.suppress(OSError):
                        (self.membership.directory / str(other.number)).unlink()
        return others

    def _write(self, stage: Stage, holder: int) -> None:
        os.pwrite(self.membership.lock, _encoded(stage, self._looks, holder), 0)
        self._told = stage, holder

    def _judged(self, other: Neighbour) -> Neighbour:
        """Say of one that lives whether it stands still."""
        looks, since = self._seen.get(other.number, (None, 0))
        if looks != other.looks or not since:
            since = self._looks
        self._seen[other.number] = other.looks, since
        if not other.alive and other.number in self._dead_before:
            return replace(other, stage=Stage.LEAVING)
        return replace(other, still=other.alive and other.looks is not None and self._is_silent(other.number))

    def _is_silent(self, number: int) -> bool:
        return self._looks - self._seen[number][1] >= STILL_LOOKS


def leave(membership: Membership) -> None:
    """Be gone from the register."""
    with contextlib.suppress(OSError):
        exchange.leave(membership.directory, membership.number)
    with contextlib.suppress(OSError):
        (membership.directory / str(membership.number)).unlink()
    os.close(membership.lock)


def present(membership: Membership) -> set[int]:
    """Return the numbers of the others that live, or have died and left a bot's sessions."""
    others = _look(membership.directory, own=membership.number)
    return {other.number for other in others if other.alive or _had_sessions(other)}


def living(membership: Membership) -> set[int]:
    """Return the numbers of the others that live."""
    return {other.number for other in _look(membership.directory, own=membership.number) if other.alive}


@contextlib.contextmanager
def _counted(path: Path) -> Iterator[int]:
    """Give the next number; nobody else can join meanwhile. A number is used up though what follows fails."""
    counter = open_private(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(counter, fcntl.LOCK_EX)
        said = os.pread(counter, 32, 0)
        present = [int(file.name) for file in path.parent.iterdir() if _is_number(file.name)]
        number = max([int(said) if _is_number(said.strip().decode("latin-1")) else 0, *present]) + 1
        os.pwrite(counter, f"{number:020}".encode(), 0)
        yield number
    finally:
        os.close(counter)


def _look(directory: Path, *, own: int) -> list[Neighbour]:
    """Read every other file. One that cannot be read is an active supervisor's.

    One that cannot even be opened does not tell whether anybody holds it, and is never seen to look.
    """
    others = []
    try:
        numbers = sorted(int(file.name) for file in directory.iterdir() if _is_number(file.name))
    except FileNotFoundError:
        return []
    for number in numbers:
        if number == own:
            continue
        try:
            fd = open_private(directory / str(number), os.O_RDONLY)
        except (FileNotFoundError, ForeignFileError):
            continue  # gone since it was listed; or it is none of ours
        except OSError as error:
            if error.errno == errno.ELOOP:
                continue  # a symlink
            others.append(Neighbour(number=number, stage=Stage.ACTIVE, looks=0))
            continue
        try:
            alive = not _is_free(fd)
            others.append(replace(_decoded(number, os.pread(fd, _WHOLE, 0)), alive=alive))
        finally:
            os.close(fd)
    return others


def _is_number(name: str) -> bool:
    """Say whether a file's name, or what the counter says, is a supervisor's number."""
    return name.isascii() and name.isdecimal() and len(name.lstrip("0")) <= _DIGITS


def _is_free(fd: int) -> bool:
    """Say whether nobody holds the file. A shared lock, so that two who look do not take each other for its owner."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _encoded(stage: Stage, looks: int, holder: int) -> bytes:
    parts = _RECORD.pack(_MAGIC, stage.value, _EVERYBODY), _LOOKS.pack(looks), _HOLDER.pack(holder)
    return b"".join(map(_checked, parts))


def _checked(record: bytes) -> bytes:
    return record + _CHECKSUM.pack(zlib.crc32(record))


def _decoded(number: int, data: bytes) -> Neighbour:
    """Read what `_encoded` wrote; half of it, or another version's, is told by the checksums."""
    record, looks = _part(data, 0, _RECORD), _part(data, _SIZE, _LOOKS)
    holder = _part(data, _SIZE + _LOOKS.size + _CHECKSUM.size, _HOLDER)
    stage = Stage(record[1]) if record else Stage.ACTIVE
    return Neighbour(
        number=number,
        stage=stage,
        looks=looks[0] if looks else None,
        holder=holder[0] if holder else 0,
    )


def _part(data: bytes, at: int, shape: struct.Struct) -> tuple[Any, ...] | None:
    part = data[at : at + shape.size + _CHECKSUM.size]
    return shape.unpack(part[: shape.size]) if part and part == _checked(part[: shape.size]) else None
