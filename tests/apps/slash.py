"""The slash commands of every probe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import discord
from components import CountButton, FormModal, LastingView, TimedView
from discord import app_commands

if TYPE_CHECKING:
    from probe import Probe

Call = discord.Interaction[Any]

FRUITS = ("apple", "apricot", "cherry", "damson", "elderberry", "fig")


def add_slash_commands(tree: app_commands.CommandTree[Any], probe: Probe) -> None:
    """Add all slash commands to a tree."""
    _add_answers(tree, probe)
    _add_views(tree, probe)
    _add_conversations(tree, probe)


def _add_answers(tree: app_commands.CommandTree[Any], probe: Probe) -> None:
    @tree.command(description="Answers at once")
    async def ping(interaction: Call) -> None:
        await interaction.response.send_message("pong")
        await probe.handled("slash", interaction.id)

    @tree.command(description="Thinks first, answers later")
    async def slow(interaction: Call) -> None:
        await interaction.response.defer(thinking=True)
        await probe.pause()
        await interaction.followup.send("done")
        await probe.handled("slash", interaction.id)

    @tree.command(description="Picks a fruit")
    @app_commands.describe(name="The fruit")
    async def fruit(interaction: Call, name: str) -> None:
        await interaction.response.send_message(f"Here is your {name}.")
        await probe.handled("slash", interaction.id)

    @fruit.autocomplete("name")
    async def complete(interaction: Call, current: str) -> list[app_commands.Choice[str]]:
        matching = [name for name in FRUITS if name.startswith(current.lower())]
        choices = [app_commands.Choice(name=name, value=name) for name in matching or FRUITS]
        await interaction.response.autocomplete(choices)
        await probe.handled("autocomplete", interaction.id)
        return choices


def _add_views(tree: app_commands.CommandTree[Any], probe: Probe) -> None:
    @tree.command(description="Shows a view that ends after ten minutes")
    async def panel(interaction: Call) -> None:
        await interaction.response.send_message("A timed panel.", view=TimedView())
        await probe.handled("slash", interaction.id)

    @tree.command(description="Shows such a view to you alone")
    async def whisper(interaction: Call) -> None:
        await interaction.response.send_message("A timed panel.", view=TimedView(), ephemeral=True)
        await probe.handled("slash", interaction.id)

    @tree.command(description="Shows a button that carries its state")
    async def count(interaction: Call) -> None:
        view = discord.ui.View(timeout=None).add_item(CountButton(7))
        await interaction.response.send_message("A count.", view=view)
        await probe.handled("slash", interaction.id)

    @tree.command(description="Shows a view that lasts")
    async def lasting(interaction: Call) -> None:
        await interaction.response.send_message("A lasting panel.", view=LastingView())
        await probe.handled("slash", interaction.id)

    @tree.command(description="Opens a form")
    async def form(interaction: Call) -> None:
        await interaction.response.send_modal(FormModal())
        await probe.handled("slash", interaction.id)


def _add_conversations(tree: app_commands.CommandTree[Any], probe: Probe) -> None:
    @tree.command(description="Waits for what you write next")
    async def ask(interaction: Call) -> None:
        # Listening begins before the answer is sent: a quick user is heard too.
        waiting = probe.next_message(user_id=interaction.user.id, channel_id=cast(int, interaction.channel_id))
        await interaction.response.send_message("Tell me.")
        heard = await waiting
        await interaction.followup.send("I did not hear you." if heard is None else f"You said: {heard.content}")
        await probe.handled("slash", interaction.id)

    @tree.command(description="Waits for a press")
    async def choose(interaction: Call) -> None:
        custom_id = f"probe:choose:{interaction.id}"
        waiting = probe.next_press(custom_id)
        view = discord.ui.View(timeout=600).add_item(discord.ui.Button(label="This one", custom_id=custom_id))
        await interaction.response.send_message("Press it.", view=view)
        press = await waiting
        if press is not None:
            await press.response.send_message("You pressed it.", ephemeral=True)
        view.stop()
        await probe.handled("slash", interaction.id)

    @tree.command(description="Waits for your next reaction in this channel")
    async def confirm(interaction: Call) -> None:
        waiting = probe.next_reaction(user_id=interaction.user.id, channel_id=cast(int, interaction.channel_id))
        await interaction.response.send_message("React to something.")
        seen = await waiting
        await interaction.followup.send("You did not react." if seen is None else f"You reacted with {seen.emoji}")
        await probe.handled("slash", interaction.id)
