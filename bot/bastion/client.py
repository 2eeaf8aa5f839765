"""The client: which events the bot listens to, and the parts that answer them.

Knows discord.py and the bot's own parts. What is answered is decided in `messages` and `commands`.
"""

from __future__ import annotations

import logging
from typing import Any

import discord

from bastion.bot.bastion.cards import Deck
from bastion.bot.bastion.commands import Commands, register
from bastion.bot.bastion.messages import Answers
from bastion.bot.bastion.presentation import ShowMore
from bastion.bot.bastion.replies import Replies
from bastion.bot.bastion.sync import sync

log = logging.getLogger(__name__)


class Bastion(discord.AutoShardedClient):
    """The bot. ``deck`` is closed with the client."""

    def __init__(self, deck: Deck) -> None:
        super().__init__(
            intents=discord.Intents(guilds=True, guild_messages=True, message_content=True),
            allowed_mentions=discord.AllowedMentions.none(),
        )
        self.deck = deck
        self.tree = Commands(self)
        self.answers = Answers(self, deck=deck, replies=Replies())
        register(self.tree, deck=deck)

    async def setup_hook(self) -> None:
        """Make buttons of any earlier process answerable, and tell Discord the commands if it does not know them."""
        self.add_dynamic_items(ShowMore)
        await sync(self.tree)

    async def export_state(self) -> dict[str, Any]:
        """Return what a successor needs to know of recent replies."""
        return {"replies": self.answers.exported()}

    async def import_state(self, state: dict[str, Any]) -> None:
        """Take over a predecessor's recent replies."""
        self.answers.take(state["replies"])

    async def close(self) -> None:
        """Close the connection, then the deck."""
        try:
            await super().close()
        finally:
            self.deck.close()

    async def on_message(self, message: discord.Message) -> None:
        """Answer the cards that a person's message names."""
        await self.answers.answer(message)

    async def on_raw_message_delete(self, payload: discord.RawMessageDeleteEvent) -> None:
        """Take back the answer to a message that is gone."""
        await self.answers.withdraw(payload.message_id, channel_id=payload.channel_id, asked=payload.cached_message)

    async def on_raw_bulk_message_delete(self, payload: discord.RawBulkMessageDeleteEvent) -> None:
        """Take back the answers to all messages that are gone."""
        cached = {message.id: message for message in payload.cached_messages}
        for message_id in payload.message_ids:
            await self.answers.withdraw(message_id, channel_id=payload.channel_id, asked=cached.get(message_id))

    async def on_guild_join(self, guild: discord.Guild) -> None:
        """Put down that a guild took the bot in."""
        log.info("joined guild %r (%d), now in %d", guild.name, guild.id, len(self.guilds))

    async def on_guild_remove(self, guild: discord.Guild) -> None:
        """Put down that a guild is left: kicked, banned or deleted."""
        log.info("left guild %r (%d), now in %d", guild.name, guild.id, len(self.guilds))
