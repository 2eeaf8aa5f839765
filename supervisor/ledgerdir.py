"""A private directory for the ledger, on memory where there is some.

Knows the file system and file locks. A directory belongs to the process that holds the lock on the file ``lock`` in
it; one whose lock is free was left behind by a supervisor that was killed, and is removed by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

_PREFIX = "bastion-ledger-"
_UNFINISHED = "bastion-new-"


@contextlib.contextmanager
def ledger_path(configured: Path | None, *, environ: Mapping[str, str]) -> Iterator[Path]:
    """Give the path of the ledger's file; the default's directory is removed at the end.

    Raises OSError if there is no place for it.
    """
    if configured is not None:
        if not configured.parent.is_dir():
            raise FileNotFoundError(f"ledger.path: {configured.parent}: no such directory")
        yield configured
        return
    base = base_directory(environ)
    _sweep(base)
    directory, lock = _create(base)
    try:
        yield directory / "ledger.sqlite3"
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


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
    lock = os.open(unfinished / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    directory = base / unfinished.name.replace(_UNFINISHED, _PREFIX)
    unfinished.rename(directory)
    return directory, lock


def _sweep(base: Path) -> None:
    """Remove our own directories that nobody holds any more."""
    for directory in base.glob(_PREFIX + "*"):
        with contextlib.suppress(OSError):
            if directory.is_symlink() or directory.stat().st_uid != os.getuid():
                continue
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(lock)
