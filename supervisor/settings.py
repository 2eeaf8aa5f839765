"""bastion.toml and the environment, checked, as `Settings`.

This module knows every key, its default and what is allowed. It does not know what the values are used for, and it
starts nothing. All that is wrong is reported at once, each thing in one line that names file, key, value and what is
allowed; the token's text is in no message and in no repr.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar
from urllib.parse import urlsplit

import msgspec

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
)

__all__ = ["Settings", "SettingsError", "load", "read_token"]

MAX_SECONDS = 7 * 24 * 3600
MAX_SHARDS = 65536
MIN_HANG = 3
"""Seconds: children beat once a second, so less would take a short pause for a hang."""
MAX_TOKEN_BYTES = 4096
MAX_EXPIRED_TEXT = 2000
"""Characters: Discord's limit for a message."""

THREE_WAYS = (
    "set DISCORD_TOKEN in the environment, or name a file that holds it with discord.token_file in bastion.toml, "
    "or give systemd's LoadCredential=discord_token:FILE"
)

Seconds: TypeAlias = Annotated[
    float, msgspec.Meta(gt=0, le=MAX_SECONDS, description=f"a number of seconds above 0, at most {MAX_SECONDS}")
]
SecondsOrNone: TypeAlias = Annotated[
    float, msgspec.Meta(ge=0, le=MAX_SECONDS, description=f"a number of seconds from 0 (none) to {MAX_SECONDS}")
]
Text: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00]*\Z", description="a text without NUL characters")]
ShardCount: TypeAlias = Annotated[
    Literal["auto"] | Annotated[int, msgspec.Meta(ge=1, le=MAX_SHARDS)],
    msgspec.Meta(description=f'"auto", or a whole number from 1 to {MAX_SHARDS}'),
]


class BotSettings(msgspec.Struct, frozen=True, kw_only=True):
    """``[bot]``: what is run. ``directory`` is absolute, symlinks in it unresolved: that is done at each spawn."""

    app: Text = "bastion.bot.bastion:create"
    directory: Path = Path()
    python: Text = ""
    """Empty, a name to be looked up on PATH, or an absolute path."""
    shards: Annotated[ShardCount, msgspec.Meta(description=f'"auto", or a whole number from 1 to {MAX_SHARDS}')] = (
        "auto"
    )
    args: Annotated[tuple[Text, ...], msgspec.Meta(description="a list of texts")] = ()
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

    ``probation``: for so long after the switch the old child stays connected and takes over again if the new one fails.
    ``linger``: for so long a draining child goes on with what people are in the middle of (views, modals,
    conversations); the handoff does not wait for that. ``stale_after``: a supervisor that starts so long after its
    ``--standby-since`` was restarted, and does not wait to be called.
    """

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
    """

    backoff_first: Seconds = 1.0
    backoff_max: Seconds = 60.0
    stable_after: Seconds = 60.0
    hang_timeout: Annotated[
        float,
        msgspec.Meta(ge=MIN_HANG, le=MAX_SECONDS, description=f"a number of seconds from {MIN_HANG} to {MAX_SECONDS}"),
    ] = 20.0
    spare: Annotated[bool, msgspec.Meta(description="true or false")] = False


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
    """Empty only if `load` was told that no token is needed."""


class _ControlFile(msgspec.Struct, frozen=True, kw_only=True):
    socket: Text = ""


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
_PATHS = {("bot", "directory"), ("discord", "token_file"), ("ledger", "path")}


