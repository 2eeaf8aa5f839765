"""A successor beside a dead session: what it hands to the app, once, and that its cache stays right.

Real sessions of the sandbox: the dead child is a raw websocket that was dropped, the successor an ordinary client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import discord
import pytest
from discord.gateway import DiscordWebSocket
from discord.http import Route

from bastion import wire
from bastion.bot import internals, recovery
from bastion.bot.dated import DiscordClock
from bastion.bot.discordpy.messages import Recent
from bastion.bot.gate import Gate
from bastion.bot.inflight import InFlight
from bastion.bot.keys import Identity, identify
from bastion.bot.ledger import Among, SQLiteLedger
from bastion.bot.recovery import Recovery
from bastion.bot.session.handover import Handover
from bastion.bot.sessions import SessionFile
from bastion.bot.shards import Shards
from bastion.bot.trail import Trail
from bastion.sandbox import Entry, Sandbox, SandboxSettings
from bastion.sandbox.events import Event
from bastion.sandbox.snowflake import EPOCH_MS

pytestmark = pytest.mark.anyio

TOKEN = "a-token"


class App(discord.Client):
    """Notes what it hears, and whether it knew the guild."""

    def __init__(self) -> None:
        super().__init__(intents=discord.Intents.all())
        self.heard: list[str] = []

    def note(self, *words: object) -> None:
        self.heard.append(" ".join(map(str, words)))

    async def on_message(self, message: discord.Message) -> None:
        self.note("message", message.id, message.guild.name if message.guild else "direct")

    async def on_message_edit(self, before: discord.Message, after: discord.Message) -> None:
        self.note("edit", before.content, after.content)

    async def on_message_delete(self, message: discord.Message) -> None:
        self.note("delete", message.id)

    async def on_raw_reaction_add(self, event: discord.RawReactionActionEvent) -> None:
        self.note("reaction", event.message_id)

    async def on_raw_typing(self, event: discord.RawTypingEvent) -> None:
        self.note("typing", event.user_id)

    async def on_member_join(self, member: discord.Member) -> None:
        self.note("join", member.id)

    async def on_member_remove(self, member: discord.Member) -> None:
        self.note("leave", member.id)

    async def on_member_update(self, before: discord.Member, after: discord.Member) -> None:
        self.note("update", before.nick, after.nick)

    async def on_guild_join(self, guild: discord.Guild) -> None:
        self.note("guild join", guild.id, guild.name)

    async def on_guild_remove(self, guild: discord.Guild) -> None:
        self.note("guild remove", guild.id, guild.name)

    async def on_interaction(self, interaction: discord.Interaction[Any]) -> None:
        self.note("interaction", interaction.id)


@dataclass
class Scene:
    """A sandbox, the file of a child that is dead, and who comes after it."""

    sandbox: Sandbox
    directory: Path
    file: SessionFile
    news: list[None] = field(default_factory=list)
    count: int = 0

    async def die(self, *, shard: int = 0, shards: int = 1, intents: int = discord.Intents.all().value) -> None:
        """Leave a session behind of which everything so far was handed to the app."""
        began = time.monotonic()
        async with aiohttp.ClientSession() as http:
            socket = await http.ws_connect(self.sandbox.gateway_url, params={"v": "10", "encoding": "json"})
            identify = {"token": self.sandbox.token, "intents": intents, "shard": [shard, shards]}
            await socket.send_json({"op": 2, "d": identify | {"properties": {}}})
            session, left, sequence = {}, 1, 0
            while left:
                said = await socket.receive_json()
                sequence = said["s"] or sequence
                if said["t"] == "READY":
                    session, left = said["d"], len(said["d"]["guilds"])
                elif said["t"] == "GUILD_CREATE":
                    left -= 1
            await socket.close(code=4000)
        await self.sandbox.gateway.wait_for(lambda: not self.sandbox.gateway.sessions[-1].connected)
        gateway = session["resume_gateway_url"]
        ident = session["session_id"]
        self.file.session(shard=shard, shards=shards, session=ident, gateway=gateway, intents=intents, began=began)
        self.file.handed(shard, sequence)

    @property
    def world(self) -> Any:
        return self.sandbox.world

    def handed(self, shard: int = 0) -> int:
        return next(found.sequence for found in self.file.sessions() if found.shard == shard)

    @asynccontextmanager
    async def successor(self, *, beside: bool = False) -> AsyncIterator[Successor]:
        """A child with all that a recovery needs. ``beside``: its own session began beside a living child."""
        app = App()
        await app._async_setup_hook()
        app._connection.guild_ready_timeout = 0.05  # type: ignore[attr-defined]
        own = DiscordWebSocket.__dict__["from_client"]
        self.count += 1
        here = Successor(app, self, self.count + 1, beside=beside)
        try:
            await app.login(self.sandbox.token)
            yield here
        finally:
            await here.recovery.abandon()
            await app.close()
            if here.connecting is not None:
                await asyncio.wait([here.connecting])
            here.gate.ledger.close()
            DiscordWebSocket.from_client = own  # type: ignore[method-assign]


class Successor:
    """A client with the pieces around it that the runtime puts there, every permit given at once."""

    def __init__(self, app: App, scene: Scene, generation: int, *, beside: bool) -> None:
        path = str(scene.directory / "ledger")
        receiver = internals.Receiver()
        self.app = app
        self.gate = Gate(
            client=app,
            ledger=SQLiteLedger(path, generation),
            observer=self.observe,
            role="standby",
            receiver=receiver,
            hides=lambda name, args: self.handover.hides(name, args),
        )
        self.handover = Handover(app, Recent(app), receiver, answers=Answering())
        self.gate.install()
        self.gate.open_window()
        internals.ready_with_the_last_guild(app)
        self.shards = Shards(client=app, requested="auto", send=self.grant, handover=self.handover)
        self.shards.install()
        file = SessionFile.create(scene.directory / f"sessions-{generation}", token=TOKEN, supervisor=1)
        self.trail = Trail(file, self.gate)
        self.inflight = InFlight()
        self.inflight.install(asyncio.get_running_loop())
        self.trail.install(self.inflight)
        internals.note_receiver(self.gate.ears, self.trail.receiver)
        self.recovery = Recovery(
            client=app,
            gate=self.gate,
            ledger=SQLiteLedger(path, 1),
            file=scene.file,
            generation=1,
            covered=lambda dead: False,
            alone=not beside,
            connections=self.handover,
            ready=self.shards.is_ready,
            discord_clock=DiscordClock(SQLiteLedger(path, generation)),
            changed=lambda: scene.news.append(None),
            taken=partial(self.trail.taken, recovered=True),
        )
        self.trail.recover(scene.file)
        self.gate.recovers = self.recovery.takes
        internals.on_session(app, self.session_began)
        self.connecting: asyncio.Task[None] | None = None

    def grant(self, message: Any) -> None:
        if isinstance(message, wire.Identify):
            self.shards.permits.grant(message.shard)

    def observe(self, name: str, args: tuple[Any, ...]) -> None:
        self.shards.observe(name, args)
        self.recovery.look()

    def session_began(self, shard: int, count: int) -> None:
        self.gate.session_began(shard, at=time.monotonic())
        self.recovery.session_began(shard)

    async def resume(self) -> None:
        """Have the dead session resumed and held."""
        self.recovery.begin()
        await until(lambda: all(side.resumed or side.over for side in self.recovery._sides.values()))

    async def connect(self) -> None:
        """Begin its own session, and wait until that is ready."""
        if not self.shards.count:
            self.shards.fix(1, [0])
        self.recovery.planned(1, [0])
        self.connecting = asyncio.create_task(self.app.connect())
        await asyncio.wait_for(self.app.wait_until_ready(), 10)

    async def take_over(self) -> None:
        await self.recovery.caught_up(5)
        self.gate.role = "active"
        self.recovery.finish()
        self.trail.begin_replay()
        await self.gate.activate()
        await settle()

    async def live(self) -> list[str]:
        """Resume, connect, take over. Returns what the app heard."""
        await self.resume()
        await self.connect()
        await self.take_over()
        return self.app.heard


class Answering:
    """A bot that no other bot asks for anything."""

    def takes(self, data: dict[str, Any]) -> bool:
        return False

    def is_robbed(self) -> bool:
        return False

    def holds(self) -> bool:
        return False

    def session_came(self, websocket: DiscordWebSocket) -> None: ...
    def ask_for_members(self, guilds: Iterable[int]) -> None: ...
    def source_lost(self, why: str) -> None: ...
    def state_may_be_due(self) -> None: ...
    def state_came(self, state: bytes) -> None: ...
    def state_comes_no_more(self) -> None: ...


async def settle() -> None:
    while handlers := [task for task in asyncio.all_tasks() if task.get_name().startswith(("discord", "Command"))]:
        await asyncio.wait(handlers)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - what a client does on its own has no event to wait for
            await asyncio.sleep(0.005)


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    settings = SandboxSettings(guilds=4, skew=(0, 0), identify_window=0, invalid_session_delay=0)
    file = SessionFile.create(tmp_path / "sessions-1", token=TOKEN, supervisor=1)
    monkeypatch.setattr(DiscordWebSocket, "close", DiscordWebSocket.close)  # who is ended leaves its sessions
    async with Sandbox(settings) as sandbox:
        monkeypatch.setattr(Route, "BASE", sandbox.api_url)
        monkeypatch.setattr(DiscordWebSocket, "DEFAULT_GATEWAY", discord.gateway.yarl.URL(sandbox.gateway_url))
        yield Scene(sandbox, tmp_path, file)
    file.close()


async def test_what_was_missed_is_handled_in_order_with_its_guild_known(scene: Scene) -> None:
    await scene.die()
    guild = next(iter(scene.world.guilds.values()))
    sent = [scene.sandbox.emit_message(guild=guild.id).key for _ in range(3)]
    async with scene.successor() as successor:
        heard = await successor.live()
        assert heard == [f"message {key} {guild.name}" for key in sent]
        assert successor.gate.counters.replayed == 3
        assert successor.recovery.lost == successor.recovery.missed == 0


async def test_what_both_sessions_hear_is_handled_once(scene: Scene) -> None:
    await scene.die()
    async with scene.successor() as successor:
        own = asyncio.create_task(successor.connect())
        await scene.sandbox.gateway.wait_ready(1)
        message = scene.sandbox.emit_message()
        for _ in range(3):
            scene.sandbox.emit_reaction_add(message=int(message.key), user=None)
        await own
        await until(lambda: successor.gate.held >= 4)
        assert successor.app.heard == []
        await successor.resume()
        await until(lambda: len(successor.app.heard) == 4)
        assert successor.gate.held == 0
        await successor.take_over()
        late = scene.sandbox.emit_message()
        await until(lambda: any(late.key in line for line in successor.app.heard))
        assert sorted(line.split()[0] for line in successor.app.heard) == ["message"] * 2 + ["reaction"] * 3


async def test_a_shard_that_is_ready_serves_though_the_child_is_not_active_yet(scene: Scene) -> None:
    await scene.die()
    async with scene.successor() as successor:
        await successor.resume()
        await successor.connect()
        await until(lambda: all(side.caught_up for side in successor.recovery._sides.values()))
        direct, kept = scene.sandbox.emit_direct_message(), scene.sandbox.emit_message()
        before = scene.handed()
        await until(lambda: len(successor.app.heard) == 2)
        assert [line.split()[1] for line in successor.app.heard] == [direct.key, kept.key]
        assert successor.gate.role == "standby"
        await until(lambda: scene.handed() > before)


def reaction_identity(entry: Entry) -> Identity:
    emoji = {"id": None, "name": entry.key.rpartition(":")[2]}
    fields = {"guild_id": entry.guild_id, "channel_id": entry.channel_id, "message_id": entry.message_id}
    said = {name: str(value) for name, value in (fields | {"user_id": entry.user_id}).items()}
    identity = identify("MESSAGE_REACTION_ADD", said | {"emoji": emoji, "burst": False})
    assert identity is not None
    return identity


async def test_what_the_dead_had_claimed_itself_is_no_reason_to_leave_out_an_equal_event(scene: Scene) -> None:
    """It died in a window: it had handled the first of two equal reactions, and was dead when the second came."""
    message = scene.sandbox.emit_message()
    await scene.die()
    identity = reaction_identity(scene.sandbox.emit_reaction_add(message=int(message.key)))
    now = time.monotonic()
    with closing(SQLiteLedger(str(scene.directory / "ledger"), 1)) as dead:
        assert dead.claim_occurrence(identity.text, now, among=Among(now, now))
        async with scene.successor() as successor:
            assert await successor.live() == [f"reaction {message.key}"]


@pytest.mark.parametrize(("seen", "heard"), [(False, 0), (True, 1)])
async def test_what_its_predecessor_had_claimed_is_told_if_the_dead_had_seen_it_too(
    scene: Scene, seen: bool, heard: int
) -> None:
    """It was killed just after a handoff: its session may not have brought yet what the other child had handled."""
    message = scene.sandbox.emit_message()
    await scene.die()
    identity = reaction_identity(scene.sandbox.emit_reaction_add(message=int(message.key)))
    path, now = str(scene.directory / "ledger"), time.monotonic()
    with closing(SQLiteLedger(path, 7)) as predecessor, closing(SQLiteLedger(path, 1)) as dead:
        assert predecessor.claim_occurrence(identity.text, now, among=Among(now, now))
        if seen:
            assert not dead.claim_occurrence(identity.text, now, among=Among(now, now))
        async with scene.successor() as successor:
            assert await successor.live() == [f"reaction {message.key}"] * heard


async def test_what_was_claimed_before_the_dead_ones_session_began_is_another_event(scene: Scene) -> None:
    message = scene.sandbox.emit_message()
    await scene.die()
    identity = reaction_identity(scene.sandbox.emit_reaction_add(message=int(message.key)))
    before = min(session.began for session in scene.file.sessions()) - 1.0
    with closing(SQLiteLedger(str(scene.directory / "ledger"), 7)) as predecessor:
        assert predecessor.claim_occurrence(identity.text, before, among=Among(before, before))
        async with scene.successor() as successor:
            assert await successor.live() == [f"reaction {message.key}"]


async def test_members_who_came_and_went_are_told_and_counted_once(scene: Scene) -> None:
    await scene.die()
    guild = next(iter(scene.world.guilds.values()))
    came, gone = (scene.sandbox.emit_member_join(guild=guild.id) for _ in range(2))
    scene.sandbox.emit_member_leave(guild=guild.id, user=gone.user_id)
    async with scene.successor() as successor:
        heard = await successor.live()
        assert heard == [f"join {came.user_id}", f"join {gone.user_id}", f"leave {gone.user_id}"]
        cached = successor.app.get_guild(guild.id)
        assert cached is not None
        assert cached.member_count == len(guild.members)
        assert {member.id for member in cached.members} == set(guild.members)


async def test_a_guild_that_was_joined_and_one_that_was_left_are_told(scene: Scene) -> None:
    await scene.die()
    left = scene.sandbox.emit_guild_leave()
    joined = scene.sandbox.emit_guild_join()
    both = scene.sandbox.emit_guild_join()
    name = scene.world.guilds[int(both.key)].name
    scene.sandbox.emit_guild_leave(guild=int(both.key))
    async with scene.successor() as successor:
        heard = await successor.live()
        assert heard == [
            f"guild remove {left.key} ",
            f"guild join {joined.key} {scene.world.guilds[int(joined.key)].name}",
            f"guild join {both.key} {name}",
            f"guild remove {both.key} {name}",
        ]
        assert {str(guild.id) for guild in successor.app.guilds} == {str(guild) for guild in scene.world.guilds}


async def test_each_message_is_in_the_message_cache_once_as_it_is_now(scene: Scene) -> None:
    await scene.die()
    guild = next(iter(scene.world.guilds.values()))
    message, gone, heard_twice = (scene.sandbox.emit_message(guild=guild.id, content="first") for _ in range(3))
    scene.sandbox.emit_edit(message=int(message.key), content="second")
    scene.sandbox.emit_delete(message=int(gone.key))
    async with scene.successor() as successor:
        await successor.connect()
        both = scene.sandbox.emit_message(guild=guild.id)
        scene.sandbox.emit_reaction_add(message=int(both.key))
        await until(lambda: successor.gate.held == 2)
        await successor.resume()
        await successor.take_over()
        heard = successor.app.heard
        assert heard[3:] == ["edit first second", f"delete {gone.key}", f"message {both.key} {guild.name}", heard[-1]]
        cached = [(one.id, one.content, sum(each.count for each in one.reactions)) for one in cached_by(successor)]
        assert [number for number, _, _ in cached] == [int(one.key) for one in (message, heard_twice, both)]
        assert cached[0][1] == "second"
        assert cached[-1][2] == 1


def cached_by(successor: Successor) -> list[discord.Message]:
    return list(successor.app.cached_messages)


async def test_an_old_message_does_not_leave_a_channel_s_newest_one_older(scene: Scene) -> None:
    await scene.die()
    guild = next(iter(scene.world.guilds.values()))
    channel = next(iter(guild.channels.values())).id
    scene.sandbox.emit_message(guild=guild.id, channel=channel)
    async with scene.successor() as successor:
        await successor.connect()
        newest = scene.sandbox.emit_message(guild=guild.id, channel=channel)
        await until(lambda: successor.gate.held)
        await successor.resume()
        await until(lambda: len(successor.app.heard) == 2)
        cached: Any = successor.app.get_channel(channel)
        assert cached.last_message_id == int(newest.key)


async def test_an_update_that_the_cache_knows_already_is_counted_as_missed_and_a_later_one_is_told(
    scene: Scene,
) -> None:
    await scene.die()
    guild = next(iter(scene.world.guilds.values()))
    known = scene.sandbox.emit_member_update(guild=guild.id)
    async with scene.successor() as successor:
        await successor.live()
        await until(lambda: len(successor.app.heard) == 1)
        assert successor.recovery.missed == 1
        later = scene.sandbox.emit_member_update(guild=guild.id)
        await until(lambda: len(successor.app.heard) == 2)
        assert later.key.endswith(successor.app.heard[1].split()[-1])
        member = successor.app.get_guild(guild.id).get_member(known.user_id or 0)  # type: ignore[union-attr]
        assert member is not None
        assert member.nick == guild.members[known.user_id].nick
        assert successor.recovery.missed == 1


async def test_an_update_of_one_who_is_gone_is_counted_as_missed_and_makes_nobody(scene: Scene) -> None:
    await scene.die()
    guild = next(iter(scene.world.guilds.values()))
    came = scene.sandbox.emit_member_join(guild=guild.id)
    await scene.die()  # it had handled the join
    data = {"guild_id": str(guild.id), "user": {"id": str(came.user_id), "username": "x", "discriminator": "0"}}
    said = data | {"roles": [], "joined_at": "2026-01-01T00:00:00+00:00", "flags": 0, "nick": "y"}
    scene.sandbox.gateway.publish(Event("GUILD_MEMBER_UPDATE", said, guild_id=guild.id))
    scene.sandbox.emit_member_leave(guild=guild.id, user=came.user_id)
    async with scene.successor() as successor:
        assert await successor.live() == [f"leave {came.user_id}"]
        assert successor.recovery.missed == 1
        cached = successor.app.get_guild(guild.id)
        assert cached is not None
        assert cached.member_count == len(cached.members) == len(guild.members)


async def test_what_nobody_listens_to_is_not_counted_as_missed(scene: Scene) -> None:
    await scene.die()
    guild = next(iter(scene.world.guilds.values()))
    scene.sandbox.gateway.publish(
        Event("GUILD_ROLE_DELETE", {"guild_id": str(guild.id), "role_id": "5"}, guild_id=guild.id)
    )
    async with scene.successor() as successor:
        await successor.live()
        assert successor.recovery.missed == 0


def interaction(number: int) -> Event:
    user = {"id": "9", "username": "ann", "discriminator": "0", "avatar": None}
    data = {"id": "3", "name": "ping", "type": 1}
    fixed = {"application_id": "7", "type": 2, "token": "t", "version": 1, "channel_id": "5", "entitlements": []}
    more = {"authorizing_integration_owners": {}, "attachment_size_limit": 1, "user": user, "data": data}
    return Event("INTERACTION_CREATE", fixed | more | {"id": str(number)}, guild_id=None)


@pytest.mark.parametrize("ahead", [0, 60, -60])
async def test_an_interaction_is_answered_while_it_lives_and_counted_when_it_does_not_whatever_the_clocks_say(
    scene: Scene, ahead: int
) -> None:
    await scene.die()
    now = round((time.time() + ahead) * 1000) - EPOCH_MS
    known = DiscordClock(SQLiteLedger(str(scene.directory / "ledger"), 1))
    known.came(now << 22, time.monotonic())
    known.write_down()
    young, old = (now << 22), (now - 4000) << 22
    scene.sandbox.gateway.publish(interaction(old))
    scene.sandbox.gateway.publish(interaction(young))
    async with scene.successor() as successor:
        assert await successor.live() == [f"interaction {young}"]
        assert (successor.gate.counters.expired, successor.gate.counters.replayed) == (1, 1)


async def test_an_interaction_of_an_age_that_is_not_known_is_tried(scene: Scene) -> None:
    await scene.die()
    old = (round(time.time() * 1000) - EPOCH_MS - 40_000) << 22
    scene.sandbox.gateway.publish(interaction(old))
    async with scene.successor() as successor:
        assert await successor.live() == [f"interaction {old}"]


async def test_an_event_that_cannot_be_read_stops_nothing(scene: Scene) -> None:
    await scene.die()
    guild = next(iter(scene.world.guilds.values()))
    broken = {"guild_id": str(guild.id), "channel_id": "nonsense", "user_id": "1", "timestamp": 1}
    scene.sandbox.gateway.publish(Event("TYPING_START", broken, guild_id=guild.id))
    message = scene.sandbox.emit_message(guild=guild.id)
    async with scene.successor() as successor:
        heard = await successor.live()
        assert heard == [f"message {message.key} {guild.name}"]
        assert successor.recovery.missed == 1


async def test_a_session_that_discord_has_forgotten_is_counted_and_its_shard_serves_at_once(scene: Scene) -> None:
    await scene.die()
    scene.sandbox.gateway.end(scene.sandbox.gateway.sessions[0])
    async with scene.successor() as successor:
        await successor.resume()
        assert (successor.recovery.sessions, successor.recovery.lost) == (1, 1)
        assert scene.news
        await successor.connect()
        message = scene.sandbox.emit_message()
        await until(lambda: successor.app.heard)
        assert successor.app.heard[0].split()[1] == message.key
        assert successor.gate.role == "standby"
        assert successor.recovery.unheard > 0


async def test_a_session_whose_replay_buffer_has_overflowed_is_lost_as_a_whole(scene: Scene) -> None:
    scene.sandbox.settings.replay_buffer = 3
    await scene.die()
    for _ in range(5):
        scene.sandbox.emit_message()
    async with scene.successor() as successor:
        await successor.resume()
        assert successor.recovery.lost == 1


@pytest.mark.parametrize("code", [4007, 4009])
async def test_a_close_code_that_is_final_is_taken_as_that(scene: Scene, code: Any) -> None:
    await scene.die()
    fault = scene.sandbox.faults.refuse_resume(code)
    async with scene.successor() as successor:
        await successor.resume()
        assert (successor.recovery.lost, fault.hits) == (1, 1)


async def test_the_third_refusal_ends_it_and_what_its_own_session_held_is_handled(scene: Scene) -> None:
    await scene.die()
    fault = scene.sandbox.faults.refuse_resume("cut", count=2)
    async with scene.successor() as successor:
        await successor.resume()
        assert (successor.recovery.lost, fault.hits) == (0, 2)
    await scene.die()
    fault = scene.sandbox.faults.refuse_resume("cut")
    async with scene.successor() as successor:
        await successor.connect()
        message = scene.sandbox.emit_message()
        await until(lambda: successor.gate.held)
        await successor.resume()
        assert (successor.recovery.lost, fault.hits - 2) == (1, 1)
        await until(lambda: successor.app.heard)
        assert successor.app.heard[0].split()[1] == message.key


async def test_a_ready_shard_waits_for_an_answer_only_so_long(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "ACCEPT_SECONDS", 0.3)
    await scene.die()
    scene.sandbox.faults.withhold_resume()
    async with scene.successor() as successor:
        successor.recovery.begin()
        await successor.connect()
        await successor.recovery.caught_up(5)
        assert successor.recovery.lost == 1


async def test_a_shard_that_is_not_ready_waits_on(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "ACCEPT_SECONDS", 0.0)
    await scene.die()
    message = scene.sandbox.emit_message()
    async with scene.successor() as successor:
        await successor.resume()
        await successor.connect()
        await successor.take_over()
        assert successor.recovery.lost == 0
        assert successor.app.heard[0].split()[1] == message.key


@pytest.mark.parametrize(
    "before",
    [{"intents": discord.Intents.all().value & ~discord.Intents.reactions.flag}, {"shards": 2}],
    ids=["other intents", "another number of shards"],
)
async def test_a_session_that_no_shard_can_go_on_with_is_told(scene: Scene, before: dict[str, int]) -> None:
    """What both sessions bring is handled once: by its id, or by when the own session began."""
    shards = before.get("shards", 1)
    guild = next(guild for guild in scene.world.guilds.values() if (guild.id >> 22) % shards == 0)
    await scene.die(**before)
    missed = [scene.sandbox.emit_message(guild=guild.id).key for _ in range(3)]
    scene.sandbox.emit_typing(guild=guild.id)
    async with scene.successor() as successor:
        await successor.resume()
        connecting = asyncio.create_task(successor.connect())
        await scene.sandbox.gateway.wait_ready(1)
        missed.append(scene.sandbox.emit_message(guild=guild.id).key)
        await connecting
        await successor.take_over()
        missed.append(scene.sandbox.emit_message(guild=guild.id).key)
        await until(lambda: any(missed[-1] in line for line in successor.app.heard))
        assert [line.split()[1] for line in successor.app.heard if line.startswith("message")] == missed
        assert sum(line.startswith("typing") for line in successor.app.heard) == 1
        assert successor.recovery.lost == 0


async def test_a_connection_that_breaks_while_it_is_held_is_resumed_where_it_stood(scene: Scene) -> None:
    await scene.die()
    async with scene.successor() as successor:
        first = scene.sandbox.emit_message()
        await successor.resume()
        scene.sandbox.faults.drop_shard(0, which="oldest")
        second = scene.sandbox.emit_message()
        await until(lambda: successor.recovery._sides[0].resumed)
        await successor.connect()
        await successor.take_over()
        assert [line.split()[1] for line in successor.app.heard] == [first.key, second.key]
        assert successor.recovery.lost == 0


async def test_a_connection_that_breaks_behind_the_change_over_is_resumed_by_discord_py(scene: Scene) -> None:
    await scene.die()
    async with scene.successor() as successor:
        first = scene.sandbox.emit_message()
        await successor.live()
        scene.sandbox.faults.drop_shard(0, which="oldest")
        second = scene.sandbox.emit_message()
        await until(lambda: len(successor.app.heard) == 2)
        assert [line.split()[1] for line in successor.app.heard] == [first.key, second.key]


async def test_who_is_ended_before_it_is_active_leaves_the_session_and_the_rest_to_the_next(scene: Scene) -> None:
    await scene.die()
    sent = [scene.sandbox.emit_message().key for _ in range(100)]
    async with scene.successor() as first:
        await first.resume()
        connecting = asyncio.create_task(first.connect())
        await until(lambda: first.app.heard)
        await first.recovery.abandon()
        await connecting
        await settle()
    assert 0 < len(first.app.heard) <= len(sent)
    async with scene.successor() as second:
        await second.live()
    assert second.recovery.lost == 0
    assert [line.split()[1] for line in first.app.heard + second.app.heard] == sent


async def test_a_shard_changes_over_though_the_members_of_its_guilds_are_long_to_come(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "MEMBERS_SECONDS", 0.05)
    await scene.die()
    message, joined = scene.sandbox.emit_message(), scene.sandbox.emit_member_join()
    async with scene.successor() as successor:
        successor.recovery._ready = lambda shard: False
        await successor.resume()
        await successor.connect()
        await until(lambda: len(successor.app.heard) == 2)
        assert [line.split()[1] for line in successor.app.heard] == [message.key, str(joined.user_id)]


async def test_its_own_session_is_ended_and_the_dead_one_goes_on(scene: Scene) -> None:
    await scene.die()
    dead = scene.sandbox.gateway.sessions[0].id
    async with scene.successor() as successor:
        await successor.live()
        await scene.sandbox.gateway.wait_for(lambda: [one.id for one in scene.sandbox.gateway.sessions] == [dead])
        assert len(scene.sandbox.gateway.identifies) == 2
        found = {one.session: one.sequence for one in successor.trail.file.sessions()}
        assert list(found) == [dead], "its own file says how far it is in that"


async def test_a_handler_is_named_before_its_event_counts_as_handed_over(scene: Scene) -> None:
    await scene.die()
    scene.sandbox.emit_message()
    async with scene.successor() as successor:
        before = scene.handed()
        seen: list[tuple[int, list[str]]] = []
        own = successor.recovery._taken

        def taken() -> None:
            own()
            seen.append((scene.handed(), scene.file.running()[0]))

        successor.recovery._taken = taken
        await successor.live()
        handed, events = seen[0]
        assert handed == before < scene.handed()
        assert events[0].startswith("MESSAGE_CREATE ")


async def test_every_event_that_may_say_nothing_is_one_of_discord_py() -> None:
    parsers = set(internals.parsers(discord.Client(intents=discord.Intents.none())))
    assert not set(recovery._OF_WHAT_IS_THERE) - parsers
