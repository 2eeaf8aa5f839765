"""A successor beside a dead session: what it hands to the app, once, and that its cache stays right.

Real sessions of the sandbox: the dead child is a raw websocket that was dropped, the successor an ordinary client.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import discord
import pytest
from discord.gateway import DiscordWebSocket
from discord.http import Route

from bastion.bot import internals, recovery
from bastion.bot.dated import DiscordClock
from bastion.bot.gate import Gate
from bastion.bot.keys import PAIR_WITHIN, Identity, identify
from bastion.bot.ledger import SQLiteLedger, number_key
from bastion.bot.recovery import Recovery
from bastion.bot.sessions import SessionFile
from bastion.sandbox import Entry, Sandbox, SandboxSettings, payloads
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

    async def die(self, *, shard: int = 0, shards: int = 1, intents: int = discord.Intents.all().value) -> None:
        """Leave a session behind of which everything so far was handed to the app."""
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
        self.file.session(shard=shard, shards=shards, session=session["session_id"], gateway=gateway)
        self.file.handed(shard, sequence)

    @property
    def world(self) -> Any:
        return self.sandbox.world

    def handed(self, shard: int = 0) -> int:
        return next(found.sequence for found in self.file.sessions() if found.shard == shard)

    @asynccontextmanager
    async def successor(self) -> AsyncIterator[Successor]:
        app = App()
        await app._async_setup_hook()
        app._connection.guild_ready_timeout = 0.05  # type: ignore[attr-defined]
        path = str(self.directory / "ledger")
        gate = Gate(client=app, ledger=SQLiteLedger(path, 2), observer=lambda *_: None, role="standby")
        gate.install()
        made = Recovery(
            client=app,
            gate=gate,
            ledger=SQLiteLedger(path, 1),
            file=self.file,
            generation=1,
            covered=lambda dead: False,
            discord_clock=DiscordClock(SQLiteLedger(path, 2)),
            changed=lambda: self.news.append(None),
        )

        def session_began(shard: int, count: int) -> None:
            gate.session_began(shard, count, identified_at=time.monotonic())
            made.session_began(shard, count)

        internals.on_session(app, session_began)
        gate.taken = made.advance
        here = Successor(app, gate, made)
        try:
            await app.login(self.sandbox.token)
            yield here
        finally:
            await made.abandon()
            await app.close()
            if here.connecting is not None:
                await asyncio.wait([here.connecting])
            gate.ledger.close()


@dataclass
class Successor:
    app: App
    gate: Gate
    recovery: Recovery
    connecting: asyncio.Task[None] | None = None

    async def resume(self) -> None:
        self.recovery.begin()
        await self.recovery.caught_up(5)

    async def connect(self) -> None:
        self.connecting = asyncio.create_task(self.app.connect())
        await asyncio.wait_for(self.app.wait_until_ready(), 10)

    async def take_over(self) -> None:
        await self.recovery.finish()
        await self.gate.activate()
        await settle()

    async def live(self) -> list[str]:
        """Resume, connect, take over. Returns what the app heard."""
        await self.resume()
        await self.connect()
        await self.take_over()
        return self.app.heard


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


async def test_an_event_waits_until_its_guild_is_in_the_cache_and_a_direct_message_does_not(scene: Scene) -> None:
    await scene.die()
    direct = scene.sandbox.emit_direct_message()
    kept = scene.sandbox.emit_message()
    async with scene.successor() as successor:
        await successor.resume()
        await settle()
        assert successor.app.heard == [f"message {direct.key} direct"]
        before = scene.handed()
        await successor.connect()
        await until(lambda: len(successor.app.heard) == 2)
        assert successor.app.heard[1].startswith(f"message {kept.key}")
        assert scene.handed() > before


async def test_what_both_sessions_hear_is_handled_once(scene: Scene) -> None:
    await scene.die()
    async with scene.successor() as successor:
        await successor.resume()
        await successor.connect()
        message = scene.sandbox.emit_message()
        for _ in range(3):
            scene.sandbox.emit_reaction_add(message=int(message.key), user=None)
        await until(lambda: successor.gate.held >= 4 and len(successor.app.heard) >= 4)
        await successor.take_over()
        late = scene.sandbox.emit_message()
        await until(lambda: any(late.key in line for line in successor.app.heard))
        assert sorted(line.split()[0] for line in successor.app.heard) == ["message"] * 2 + ["reaction"] * 3


def reaction_identity(entry: Entry) -> Identity:
    emoji = {"id": None, "name": entry.key.rpartition(":")[2]}
    fields = {"guild_id": entry.guild_id, "channel_id": entry.channel_id, "message_id": entry.message_id}
    said = {name: str(value) for name, value in (fields | {"user_id": entry.user_id}).items()}
    identity = identify("MESSAGE_REACTION_ADD", said | {"emoji": emoji, "burst": False})
    assert identity is not None
    return identity


async def test_what_it_held_before_a_session_goes_on_that_had_not_been_read_for_long_is_handled_once(
    scene: Scene,
) -> None:
    """The dead child hung: its session brings late, and all at once, what this child's own had heard in time."""
    message = int(scene.sandbox.emit_message().key)
    await scene.die()
    async with scene.successor() as successor:
        await successor.connect()
        scene.sandbox.emit_reaction_add(message=message, user=None)
        update = scene.sandbox.emit_member_update()
        await until(lambda: successor.gate.held == 2)
        await asyncio.sleep(2 * PAIR_WITHIN)  # what is further apart in time is not taken for one event
        again = scene.sandbox.emit_reaction_add(message=message, user=None)
        assert reaction_identity(again).counted
        await successor.resume()
        await until(lambda: len(successor.app.heard) == 2)
        assert successor.gate.held == 1, "the update, which only this child's own cache can tell"
        await successor.take_over()
        assert successor.app.heard[:2] == [f"reaction {message}"] * 2
        assert [line.split()[0] for line in successor.app.heard[2:]] == ["update"]
        assert update.key.endswith(successor.app.heard[2].split()[-1])
        scene.sandbox.emit_reaction_add(message=message, user=None)
        await until(lambda: len(successor.app.heard) == 4)
        assert successor.recovery.missed == 0


