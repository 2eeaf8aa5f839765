"""discord.py's own logging, set up for a program that calls start()."""

import asyncio
import logging
import os

import discord
from discord.ext import commands
from report import mark

intents = discord.Intents.default()
intents.message_content = True
bot = commands.Bot(command_prefix="!", intents=intents)


@bot.command()
async def ping(ctx):
    await ctx.reply("pong")


@bot.event
async def on_ready():
    logging.getLogger("discord.mybot").info("ready as %s", bot.user)


async def main():
    discord.utils.setup_logging()
    async with bot:
        await bot.start(os.environ["DISCORD_TOKEN"])
    mark("clean-up")


asyncio.run(main())
