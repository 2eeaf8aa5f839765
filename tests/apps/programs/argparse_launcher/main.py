"""A launcher made with argparse: it reads sys.argv, and ends with the status that main() returns."""

import argparse
import os
import sys

import discord
from discord.ext import commands
from report import mark


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("environment", choices=["production", "testing"])
    parser.add_argument("--prefix", required=True)
    options = parser.parse_args()

    intents = discord.Intents.default()
    intents.message_content = True
    bot = commands.Bot(command_prefix=options.prefix, intents=intents)

    @bot.command()
    async def ping(ctx):
        await ctx.reply("pong")

    bot.run(os.environ["DISCORD_TOKEN"])
    mark("clean-up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
