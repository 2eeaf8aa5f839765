"""A conversation that waits for a number, in the shape of discord.py's `guessing_game`."""

import asyncio
import random

import discord


class MyClient(discord.Client):
    async def on_ready(self):
        print(f"Logged in as {self.user} (ID: {self.user.id})")

    async def on_message(self, message):
        if message.author.id == self.user.id:
            return
        if message.content.startswith("$guess"):
            await message.reply("Guess a number between 1 and 10.")

            def is_correct(guess):
                return guess.author == message.author and guess.content.isdigit()

            answer = random.randint(1, 10)
            try:
                guess = await self.wait_for("message", check=is_correct, timeout=2.0)
            except asyncio.TimeoutError:
                return await message.channel.send(f"Sorry, you took too long: it was {answer}.")
            if int(guess.content) == answer:
                await guess.reply("You are right!")
            else:
                await guess.reply(f"Oops. It is actually {answer}.")


intents = discord.Intents.default()
intents.message_content = True

client = MyClient(intents=intents)
client.run("sandbox-token")
