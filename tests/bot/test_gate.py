"""The gate: what reaches an unmodified client's handlers, by role. No network: payloads go straight to the parsers."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import discord
import pytest
from discord.ext import commands

from bastion.bot import gate as gate_module
from bastion.bot import internals
from bastion.bot.gate import Gate, Role
from bastion.bot.ledger import SQLiteLedger

pytestmark = pytest.mark.anyio

GUILD = 1 << 22


class Recorder(discord.Client):
    """An app that notes what it hears."""

    def __init__(self, **options: Any) -> None:
        super().__init__(intents=discord.Intents.all(), **options)
        self.heard: list[str] = []

    async def on_message(self, message: discord.Message) -> None:
        self.heard.append(f"message {message.id} {message.content}")
        self.dispatch("noticed", message.id)

    async def on_noticed(self, message_id: int) -> None:
        self.heard.append(f"noticed {message_id}")

    async def on_raw_reaction_add(self, payload: discord.RawReactionActionEvent) -> None:
        self.heard.append(f"add {payload.message_id}")

    async def on_raw_reaction_remove(self, payload: discord.RawReactionActionEvent) -> None:
        self.heard.append(f"remove {payload.message_id}")

    async def on_interaction(self, interaction: discord.Interaction[Any]) -> None:
        self.heard.append(f"interaction {interaction.id}")

    async def on_guild_join(self, guild: discord.Guild) -> None:
        self.heard.append(f"join {guild.id}")


@dataclass
class World:
    """Children that share a ledger and a clock that stands still unless it is moved."""

    ledger: Path
    now: float = 100.0
    gates: list[Gate] = field(default_factory=list)

    async def child(self, role: Role, make: Callable[[], discord.Client] = Recorder) -> tuple[Any, Gate]:
        client = make()
        await client._async_setup_hook()
        ledger = SQLiteLedger(str(self.ledger), len(self.gates) + 1)
        gate = Gate(client=client, ledger=ledger, observer=lambda *_: None, role=role, clock=self.tick)
        gate.install()
        if role == "standby":
            gate.open_window()
        self.gates.append(gate)
        return client, gate

    def tick(self) -> float:
        self.now += 1e-6
        return self.now


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "ledger.db")
    yield world
    for gate in world.gates:
        gate.ledger.close()


def feed(client: discord.Client, name: str, data: dict[str, Any]) -> None:
    internals.parsers(client)[name](data)


def message(number: int, content: str = "hello") -> dict[str, Any]:
    return {
        "id": str(number),
        "channel_id": "5",
        "author": {"id": "9", "username": "ann", "discriminator": "0", "avatar": None},
        "content": content,
        "timestamp": "2026-01-01T00:00:00+00:00",
        "edited_timestamp": None,
        "tts": False,
        "mention_everyone": False,
        "mentions": [],
        "mention_roles": [],
        "attachments": [],
        "embeds": [],
        "pinned": False,
        "type": 0,
    }


def reaction(message_id: int) -> dict[str, Any]:
    return {
        "user_id": "9",
        "channel_id": "5",
        "message_id": str(message_id),
        "guild_id": str(GUILD),
        "emoji": {"id": None, "name": "x"},
        "type": 0,
        "burst": False,
    }


def slash(number: int) -> dict[str, Any]:
    return {
        "id": str(number),
        "application_id": "7",
        "type": 2,
        "token": "t",
        "version": 1,
        "channel_id": "5",
        "entitlements": [],
        "authorizing_integration_owners": {},
        "attachment_size_limit": 1,
        "user": {"id": "9", "username": "ann", "discriminator": "0", "avatar": None},
        "data": {"id": "3", "name": "ping", "type": 1},
    }


async def settle() -> None:
    """Let every handler that was begun end."""
    while handlers := [task for task in asyncio.all_tasks() if task.get_name().startswith(("discord", "Command"))]:
        await asyncio.wait(handlers)


async def turns() -> None:
    """Let tasks that have been woken come to their end."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_active_child_passes_everything_and_claims_nothing_while_no_window_is_open(world: World) -> None:
    client, gate = await world.child("active")
    feed(client, "MESSAGE_CREATE", message(1))
    await settle()
    assert client.heard == ["message 1 hello", "noticed 1"]
    assert gate.ledger.won == 0


