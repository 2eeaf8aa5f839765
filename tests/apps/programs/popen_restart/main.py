"""A restart command that starts a copy of the program and leaves."""

import os
import subprocess
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


@bot.command()
async def ping(ctx):
    await ctx.reply("pong")


@bot.tree.command(description="Says hello")
async def hello(interaction: discord.Interaction):
    await interaction.response.send_message("hello")


@bot.command()
async def restart(ctx):
    await ctx.reply("Restarting.")
    subprocess.Popen([sys.executable, __file__])
    os._exit(0)


if __name__ == "__main__":
    bot.run(os.environ["DISCORD_TOKEN"])
    mark("clean-up")
