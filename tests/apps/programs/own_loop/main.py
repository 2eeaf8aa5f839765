"""An event loop of its own, as it was done before asyncio.run."""

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


@bot.command()
async def ping(ctx):
    await ctx.reply("pong")


@bot.tree.command(description="Says hello")
async def hello(interaction: discord.Interaction):
    await interaction.response.send_message("hello")


loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
try:
    loop.run_until_complete(bot.start(os.environ["DISCORD_TOKEN"]))
except KeyboardInterrupt:
    loop.run_until_complete(bot.close())
finally:
    loop.close()
    mark("clean-up")