async def test_events_that_a_handler_fires_itself_pass_with_the_event_they_descend_from(world: World) -> None:
    client, gate = await world.child("active")
    gate.open_window()
    feed(client, "MESSAGE_CREATE", message(1))
    await settle()
    assert client.heard == ["message 1 hello", "noticed 1"]
    assert (gate.ledger.won, gate.ledger.lost) == (1, 0)


async def test_what_nothing_hears_is_not_dispatched_and_what_is_waited_for_is(world: World) -> None:
    dispatched: list[str] = []

    def bare() -> discord.Client:
        client = discord.Client(intents=discord.Intents.all())
        own = client.dispatch

        def dispatch(name: str, *args: Any) -> None:
            dispatched.append(name)
            own(name, *args)

        dispatch.__module__ = own.__module__
        client.dispatch = dispatch  # type: ignore[method-assign]
        return client

    client, gate = await world.child("active", bare)
    client.dispatch("socket_event_type", "MESSAGE_CREATE")
    feed(client, "MESSAGE_CREATE", message(1))
    assert (dispatched, gate.counters.received, gate.counters.handled) == ([], 1, 0)
    waiting = asyncio.ensure_future(client.wait_for("message"))
    await settle()
    feed(client, "MESSAGE_CREATE", message(2))
    assert (await waiting).id == 2
    assert (dispatched, gate.counters.handled) == (["message"], 1)


@pytest.mark.parametrize("window", [False, True])
async def test_a_bots_method_its_cogs_and_who_waits_hear_an_event_in_the_order_of_discord_py(
    world: World, window: bool
) -> None:
    heard: list[str] = []

    class Listening(commands.Cog):
        @commands.Cog.listener("on_message")
        async def first(self, message: discord.Message) -> None:
            heard.append(f"first {message.id}")

        @commands.Cog.listener("on_message")
        async def second(self, message: discord.Message) -> None:
            heard.append(f"second {message.id}")

    class Bot(commands.Bot):
        async def on_message(self, message: discord.Message, /) -> None:
            heard.append(f"method {message.id}")

    client, gate = await world.child("active", lambda: Bot("!", intents=discord.Intents.all()))
    await client.add_cog(Listening())
    if window:
        gate.open_window()
    for number in (1, 2):
        feed(client, "MESSAGE_CREATE", message(number))
        await settle()
    waiting = asyncio.ensure_future(client.wait_for("message"))
    await asyncio.sleep(0)
    feed(client, "MESSAGE_CREATE", message(3))
    await settle()
    assert (await waiting).id == 3
    assert heard == [f"{who} {number}" for number in (1, 2, 3) for who in ("method", "first", "second")]
    assert (gate.counters.handled, gate.ledger.won) == (3, 3 if window else 0)


async def test_an_app_that_puts_a_dispatch_of_its_own_into_its_client_hears_everything(world: World) -> None:
    heard: list[str] = []

    def listening() -> discord.Client:
        client = discord.Client(intents=discord.Intents.all())
        client.dispatch = lambda name, *args: heard.append(name)  # type: ignore[method-assign, assignment]
        return client

    client, gate = await world.child("active", listening)
    client.dispatch("socket_event_type", "MESSAGE_CREATE")
    feed(client, "MESSAGE_CREATE", message(1))
    assert (heard, gate.counters.handled) == (["socket_event_type", "message"], 1)


async def test_a_standby_hears_nothing_but_keeps_its_cache(world: World) -> None:
    client, gate = await world.child("standby")
    feed(client, "MESSAGE_CREATE", message(1))
    feed(client, "INTERACTION_CREATE", slash(2))
    await settle()
    assert client.heard == []
    assert [cached.id for cached in client.cached_messages] == [1]
    assert gate.held == 2


async def test_on_activation_what_nobody_claimed_is_replayed_in_order_and_the_rest_is_not(world: World) -> None:
    old, old_gate = await world.child("active")
    old_gate.open_window()
    new, new_gate = await world.child("standby")
    for number in range(1, 5):
        feed(new, "MESSAGE_CREATE", message(number))
    for number in (1, 3):
        feed(old, "MESSAGE_CREATE", message(number))
    await new_gate.activate()
    await settle()
    assert [line for line in new.heard if line.startswith("message")] == ["message 2 hello", "message 4 hello"]
    assert new_gate.counters.replayed == 2
    feed(old, "MESSAGE_CREATE", message(2))
    await settle()
    assert "message 2 hello" not in old.heard


