"""A task that writes to a channel again and again, in the shape of discord.py's `background_task`."""

import os

import discord
from discord.ext import tasks


class MyClient(discord.Client):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.counter = 0

    async def setup_hook(self) -> None:
        self.my_background_task.start()

    async def on_ready(self):
        print(f"Logged in as {self.user} (ID: {self.user.id})")

    @tasks.loop(seconds=0.5)
    async def my_background_task(self):
        channel = self.get_channel(int(os.environ["CHANNEL"]))
        self.counter += 1
        await channel.send(self.counter)

    @my_background_task.before_loop
    async def before_my_task(self):
        await self.wait_until_ready()


intents = discord.Intents.default()
client = MyClient(intents=intents)
client.run("sandbox-token")