async def test_numbers_go_on_where_the_claims_of_the_dead_end(scene: Scene) -> None:
    """It died in a window: it had claimed the first of two equal reactions, and was dead when the second came."""
    message = scene.sandbox.emit_message()
    await scene.die()
    identity = reaction_identity(scene.sandbox.emit_reaction_add(message=int(message.key)))
    dead = SQLiteLedger(str(scene.directory / "ledger"), 1)
    assert dead.claim_number(identity.text, 1, "", time.monotonic())
    async with scene.successor() as successor:
        assert await successor.live() == [f"reaction {message.key}"]
        assert number_key(identity.text, 2) in dead.claimed([number_key(identity.text, 2)])
    dead.close()


@pytest.mark.parametrize(("seen", "heard"), [(False, 0), (True, 1)])
async def test_what_its_predecessor_had_claimed_is_told_if_the_dead_had_seen_it_too(
    scene: Scene, seen: bool, heard: int
) -> None:
    """It was killed just after a handoff: its session may not have brought yet what the other child had handled."""
    message = scene.sandbox.emit_message()
    await scene.die()
    identity = reaction_identity(scene.sandbox.emit_reaction_add(message=int(message.key)))
    path = str(scene.directory / "ledger")
    with closing(SQLiteLedger(path, 7)) as predecessor, closing(SQLiteLedger(path, 1)) as dead:
        scene.file.active_since = time.monotonic() - 0.2
        assert predecessor.claim_number(identity.text, 1, "", time.monotonic())
        if seen:
            assert not dead.claim_number(identity.text, 1, "", time.monotonic())
        async with scene.successor() as successor:
            assert await successor.live() == [f"reaction {message.key}"] * heard


async def test_what_was_claimed_before_the_dead_was_active_is_behind_it(scene: Scene) -> None:
    message = scene.sandbox.emit_message()
    await scene.die()
    identity = reaction_identity(scene.sandbox.emit_reaction_add(message=int(message.key)))
    with closing(SQLiteLedger(str(scene.directory / "ledger"), 7)) as predecessor:
        scene.file.active_since = time.monotonic() - 0.2
        assert predecessor.claim_number(identity.text, 1, "", time.monotonic() - 1.0)
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


async def test_messages_of_the_side_stream_leave_the_client_s_own_cache_alone(scene: Scene) -> None:
    await scene.die()
    guild = next(iter(scene.world.guilds.values()))
    message = scene.sandbox.emit_message(guild=guild.id, content="first")
    scene.sandbox.emit_edit(message=int(message.key), content="second")
    scene.sandbox.emit_delete(message=int(message.key))
    async with scene.successor() as successor:
        heard = await successor.live()
        assert heard[1:] == ["edit first second", f"delete {message.key}"], "as an app hears that had been there"
        assert list(successor.app.cached_messages) == []


async def test_an_old_message_does_not_make_a_channel_s_newest_one_older(scene: Scene) -> None:
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


async def test_what_only_the_cache_of_the_dead_could_tell_is_counted_as_missed(scene: Scene) -> None:
    await scene.die()
    scene.sandbox.emit_member_update()
    async with scene.successor() as successor:
        await successor.resume()
        await successor.connect()
        seen = scene.sandbox.emit_member_update()
        await until(lambda: successor.gate.held)
        await successor.take_over()
        assert [line.split()[0] for line in successor.app.heard] == ["update"]
        assert seen.key.endswith(successor.app.heard[0].split()[-1])
        await until(lambda: successor.recovery.missed)
        assert successor.recovery.missed == 1


