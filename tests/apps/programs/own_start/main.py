"""A bot whose start() has parameters of its own and knows its token."""

import asyncio
import os

import discord
from discord.ext import commands
from report import mark


class MyBot(commands.Bot):
    def __init__(self, *, token):
        intents = discord.Intents.default()
        intents.message_content = True
        super().__init__(command_prefix="!", intents=intents)
        self.token = token

    async def start(self, *, sync=False):
        self.sync = sync
        await super().start(self.token)

    async def setup_hook(self):
        if self.sync:
            await self.tree.sync()


bot = MyBot(token=os.environ["DISCORD_TOKEN"])


@bot.hybrid_command(description="Answers")
async def ping(ctx):
    await ctx.reply("pong")


async def main():
    async with bot:
        await bot.start(sync=True)


if __name__ == "__main__":
    asyncio.run(main())
    mark("clean-up")
