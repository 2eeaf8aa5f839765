"""Shards side by side under permits: when one is asked for, how long it lasts, and what the supervisor is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import aiohttp
import discord
import pytest
from discord.ext import commands
from discord.gateway import DiscordWebSocket
from discord.http import Route
from discord.shard import SessionStartLimits, Shard

from bastion import wire
from bastion.bot import internals, shards
from bastion.bot.session.resumes import Resumes
from bastion.bot.shards import Permits, Shards, ShardsError

pytestmark = pytest.mark.anyio

NONE = discord.Intents.none()
GATEWAY = "wss://gateway.invalid"


@dataclass
class Clock:
    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(shards, "time", clock)
    return clock


class Alone:
    """In the place of a `Handover`: nobody else has sessions."""

    def __init__(self) -> None:
        self.resumes = Resumes()

    def why_away(self, shard: int) -> str:
        return "closed with 4000"

    def why_dead(self, shard: int) -> str:
        return ""

    def mirrors(self, shard: int) -> bool:
        return False

    moves = mirrors

    def may_resume(self, shard: int) -> bool:
        return True

    def is_dead(self, shard: int) -> bool:
        return False

    may_identify = may_resume

    def resume_from(self, shard: int, sequence: int) -> int:
        return sequence

    def resumed_before(self, shard: int) -> None:
        return None

    def connecting(self, shard: int) -> AbstractContextManager[None]:
        return nullcontext()

    async def connected(self, shard: int, websocket: object, *, resumed: bool) -> None: ...


@dataclass
class Asking:
    """Permits, and what was asked of the supervisor."""

    asked: list[int] = field(default_factory=list)
    permits: Permits = field(init=False)

    def __post_init__(self) -> None:
        self.permits = Permits(self.asked.append)

    async def begin(self, shard: int) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self.permits.acquire(shard))
        await turns()
        return task


async def turns() -> None:
    """Let everything that can go on without an event from outside do so."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_shard_waits_until_its_permit_comes() -> None:
    asking = Asking()
    waiting = await asking.begin(3)
    assert asking.asked == [3]
    assert not waiting.done()
    asking.permits.grant(3)
    await waiting


async def test_a_new_program_of_the_supervisors_is_asked_for_what_is_still_waited_for() -> None:
    asking = Asking()
    waiting, done = await asking.begin(3), await asking.begin(4)
    asking.permits.grant(4)
    await done
    asking.permits.ask_again()
    assert asking.asked == [3, 4, 3]
    asking.permits.grant(3)
    await waiting


async def test_a_permit_is_for_one_shard_and_for_one_identify() -> None:
    asking = Asking()
    first, second = await asking.begin(0), await asking.begin(1)
    asking.permits.grant(1)
    await second
    assert not first.done()
    again = await asking.begin(1)
    assert not again.done()
    assert asking.asked == [0, 1, 1]
    first.cancel()
    again.cancel()


async def test_a_wait_that_is_cancelled_keeps_its_request_and_the_next_one_does_not_ask_again() -> None:
    asking = Asking()
    gave_up = await asking.begin(0)
    gave_up.cancel()
    await asyncio.wait([gave_up])
    took_over = await asking.begin(0)
    assert asking.asked == [0]
    asking.permits.grant(0)
    await took_over


async def test_a_permit_that_comes_while_nobody_waits_is_used_by_the_next_connection(clock: Clock) -> None:
    asking = Asking()
    gave_up = await asking.begin(0)
    gave_up.cancel()
    await asyncio.wait([gave_up])
    asking.permits.grant(0)
    clock.now += shards._PERMIT_LIFE - 0.1
    await (await asking.begin(0))
    assert asking.asked == [0]


async def test_a_permit_that_came_too_long_ago_is_not_used(clock: Clock) -> None:
    asking = Asking()
    asking.permits.grant(0)
    clock.now += shards._PERMIT_LIFE
    waiting = await asking.begin(0)
    assert asking.asked == [0]
    assert not waiting.done()
    asking.permits.grant(0)
    await waiting


async def test_a_permit_that_was_put_back_serves_the_connection_that_follows_and_no_other(clock: Clock) -> None:
    asking = Asking()
    asking.permits.grant(0)
    await asking.permits.acquire(0)
    asking.permits.keep(0)
    await asking.permits.acquire(0)
    assert asking.asked == []
    waiting = await asking.begin(0)
    assert asking.asked == [0]
    waiting.cancel()


