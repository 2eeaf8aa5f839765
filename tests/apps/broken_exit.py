"""A release that ends its process, with no last word, when its first shard is connected."""

from __future__ import annotations

import os

import discord


class BrokenExit(discord.AutoShardedClient):
    """Dies in on_connect."""

    async def on_connect(self) -> None:
        os._exit(3)


client = BrokenExit(intents=discord.Intents(guilds=True))
