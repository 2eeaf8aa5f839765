"""A bot that is fed by another one has its cache, hears its events, and takes its session over by RESUME.

Both bots are in this process; between them is a real stream, and the sandbox is the Discord of the one that holds the
session.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import discord
import pytest
from discord.gateway import DiscordWebSocket
from test_messages import compare

from bastion.bot import internals
from bastion.bot.discordpy import sockets
from bastion.bot.discordpy.loading import Loading
from bastion.bot.discordpy.messages import Recent
from bastion.bot.session.copies import Copies
from bastion.bot.session.mirror import Mirror
from bastion.bot.session.stream import Listener, Stream, connect
from bastion.sandbox import Sandbox, SandboxSettings

pytestmark = pytest.mark.anyio

SECRETS = {"holder": b"h" * 32, "mirror": b"m" * 32}


class Bot:
    """A client whose connections are chosen, and what it heard."""

    def __init__(self, sandbox: Sandbox, kind: type[discord.Client] = discord.Client) -> None:
        self.sandbox = sandbox
        shards = {"shard_count": 2} if kind is discord.AutoShardedClient else {}
        self.client = kind(intents=discord.Intents.all(), guild_ready_timeout=0.3, **shards)
        self.recent = Recent(self.client)
        self.websockets: dict[int, DiscordWebSocket] = {}
        self.copies: Copies | None = None
        self.mirror: Mirror | None = None
        self.heard: list[tuple[str, int]] = []
        self.ready = asyncio.Event()
        self._news = asyncio.Event()
        self._text = ""
        self._shard = 0
        self._task: asyncio.Task[None] | None = None
        self._listen()

    def _listen(self) -> None:
        parsers = internals.parsers(self.client)
        for name, note in (("MESSAGE_CREATE", self.recent.created), ("MESSAGE_UPDATE", self.recent.updated)):

            def parse(data: Any, own: Any = parsers[name], note: Any = note) -> None:
                own(data)
                note(self._text, data)

            parsers[name] = parse

        async def on_message(message: discord.Message) -> None:
            self.heard.append(("message", message.id))
            self._news.set()

        async def on_message_edit(before: discord.Message, after: discord.Message) -> None:
            assert before.content != after.content
            self.heard.append(("edit", after.id))

        async def on_ready() -> None:
            self.ready.set()

        for handler in (on_message, on_message_edit, on_ready):
            self.client.event(handler)

    async def start(self) -> None:
        await self.client.login(self.sandbox.token)
        own = sockets.choose_sockets(self.client, self._choose)
        self._own = own
        self._task = asyncio.ensure_future(self.client.connect())

    async def _choose(self, url: str) -> Any:
        return self.mirror.connect(self._shard) if self.mirror is not None else await self._own(url)

    def connecting(self, shard: int) -> None:
        self._shard = shard

    def connected(self, shard: int, websocket: DiscordWebSocket) -> None:
        self.websockets[shard] = websocket

        def heard(text: str) -> None:
            self._text = text
            if self.copies is not None:
                self.copies.heard(shard, text)

        sockets.tap(websocket, heard)
        if self.mirror is not None:
            sockets.borrow_latency(websocket, lambda: 0.02)

    async def hears(self, message: int) -> None:
        """Wait until a message has been handled."""
        async with asyncio.timeout(10):
            while ("message", message) not in self.heard:
                self._news.clear()
                await self._news.wait()

    async def is_ready(self) -> None:
        await asyncio.wait_for(self.ready.wait(), 20)

    async def close(self) -> None:
        await self.client.close()
        if self._task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


@pytest.fixture
async def sandbox(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    settings = SandboxSettings(guilds=6, members_per_guild=300, identify_window=0, skew=(0, 0), max_concurrency=16)
    monkeypatch.setattr(discord.http.Route, "BASE", discord.http.Route.BASE)
    monkeypatch.setattr(DiscordWebSocket, "DEFAULT_GATEWAY", DiscordWebSocket.DEFAULT_GATEWAY)
    async with Sandbox(settings) as running:
        running.settings.change({"recommended_shards": 2})
        internals.set_addresses(api_url=running.api_url, gateway_url=running.gateway_url)
        yield running


@asynccontextmanager
async def two(
    sandbox: Sandbox,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[discord.Client],
    *,
    strangers: Sequence[bytes] = (),
) -> AsyncIterator[tuple[Bot, Bot, list[str]]]:
    """Yield a bot that holds the sessions, one that will be its mirror, and why the stream was lost.

    ``strangers`` connect before the mirror, and say this.
    """
    holder, mirror, lost = Bot(sandbox, kind), Bot(sandbox, kind), list[str]()
    bots = {holder.client: holder, mirror.client: mirror}
    own = DiscordWebSocket.from_client.__func__  # type: ignore[attr-defined]

    async def from_client(cls: Any, client: Any, **options: Any) -> DiscordWebSocket:
        shard = options.get("shard_id") or 0
        bots[client].connecting(shard)
        websocket: DiscordWebSocket = await own(cls, client, **options)
        bots[client].connected(shard, websocket)
        return websocket

    monkeypatch.setattr(DiscordWebSocket, "from_client", classmethod(from_client))
    ends: list[Stream] = []

    def end(name: str, other: str, take: Any) -> Stream:
        made = Stream(shows=SECRETS[name], expects=SECRETS[other], on_frame=take, on_lost=lost.append)
        ends.append(made)
        return made

    def listened() -> Stream:
        made = end("holder", "mirror", lambda *frame: holder.copies and holder.copies.take(*frame))
        holder.copies = Copies(holder.client, holder.recent, made, holder.websockets.get)
        return made

    listener = Listener(str(directory / "stream"), listened)
    listener.open()
    intruders = [socket.socket(socket.AF_UNIX) for _ in strangers]
    try:
        await holder.start()
        await holder.is_ready()
        for intruder, words in zip(intruders, strangers, strict=True):
            intruder.connect(str(directory / "stream"))
            intruder.send(words)
        made = end("mirror", "holder", lambda *frame: mirror.mirror and mirror.mirror.take(*frame))
        mirror.mirror = Mirror(made)
        connect(str(directory / "stream"), made)
        yield holder, mirror, lost
    finally:
        for bot in bots.values():
            await bot.close()
        for one in [*ends, *intruders]:
            one.close()
        listener.close()


KINDS = pytest.mark.parametrize(
    "kind", [discord.Client, pytest.param(discord.AutoShardedClient, marks=pytest.mark.wide)]
)
"""A sharded client connects one shard in five seconds, by itself."""


async def loaded(mirror: Bot, shards: int) -> None:
    complete = asyncio.Event()
    loading = Loading(mirror.client, mirror.recent, complete.set)
    loading.install()
    loading.begin(range(shards))
    await mirror.start()
    await asyncio.wait_for(complete.wait(), 20)
    await mirror.is_ready()


async def same(holder: Bot, mirror: Bot) -> None:
    """Wait until a last message has reached both, then compare every slot of both caches."""
    for last in [int(holder.sandbox.emit_message(guild=guild.id).key) for guild in holder.client.guilds]:
        await holder.hears(last)
        await mirror.hears(last)
    found = compare(holder.client._connection, mirror.client._connection)
    # Somebody who left and came again is, in the holder's older messages, still who left.
    found = [line for line in found if not re.match(r"messages\[\d+\]\.author\.", line)]
    assert found == [], "\n".join(line[:300] for line in found[:20])


@KINDS
async def test_a_mirror_has_the_holders_cache_though_events_go_on_while_it_is_sent(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[discord.Client]
) -> None:
    async with two(sandbox, tmp_path, monkeypatch, kind) as (holder, mirror, lost):
        sandbox.traffic.start(rate=300)
        await sandbox.journal.until(lambda: len(holder.heard) > 100)
        await loaded(mirror, len(holder.websockets))
        await sandbox.journal.until(lambda: len(mirror.heard) > 100)
        await sandbox.traffic.stop()
        await same(holder, mirror)
        assert len(sandbox.gateway.identifies) == len(holder.websockets), "the mirror has sent none"
        assert (lost, len(mirror.client.cached_messages) > 100) == ([], True)


async def test_a_mirror_waits_for_a_shard_whose_session_has_ended_and_gets_the_next_one(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two(sandbox, tmp_path, monkeypatch, discord.Client) as (holder, mirror, lost):
        with sandbox.faults.withhold_ready(count=1):
            sandbox.faults.invalidate(0)
            await sandbox.gateway.wait_for(lambda: len(sandbox.gateway.identifies) == 2)
        loading = asyncio.ensure_future(loaded(mirror, 1))
        async with asyncio.timeout(10):
            while holder.copies is None or not holder.copies.waits:  # noqa: ASYNC110 - a stream tells nobody
                await asyncio.sleep(0.01)
        assert not mirror.client.guilds
        sandbox.faults.invalidate(0)
        await loading
        await same(holder, mirror)
        assert (lost, len(sandbox.gateway.identifies)) == ([], 3)


async def test_strangers_who_come_before_the_mirror_are_sent_away_and_it_is_fed(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, (1 << 30).to_bytes(4, "big") + b"x" * 1000]
    async with two(sandbox, tmp_path, monkeypatch, discord.Client, strangers=said) as (holder, mirror, lost):
        await loaded(mirror, len(holder.websockets))
        await same(holder, mirror)
        assert len(lost) >= len([words for words in said if words]), lost


@KINDS
async def test_what_a_mirror_asks_of_discord_goes_through_the_holder(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[discord.Client]
) -> None:
    async with two(sandbox, tmp_path, monkeypatch, kind) as (holder, mirror, _):
        await loaded(mirror, len(holder.websockets))
        guild = mirror.client.guilds[0]
        found = await asyncio.wait_for(guild.query_members(user_ids=[guild.members[5].id]), 5)
        assert [one.id for one in found] == [guild.members[5].id]
        await mirror.client.change_presence(status=discord.Status.idle)
        await sandbox.gateway.wait_for(lambda: (sandbox.gateway.presence or {}).get("status") == "idle")
        assert round(mirror.client.latency * 1000) == 20


@KINDS
async def test_a_mirror_resumes_the_session_where_its_payloads_ended(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[discord.Client]
) -> None:
    async with two(sandbox, tmp_path, monkeypatch, kind) as (holder, mirror, lost):
        await loaded(mirror, len(holder.websockets))
        sandbox.traffic.start(rate=200, mix={"message": 2.0, "edit": 1.0})
        await sandbox.journal.until(lambda: len(mirror.heard) > 50)
        shards = list(holder.websockets)
        assert holder.mirror is None
        for shard in shards:  # the holder is cut off at once; what it had not read is Discord's to replay
            sandbox.faults.drop_shard(shard)
        # It would resume by itself; it is as good as dead.
        holder.mirror = Mirror(Stream(shows=b"", expects=b"", on_frame=lambda *_: None, on_lost=lost.append))
        await sandbox.gateway.wait_for(lambda: not any(one.connected for one in sandbox.gateway.sessions))
        stand_ins, mirror.mirror = mirror.mirror, None
        assert stand_ins is not None
        for shard in shards:
            stand_ins.end(shard, 4000)
        await sandbox.gateway.wait_for(lambda: all(one.connected for one in sandbox.gateway.sessions))
        await sandbox.traffic.stop()
        sent = [int(one.key) for one in sandbox.journal.entries if one.kind == "message"]
        first = next(number for kind, number in mirror.heard if kind == "message")
        for number in sent[sent.index(first) :]:
            await mirror.hears(number)
        # Each once; only within a shard is there an order.
        assert sorted(number for kind, number in mirror.heard if kind == "message") == sorted(sent[sent.index(first) :])
        assert [one.resumed for one in sandbox.gateway.sessions] == [1] * len(shards)
        assert len(sandbox.gateway.identifies) == len(shards)


async def test_a_connection_that_discord_py_gets_after_its_client_was_closed_is_closed() -> None:
    stream = Stream(shows=b"", expects=b"", on_frame=lambda *_: None, on_lost=lambda _: None)
    mirror = Mirror(stream)
    early = mirror.connect(0)
    mirror.close()
    assert early.close_code == 4000
    assert mirror.connect(0).close_code == 4000
