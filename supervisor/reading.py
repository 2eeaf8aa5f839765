"""Reading what an operator wrote, from a disk that may not answer: each look has an end.

Knows regular files and threads; the content is other modules' business. Imports little, for each command needs it.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

PATIENCE = 10.0
"""Seconds that a disk has for one answer."""
_T = TypeVar("_T")


class SettingsError(Exception):
    """The settings cannot be used. ``problems`` holds one human line for each thing that is wrong."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class UnansweredError(SettingsError):
    """A disk has not answered, so nobody knows whether the settings are right. Another try may help."""


def answered(what: str, look: Callable[[], _T]) -> _T:
    """Return or raise what ``look`` does. Raises `UnansweredError`, which names ``what``, after `PATIENCE`.

    The thread of a look that hangs is left alone: the end of the program does not wait for it.
    """
    returned: list[_T] = []
    raised: list[BaseException] = []
    thread = threading.Thread(target=_note, args=(look, returned, raised), name="reading", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no thread is to be had: better to look without a limit than not at all
        return look()
    thread.join(PATIENCE)
    if raised:
        raise raised[0]
    if not returned:
        raise UnansweredError(f"{what}: its file system has not answered for {PATIENCE:g} s")
    return returned[0]


def _note(look: Callable[[], _T], returned: list[_T], raised: list[BaseException]) -> None:
    try:
        returned.append(look())
    except BaseException as error:
        raised.append(error)


def content(path: Path, *, what: str, limit: int) -> bytes:
    """Return a regular file's bytes, at most one more than ``limit``. Raises `OSError` and `UnansweredError`.

    A pipe is refused, as from ``<(...)``: it would be empty when it is read again.
    """
    return answered(what, partial(_content, path, limit))


def _content(path: Path, limit: int) -> bytes:
    _must_be_regular(path.stat().st_mode)
    with open(path, "rb", opener=_without_waiting) as file:
        return file.read(limit + 1)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _must_be_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory")
    if stat.S_ISFIFO(mode):
        raise OSError(errno.ESPIPE, "it is a pipe, which could not be read a second time: name a regular file")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no regular file")
