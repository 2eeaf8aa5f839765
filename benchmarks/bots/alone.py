"""The same bot as one would run it without a supervisor: stock discord.py, nothing of this project.

BENCH_SHARDS is its number of shards, "auto" or unset for what Discord recommends, "none" for a plain Client of one.
BENCH_LOCK names an SQLite file: the bot then answers an event only if it can insert the event's id there first, which
is what people do who start the new bot before they stop the old one. On SIGTERM it closes its client, which is more
than `client.run` does by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3

import discord
import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route
from logic import Bot


class Locked(Bot):
    """Claims an event before it is handled, by the id that its kind has; what has none gets what it says as its id."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.lock = sqlite3.connect(os.environ["BENCH_LOCK"], timeout=5, isolation_level=None)
        self.lock.execute("PRAGMA journal_mode = WAL")
        self.lock.execute("PRAGMA synchronous = OFF")
        self.lock.execute("CREATE TABLE IF NOT EXISTS taken (key TEXT PRIMARY KEY)")

    async def handled(self, kind: str, key: object) -> None:
        row = self.lock.execute("INSERT OR IGNORE INTO taken VALUES (?)", (f"{kind}:{key}",))
        if row.rowcount:
            await super().handled(kind, key)


BOT = Locked if os.environ.get("BENCH_LOCK") else Bot


class AloneClient(BOT, discord.Client):  # type: ignore[misc, valid-type]
    """One shard."""


class AloneSharded(BOT, discord.AutoShardedClient):  # type: ignore[misc, valid-type]
    """Several shards."""


def make() -> discord.Client:
    """Return the client that BENCH_SHARDS asks for."""
    shards = os.environ.get("BENCH_SHARDS", "auto")
    if shards == "none":
        return AloneClient()
    return AloneSharded(shard_count=None if shards == "auto" else int(shards))


async def main() -> None:
    """Run until SIGTERM."""
    api = os.environ["DISCORD_API_URL"]
    Route.BASE = api
    DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(os.environ["BENCH_GATEWAY_URL"])
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with make() as client:
        running = asyncio.ensure_future(client.start(os.environ["DISCORD_TOKEN"]))
        ending = asyncio.ensure_future(ended.wait())
        await asyncio.wait([running, ending], return_when=asyncio.FIRST_COMPLETED)
        await client.close()
        ending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


if __name__ == "__main__":
    asyncio.run(main())
