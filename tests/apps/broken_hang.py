"""A release that never gets ready: its setup_hook never returns."""

from __future__ import annotations

import asyncio

import discord


class BrokenHang(discord.AutoShardedClient):
    """Logs in and waits for what never comes. The event loop itself stays free."""

    async def setup_hook(self) -> None:
        await asyncio.Event().wait()


client = BrokenHang(intents=discord.Intents(guilds=True))
