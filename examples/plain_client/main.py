"""A plain client: answers messages, holds a conversation. Nothing in it knows of the supervisor."""

from __future__ import annotations

import os

import discord


class Greeter(discord.Client):
    """Greets those who write ``!hello``, and asks how they are."""

    def __init__(self) -> None:
        super().__init__(intents=discord.Intents(guilds=True, guild_messages=True, message_content=True))

    async def on_message(self, message: discord.Message) -> None:
        """Hold the conversation: it goes on in this process, also while another one takes over."""
        if message.author.bot or message.content != "!hello":
            return

        def is_answer(other: discord.Message) -> bool:
            return (other.author, other.channel) == (message.author, message.channel)

        await message.channel.send(f"Hello, {message.author.display_name}! How are you?")
        try:
            answer = await self.wait_for("message", check=is_answer, timeout=120)
        except TimeoutError:
            return
        await answer.reply(f"You are {answer.content}. I see.")


client = Greeter()

if __name__ == "__main__":
    client.run(os.environ["DISCORD_TOKEN"])
