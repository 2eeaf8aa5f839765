"""The bot on `discord.AutoShardedClient`. Its shard count comes from the supervisor or from Discord."""

from __future__ import annotations

import discord
from logic import Bot


class Sharded(Bot, discord.AutoShardedClient):
    """Handles everything that the mixin does."""


def make() -> Sharded:
    """Return a client that has not connected."""
    return Sharded()
