"""A bot with loops that write down each turn: at times of day, at an interval, and at a long one, marked and not."""

from __future__ import annotations

import datetime
import os
import sqlite3
import time

import discord
from discord.ext import tasks

from bastion.bot.lifecycle import in_step

MINUTES = 10
"""For so long after its start the bot has a turn at every whole second."""

LONG = 8
"""Seconds: too long an interval for a loop to keep its step if nothing marks it."""


def every_second() -> list[datetime.time]:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    return [(now + datetime.timedelta(seconds=second)).timetz() for second in range(MINUTES * 60)]


class Ticking(discord.Client):
    def __init__(self) -> None:
        super().__init__(intents=discord.Intents(guilds=True))
        self.database = sqlite3.connect(os.environ["TICKS"], isolation_level=None, timeout=5)
        self.database.execute("PRAGMA synchronous = OFF")  # a slow disk is not to hold up the loops
        self.database.execute("CREATE TABLE IF NOT EXISTS ticks (kind TEXT, at REAL, generation INTEGER)")

    async def setup_hook(self) -> None:
        self.tick.start()
        self.strike.start()
        self.remind.start()
        self.fill.start()

    @tasks.loop(seconds=1)
    async def tick(self) -> None:
        self.note("tick")

    @tasks.loop(time=every_second())
    async def strike(self) -> None:
        self.note("strike")

    @in_step
    @tasks.loop(seconds=LONG)
    async def remind(self) -> None:
        self.note("remind")

    @tasks.loop(seconds=LONG)
    async def fill(self) -> None:
        self.note("fill")

    def note(self, kind: str) -> None:
        row = (kind, time.time(), int(os.environ["BASTION_GENERATION"]))
        self.database.execute("INSERT INTO ticks VALUES (?, ?, ?)", row)


client = Ticking()
