"""What is to be done at the end is registered with atexit."""

import atexit
import os

import discord
from discord.ext import commands
from report import mark

atexit.register(mark, "clean-up")
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


bot.run(os.environ["DISCORD_TOKEN"])
