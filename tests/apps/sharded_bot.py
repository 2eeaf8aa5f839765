"""An unmodified app on `commands.AutoShardedBot`."""

from __future__ import annotations

from discord.ext import commands
from probe import PrefixProbe


class ShardedBot(PrefixProbe, commands.AutoShardedBot):
    """Handles everything that its class can hear."""


client = ShardedBot()
