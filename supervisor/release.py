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
    from supervisor.settings import BotSettings


class ReleaseError(Exception):
    """The release cannot be spawned; the message names the key, the path and what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What is spawned. ``directory`` has no symlinks; ``python`` keeps its own, for a venv is found through them."""

    directory: Path
    python: Path
    app: str
    shards: Literal["auto"] | int
    args: tuple[str, ...] = ()


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


def _directory(path: Path) -> Path:
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symlinks, before Python 3.13
        reason = error.strerror if isinstance(error, OSError) else "a loop of symlinks"
        raise ReleaseError(f"bot.directory: {path}: {reason}") from None
    if not resolved.is_dir():
        raise ReleaseError(f"bot.directory: {path}: not a directory")
    if not os.access(resolved, os.R_OK | os.X_OK):
        raise ReleaseError(f"bot.directory: {path}: permission denied")
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
