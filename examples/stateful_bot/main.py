"""A bot with state, a loop and a database: what must be once is once, what is in memory is carried over."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from typing import Any

import discord
from discord.ext import commands, tasks

DATABASE = os.environ.get("DATABASE", "stateful.sqlite3")


class Diary(commands.Bot):
    """Counts messages in memory, writes the counts into a database each second."""

    def __init__(self) -> None:
        intents = discord.Intents(guilds=True, guild_messages=True, message_content=True)
        super().__init__(command_prefix="!", intents=intents, help_command=None)
        self.unsaved: Counter[str] = Counter()
        # Two processes have it open during a reload: let one wait for the other, and change the schema only by adding.
        self.database = sqlite3.connect(DATABASE, timeout=5, isolation_level=None)
        self.database.execute("CREATE TABLE IF NOT EXISTS messages (author TEXT PRIMARY KEY, count INTEGER)")

    async def setup_hook(self) -> None:
        """Start the loop. In a standby it waits until the bot is active."""
        self.save.start()

    async def on_message(self, message: discord.Message) -> None:
        """Count it."""
        if not message.author.bot:
            self.unsaved[str(message.author.id)] += 1
            await self.process_commands(message)

    @tasks.loop(seconds=1)
    async def save(self) -> None:
        """Write what was counted since the last time."""
        self.write_down()

    def write_down(self) -> None:
        """Add what is unsaved to the database, all or nothing."""
        rows = list(self.unsaved.items())
        with self.database:
            self.database.execute("BEGIN")
            self.database.executemany(
                "INSERT INTO messages VALUES (?, ?) ON CONFLICT DO UPDATE SET count = count + excluded.count", rows
            )
        self.unsaved.clear()

    async def export_state(self) -> dict[str, int]:
        """Hand over what is not saved yet. Only at a switch: by then the loop here has had its last turn."""
        return dict(self.unsaved)

    async def import_state(self, state: dict[str, int]) -> None:
        """Take over what the process before had not saved."""
        self.unsaved.update(state)

    async def close(self) -> None:
        """Leave, and let go of the database. What is unsaved now belongs to the successor."""
        await super().close()
        self.database.close()


bot = Diary()


@bot.command()
async def total(context: commands.Context[Any]) -> None:
    """Say how many messages were counted."""
    bot.write_down()
    (count,) = bot.database.execute("SELECT sum(count) FROM messages").fetchone()
    await context.send(f"{count} messages")


if __name__ == "__main__":
    bot.run(os.environ["DISCORD_TOKEN"])
