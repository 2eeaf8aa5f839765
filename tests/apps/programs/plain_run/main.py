"""A client that is run without a guard, with its token in the code: like most of discord.py's examples."""

import discord
from report import mark

intents = discord.Intents.default()
intents.message_content = True
client = discord.Client(intents=intents)


@client.event
async def on_message(message):
    if message.author != client.user and message.content.startswith("!ping"):
        await message.reply("pong")


client.run("sandbox-token")
mark("clean-up")
