"""Whether there is room on disk for what a second bot claims, and leaves behind.

Knows file systems and how large the files beside the ledger become. It looks and reckons; what follows from it is the
engine's. A file system that hangs does not answer: call this aside.
"""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from bastion.supervisor.headroom import human
from bastion.supervisor.reading import PATIENCE as PATIENCE

SESSION_FILE = 1024 * 1024
"""Bytes that are enough for the session file of one bot (`bot/sessions.py`), which takes all of its room at once."""
LEDGER = 7 * 1024 * 1024
"""Bytes that the claims of a reload take: 4 MiB of write-ahead log, then 100 bytes a claim, so 30,000 events."""
_UNCLAIMED = "a second bot could not claim events, so both would handle them"
_FILES = ("", "-wal", "-shm")
_FULL = (errno.ENOSPC, errno.EDQUOT)


def shortage(ledger: Path) -> str | None:
    """Say why a second bot could not claim events in this ledger, or None. Makes a file there, which has no name."""
    problem = not_writable(ledger.parent) or _too_small(ledger)
    return problem and f"{_UNCLAIMED}: {problem}"


def unanswered(ledger: Path) -> str:
    """Say what it means that `shortage` has not returned within `PATIENCE`."""
    return f"{_UNCLAIMED}: the file system of {ledger.parent} has not answered for {PATIENCE:g} s"


def named(error: OSError, path: Path) -> str:
    """Say what keeps a file from being written: the path, and the limit if it is one of room."""
    if error.errno is None:
        return str(error)  # it has words of its own
    text = f"{error.filename or path}: {error.strerror or error}"
    if error.errno not in _FULL:
        return text
    try:
        found = os.statvfs(path if path.is_dir() else path.parent)
    except OSError:
        return text
    return f"{text} ({_figures(found)})"


def not_writable(directory: Path) -> str | None:
    """Say why no file can be made in a directory, None if one can. Tries it, for modes do not tell all."""
    if not directory.is_dir():
        return f"there is no directory {directory}"
    try:
        with tempfile.TemporaryFile(dir=directory):
            return None
    except OSError as error:
        return f"{directory} is not writable ({error.strerror or error})"


def _too_small(ledger: Path) -> str | None:
    found = os.statvfs(ledger.parent)
    needed = SESSION_FILE + max(0, LEDGER - _taken(ledger))
    if found.f_files and not found.f_favail:
        return f"{ledger.parent}: its file system has no room for one more file, all {found.f_files} are used"
    if found.f_bavail * found.f_frsize >= needed:
        return None
    return (
        f"too little room in {ledger.parent} for the ledger and the session files: they need {human(needed)}, and "
        f"{_figures(found)}. Remove what fills it, or set ledger.path"
    )


def _figures(found: os.statvfs_result) -> str:
    free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    return f"{human(free)} of {human(size)} are free"


def _taken(ledger: Path) -> int:
    """Return how many bytes the ledger has already."""
    files = (ledger.with_name(ledger.name + suffix) for suffix in _FILES)
    return sum(file.stat().st_size for file in files if file.exists())
