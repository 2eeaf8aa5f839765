"""The private names of discord.py that the runtime relies on: this fails, loudly, when discord.py changes them."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import discord
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from discord.backoff import ExponentialBackoff
from discord.ext import tasks
from discord.gateway import DiscordWebSocket
from discord.http import Route
from discord.shard import Shard
from discord.state import ChunkRequest, ConnectionState

from bastion.bot import internals
from bastion.bot.discordpy import members

SUPPORTED = ("2.5.0", "2.6.4", "2.7.1")
"""The oldest of pyproject's range, one between, and the newest one known."""


async def nothing() -> None: ...


def owners() -> dict[str, Any]:
    client = discord.AutoShardedClient(intents=discord.Intents.none())
    state = client._connection
    source = inspect.getsource(DiscordWebSocket.from_client)
    return {
        "client": client,
        "state": state,
        "sharded state": state,
        "view store": state._view_store,
        "websocket": DiscordWebSocket,
        "sharded client": client,
        "shard": Shard,
        "backoff": ExponentialBackoff(),
        "http": client.http,
        "route": Route,
        "member": discord.Member,
        "guild": discord.Guild,
        "websocket's own": SimpleNamespace(**dict.fromkeys(re.findall(r"ws\.(_\w+) = ", source))),
        "command tree": discord.app_commands.CommandTree(discord.Client(intents=discord.Intents.none())),
        "loop": tasks.loop(seconds=1)(nothing),
    }


@pytest.mark.parametrize(("owner", "name"), [(o, name) for o, names in internals.PRIVATE.items() for name in names])
def test_the_private_name_is_there(owner: str, name: str) -> None:
    if name == "_HTTPClient__session":
        assert "self.__session" in inspect.getsource(discord.http.HTTPClient.static_login)
        return
    if name == "_ready_state":
        assert "self._ready_state:" in inspect.getsource(ConnectionState.parse_ready)
        assert "except AttributeError" in inspect.getsource(ConnectionState._add_ready_state)
        return
    assert hasattr(owners()[owner], name)


def test_every_private_name_that_the_runtime_uses_is_in_the_list() -> None:
    listed = {name for names in internals.PRIVATE.values() for name in names}
    touched = [node for node in ast.walk(ast.parse(inspect.getsource(internals))) if isinstance(node, ast.Attribute)]
    others = {node.attr for node in touched if not (isinstance(node.value, ast.Name) and node.value.id == "self")}
    private = {name for name in others if name.startswith("_") and not name.startswith("__")}
    assert private
    assert private <= listed


def test_no_other_module_of_the_runtime_touches_a_private_attribute_of_discord_py() -> None:
    folder = Path(internals.__file__).parent
    for path in folder.rglob("*.py"):
        if path.name != "internals.py" and path.parent.name != "discordpy":
            assert "._connection" not in path.read_text(), path


def test_parsers_dispatch_and_the_websocket_have_the_shape_that_the_gate_expects() -> None:
    client = discord.Client(intents=discord.Intents.none())
    assert internals.parsers(client)["MESSAGE_CREATE"].__self__ is client._connection  # type: ignore[attr-defined]
    assert "_discord_parsers = client._connection.parsers" in inspect.getsource(DiscordWebSocket.from_client)
    parameters = inspect.signature(DiscordWebSocket.from_client).parameters
    assert {"client", "shard_id", "resume", "gateway", "session", "sequence"} <= set(parameters)
    assert "'on_' + event" in inspect.getsource(discord.Client.dispatch)


def test_a_loop_calls_its_function_and_its_hooks_in_the_way_that_the_runtime_expects() -> None:
    source = inspect.getsource(tasks.Loop)
    assert "await self._call_loop_function('before_loop')" in source
    assert "await self.coro(*args, **kwargs)" in source
    assert "asyncio.create_task(self._loop(*args, **kwargs), name=self._name)" in source


