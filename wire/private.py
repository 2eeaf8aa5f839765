"""Private files: opened only if no other user can have prepared them.

Knows a file's kind, owner and number of names. Knows nothing of the directories in which files are.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path


class ForeignFileError(OSError):
    """The file at a path is not ours, or no regular file. The text says why."""


def foreign(found: os.stat_result) -> str | None:
    """Say why ``found``, the result of lstat or fstat, cannot be a file of ours. None if it can."""
    if not stat.S_ISREG(found.st_mode):
        return "is a symlink" if stat.S_ISLNK(found.st_mode) else "is no regular file"
    if found.st_uid != os.getuid():
        return f"belongs to uid {found.st_uid}"
    return "has another name too (a hard link)" if found.st_nlink > 1 else None


def open_private(path: str | Path, flags: int) -> int:
    """Open a file of ours, made with mode 0600, and return the descriptor. Never waits, not for a FIFO either.

    Raises `ForeignFileError`, other OSErrors.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if problem := foreign(os.fstat(descriptor)):
        os.close(descriptor)
        raise ForeignFileError(f"{path} {problem}")
    return descriptor


def is_held(path: Path) -> bool:
    """Say whether a process lives that holds a record lock (fcntl) on a file of ours. Another process than this one."""
    try:
        descriptor = open_private(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
