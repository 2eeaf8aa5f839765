"""A process of the system that is run by the event loop, once a command."""

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


@bot.hybrid_command(description="Runs a program of the system")
async def echo(ctx):
    process = await asyncio.create_subprocess_exec("echo", "hello", stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    await ctx.reply(out.decode())


bot.run(os.environ["DISCORD_TOKEN"])
mark("clean-up")
