"""login() and connect() are called one by one, with something between them."""

import asyncio
import os

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


async def main():
    try:
        await bot.login(os.environ["DISCORD_TOKEN"])
        await bot.tree.sync()
        await bot.connect()
    finally:
        await bot.close()
        mark("clean-up")


asyncio.run(main())