async def test_what_nobody_listens_to_is_not_counted_as_missed(scene: Scene) -> None:
    await scene.die()
    guild = next(iter(scene.world.guilds.values()))
    role = {"guild_id": str(guild.id), "role": {"id": "5", "name": "x", "permissions": "0"}}
    scene.sandbox.gateway.publish(Event("GUILD_ROLE_CREATE", role, guild_id=guild.id))
    async with scene.successor() as successor:
        said = len(scene.news)
        await successor.live()
        await until(lambda: len(scene.news) > said + 1)
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


async def test_a_session_that_discord_has_forgotten_is_counted_and_holds_up_nobody(scene: Scene) -> None:
    await scene.die()
    scene.sandbox.gateway.end(scene.sandbox.gateway.sessions[0])
    async with scene.successor() as successor:
        await successor.resume()
        assert (successor.recovery.sessions, successor.recovery.lost) == (1, 1)
        assert successor.recovery.hopeless
        assert scene.news


async def test_a_session_whose_replay_buffer_has_overflowed_is_lost_as_a_whole(scene: Scene) -> None:
    scene.sandbox.settings.replay_buffer = 3
    await scene.die()
    for _ in range(5):
        scene.sandbox.emit_message()
    async with scene.successor() as successor:
        await successor.resume()
        assert successor.recovery.lost == 1


async def test_a_resume_that_hangs_is_waited_for_only_so_long_and_tried_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "CONNECT_SECONDS", 0.3)
    await scene.die()
    message = scene.sandbox.emit_message()
    fault = scene.sandbox.faults.withhold_resume()
    async with scene.successor() as successor:
        successor.recovery.begin()
        await successor.recovery.caught_up(0.1)
        await successor.connect()
        assert successor.app.heard == []
        fault.undo()
        await until(lambda: successor.app.heard)
        assert successor.app.heard[0].startswith(f"message {message.key}")
        assert successor.recovery.lost == 0


async def test_a_connection_that_breaks_is_resumed_where_it_stood(scene: Scene) -> None:
    await scene.die()
    async with scene.successor() as successor:
        await successor.resume()
        await successor.connect()
        first = scene.sandbox.emit_message()
        await until(lambda: successor.app.heard)
        scene.sandbox.faults.drop_shard(0, which="oldest")
        second = scene.sandbox.emit_message()
        await until(lambda: len(successor.app.heard) == 2)
        assert [line.split()[1] for line in successor.app.heard] == [first.key, second.key]


async def test_how_long_a_session_was_connected_does_not_count_against_it_when_it_breaks(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "RESUMABLE_SECONDS", 0.0)
    await scene.die()
    async with scene.successor() as successor:
        await successor.resume()
        scene.sandbox.faults.drop_shard(0, which="oldest")
        message = scene.sandbox.emit_message()
        await successor.connect()
        await until(lambda: successor.app.heard)
        assert [line.split()[1] for line in successor.app.heard] == [message.key]
        assert successor.recovery.lost == 0


async def test_a_connection_that_breaks_just_before_the_end_is_resumed_first(scene: Scene) -> None:
    """What came on it before the new session began is due to nobody else."""
    await scene.die()
    async with scene.successor() as successor:
        await successor.resume()
        scene.sandbox.settings.skew = (0.2, 0.2)
        message = scene.sandbox.emit_message()
        scene.sandbox.faults.drop_shard(0, which="oldest")
        await successor.connect()
        await successor.take_over()
        assert [line.split()[1] for line in successor.app.heard] == [message.key]
        assert successor.recovery.lost == 0


async def test_who_is_ended_while_it_hands_over_leaves_the_session_and_the_rest_to_the_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_SLICE_SECONDS", 0.0001)
    await scene.die()
    sent = [scene.sandbox.emit_message().key for _ in range(100)]
    async with scene.successor() as first:
        await first.resume()
        finishing = asyncio.create_task(first.recovery.finish())
        while not first.gate.counters.replayed:  # noqa: ASYNC110 - what it does in a turn of the loop, nobody tells
            await asyncio.sleep(0)
        await first.recovery.abandon()
        await finishing
        await settle()
    assert 0 < len(first.app.heard) < len(sent)
    async with scene.successor() as second:
        await second.live()
    assert second.recovery.lost == 0
    assert [line.split()[1] for line in first.app.heard + second.app.heard] == sent


