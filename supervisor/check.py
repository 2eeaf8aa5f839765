"""`supervisor check`: looks at all that a start needs, without starting or changing anything.

Knows what to look at and in which order; how each thing is judged belongs to the module that uses it. The app is
imported in a process of its own, by the interpreter that would run it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from supervisor.control import directory_problem
from supervisor.release import Release, ReleaseError, resolve
from supervisor.settings import Settings, SettingsError, load, read_token

APP_TIMEOUT = 60.0
"""Seconds that the import of an app may take here. A start allows handoff.ready_timeout for everything together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str

    def __str__(self) -> str:
        return f"{'OK' if self.ok else 'FAIL':<4}  {self.name:<11}  {self.detail}"


def checks(config: Path | None, *, environ: Mapping[str, str]) -> Iterator[Check]:
    """Yield each result as it is known. What cannot be looked at because of an earlier failure is left out."""
    try:
        settings = load(config, environ=environ, need_token=False)
    except SettingsError as error:
        for problem in error.problems:
            yield Check(name="settings", ok=False, detail=problem)
        return
    yield Check(name="settings", ok=True, detail=str(settings.source or "no file: all defaults"))
    yield _token(settings, environ=environ)
    try:
        release = resolve(settings.bot)
    except ReleaseError as error:
        yield Check(name="release", ok=False, detail=str(error))
    else:
        yield Check(name="directory", ok=True, detail=_directory(settings, release))
        yield Check(name="interpreter", ok=True, detail=str(release.python))
        yield check_app(release, environ=environ)
    yield _socket(settings.control.socket.parent)


def check_app(release: Release, *, environ: Mapping[str, str], timeout: float = APP_TIMEOUT) -> Check:
    """Import the app in a child of the release's interpreter, which connects to nothing. ``timeout`` is in seconds."""
    command = [str(release.python), "-P", "-m", "bot", "--check"]
    command += ["--app", release.app, "--directory", str(release.directory)]
    try:
        done = subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout, env=dict(environ), check=False
        )
    except subprocess.TimeoutExpired:
        return Check(name="app", ok=False, detail=f"{release.app}: its import takes longer than {timeout:g} s")
    except OSError as error:
        return Check(name="app", ok=False, detail=f"{release.python} cannot be run: {error.strerror or error}")
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1] if said else f"the check ended with {done.returncode} and said nothing"
        return Check(name="app", ok=False, detail=reason if release.app in reason else f"{release.app}: {reason}")
    try:  # an app may print while it is imported: the answer is the last line
        answer = json.loads(done.stdout.decode(errors="replace").strip().splitlines()[-1])
        return Check(name="app", ok=True, detail=f"{release.app}: {answer['class']}, intents {answer['intents']}")
    except (ValueError, LookupError, TypeError):
        return Check(name="app", ok=False, detail=f"{release.app}: the check gave no answer; is `bot` of this version?")


def _token(settings: Settings, *, environ: Mapping[str, str]) -> Check:
    try:
        read_token(settings.discord, environ=environ)
    except SettingsError as error:
        return Check(name="token", ok=False, detail=str(error))
    return Check(name="token", ok=True, detail="there is one; whether Discord takes it is seen at the start")


def _directory(settings: Settings, release: Release) -> str:
    named = settings.bot.directory
    return str(named) if named == release.directory else f"{named} -> {release.directory}"


def _socket(directory: Path) -> Check:
    try:
        problem = directory_problem(directory)
    except FileNotFoundError:
        existing = next(parent for parent in directory.parents if parent.exists())
        problem = None if os.access(existing, os.W_OK | os.X_OK) else f"cannot be made: {existing} is not writable"
    except OSError as error:
        problem = f"cannot be looked at: {error.strerror or error}"
    return Check(name="socket", ok=problem is None, detail=f"{directory} {problem or 'is usable'}")
