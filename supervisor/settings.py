"""bastion.toml and the environment, checked, as `Settings`.

This module knows every key, its default and what is allowed. It does not know what the values are used for, and it
starts nothing. All that is wrong is reported at once, each thing in one line that names file, key, value and what is
allowed; the token's text is in no message and in no repr.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from bastion.supervisor import env_file
from bastion.supervisor.entry import APP_ALLOWED, PROGRAM_ALLOWED, Named, read_app, read_program
from bastion.supervisor.location import (
    DEFAULT_HEALTH,
    LISTEN_ALLOWED,
    SettingsError,
    absolute,
    configured_socket,
    current_directory,
    find_config,
    parse_listen,
    read_config,
    shown,
    shown_path,
)
from bastion.supervisor.tables import NotAllowedError, Reader, Text, noting
from bastion.supervisor.tokens import TOKEN, WAYS, checked_token, find_token

__all__ = ["Settings", "SettingsError", "load", "read", "refreshed", "with_secrets"]

MAX_SECONDS = 7 * 24 * 3600
MAX_SHARDS = 65536
MIN_HANG = 3
"""Seconds: children beat once a second, so less would take a short pause for a hang."""
MAX_EXPIRED_TEXT = 2000
"""Characters: Discord's limit for a message."""
NO_TOKEN = f"no Discord token: {WAYS}"

Seconds: TypeAlias = Annotated[
    float, msgspec.Meta(gt=0, le=MAX_SECONDS, description=f"a number of seconds above 0, at most {MAX_SECONDS}")
]
SecondsOrNone: TypeAlias = Annotated[
    float, msgspec.Meta(ge=0, le=MAX_SECONDS, description=f"a number of seconds from 0 (none) to {MAX_SECONDS}")
]
ShardCount: TypeAlias = Annotated[
    Literal["auto"] | Annotated[int, msgspec.Meta(ge=1, le=MAX_SHARDS)],
    msgspec.Meta(description=f'"auto", or a whole number from 1 to {MAX_SHARDS}'),
]


class BotSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[bot]``: what is run. ``directory`` is absolute, symlinks in it unresolved: that is done at each spawn."""

    program: Text = ""
    """A script, relative to ``directory``, or ``-m`` and a module."""
    app: Text = ""
    """``module:attribute``. Without a program and an app the bot that ships runs."""
    directory: Path = Path()
    python: Text = ""
    """Empty, a name to be looked up on PATH, or an absolute path."""
    shards: Annotated[ShardCount, msgspec.Meta(description=f'"auto", or a whole number from 1 to {MAX_SHARDS}')] = (
        "auto"
    )
    args: Annotated[tuple[Text, ...], msgspec.Meta(description="a list of texts")] = ()
    env_file: Path | None = None
    expired_text: Annotated[
        Text,
        msgspec.Meta(max_length=MAX_EXPIRED_TEXT, description=f"a text of at most {MAX_EXPIRED_TEXT} characters"),
    ] = "This control is from before an update. Please run the command again."
    """What a press of a button is answered with that nothing knows any more. Empty: nothing."""


class DiscordSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[discord]``: where Discord is and how we are known there. ``identify_window`` is in seconds (Discord: 5)."""

    api_url: Text = "https://discord.com/api/v10"
    token_file: Path | None = None
    identify_window: Seconds = 5.0


class HandoffSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[handoff]``: limits in seconds; ``headroom`` is a factor on the active child's memory.

    ``probation``: for so long after the switch the old child stays and takes over again if the new one fails.
    ``linger``: for so long a draining child goes on with what people are in the middle of (views, modals,
    conversations); the handoff does not wait for that. ``session``: "auto" moves the gateway sessions to the new child
    where it can, "overlap" always has it begin its own. ``settle`` and ``stale_after`` have no effect any more: a file
    that names one of them is still read, and the log says so.
    """

    session: Literal["auto", "overlap"] = "auto"

    ready_timeout: Seconds = 300.0
    drain_timeout: Seconds = 30.0
    settle: Seconds = 10.0
    headroom: Annotated[float, msgspec.Meta(ge=1, le=100, description="a factor from 1 to 100")] = 1.2
    probation: SecondsOrNone = 15.0
    linger: SecondsOrNone = 180.0
    stale_after: Seconds = 300.0


class RestartSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[restart]``: seconds between starts of a bot that dies, and after how long it counts as stable.

    ``hang_timeout``: a child that has not beaten for so many seconds hangs, and is ended. ``spare``: keep one standby
    connected all the time, to take over at once from an active child that dies; it costs as much memory as that one.
    ``resume_directory``: where a bot that is stopped leaves its sessions and its cache, for a start within the next
    ``resume_within`` seconds; with 0 it leaves nothing.
    """

    backoff_first: Seconds = 1.0
    backoff_max: Seconds = 60.0
    stable_after: Seconds = 60.0
    hang_timeout: Annotated[
        float,
        msgspec.Meta(ge=MIN_HANG, le=MAX_SECONDS, description=f"a number of seconds from {MIN_HANG} to {MAX_SECONDS}"),
    ] = 20.0
    spare: Annotated[bool, msgspec.Meta(description="true or false")] = False
    resume_directory: Path | None = None
    resume_within: SecondsOrNone = 120.0


class StateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[state]``: seconds that an app may take to export its state, and to import it; seconds between checkpoints."""

    timeout: Seconds = 2.0
    checkpoint: SecondsOrNone = 60.0


class LedgerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[ledger]``: where claims are kept. None: a private directory that the engine chooses.

    ``shared``: other supervisors may have the same ``path``. ``window_timeout``: in so many seconds claims that were
    switched on by hand end.
    """

    path: Path | None = None
    shared: Annotated[bool, msgspec.Meta(description="true or false")] = False
    window_timeout: Seconds = 600.0


class ControlSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[control]``: the absolute path of the socket behind the CLI."""

    socket: Path


class HealthSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[health]``: ``host:port``, ``unix:/path``, or empty for none."""

    listen: Text = DEFAULT_HEALTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that an operator decides. ``source`` is the file it came from, None if there was none."""

    bot: BotSettings
    discord: DiscordSettings
    handoff: HandoffSettings
    restart: RestartSettings
    state: StateSettings
    ledger: LedgerSettings
    control: ControlSettings
    health: HealthSettings
    source: Path | None
    token: str = field(repr=False)
    """Empty only if `load` was told that no token is needed, or if a program runs, which may have its own."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What ``bot.env_file`` says, without a token."""
    without_effect: tuple[str, ...] = ()
    """Which of `WITHOUT_EFFECT` the file has."""


class _ControlFile(msgspec.Struct, frozen=True, kw_only=True):
    socket: Text = ""


WITHOUT_EFFECT = (("handoff", "stale_after"), ("handoff", "settle"))
"""Keys that have lost their subject. They are accepted for one version more."""

_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "bot": BotSettings,
    "discord": DiscordSettings,
    "handoff": HandoffSettings,
    "restart": RestartSettings,
    "state": StateSettings,
    "ledger": LedgerSettings,
    "control": _ControlFile,
    "health": HealthSettings,
}


def load(
    path: Path | None, *, environ: Mapping[str, str], need_token: bool = True, named: Named | None = None
) -> Settings:
    """Find, read and check the settings.

    ``path`` is the value of ``--config``; without it the search goes on as in `find_config`. Otherwise like `read`.
    """
    source = find_config(path, environ=environ)
    tables = read_config(source) if source else {}
    return read(source, tables, environ=environ, need_token=need_token, named=named)


def read(
    source: Path | None,
    tables: dict[str, Any],
    *,
    environ: Mapping[str, str],
    need_token: bool = True,
    named: Named | None = None,
) -> Settings:
    """Check what the file at ``source`` says, its ``tables``.

    With ``need_token=False`` neither the token nor ``bot.env_file`` is looked at. ``named`` is what the command line
    names, which wins over the file. Raises `SettingsError` with everything that is wrong.
    """
    reader = Reader(source, tables, checks=_CHECKS)
    base = source.parent if source else current_directory()
    settings = Settings(
        bot=_bot(reader, base=base, named=named or Named()),
        discord=_discord(reader.section("discord", DiscordSettings), base=base, environ=environ, reader=reader),
        handoff=reader.section("handoff", HandoffSettings),
        restart=_restart(reader, base=base, environ=environ),
        state=reader.section("state", StateSettings),
        ledger=_ledger(reader, base=base),
        control=_control(reader, environ=environ),
        health=reader.section("health", HealthSettings),
        source=source,
        token="",
        without_effect=tuple(f"{section}.{key}" for section, key in WITHOUT_EFFECT if reader.has(section, key)),
    )
    reader.finish(_SECTIONS)
    if need_token:
        with noting(reader.problems):
            settings = with_secrets(settings, environ=environ)
    if reader.problems:
        raise SettingsError(*reader.problems)
    return settings


def with_secrets(settings: Settings, *, environ: Mapping[str, str]) -> Settings:
    """Add the token and what ``bot.env_file`` says. Raises `SettingsError` with everything that is wrong with them.

    A program may have a token of its own; an app needs one.
    """
    problems: list[str] = []
    token = ""
    with noting(problems):
        token = find_token(settings.discord.token_file, environ=environ)
    with noting(problems):
        settings = _with_env_file(settings, token=token)
    if problems:
        raise SettingsError(*problems)
    if not (settings.token or settings.bot.program):
        raise SettingsError(NO_TOKEN)
    return settings


