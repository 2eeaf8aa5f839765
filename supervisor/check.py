"""`supervisor check`: looks at all that a start needs, without starting or changing anything.

Knows what to look at and in which order; how each thing is judged belongs to the module that uses it. The app is
imported in a process of its own, by the interpreter that would run it.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bastion.supervisor.control import directory_problem
from bastion.supervisor.entry import Named
from bastion.supervisor.location import TcpAddress, parse_listen
from bastion.supervisor.ports import holder
from bastion.supervisor.release import Release, ReleaseError, remarks, resolve
from bastion.supervisor.settings import Settings, SettingsError, load, with_secrets

APP_TIMEOUT = 60.0
"""Seconds that the import of an app may take here. A start allows handoff.ready_timeout for everything together."""

PLACES = 3
"""How many places of one use are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    intents: int = 0
    """Of the app, if that was looked at."""

    def __str__(self) -> str:
        return f"{'OK' if self.ok else 'FAIL':<4}  {self.name:<11}  {self.detail}"


def checks(
    config: Path | None, *, environ: Mapping[str, str], deploy: bool = False, named: Named | None = None
) -> Iterator[Check]:
    """Yield each result as it is known. What cannot be looked at because of an earlier failure is left out.

    ``deploy``: look at the surroundings too, and ask Discord about the token. ``named``: by the command line.
    """
    try:
        settings = load(config, environ=environ, need_token=False, named=named)
    except SettingsError as error:
        for problem in error.problems:
            yield Check(name="settings", ok=False, detail=problem)
        return
    yield Check(name="settings", ok=True, detail=str(settings.source or "no file: all defaults"))
    for _, remark in remarks(settings.bot):
        yield Check(name="bot", ok=True, detail=remark)
    yield _token(settings, environ=environ)
    intents = 0
    try:
        release = resolve(settings.bot)
    except ReleaseError as error:
        yield Check(name="release", ok=False, detail=str(error))
    else:
        yield Check(name="directory", ok=True, detail=_directory(settings, release))
        yield Check(name="interpreter", ok=True, detail=str(release.python))
        app, *uses = check_app(release, environ=_with_token(settings, environ))
        intents = app.intents
        yield app
        yield from uses
    yield _socket(settings.control.socket.parent)
    yield from _surroundings(settings, deploy=deploy)
    if deploy:
        yield from _deployment(settings, intents=intents, environ=environ)


def _deployment(settings: Settings, *, intents: int, environ: Mapping[str, str]) -> Iterator[Check]:
    from bastion.supervisor.deployment import findings

    with suppress(SettingsError):  # no token, which has been said: Discord is not asked
        settings = with_secrets(settings, environ=environ)
    for found in findings(settings, intents=intents, environ=environ):
        yield Check(name=found.name, ok=found.ok, detail=found.detail)


def check_app(release: Release, *, environ: Mapping[str, str], timeout: float = APP_TIMEOUT) -> list[Check]:
    """Import the app in a child of the release's interpreter, which connects to nothing. ``timeout`` is in seconds.

    Behind the app itself comes what of it concerns a handoff, as far as its source shows that.
    """
    command = [str(release.python), "-P", "-m", "bastion.bot", "--check"]
    command += ["--app", release.app, "--directory", str(release.directory), "--", *release.args]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            env=dict(environ),
            cwd=release.directory,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [_bad_app(f"{release.app}: its import takes longer than {timeout:g} s")]
    except OSError as error:
        return [_bad_app(f"{release.python} cannot be run: {error.strerror or error}")]
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        reason = said[-1] if said else f"the check ended with {done.returncode} and said nothing"
        return [_bad_app(reason if release.app in reason else f"{release.app}: {reason}")]
    try:  # what an app prints goes to stderr; with an earlier version of `bot` the answer is the last line
        answer = json.loads(done.stdout.decode(errors="replace").strip().splitlines()[-1])
        text, intents = f"{release.app}: {answer['class']}, intents {answer['intents']}", int(answer["intents"])
        app = Check(name="app", ok=True, detail=text, intents=intents)
        return [app, *(_use(use) for use in answer.get("uses", []))]
    except (ValueError, LookupError, TypeError):
        return [_bad_app(f"{release.app}: the check gave no answer; is `bot` of this version?")]


def _bad_app(detail: str) -> Check:
    return Check(name="app", ok=False, detail=detail)


def _use(use: Mapping[str, Any]) -> Check:
    places = list(use["places"])
    where = ", ".join(places[:PLACES]) + (f" and {len(places) - PLACES} more" if len(places) > PLACES else "")
    return Check(name="uses", ok=True, detail=f"{use['what']} ({where}): {use['advice']}")


def _token(settings: Settings, *, environ: Mapping[str, str]) -> Check:
    try:
        found = with_secrets(settings, environ=environ).token
    except SettingsError as error:
        return Check(name="token", ok=False, detail="; ".join(error.problems))
    if not found:
        return Check(name="token", ok=True, detail="the settings have none: the program must have its own")
    return Check(name="token", ok=True, detail="there is one; whether Discord takes it is seen at the start")


def _with_token(settings: Settings, environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the environment as a start would make it: an app may look for its token while it is imported."""
    with suppress(SettingsError):
        settings = with_secrets(settings, environ=environ)
        return {**environ, **settings.environment, **({"DISCORD_TOKEN": settings.token} if settings.token else {})}
    return environ


def _surroundings(settings: Settings, *, deploy: bool) -> Iterator[Check]:
    """Look at the places that the settings name; ``deploy`` looks at the ledger's anyway."""
    from bastion.supervisor.health import listen_problem
    from bastion.supervisor.ledgerdir import directory_problem as ledger_problem

    if settings.ledger.path is not None and not deploy and (problem := ledger_problem(settings.ledger.path.parent)):
        yield Check(name="ledger", ok=False, detail=f"ledger.path: {problem}")
    address = parse_listen(settings.health.listen)
    if address is None:
        return
    if problem := listen_problem(address):
        yield Check(name="health", ok=False, detail=f"health.listen: {problem}")
    elif isinstance(address, TcpAddress) and (found := holder(address.port)):
        detail = f"health.listen: {found} listens at port {address.port}: fine if that is the supervisor of this bot"
        yield Check(name="health", ok=True, detail=detail)


def _directory(settings: Settings, release: Release) -> str:
    named = settings.bot.directory
    return str(named) if named == release.directory else f"{named} -> {release.directory}"


def _socket(directory: Path) -> Check:
    try:
        problem = directory_problem(directory)
        if problem is None and not os.access(directory, os.W_OK | os.X_OK):
            problem = "is not writable"  # a read-only root file system, say
    except FileNotFoundError:
        existing = next(parent for parent in directory.parents if parent.exists())
        problem = None if os.access(existing, os.W_OK | os.X_OK) else f"cannot be made: {existing} is not writable"
    except OSError as error:
        problem = f"cannot be looked at: {error.strerror or error}"
    return Check(name="socket", ok=problem is None, detail=f"{directory} {problem or 'is usable'}")
