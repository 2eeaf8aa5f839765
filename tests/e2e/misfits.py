"""Wrong programs, with the message that each must lead to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RUN = """import os
import discord
client = discord.Client(intents=discord.Intents(guilds=True), guild_ready_timeout=0.3)
"""
TWO = """import asyncio
import os
import discord


class Greeter(discord.Client):
    pass


class Watcher(discord.Client):
    pass


async def main():
    options = {"intents": discord.Intents(guilds=True), "guild_ready_timeout": 0.3}
    async with Greeter(**options) as greeter, Watcher(**options) as watcher:
        await asyncio.gather(*(client.start(os.environ["DISCORD_TOKEN"]) for client in (greeter, watcher)))


asyncio.run(main())
"""
DATABASE = """import asyncio
import os
import discord


class MyClient(discord.Client):
    async def setup_hook(self):
        _, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["DATABASE"]))
        writer.close()


client = MyClient(intents=discord.Intents(guilds=True), guild_ready_timeout=0.3)
client.run(os.environ["DISCORD_TOKEN"])
"""
"""A program that needs a database at the port in DATABASE."""
UNTRUE_TOKEN = "a-wrong.secret.token-of-somebody"


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """One wrong program."""

    name: str
    says: str
    """A regular expression for the message. The message quotes the exception, if the program raised an exception."""
    source: str | None = ""
    """The text of main.py; None: main.py does not exist."""
    words: tuple[str, ...] = ("main.py",)
    folder: bool = False
    """Whether main.py is a directory."""
    options: Mapping[str, Any] = field(default_factory=dict)

    def place(self, release: Path) -> None:
        """Replace the release's main.py."""
        main = release / "main.py"
        main.unlink(missing_ok=True)
        if self.folder:
            main.mkdir()
        elif self.source is not None:
            main.write_text(self.source)


HOPELESS = [
    Misfit(name="not there", source=None, says=r"bot\.program: .*/main\.py: No such file or directory"),
    Misfit(name="a directory", source=None, folder=True, says=r"bot\.program: .*/main\.py: is a directory"),
    Misfit(
        name="no such module",
        words=("-m", "nosuchbot"),
        says=r"there is no module nosuchbot in .*/release, nor in its env",
    ),
    Misfit(
        name="syntax error", source="import discord\nclient = = 3\n", says=r"SyntaxError: invalid syntax .*main\.py"
    ),
    Misfit(
        name="import error", source="import nosuchthing\n", says=r"ModuleNotFoundError: No module named 'nosuchthing'"
    ),
    Misfit(name="no token", source=f"{RUN}client.run(os.getenv('NOT_SET'))\n", says=r"logs in and has no token"),
    Misfit(name="token refused", source=f"{RUN}client.run({UNTRUE_TOKEN!r})\n", says=r"refused the token \(401\)"),
    Misfit(name="two clients", source=TWO, says=r"(?s)Greeter.*Watcher|Watcher.*Greeter"),
]
"""Faults that no second try can mend."""

HOPEFUL = [
    Misfit(name="exits with 0", source="raise SystemExit(0)\n", says=r"sys\.exit\(0\) \(main\.py:1\)"),
    Misfit(
        name="exits with 1",
        source="import sys\nsys.exit('not today')\n",
        says=r"sys\.exit\('not today'\) \(main\.py:2\)",
    ),
    Misfit(name="exits with 3", source="raise SystemExit(3)\n", says=r"sys\.exit\(3\) \(main\.py:1\)"),
    Misfit(name="exits with 78", source="raise SystemExit(78)\n", says=r"sys\.exit\(78\) \(main\.py:1\)"),
    Misfit(name="ends", source="import discord\n", says=r"the program ended by itself"),
    Misfit(name="raises", source="print(1 / 0)\n", says=r"ZeroDivisionError: division by zero"),
    Misfit(name="dependency down", source=DATABASE, says=r"ConnectionRefusedError: .*Connect call failed"),
    Misfit(
        name="never logs in",
        source="import time\ntime.sleep(600)\n",
        options={"handoff__ready_timeout": 2},
        says=r"not ready within 2 s \(handoff\.ready_timeout\).*main thread is at main\.py:2",
    ),
]
"""Faults that may pass: the start is tried again with the documented backoff, like after a crash."""
