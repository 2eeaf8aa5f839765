"""Where a generation comes from: directory and interpreter, resolved once.

Knows the file system, not processes. Whoever spawns takes a `Release` as it is, so that a crash restarts what was
running even if a symlink has been moved since.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bastion.supervisor.entry import SHIPPED, SHIPPED_BEFORE, module_of
from bastion.supervisor.location import shown_path
from bastion.supervisor.reading import answered

if TYPE_CHECKING:
    from bastion.supervisor.settings import BotSettings


class ReleaseError(Exception):
    """The release cannot be spawned; the message names the key, the path and what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What is spawned. ``directory`` has no symlinks; ``python`` keeps its own, for a venv is found through them.

    Either ``program`` (a script, relative to ``directory``, or ``-m`` and a module) or ``app`` is empty.
    """

    directory: Path
    python: Path
    app: str = ""
    shards: Literal["auto"] | int
    args: tuple[str, ...] = ()
    program: str = ""

    @property
    def entry(self) -> str:
        """Return what people are shown of it: ``main.py``, ``-m mybot`` or ``module:attribute``."""
        return self.program or self.app


def resolve(bot: BotSettings) -> Release:
    """Resolve the ``[bot]`` settings against the file system as it is now. Raises `ReleaseError`."""
    directory = _directory(bot.directory)
    _readable(bot.program, directory=directory)
    return Release(
        directory=directory,
        python=_python(bot.python, directory=directory),
        app=SHIPPED if _ships(bot) else bot.app,
        shards=bot.shards,
        args=tuple(bot.args),
        program=bot.program,
    )


def _ships(bot: BotSettings) -> bool:
    return not (bot.program or bot.app) or _calls_it_as_before(bot)


def _calls_it_as_before(bot: BotSettings) -> bool:
    """Say whether ``bot.app`` is the old name of the bot that ships, and no module of the user's has that name."""
    theirs = bot.directory / "bot"
    return bot.app == SHIPPED_BEFORE and not answered(
        f"bot.directory: {bot.directory}", lambda: any((theirs / name).exists() for name in ("bastion.py", "bastion"))
    )


def remarks(bot: BotSettings) -> list[tuple[int, str]]:
    """Return what an operator may not expect of settings that are allowed, each with a level of `logging`."""
    if _calls_it_as_before(bot):
        old = f'bot.app = "{bot.app}" is an old name, accepted for this version only: write "{SHIPPED}"'
        return [(logging.WARNING, old)]
    if bot.program or bot.app:
        return []
    return [(logging.INFO, "neither bot.program nor bot.app is set: the bot that ships runs")]


def no_effect(key: str) -> str:
    """Return what an operator is told of a setting that has lost its subject."""
    return f"{key} has no effect any more, and is accepted for this version only: remove it"


def still_there(release: Release) -> None:
    """Check that a release resolved earlier can be spawned now. Raises `ReleaseError`."""
    _directory(release.directory)
    _readable(release.program, directory=release.directory)
    _executable(release.python, source="its interpreter")


def touch(release: Release) -> None:
    """Raise `UnansweredError` if a disk hangs that a spawn needs. What else is wrong, the spawn says better."""
    for path in (release.directory, release.python):
        answered(str(path), partial(_touch, path))


def _touch(path: Path) -> None:
    """Open it: a network file system may answer other questions from memory."""
    with suppress(OSError):
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))


@dataclass(frozen=True, slots=True)
class Switch:
    """A symlink that was moved from one release to another, and can be moved back."""

    link: Path
    before: str
    after: str

    def undo(self) -> bool:
        """Move it back, unless somebody has moved it meanwhile. Says whether it was. Raises `ReleaseError`."""
        if _target(self.link) != self.after:
            return False
        _point(self.link, self.before)
        return True


def switch(link: Path, release: Path) -> Switch:
    """Have a symlink name another release, in one step: whoever looks sees the one or the other.

    A release beside the link is named relatively, so that the whole tree can be moved or mounted elsewhere. Raises
    `ReleaseError`.
    """
    before = _target(link)
    directory = _directory(release, source="--release")
    around = link.parent.resolve()
    after = str(directory.relative_to(around) if directory.is_relative_to(around) else directory)
    _point(link, after)
    return Switch(link, before, after)


def _target(link: Path) -> str:
    try:
        return str(answered(f"bot.directory: {link}", link.readlink))
    except OSError:
        raise ReleaseError(
            f"bot.directory: {link}: --release moves a symlink, and this is none; see docs/operating.md, Deploying"
        ) from None


def _point(link: Path, target: str) -> None:
    following = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        following.unlink(missing_ok=True)
        following.symlink_to(target)
        following.replace(link)
    except OSError as error:
        following.unlink(missing_ok=True)
        raise ReleaseError(f"bot.directory: {link}: cannot be moved to {target}: {error.strerror or error}") from None


def _directory(path: Path, *, source: str = "bot.directory") -> Path:
    return answered(f"{source}: {path}", partial(_found, path, source=source))


def _found(path: Path, *, source: str) -> Path:
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symlinks, before Python 3.13
        reason = error.strerror if isinstance(error, OSError) else "a loop of symlinks"
        raise ReleaseError(f"{source}: {path}: {reason}") from None
    if not resolved.is_dir():
        raise ReleaseError(f"{source}: {path}: not a directory")
    if not os.access(resolved, os.R_OK | os.X_OK):
        raise ReleaseError(f"{source}: {path}: permission denied")
    return resolved


def _readable(program: str, *, directory: Path) -> None:
    """Look whether a script can be read. A module is found by the child alone: it may be installed anywhere."""
    if not program or module_of(program):
        return
    path = directory / program
    where = f"bot.program: {shown_path(path)}"
    if problem := answered(where, partial(_script_problem, path)):
        raise ReleaseError(f"{where}: {problem}")


def _script_problem(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return error.strerror
    if stat.S_ISDIR(mode):
        return 'is a directory: name the file to run, or a package by "-m NAME"'
    if not stat.S_ISREG(mode):
        return "not a regular file"
    return None if os.access(path, os.R_OK) else "permission denied"


def _python(configured: str, *, directory: Path) -> Path:
    if not configured:
        own = directory / ".venv" / "bin" / "python"
        there = answered(str(own), lambda: own.is_symlink() or own.exists())
        return _executable(own, source="the release's .venv") if there else Path(sys.executable)
    if "/" in configured:
        return _executable(Path(configured), source="bot.python")
    found = answered(f"bot.python: {configured}: PATH", partial(shutil.which, configured))
    if found is None:
        raise ReleaseError(f"bot.python: {configured}: not found on PATH")
    return Path(found)


def _executable(path: Path, *, source: str) -> Path:
    where = f"{source}: {path}"
    if problem := answered(where, partial(_execution_problem, path)):
        raise ReleaseError(f"{where}: {problem}")
    return path


def _execution_problem(path: Path) -> str | None:
    if not path.exists():
        return "no such file"
    return None if path.is_file() and os.access(path, os.X_OK) else "not an executable file"
