"""A bot in an image of its own, which begins with the product's: `docker run ... mybot run main.py`."""

import os

import discord

client = discord.Client(intents=discord.Intents(guilds=True, guild_messages=True, message_content=True))


@client.event
async def on_message(message: discord.Message) -> None:
    """Answer ``!ping``."""
    if message.content == "!ping" and not message.author.bot:
        await message.channel.send("Pong!")


client.run(os.environ["DISCORD_TOKEN"])