async def test_events_that_arrive_during_a_replay_keep_their_place_behind_it(world: World) -> None:
    client, gate = await world.child("standby")
    for number in range(1, 4):
        feed(client, "MESSAGE_CREATE", message(number))
    activation = asyncio.ensure_future(gate.activate())
    feed(client, "MESSAGE_CREATE", message(4))
    await activation
    feed(client, "MESSAGE_CREATE", message(5))
    await settle()
    order = [int(line.split()[1]) for line in client.heard if line.startswith("message")]
    assert order == [1, 2, 3, 4, 5]


async def test_a_rightful_repeat_is_a_new_event(world: World) -> None:
    old, old_gate = await world.child("active")
    old_gate.open_window()
    new, new_gate = await world.child("standby")
    for child in (old, new):
        for name in ("ADD", "REMOVE", "ADD"):
            feed(child, f"MESSAGE_REACTION_{name}", reaction(1))
    await settle()
    assert old.heard == ["add 1", "remove 1", "add 1"]
    feed(new, "MESSAGE_REACTION_REMOVE", reaction(1))
    await new_gate.activate()
    await settle()
    assert new.heard == ["remove 1"]


async def test_a_held_message_says_what_it_said_when_it_came(world: World) -> None:
    client, gate = await world.child("standby")
    feed(client, "MESSAGE_CREATE", message(1, "first"))
    feed(client, "MESSAGE_UPDATE", {**message(1, "second"), "edited_timestamp": "2026-01-01T00:00:01+00:00"})
    await gate.activate()
    await settle()
    assert client.heard[0] == "message 1 first"


async def test_an_interaction_too_old_to_be_answered_is_counted_and_not_replayed(world: World) -> None:
    client, gate = await world.child("standby")
    feed(client, "INTERACTION_CREATE", slash(1))
    world.now += 3.1
    feed(client, "INTERACTION_CREATE", slash(2))
    await gate.activate()
    await settle()
    assert client.heard == ["interaction 2"]
    assert (gate.counters.expired, gate.counters.replayed) == (1, 1)


async def test_a_draining_child_takes_nothing_new_but_feeds_a_conversation_that_waits(world: World) -> None:
    client, gate = await world.child("active")
    gate.open_window()
    conversation = asyncio.ensure_future(client.wait_for("message", check=lambda m: m.content == "yes"))
    await asyncio.sleep(0)
    gate.drain()
    feed(client, "MESSAGE_CREATE", message(1, "no"))
    feed(client, "MESSAGE_CREATE", message(2, "yes"))
    assert (await conversation).id == 2
    assert client.heard == []


async def test_a_standby_that_was_active_feeds_its_conversations_and_one_that_never_was_does_not(world: World) -> None:
    for role, fed in (("active", True), ("standby", False)):
        client, gate = await world.child(role)  # type: ignore[arg-type]
        gate.open_window()
        conversation = asyncio.ensure_future(client.wait_for("message"))
        await asyncio.sleep(0)
        gate.standby()
        feed(client, "MESSAGE_CREATE", message(1))
        assert ("message" not in client._listeners) == fed
        conversation.cancel()
        await asyncio.wait([conversation])


async def test_a_draining_child_that_is_made_active_again_replays_what_it_held_but_not_to_conversations(
    world: World,
) -> None:
    client, gate = await world.child("active")
    gate.open_window()
    first = asyncio.ensure_future(client.wait_for("message"))
    await asyncio.sleep(0)
    gate.drain()
    feed(client, "MESSAGE_CREATE", message(1))
    await first
    second = asyncio.ensure_future(client.wait_for("message"))
    await asyncio.sleep(0)
    await gate.activate()
    assert not second.done()
    second.cancel()
    await settle()
    assert client.heard == ["message 1 hello", "noticed 1"]


async def test_a_standby_forgets_what_the_active_child_has_claimed_as_time_goes_by(world: World) -> None:
    old, old_gate = await world.child("active")
    old_gate.open_window()
    new, new_gate = await world.child("standby")
    for child in (old, new):
        feed(child, "MESSAGE_CREATE", message(1))
    feed(new, "MESSAGE_CREATE", message(2))
    await settle()
    world.now += 5
    new_gate.forget_claimed()
    assert new_gate.held == 1


