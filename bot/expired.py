"""An answer for a button, select or modal that nothing knows any more.

What made it was cut by a handoff, died, or timed out. Without an answer Discord says "This interaction failed". Knows
interactions and handlers under way; whether nothing knows a control is the gate's to say.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
import discord

from bastion.bot.inflight import ANSWER, InFlight, Origin

_log = logging.getLogger("bastion")

_SENDING = 0.3
"""Seconds kept back for the answer to reach Discord in time."""


class ExpiredControls:
    """Answers with ``text``, which only the user sees, unless a handler of the app does. Empty: never answers."""

    def __init__(self, text: str, inflight: InFlight) -> None:
        self.answered = 0
        self._text = text
        self._inflight = inflight

    def take(self, origin: Origin, interaction: discord.Interaction[Any], left: float) -> None:
        """Answer an interaction of which ``left`` seconds are left, once the app's handlers of it have ended."""
        if self._text:
            answer = self._answer(origin, interaction, asyncio.get_running_loop().time() + left - _SENDING)
            asyncio.get_running_loop().create_task(answer, name=ANSWER)

    async def _answer(self, origin: Origin, interaction: discord.Interaction[Any], deadline: float) -> None:
        loop = asyncio.get_running_loop()
        while handlers := self._inflight.of(origin):
            await asyncio.wait(handlers, timeout=max(0.0, deadline - loop.time()))
            if loop.time() >= deadline:
                return
        if interaction.response.is_done():
            return
        try:
            await interaction.response.send_message(self._text, ephemeral=True)
            self.answered += 1
        except (discord.HTTPException, discord.InteractionResponded, aiohttp.ClientError, OSError) as error:
            # 40060 or 10062: somebody else answered, or it is too late. Either way there is nothing left to do.
            _log.debug("an expired control was not answered: %s", error)