async def test_a_connection_that_breaks_and_does_not_come_back_is_counted_and_holds_up_nobody(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_AGAIN_SECONDS", 0.1)
    await scene.die()
    async with scene.successor() as successor:
        await successor.resume()
        await successor.connect()
        scene.sandbox.faults.withhold_resume()
        scene.sandbox.faults.drop_shard(0, which="oldest")
        await until(lambda: not successor.recovery.settled)
        await successor.take_over()
        assert successor.recovery.lost == 1


async def test_a_session_that_never_answered_is_counted_at_the_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_AGAIN_SECONDS", 0.1)
    await scene.die()
    scene.sandbox.faults.withhold_resume()
    async with scene.successor() as successor:
        successor.recovery.begin()
        await successor.connect()
        await successor.take_over()
        assert successor.recovery.lost == 1


async def test_what_the_dead_session_s_intents_leave_out_is_handled_by_its_own(scene: Scene) -> None:
    """The release that died did not ask for reactions: its session brings none, however often it is resumed."""
    message = int(scene.sandbox.emit_message().key)
    await scene.die(intents=discord.Intents.all().value & ~discord.Intents.reactions.flag)
    async with scene.successor() as successor:
        await successor.connect()
        scene.sandbox.emit_reaction_add(message=message)
        await until(lambda: successor.gate.held)
        await successor.resume()
        scene.sandbox.emit_reaction_add(message=message)
        await until(lambda: successor.gate.held == 2)
        await successor.take_over()
        assert successor.app.heard == [f"reaction {message}"] * 2


async def test_a_handler_is_named_before_its_event_counts_as_handed_over(scene: Scene) -> None:
    await scene.die()
    scene.sandbox.emit_message()
    async with scene.successor() as successor:
        before = scene.handed()
        named_at: list[int] = []
        successor.recovery._begun = lambda: named_at.append(scene.handed())
        await successor.live()
        assert named_at[0] == before < scene.handed()


async def test_what_is_claimed_for_the_dead_is_in_hand_until_its_handlers_are_named(scene: Scene) -> None:
    await scene.die()
    scene.sandbox.emit_message()
    async with scene.successor() as successor:
        file = successor.recovery._file
        seen: list[str | None] = []
        successor.recovery._begun = lambda: seen.append(file.in_hand)
        await successor.live()
        assert (seen[0] or "").startswith("MESSAGE_CREATE:")
        assert file.in_hand is None


async def test_a_successor_that_dies_over_it_leaves_the_rest_to_the_next(scene: Scene) -> None:
    await scene.die()
    direct, kept = scene.sandbox.emit_direct_message(), scene.sandbox.emit_message()
    async with scene.successor() as first:
        await first.resume()
        await settle()
        assert [line.split()[1] for line in first.app.heard] == [direct.key]
    async with scene.successor() as second:
        heard = await second.live()
        assert [line.split()[1] for line in heard] == [kept.key]


async def test_when_it_is_over_the_dead_session_is_ended(scene: Scene) -> None:
    await scene.die()
    dead = scene.sandbox.gateway.sessions[0].id
    async with scene.successor() as successor:
        await successor.live()
        await scene.sandbox.gateway.wait_for(lambda: dead not in [one.id for one in scene.sandbox.gateway.sessions])


async def test_every_parser_of_discord_py_is_told_left_or_local(scene: Scene) -> None:
    """A new event of discord.py's must be sorted: told again, or counted as missed."""
    special = {"INTERACTION_CREATE", "GUILD_MEMBER_ADD", "GUILD_MEMBER_REMOVE", "GUILD_CREATE", "GUILD_DELETE"}
    local = {"READY", "RESUMED", "GUILD_MEMBERS_CHUNK", "VOICE_SERVER_UPDATE", "RATE_LIMITED", "THREAD_LIST_SYNC"}
    known = recovery._TOLD | set(recovery._UNTOLD) | special | local
    parsers = set(internals.parsers(discord.Client(intents=discord.Intents.none())))
    assert not parsers - known


async def test_a_guild_joined_just_now_is_waited_for_though_the_own_session_hears_of_it_later(scene: Scene) -> None:
    await scene.die()
    async with scene.successor() as successor:
        await successor.resume()
        await successor.connect()
        own = scene.sandbox.gateway.sessions[-1]
        own.deaf = True
        joined = scene.sandbox.emit_guild_join()
        came = scene.sandbox.emit_member_join(guild=int(joined.key))
        await until(lambda: successor.recovery._sides[0].pending)
        own.deaf = False
        own.queue_own("GUILD_CREATE", guild_create(scene, int(joined.key)), now=time.monotonic())
        await until(lambda: f"join {came.user_id}" in successor.app.heard)
        name = scene.world.guilds[int(joined.key)].name
        assert successor.app.heard == [f"guild join {joined.key} {name}", f"join {came.user_id}"]


def guild_create(scene: Scene, guild: int) -> Any:
    return payloads.guild_create(scene.world.guilds[guild], bot=scene.world.bot, all_members=True)
