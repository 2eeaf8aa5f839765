"""Slash commands and a context menu of one guild, in the shape of discord.py's `app_commands/basic`."""

import os

import discord
from discord import app_commands

MY_GUILD = discord.Object(id=int(os.environ["GUILD"]))


class MyClient(discord.Client):
    def __init__(self, *, intents: discord.Intents):
        super().__init__(intents=intents)
        self.tree = app_commands.CommandTree(self)

    async def setup_hook(self):
        self.tree.copy_global_to(guild=MY_GUILD)
        await self.tree.sync(guild=MY_GUILD)


client = MyClient(intents=discord.Intents.default())


@client.event
async def on_ready():
    print(f"Logged in as {client.user} (ID: {client.user.id})")


@client.tree.command()
async def hello(interaction: discord.Interaction):
    """Says hello."""
    await interaction.response.send_message(f"Hi, {interaction.user.mention}")


@client.tree.command()
async def joined(interaction: discord.Interaction):
    """Says when you joined."""
    await interaction.response.send_message(f"You joined at {interaction.user.joined_at}")


@client.tree.context_menu(name="Show Join Date")
async def show_join_date(interaction: discord.Interaction, member: discord.Member):
    await interaction.response.send_message(f"{member} joined at {member.joined_at}")


client.run("sandbox-token")