async def test_a_cancel_that_meets_the_permit_on_its_way_does_not_lose_it() -> None:
    asking = Asking()
    gave_up = await asking.begin(0)
    asking.permits.grant(0)
    gave_up.cancel()
    await asyncio.wait([gave_up])
    assert gave_up.cancelled()
    await asking.permits.acquire(0)
    assert asking.asked == [0]


class Websocket(str):
    """As much of a connection as is looked at: it has no session yet."""

    session_id: str | None = None
    sequence: int | None = None
    gateway: str | None = None


@dataclass
class Opened:
    """The gateway connections that were opened, and what each was asked for."""

    connections: list[tuple[int, bool]] = field(default_factory=list)
    fault: Exception | None = None
    options: list[dict[str, Any]] = field(default_factory=list)

    async def from_client(self, client: discord.Client, **options: Any) -> Any:
        self.options.append(options)
        if self.fault is not None:
            raise self.fault
        self.connections.append((options.get("shard_id") or 0, bool(options.get("resume"))))
        return Websocket("websocket")


@dataclass
class World:
    """One process's shards, with a Discord that recommends two."""

    opened: Opened
    sent: list[wire.FromChild] = field(default_factory=list)

    def shards(self, client: discord.Client, requested: str | int = "auto") -> Shards:
        handover: Any = Alone()
        made = Shards(client=client, requested=requested, send=self.sent.append, handover=handover)
        made.install()
        return made

    def states(self) -> list[tuple[int, str]]:
        return [(message.id, message.state) for message in self.sent if isinstance(message, wire.Shard)]

    def asked(self) -> list[int]:
        return [message.shard for message in self.sent if isinstance(message, wire.Identify)]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    opened = Opened()

    async def gateway_bot(client: discord.Client) -> tuple[int, str, SessionStartLimits]:
        limit = SessionStartLimits(total=1000, remaining=990, reset_after=14_400_000, max_concurrency=16)
        return 2, GATEWAY, limit

    monkeypatch.setattr(internals, "gateway_bot", gateway_bot)
    monkeypatch.setattr(Route, "BASE", Route.BASE)
    monkeypatch.setattr(DiscordWebSocket, "DEFAULT_GATEWAY", DiscordWebSocket.DEFAULT_GATEWAY)
    monkeypatch.setattr(DiscordWebSocket, "from_client", opened.from_client)
    monkeypatch.setattr(DiscordWebSocket, "__init__", DiscordWebSocket.__init__)
    monkeypatch.setattr(discord.client, "ExponentialBackoff", discord.client.ExponentialBackoff)  # type: ignore[attr-defined]
    monkeypatch.setattr(discord.shard, "ExponentialBackoff", discord.shard.ExponentialBackoff)  # type: ignore[attr-defined]
    monkeypatch.setattr(Shard, "reidentify", Shard.reidentify)
    monkeypatch.setattr(Shard, "reconnect", Shard.reconnect)
    return World(opened)


def connect(client: discord.Client, **options: Any) -> asyncio.Future[Any]:
    """Open a connection as discord.py does."""
    connecting: Awaitable[Any] = DiscordWebSocket.from_client(client, **options)
    return asyncio.ensure_future(connecting)


async def prepared(world: World, client: discord.Client, requested: str | int = "auto") -> list[wire.FromChild]:
    """Prepare with every permit given at once; return all that the supervisor was told."""
    made = world.shards(client, requested)
    made.permits.grant(client.shard_id or 0)
    await made.prepare()
    return world.sent


@pytest.mark.parametrize(("closed", "raised"), [(False, ConnectionError), (True, asyncio.CancelledError)])
async def test_a_connection_that_fails_because_the_client_was_closed_is_no_fault_to_tell_of(
    world: World, monkeypatch: pytest.MonkeyPatch, closed: bool, raised: type[BaseException]
) -> None:
    client = discord.AutoShardedClient(intents=NONE)
    made = world.shards(client)
    made.permits.grant(1)
    world.opened.fault = ConnectionError("the HTTP session is closed")
    monkeypatch.setattr(client, "is_closed", lambda: closed)
    with pytest.raises(raised):
        await DiscordWebSocket.from_client(client, shard_id=1)


