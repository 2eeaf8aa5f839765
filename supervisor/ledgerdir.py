"""A private directory for the ledger and the session files beside it, on memory where there is some.

Knows the file system and file locks. Without ``ledger.path`` a directory belongs to the process that holds the lock on
the file ``lock`` in it; one whose lock is free was left behind by a supervisor that was killed, and is removed by the
next one. With it the files go into the configured directory, or into a subdirectory if other users may enter that.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bastion.supervisor import neighbours, private
from bastion.supervisor.diskroom import not_writable
from bastion.supervisor.lasting import has_cache
from bastion.supervisor.neighbours import Membership
from bastion.supervisor.private import UnsafeError
from bastion.supervisor.sessionfiles import (
    beside,
    forget,
    forget_checkpoint,
    inherit,
    session_files,
    stream_files,
)
from bastion.wire import supervisor_of
from bastion.wire.private import foreign, open_private

_PREFIX = "bastion-ledger-"
_UNFINISHED = "bastion-new-"
_NAME = "ledger.sqlite3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the ledger is.

    ``lock`` is the descriptor that holds a private directory, None for a configured path; ``membership`` is ours among
    the supervisors that share one.
    """

    path: Path
    lock: int | None = None
    membership: Membership | None = None
    former: bool = False
    """Whether an earlier supervisor has left sessions of the bot."""
    lasting: Path | None = None
    """What the paths begin with of what outlives us, if there is a directory for that."""

    @property
    def left(self) -> Path:
        """Return what the paths begin with of all that a child leaves for its successor."""
        return self.lasting or self.path

    @property
    def supervisor(self) -> int:
        """Return our number among those who share the ledger, 0 if nobody does."""
        return self.membership.number if self.membership else 0


def ledger_directory(configured: Path | None, *, environ: Mapping[str, str]) -> Path:
    """Return the directory in which `ledger_place` puts the ledger, or makes a private directory for the ledger.

    It need not exist yet. Raises OSError if another user could tamper with it.
    """
    if configured is not None:
        return private.own_directory(configured.parent)
    base = base_directory(environ)
    if problem := private.danger(base):
        raise UnsafeError(f"{problem}: name another with $RUNTIME_DIRECTORY or ledger.path")
    return base


def place_problem(configured: Path | None, *, environ: Mapping[str, str]) -> str | None:
    """Say why `ledger_place` would refuse, None if it would not.

    Makes an unnamed file there. Changes nothing else.
    """
    around = configured.parent if configured is not None else base_directory(environ)
    if not around.is_dir():
        return f"there is no directory {around}"
    try:
        own = ledger_directory(configured, environ=environ)
    except OSError as error:
        return str(error)
    if problem := not_writable(own if own.exists() else own.parent):
        return problem
    return _prepared_by_others(own / configured.name) if configured is not None else None


def _prepared_by_others(ledger: Path) -> str | None:
    """Name a file at the ledger's path, or beside the ledger, which our user cannot have made."""
    for _, file in beside(ledger, ledger.name):
        try:
            found = file.lstat()
        except FileNotFoundError:  # a supervisor that shares the ledger replaces its own files meanwhile
            continue
        problem = foreign(found)
        if stat.S_ISDIR(found.st_mode) or stat.S_ISSOCK(found.st_mode):  # a register; where a bot's mirror connects
            problem = f"belongs to uid {found.st_uid}" if found.st_uid != os.getuid() else None
        if problem:
            return f"{file} {problem}: remove it, or choose another ledger.path"
    return None


