"""Where a generation comes from: directory and interpreter, resolved once.

Knows the file system, not processes. Whoever spawns takes a `Release` as it is, so that a crash restarts what was
running even if a symlink has been moved since.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bastion.supervisor.settings import BotSettings


class ReleaseError(Exception):
    """The release cannot be spawned; the message names the key, the path and what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What is spawned. ``directory`` has no symlinks; ``python`` keeps its own, for a venv is found through them."""

    directory: Path
    python: Path
    app: str
    program: str = ""
    """Exactly one of ``app`` and ``program`` is there."""
    shards: Literal["auto"] | int
    args: tuple[str, ...] = ()

    @property
    def entry(self) -> str:
        """What is executed, as people write it: "main.py", "-m mybot", "module:attribute"."""
        return self.program or self.app


def resolve(bot: BotSettings) -> Release:
    """Resolve the ``[bot]`` settings against the file system as it is now. Raises `ReleaseError`."""
    directory = _directory(bot.directory)
    return Release(
        directory=directory,
        python=_python(bot.python, directory=directory),
        app=bot.app,
        shards=bot.shards,
        args=tuple(bot.args),
    )


def still_there(release: Release) -> None:
    """Check that a release resolved earlier can be spawned now. Raises `ReleaseError`."""
    _directory(release.directory)
    _executable(release.python, source="its interpreter")


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
        return str(link.readlink())
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


def _python(configured: str, *, directory: Path) -> Path:
    if not configured:
        own = directory / ".venv" / "bin" / "python"
        return (
            _executable(own, source="the release's .venv") if own.is_symlink() or own.exists() else Path(sys.executable)
        )
    if "/" in configured:
        return _executable(Path(configured), source="bot.python")
    found = shutil.which(configured)
    if found is None:
        raise ReleaseError(f"bot.python: {configured}: not found on PATH")
    return Path(found)


def _executable(path: Path, *, source: str) -> Path:
    if not path.exists():
        raise ReleaseError(f"{source}: {path}: no such file")
    if not path.is_file() or not os.access(path, os.X_OK):
        raise ReleaseError(f"{source}: {path}: not an executable file")
    return path