async def test_what_is_claimed_is_named_before_and_until_its_handlers_have_begun(world: World) -> None:
    told: list[str] = []
    for role in ("active", "standby"):
        client, gate = await world.child(role)
        gate.open_window()
        gate.claiming = lambda event: told.append(f"claims {event.name}")
        gate.begun = lambda: told.append("begun")
        gate.handed = lambda place: told.append("handed")
        gate.place = lambda: (0, 1)
        claim = gate.ledger.claim
        gate.ledger.claim = lambda *args, claim=claim: (told.append("claimed"), claim(*args))[1]
        schedule = client._schedule_event
        client._schedule_event = lambda *args, run=schedule, **options: (told.append(args[1]), run(*args, **options))[1]
        feed(client, "MESSAGE_CREATE", message(len(world.gates)))
        feed(client, "INTERACTION_CREATE", slash(len(world.gates)))
        if role == "active":
            live = [*told]
            told.clear()
    await gate.activate()
    await settle()
    assert live == [
        *("claims MESSAGE_CREATE", "claimed", "on_message", "begun"),
        *("claims INTERACTION_CREATE", "claimed", "on_interaction", "begun"),
    ]
    assert [one for one in told if one != "on_noticed"] == [
        *("claims MESSAGE_CREATE", "claimed", "on_message", "handed"),
        *("claims INTERACTION_CREATE", "claimed", "on_interaction", "begun", "handed"),
    ]


async def test_what_another_child_has_claimed_is_named_no_longer_once_that_is_known(world: World) -> None:
    _, old_gate = await world.child("active")
    new, gate = await world.child("active")
    for one in (old_gate, gate):
        one.open_window()
    told: list[str] = []
    gate.claiming = lambda event: told.append("claims")
    gate.begun = lambda: told.append("begun")
    assert old_gate.ledger.claim("MESSAGE_CREATE:1", 0.0)
    feed(new, "MESSAGE_CREATE", message(1))
    await settle()
    assert (told, new.heard) == (["claims", "begun"], [])


async def test_a_window_that_stays_open_for_hours_does_not_grow(world: World) -> None:
    old, old_gate = await world.child("active")
    old_gate.open_window()
    new, new_gate = await world.child("standby")
    kept = []
    for number in range(1, 601):
        for client in (old, new):
            feed(client, "MESSAGE_CREATE", message(number) | {"guild_id": str(GUILD)})
            for one in (number, 0):
                feed(client, "MESSAGE_REACTION_ADD", reaction(one))
        await settle()
        world.now += 30
        for gate in (old_gate, new_gate):
            gate.forget_claimed()
            gate.trim()
        with closing(sqlite3.connect(world.ledger)) as db:
            tables = ("claims", "occurrences")
            kept.append([db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables])
    assert [max(column) for column in zip(*kept[100:], strict=True)] == [max(c) for c in zip(*kept[:100], strict=True)]
    assert (old_gate.ledger.errors, new_gate.ledger.errors, new_gate.counters.overflowed) == (0, 0, 0)
    feed(new, "MESSAGE_REACTION_ADD", reaction(0))
    await new_gate.activate()
    feed(old, "MESSAGE_REACTION_ADD", reaction(0))
    await settle()
    assert old.heard.count("add 0") + new.heard.count("add 0") == 601


async def test_a_standby_looks_again_at_what_a_child_that_stood_still_had_not_claimed_at_first(world: World) -> None:
    old, old_gate = await world.child("active")
    old_gate.open_window()
    new, new_gate = await world.child("standby")
    feed(new, "MESSAGE_REACTION_ADD", reaction(1))
    feed(new, "MESSAGE_CREATE", message(1))
    world.now += 4
    new_gate.forget_claimed()
    assert new_gate.held == 2
    feed(old, "MESSAGE_REACTION_ADD", reaction(1))
    feed(old, "MESSAGE_CREATE", message(1))
    world.now += 30
    new_gate.forget_claimed()
    assert new_gate.held == 0


def guild() -> dict[str, Any]:
    return {
        "id": str(GUILD),
        "name": "g",
        "joined_at": "2026-01-01T00:00:00+00:00",
        "member_count": 0,
        "members": [],
        "channels": [],
        "roles": [],
        "emojis": [],
        "features": [],
        "owner_id": "9",
        "large": False,
    }


async def test_a_guild_joined_while_the_standby_gets_ready_is_held_too(world: World) -> None:
    client, gate = await world.child("standby")
    client._connection._ready_state = asyncio.Queue()
    feed(client, "GUILD_CREATE", guild())
    joined = client.get_guild(GUILD)
    assert joined is not None
    client.dispatch("guild_join", joined)
    assert client.heard == []
    assert gate.held == 1


