"""An event that is parsed once more, or for the first time, on a cache that is newer than the event.

discord.py's parsers take it for news. Where they count, or leave out what is no news, the cache would be wrong after
them, or the app would not be told. Whatever else they write into the cache is right again when the last event has been
parsed: it says what has become of it.

Knows discord.py's cache. Knows nothing of sessions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import discord


def forget_messages(client: discord.Client, shard: int) -> None:
    """Take a shard's messages out of the cache; messages of no guild are shard 0's."""
    state, count = client._connection, client.shard_count or 1
    if state._messages is not None:
        kept = (one for one in state._messages if _shard(one, count) != shard)
        state._messages = deque(kept, maxlen=state._messages.maxlen)


def _shard(message: discord.Message, count: int) -> int:
    return (message.guild.id >> 22) % count if message.guild is not None else 0


def with_member(client: discord.Client, name: str, data: Mapping[str, Any], parse: Callable[[], None]) -> None:
    """Parse what happened to a member: told as news, while the guild's count moves with its list, if that is complete.

    One who joined and is in the list already stays there as he is. One who left and is not was there before; of him
    nothing but the user is known. Who talks is put into the list, and taken out again when he leaves.
    """
    guild = client.get_guild(int(data.get("guild_id") or 0))
    if guild is None:
        parse()
        return
    user, count = int(data.get("user_id") or data["user"]["id"]), guild._member_count
    complete = count == len(guild._members)
    known = guild._members.get(user)
    if name == "GUILD_MEMBER_ADD" and known is not None:
        del guild._members[user]
    elif name == "GUILD_MEMBER_REMOVE" and known is None:
        blank: Any = {"user": data["user"], "roles": [], "joined_at": None, "flags": 0}
        guild._members[user] = discord.Member(data=blank, guild=guild, state=client._connection)
    try:
        parse()
    finally:
        if name == "GUILD_MEMBER_ADD" and known is not None:
            guild._members[user] = known
        if name == "VOICE_STATE_UPDATE" and data.get("channel_id") is None:
            guild._voice_states.pop(user, None)  # discord.py keeps a state of who leaves without one
        guild._member_count = len(guild._members) if complete else count


def with_thread(client: discord.Client, data: Mapping[str, Any], parse: Callable[[], None]) -> None:
    """Parse that a thread was made: discord.py tells of none that it knows. One that it knows stays as it is."""
    guild = client.get_guild(int(data["guild_id"]))
    known = None if guild is None else guild._threads.pop(int(data["id"]), None)
    parse()
    if guild is not None and known is not None:
        guild._threads[known.id] = known


def without_old_member(client: discord.Client, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Leave out what a message says of its author's membership if the cache knows it, newer."""
    guild = client.get_guild(int(data.get("guild_id") or 0))
    if guild is None or guild.get_member(int(data["author"]["id"])) is None:
        return data
    return {key: value for key, value in data.items() if key != "member"}
