"""What a living child notes: only what the app has been given counts as handed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import discord
import pytest

from bastion.bot import internals
from bastion.bot.gate import Event, Gate, Role
from bastion.bot.inflight import JOIN, InFlight, current
from bastion.bot.ledger import SQLiteLedger
from bastion.bot.sessions import DeadSession, SessionFile
from bastion.bot.trail import Trail

pytestmark = pytest.mark.anyio


JOINED = {
    "id": "77",
    "name": "guild",
    "joined_at": "2026-01-01T00:00:00+00:00",
    "member_count": 300,
    "members": [],
    "channels": [],
    "roles": [],
    "emojis": [],
    "features": [],
    "owner_id": "9",
    "large": True,
}


ALL = discord.Intents.all().value


class App(discord.Client):
    def __init__(self) -> None:
        super().__init__(intents=discord.Intents.all())
        self.go = asyncio.Event()

    async def on_raw_typing(self, event: discord.RawTypingEvent) -> None:
        await self.go.wait()


@dataclass(eq=False)
class Connection:
    """What is asked of a connection."""

    session_id: str
    sequence: int
    shard_id: int = 3
    shard_count: int = 4
    gateway: str = "wss://resume.invalid"


class Living:
    """A child whose gateway messages are made by hand."""

    def __init__(self, directory: Path, role: Role) -> None:
        self.path = directory / "sessions-1"
        self.app = App()
        self.gate = Gate(
            client=self.app,
            ledger=SQLiteLedger(str(directory / "ledger"), 1),
            observer=lambda *_: None,
            role=role,
        )
        self.gate.install()
        self.gate.session_began(3, at=7.5)
        self.inflight = InFlight()
        self.inflight.install(asyncio.get_running_loop())
        self.file = SessionFile.create(self.path, token="t", supervisor=1)
        self.trail = Trail(self.file, self.gate)
        self.trail.install(self.inflight)
        self.connect("abc", 0)

    def connect(self, session: str, sequence: int) -> None:
        """Have all that comes from now on come on a new connection."""
        self.websocket: Any = Connection(session, sequence)
        self.trail.receiver.websocket = self.websocket

    def receive(self, count: int = 1) -> None:
        for _ in range(count):
            self.websocket.sequence += 1
            data = {"channel_id": "5", "user_id": "9", "timestamp": self.websocket.sequence}
            internals.parsers(self.app)["TYPING_START"](data)

    async def nothing_runs(self) -> None:
        """Wait for the end of all handlers."""
        await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name().startswith("discord.py")])
        await asyncio.sleep(0)
        assert self.found.running() == ([], 0)
        assert self.inflight.count() == 0

    @property
    def found(self) -> SessionFile:
        return SessionFile.open(self.path, token="t", supervisor=1)

    @property
    def handed(self) -> int:
        return next((session.sequence for session in self.found.sessions()), 0)


@pytest.fixture
async def active(tmp_path: Path) -> AsyncIterator[Living]:
    living = Living(tmp_path, "active")
    await living.app._async_setup_hook()
    yield living
    asyncio.get_running_loop().set_task_factory(None)
    living.gate.ledger.close()


@pytest.fixture
async def standby(tmp_path: Path) -> AsyncIterator[Living]:
    living = Living(tmp_path, "standby")
    await living.app._async_setup_hook()
    yield living
    asyncio.get_running_loop().set_task_factory(None)
    living.gate.ledger.close()


async def test_an_active_child_notes_each_event_as_it_is_given_to_the_app(active: Living) -> None:
    active.receive(2)
    assert active.found.sessions() == [
        DeadSession(
            shard=3, shards=4, session="abc", gateway="wss://resume.invalid", sequence=2, intents=ALL, began=7.5
        )
    ]
    active.app.go.set()


async def test_a_standby_has_handed_nothing_over(standby: Living) -> None:
    standby.receive(3)
    assert standby.found.sessions() == []


async def test_on_activation_what_is_held_is_noted_one_by_one(standby: Living) -> None:
    standby.receive(3)
    standby.trail.begin_replay()
    assert standby.handed == 0, "the first of the session is still held"
    seen = []
    standby.gate.handed = lambda place: (standby.trail.handed(place), seen.append(standby.handed))[0]
    await standby.gate.activate()
    standby.trail.end_replay()
    assert seen == [1, 2, 3]
    standby.receive()
    assert standby.handed == 4
    standby.app.go.set()


async def test_what_is_held_last_keeps_the_rest_from_counting(standby: Living) -> None:
    standby.websocket.sequence = 6
    standby.trail.taken()
    standby.receive(2)
    standby.trail.begin_replay()
    assert standby.handed == 6


async def test_a_join_that_is_not_told_yet_keeps_the_rest_from_counting_until_it_is_named(standby: Living) -> None:
    async def on_guild_join(guild: discord.Guild) -> None:
        standby.app.go.set()

    standby.app.event(on_guild_join)
    standby.app._connection._ready_state = asyncio.Queue()  # told of when the guilds are there that READY named
    standby.websocket.sequence += 1
    internals.parsers(standby.app)["GUILD_CREATE"](JOINED)
    standby.receive()
    standby.trail.begin_replay()
    assert standby.handed == 0
    await standby.gate.activate()
    standby.trail.end_replay()
    assert standby.handed == 2
    assert "GUILD_CREATE 77" in standby.found.running()[0]
    standby.app.dispatch("guild_available", standby.app.get_guild(77))
    await standby.app.go.wait()


async def test_a_draining_child_stands_still_and_one_taken_back_goes_on(active: Living) -> None:
    active.receive(2)
    active.gate.drain()
    active.receive(2)
    assert active.handed == 2
    await active.gate.activate()
    active.trail.end_replay()
    assert active.handed == 4
    active.app.go.set()


async def test_a_shard_that_identified_anew_begins_a_new_session(active: Living) -> None:
    active.receive(5)
    active.connect("def", 0)
    active.receive()
    assert [(one.session, one.sequence) for one in active.found.sessions()] == [("def", 1)]
    active.app.go.set()


async def test_a_shard_that_is_resumed_goes_on_where_it_was(active: Living) -> None:
    active.receive(5)
    active.connect("abc", 5)
    active.receive()
    assert [(one.session, one.sequence) for one in active.found.sessions()] == [("abc", 6)]
    active.app.go.set()


async def test_what_nothing_hears_is_noted_too_and_what_discord_py_does_not_know_once_a_second(active: Living) -> None:
    active.websocket.sequence += 1
    internals.parsers(active.app)["CHANNEL_PINS_UPDATE"]({"channel_id": "5"})
    assert active.handed == 1
    active.websocket.sequence += 1
    active.trail.catch_up()
    assert active.handed == 2
    active.gate.drain()
    active.websocket.sequence += 1
    active.trail.catch_up()
    assert active.handed == 2, "it is held back"
    active.app.go.set()


async def test_handlers_are_named_while_they_run(active: Living, tmp_path: Path) -> None:
    dead = SessionFile.create(tmp_path / "sessions-0", token="t", supervisor=1)
    active.receive()
    assert active.found.running() == (["TYPING_START"], 0)
    active.trail.recover(dead)
    active.receive()
    assert len(active.found.running()[0]) == 2
    assert dead.running() == (["TYPING_START"], 0), "for the next successor"
    active.app.go.set()
    await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name().startswith("discord.py")])
    assert active.found.running() == dead.running() == ([], 0)


async def test_a_handler_is_named_until_it_has_ended_whether_at_once_or_later(active: Living) -> None:
    active.app.go.set()
    active.receive(3)
    assert len(active.found.running()[0]) == 3, "none of them has begun"
    await active.nothing_runs()
    active.app.go.clear()
    active.receive()
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(active.found.running()[0]) == 1
    active.app.go.set()
    await active.nothing_runs()


async def test_what_an_app_dispatches_itself_is_named_with_the_next_event_and_what_it_begins_beside_is_not(
    active: Living,
) -> None:
    async def on_custom() -> None:
        await active.app.go.wait()

    async def wait() -> bool:
        begun.append(asyncio.create_task(asyncio.Event().wait()))
        active.app.dispatch("custom")
        return await own()

    begun: list[asyncio.Task[Any]] = []
    own, active.app.go.wait = active.app.go.wait, wait  # type: ignore[method-assign]
    active.app.event(on_custom)
    active.receive()
    await asyncio.sleep(0)
    active.app.go.wait = own  # type: ignore[method-assign]
    active.trail.name_handlers()
    assert active.found.running() == (["TYPING_START", "TYPING_START"], 0)
    active.app.go.set()
    await active.nothing_runs()
    begun[0].cancel()
    await asyncio.wait(begun)


async def test_one_that_is_cut_before_it_is_named_is_not_named(active: Living) -> None:
    with_event = current.set(Event("TYPING_START", {}, 0.0, True))
    task = asyncio.create_task(active.app.go.wait(), name="discord.py: on_raw_typing")
    current.reset(with_event)
    (handler,) = active.inflight.handlers()
    assert active.inflight.cut(handler) == "discord.py: on_raw_typing (TYPING_START)"
    active.trail.name_handlers()
    assert active.found.running() == ([], 0)
    await asyncio.wait([task])


async def test_what_is_being_claimed_is_named_until_its_handler_has_ended(active: Living) -> None:
    """A child that is killed between the two leaves a trace of what nobody else can claim any more."""
    active.gate.open_window()
    claim = active.gate.ledger.claim_occurrence
    seen: list[list[str]] = []

    def claims(*args: Any, **among: Any) -> bool:
        won = claim(*args, **among)
        seen.append(active.found.running()[0])
        return won

    active.gate.ledger.claim_occurrence = claims  # type: ignore[method-assign]
    active.receive()
    assert (seen, active.found.running()[0]) == ([["TYPING_START"]], ["TYPING_START"])
    active.app.go.set()
    await active.nothing_runs()


PRESS = {"id": "77", "application_id": "1", "type": 3, "token": "t", "version": 1, "channel_id": "5"} | {
    "user": {"id": "9", "username": "u", "discriminator": "0", "avatar": None},
    "data": {"custom_id": "whose", "component_type": 2},
    "authorizing_integration_owners": {},
    "attachment_size_limit": 1,
}


async def draining(living: Living) -> None:
    living.gate.drain()


async def time_passed(living: Living) -> None:
    taken = asyncio.get_running_loop().create_future()
    living.gate.stranger_taken = lambda *_: taken.set_result(None)
    await taken


@pytest.mark.parametrize("comes", [draining, time_passed])
async def test_what_was_left_to_an_older_child_is_named_all_the_time_until_its_handler_has_ended(
    active: Living, monkeypatch: pytest.MonkeyPatch, comes: Callable[[Living], Awaitable[None]]
) -> None:
    """A child that is killed just then, before another event comes, has it named."""

    async def on_interaction(interaction: discord.Interaction[Any]) -> None:
        await active.app.go.wait()

    monkeypatch.setattr("bastion.bot.gate.OWNER_FIRST", 0.05)
    active.app.event(on_interaction)
    active.gate.open_window()
    internals.parsers(active.app)["INTERACTION_CREATE"](PRESS)
    assert active.found.running()[0] == ["INTERACTION_CREATE 77"]
    await comes(active)
    assert active.found.running()[0] == ["INTERACTION_CREATE 77"]
    active.app.go.set()
    await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name().startswith("discord.py")])
    assert active.found.running()[0] == []


async def test_what_an_older_child_leaves_to_the_active_one_is_not_named(active: Living) -> None:
    """It would be handled all the same, should this one be killed."""
    view = discord.ui.View(timeout=None).add_item(discord.ui.Button(custom_id="whose"))
    active.app.add_view(view)
    active.app._connection._view_store._views.setdefault(55, {}).update(active.app._connection._view_store._views[None])
    active.gate.drain()
    internals.parsers(active.app)["INTERACTION_CREATE"](PRESS | {"message": {"id": "55"}})
    assert len(active.gate._later) == 1
    assert active.found.running()[0] == []
    for handle in active.gate._later:
        handle.cancel()
    view.stop()


@pytest.mark.parametrize("window", [False, True])
async def test_a_join_is_named_and_counts_as_running_from_its_receipt_until_its_handler_has_ended(
    active: Living, window: bool
) -> None:
    """discord.py tells the app of it when it has the members; the process may drain, or die, before."""
    go = asyncio.Event()

    async def on_guild_join(guild: discord.Guild) -> None:
        await go.wait()

    active.app.on_guild_join = on_guild_join  # type: ignore[attr-defined]
    members: asyncio.Future[list[discord.Member]] = asyncio.get_running_loop().create_future()
    active.app._connection.chunk_guild = lambda *_, **__: members  # type: ignore[method-assign,assignment]
    if window:
        active.gate.open_window()
    active.websocket.sequence += 1
    internals.parsers(active.app)["GUILD_CREATE"](JOINED)
    assert active.handed == 1
    assert active.found.running()[0] == ["GUILD_CREATE 77"]
    assert active.inflight.count() == 1
    for _ in range(3):
        await asyncio.sleep(0)
    assert [handler.task.get_name() for handler in active.inflight.handlers()] == [JOIN]
    members.set_result([])
    while active.inflight.handlers()[0].task.get_name() == JOIN:
        assert active.found.running()[0]
        await asyncio.sleep(0)
    assert active.found.running()[0] == ["GUILD_CREATE 77"]
    assert active.inflight.count() == 1
    go.set()
    await asyncio.wait([handler.task for handler in active.inflight.handlers()])
    assert active.inflight.count() == 0
    assert active.found.running()[0] == []


async def by_discord_py(living: Living) -> None:
    living.receive()


async def beside_one_that_waits_for_it(living: Living) -> None:
    waiting = asyncio.ensure_future(living.app.wait_for("raw_typing"))
    await asyncio.sleep(0)
    living.receive()
    await waiting


async def begun_by_the_app_in_its_own_way(living: Living) -> None:
    schedule = living.app._schedule_event
    living.app._schedule_event = lambda *args, **options: schedule(*args, **options)  # type: ignore[method-assign]
    living.receive()


async def of_an_event_that_is_in_no_role_held_back(living: Living) -> None:
    async def on_guild_unavailable(guild: discord.Guild) -> None:
        await living.app.go.wait()

    living.app.event(on_guild_unavailable)
    living.app._connection._guild_needs_chunking = lambda guild: False  # type: ignore[method-assign]
    internals.parsers(living.app)["GUILD_CREATE"](JOINED | {"unavailable": False})
    living.websocket.sequence += 1
    internals.parsers(living.app)["GUILD_DELETE"]({"id": "77", "unavailable": True})


@pytest.mark.parametrize(
    "comes",
    [
        by_discord_py,
        beside_one_that_waits_for_it,
        begun_by_the_app_in_its_own_way,
        of_an_event_that_is_in_no_role_held_back,
    ],
)
async def test_in_quiet_a_handler_is_named_and_counted_and_what_it_begins_descends_from_its_event(
    active: Living, comes: Callable[[Living], Awaitable[None]]
) -> None:
    begun: list[asyncio.Task[Any]] = []

    async def begin() -> bool:
        begun.append(asyncio.create_task(asyncio.Event().wait()))
        return await own()

    own, active.app.go.wait = active.app.go.wait, begin  # type: ignore[method-assign]
    await comes(active)
    (name,) = active.found.running()[0]
    assert name in ("TYPING_START", "GUILD_DELETE 77")
    assert active.inflight.count() == 1
    await asyncio.sleep(0)
    (handler,) = active.inflight.handlers()
    assert begun[-1] in active.inflight.of(handler.origin)
    active.app.go.set()
    await active.nothing_runs()
    for task in begun:
        task.cancel()
    await asyncio.wait(begun)


async def test_what_the_runtime_announces_is_named(active: Living) -> None:
    async def on_deactivate() -> None:
        await active.app.go.wait()

    active.app.event(on_deactivate)
    active.gate.announce("deactivate")
    assert active.found.running()[0] == ["deactivate"]
    active.app.go.set()


async def test_a_handler_is_named_before_its_event_counts_as_handed_over(
    active: Living, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = active.file.began
    seen: list[tuple[str, int]] = []

    def notes(event: str) -> Callable[[], None]:
        seen.append((event, active.handed))
        return began(event)

    monkeypatch.setattr(active.file, "began", notes)
    active.receive(3)
    assert (seen, active.handed) == ([("TYPING_START", before) for before in range(3)], 3)
    active.app.go.set()
