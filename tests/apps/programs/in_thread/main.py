"""The bot runs in a thread, while the main thread does something else."""

import os
import threading
import time

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


thread = threading.Thread(target=bot.run, args=(os.environ["DISCORD_TOKEN"],))
thread.start()
while thread.is_alive():
    time.sleep(0.1)  # a window, say, or a web server
mark("clean-up")
