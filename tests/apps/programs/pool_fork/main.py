"""A pool of forked processes, which nobody shuts down."""

import asyncio
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import discord
from discord.ext import commands
from report import mark

pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork"))
intents = discord.Intents.default()
intents.message_content = True
bot = commands.Bot(command_prefix="!", intents=intents)


@bot.event
async def on_ready():
    await bot.tree.sync()


def work(number):
    return number * number


@bot.hybrid_command(description="Squares a number")
async def square(ctx):
    await ctx.reply(str(await asyncio.get_running_loop().run_in_executor(pool, work, 7)))


bot.run(os.environ["DISCORD_TOKEN"])
mark("clean-up")
