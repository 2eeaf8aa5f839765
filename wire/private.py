"""Files of ours: opened only if nobody else can have prepared them.

Knows what the kernel tells of a file. Where a file belongs is decided elsewhere.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


class ForeignFileError(OSError):
    """What is at a path is no file of ours. The text says what it is."""


def foreign(found: os.stat_result) -> str | None:
    """Say why this cannot be a file of ours, None if it can. It was looked at without following a symlink."""
    if not stat.S_ISREG(found.st_mode):
        return "is a symlink" if stat.S_ISLNK(found.st_mode) else "is no regular file"
    if found.st_uid != os.getuid():
        return f"belongs to uid {found.st_uid}"
    return "has another name too (a hard link)" if found.st_nlink > 1 else None


def open_private(path: str | Path, flags: int) -> int:
    """Open a file of ours, for nobody else if it is made; return the descriptor. It never waits, not at a FIFO either.

    Raises `ForeignFileError`, other OSErrors.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if problem := foreign(os.fstat(descriptor)):
        os.close(descriptor)
        raise ForeignFileError(f"{path} {problem}")
    return descriptor
