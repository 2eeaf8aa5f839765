"""What two supervisors tell each other of their bots' gateway sessions: two small files for each bot, in the register.

A supervisor whose new bot could mirror another supervisor's writes down what its sessions are to be like (`Wants`). The
supervisor whose bot has the sessions answers what that bot is to do, with the secrets of the stream between both bots.
An example, of a bot of supervisor 2 with the number 2097153 (`claimer`):

    2097153.wants     written by supervisor 2, until that bot is gone
    2097153.answer    written by supervisor 1, until supervisor 2 has read it

Only our user can read these files, or enter the directory. Knows files. Decides nothing.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from bastion.wire import Mirror, Overlap, Wants, supervisor_of
from bastion.wire.private import open_private

_WANTS = ".wants"
_ANSWER = ".answer"
_UNFINISHED = "-new"
_MOST = 256 * 1024
"""Bytes of a file that are read: `Wants` names each shard."""
_answers: msgspec.json.Decoder[Mirror | Overlap] = msgspec.json.Decoder(Mirror | Overlap)


class Exchange:
    """The questions and answers in a register's directory, as the supervisor with this number reads and writes them."""

    def __init__(self, directory: Path, number: int) -> None:
        self._directory, self._number = directory, number

    def ask(self, bot: int, wants: Wants) -> None:
        """Ask the others for a bot of ours, known by its claimer's number. Raises OSError."""
        _write(self._directory / f"{bot}{_WANTS}", msgspec.json.encode(wants))

    def withdraw(self, bot: int) -> None:
        """Ask no more: the bot is gone."""
        for suffix in (_WANTS, _ANSWER):
            with suppress(OSError):
                (self._directory / f"{bot}{suffix}").unlink()

    def questions(self) -> dict[int, Path]:
        """Return the bots of others for which is asked, each with the file that says what it wants."""
        return {bot: file for bot, file in _files(self._directory, _WANTS) if supervisor_of(bot) != self._number}

    def answer(self, bot: int, answer: Mirror | Overlap) -> None:
        """Answer for another's bot. Raises OSError."""
        _write(self._directory / f"{bot}{_ANSWER}", msgspec.json.encode(answer))

    def answer_to(self, bot: int) -> Mirror | Overlap | None:
        """Return what a bot of ours is to do, once; None if nobody has answered. Raises `ValueError` for garbage."""
        file = self._directory / f"{bot}{_ANSWER}"
        data = _read(file)
        if data is None:
            return None
        with suppress(OSError):
            file.unlink()
        try:
            return _answers.decode(data)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from None


def wants_in(file: Path) -> Wants | None:
    """Return what the bot wants that a file of `Exchange.questions` is of; None if that cannot be told."""
    data = _read(file)
    try:
        return None if data is None else msgspec.json.decode(data, type=Wants)
    except (msgspec.DecodeError, ValueError):  # of another version
        return None


def forget(directory: Path, *, living: Collection[int]) -> None:
    """Remove the files of supervisors that are not among the living. Raises OSError."""
    for suffix in (_WANTS, _ANSWER):
        for bot, file in _files(directory, suffix):
            if supervisor_of(bot) not in living:
                file.unlink(missing_ok=True)


def leave(directory: Path, number: int) -> None:
    """Remove the files of our own bots. Raises OSError."""
    for suffix in (_WANTS, _ANSWER):
        for bot, file in _files(directory, suffix):
            if supervisor_of(bot) == number:
                file.unlink(missing_ok=True)


def _files(directory: Path, suffix: str) -> Iterator[tuple[int, Path]]:
    with suppress(OSError):
        for file in directory.iterdir():
            if file.suffix == suffix and file.stem.isdecimal():
                yield int(file.stem), file


def _write(file: Path, data: bytes) -> None:
    unfinished = file.with_name(f"{file.name}{_UNFINISHED}")
    descriptor = open_private(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
    unfinished.rename(file)


def _read(file: Path) -> bytes | None:
    try:
        descriptor = open_private(file, os.O_RDONLY)
    except OSError:
        return None
    try:
        return os.read(descriptor, _MOST)
    except OSError:
        return None
    finally:
        os.close(descriptor)
