"""A wizard of five steps: a slash command, a select, a modal, a button, a message.

What the steps before have brought is in the custom_ids of the next ones, so select and button belong to no process.
The modal and the conversation belong to the one that opened them.
"""

from __future__ import annotations

import re
from typing import Any

import discord
from discord import app_commands

Step = discord.Interaction[Any]


class Colour(discord.ui.View):
    def __init__(self) -> None:
        super().__init__(timeout=None)

    @discord.ui.select(
        custom_id="wizard:colour", options=[discord.SelectOption(label="red"), discord.SelectOption(label="green")]
    )
    async def choose(self, interaction: Step, select: discord.ui.Select[Colour]) -> None:
        await interaction.response.send_modal(Name(select.values[0]))


class Name(discord.ui.Modal, title="A name"):
    name: discord.ui.TextInput[Name] = discord.ui.TextInput(label="Name", custom_id="name")

    def __init__(self, colour: str) -> None:
        super().__init__()
        self.colour = colour

    async def on_submit(self, interaction: Step) -> None:
        view = discord.ui.View(timeout=None)
        view.add_item(Confirm(self.colour, self.name.value))
        await interaction.response.send_message("Is that right?", view=view)


class Confirm(discord.ui.DynamicItem[discord.ui.Button[Any]], template=r"wizard:ok:(?P<colour>\w+):(?P<name>\w+)"):
    def __init__(self, colour: str, name: str) -> None:
        super().__init__(discord.ui.Button(label=f"A {colour} {name}", custom_id=f"wizard:ok:{colour}:{name}"))
        self.result = f"a {colour} {name}"

    @classmethod
    async def from_custom_id(cls, interaction: Step, item: discord.ui.Item[Any], match: re.Match[str], /) -> Confirm:
        return cls(match["colour"], match["name"])

    async def callback(self, interaction: Step) -> None:
        client = interaction.client
        await interaction.response.send_message("What does it say?")
        message = await client.wait_for(
            "message", check=lambda one: one.author == interaction.user and one.channel == interaction.channel
        )
        await message.reply(f"{self.result} says {message.content}")


class Wizard(discord.Client):
    def __init__(self) -> None:
        super().__init__(intents=discord.Intents(guilds=True, guild_messages=True, message_content=True))
        self.tree = app_commands.CommandTree(self)

        @self.tree.command(description="Five steps")
        async def wizard(interaction: Step) -> None:
            await interaction.response.send_message("Which colour?", view=Colour())

    async def setup_hook(self) -> None:
        self.add_view(Colour())
        self.add_dynamic_items(Confirm)
        await self.tree.sync()


client = Wizard()
