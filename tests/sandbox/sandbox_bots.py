"""Ordinary discord.py bots, pointed at a sandbox in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import discord
from discord import app_commands
from yarl import URL

from bastion.sandbox import Sandbox

ClientT = TypeVar("ClientT", bound=discord.Client)


@asynccontextmanager
async def running(client: ClientT, sandbox: Sandbox, *, token: str | None = None) -> AsyncIterator[ClientT]:
    """Start a client, wait until it is ready, close it at the end. Its failure to start is raised."""
    base, gateway = discord.http.Route.BASE, discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY
    discord.http.Route.BASE = sandbox.api_url
    discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = URL(sandbox.gateway_url)
    client._connection.guild_ready_timeout = 0.2
    await client._async_setup_hook()
    task = asyncio.create_task(client.start(token or sandbox.token))
    waiting = asyncio.create_task(client.wait_until_ready())
    try:
        await asyncio.wait({task, waiting}, timeout=15, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        if not client.is_ready():
            raise TimeoutError("the client did not become ready")
        yield client
    finally:
        waiting.cancel()
        await client.close()
        await asyncio.gather(task, waiting, return_exceptions=True)
        # aiohttp closes its transports one loop iteration after its session.
        await asyncio.sleep(0)
        discord.http.Route.BASE, discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = base, gateway


class CardView(discord.ui.View):
    """A button, a select that opens a modal, and a user select."""

    @discord.ui.button(label="more", custom_id="more")
    async def more(self, interaction: discord.Interaction, button: Any) -> None:
        await interaction.response.edit_message(content="pressed")

    @discord.ui.select(custom_id="pick", options=[discord.SelectOption(label="a"), discord.SelectOption(label="b")])
    async def pick(self, interaction: discord.Interaction, select: discord.ui.Select[Any]) -> None:
        await interaction.response.send_modal(NameModal(title=f"you picked {select.values[0]}"))

    @discord.ui.select(cls=discord.ui.UserSelect, custom_id="who")
    async def who(self, interaction: discord.Interaction, select: discord.ui.UserSelect[Any]) -> None:
        await interaction.response.send_message(f"hello {select.values[0].display_name}", ephemeral=True)


class NameModal(discord.ui.Modal):
    """One text field."""

    name: discord.ui.TextInput[Any] = discord.ui.TextInput(label="name")

    async def on_submit(self, interaction: discord.Interaction) -> None:
        await interaction.response.send_message(f"called {self.name.value}")


def add_commands(tree: app_commands.CommandTree[Any]) -> None:
    """/ping (deferred, a follow-up with components), /search with autocomplete, /set colour in a group."""

    @tree.command()
    async def ping(interaction: discord.Interaction, times: int) -> None:
        await interaction.response.defer()
        await interaction.followup.send(f"pong {times}", view=CardView(timeout=60))

    @tree.command()
    async def search(interaction: discord.Interaction, text: str) -> None:
        await interaction.response.send_message(f"found {text}")

    @search.autocomplete("text")
    async def complete(interaction: discord.Interaction, current: str) -> list[app_commands.Choice[str]]:
        return [app_commands.Choice(name=current, value=current)]

    group = app_commands.Group(name="set", description="settings")

    @group.command()
    @app_commands.choices(value=[app_commands.Choice(name="red", value="red")])
    async def colour(interaction: discord.Interaction, value: str) -> None:
        await interaction.response.send_message(f"set to {value}")

    tree.add_command(group)
