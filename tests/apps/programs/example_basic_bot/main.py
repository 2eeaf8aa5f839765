"""Prefix commands on a `commands.Bot`, in the shape of discord.py's `basic_bot`."""

import random

import discord
from discord.ext import commands

intents = discord.Intents.default()
intents.message_content = True

bot = commands.Bot(command_prefix="?", description="A small bot", intents=intents)


@bot.event
async def on_ready():
    print(f"Logged in as {bot.user} (ID: {bot.user.id})")


@bot.command()
async def add(ctx, left: int, right: int):
    """Adds two numbers."""
    await ctx.reply(str(left + right))


@bot.command(description="For when you cannot decide")
async def choose(ctx, *choices: str):
    """Chooses one of several."""
    await ctx.reply(random.choice(choices))


@bot.group()
async def cool(ctx):
    """Says who is cool."""
    if ctx.invoked_subcommand is None:
        await ctx.reply(f"No, {ctx.subcommand_passed} is not cool")


@cool.command(name="bot")
async def _bot(ctx):
    """Is the bot cool?"""
    await ctx.reply("Yes, the bot is cool.")


bot.run("sandbox-token")
