"""A log file of its own, configured before the bot is made."""

import logging
import os

import discord
from discord.ext import commands
from report import mark

logging.basicConfig(filename="bot.log", level=logging.INFO, format="%(levelname)s:%(name)s:%(message)s")
log = logging.getLogger("mybot")
intents = discord.Intents.default()
intents.message_content = True
bot = commands.Bot(command_prefix="!", intents=intents)


@bot.command()
async def ping(ctx):
    await ctx.reply("pong")


@bot.event
async def on_ready():
    log.info("ready as %s", bot.user)


bot.run(os.environ["DISCORD_TOKEN"], log_handler=None)
log.info("good-bye")
mark("clean-up")
