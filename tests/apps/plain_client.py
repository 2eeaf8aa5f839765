"""An unmodified app on `discord.Client`."""

from __future__ import annotations

import discord
from probe import Probe


class PlainClient(Probe, discord.Client):
    """Handles everything that its class can hear."""


client = PlainClient()