def test_who_waits_for_the_members_of_a_guild_that_is_left_waits_no_longer() -> None:
    loop = asyncio.new_event_loop()
    client = discord.AutoShardedClient(intents=discord.Intents.none())
    members.MemberRequests(client, patience=35).install()
    requests = client._connection._chunk_requests
    waiting = {}
    for guild in (1, 2):
        requests[guild] = ChunkRequest(guild, 0, loop, lambda _: None)
        waiting[guild] = requests[guild].get_future()
    internals.parsers(client)["GUILD_DELETE"]({"id": "1"})
    assert (waiting[1].done(), waiting[2].done()) == (True, False)
    assert list(requests) == [2]
    loop.close()


@pytest.mark.anyio
async def test_who_asks_for_the_members_of_a_guild_that_is_left_already_does_not_wait() -> None:
    async with discord.AutoShardedClient(intents=discord.Intents(guilds=True, members=True)) as client:
        internals.prepare_shards(client, 1, range(1))
        members.MemberRequests(client, patience=35).install()
        state = client._connection
        gone = discord.Guild(data={"id": "1"}, state=state)  # type: ignore[typeddict-item]
        assert await asyncio.wait_for(state.chunk_guild(gone), 1) == []
        assert await asyncio.wait_for(await state.chunk_guild(gone, wait=False), 1) == []
        assert not state._chunk_requests


WHEN = "2026-01-01T00:00:00.000001+00:00"
USER = {"id": "1", "username": "bot", "discriminator": "0", "avatar": None, "bot": True}


@pytest.mark.anyio
async def test_a_shard_that_identifies_anew_does_not_keep_the_others_from_being_ready() -> None:
    client = discord.AutoShardedClient(intents=discord.Intents.none(), guild_ready_timeout=0.05)
    internals.prepare_shards(client, 2, range(2))
    internals.let_shards_be_ready_on_their_own(client)
    ready = asyncio.Event()
    heard: list[tuple[Any, ...]] = []

    def dispatch(name: str, *args: Any) -> None:
        heard.append((name, *args))
        if name == "ready":
            ready.set()

    internals.replace_dispatch(client, dispatch)
    async with client:
        for shard in (0, 1, 0):
            data = {"shard": [shard, 2], "user": USER, "guilds": [], "application": {"id": "1", "flags": 0}}
            internals.parsers(client)["READY"](data)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await ready.wait()
    assert [one for one in heard if one[0] == "shard_ready"] == [("shard_ready", 1), ("shard_ready", 0)]
    assert heard.count(("ready",)) == 1


class OneShard:
    """A client of one shard, made as the runtime makes it; READYs and guilds come by hand, members from ``chunk``."""

    def __init__(self, chunk: Callable[..., Awaitable[asyncio.Future[Any]]], *, members_of: set[int]) -> None:
        self.client = discord.AutoShardedClient(intents=discord.Intents(guilds=True), guild_ready_timeout=0.05)
        self.ready = asyncio.Event()
        self._state = self.client._connection
        self._state._guild_needs_chunking = lambda guild: guild.id in members_of  # type: ignore[method-assign]
        self._state.chunk_guild = chunk  # type: ignore[method-assign, assignment]
        internals.prepare_shards(self.client, 1, range(1))
        internals.ready_with_the_last_guild(self.client)
        internals.let_shards_be_ready_on_their_own(self.client)
        internals.replace_dispatch(self.client, lambda name, *_: self.ready.set() if name == "ready" else None)

    def identified(self, *guilds: int) -> None:
        """Have READY come, which names these guilds."""
        unavailable = [{"id": str(number), "unavailable": True} for number in guilds]
        data = {"shard": [0, 1], "user": USER, "guilds": unavailable, "application": {"id": "1", "flags": 0}}
        internals.parsers(self.client)["READY"](data)

    def arrive(self, *guilds: int) -> None:
        for number in guilds:
            guild = SimpleNamespace(id=number, unavailable=False, shard_id=0, member_count=1)
            self._state._ready_states[0].put_nowait(guild)  # type: ignore[arg-type]

    async def is_ready(self) -> None:
        async with asyncio.timeout(5):
            await self.ready.wait()


