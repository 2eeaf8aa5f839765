"""How a card looks in Discord: embeds, the button under them, and the words for a card that is not there.

Knows cards and Discord's limits of embeds and buttons. Sends nothing but the answer to a press of the button.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Self, cast

import discord

from bastion.bot.bastion.cards import Card
from bastion.bot.bastion.failures import report_failure

if TYPE_CHECKING:
    from bastion.bot.bastion.client import Bastion

# Discord's limits, in characters: of one embed's parts, of a button's label, of a message's content.
MAX_TITLE: Final = 256
MAX_DESCRIPTION: Final = 4096
MAX_LABEL: Final = 80
MAX_CONTENT: Final = 2000

MAX_EMBEDS_TEXT: Final = 6000
"""Characters of all embeds of a message together (Discord's limit)."""

MAX_ECHO: Final = 64
"""Characters of a user's own words that are said back."""

_COLOURS: Final = {"common": 0x8A8F98, "uncommon": 0x3F8F6B, "rare": 0x3C6FB4, "legend": 0xC08A2B}


def clip(text: str, limit: int) -> str:
    """Cut a text to ``limit`` characters, the last of them an ellipsis if anything was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def card_embed(card: Card, *, share: int = 1) -> discord.Embed:
    """Return the short form of a card. ``share``: how many embeds share the message, so that all fit its limit."""
    room = MAX_EMBEDS_TEXT // share - MAX_TITLE - 1
    return discord.Embed(
        title=clip(card.name, MAX_TITLE),
        description=clip(f"*{card.kind}, cost {card.cost}*\n{card.text}", min(room, MAX_DESCRIPTION)),
        colour=_COLOURS.get(card.rarity),
    )


def full_embed(card: Card) -> discord.Embed:
    """Return all that is known of a card."""
    embed = card_embed(card, share=2)
    embed.add_field(name="Rarity", value=clip(card.rarity, 1024))
    embed.add_field(name="Cost", value=str(card.cost))
    embed.set_footer(text=clip(card.lore, 1024))
    return embed


def list_embed(cards: Sequence[Card]) -> discord.Embed:
    """Return a list of the names of several cards, with kind and cost."""
    lines = "\n".join(f"**{card.name}** ({card.kind}, cost {card.cost})" for card in cards)
    return discord.Embed(title="Cards that match", description=clip(lines, MAX_DESCRIPTION))


def card_view(cards: Sequence[Card]) -> discord.ui.View:
    """Return one button for each card. It never times out: any process of the bot can answer it."""
    view = discord.ui.View(timeout=None)
    for card in cards:
        view.add_item(ShowMore(card.id, label="Show more" if len(cards) == 1 else f"Show more: {card.name}"))
    return view


def unknown_text(asked: str, close: Iterable[Card]) -> str:
    """Say that there is no such card and which ones come close. What the user wrote is said back without its markup."""
    echo = discord.utils.escape_markdown(clip(" ".join(asked.split()), MAX_ECHO))
    names = [f"**{card.name}**" for card in close]
    if not names:
        return f"There is no card called “{echo}”."
    *others, last = names
    meant = f"{', '.join(others)} or {last}" if others else last
    return f"There is no card called “{echo}”. Did you mean {meant}?"


class ShowMore(
    discord.ui.DynamicItem[discord.ui.Button[discord.ui.View]], template=r"bastion:more:(?P<card>[a-z0-9-]{1,64})"
):
    """The button under a card: shows all of it, to the one who pressed. The card's id is in its custom_id."""

    def __init__(self, card_id: str, *, label: str = "Show more") -> None:
        super().__init__(
            discord.ui.Button(
                style=discord.ButtonStyle.secondary, label=clip(label, MAX_LABEL), custom_id=f"bastion:more:{card_id}"
            )
        )
        self.card_id = card_id

    @classmethod
    async def from_custom_id(
        cls, interaction: discord.Interaction[Any], item: discord.ui.Item[Any], match: re.Match[str], /
    ) -> Self:
        """Make the item for a button that some process of the bot once sent."""
        return cls(match["card"])

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        """Answer the press. An error is answered too: discord.py would only log it."""
        try:
            card = cast("Bastion", interaction.client).deck.get(self.card_id)
            if card is None:
                await interaction.response.send_message("This card is no longer in the deck.", ephemeral=True)
            else:
                await interaction.response.send_message(embed=full_embed(card), ephemeral=True)
        except Exception as error:
            await report_failure(interaction, error, doing=f"show more of {self.card_id!r}")
