"""The slash commands: ``/ping`` and ``/search``.

Knows the deck and the command tree. Registering them with Discord is `sync`'s work.
"""

from __future__ import annotations

import math
from typing import Any

import discord
from discord import app_commands

from bastion.bot.bastion.cards import MAX_QUERY, Deck
from bastion.bot.bastion.failures import report_failure
from bastion.bot.bastion.presentation import card_embed, card_view, list_embed, unknown_text


class Commands(app_commands.CommandTree[Any]):
    """The command tree, with errors answered."""

    async def on_error(self, interaction: discord.Interaction[Any], error: app_commands.AppCommandError, /) -> None:
        """Tell the user and the log. What the command itself raised is unwrapped first."""
        cause = error.original if isinstance(error, app_commands.CommandInvokeError) else error
        name = interaction.command.qualified_name if interaction.command else "unknown"
        await report_failure(interaction, cause, doing=f"run /{name}")


def latency_text(seconds: float) -> str:
    """Say a gateway latency. Before a shard's first heartbeat is answered it is infinite or not a number."""
    return f"{seconds * 1000:.0f} ms" if math.isfinite(seconds) else "not measured yet"


def register(tree: app_commands.CommandTree[Any], *, deck: Deck) -> None:
    """Add the bot's commands to the tree."""

    @tree.command(name="ping", description="How quickly does the bot hear Discord?")
    async def ping(interaction: discord.Interaction[Any]) -> None:
        client: discord.AutoShardedClient = interaction.client
        shard_id = interaction.guild.shard_id if interaction.guild else 0
        shard = client.get_shard(shard_id)
        latency = latency_text(shard.latency if shard else client.latency)
        await interaction.response.send_message(
            f"Pong! Gateway latency of shard {shard_id}: {latency}.", ephemeral=True
        )

    @tree.command(name="search", description="Look up a card by its name, or by words of its text")
    @app_commands.describe(query="The name of a card, or words of its text")
    async def search(interaction: discord.Interaction[Any], query: app_commands.Range[str, 1, MAX_QUERY]) -> None:
        found = deck.find(query)
        if found.card:
            await interaction.response.send_message(embed=card_embed(found.card), view=card_view([found.card]))
        elif matching := deck.search(query):
            await interaction.response.send_message(embed=list_embed(matching), ephemeral=True)
        else:
            await interaction.response.send_message(unknown_text(query, found.close), ephemeral=True)

    @search.autocomplete("query")
    async def complete(interaction: discord.Interaction[Any], current: str) -> list[app_commands.Choice[str]]:
        return [app_commands.Choice(name=card.name, value=card.name) for card in deck.complete(current, limit=25)]
