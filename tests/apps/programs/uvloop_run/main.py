"""Another event loop: uvloop's own runner."""

import os

import discord
import uvloop
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
    async with bot:
        await bot.start(os.environ["DISCORD_TOKEN"])
    mark("clean-up")


if __name__ == "__main__":
    uvloop.run(main())
