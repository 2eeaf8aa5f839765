"""Polls: one kind that any process of the bot can answer, one that lives in the process that opened it."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import discord
from discord import app_commands
from discord.ext import commands


class Vote(discord.ui.DynamicItem[discord.ui.Button[Any]], template=r"vote:(?P<yes>\d+)"):
    """A button that holds its count itself: every process can answer it, after any number of reloads."""

    def __init__(self, yes: int = 0) -> None:
        super().__init__(discord.ui.Button(label=f"Yes: {yes}", custom_id=f"vote:{yes}"))
        self.yes = yes

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: discord.ui.Item[Any], match: re.Match[str], /
    ) -> Vote:
        """Make the item of what Discord sends."""
        return cls(int(match["yes"]))

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Count one more."""
        view = discord.ui.View(timeout=None)
        view.add_item(Vote(self.yes + 1))
        await interaction.response.edit_message(view=view)


class QuickPoll(discord.ui.View):
    """Counts in memory, for two minutes. After a reload the process that opened it goes on answering it."""

    def __init__(self) -> None:
        super().__init__(timeout=120)
        self.votes: Counter[str] = Counter()

    @discord.ui.select(options=[discord.SelectOption(label="Cats"), discord.SelectOption(label="Dogs")])
    async def choose(self, interaction: discord.Interaction[Any], select: discord.ui.Select[QuickPoll]) -> None:
        """Count a vote and show all of them."""
        self.votes[select.values[0]] += 1
        counts = ", ".join(f"{name}: {count}" for name, count in sorted(self.votes.items()))
        await interaction.response.edit_message(content=counts)


class Polls(commands.Cog):
    """``/poll`` and ``/quick``."""

    @app_commands.command(description="A question that stays")
    async def poll(self, interaction: discord.Interaction[Any]) -> None:
        """Open a poll that every process can answer."""
        view = discord.ui.View(timeout=None)
        view.add_item(Vote())
        await interaction.response.send_message("Shall we?", view=view)

    @app_commands.command(description="A question for two minutes")
    async def quick(self, interaction: discord.Interaction[Any]) -> None:
        """Open a poll that this process answers."""
        await interaction.response.send_message("Cats or dogs?", view=QuickPoll())


async def setup(bot: commands.Bot) -> None:
    """Called by discord.py when the extension is loaded."""
    bot.add_dynamic_items(Vote)
    await bot.add_cog(Polls())
