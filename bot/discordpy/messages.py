"""The messages in discord.py's cache, as payloads: the texts they came with, and what has become of them since.

A message has some thirty kinds of parts (embeds, polls, forwarded messages ...), and discord.py throws away what it
was made of. So the texts of those in its cache are kept, about 1 KB each. An example of one message:

    MESSAGE_CREATE   {"id": "5", "content": "helo", "member": {...}}      is kept
    MESSAGE_UPDATE   {"id": "5", "content": "hello"}                      is kept behind it
    a reaction       counted by discord.py in the message's own list      is read from there

    payload          {"id": "5", "content": "hello", "reactions": [...]}

Knows discord.py's message cache. Knows nothing of streams and sessions.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, cast

import discord
import msgspec

from bastion.bot.discordpy.payloads import Payload

_UPDATES_KEPT = 3
"""Updates of one message that are kept as they are; with one more they are merged into the first text."""


class _Body(msgspec.Struct):
    d: Payload


_read = msgspec.json.Decoder(_Body)


class Recent:
    """The texts of the messages in a client's cache."""

    def __init__(self, client: discord.Client) -> None:
        self._state = client._connection
        self._texts: dict[int, list[str | Payload]] = {}

    def created(self, text: str, data: Mapping[str, Any]) -> None:
        """Note the text of a MESSAGE_CREATE, and what it says."""
        messages = self._state._messages
        if messages is None:
            return
        self._texts[int(data["id"])] = [text]
        if messages.maxlen is not None and len(self._texts) > messages.maxlen:
            del self._texts[next(iter(self._texts))]

    def updated(self, text: str, data: Mapping[str, Any]) -> None:
        """Note the text of a MESSAGE_UPDATE, if the message is known."""
        texts = self._texts.get(int(data["id"]))
        if texts is None:
            return
        texts.append(text)
        if len(texts) > _UPDATES_KEPT:
            texts[:] = [_merged(texts)]

    def payloads(self, guild_ids: frozenset[int] | None = None) -> Iterator[Payload]:
        """Yield the cached messages of some guilds, oldest first; None: those of no guild.

        A message of which no text is known is left out: the app has made its object itself.
        """
        for message in list(self._state._messages or ()):
            inside = message.guild.id in guild_ids if guild_ids is not None and message.guild else False
            if inside or (guild_ids is None and message.guild is None):
                texts = self._texts.get(message.id)
                if texts is not None:
                    yield _today(_merged(texts), message)

    def load(self, data: Payload) -> None:
        """Put a message into the cache, as `payloads` has written it. What discord.py knows besides stays as it is."""
        state: Any = self._state
        if state._messages is None:
            return
        self._texts[int(data["id"])] = [copy.deepcopy(data)]
        channel, guild = state._get_guild_channel(data)
        for one in (data, data.get("referenced_message") or {}):
            # What a message says of its author is older than the member who is known, and would be written over that.
            if guild is not None and "member" in one and guild.get_member(int(one["author"]["id"])) is not None:
                del one["member"]
        state._messages.append(discord.Message(channel=channel, data=cast("Any", data), state=state))

    def loaded(self) -> None:
        """Put the cache in order: messages came guild by guild."""
        messages = self._state._messages
        if messages is not None:
            self._state._messages = deque(sorted(messages, key=lambda message: message.id), maxlen=messages.maxlen)
            self._texts = dict(sorted(self._texts.items()))


def _merged(texts: list[str | Payload]) -> Payload:
    found: Payload = {}
    for text in texts:
        found.update(_read.decode(text).d if isinstance(text, str) else text)
    return found


def _today(found: Payload, message: discord.Message) -> Payload:
    """Add to a message's texts what discord.py counts in it, of events that are not the message's."""
    found |= {"reactions": [_reaction(one) for one in message.reactions], "pinned": message.pinned}
    if message.poll is not None and "poll" in found:
        counts = [{"id": one.id, "count": one._vote_count, "me_voted": one.self_voted} for one in message.poll.answers]
        results = {"is_finalized": message.poll._finalized, "answer_counts": counts}
        found["poll"] = found["poll"] | {"results": results}
    return found


def _reaction(reaction: discord.Reaction) -> Payload:
    emoji = reaction.emoji
    written = (
        {"id": None, "name": emoji}
        if isinstance(emoji, str)
        else {"id": str(emoji.id) if emoji.id else None, "name": emoji.name, "animated": emoji.animated}
    )
    return {
        "emoji": written,
        "count": reaction.count,
        "me": reaction.me,
        "me_burst": reaction.me_burst,
        "count_details": {"normal": reaction.normal_count, "burst": reaction.burst_count},
    }