def load(path: Path | None, *, environ: Mapping[str, str], need_token: bool = True) -> Settings:
    """Find, read and check the settings.

    ``path`` is the value of ``--config``; without it the search goes on as in `find_config`. With ``need_token=False``
    the token is not looked for. Raises `SettingsError` with everything that is wrong.
    """
    source = find_config(path, environ=environ)
    reader = _Reader(source=source, tables=read_config(source) if source else {})
    base = source.parent if source else current_directory()
    settings = Settings(
        bot=_bot(reader.section("bot", BotSettings), base=base),
        discord=_discord(reader.section("discord", DiscordSettings), base=base, environ=environ, reader=reader),
        handoff=reader.section("handoff", HandoffSettings),
        restart=_restart(reader),
        state=reader.section("state", StateSettings),
        ledger=_ledger(reader, base=base),
        control=_control(reader, environ=environ),
        health=reader.section("health", HealthSettings),
        source=source,
        token="",
    )
    reader.finish()
    if need_token:
        try:
            settings = replace(settings, token=read_token(settings.discord, environ=environ))
        except SettingsError as error:
            reader.problems.extend(error.problems)
    if reader.problems:
        raise SettingsError(*reader.problems)
    return settings


def read_token(discord: DiscordSettings, *, environ: Mapping[str, str]) -> str:
    """Return the bot's token from the first place that has one. Raises `SettingsError`, which never shows its text."""
    if token := environ.get("DISCORD_TOKEN", "").strip():
        return _checked_token(token, source="DISCORD_TOKEN")
    if discord.token_file is not None:
        return _token_from(discord.token_file, source="discord.token_file")
    if credentials := environ.get("CREDENTIALS_DIRECTORY"):
        credential = Path(credentials) / "discord_token"
        if not os.access(credentials, os.X_OK) or credential.exists():  # one that we may not see is no reason to go on
            return _token_from(credential, source="systemd credential discord_token")
    raise SettingsError(f"no Discord token: {THREE_WAYS}")


def _token_from(path: Path, *, source: str) -> str:
    where = f"{source}: {shown(str(path))}"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{where}: the token cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_TOKEN_BYTES:
        raise SettingsError(f"{where}: larger than {MAX_TOKEN_BYTES} bytes, so not a token file")
    token = content.decode("utf-8", "replace").strip()
    if not token:
        raise SettingsError(f"{where}: the file is empty, it should hold the token")
    return _checked_token(token, source=where)


def _checked_token(token: str, *, source: str) -> str:
    if len(token) > MAX_TOKEN_BYTES or not all("!" <= character <= "~" for character in token):
        raise SettingsError(f'{source}: not a token: it must be one ASCII word, without "Bot " in front')
    return token


_S = TypeVar("_S", bound=msgspec.Struct)


