"""A first client that only asks something and is closed before the real one connects."""

import asyncio
import os

import discord
from discord.ext import commands
from report import mark

TOKEN = os.environ["DISCORD_TOKEN"]


async def owner():
    async with discord.Client(intents=discord.Intents.none()) as client:
        await client.login(TOKEN)
        return (await client.application_info()).owner.id


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
    bot.owner_id = await owner()
    async with bot:
        await bot.start(TOKEN)
    mark("clean-up")


asyncio.run(main())