async def turn(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.anyio
@pytest.mark.parametrize("turns", range(5))
async def test_a_shard_is_ready_though_it_identifies_anew_just_as_a_guild_comes(turns: int) -> None:
    async def chunk(guild: Any, *, wait: bool) -> asyncio.Future[Any]:
        await turn(10)
        members = asyncio.get_running_loop().create_future()
        members.set_result([])
        return members

    shard = OneShard(chunk, members_of={2})
    async with shard.client:
        shard.identified(1, 2, 3)
        await turn(5)
        shard.arrive(1)
        await turn(turns)
        shard.identified(1, 2, 3)
        await turn(5)
        shard.arrive(1)
        await turn(5)
        shard.arrive(2, 3)
        await shard.is_ready()


@pytest.mark.anyio
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("turns", range(5))
async def test_a_shard_is_ready_though_it_identifies_anew_just_as_the_last_members_come(
    turns: int, named: bool
) -> None:
    """Its former waiting then ends before the new one begins, whether or not the new READY names any guild."""
    members: list[asyncio.Future[Any]] = []

    async def chunk(guild: Any, *, wait: bool) -> asyncio.Future[Any]:
        members.append(asyncio.get_running_loop().create_future())
        return members[-1]

    shard = OneShard(chunk, members_of={1})
    async with shard.client:
        shard.identified(1)
        await turn(5)
        shard.arrive(1)
        await turn(5)
        members[0].set_result([])
        await turn(turns)
        shard.identified(*([1] if named else []))
        if named:
            await turn(5)
            shard.arrive(1)
            await turn(5)
            members[-1].set_result([])
        await shard.is_ready()


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["RESUMED", "READY"])
async def test_members_asked_for_on_a_connection_that_broke_are_asked_for_again(name: str) -> None:
    client = discord.AutoShardedClient(intents=discord.Intents.none())
    internals.prepare_shards(client, 2, range(2))
    state = client._connection
    asked: list[int] = []

    async def broken(guild_id: int, **_: Any) -> None:
        asked.append(guild_id)
        raise ConnectionResetError

    state.chunker = broken  # type: ignore[assignment]
    internals.parsers(client)["READY"] = lambda data: None
    members.MemberRequests(client, patience=35).install()
    guilds = (4 << 22, 5 << 22)
    for guild in guilds:
        state._add_guild(discord.Guild(data={"id": str(guild)}, state=state))  # type: ignore[typeddict-item]
        state._chunk_requests[guild] = ChunkRequest(guild, 0, asyncio.get_running_loop(), lambda _: None)
    internals.parsers(client)[name]({"shard": [1, 2], "__shard_id__": 1})
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert asked == [guilds[1]]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("ready", "gives_way", "asks"), [(True, True, "later"), (True, False, "at once"), (False, True, "at once")]
)
async def test_a_ready_child_whose_app_is_not_told_of_a_join_leaves_the_first_answer_to_the_one_whose_is(
    monkeypatch: pytest.MonkeyPatch, ready: bool, gives_way: bool, asks: str
) -> None:
    """Discord puts off whoever asks second, for half a minute."""
    monkeypatch.setattr(members, "GIVE_WAY_SECONDS", 0.05)
    client = discord.AutoShardedClient(intents=discord.Intents.none())
    monkeypatch.setattr(client, "is_ready", lambda: ready)
    internals.prepare_shards(client, 1, range(1))
    state, loop = client._connection, asyncio.get_running_loop()
    asked: asyncio.Future[float] = loop.create_future()

    async def note(guild_id: int, **_: Any) -> None:
        asked.set_result(loop.time())

    state.chunker = note  # type: ignore[assignment]
    members.MemberRequests(client, patience=35, gives_way=lambda: gives_way).install()
    guild = discord.Guild(data={"id": "7"}, state=state)  # type: ignore[typeddict-item]
    state._add_guild(guild)
    async with client:
        began = loop.time()
        await state.chunk_guild(guild, wait=False)
        assert asked.done() == (asks == "at once")
        at = await asyncio.wait_for(asked, 5)
    assert (at - began >= 0.04) == (asks == "later")