@cache
def _fields(shape: type[msgspec.Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    return {item.name: item for item in msgspec.structs.fields(shape)}


@dataclass(slots=True)
class _Reader:
    """Turns TOML tables into structs and gathers what is wrong with them."""

    source: Path | None
    tables: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    def section(self, name: str, shape: type[_S]) -> _S:
        """Read one table; a value that is not allowed is noted and replaced by its default."""
        table = self.tables.get(name, {})
        if not isinstance(table, dict):
            self.bad(name, table, f"a table: write [{name}] on a line of its own")
            return shape()
        known = _fields(shape)
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in known:
                self.unknown(key, known, table=name)
                continue
            try:
                values[key] = self._value(name, key, value, known[key].type)
            except _NotAllowedError as error:
                self.bad(f"{name}.{key}", value, error.allowed)
        return shape(**values)

    def _value(self, name: str, key: str, value: object, kind: Any) -> object:
        is_path = (name, key) in _PATHS
        try:
            read = msgspec.convert(value, Text if is_path else kind)
        except msgspec.ValidationError:
            raise _NotAllowedError("a path" if is_path else _description(kind)) from None
        if check := _CHECKS.get((name, key)):
            read = check(read)
        if is_path:
            return Path(read) if read else None if key != "directory" else Path()
        return read

    def bad(self, key: str, value: object, allowed: str) -> None:
        """Note a value that is not allowed."""
        self.problems.append(f"{self.source}: {key} = {shown(value)}: allowed is {allowed}")

    def unknown(self, key: str, known: Mapping[str, object], *, table: str = "") -> None:
        """Note a key that does not exist. Its value is not shown: it may be a secret in the wrong place."""
        kind, prefix = ("key", f"{table}.") if table else ("table", "")
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {prefix}{close[0]}? " if close else ""
        if key.lower() in ("token", "bot_token", "discord_token"):
            hint = f"the token does not belong in this file: {THREE_WAYS}; "
        self.problems.append(
            f"{self.source}: {prefix}{shown(key)[1:-1]}: unknown {kind}; {hint}allowed are {', '.join(known)}"
        )

    def finish(self) -> None:
        """Note the tables that do not exist."""
        for name in self.tables:
            if name not in _SECTIONS:
                self.unknown(name, _SECTIONS)


class _NotAllowedError(Exception):
    """A value was refused; ``allowed`` says what would do."""

    def __init__(self, allowed: str) -> None:
        self.allowed = allowed
        super().__init__(allowed)


def _description(kind: Any) -> str:
    """Return what `msgspec.Meta` says is allowed, from the outermost annotation that says something."""
    info = msgspec.inspect.type_info(kind)
    extra = info.extra_json_schema if isinstance(info, msgspec.inspect.Metadata) else None
    return str((extra or {}).get("description", "a text"))


def _app(value: str) -> str:
    module, colon, attribute = value.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise _NotAllowedError('"module:attribute", such as "mybot.main:bot"')
    return value


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or not all("!" <= character <= "~" for character in value):
        raise _NotAllowedError('the base of an HTTP address, such as "https://discord.com/api/v10"')
    return value.rstrip("/")


def _listen(value: str) -> str:
    try:
        parse_listen(value)
    except ValueError:
        raise _NotAllowedError(LISTEN_ALLOWED) from None
    return value


_CHECKS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("bot", "app"): _app,
    ("discord", "api_url"): _url,
    ("health", "listen"): _listen,
}


def _bot(read: BotSettings, *, base: Path) -> BotSettings:
    python = read.python
    if "/" in python:  # with a slash it is a path of its own, without one a name on PATH, as in a shell
        python = str(absolute(Path(python), base=base))
    return msgspec.structs.replace(read, directory=absolute(read.directory, base=base), python=python)


def _discord(read: DiscordSettings, *, base: Path, environ: Mapping[str, str], reader: _Reader) -> DiscordSettings:
    api_url = read.api_url
    if override := environ.get("DISCORD_API_URL"):
        try:
            api_url = _url(override)
        except _NotAllowedError as error:
            reader.problems.append(f"DISCORD_API_URL = {shown(override)}: allowed is {error.allowed}")
    return msgspec.structs.replace(read, api_url=api_url, token_file=_against(read.token_file, base=base))


def _restart(reader: _Reader) -> RestartSettings:
    read = reader.section("restart", RestartSettings)
    if read.backoff_first > read.backoff_max:
        allowed = f"at most restart.backoff_max, which is {read.backoff_max:g}"
        reader.bad("restart.backoff_first", read.backoff_first, allowed)
    return read


def _ledger(reader: _Reader, *, base: Path) -> LedgerSettings:
    read = reader.section("ledger", LedgerSettings)
    if read.shared and read.path is None:
        reader.bad("ledger.shared", True, "true only with ledger.path: a file in a directory that all of them mount")
    return msgspec.structs.replace(read, path=_against(read.path, base=base))


def _control(reader: _Reader, *, environ: Mapping[str, str]) -> ControlSettings:
    value = reader.section("control", _ControlFile).socket
    try:
        return ControlSettings(socket=configured_socket(value, config=reader.source, environ=environ))
    except SettingsError as error:
        reader.problems.extend(error.problems)
        return ControlSettings(socket=Path())


def _against(path: Path | None, *, base: Path) -> Path | None:
    return None if path is None else absolute(path, base=base)