def await_ready(client: Any) -> None:
    """Have discord.py take guilds for some that READY named: it tells of them later, as available."""
    client._connection._ready_state = asyncio.Queue()


def tell_of_guild(client: Any) -> None:
    """Tell of one of them, as discord.py's task does that awaits them."""
    client.dispatch("guild_available", client.get_guild(GUILD))


@pytest.mark.parametrize("window", ["open", "none", "closed meanwhile", "opened meanwhile"])
async def test_a_guild_joined_while_a_shard_of_the_active_child_identifies_anew_is_heard_as_a_join(
    world: World, window: str
) -> None:
    client, gate = await world.child("active")
    if window in ("open", "closed meanwhile"):
        gate.open_window()
    await_ready(client)
    feed(client, "GUILD_CREATE", guild())
    if window == "closed meanwhile":
        gate.close_window()
    elif window == "opened meanwhile":
        gate.open_window()
    tell_of_guild(client)
    await settle()
    assert client.heard == [f"join {GUILD}"]


async def test_a_guild_that_ready_named_is_no_join(world: World) -> None:
    client, _ = await world.child("active")
    await_ready(client)
    feed(client, "GUILD_CREATE", guild() | {"unavailable": False})
    tell_of_guild(client)
    await settle()
    assert client.heard == []


async def test_who_hears_of_available_guilds_alone_still_does(world: World) -> None:
    heard = []

    class Careless(discord.Client):
        async def on_guild_available(self, guild: discord.Guild) -> None:
            heard.append(guild.id)

    client, _ = await world.child("active", lambda: Careless(intents=discord.Intents.all()))
    await_ready(client)
    feed(client, "GUILD_CREATE", guild())
    tell_of_guild(client)
    await settle()
    assert heard == [GUILD]


@pytest.mark.parametrize("over", [False, True])
async def test_a_join_that_a_standby_heard_as_its_shard_identified_anew_is_its_own_once_it_is_active(
    world: World, over: bool
) -> None:
    """discord.py tells of it when this child is active already, perhaps alone."""
    client, gate = await world.child("standby")
    await_ready(client)
    feed(client, "GUILD_CREATE", guild())
    await gate.activate()
    assert gate.ledger.won == 1, "the older child, which ends now, may not take it"
    if over:
        gate.close_window()
    tell_of_guild(client)
    await settle()
    assert client.heard == [f"join {GUILD}"]


async def test_a_join_that_the_older_child_took_is_not_heard_by_the_younger_one_however_late_it_is_told(
    world: World,
) -> None:
    old, old_gate = await world.child("active")
    new, new_gate = await world.child("standby")
    old_gate.open_window()
    await_ready(new)
    for client in (old, new):
        feed(client, "GUILD_CREATE", guild())
    await new_gate.activate()
    new_gate.close_window()
    tell_of_guild(new)
    await settle()
    assert (old.heard, new.heard) == ([f"join {GUILD}"], [])


async def test_a_guild_that_is_joined_again_before_its_first_join_was_told_of_is_a_join_of_its_own(
    world: World,
) -> None:
    """discord.py tells of a join when it has the guild's members; by then this child drains."""
    old, gate = await world.child("active")
    gate.open_window()
    first, second = guild(), guild() | {"joined_at": "2026-01-02T00:00:00+00:00"}

    def feed_join(client: Any, data: dict[str, Any]) -> None:
        async def tell() -> None:
            await members.wait()
            client.dispatch("guild_join", joined)
            told.release()

        joined = discord.Guild(data=data, state=client._connection)
        parser = client._connection.parsers["GUILD_CREATE"]
        client._connection._chunk_and_dispatch = lambda *_: tell()
        client._connection._guild_needs_chunking = lambda _: True
        parser(data)

    members = asyncio.Event()
    told = asyncio.Semaphore(0)
    feed_join(old, first)
    feed(old, "GUILD_DELETE", {"id": str(GUILD)})
    gate.drain()
    feed_join(old, second)
    members.set()
    await told.acquire()
    await told.acquire()
    await settle()
    assert old.heard == [f"join {GUILD}"]
    assert gate.held == 1


