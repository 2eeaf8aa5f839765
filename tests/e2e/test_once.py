"""What is the bot's as a whole, and so must be right after a handoff: its presence, its commands."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from rig import Rig, active, rig

from bastion.sandbox import SandboxSettings

pytestmark = pytest.mark.anyio

WINDOW = 0.25

APP = """
import os

import discord
from discord import app_commands

class App(discord.Client):
    def __init__(self):
        super().__init__(intents=discord.Intents(guilds=True, guild_messages=True, message_content=True) OPTIONS)
        self.tree = app_commands.CommandTree(self)
        self.tree.command(name="NAME", description="of this release")(self.answer)

    async def answer(self, interaction: discord.Interaction):
        await interaction.response.send_message("NAME")

    async def setup_hook(self):
        await self.tree.sync()
        SETUP

    async def on_message(self, message):
        if message.content.startswith("play "):
            await self.change_presence(status=discord.Status.idle, activity=discord.Game(message.content[5:]))

client = App()
"""


def write(installation: Rig, *, name: str = "first", options: str = "", setup: str = "pass") -> str:
    source = APP.replace("NAME", name).replace("OPTIONS", options).replace("SETUP", setup)
    return str(installation.release("app", source))


def installation_of(tmp_path: Path) -> Any:
    settings = SandboxSettings(identify_window=WINDOW, member_request_window=0.0, identifies_per_day=100_000)
    return rig(
        tmp_path, app="app:client", settings=settings, discord__identify_window=WINDOW, restart__backoff_first=0.1
    )


def playing(installation: Rig) -> str | None:
    presence = installation.sandbox.gateway.presence
    activities: Any = presence["activities"] if presence else []
    return activities[0]["name"] if activities else None


def commands(installation: Rig) -> list[str]:
    return [command["name"] for command in installation.sandbox.world.commands[None].values()]


def puts(installation: Rig) -> int:
    counts = installation.sandbox.journal.rest_counts.items()
    return sum(count for (method, route, _), count in counts if method == "PUT" and route.endswith("/commands"))


async def reload(installation: Rig) -> str:
    outcome = await installation.reload()
    result: str = outcome["result"]
    return result


@pytest.mark.wide
async def test_the_presence_stays_over_a_reload_and_over_a_crash_until_a_release_brings_its_own(tmp_path: Path) -> None:
    async with installation_of(tmp_path) as installation:
        installation.configure(bot__directory=write(installation))
        sandbox = installation.sandbox
        seen: list[str | None] = []
        await installation.start()
        sandbox.emit_message(content="play chess")
        await sandbox.gateway.wait_for(lambda: playing(installation) == "chess")

        def still() -> bool:
            seen.append(playing(installation))
            return False

        watching = asyncio.ensure_future(sandbox.gateway.wait_for(still, timeout=100))
        assert await reload(installation) == "succeeded"
        watching.cancel()
        assert set(seen) == {"chess"}, "also while the new child came on"
        assert (sandbox.gateway.presence or {})["status"] == "idle"

        serving = active(await installation.status())
        assert serving is not None
        psutil.Process(serving["pid"]).kill()
        await installation.until(lambda status: (active(status) or {}).get("generation") == 3)
        assert playing(installation) == "chess"

        write(installation, options=", activity=discord.Game('go')")
        assert await reload(installation) == "succeeded"
        assert playing(installation) == "go"


@pytest.mark.wide
async def test_a_presence_that_a_standby_asks_for_is_set_when_it_is_active(tmp_path: Path) -> None:
    async with installation_of(tmp_path) as installation:
        ready = "self.on_ready = lambda: self.change_presence(activity=discord.Game('darts'))"
        installation.configure(bot__directory=write(installation, setup=ready))
        sandbox = installation.sandbox
        await installation.start()
        await sandbox.gateway.wait_for(lambda: playing(installation) == "darts")
        sandbox.emit_message(content="play chess")
        await sandbox.gateway.wait_for(lambda: playing(installation) == "chess")
        assert await reload(installation) == "succeeded"
        await sandbox.gateway.wait_for(lambda: playing(installation) == "darts")


async def test_commands_are_told_once_a_release_and_only_by_one_that_is_active(tmp_path: Path) -> None:
    async with installation_of(tmp_path) as installation:
        installation.configure(bot__directory=write(installation))
        await installation.start()
        assert (commands(installation), puts(installation)) == (["first"], 1)
        assert await reload(installation) == "succeeded"
        assert (commands(installation), puts(installation)) == (["first"], 1), "it is the same release"

        write(installation, name="broken", setup="raise KeyError('x')")
        assert await reload(installation) == "failed"
        assert (commands(installation), puts(installation)) == (["first"], 1), "a bad release changes nothing"

        write(installation, name="second")
        assert await reload(installation) == "succeeded"
        await installation.sandbox.journal.until(lambda: commands(installation) == ["second"])
        await installation.logged("told Discord the global commands of this release")
        assert puts(installation) == 2


@pytest.mark.wide
async def test_a_reload_that_is_rolled_back_takes_its_commands_back(tmp_path: Path) -> None:
    async with installation_of(tmp_path) as installation:
        installation.configure(bot__directory=write(installation), handoff__probation=60)
        await installation.start()
        write(installation, name="second")
        installation.hup()
        status = await installation.until(lambda status: (active(status) or {}).get("generation") == 2)
        await installation.sandbox.journal.until(lambda: commands(installation) == ["second"])
        psutil.Process(next(child["pid"] for child in status["children"] if child["generation"] == 2)).kill()
        await installation.until(lambda status: (active(status) or {}).get("generation") == 1)
        await installation.sandbox.journal.until(lambda: commands(installation) == ["first"])


async def by_hand(installation: Rig, directory: str, **environ: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "bastion.bot", "sync", "--app", "app:client", "--directory", directory),
        env=installation.environ | environ,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.wide
@pytest.mark.parametrize("redirected", [">/dev/full", ">&-", ">&- 2>&- <&-"])
async def test_full_or_closed_streams_change_nothing_about_what_is_told(tmp_path: Path, redirected: str) -> None:
    async with installation_of(tmp_path) as installation:
        command = f'exec "$0" -P -m bastion.bot sync --app app:client --directory {write(installation)} {redirected}'
        process = await asyncio.create_subprocess_exec("sh", "-c", command, sys.executable, env=installation.environ)
        assert (await process.wait(), commands(installation)) == (0, ["first"])


@pytest.mark.wide
async def test_commands_can_be_told_by_hand(tmp_path: Path) -> None:
    async with installation_of(tmp_path) as installation:
        directory = write(installation)
        told = (0, "told Discord the global commands: 1\n", "")
        assert await by_hand(installation, directory) == told
        assert await by_hand(installation, directory) == told, "whether Discord knows them or not"
        assert (commands(installation), puts(installation)) == (["first"], 2)

        code, _, err = await by_hand(installation, directory, DISCORD_TOKEN="")
        assert (code, err) == (78, "no Discord token: set DISCORD_TOKEN in the environment; nothing was changed\n")
        code, _, err = await by_hand(installation, directory, DISCORD_TOKEN="wrong")
        assert (code, err.count("\n")) == (78, 1)
        assert err.startswith("Discord refused the token (401)")
        code, _, err = await by_hand(installation, str(tmp_path))
        assert (code, err.count("\n")) == (78, 1)
