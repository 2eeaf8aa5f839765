"""An unmodified app on `discord.AutoShardedClient`."""

from __future__ import annotations

import discord
from probe import Probe


class ShardedClient(Probe, discord.AutoShardedClient):
    """Handles everything that its class can hear."""


client = ShardedClient()
