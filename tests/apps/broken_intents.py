"""A release that asks for privileged intents which it may not have been granted: members and presences."""

from __future__ import annotations

import discord

client = discord.AutoShardedClient(intents=discord.Intents(guilds=True, members=True, presences=True))
