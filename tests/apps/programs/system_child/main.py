"""A process of the system that runs beside the bot, like ffmpeg or a music server, and is never ended."""

import os
import subprocess

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
    bot.player = subprocess.Popen(["sleep", "1000"])
    await bot.tree.sync()


@bot.tree.command(description="Says hello")
async def hello(interaction: discord.Interaction):
    await interaction.response.send_message("hello")


bot.run(os.environ["DISCORD_TOKEN"])
mark("clean-up")
