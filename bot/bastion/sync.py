"""Tells Discord the slash commands, if what it has is different.

Knows how Discord gives commands back. A restart of the same release writes nothing, so two processes that start at
once, or many restarts in a row, do not use up the daily limit of command changes.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

import discord
from discord import app_commands

log = logging.getLogger(__name__)

SYNC_TIMEOUT: Final = 15.0
"""Seconds after which the bot starts without having synced: its commands are then the ones that Discord already has."""

_COMPARED: Final = (
    "name",
    "description",
    "type",
    "nsfw",
    "default_member_permissions",
    "contexts",
    "integration_types",
    "options",
    "required",
    "autocomplete",
    "choices",
    "channel_types",
    "min_value",
    "max_value",
    "min_length",
    "max_length",
)


def comparable(data: dict[str, Any]) -> dict[str, Any]:
    """Reduce a command or option to what matters, so that ours and Discord's version of the same are equal.

    Left out are ids and localisations, and every value that is as good as absent: null, false, empty.
    """
    reduced = {key: data[key] for key in _COMPARED if data.get(key)}
    for key in ("options", "choices"):
        if key in reduced:
            reduced[key] = [
                comparable(part) if key == "options" else (part["name"], part["value"]) for part in reduced[key]
            ]
    return reduced


def _registered(command: app_commands.AppCommand) -> dict[str, Any]:
    permissions = command.default_member_permissions
    return comparable(
        {**command.to_dict(), "nsfw": command.nsfw, "default_member_permissions": permissions and permissions.value}
    )


def differs(registered: list[app_commands.AppCommand], ours: list[dict[str, Any]]) -> bool:
    """Whether Discord must be told. Contexts and install types that we leave open are Discord's to fill in."""
    theirs = {(command.type.value, command.name): _registered(command) for command in registered}
    wanted = {(data["type"], data["name"]): comparable(data) for data in ours}
    for key, command in theirs.items():
        for optional in ("contexts", "integration_types"):
            if key in wanted and optional not in wanted[key]:
                command.pop(optional, None)
    return theirs != wanted


async def sync(tree: app_commands.CommandTree[Any]) -> None:
    """Fetch the global commands and replace them if they differ. A failure is logged and does not stop the bot."""
    try:
        async with asyncio.timeout(SYNC_TIMEOUT):
            registered = await tree.fetch_commands()
            if differs(registered, [command.to_dict(tree) for command in tree.get_commands()]):
                await tree.sync()
                log.info("told Discord the commands: they had changed")
    except (discord.DiscordException, OSError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        log.warning("could not sync the commands, so users see those of the last release: %s", reason)
