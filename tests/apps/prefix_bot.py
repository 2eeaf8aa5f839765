"""An unmodified app on `commands.Bot`."""

from __future__ import annotations

from discord.ext import commands
from probe import PrefixProbe


class PrefixBot(PrefixProbe, commands.Bot):
    """Handles everything that its class can hear."""


client = PrefixBot()
