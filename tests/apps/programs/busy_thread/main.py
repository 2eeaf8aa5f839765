"""Work in the loop's own executor that never comes to an end."""

import asyncio
import os
import time

import discord
from discord.ext import commands
from report import mark

intents = discord.Intents.default()
intents.message_content = True
bot = commands.Bot(command_prefix="!", intents=intents)


@bot.command()
async def ping(ctx):
    await ctx.reply("pong")


@bot.tree.command(description="Says hello")
async def hello(interaction: discord.Interaction):
    await interaction.response.send_message("hello")


def watch():
    while True:
        time.sleep(1)


@bot.event
async def on_ready():
    asyncio.get_running_loop().run_in_executor(None, watch)
    await bot.tree.sync()


async def main():
    async with bot:
        await bot.start(os.environ["DISCORD_TOKEN"])
    mark("clean-up")


asyncio.run(main())