@pytest.mark.anyio
async def test_what_a_child_left_to_another_it_asks_as_soon_as_it_is_in_its_place() -> None:
    client = discord.AutoShardedClient(intents=discord.Intents.none())
    client.is_ready = lambda: True  # type: ignore[method-assign]
    internals.prepare_shards(client, 1, range(1))
    state, asked = client._connection, []

    async def note(guild_id: int, **_: Any) -> None:
        asked.append(guild_id)

    state.chunker = note  # type: ignore[assignment]
    requests = members.MemberRequests(client, patience=35, gives_way=lambda: True)
    requests.install()
    async with client:
        for number in (7, 8):
            guild = discord.Guild(data={"id": str(number)}, state=state)  # type: ignore[typeddict-item]
            state._add_guild(guild)
            await state.chunk_guild(guild, wait=False)
        assert asked == []
        requests.ask_now()
        requests.ask_now()
        await asyncio.sleep(0)
        assert asked == [7, 8]


@pytest.mark.anyio
async def test_members_that_another_bot_has_asked_for_are_taken_as_the_answer_to_the_own_question() -> None:
    client = discord.AutoShardedClient(intents=discord.Intents(guilds=True, members=True))
    client.is_ready = lambda: True  # type: ignore[method-assign]
    internals.prepare_shards(client, 1, range(1))
    state = client._connection
    members.MemberRequests(client, patience=35, gives_way=lambda: True).install()
    async with client:
        guild = discord.Guild(data={"id": "7", "member_count": 2}, state=state)  # type: ignore[typeddict-item]
        state._add_guild(guild)
        waiting = asyncio.ensure_future(state.chunk_guild(guild))
        await asyncio.sleep(0)
        for index in range(2):
            who = {"user": USER | {"id": str(index + 1)}, "roles": [], "joined_at": WHEN, "flags": 0}
            chunk = {"guild_id": "7", "members": [who], "chunk_index": index, "chunk_count": 2, "nonce": "another's"}
            internals.parsers(client)["GUILD_MEMBERS_CHUNK"](chunk)
        assert [one.id for one in await asyncio.wait_for(waiting, 5)] == [1, 2]
        assert (guild.chunked, state._chunk_requests) == (True, {})


class Becoming:
    """A client that is told of its guilds by hand; ``said`` is what it dispatched of readiness and guilds."""

    def __init__(self, kind: type[discord.Client], *, timeout: float) -> None:
        self.client = kind(intents=discord.Intents(guilds=True), guild_ready_timeout=timeout)
        self.said: list[tuple[str, int]] = []
        self.ready = asyncio.Event()
        internals.ready_with_the_last_guild(self.client)
        if isinstance(self.client, discord.AutoShardedClient):
            internals.prepare_shards(self.client, 1, range(1))
        internals.replace_dispatch(self.client, self._dispatch)

    async def __aenter__(self) -> Becoming:
        await self.client.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.client.close()

    def _dispatch(self, name: str, *args: Any) -> None:
        if name in ("guild_available", "guild_join"):
            self.said.append((name, args[0].id))
        elif name in ("ready", "shard_ready"):
            self.said.append((name, 0))
            if name == "ready":
                self.ready.set()

    def begin(self, *guilds: int) -> None:
        user = {"id": "9", "username": "bot", "discriminator": "0", "avatar": None}
        stubs = [{"id": str(guild), "unavailable": True} for guild in guilds]
        self.tell("READY", {"user": user, "guilds": stubs, "shard": [0, 1], "application": {"id": "9", "flags": 0}})

    def guild(self, number: int, *, joined: bool = False) -> None:
        data = {"id": str(number), "name": "guild", "member_count": 1}
        self.tell("GUILD_CREATE", data if joined else data | {"unavailable": False})

    def tell(self, name: str, data: dict[str, Any]) -> None:
        internals.parsers(self.client)[name](data)


KINDS = pytest.mark.parametrize("kind", [discord.Client, discord.AutoShardedClient])


def shard_ready(kind: type[discord.Client]) -> list[tuple[str, int]]:
    return [("shard_ready", 0)] if kind is discord.AutoShardedClient else []


