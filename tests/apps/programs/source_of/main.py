"""A command that shows its own source, and says what Python calls the program."""

import inspect
import os
import sys

import discord
from discord.ext import commands
from report import mark

intents = discord.Intents.default()
intents.message_content = True
bot = commands.Bot(command_prefix="!", intents=intents)


@bot.event
async def on_ready():
    await bot.tree.sync()


@bot.hybrid_command(description="Shows its own source")
async def source(ctx):
    assert sys.modules["__main__"].bot is bot
    assert sys.argv[0] == "main.py"
    assert sys.path[0] == os.path.dirname(os.path.abspath(__file__))
    await ctx.reply(inspect.getsource(ctx.command.callback))


if __name__ == "__main__":
    bot.run(os.environ["DISCORD_TOKEN"])
    mark("clean-up")
