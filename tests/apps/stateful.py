"""A bot that remembers each message in memory and carries that over; it misbehaves where STATE_FAULT tells it to."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import discord
from reports import Reports

FAULT = os.environ.get("STATE_FAULT", "")


class Stateful(discord.Client):
    def __init__(self) -> None:
        super().__init__(intents=discord.Intents(guilds=True, guild_messages=True, message_content=True))
        self.reports = Reports()
        self.seen: list[int] = []
        self.handled_any = False

    async def close(self) -> None:
        await super().close()
        await self.reports.close()

    async def on_message(self, message: discord.Message) -> None:
        self.handled_any = True
        self.seen.append(message.id)
        if message.content == "how many?":
            await self.reports.handled("seen", f"{len(self.seen)}:{len(set(self.seen))}")
        await self.reports.handled("message", message.id)

    async def on_deactivate(self) -> None:
        if FAULT == "never drained":
            await asyncio.Event().wait()

    async def export_state(self) -> Any:
        if FAULT in ("export hangs", "never drained"):
            await asyncio.Event().wait()
        if FAULT == "export raises":
            raise KeyError("x")
        if FAULT == "export kills":
            os._exit(3)
        if FAULT == "too big":
            return b"x" * (17 * 1024 * 1024)
        if FAULT == "nonsense":
            return {"client": self}
        if FAULT == "bytes":
            return ",".join(map(str, self.seen)).encode()
        return {"seen": self.seen}

    async def import_state(self, value: Any) -> None:
        await self.reports.handled("import", "late" if self.handled_any else "first")
        if FAULT == "import hangs":
            await asyncio.Event().wait()
        if FAULT == "import raises":
            raise KeyError("y")
        self.seen = [int(word) for word in value.split(b",")] if isinstance(value, bytes) else list(value["seen"])


client = Stateful()