@pytest.mark.parametrize(
    ("make", "requested", "count", "ids"),
    [
        (lambda: discord.Client(intents=NONE), "auto", None, [0]),
        (lambda: discord.Client(intents=NONE), 1, None, [0]),
        (lambda: commands.Bot("!", intents=NONE, shard_id=2, shard_count=4), "auto", 4, [2]),
        (lambda: discord.AutoShardedClient(intents=NONE), "auto", 2, [0, 1]),
        (lambda: commands.AutoShardedBot("!", intents=NONE), 3, 3, [0, 1, 2]),
        (lambda: discord.AutoShardedClient(intents=NONE, shard_count=4), "auto", 4, [0, 1, 2, 3]),
        (lambda: discord.AutoShardedClient(intents=NONE, shard_count=4), 3, 3, [0, 1, 2]),
        (lambda: discord.AutoShardedClient(intents=NONE, shard_count=4, shard_ids=[1, 3]), "auto", 4, [1, 3]),
        (lambda: discord.AutoShardedClient(intents=NONE, shard_count=4, shard_ids=[1, 3]), 4, 4, [1, 3]),
    ],
)
async def test_the_settings_the_app_and_discord_agree_on_the_shards(
    world: World, make: Callable[[], discord.Client], requested: str | int, count: int | None, ids: list[int]
) -> None:
    client = make()
    told = await prepared(world, client, requested)
    assert client.shard_count == count
    limits = wire.Limits(total=1000, remaining=990, reset_after=14_400.0, max_concurrency=16, shards=len(ids))
    assert told == [limits, *(wire.Shard(id=shard, state="waiting") for shard in ids)]


@pytest.mark.parametrize("kind", [discord.Client, commands.Bot])
async def test_a_client_of_one_shard_cannot_be_given_more_and_the_error_says_what_to_do(
    world: World, kind: type[discord.Client]
) -> None:
    client = kind(intents=NONE, **({"command_prefix": "!"} if kind is commands.Bot else {}))
    with pytest.raises(ShardsError) as refusal:
        await prepared(world, client, 4)
    assert str(refusal.value) == (
        f"bot.shards = 4, but the app is a {kind.__name__}, which connects one shard: make it an AutoShardedClient or "
        'AutoShardedBot, or set bot.shards = "auto"'
    )
    assert world.sent == []


async def test_an_app_that_names_its_shards_cannot_be_given_another_count(world: World) -> None:
    client = discord.AutoShardedClient(intents=NONE, shard_count=4, shard_ids=[1, 3])
    with pytest.raises(ShardsError) as refusal:
        await prepared(world, client, 8)
    assert str(refusal.value) == (
        "bot.shards = 8, but the app itself asks for some of 4 shards (shard_ids): remove them from the app, or set "
        'bot.shards = "auto"'
    )


class Answer:
    """What aiohttp says of an answer of Discord's."""

    reason = "no reason"

    def __init__(self, status: int) -> None:
        self.status = status


@pytest.mark.parametrize(("statuses", "tries"), [([503, 503], 3), ([503] * 4, 4), ([403], 1)])
async def test_an_error_of_discords_own_is_waited_out_and_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch, statuses: list[int], tries: int
) -> None:
    asked, answers = internals.gateway_bot, list(statuses)
    tried = []

    async def gateway_bot(client: discord.Client) -> Any:
        tried.append(client)
        if not answers:
            return await asked(client)
        try:
            raise discord.HTTPException(Answer(answers.pop(0)), "")  # type: ignore[arg-type]
        except discord.HTTPException as error:
            raise discord.GatewayNotFound from error

    monkeypatch.setattr(internals, "gateway_bot", gateway_bot)
    monkeypatch.setattr(shards, "PREPARE_PAUSES", (0.0, 0.0, 0.0))
    made = world.shards(discord.AutoShardedClient(intents=NONE))
    if statuses == [503, 503]:
        await made.prepare()
    else:
        with pytest.raises(discord.GatewayNotFound):
            await made.prepare()
    assert len(tried) == tries


async def test_connections_go_where_discord_said(world: World) -> None:
    await prepared(world, discord.Client(intents=NONE))
    assert str(DiscordWebSocket.DEFAULT_GATEWAY) == GATEWAY


async def test_the_one_shard_of_a_client_gets_its_permit_before_discord_py_begins_to_connect(world: World) -> None:
    client = discord.Client(intents=NONE)
    made = world.shards(client)
    await made.prepare()
    preparing = asyncio.ensure_future(made.permitted())
    await turns()
    assert world.asked() == [0]
    assert not preparing.done()
    made.permits.grant(0)
    await preparing
    await connect(client, shard_id=None)
    assert world.asked() == [0], "the connection uses the permit that it waited for"
    assert world.opened.connections == [(0, False)]