@contextlib.contextmanager
def ledger_place(
    configured: Path | None,
    *,
    environ: Mapping[str, str],
    control: Path,
    shared: bool = False,
    lasting: Path | None = None,
) -> Iterator[Place]:
    """Give the place of the ledger's file; the default's directory is removed at the end.

    ``control`` is our control socket: who was killed there has left its bot's sessions to us. ``shared``: other
    supervisors may have the configured file too; then they are left to those. ``lasting``: what the paths begin with of
    what the bot leaves, if that is to outlive us.
    Raises OSError if there is no place for it.
    """
    if problem := place_problem(configured, environ=environ):
        raise UnsafeError(f"{'ledger.path' if configured else 'the ledger'}: {problem}")
    directory = ledger_directory(configured, environ=environ)
    if configured is not None:
        private.make(directory)
        path = directory / configured.name
        if shared:
            place = Place(path=path, membership=_joined(path))
            _forget_the_dead(place)
            forget_checkpoint(path, place.supervisor)
        else:
            left = lasting or path
            former = _inherit_lasting(left, path) if lasting else inherit(left, left, control=control, claims=path)
            place = Place(path=path, lasting=lasting, former=former)
            if not place.former:
                forget(left, 0)
                forget_checkpoint(left, 0)
        with held(place):
            yield place
        return
    made, lock = _create(directory)
    path = made / _NAME
    former = lasting is not None and _inherit_lasting(lasting, path)
    former = _sweep(directory, None if former else lasting or path, control, claims=path) or former
    with held(Place(path=path, lock=lock, lasting=lasting, former=former)) as place:
        yield place


def _inherit_lasting(left: Path, claims: Path) -> bool:
    """Return whether a bot has left its sessions, or its cache with them, where all that is left is this bot's."""
    return inherit(left, left, control=None, claims=claims) or has_cache(left)


@contextlib.contextmanager
def held(place: Place) -> Iterator[Place]:
    """Give a place that is ours already, and remove it at the end as `ledger_place` does."""
    try:
        yield place
    finally:
        if place.lock is None:
            forget(place.path, place.supervisor)
        else:
            shutil.rmtree(place.path.parent, ignore_errors=True)
            os.close(place.lock)
        if place.membership is not None:
            forget_checkpoint(place.path, place.supervisor)
            neighbours.leave(place.membership)


def _joined(ledger: Path) -> Membership:
    try:
        return neighbours.join(ledger)
    except OSError as error:
        raise OSError(
            f"ledger.shared: {error.filename or neighbours.register_of(ledger)}: {error.strerror}; all who share a "
            "ledger run as the same user, who may write to its directory"
        ) from None


def _forget_the_dead(place: Place) -> None:
    """Remove the session files and sockets of supervisors that are gone, and the state of their apps.

    Those that one has left which was killed a moment ago are our bot's to go on with.
    """
    assert place.membership is not None
    present = neighbours.present(place.membership) | {place.membership.number}
    for name, file in beside(place.path, f"{place.path.name}-"):
        number = name.partition(".")[0]
        if number.isdecimal() and int(number) not in present:
            with contextlib.suppress(OSError):
                file.unlink()  # an app's state
    for whose, file in [*session_files(place.path), *stream_files(place.path)]:
        if supervisor_of(whose) not in present:
            with contextlib.suppress(OSError):
                file.unlink()


def base_directory(environ: Mapping[str, str]) -> Path:
    """Return where the private directory is made: $RUNTIME_DIRECTORY, /dev/shm, or the temp dir."""
    if runtime := environ.get("RUNTIME_DIRECTORY"):  # systemd joins several with colons; the first is ours
        return Path(runtime.split(":")[0])
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK | os.X_OK):
        return memory
    return Path(tempfile.gettempdir())


def _create(base: Path) -> tuple[Path, int]:
    """Make the directory and lock it before it has a name by which others would find it unlocked."""
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=base))  # mode 0700
    try:
        lock = open_private(unfinished / "lock", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except OSError:
        unfinished.rmdir()
        raise
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    directory = base / unfinished.name.replace(_UNFINISHED, _PREFIX)
    unfinished.rename(directory)
    return directory, lock


def _sweep(base: Path, target: Path | None, control: Path, *, claims: Path) -> bool:
    """Remove our own directories that nobody holds any more; return whether one had sessions for us.

    Those are at ``target`` then. None: we need none.
    """
    former = False
    for directory in base.glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):
            found = directory.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            lock = open_private(directory / "lock", os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if target is not None:
                    former |= inherit(directory / _NAME, target, control=control, claims=claims)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(lock)
    return former
