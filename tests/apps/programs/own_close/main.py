"""A bot whose close() cleans up."""

import asyncio
import os

import discord
from discord.ext import commands
from report import mark


class MyBot(commands.Bot):
    async def setup_hook(self):
        await self.tree.sync()

    async def close(self):
        await asyncio.sleep(0.2)  # a pool of connections, say
        mark("clean-up")
        await super().close()


intents = discord.Intents.default()
intents.message_content = True
bot = MyBot(command_prefix="!", intents=intents)


@bot.hybrid_command(description="Answers")
async def ping(ctx):
    await ctx.reply("pong")


bot.run(os.environ["DISCORD_TOKEN"])
