"""An eager task factory, which Python has since 3.12."""

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


async def main():
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    async with bot:
        await bot.start(os.environ["DISCORD_TOKEN"])
    mark("clean-up")


asyncio.run(main())
