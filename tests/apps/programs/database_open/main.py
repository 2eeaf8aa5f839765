"""A database whose connection is never closed: its thread is no daemon, like aiosqlite's."""

import asyncio
import os

import database
import discord
from discord.ext import commands
from report import mark

intents = discord.Intents.default()
intents.message_content = True
bot = commands.Bot(command_prefix="!", intents=intents)


@bot.event
async def on_ready():
    await bot.tree.sync()


@bot.hybrid_command(description="Counts")
async def count(ctx):
    rows = await bot.database.execute("SELECT 1")
    await ctx.reply(str(rows))


async def main():
    async with bot:
        bot.database = await database.connect(":memory:")
        await bot.start(os.environ["DISCORD_TOKEN"])
    mark("clean-up")


asyncio.run(main())
