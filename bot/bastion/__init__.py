"""The bot that ships: looks up the cards of an invented game. An ordinary discord.py app.

It knows nothing of roles, handoffs or the process around it, and runs as well on its own::

    import os
    from bastion.bot.bastion import create
    create().run(os.environ["DISCORD_TOKEN"], root_logger=True)

What it does: ``/ping``, ``/search`` with autocomplete, ``<card name>`` in a message answered with the card, that answer
removed when the asking message is deleted, a button that shows more.
"""

from __future__ import annotations

from bastion.bot.bastion.cards import Deck
from bastion.bot.bastion.client import Bastion

__all__ = ["Bastion", "create"]


def create() -> Bastion:
    """Make the bot with the deck that comes with it. Raises `CardDataError` if that is damaged."""
    return Bastion(Deck.shipped())
