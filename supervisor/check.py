"""`supervisor check`: looks at all that a start needs, without starting or changing anything.

Knows what to look at and in which order; how each thing is judged belongs to the module that uses it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from bastion.supervisor.checked import Check, look
from bastion.supervisor.control import directory_problem
from bastion.supervisor.entry import Named
from bastion.supervisor.location import TcpAddress, parse_listen
from bastion.supervisor.ports import holder
from bastion.supervisor.release import Release, ReleaseError, no_effect, remarks, resolve
from bastion.supervisor.settings import Settings, SettingsError, load, with_secrets
from bastion.supervisor.tokens import SHORTEST_MASKED


def checks(
    config: Path | None,
    *,
    environ: Mapping[str, str],
    deploy: bool = False,
    imported: bool = False,
    named: Named | None = None,
) -> Iterator[Check]:
    """Yield each result as it is known. What cannot be looked at because of an earlier failure is left out.

    ``deploy``: look at the surroundings too, and ask Discord about the token. ``imported``: import the program or app.
    ``named``: by the command line.
    """
    try:
        settings = load(config, environ=environ, need_token=False, named=named)
        said = remarks(settings.bot)
    except SettingsError as error:
        for problem in error.problems:
            yield Check(name="settings", ok=False, detail=problem)
        return
    yield Check(name="settings", ok=True, detail=str(settings.source or "no file: all defaults"))
    for key in settings.without_effect:
        yield Check(name="settings", ok=True, detail=no_effect(key))
    for _, remark in said:
        yield Check(name="bot", ok=True, detail=remark)
    token, secret = _with_secrets(settings, environ)
    yield token
    intents = None
    try:
        release = resolve(settings.bot)
    except (ReleaseError, SettingsError) as error:
        yield Check(name="release", ok=False, detail=str(error))
    else:
        yield Check(name="directory", ok=True, detail=_directory(settings, release))
        yield Check(name="interpreter", ok=True, detail=str(release.python))
        given = {**environ, **secret.environment}
        entry, *uses = look(release, environ=given, token=secret.token, imported=imported)
        intents = entry.intents
        yield entry
        yield from uses
    yield _socket(settings.control.socket.parent)
    yield from _surroundings(settings, deploy=deploy, environ=environ)
    if deploy:
        yield from _deployment(secret, intents=intents, environ=environ)


def _deployment(settings: Settings, *, intents: int | None, environ: Mapping[str, str]) -> Iterator[Check]:
    """Look at what a deployment needs. Without a token Discord is not asked."""
    from bastion.supervisor.deployment import findings

    for found in findings(settings, intents=intents, environ=environ):
        yield Check(name=found.name, ok=found.ok, detail=found.detail)


def _with_secrets(settings: Settings, environ: Mapping[str, str]) -> tuple[Check, Settings]:
    """Say whether there is a token. Add it and the bot's environment to the settings, if they can be had."""
    try:
        secret = with_secrets(settings, environ=environ)
    except SettingsError as error:
        return Check(name="token", ok=False, detail="; ".join(error.problems)), replace(settings, token="")
    return _token(secret.token), secret


def _token(found: str) -> Check:
    if not found:
        return Check(name="token", ok=True, detail="the settings have none: the program must have its own")
    if len(found) < SHORTEST_MASKED:
        detail = f"there is one of {len(found)} characters, Discord's have some 60 or more: the log does not mask it"
        return Check(name="token", ok=True, detail=detail)
    return Check(name="token", ok=True, detail="there is one; whether Discord takes it is seen at the start")


def _surroundings(settings: Settings, *, deploy: bool, environ: Mapping[str, str]) -> Iterator[Check]:
    """Look at the places that the settings name; ``deploy`` looks at the ledger's anyway."""
    from bastion.supervisor.health import listen_problem
    from bastion.supervisor.ledgerdir import place_problem

    if not deploy and (problem := place_problem(settings.ledger.path, environ=environ)):
        source = "ledger.path: " if settings.ledger.path else ""
        yield Check(name="ledger", ok=False, detail=f"{source}{problem}")
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
