"""A loop that starts the bot again whenever it has ended."""

import os
import time

import discord
from discord.ext import commands
from report import mark


def make_bot():
    intents = discord.Intents.default()
    intents.message_content = True
    bot = commands.Bot(command_prefix="!", intents=intents)

    @bot.hybrid_command(description="Answers")
    async def ping(ctx):
        await ctx.reply("pong")

    @bot.command()
    async def restart(ctx):
        await ctx.reply("Restarting.")
        await bot.close()

    @bot.event
    async def on_ready():
        await bot.tree.sync()

    return bot


while True:
    make_bot().run(os.environ["DISCORD_TOKEN"])
    mark("clean-up")
    time.sleep(0.1)
