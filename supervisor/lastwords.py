"""Why a supervisor's bot does not get ready, as it tells the others in the register: the word outlives its container.

A tool that replaces containers removes the new one that failed, and its log with it; the old one, which serves on, has
the reason in its log then. A word is a small file beside the supervisor's own. Knows files, no locks.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bastion.wire.private import open_private

_SUFFIX = ".why"
_UNFINISHED = ".why-new"
MAX_BYTES = 2000


class Words:
    """The words in a register, as the supervisor with this number leaves and reads them."""

    def __init__(self, directory: Path, number: int) -> None:
        self._directory = directory
        self._number = number
        self._own = ""
        self._read: dict[int, str] = {}

    def leave(self, why: str) -> None:
        """Tell the others why our bot does not get ready, "" once it serves. Raises OSError."""
        if why != self._own:
            self._own = why
            leave(self._directory, self._number, why)

    def news(self) -> list[tuple[int, str]]:
        """Return the words of others that have not been read before, each with its number."""
        before, self._read = self._read, dict(_words(self._directory, own=self._number))
        return [(number, why) for number, why in self._read.items() if before.get(number) != why]


def leave(directory: Path, number: int, why: str) -> None:
    """Leave a word under this number in place of the one before; an empty one removes it. Raises OSError."""
    file = directory / f"{number}{_SUFFIX}"
    if not why:
        file.unlink(missing_ok=True)
        return
    unfinished = directory / f"{number}{_UNFINISHED}"
    with _opened(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as writing:
        os.write(writing, why.encode(errors="replace")[:MAX_BYTES])
    unfinished.rename(file)


def _words(directory: Path, *, own: int) -> Iterator[tuple[int, str]]:
    with suppress(OSError):
        for number in sorted(_numbers(directory) - {own}):
            with suppress(OSError):  # gone since it was listed
                with _opened(directory / f"{number}{_SUFFIX}", os.O_RDONLY) as reading:
                    said = os.read(reading, MAX_BYTES).decode(errors="replace")
                yield number, " ".join(said.split())


def forget(directory: Path, *, living: Collection[int]) -> None:
    """Remove the words of all who are not among the living, who have been read long ago. Raises OSError."""
    for number in _numbers(directory) - set(living):
        (directory / f"{number}{_SUFFIX}").unlink(missing_ok=True)


def _numbers(directory: Path) -> set[int]:
    return {int(file.stem) for file in directory.iterdir() if file.suffix == _SUFFIX and file.stem.isdecimal()}


@contextmanager
def _opened(file: Path, flags: int) -> Iterator[int]:
    opened = open_private(file, flags)
    try:
        yield opened
    finally:
        os.close(opened)
