"""The bot is made inside a coroutine, and closed by its end."""

import asyncio
import os

import discord
from discord.ext import commands
from report import mark


async def main():
    intents = discord.Intents.default()
    intents.message_content = True
    bot = commands.Bot(command_prefix="!", intents=intents)

    @bot.hybrid_command(description="Answers")
    async def ping(ctx):
        await ctx.reply("pong")

    @bot.event
    async def on_ready():
        await bot.tree.sync()

    try:
        await bot.start(os.environ["DISCORD_TOKEN"])
    finally:
        await bot.close()
        mark("clean-up")


asyncio.run(main())
