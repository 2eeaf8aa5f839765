"""A release whose setup_hook raises."""

from __future__ import annotations

import discord


class BrokenSetupHook(discord.AutoShardedClient):
    """Gets as far as the login."""

    async def setup_hook(self) -> None:
        raise RuntimeError("this release is broken: its setup_hook raises")


client = BrokenSetupHook(intents=discord.Intents(guilds=True))
