"""Messages that name cards, the replies to them, and taking those back.

Knows how a card is named in a message and how a reply is made. A reply of an earlier process of the bot is found again
where Discord shows it, so that deleting a message works across a restart too.
"""

from __future__ import annotations

import asyncio
import logging
import re
from datetime import timedelta
from typing import Final

import discord

from bastion.bot.bastion.cards import Card, Deck, fold
from bastion.bot.bastion.presentation import MAX_CONTENT, card_embed, card_view, clip, unknown_text
from bastion.bot.bastion.replies import REMEMBERED, Replies

log = logging.getLogger(__name__)

MAX_NAMES: Final = 3
"""Cards answered a message."""

LOOKUPS: Final = 4
"""Searches for an earlier process's reply that run at once. More are dropped: that reply then stays."""

LOOKUP_DEPTH: Final = 25
"""Messages after the asking one among which its reply is looked for."""

# Not a mention, an emoji, a timestamp, a link or a tag: those begin with one of @#:/! or hold a colon. Not "a < b > c".
_NAME: Final = re.compile(r"<(?![@#:/!\s])([^<>:\n]{3,64})(?<!\s)>")
_CODE: Final = re.compile(r"```.*?```|``.*?``|`[^`]*`", re.DOTALL)


def named_in(content: str) -> list[str]:
    """Return the card names that a message asks for, as written, at most `MAX_NAMES`, none twice, none from code."""
    names: dict[str, str] = {}
    for match in _NAME.finditer(_CODE.sub(" ", content)):
        folded = fold(match[1])
        if folded:
            names.setdefault(folded, match[1])
    return list(names.values())[:MAX_NAMES]


class Answers:
    """Answers messages that name cards, and withdraws the answers."""

    def __init__(self, client: discord.Client, *, deck: Deck, replies: Replies) -> None:
        self._client = client
        self._deck = deck
        self._replies = replies
        self._lookups = asyncio.Semaphore(LOOKUPS)

    def exported(self) -> list[list[float | None]]:
        """Return which message answers which, for a later process."""
        return self._replies.exported()

    def take(self, exported: list[list[float | None]]) -> None:
        """Take over the answers of an earlier process."""
        self._replies.take(exported)

    async def answer(self, message: discord.Message) -> None:
        """Reply to a person's message with the cards it names, if any."""
        if message.author.bot or message.webhook_id is not None:
            return
        names = named_in(message.content)
        if not names:
            return
        self._replies.begin(message.id)
        try:
            reply = await self._reply(message, names)
        except discord.HTTPException as error:
            self._replies.failed(message.id)
            log.warning("could not answer message %d in channel %d: %s", message.id, message.channel.id, error)
            return
        if self._replies.sent(message.id, reply.id):
            await self._delete(reply.id, channel_id=message.channel.id)

    async def _reply(self, message: discord.Message, names: list[str]) -> discord.Message:
        cards: dict[str, Card] = {}
        unknown: list[str] = []
        for name in names:
            found = self._deck.find(name)
            if found.card:
                cards[found.card.id] = found.card
            else:
                unknown.append(unknown_text(name, found.close))
        content = clip("\n".join(unknown), MAX_CONTENT) or None
        if not cards:
            return await message.reply(content)
        shown = list(cards.values())
        embeds = [card_embed(card, share=len(shown)) for card in shown]
        return await message.reply(content, embeds=embeds, view=card_view(shown))

    async def withdraw(self, message_id: int, *, channel_id: int, asked: discord.Message | None) -> None:
        """Delete the reply to a message that is gone, if there is one. ``asked``: the message, if it is still known."""
        if self._replies.expects(message_id):
            reply_id = self._replies.withdraw(message_id)
        elif self._may_have_earlier_reply(message_id, asked):
            reply_id = await self._find_earlier_reply(message_id, channel_id=channel_id)
        else:
            return
        if reply_id is not None:
            await self._delete(reply_id, channel_id=channel_id)

    def _may_have_earlier_reply(self, message_id: int, asked: discord.Message | None) -> bool:
        """Whether another process of the bot may have answered this message before this one could know."""
        if self._replies.complete() or (asked is not None and not named_in(asked.content)):
            return False
        return discord.utils.utcnow() - discord.utils.snowflake_time(message_id) < timedelta(seconds=REMEMBERED)

    async def _find_earlier_reply(self, message_id: int, *, channel_id: int) -> int | None:
        for message in reversed(self._client.cached_messages):
            if self._answers(message, message_id):
                return message.id
        if self._lookups.locked():
            return None
        channel = self._client.get_partial_messageable(channel_id)
        async with self._lookups:
            try:
                async for message in channel.history(limit=LOOKUP_DEPTH, after=discord.Object(message_id)):
                    if self._answers(message, message_id):
                        return message.id
            except discord.HTTPException as error:
                log.info("could not look for an earlier reply in channel %d: %s", channel_id, error)
        return None

    def _answers(self, message: discord.Message, message_id: int) -> bool:
        reference = message.reference
        own = self._client.user is not None and message.author.id == self._client.user.id
        return own and reference is not None and reference.message_id == message_id

    async def _delete(self, reply_id: int, *, channel_id: int) -> None:
        self._replies.ignore(reply_id)
        channel = self._client.get_partial_messageable(channel_id)
        try:
            await channel.get_partial_message(reply_id).delete()
        except discord.NotFound:
            log.debug("reply %d was gone already", reply_id)
        except discord.HTTPException as error:
            log.warning("could not take back reply %d in channel %d: %s", reply_id, channel_id, error)
