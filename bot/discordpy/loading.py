"""How a mirror's discord.py takes a snapshot that comes between live events.

What a snapshot brings beside gateway payloads is taken by parsers of its own, in the same order. Until the GUILD_CREATE
of a guild has come, live events of that guild are dropped: the GUILD_CREATE knows what they say.

Knows discord.py's table of parsers and what it asks for by itself. Knows nothing of streams and sessions.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

import discord

from bastion.bot.discordpy import payloads
from bastion.bot.discordpy.messages import Recent
from bastion.bot.discordpy.payloads import OF_SNAPSHOT

MEMBERS, MESSAGES, LOADED = "BASTION_MEMBERS", "BASTION_MESSAGES", "BASTION_LOADED"
"""What no gateway payload says: members that nobody asked for, messages that are no news, and the end."""

_OF_A_GUILD = frozenset({"GUILD_CREATE", "GUILD_UPDATE", "GUILD_DELETE"})
"""Events whose ``id`` is the guild's; all others of a guild have ``guild_id``."""


class Loading:
    """The snapshots of one client's shards. ``loaded`` is called when the last one is complete."""

    def __init__(self, client: discord.Client, recent: Recent, loaded: Callable[[], None]) -> None:
        self._client = client
        self._state = client._connection
        self._recent = recent
        self._loaded = loaded
        self._shards: set[int] = set()
        """The shards of which no snapshot is complete."""
        self._awaited: dict[int, int] = {}
        """The guilds that are to come, with their shards."""
        self._asks_for_members = self._state._chunk_guilds
        self._alone = False
        self._collects = gc.isenabled()

    def install(self) -> None:
        """Put this in front of the client's parsers."""
        parsers: dict[str, Callable[[Any], None]] = self._state.parsers
        for name, parser in list(parsers.items()):
            parsers[name] = self._unless_awaited(name, parser)
        parsers["READY"] = self._note_guilds(parsers["READY"])
        parsers[MEMBERS] = self._take_members
        parsers[MESSAGES] = self._take_messages
        parsers[LOADED] = self._end_shard

    def begin(self, shards: Iterable[int], *, alone: bool = False) -> None:
        """Expect snapshots of these shards. Until the last one is complete discord.py asks for no members.

        ``alone``: there is no holder that would pass such a question on to Discord. A shard would not be ready before
        it is answered, for minutes, and it is answered only when the sessions are this bot's: until `ask_for_members`
        discord.py asks for none.
        """
        self._shards, self._alone = set(shards), alone
        self._asks_for_members, self._state._chunk_guilds = self._state._chunk_guilds, False
        self._recent.begin_loading()
        self._collects = gc.isenabled()
        gc.disable()  # a cache is made of objects that stay: looking through them costs a quarter of the time

    @property
    def incomplete(self) -> bool:
        """Whether something of a snapshot is still to come."""
        return bool(self._shards)

    def end(self) -> None:
        """Expect nothing more, whatever has come."""
        self._shards.clear()
        self._awaited.clear()
        if not self._alone:
            self.ask_for_members()
        if self._collects:
            gc.enable()
            # What was loaded would be looked through twice more, later, when this bot serves: 0.1 s each time with
            # 1,000 guilds. Now it is, once, while the other bot still does.
            gc.collect()

    def ask_for_members(self) -> None:
        """Let discord.py ask for members again, if the app wants them."""
        self._state._chunk_guilds = self._asks_for_members

    def _note_guilds(self, parser: Callable[[Any], None]) -> Callable[[Any], None]:
        def parse(data: Any) -> None:
            shard = data["shard"][0]
            if shard in self._shards:
                self._awaited |= {int(guild["id"]): shard for guild in data["guilds"]}
            parser(data)

        return parse

    def _unless_awaited(self, name: str, parser: Callable[[Any], None]) -> Callable[[Any], None]:
        def parse(data: Any) -> None:
            if self._awaited and self._drops(name, data):
                return
            parser(data)
            if name == "GUILD_CREATE" and OF_SNAPSHOT in data and (guild := self._client.get_guild(int(data["id"]))):
                payloads.after_parsing(guild, data)

        return parse

    def _drops(self, name: str, data: Any) -> bool:
        number = data.get("id" if name in _OF_A_GUILD else "guild_id") if isinstance(data, dict) else None
        if number is None or int(number) not in self._awaited:
            return False
        if OF_SNAPSHOT in data:
            del self._awaited[int(number)]
            return False
        return True

    def _take_members(self, data: Any) -> None:
        if (guild := self._client.get_guild(int(data["guild_id"]))) is not None:
            payloads.add_members(guild, data)

    def _take_messages(self, data: Any) -> None:
        for message in data["messages"]:
            self._recent.load(message)

    def _end_shard(self, data: Any) -> None:
        shard = data["shard"]
        self._shards.discard(shard)
        # A guild that was announced to the holder and has never come is as unknown here.
        self._awaited = {guild: of for guild, of in self._awaited.items() if of != shard}
        if not self._shards:
            self._recent.end_loading(data["oldest_message"])
            self.end()
            self._loaded()
