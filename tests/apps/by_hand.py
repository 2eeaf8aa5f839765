"""An app that answers components itself, without any view of its own."""

from __future__ import annotations

from typing import Any

import discord
from probe import Probe


class ByHand(Probe, discord.Client):
    """Answers every component that it hears of."""

    async def on_interaction(self, interaction: discord.Interaction[Any]) -> None:
        if interaction.type is discord.InteractionType.component:
            await interaction.response.send_message("By hand.", ephemeral=True)


client = ByHand()
