"""What a probe shows: a view that lasts, a view with a timeout, a button that carries its state, a modal.

Each callback answers first, then takes its time, then reports.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Self, cast

import discord

if TYPE_CHECKING:
    from probe import Probe

Press = discord.Interaction[Any]


async def answered(interaction: Press, kind: str, text: str) -> None:
    """Answer an interaction with a text that only its user sees, and report it."""
    await interaction.response.send_message(text, ephemeral=True)
    await cast("Probe", interaction.client).handled(kind, interaction.id)


class LastingView(discord.ui.View):
    """Persistent: every process that added it in setup_hook can answer it."""

    def __init__(self) -> None:
        super().__init__(timeout=None)

    @discord.ui.button(label="Lasting button", custom_id="probe:lasting:button")
    async def press(self, interaction: Press, button: discord.ui.Button[LastingView]) -> None:
        await answered(interaction, "button", "A lasting button was pressed.")

    @discord.ui.select(
        custom_id="probe:lasting:select",
        options=[discord.SelectOption(label="Red"), discord.SelectOption(label="Green")],
    )
    async def choose(self, interaction: Press, select: discord.ui.Select[LastingView]) -> None:
        await answered(interaction, "select", f"{select.values[0]} was chosen.")


class TimedView(discord.ui.View):
    """Known only to the process that sent it, for ten minutes."""

    def __init__(self) -> None:
        super().__init__(timeout=600)
        self.presses = 0

    @discord.ui.button(label="Timed button")
    async def press(self, interaction: Press, button: discord.ui.Button[TimedView]) -> None:
        self.presses += 1
        await answered(interaction, "button", f"Pressed {self.presses} times.")

    @discord.ui.select(options=[discord.SelectOption(label="Left"), discord.SelectOption(label="Right")])
    async def choose(self, interaction: Press, select: discord.ui.Select[TimedView]) -> None:
        await answered(interaction, "select", f"{select.values[0]} was chosen.")


class CountButton(discord.ui.DynamicItem[discord.ui.Button[Any]], template=r"probe:count:(?P<count>[0-9]+)"):
    """Its custom id carries its state: every process that registered the class can answer it."""

    def __init__(self, count: int) -> None:
        super().__init__(discord.ui.Button(label="Count", custom_id=f"probe:count:{count}"))
        self.count = count

    @classmethod
    async def from_custom_id(cls, interaction: Press, item: discord.ui.Item[Any], match: re.Match[str], /) -> Self:
        return cls(int(match["count"]))

    async def callback(self, interaction: Press) -> None:
        await answered(interaction, "button", f"It was {self.count}.")


class FormModal(discord.ui.Modal, title="A form"):
    """Known only to the process that opened it."""

    name: discord.ui.TextInput[FormModal] = discord.ui.TextInput(label="Your name", max_length=100)

    async def on_submit(self, interaction: Press) -> None:
        await answered(interaction, "modal", f"Thank you, {self.name.value}.")
