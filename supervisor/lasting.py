"""A directory that outlives the supervisor, its container and the machine's next start: `restart.resume_directory`.

A child leaves there how far it has handled its sessions, its app's checkpoint, and, when it is stopped, its cache. The
next start finds all of it under the same names. Only one supervisor at a time has the directory: it holds the lock on
the file ``lock`` in it.

Knows the directory and the file's age. What the files say only children know.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bastion.supervisor import private
from bastion.wire import saved_path
from bastion.wire.private import open_private

_NAME = "bot"
"""What all names there begin with."""


@contextlib.contextmanager
def lasting_place(directory: Path) -> Iterator[Path]:
    """Give the path that all of a bot's files there begin with. Raises OSError, which says what is wrong."""
    own = private.own_directory(directory)
    private.make(own)
    lock = open_private(own / "lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"{own} is another supervisor's, which runs") from None
        yield own / _NAME
    finally:
        os.close(lock)


def has_cache(left: Path) -> bool:
    """Say whether a bot that was stopped has left its cache."""
    return Path(saved_path(str(left))).exists()


def kept(left: Path, *, within: float, say: Callable[[str], None]) -> Path | None:
    """Return the file with the cache of a bot that was stopped in the last seconds.

    An older one is removed, and ``say`` is told.
    """
    path = Path(saved_path(str(left)))
    try:
        age = time.time() - path.stat().st_mtime
    except OSError:
        return None
    if age <= within:
        return path
    say(f"{path} was left {age:.0f} s ago, longer than restart.resume_within ({within:g} s): it is removed")
    with contextlib.suppress(OSError):
        path.unlink()
    return None
