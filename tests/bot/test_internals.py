"""The private names of discord.py that the runtime relies on: this fails, loudly, when discord.py changes them."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import discord
import pytest
from discord.gateway import DiscordWebSocket
from discord.http import Route
from discord.shard import Shard
from discord.state import ChunkRequest

from bot import internals

SUPPORTED = ("2.5.0", "2.6.4", "2.7.1")
"""The oldest of pyproject's range, one between, and the newest one known."""


def owners() -> dict[str, Any]:
    client = discord.AutoShardedClient(intents=discord.Intents.none())
    state = client._connection
    return {
        "client": client,
        "state": state,
        "view store": state._view_store,
        "websocket": DiscordWebSocket,
        "sharded client": client,
        "shard": Shard,
        "http": client.http,
        "route": Route,
        "member": discord.Member,
    }


@pytest.mark.parametrize(("owner", "name"), [(o, name) for o, names in internals.PRIVATE.items() for name in names])
def test_the_private_name_is_there(owner: str, name: str) -> None:
    if name == "_HTTPClient__session":
        assert "self.__session" in inspect.getsource(discord.http.HTTPClient.static_login)
        return
    assert hasattr(owners()[owner], name)


def test_every_private_name_that_the_runtime_uses_is_in_the_list() -> None:
    listed = {name for names in internals.PRIVATE.values() for name in names}
    source = inspect.getsource(internals)
    words = {word.strip("().,[]:") for part in source.split() for word in part.split(".")[1:]}
    private = {word.split("(")[0].split("[")[0] for word in words if word.startswith("_") and not word.startswith("__")}
    assert {word for word in private if word.isidentifier()} <= listed


def test_no_other_module_of_the_runtime_touches_a_private_attribute_of_discord_py() -> None:
    folder = Path(internals.__file__).parent
    for path in folder.rglob("*.py"):
        if path.name != "internals.py":
            assert "._connection" not in path.read_text(), path


def test_parsers_dispatch_and_the_websocket_have_the_shape_that_the_gate_expects() -> None:
    client = discord.Client(intents=discord.Intents.none())
    assert internals.parsers(client)["MESSAGE_CREATE"].__self__ is client._connection  # type: ignore[attr-defined]
    assert "_discord_parsers = client._connection.parsers" in inspect.getsource(DiscordWebSocket.from_client)
    parameters = inspect.signature(DiscordWebSocket.from_client).parameters
    assert {"client", "shard_id", "resume", "gateway", "session", "sequence"} <= set(parameters)
    assert "'on_' + event" in inspect.getsource(discord.Client.dispatch)


def test_who_waits_for_the_members_of_a_guild_that_is_left_waits_no_longer() -> None:
    loop = asyncio.new_event_loop()
    client = discord.AutoShardedClient(intents=discord.Intents.none())
    internals.ask_again_for_members(client, patience=35)
    requests = client._connection._chunk_requests
    waiting = {}
    for guild in (1, 2):
        requests[guild] = ChunkRequest(guild, 0, loop, lambda _: None)
        waiting[guild] = requests[guild].get_future()
    internals.parsers(client)["GUILD_DELETE"]({"id": "1"})
    assert (waiting[1].done(), waiting[2].done()) == (True, False)
    assert list(requests) == [2]
    loop.close()


@pytest.mark.wide
@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", SUPPORTED)
def test_the_supported_versions_have_them_all(version: str, tmp_path: Path) -> None:
    """Install another discord.py beside ours and run this file, and the gate's tests, with it."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path)]
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        pip = ["python3", "-m", "pip", "--python", sys.executable, *pip[3:]]
    subprocess.run([*pip, f"discord.py=={version}"], check=True)
    here = Path(__file__)
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-m", "not wide", "-p", "no:cacheprovider", "-n", "0"),
            *(str(here), str(here.with_name("test_gate.py"))),
        ],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=here.parent.parent.parent,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-3000:]
