"""A bot whose close() raises, after what matters."""

import os

import discord
from discord.ext import commands
from report import mark


class MyBot(commands.Bot):
    async def setup_hook(self):
        await self.tree.sync()

    async def close(self):
        await super().close()
        mark("clean-up")
        raise RuntimeError("close() of this bot raises")


intents = discord.Intents.default()
intents.message_content = True
bot = MyBot(command_prefix="!", intents=intents)


@bot.hybrid_command(description="Answers")
async def ping(ctx):
    await ctx.reply("pong")


bot.run(os.environ["DISCORD_TOKEN"])
