"""``python -m bastion.bot sync``: tells Discord an app's commands, by hand and whether it knows them or not.

Logs in, so the app's setup_hook runs, and connects to no gateway. Loops that it starts are held, and nothing is changed
but commands.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import discord

from bastion.bot import apps, internals, program
from bastion.bot.ledger import SQLiteLedger
from bastion.bot.lifecycle import PROCESS
from bastion.bot.loops import Loops
from bastion.bot.reasons import explain
from bastion.bot.registration import Registration
from bastion.wire import EXIT_CONFIG

_API = "https://discord.com/api/v10"


class _Nothing:
    """No notes: Discord is told what it may know already."""

    def note(self, key: str, value: str) -> None:
        """Forget it."""

    def noted(self, key: str) -> str | None:
        """Know nothing."""
        return None


def sync(argv: Sequence[str]) -> int:
    """Run the command. Returns 0 if Discord took all commands, 78 for a bad token or app, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m bastion.bot sync",
        description="Tell Discord the commands of an app: those that its setup_hook syncs, or if it syncs none, all of "
        "its tree. The token is read from DISCORD_TOKEN. A running bot is not disturbed.",
    )
    parser.add_argument("--app", required=True, metavar="MODULE:ATTRIBUTE")
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="the release (default: here)")
    parser.add_argument("--api-url", default=os.environ.get("DISCORD_API_URL") or _API)
    parser.add_argument("args", nargs="*", help="what the app finds in sys.argv[1:]")
    parsed = parser.parse_args(argv)
    token = os.environ.get("DISCORD_TOKEN", "").strip()
    if not token:
        print("no Discord token: set DISCORD_TOKEN in the environment; nothing was changed", file=sys.stderr)
        return EXIT_CONFIG
    try:
        return asyncio.run(_sync(parsed, token))
    except Exception as error:
        reason, retryable = explain(error, parsed.api_url, parsed.directory.resolve())
        print(reason, file=sys.stderr)
        return 1 if retryable else EXIT_CONFIG


async def _sync(parsed: argparse.Namespace, token: str) -> int:
    PROCESS.enter("standby")
    Loops(lifecycle=PROCESS, ledger=SQLiteLedger(":memory:", 0), beside=lambda: False).install()
    directory = parsed.directory.resolve()
    os.chdir(directory)
    program.go_first_on_path("", directory)
    program.give_way()
    client = await apps.load(parsed.app, directory=directory, args=parsed.args)
    internals.set_addresses(api_url=parsed.api_url)
    registration = Registration(lifecycle=PROCESS, notes=_Nothing(), lock=os.devnull)
    registration.install(client)
    async with client:
        await client.login(token)
        if not registration.wanted:
            await _sync_tree(client)
        if not registration.wanted:
            print(f"{parsed.app} has no application commands (no CommandTree): nothing was changed", file=sys.stderr)
            return 1
        failed = 0
        for scope, commands in registration.wanted.items():
            try:
                registered = await registration.tell(scope, commands)
            except discord.HTTPException as error:
                failed += 1
                print(f"Discord did not take {scope}: {apps.one_line(error)}", file=sys.stderr)
            else:
                print(f"told Discord {scope}: {len(registered)}")
    return 1 if failed else 0


async def _sync_tree(client: discord.Client) -> None:
    tree = internals.command_tree(client)
    if tree is not None:
        await tree.sync()
        for guild in internals.guilds_with_commands(tree):
            await tree.sync(guild=discord.Object(guild))
