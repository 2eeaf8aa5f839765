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

MESSAGES = 50
"""Messages that one payload carries. Building as many takes about 1 ms."""

_FORGOTTEN_AT_ONCE = 200
"""Texts of messages that are not cached any more, before they are forgotten: looking for them takes 0.1 ms."""

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
        self._limit: int | None = None

    def created(self, text: str, data: Mapping[str, Any]) -> None:
        """Note the text of a MESSAGE_CREATE, and what it says."""
        messages = self._state._messages
        if messages is None:
            return
        self._texts[int(data["id"])] = [text]
        if messages.maxlen is not None and len(self._texts) > messages.maxlen + _FORGOTTEN_AT_ONCE:
            self._texts = {one.id: self._texts[one.id] for one in messages if one.id in self._texts}

    def updated(self, text: str, data: Mapping[str, Any]) -> None:
        """Note the text of a MESSAGE_UPDATE, if the message is known."""
        texts = self._texts.get(int(data["id"]))
        if texts is None:
            return
        texts.append(text)
        if len(texts) > _UPDATES_KEPT:
            texts[:] = [_merged(texts)]

    def payloads(self, shard: int, count: int) -> Iterator[list[Payload]]:
        """Yield the cached messages of a shard of so many in slices of `MESSAGES`, each built when it is asked for.

        Messages of no guild are shard 0's. A message that is deleted meanwhile is left out. So is one of which no text
        is known, for the app has made its object itself.
        """
        numbers = [one.id for one in self._state._messages or () if _shard(one, count) == shard]
        for start in range(0, len(numbers), MESSAGES):
            cached = {one.id: one for one in self._state._messages or ()}
            found = [one for one in numbers[start : start + MESSAGES] if one in cached and one in self._texts]
            yield [_today(_merged(self._texts[one]), cached[one]) for one in found]

    @property
    def oldest(self) -> int:
        """The id of the oldest cached message, 0 without any."""
        return min((one.id for one in self._state._messages or ()), default=0)

    def begin_loading(self) -> None:
        """Take messages in any order from now on, without letting go of one for another, until `end_loading`."""
        if self._state._messages is not None:
            self._limit = self._state._messages.maxlen
            self._state._messages = deque(self._state._messages)

    def load(self, data: Payload) -> None:
        """Put a message into the cache, as `payloads` has written it. What discord.py knows besides stays as it is.

        A message whose MESSAGE_CREATE has come by itself is here already, and as new.
        """
        state: Any = self._state
        if state._messages is None or int(data["id"]) in self._texts:
            return
        self._texts[int(data["id"])] = [copy.deepcopy(data)]
        channel, guild = state._get_guild_channel(data)
        for one in (data, data.get("referenced_message") or {}):
            # What a message says of its author is older than the member who is known, and would be written over that.
            if guild is not None and "member" in one and guild.get_member(int(one["author"]["id"])) is not None:
                del one["member"]
        state._messages.append(discord.Message(channel=channel, data=cast("Any", data), state=state))

    def end_loading(self, oldest: int) -> None:
        """Put the cache in order, and keep what the other cache keeps: nothing older than ``oldest``."""
        if self._state._messages is not None:
            kept = [one for one in self._state._messages if one.id >= oldest]
            self._state._messages = deque(sorted(kept, key=lambda message: message.id), maxlen=self._limit)
            self._texts = {one.id: self._texts[one.id] for one in self._state._messages if one.id in self._texts}


def _shard(message: discord.Message, count: int) -> int:
    return (message.guild.id >> 22) % count if message.guild is not None else 0


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
