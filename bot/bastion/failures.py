"""What the user hears, and what the log says, when answering an interaction failed.

Knows interactions and Discord's codes for them, nothing of what was being done.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import discord

log = logging.getLogger(__name__)

UNKNOWN_INTERACTION: Final = 10062
"""Discord's code for an answer that comes too late, or after someone else's."""

ALREADY_ANSWERED: Final = 40060
"""Discord's code for a second first answer."""


def is_answered_elsewhere(error: BaseException) -> bool:
    """Whether Discord says that this interaction is over: too late, or answered by someone else."""
    return isinstance(error, discord.HTTPException) and error.code in (UNKNOWN_INTERACTION, ALREADY_ANSWERED)


async def report_failure(interaction: discord.Interaction[Any], error: BaseException, *, doing: str) -> None:
    """Log the error and tell the user, and only the user, that it failed. Raises nothing of its own."""
    if is_answered_elsewhere(error):
        log.warning("could not %s: the interaction was answered already or is over 3 s old (%s)", doing, error)
        return
    log.error("could not %s", doing, exc_info=error)
    try:
        if interaction.response.is_done():
            await interaction.followup.send("Something went wrong on my side. Please try again.", ephemeral=True)
        else:
            await interaction.response.send_message(
                "Something went wrong on my side. Please try again.", ephemeral=True
            )
    except discord.HTTPException as second:
        log.warning("could not even tell the user that it failed: %s", second)
