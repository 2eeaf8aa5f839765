"""One gateway event on its way to the sessions: name, payload, who may see it, and its JSON, made once.

Knows intents and what the message content intent hides. It knows no session and no socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from .journal import Entry
    from .world import Payload

encode = msgspec.json.Encoder().encode

GUILDS = 1 << 0
MEMBERS = 1 << 1
VOICE_STATES = 1 << 7
PRESENCES = 1 << 8
MESSAGES, REACTIONS, TYPING = 1 << 9, 1 << 10, 1 << 11
MESSAGE_CONTENT = 1 << 15
PRIVILEGED = MEMBERS | PRESENCES | MESSAGE_CONTENT
ALL_INTENTS = sum(1 << bit for bit in [*range(17), 20, 21, 24, 25])
"""Every intent bit that Discord defines; another bit set is close code 4013."""

_DIRECT_SHIFT = 3
"""DIRECT_MESSAGES is GUILD_MESSAGES << 3, and so on for reactions and typing."""

_NEEDED = {
    "GUILD_CREATE": GUILDS,
    "GUILD_UPDATE": GUILDS,
    "GUILD_DELETE": GUILDS,
    "CHANNEL_CREATE": GUILDS,
    "CHANNEL_UPDATE": GUILDS,
    "CHANNEL_DELETE": GUILDS,
    "CHANNEL_PINS_UPDATE": GUILDS,
    "THREAD_CREATE": GUILDS,
    "THREAD_UPDATE": GUILDS,
    "THREAD_DELETE": GUILDS,
    "GUILD_MEMBER_ADD": MEMBERS,
    "GUILD_MEMBER_UPDATE": MEMBERS,
    "GUILD_MEMBER_REMOVE": MEMBERS,
    "VOICE_STATE_UPDATE": VOICE_STATES,
    "MESSAGE_CREATE": MESSAGES,
    "MESSAGE_UPDATE": MESSAGES,
    "MESSAGE_DELETE": MESSAGES,
    "MESSAGE_DELETE_BULK": MESSAGES,
    "MESSAGE_REACTION_ADD": REACTIONS,
    "MESSAGE_REACTION_REMOVE": REACTIONS,
    "MESSAGE_REACTION_REMOVE_ALL": REACTIONS,
    "MESSAGE_REACTION_REMOVE_EMOJI": REACTIONS,
    "TYPING_START": TYPING,
}


class Event:
    """An event for every session that covers ``guild_id`` (None: shard 0) and has the intent it needs.

    ``private_content`` marks a message whose content a session without the message content intent may not see.
    """

    __slots__ = ("_full", "_stripped", "data", "entry", "guild_id", "intent", "name", "private_content")

    def __init__(
        self,
        name: str,
        data: Payload,
        *,
        guild_id: int | None,
        entry: Entry | None = None,
        private_content: bool = False,
    ) -> None:
        self.name = name
        self.data = data
        self.guild_id = guild_id
        self.entry = entry
        self.private_content = private_content
        needed = _NEEDED.get(name, 0)
        direct = guild_id is None and needed in (MESSAGES, REACTIONS, TYPING)
        self.intent = needed << _DIRECT_SHIFT if direct else needed
        self._full: bytes | None = None
        self._stripped: bytes | None = None

    def allowed(self, intents: int) -> bool:
        """Whether a session with these intents receives this event."""
        return not self.intent or bool(intents & self.intent)

    def json(self, intents: int) -> bytes:
        """The ``d`` part for a session with these intents. Encoded once for each distinct content."""
        if self.private_content and not intents & MESSAGE_CONTENT:
            if self._stripped is None:
                self._stripped = encode(strip_content(self.data))
            return self._stripped
        if self._full is None:
            self._full = encode(self.data)
        return self._full


def strip_content(data: Payload) -> Payload:
    """A message payload without what the message content intent guards."""
    bare = data | {"content": "", "embeds": [], "attachments": [], "components": []}
    bare.pop("poll", None)
    asked = data.get("referenced_message")
    if asked and not asked["author"]["bot"]:
        bare["referenced_message"] = strip_content(asked)
    return bare


def frame(name: str, seq: int, data: bytes) -> bytes:
    """A dispatch: ``data`` is JSON already."""
    return b'{"t":"%b","s":%d,"op":0,"d":%b}' % (name.encode(), seq, data)
