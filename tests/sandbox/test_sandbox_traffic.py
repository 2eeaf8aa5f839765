"""Traffic keeps its rate and mix, draws from its seed, and emits only what can happen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import pytest

from bastion.sandbox import EmitError, Sandbox, SandboxSettings, SettingsError, TrafficError

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(guilds=4, skew=(0, 0))) as running:
        yield running


@pytest.mark.parametrize("spacing", ["poisson", "even"])
async def test_a_run_keeps_rate_and_mix(sandbox: Sandbox, spacing: Any) -> None:
    report = await sandbox.traffic.run(rate=500, seconds=1, mix={"message": 3, "typing": 1}, spacing=spacing)
    assert 350 < report.total < 650
    assert 0.6 < report.emitted["message"] / report.total < 0.9
    assert len(sandbox.journal.entries) == report.total


async def test_a_rate_beyond_this_machine_leaves_the_sandbox_serving_and_stoppable(sandbox: Sandbox) -> None:
    sandbox.settings.change({"messages_per_channel": 10})
    sandbox.traffic.start(rate=10_000, mix={"message": 1})
    publish = sandbox.gateway.publish

    def slowly(event: Any) -> int:
        time.sleep(0.001)
        return publish(event)

    sandbox.gateway.publish = slowly  # type: ignore[method-assign]
    await asyncio.sleep(0.2)
    async with aiohttp.ClientSession() as session, session.get(f"{sandbox.url}/sandbox/state") as answer:
        assert answer.status == 200
    assert (await sandbox.traffic.stop()).total > 0


async def test_a_kind_with_nothing_to_happen_to_gives_its_turn_to_another(sandbox: Sandbox) -> None:
    report = await sandbox.traffic.run(rate=300, seconds=0.5, mix={"slash": 5, "message": 1}, spacing="even")
    assert report.emitted["message"] == report.total > 100
    assert report.skipped["slash"] > 0
    assert not report.emitted["slash"]


async def test_a_toggle_reacts_unreacts_and_reacts_again_by_the_same_user(sandbox: Sandbox) -> None:
    sandbox.emit_message()
    report = await sandbox.traffic.run(rate=20, seconds=0.5, mix={"toggle": 1}, spacing="even")
    assert report.emitted["toggle"] == report.total
    kinds: dict[str, list[str]] = {}
    for entry in sandbox.journal.entries[1:]:
        kinds.setdefault(entry.key, []).append(entry.kind)
    assert kinds
    assert all(order == ["reaction_add", "reaction_remove", "reaction_add"] for order in kinds.values())


async def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    one, two, other = (Sandbox(SandboxSettings(seed=seed)) for seed in (5, 5, 6))

    def shape(sandbox: Sandbox) -> list[Any]:
        return [
            (guild.id, guild.name, list(guild.channels), list(guild.members)) for guild in sandbox.world.guilds.values()
        ]

    def names(sandbox: Sandbox) -> list[str]:
        return [user.name for user in sandbox.world.users.values()]

    assert shape(one) == shape(two)
    assert names(one) != names(other)


async def test_guilds_are_spread_over_shards(sandbox: Sandbox) -> None:
    assert {(guild >> 22) % 4 for guild in sandbox.world.guilds} == {0, 1, 2, 3}


async def test_the_world_never_runs_empty(sandbox: Sandbox) -> None:
    await sandbox.traffic.run(rate=500, seconds=0.5, mix={"guild_leave": 1, "member_leave": 5, "guild_join": 0.2})
    assert len(sandbox.world.guilds) >= 2
    assert all(len(guild.people()) >= 3 for guild in sandbox.world.guilds.values())


async def test_typing_never_repeats_a_key(sandbox: Sandbox) -> None:
    guild = next(iter(sandbox.world.guilds.values()))
    channel = next(iter(guild.channels))
    keys = [sandbox.emit_typing(channel=channel, user=guild.owner_id).key for _ in range(5)]
    assert len(set(keys)) == 5


async def test_traffic_can_be_stopped_and_started_again(sandbox: Sandbox) -> None:
    sandbox.traffic.start(rate=200, mix={"message": 1})
    with pytest.raises(TrafficError, match="flows already"):
        sandbox.traffic.start(rate=1)
    await sandbox.traffic.stop()
    assert not sandbox.traffic.running
    assert (await sandbox.traffic.run(rate=100, seconds=0.2, mix={"message": 1})).total > 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"rate": 0, "seconds": 1}, "rate must be"),
        ({"rate": 1e6, "seconds": 1}, "rate must be"),
        ({"rate": 1, "seconds": 0}, "seconds must be"),
        ({"rate": 1, "seconds": 1, "mix": {"mesage": 1}}, "unknown kinds in mix: mesage"),
        ({"rate": 1, "seconds": 1, "mix": {"message": 0}}, "a mix needs weights"),
        ({"rate": 1, "seconds": 1, "spacing": "odd"}, "spacing must be"),
    ],
)
async def test_senseless_traffic_is_refused(sandbox: Sandbox, values: dict[str, Any], words: str) -> None:
    with pytest.raises(TrafficError, match=words):
        await sandbox.traffic.run(**values)


async def test_events_about_what_does_not_exist_are_refused(sandbox: Sandbox) -> None:
    calls: list[Callable[[], object]] = [
        lambda: sandbox.emit_message(channel=1),
        lambda: sandbox.emit_message(guild=1),
        lambda: sandbox.emit_edit(message=1),
        lambda: sandbox.emit_slash("nope"),
        lambda: sandbox.emit_button(message=1),
        lambda: sandbox.emit_modal(),
        lambda: sandbox.emit_guild_join(guild=1),
    ]
    for call in calls:
        with pytest.raises(EmitError):
            call()
    assert not sandbox.journal.entries


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"host": "0.0.0.0"}, "loopback"),
        ({"guilds": 0}, "guilds must be between"),
        ({"guilds": "8"}, "guilds must be a whole number"),
        ({"skew": (0.3, 0.1)}, "skew must be two seconds"),
        ({"identify_window": -1}, "identify_window must be between"),
    ],
)
def test_bad_settings_name_the_setting_and_what_is_allowed(values: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        SandboxSettings(**values)


def test_settings_change_all_or_none_at_run_time() -> None:
    settings = SandboxSettings()
    settings.change({"skew": [0, 0.1], "recommended_shards": 4})
    assert (settings.skew, settings.recommended_shards) == ((0.0, 0.1), 4)
    with pytest.raises(SettingsError, match="unknown setting"):
        settings.change({"recommended_shards": 5, "shards": 1})
    with pytest.raises(SettingsError, match="read at the start"):
        settings.change({"guilds": 5})
    assert settings.recommended_shards == 4
