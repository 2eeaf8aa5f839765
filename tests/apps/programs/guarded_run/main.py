"""A subclass that is run behind the guard; its token is in an .env file of its own."""

import os
from pathlib import Path

import discord
from discord.ext import commands
from report import mark

for line in Path(__file__).with_name(".env").read_text().splitlines():
    name, _, value = line.partition("=")
    os.environ[name] = value


class MyBot(commands.Bot):
    def __init__(self):
        intents = discord.Intents.default()
        intents.message_content = True
        super().__init__(command_prefix="!", intents=intents)

    async def setup_hook(self):
        await self.tree.sync()


bot = MyBot()


@bot.hybrid_command(description="Answers")
async def ping(ctx):
    await ctx.reply("pong")


if __name__ == "__main__":
    bot.run(os.getenv("MY_TOKEN"))
    mark("clean-up")
