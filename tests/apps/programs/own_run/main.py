"""A bot whose run() takes no token, loads its extensions and runs a loop of its own."""

import asyncio
import os

import discord
from discord.ext import commands
from report import mark


class MyBot(commands.Bot):
    def __init__(self):
        intents = discord.Intents.default()
        intents.message_content = True
        super().__init__(command_prefix="!", intents=intents)
        self.token = os.environ["DISCORD_TOKEN"]

    def run(self):
        asyncio.run(self.launch())
        mark("clean-up")

    async def launch(self):
        async with self:
            await self.load_extension("cogs.greetings")
            await self.start(self.token)

    async def on_ready(self):
        await self.tree.sync()


if __name__ == "__main__":
    MyBot().run()
