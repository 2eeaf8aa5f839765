"""A bot of cogs, with slash commands and views. Nothing in it knows of the supervisor."""

from __future__ import annotations

import os

import discord
from discord.ext import commands


class PollBot(commands.Bot):
    """Loads its cogs and tells Discord their commands: at a reload that takes effect at the switch."""

    def __init__(self) -> None:
        super().__init__(command_prefix=commands.when_mentioned, intents=discord.Intents(guilds=True))

    async def setup_hook(self) -> None:
        """Prepare all that must be there before the first event."""
        await self.load_extension("cogs.polls")
        await self.tree.sync()


bot = PollBot()

if __name__ == "__main__":
    bot.run(os.environ["DISCORD_TOKEN"])
