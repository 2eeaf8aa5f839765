"""The settings at a reload: those of the file that was found at the start, and of no other.

Knows by what a file shows that it was lost or damaged rather than changed. A start takes such a file as it is; a reload
refuses it, for something runs that it may have named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from bastion.supervisor.entry import SHIPPED, Named
from bastion.supervisor.location import find_config, read_config
from bastion.supervisor.settings import Settings, SettingsError, read


def reread(kept: Settings, *, environ: Mapping[str, str], named: Named | None = None) -> Settings:
    """Read the file of ``kept`` again; without a file read the environment alone. Raises `SettingsError`.

    ``kept`` are the settings of the last good handoff, ``named`` is what the command line names.
    """
    named = named or Named()
    if kept.source is None:
        return read(None, {}, environ=environ, named=named)
    tables = read_config(kept.source)
    if not any(tables.values()) and _without_secrets(kept) != read(
        kept.source, {}, environ=environ, named=named, need_token=False
    ):
        raise SettingsError(
            f"{kept.source}: holds no settings any more: put them back; a restart would run with the defaults"
        )
    if _names_a_bot(kept) and not (named.program or _has_a_bot(tables)):
        raise SettingsError(
            f"{kept.source}: names neither bot.program nor bot.app any more, and {kept.bot.program or kept.bot.app} "
            f'runs: name it again; for the bot that ships, write bot.app = "{SHIPPED}"'
        )
    return read(kept.source, tables, environ=environ, named=named)


def unread(kept: Settings, *, environ: Mapping[str, str]) -> str | None:
    """Return what to say of a file that has appeared where none was at the start."""
    found = find_config(None, environ=environ) if kept.source is None else None
    if found is None:
        return None
    return f"{found} is not read: there was no settings file at the start. Restart the supervisor to have it read"


def _without_secrets(settings: Settings) -> Settings:
    return replace(settings, token="", environment={})


def _names_a_bot(settings: Settings) -> bool:
    return bool(settings.bot.program or settings.bot.app)


def _has_a_bot(tables: Mapping[str, Any]) -> bool:
    bot = tables.get("bot")
    return isinstance(bot, dict) and bool(bot.get("program") or bot.get("app"))
