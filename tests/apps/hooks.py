"""An app with the optional hooks: it is told when it becomes the active one, and when it no longer is."""

from __future__ import annotations

import discord
from probe import Probe


class Hooked(Probe, discord.AutoShardedClient):
    """Reports each call of a hook as kind "hook", key "activate:<generation>" or "deactivate:<generation>"."""

    async def on_activate(self) -> None:
        await self.reports.handled("hook", f"activate:{self.reports.generation}")

    async def on_deactivate(self) -> None:
        await self.reports.handled("hook", f"deactivate:{self.reports.generation}")


client = Hooked()