def await_members(client: Any) -> asyncio.Event:
    """Have discord.py await the members of each guild that is joined until the event is set, then tell of it."""

    async def tell(joined: discord.Guild, _: object) -> None:
        await members.wait()
        client.dispatch("guild_join", joined)

    members = asyncio.Event()
    client._connection._chunk_and_dispatch = tell
    client._connection._guild_needs_chunking = lambda _: True
    return members


async def test_a_guild_that_was_left_and_joined_again_before_a_shard_was_ready_is_joined_once(world: World) -> None:
    """The task that awaits READY's guilds tells of it as it was first, and another task of the join."""
    client, gate = await world.child("active")
    gate.open_window()
    await_ready(client)
    feed(client, "GUILD_CREATE", guild() | {"unavailable": False})
    feed(client, "GUILD_DELETE", {"id": str(GUILD)})
    del client._connection._ready_state  # all guilds are there, it only waits for their members
    members = await_members(client)
    feed(client, "GUILD_CREATE", guild())
    tell_of_guild(client)
    members.set()
    await turns()
    await settle()
    assert client.heard == [f"join {GUILD}"]


@pytest.mark.parametrize("left", [False, True])
async def test_a_draining_child_can_tell_of_a_join_whose_members_do_not_come_and_tells_once(
    world: World, left: bool
) -> None:
    client, gate = await world.child("active")
    gate.open_window()
    members = await_members(client)
    feed(client, "GUILD_CREATE", guild())
    if left:
        feed(client, "GUILD_DELETE", {"id": str(GUILD)})
    gate.drain()
    gate.tell_of_joins()
    await settle()
    assert client.heard == [f"join {GUILD}"]
    members.set()
    await turns()
    await settle()
    assert client.heard == [f"join {GUILD}"]


async def test_a_child_that_is_active_again_awaits_the_members(world: World) -> None:
    client, gate = await world.child("active")
    gate.open_window()
    members = await_members(client)
    feed(client, "GUILD_CREATE", guild())
    gate.drain()
    await gate.activate()
    gate.tell_of_joins()
    await settle()
    assert client.heard == []
    members.set()
    await turns()
    await settle()
    assert client.heard == [f"join {GUILD}"]


async def test_a_ledger_that_fails_never_costs_an_event(world: World, tmp_path: Path) -> None:
    client, gate = await world.child("active")
    gate.ledger = SQLiteLedger(str(tmp_path / "missing" / "ledger.db"), 1)
    gate.open_window()
    feed(client, "MESSAGE_CREATE", message(1))
    await settle()
    assert client.heard[0] == "message 1 hello"
    assert gate.ledger.errors > 0


async def test_claims_go_on_for_a_while_after_the_other_child_has_left_for_a_session_may_be_late(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "PAIR_WITHIN", 0.05)
    old, old_gate = await world.child("active")
    old_gate.open_window()
    new, new_gate = await world.child("standby")
    await new_gate.activate()
    feed(old, "MESSAGE_CREATE", message(1))
    new_gate.close_window()
    feed(new, "MESSAGE_CREATE", message(1))
    await settle()
    assert (old.heard[0], new.heard) == ("message 1 hello", [])
    await asyncio.sleep(0.1)  # the timer of 0.05 s was started before
    feed(new, "MESSAGE_CREATE", message(2))
    assert new_gate.ledger.claimed(["MESSAGE_CREATE:2"]) == set()
    world.now += 60
    new_gate.trim()
    assert new_gate.ledger.claimed(["MESSAGE_CREATE:1"]) == set(), "a window that has closed leaves nothing"


async def test_a_window_that_is_about_to_close_stays_open_for_the_next_child(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_module, "PAIR_WITHIN", 0.0)
    _, gate = await world.child("active")
    gate.open_window()
    gate.close_window()
    gate.open_window()
    await asyncio.sleep(0.01)
    assert gate.window_open


class Quiet(discord.Client):
    """An app that hears nothing of interactions but by its views."""

    def __init__(self) -> None:
        super().__init__(intents=discord.Intents.all())
        self.heard: list[str] = []


def press(number: int, custom_id: str = "x", *, on: int = 55) -> dict[str, Any]:
    return {**slash(number), "type": 3, "data": {"custom_id": custom_id, "component_type": 2}, "message": message(on)}


class Noting(discord.ui.Button[Any]):
    """Notes its presses in the app."""

    def __init__(self, heard: list[str], custom_id: str) -> None:
        super().__init__(label="x", custom_id=custom_id)
        self._heard = heard

    async def callback(self, interaction: discord.Interaction[Any]) -> None:
        self._heard.append(f"press {interaction.id}")