@KINDS
@pytest.mark.anyio
async def test_a_client_is_ready_with_its_last_guild_and_once(kind: type[discord.Client]) -> None:
    async with Becoming(kind, timeout=60) as becoming:
        becoming.begin(1, 2)
        becoming.guild(1)
        await asyncio.sleep(0.05)
        assert becoming.said == [("guild_available", 1)]
        becoming.guild(2)
        await asyncio.wait_for(becoming.ready.wait(), 5)
        becoming.guild(3, joined=True)
        assert becoming.said == [
            ("guild_available", 1),
            ("guild_available", 2),
            *shard_ready(kind),
            ("ready", 0),
            ("guild_join", 3),
        ]


@KINDS
@pytest.mark.anyio
async def test_a_client_without_guilds_is_ready_at_once(kind: type[discord.Client]) -> None:
    async with Becoming(kind, timeout=60) as becoming:
        becoming.begin()
        await asyncio.wait_for(becoming.ready.wait(), 5)


@KINDS
@pytest.mark.anyio
async def test_a_guild_that_does_not_come_is_waited_for_as_long_as_ever(kind: type[discord.Client]) -> None:
    async with Becoming(kind, timeout=0.3) as becoming:
        began = asyncio.get_running_loop().time()
        becoming.begin(1, 2)
        becoming.guild(1)
        await asyncio.wait_for(becoming.ready.wait(), 5)
        assert asyncio.get_running_loop().time() - began >= 0.29


@KINDS
@pytest.mark.anyio
async def test_a_guild_joined_while_members_are_on_their_way_is_a_join(kind: type[discord.Client]) -> None:
    async with Becoming(kind, timeout=60) as becoming:
        members: asyncio.Future[list[discord.Member]] = asyncio.get_running_loop().create_future()
        state = becoming.client._connection
        asked = asyncio.Event()

        async def chunk(guild: discord.Guild, **options: Any) -> asyncio.Future[list[discord.Member]]:
            asked.set()
            return members

        state._guild_needs_chunking = lambda guild: guild.id == 1  # type: ignore[method-assign]
        state.chunk_guild = chunk  # type: ignore[method-assign,assignment]
        becoming.begin(1)
        becoming.guild(1)
        await asyncio.wait_for(asked.wait(), 5)
        await asyncio.sleep(0.05)  # the wait for guilds is over, the one for members is not
        becoming.guild(3, joined=True)
        members.set_result([])
        await asyncio.wait_for(becoming.ready.wait(), 5)
        assert ("guild_join", 3) in becoming.said


@KINDS
@pytest.mark.anyio
async def test_a_session_that_begins_anew_before_it_was_ready_is_ready_once(kind: type[discord.Client]) -> None:
    async with Becoming(kind, timeout=60) as becoming:
        becoming.begin(1, 2)
        becoming.guild(1)
        becoming.begin(1, 2)
        for guild in (1, 2):
            becoming.guild(guild)
        await asyncio.wait_for(becoming.ready.wait(), 5)
        await asyncio.sleep(0.05)
        assert [name for name, _ in becoming.said].count("ready") == 1


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
            # discord.py before 2.7 and today's aiohttp: a warning that is none of ours.
            *("-W", "ignore:parameter 'timeout':DeprecationWarning"),
            *(str(here), str(here.with_name("test_gate.py"))),
            *(str(here.with_name("test_components.py")), str(here.with_name("test_ownership.py"))),
            *(str(here.with_name("test_drain.py")), str(here.with_name("test_payloads.py"))),
            str(here.with_name("test_messages.py")),
        ],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=here.parent.parent.parent,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-3000:]


@pytest.mark.anyio
async def test_what_has_come_on_a_connection_and_is_not_read_yet_is_seen() -> None:
    ends: list[web.WebSocketResponse] = []

    async def serve(request: web.Request) -> web.WebSocketResponse:
        end = web.WebSocketResponse()
        await end.prepare(request)
        ends.append(end)
        await end.receive()
        return end

    app = web.Application()
    app.router.add_get("/", serve)
    async with TestServer(app) as server, aiohttp.ClientSession() as http, http.ws_connect(server.make_url("/")) as own:
        gateway = DiscordWebSocket(own, loop=asyncio.get_running_loop())
        assert not internals.unread(gateway)
        await ends[0].send_str("hello")
        assert internals.unread(gateway)
        assert await own.receive_str() == "hello"
        assert not internals.unread(gateway)
        await own.close()
        assert not internals.unread(gateway)