async def test_a_connection_that_identifies_opens_no_socket_before_its_permit(world: World, clock: Clock) -> None:
    client = discord.AutoShardedClient(intents=NONE)
    made = world.shards(client)
    connecting = connect(client, shard_id=1)
    await turns()
    assert world.opened.connections == []
    clock.now = 2000.0
    made.permits.grant(1)
    assert await connecting == "websocket"
    assert world.opened.connections == [(1, False)]
    assert made.identified_at == {1: 2000.0}
    assert world.states() == [(1, "waiting"), (1, "connecting")]


async def test_identifys_that_bring_no_session_come_ever_later(
    world: World, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Discord allows a thousand a day; at one in 5 s they would last for an hour and a half."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.now += seconds
        made.permits.grant(1)  # as the one that was there is too old

    made = world.shards(discord.AutoShardedClient(intents=NONE))
    monkeypatch.setattr(shards.asyncio, "sleep", sleep)
    for _ in range(9):
        made.permits.grant(1)
        await DiscordWebSocket.from_client(made.client, shard_id=1)
    assert slept == [4, 8, 16, 32, 45, 45]
    made.observe("shard_ready", (1,))
    made.permits.grant(1)
    await DiscordWebSocket.from_client(made.client, shard_id=1)
    assert len(slept) == 6, "it begins anew once there was a session"


async def test_a_connection_that_resumes_needs_no_permit(world: World) -> None:
    client = discord.AutoShardedClient(intents=NONE)
    made = world.shards(client)
    await connect(client, shard_id=1, resume=True, session="s", sequence=5)
    assert world.opened.connections == [(1, True)]
    assert world.asked() == []
    assert world.states() == [(1, "resuming")]
    assert made.identified_at == {}


async def test_a_shard_that_cannot_be_connected_goes_on_with_its_session_and_at_another_address_in_the_end(
    world: World,
) -> None:
    """discord.py begins a new session after each failure to connect, though Discord keeps the events of the old one."""
    made = world.shards(discord.AutoShardedClient(intents=NONE))
    made.permits.grant(1)
    websocket = await connect(made.client, shard_id=1)
    websocket.session_id, websocket.sequence, websocket.gateway = "abc", 7, "wss://near.invalid"
    made.observe("shard_ready", (1,))
    made.observe("shard_disconnect", (1,))
    for _ in range(2):
        world.opened.fault = aiohttp.ClientConnectionError("refused")
        with pytest.raises(aiohttp.ClientConnectionError):
            await connect(made.client, shard_id=1)
    world.opened.fault = None
    await connect(made.client, shard_id=1)
    tried = [{key: options[key] for key in ("session", "sequence", "gateway")} for options in world.opened.options[1:]]
    near = {"session": "abc", "sequence": 7, "gateway": "wss://near.invalid"}
    assert tried == [near, near, near | {"gateway": None}]
    assert world.asked() == [], "and no permit was needed"
    told = [(one.state, one.why) for one in world.sent if isinstance(one, wire.Shard)][-4:]
    assert told == [
        ("ready", ""),
        ("closed", "closed with 4000"),
        ("resuming", "closed with 4000"),
        ("resuming", "cannot connect: ClientConnectionError: refused"),
    ]


async def test_a_resume_without_a_session_identifies_and_so_needs_a_permit(world: World) -> None:
    client = discord.AutoShardedClient(intents=NONE)
    made = world.shards(client)
    connecting = connect(client, shard_id=1, resume=True, session=None)
    await turns()
    assert world.asked() == [1]
    made.permits.grant(1)
    await connecting
    assert world.opened.connections == [(1, False)]


@dataclass
class Launches:
    """Stands for `AutoShardedClient.launch_shard`."""

    launched: list[tuple[int, bool]] = field(default_factory=list)
    error: Exception | None = None

    async def __call__(self, gateway: Any, shard: int, *, initial: bool = False) -> None:
        assert str(gateway) == GATEWAY
        self.launched.append((shard, initial))
        if self.error is not None:
            raise self.error


@pytest.fixture
async def launching(world: World) -> tuple[Shards, Launches]:
    client = discord.AutoShardedClient(intents=NONE)
    made = world.shards(client, 3)
    await made.prepare()
    launches = Launches()
    client.launch_shard = launches  # type: ignore[method-assign]
    await client.launch_shards()
    await turns()
    return made, launches


async def test_all_shards_ask_at_once_and_each_is_launched_as_its_permit_comes(
    world: World, launching: tuple[Shards, Launches]
) -> None:
    made, launches = launching
    assert world.asked() == [0, 1, 2]
    assert launches.launched == []
    for shard in (2, 0, 1):
        made.permits.grant(shard)
        await turns()
    assert launches.launched == [(2, False), (0, True), (1, False)]


async def test_once_stopped_no_further_shard_is_launched(launching: tuple[Shards, Launches]) -> None:
    made, launches = launching
    made.permits.grant(0)
    await turns()
    made.stop()
    await turns()
    for shard in (1, 2):
        made.permits.grant(shard)
    await turns()
    assert launches.launched == [(0, True)]


async def test_a_shard_that_cannot_be_launched_is_logged_and_holds_up_no_other(
    launching: tuple[Shards, Launches], caplog: pytest.LogCaptureFixture
) -> None:
    made, launches = launching
    launches.error = OSError("no route")
    for shard in range(3):
        made.permits.grant(shard)
    await turns()
    assert [shard for shard, _ in launches.launched] == [0, 1, 2]
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["no route"] * 3


async def test_a_shard_that_waits_to_reconnect_holds_up_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    async def reconnect(shard: Any) -> None:
        begun.append(shard.name)
        await asyncio.Event().wait()

    monkeypatch.setattr(Shard, "reconnect", reconnect)
    made = world.shards(discord.AutoShardedClient(intents=NONE))
    for name in ("one", "two"):
        await Shard.reconnect(SimpleNamespace(name=name))  # type: ignore[arg-type]
    await turns()
    assert begun == ["one", "two"]
    made.stop()


async def test_the_sleep_of_discord_py_before_an_identify_is_taken_away(world: World) -> None:
    client = discord.Client(intents=NONE)
    world.shards(client)
    hook = client.before_identify_hook(0, initial=False)
    with pytest.raises(StopIteration):
        hook.send(None)


async def test_a_hook_of_the_app_before_an_identify_stays(world: World) -> None:
    class App(discord.Client):
        async def before_identify_hook(self, shard_id: int | None, *, initial: bool = False) -> None:
            called.append(shard_id)

    called: list[int | None] = []
    client = App(intents=NONE)
    world.shards(client)
    await client.before_identify_hook(7)
    assert called == [7]


async def test_states_of_a_sharded_client_are_sent_when_they_change_and_only_then(world: World) -> None:
    made = world.shards(discord.AutoShardedClient(intents=NONE))
    for name in ("shard_connect", "shard_ready", "shard_ready", "shard_resumed", "shard_disconnect", "shard_resumed"):
        made.observe(name, (1,))
    made.observe("shard_ready", (0,))
    made.observe("ready", ())
    assert world.states() == [(1, "ready"), (1, "closed"), (1, "ready"), (0, "ready")]


async def test_states_of_a_client_of_one_shard_follow_its_own_events(world: World) -> None:
    made = world.shards(discord.Client(intents=NONE, shard_id=2, shard_count=4))
    for name in ("connect", "ready", "resumed", "disconnect", "disconnect", "resumed"):
        made.observe(name, ())
    assert world.states() == [(2, "ready"), (2, "closed"), (2, "ready")]


async def test_it_has_caught_up_when_what_had_broken_is_resumed_and_every_socket_is_read_dry(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = discord.AutoShardedClient(intents=NONE)
    made = world.shards(client)
    left = {"websocket": 2}

    def unread(websocket: str) -> bool:
        left[websocket] -= 1
        return left[websocket] >= 0

    monkeypatch.setattr(internals, "unread", unread)
    await connect(client, shard_id=0, resume=True, session="abc")
    waiting = asyncio.ensure_future(made.caught_up(5.0))
    await turns()
    assert left == {"websocket": 2}, "not before what has broken is resumed"
    made.observe("shard_resumed", (0,))
    await waiting
    assert left == {"websocket": -1}


async def test_a_connection_that_stays_broken_is_waited_for_only_so_long(world: World) -> None:
    made = world.shards(discord.AutoShardedClient(intents=NONE))
    made.observe("shard_disconnect", (1,))
    began = asyncio.get_running_loop().time()
    await made.caught_up(0.05)
    assert asyncio.get_running_loop().time() - began >= 0.05


@pytest.mark.parametrize("kind", [discord.Client, discord.AutoShardedClient])
async def test_a_latency_is_told_only_where_a_heartbeat_was_answered(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: type[discord.Client]
) -> None:
    client = kind(intents=NONE)
    made = world.shards(client)
    assert made.latencies() == {}
    if kind is discord.Client:
        monkeypatch.setattr(kind, "latency", 0.0421)
    else:
        monkeypatch.setattr(kind, "latencies", [(0, 0.0421), (1, float("inf")), (2, float("nan"))])
    assert made.latencies() == {0: 42.1}
