"""A snapshot: one shard's cache on its way from the holder to a mirror, between the events that go on.

The order of the stream makes it consistent. An example, with guilds 1 and 2:

    READY             guilds 1 and 2 are to come
    GUILD_CREATE 1    as the holder knows it now
    an event of 2     the mirror drops it: the GUILD_CREATE that is still to come knows it
    an event of 1     the mirror applies it
    GUILD_CREATE 2    as the holder knows it now, with what that event did
    loaded            the mirror's cache is the holder's

Each step builds one payload, without a turn of the loop within it, from what the holder's objects say at that moment.
Steps are put into slices of a few milliseconds, and wait while much is unsent.

Knows the order. What a payload says is `bastion.bot.discordpy`'s.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import discord
import msgspec

from bastion.bot.discordpy import payloads
from bastion.bot.discordpy.loading import LOADED, MEMBERS, MESSAGES
from bastion.bot.discordpy.messages import Recent
from bastion.bot.discordpy.payloads import Payload

SLICE_SECONDS = 0.002
"""After so long the holder's loop turns, and what has been begun is done: a guild, or 100 members, take some 1 ms."""
PAUSE_SECONDS = 0.001
"""What a slice is followed by. A process that never sleeps is not woken at once for what comes: with no pause its loop
was late by up to 9 ms on a busy machine, with one by 3 to 6 ms; 1,000 guilds take 2.2 s in place of 1.8 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where a session stands. ``sequence`` is of the last event that was taken."""

    shard: int
    shards: int
    session: str
    gateway: str
    sequence: int


def begin(client: discord.Client, recent: Recent, position: Position, send: Callable[[bytes], None]) -> Snapshot:
    """Send READY. Whatever comes to the shard from now on must be sent behind it; the rest of the snapshot as well."""
    guilds = [one.id for one in client.guilds if (one.id >> 22) % position.shards == position.shard]
    session = {"session_id": position.session, "resume_gateway_url": position.gateway}
    ready = payloads.ready(client, shard=(position.shard, position.shards), guilds=guilds, session=session)
    send(encode("READY", ready, sequence=position.sequence))
    return Snapshot(_steps(client, recent, guilds, position), send)


class Snapshot:
    """What is left of a shard's snapshot behind its READY."""

    def __init__(self, steps: Iterator[tuple[str, Payload]], send: Callable[[bytes], None]) -> None:
        self._steps, self._send = steps, send

    async def write(self, room: Callable[[], Awaitable[None]], turn: asyncio.Lock) -> None:
        """Send it in slices, and wait for ``room`` between them. Raises what ``room`` raises.

        ``turn`` is that of all snapshots of this bot: 64 shards with a slice each in one turn of the loop would block
        it for 0.2 s.
        """
        over = False
        while not over:
            async with turn:
                over = self._write_slice()
                await asyncio.sleep(PAUSE_SECONDS)
            await room()

    def _write_slice(self) -> bool:
        """Send one slice; return whether it was the last."""
        until = time.monotonic() + SLICE_SECONDS
        for name, data in self._steps:
            self._send(encode(name, data))
            if time.monotonic() > until:
                return False
        return True


def _steps(
    client: discord.Client, recent: Recent, guilds: list[int], position: Position
) -> Iterator[tuple[str, Payload]]:
    for number in guilds:
        guild = client.get_guild(number)
        if guild is None:  # the bot has left it meanwhile
            yield "GUILD_DELETE", {"id": str(number), payloads.OF_SNAPSHOT: True}
        elif guild.name or not guild.unavailable:  # else it was announced, and has never come
            yield "GUILD_CREATE", payloads.guild_create(guild)
            for members in payloads.members(guild):
                yield MEMBERS, members
            yield from payloads.after_guild_create(guild)
    for messages in recent.payloads(position.shard, position.shards):
        yield MESSAGES, {"messages": messages}
    yield LOADED, {"shard": position.shard, "oldest_message": recent.oldest}


def encode(name: str, data: object, *, sequence: int | None = None) -> bytes:
    """Return an event's payload as Discord would write it."""
    return msgspec.json.encode({"t": name, "s": sequence, "op": 0, "d": data})
