"""Cogs are loaded in main(), an on_ready syncs: the commonest layout since discord.py 2.0."""

import asyncio
import os

import discord
from discord.ext import commands
from report import mark

intents = discord.Intents.default()
intents.message_content = True
bot = commands.Bot(command_prefix="!", intents=intents)


@bot.event
async def on_ready():
    await bot.tree.sync()


async def main():
    async with bot:
        for name in ("greetings", "dice"):
            await bot.load_extension(f"cogs.{name}")
        await bot.start(os.environ["DISCORD_TOKEN"])
    mark("clean-up")


if __name__ == "__main__":
    asyncio.run(main())