def show(client: Any, custom_id: str = "x", *, on: int | None = 55, timeout: float | None = 180) -> discord.ui.View:
    view = discord.ui.View(timeout=timeout).add_item(Noting(client.heard, custom_id))
    client._connection.store_view(view, on)
    return view


@dataclass
class Pair:
    """An old child that drains, the new one that is active, and what each was told of strangers."""

    old: Any
    new: Any
    old_gate: Gate
    new_gate: Gate
    strangers: list[str]

    def press(self, number: int, custom_id: str = "x") -> None:
        for client in (self.old, self.new):
            feed(client, "INTERACTION_CREATE", press(number, custom_id))


@pytest.fixture
async def pair(world: World, monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr("bastion.bot.gate.OWNER_FIRST", 0.2)
    monkeypatch.setattr("bastion.bot.gate.ACTIVE_FIRST", 0.1)
    old, old_gate = await world.child("active", Quiet)
    old_gate.open_window()
    new, new_gate = await world.child("standby", Quiet)
    await new_gate.activate()
    old_gate.drain()
    strangers: list[str] = []
    for name, gate in (("old", old_gate), ("new", new_gate)):
        gate.stranger_taken = lambda event, interaction, left, name=name: strangers.append(f"{name} {interaction.id}")
    return Pair(old, new, old_gate, new_gate, strangers)


async def taken_later(pair: Pair) -> None:
    """Wait until both children have taken what they left to the other, or lost it."""
    await asyncio.sleep(0.3)
    assert not pair.old_gate._later
    assert not pair.new_gate._later
    await settle()


async def test_a_draining_child_answers_its_own_view_at_once_and_the_active_one_leaves_it(pair: Pair) -> None:
    view = show(pair.old)
    pair.press(1)
    await settle()
    assert pair.old.heard == ["press 1"]
    await taken_later(pair)
    assert (pair.new.heard, pair.strangers) == ([], [])
    view.stop()


async def test_what_a_draining_child_claims_is_named_until_its_handlers_have_begun(pair: Pair) -> None:
    named: list[str] = []
    pair.old_gate.claiming = lambda event: named.append(event.describe())
    pair.old_gate.begun = lambda: named.append("begun")
    show(pair.old)
    feed(pair.old, "INTERACTION_CREATE", press(1))
    assert named == ["INTERACTION_CREATE 1", "begun"]


async def test_what_a_draining_child_answers_is_claimed_for_whoever_resumes_its_sessions(world: World) -> None:
    only, gate = await world.child("active", Quiet)
    view = show(only)
    gate.drain()
    feed(only, "INTERACTION_CREATE", press(1))
    await settle()
    assert only.heard == ["press 1"]
    with closing(SQLiteLedger(str(world.ledger), 7)) as successor:
        assert successor.claimed(["INTERACTION_CREATE:1"]) == {"INTERACTION_CREATE:1"}
    view.stop()


async def test_what_its_owner_has_answered_is_not_taken_again_when_the_claims_are_forgotten_meanwhile(
    pair: Pair,
) -> None:
    view = show(pair.old)
    pair.press(1)
    await settle()
    pair.new_gate.close_window()
    await taken_later(pair)
    assert (pair.old.heard, pair.new.heard, pair.strangers) == (["press 1"], [], [])
    view.stop()


async def test_a_component_that_both_know_is_the_active_childs(pair: Pair) -> None:
    shown = show(pair.old)
    lasting = [discord.ui.View(timeout=None).add_item(Noting(c.heard, "x")) for c in (pair.old, pair.new)]
    for client, view in zip((pair.old, pair.new), lasting, strict=True):
        client.add_view(view)
    feed(pair.old, "INTERACTION_CREATE", press(1))
    await settle()
    feed(pair.new, "INTERACTION_CREATE", press(1))
    await taken_later(pair)
    assert (pair.old.heard, pair.new.heard) == ([], ["press 1"])
    shown.stop()


async def test_a_component_that_the_active_child_does_not_know_after_all_is_the_draining_ones(pair: Pair) -> None:
    shown = show(pair.old)
    pair.old.add_view(discord.ui.View(timeout=None).add_item(Noting(pair.old.heard, "x")))
    pair.press(1)
    await taken_later(pair)
    assert (pair.old.heard, pair.new.heard, pair.strangers) == (["press 1"], [], [])
    shown.stop()


async def test_a_component_that_nobody_knows_is_taken_once_by_the_active_child_as_a_stranger(pair: Pair) -> None:
    pair.press(1)
    await settle()
    assert pair.strangers == [], "the owner goes first"
    await taken_later(pair)
    assert pair.strangers == ["new 1"]


@pytest.mark.parametrize("rest", [Gate.drain, Gate.standby])
async def test_what_was_left_to_an_owner_is_taken_when_a_younger_child_comes_for_it_may_not_have_heard_of_it(
    pair: Pair, rest: Callable[[Gate], None]
) -> None:
    feed(pair.new, "INTERACTION_CREATE", press(1))
    await settle()
    assert pair.strangers == []
    rest(pair.new_gate)
    assert not pair.new_gate._later
    await settle()
    assert pair.strangers == ["new 1"]


async def test_a_finished_child_takes_nothing_any_more_not_even_its_own(pair: Pair) -> None:
    view = show(pair.old)
    pair.old_gate.finish()
    pair.press(1)
    await taken_later(pair)
    assert (pair.old.heard, pair.strangers) == ([], ["new 1"])
    view.stop()


async def test_what_was_left_to_an_owner_is_named_and_not_taken_by_a_child_whose_client_is_closed(pair: Pair) -> None:
    feed(pair.new, "INTERACTION_CREATE", press(1))
    assert pair.new_gate.shut() == ["INTERACTION_CREATE 1"]
    assert pair.new_gate.shut() == []
    await taken_later(pair)
    assert (pair.strangers, pair.new_gate.ledger.won) == ([], 0)


@pytest.mark.parametrize("order", [None, Gate.activate, Gate.standby, Gate.drain])
async def test_a_child_whose_client_is_closed_claims_nothing_any_more_whatever_it_is_told(
    world: World, order: Callable[[Gate], Any] | None
) -> None:
    client, gate = await world.child("active")
    gate.open_window()
    view = show(client)
    feed(client, "MESSAGE_CREATE", message(1))
    await settle()
    gate.shut()
    for _ in range(2):
        if order and asyncio.iscoroutine(ordered := order(gate)):
            await ordered
        feed(client, "MESSAGE_CREATE", message(2))
        feed(client, "INTERACTION_CREATE", press(3))
        feed(client, "GUILD_CREATE", guild())
        await settle()
    assert (client.heard, gate.ledger.won) == (["message 1 hello", "noticed 1"], 1)
    view.stop()


async def test_an_app_that_hears_all_interactions_leaves_an_owner_its_moment_too(world: World) -> None:
    old, old_gate = await world.child("active", Quiet)
    old_gate.open_window()
    new, new_gate = await world.child("standby")
    await new_gate.activate()
    old_gate.drain()
    view = show(old)
    feed(new, "INTERACTION_CREATE", press(1))
    await settle()
    assert new.heard == []
    feed(old, "INTERACTION_CREATE", press(1))
    await settle()
    assert old.heard == ["press 1"]
    view.stop()


async def test_without_a_window_a_component_that_nobody_knows_is_a_stranger_at_once(world: World) -> None:
    client, gate = await world.child("active")
    strangers: list[tuple[int, float]] = []
    gate.stranger_taken = lambda event, interaction, left: strangers.append((interaction.id, round(left, 1)))
    feed(client, "INTERACTION_CREATE", press(1))
    feed(client, "INTERACTION_CREATE", slash(2))
    await settle()
    assert client.heard == ["interaction 1", "interaction 2"], "the app hears it all the same"
    assert strangers == [(1, 3.0)]


@pytest.mark.parametrize("role", ["standby", "active"])
async def test_what_the_socket_says_reaches_the_app_in_every_role_and_not_the_observer(
    world: World, role: Role
) -> None:
    client, gate = await world.child(role)
    observed: list[str] = []
    heard: list[str] = []
    gate.observer = lambda name, args: observed.append(name)

    async def on_socket_event_type(name: str) -> None:
        heard.append(name)

    client.on_socket_event_type = on_socket_event_type
    client.dispatch("socket_event_type", "MESSAGE_CREATE")
    client.dispatch("connect")
    await asyncio.sleep(0)
    assert (heard, observed) == (["MESSAGE_CREATE"], ["connect"])