def refreshed(settings: Settings) -> Settings:
    """Read ``bot.env_file`` once more, for a child that no reload asks for. Raises `SettingsError`.

    The token stays: another one may have been refused by Discord at a reload that failed.
    """
    return replace(_with_env_file(settings, token=settings.token), token=settings.token)


def _with_env_file(settings: Settings, *, token: str) -> Settings:
    """Read ``bot.env_file``; the token in it counts if no other place has one."""
    path = settings.bot.env_file
    if path is None:
        return replace(settings, token=token)
    values = env_file.read(path)
    own = values.pop(TOKEN, "").strip()
    if own and not token:
        token = checked_token(own, source=f"bot.env_file: {shown_path(path)}: {TOKEN}")
    return replace(settings, token=token, environment=values)


def _program(value: str) -> str:
    try:
        return read_program(value)
    except ValueError:
        raise NotAllowedError(PROGRAM_ALLOWED) from None


def _app(value: str) -> str:
    try:
        return read_app(value)
    except ValueError:
        raise NotAllowedError(APP_ALLOWED) from None


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or not all("!" <= character <= "~" for character in value):
        raise NotAllowedError('the base of an HTTP address, such as "https://discord.com/api/v10"')
    return value.rstrip("/")


def _listen(value: str) -> str:
    try:
        parse_listen(value)
    except ValueError:
        raise NotAllowedError(LISTEN_ALLOWED) from None
    return value


_CHECKS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("bot", "program"): _program,
    ("bot", "app"): _app,
    ("discord", "api_url"): _url,
    ("health", "listen"): _listen,
}


def _bot(reader: Reader, *, base: Path, named: Named) -> BotSettings:
    read = _as_named(reader.section("bot", BotSettings), named, reader=reader)
    if read.program and read.app:
        reader.problems.append(
            f"{reader.source}: bot.program = {shown(read.program)} and bot.app = {shown(read.app)}: allowed is one of "
            "the two"
        )
    python = read.python
    if "/" in python:  # with a slash it is a path of its own, without one a name on PATH, as in a shell
        python = str(absolute(Path(python), base=base))
    return msgspec.structs.replace(
        read,
        directory=absolute(read.directory, base=base),
        python=python,
        env_file=_against(read.env_file, base=base),
    )


def _as_named(read: BotSettings, named: Named, *, reader: Reader) -> BotSettings:
    """Put what the command line names in the place of what the file says."""
    if named.args is not None:
        read = msgspec.structs.replace(read, args=named.args)
    if not named.program:
        return read
    try:
        return msgspec.structs.replace(read, program=_program(named.program), app="")
    except NotAllowedError as error:
        reader.problems.append(f"the command line: {shown(named.program)}: allowed is {error.allowed}")
        return read


def _discord(read: DiscordSettings, *, base: Path, environ: Mapping[str, str], reader: Reader) -> DiscordSettings:
    api_url = read.api_url
    if override := environ.get("DISCORD_API_URL"):
        try:
            api_url = _url(override)
        except NotAllowedError as error:
            reader.problems.append(f"DISCORD_API_URL = {shown(override)}: allowed is {error.allowed}")
    return msgspec.structs.replace(read, api_url=api_url, token_file=_against(read.token_file, base=base))


def _restart(reader: Reader, *, base: Path, environ: Mapping[str, str]) -> RestartSettings:
    read = reader.section("restart", RestartSettings)
    if read.backoff_first > read.backoff_max:
        allowed = f"at most restart.backoff_max, which is {read.backoff_max:g}"
        reader.bad("restart.backoff_first", read.backoff_first, allowed)
    lasting = _against(read.resume_directory, base=base)
    if lasting is None and (given := environ.get("STATE_DIRECTORY")):  # systemd joins several with colons
        lasting = Path(given.split(":")[0])
    return msgspec.structs.replace(read, resume_directory=lasting)


def _ledger(reader: Reader, *, base: Path) -> LedgerSettings:
    read = reader.section("ledger", LedgerSettings)
    if read.shared and read.path is None:
        reader.bad("ledger.shared", True, "true only with ledger.path: a file in a directory that all of them mount")
    return msgspec.structs.replace(read, path=_against(read.path, base=base))


def _control(reader: Reader, *, environ: Mapping[str, str]) -> ControlSettings:
    value = reader.section("control", _ControlFile).socket
    with noting(reader.problems):
        return ControlSettings(socket=configured_socket(value, config=reader.source, environ=environ))
    return ControlSettings(socket=Path())


def _against(path: Path | None, *, base: Path) -> Path | None:
    return None if path is None else absolute(path, base=base)
