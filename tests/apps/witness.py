"""A probe that hears everything, tells its cache to whoever asks, and counts the edits of messages that it lacks.

``WITNESS`` is the class of its client, ``WITNESS_SOCKETS`` the directory in which each generation listens.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import discord
from caches import tell
from discord.ext import commands
from probe import PrefixProbe, Probe

KEPT = 3000
"""More messages than the sandbox keeps: an edited one is known."""


class Witness(Probe):
    """A mixin: name it before the client class."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_messages=KEPT, **options)
        self._server: asyncio.Server | None = None

    async def setup_hook(self) -> None:
        print(f"compression: {discord.utils._ActiveDecompressionContext.COMPRESSION_TYPE}", flush=True)
        await super().setup_hook()
        path = Path(os.environ["WITNESS_SOCKETS"]) / os.environ["BASTION_GENERATION"]
        self._server = await tell(self, str(path))

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        await super().close()

    async def on_raw_message_edit(self, payload: discord.RawMessageUpdateEvent) -> None:
        if payload.cached_message is None and not payload.message.author.bot:
            print(f"an edit without its before: {payload.message_id}", flush=True)
        await super().on_raw_message_edit(payload)


class PlainWitness(Witness, discord.Client):
    """Of a client of one shard."""


class ShardedWitness(Witness, discord.AutoShardedClient):
    """Of a client of several shards."""


class BotWitness(Witness, PrefixProbe, commands.Bot):
    """Of a bot of one shard."""


class ShardedBotWitness(Witness, PrefixProbe, commands.AutoShardedBot):
    """Of a bot of several shards."""


KINDS = {one.__name__: one for one in (PlainWitness, ShardedWitness, BotWitness, ShardedBotWitness)}
client = KINDS[os.environ["WITNESS"]]()
