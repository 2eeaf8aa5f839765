"""A loop of its own runs to its end at import, long before the bot has one."""

import asyncio
import os

import discord
from discord.ext import commands
from report import mark


async def init():
    await asyncio.sleep(0.1)  # a migration, say
    return {"prefix": "!"}


settings = asyncio.run(init())
intents = discord.Intents.default()
intents.message_content = True
bot = commands.Bot(command_prefix=settings["prefix"], intents=intents)


@bot.command()
async def ping(ctx):
    await ctx.reply("pong")


bot.run(os.environ["DISCORD_TOKEN"])
mark("clean-up")
