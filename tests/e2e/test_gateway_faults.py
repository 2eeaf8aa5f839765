"""What Discord does wrong in a handoff: dropped shards, ended sessions, a READY that never comes, REST errors, a token.

Nothing is lost that a living session received or Discord replays. What only an ended session was due is lost with a
supervisor or without; during a handoff the other child's session has it too. Where a reload cannot succeed it says why,
and the old child goes on.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from ordeal import (
    Following,
    converse,
    hear,
    held_in_activating,
    in_roles,
    ordeal,
    pid,
    reload,
    serving_alone,
    session_ready,
    settings,
)
from rig import ALL_KINDS, Rig

from bastion.sandbox.faults import Faults
from bastion.supervisor.hearing import KICK_WITHIN

pytestmark = [pytest.mark.anyio]
wide = pytest.mark.wide


def cut(faults: Faults, shard: int, which: str) -> None:
    faults.drop_shard(shard, which=which)  # type: ignore[arg-type]


def ask_to_reconnect(faults: Faults, shard: int, which: str) -> None:
    faults.reconnect(shard, which=which)  # type: ignore[arg-type]


def invalidate_resumably(faults: Faults, shard: int, which: str) -> None:
    faults.invalidate(shard, resumable=True, which=which)  # type: ignore[arg-type]


def invalidate(faults: Faults, shard: int, which: str) -> None:
    faults.invalidate(shard, which=which)  # type: ignore[arg-type]


def close_resumably(faults: Faults, shard: int, which: str) -> None:
    faults.close(shard, 4000, which=which)  # type: ignore[arg-type]


BREAKS = [cut, ask_to_reconnect, invalidate_resumably, invalidate, close_resumably]


@pytest.mark.matrix
@pytest.mark.parametrize("break_shard", [pytest.param(one, marks=wide, id=one.__name__) for one in BREAKS])
async def test_the_old_childs_shards_may_break_in_any_phase(
    tmp_path: Path, break_shard: Callable[[Faults, int, str], None]
) -> None:
    async with ordeal(tmp_path) as installation:
        faults = installation.sandbox.faults
        for generation, phase in enumerate(("spawning", "connecting", "ready", "draining"), 2):
            if phase == "draining":
                await converse(installation)
            following = Following(installation)
            if phase == "ready":
                await session_ready(installation, generation)
            else:
                await following.until(phase)
            for shard in (0, 1):
                break_shard(faults, shard, "oldest")
            outcome = await following.result()
            assert outcome["result"] == "succeeded", f"{phase}: {outcome}\n{installation.tail()}"


@pytest.mark.matrix
@pytest.mark.parametrize("break_shard", [pytest.param(one, marks=wide, id=one.__name__) for one in BREAKS])
async def test_the_new_childs_shards_may_break_in_any_phase(
    tmp_path: Path, break_shard: Callable[[Faults, int, str], None]
) -> None:
    async with ordeal(tmp_path) as installation:
        faults = installation.sandbox.faults
        for generation, phase in enumerate(("connecting", "ready", "draining"), 2):
            if phase == "draining":
                await converse(installation)
            following = Following(installation)
            match phase:
                case "connecting":
                    await installation.sandbox.gateway.wait_for(
                        lambda generation=generation: any(  # type: ignore[misc]
                            one.generation == generation for one in installation.sandbox.gateway.sessions
                        ),
                        timeout=30,
                    )
                case "ready":
                    await session_ready(installation, generation)
                case _:
                    await following.until(phase)
            for shard in (0, 1):
                break_shard(faults, shard, "newest")
            outcome = await following.result()
            assert outcome["result"] == "succeeded", f"{phase}: {outcome}\n{installation.tail()}"


@pytest.mark.matrix
@pytest.mark.parametrize("which", ["oldest", "newest"])
@pytest.mark.parametrize("break_shard", BREAKS)
@wide
async def test_shards_may_break_while_the_new_child_takes_over(
    tmp_path: Path, break_shard: Callable[[Faults, int, str], None], which: str
) -> None:
    """The new child has been told to become active, and has not read it yet."""
    async with ordeal(tmp_path) as installation:
        following = await held_in_activating(installation, 2)
        for shard in (0, 1):
            break_shard(installation.sandbox.faults, shard, which)
        assert following.phases[-1] == "activating"
        await hear(installation, 2)
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("succeeded", 2), installation.tail()
        assert outcome["handoff"]["kind"] == "reload"


@asynccontextmanager
async def on_probation(tmp_path: Path) -> AsyncIterator[tuple[Rig, Following]]:
    """The new child serves and the old one stands by; the reload that comes at the end would have no probation."""
    async with ordeal(tmp_path, handoff__probation=60) as installation:
        following = Following(installation)
        await following.until("probation")
        await in_roles(installation, "standby", "active")
        installation.configure(handoff__probation=0)
        # Sooner, an old session that ends would be taken for one that Discord ended for the new one.
        began = installation.sandbox.gateway.identifies[-1].at
        await asyncio.sleep(began + KICK_WITHIN + 0.5 - time.monotonic())
        yield installation, following


@pytest.mark.matrix
@pytest.mark.parametrize("which", ["oldest", "newest"])
@pytest.mark.parametrize("break_shard", BREAKS)
@wide
async def test_shards_may_break_on_probation(
    tmp_path: Path, break_shard: Callable[[Faults, int, str], None], which: str
) -> None:
    async with on_probation(tmp_path) as (installation, following):
        for shard in (0, 1):
            break_shard(installation.sandbox.faults, shard, which)
        await installation.sandbox.gateway.wait_ready(4, timeout=40)
        assert following.phases[-1] == "probation"
        # A reload that waits ends the probation.
        assert (await reload(installation))["result"] == "succeeded", installation.tail()
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("succeeded", 2), installation.tail()


@wide
async def test_the_new_childs_session_closed_with_4004_on_probation_gives_way_to_the_old_one(tmp_path: Path) -> None:
    async with on_probation(tmp_path) as (installation, following):
        identifies = len(installation.sandbox.gateway.identifies)
        installation.hurt[2] = time.monotonic()
        installation.sandbox.faults.close(0, 4004, which="newest")
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("rolled-back", 1), installation.tail()
        assert "4004" in outcome["reason"], installation.tail(200)
        await serving_alone(installation, 1)
        assert len(installation.sandbox.gateway.identifies) == identifies


@wide
async def test_the_old_childs_session_closed_with_4004_on_probation_ends_the_probation(tmp_path: Path) -> None:
    async with on_probation(tmp_path) as (installation, following):
        installation.sandbox.faults.close(0, 4004, which="oldest")
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("succeeded", 2), installation.tail()
        await serving_alone(installation, 2)


JOINS = ALL_KINDS | {"guild_join": 1.5, "guild_leave": 1.6}


@wide
async def test_a_guild_is_joined_though_its_members_do_not_come_before_the_old_child_has_drained(
    tmp_path: Path,
) -> None:
    """Discord puts off the second one who asks for a guild's members, and in a handoff both children do."""
    discord = settings(member_request_window=5.0)
    async with ordeal(tmp_path, sandbox=discord, mix=JOINS, quiet=6, handoff__drain_timeout=3) as installation:
        for _ in range(4):
            outcome = await reload(installation)
            assert (outcome["result"], outcome["handoff"]["cut"]) == ("succeeded", []), installation.tail()


@wide
async def test_guilds_are_joined_while_the_sessions_of_both_children_end(tmp_path: Path) -> None:
    """The old child, whose sessions Discord seems to have ended for the new one's, begins no others."""
    async with ordeal(tmp_path, mix=JOINS, handoff__drain_timeout=3) as installation:
        for generation in range(2, 6):
            following = Following(installation)
            await session_ready(installation, generation)
            for shard in (0, 1):
                invalidate(installation.sandbox.faults, shard, "all")
            outcome = await following.result()
            assert (outcome["result"], outcome["handoff"]["cut"]) == ("succeeded", []), installation.tail()


async def unready_again(installation: Rig) -> None:
    """End the old child's session of shard 0; its next one gets no READY."""
    gateway, faults = installation.sandbox.gateway, installation.sandbox.faults
    fault, before = faults.withhold_ready([0], count=1), len(gateway.identifies)
    faults.invalidate(0, which="oldest")
    await gateway.wait_for(lambda: fault.hits == 1, timeout=20)
    assert (gateway.identifies[before].generation, gateway.identifies[before].shard) == (1, 0)


@wide
async def test_an_old_child_that_reconnects_in_a_handoff_and_gets_no_ready_holds_up_nobody(tmp_path: Path) -> None:
    async with ordeal(tmp_path) as installation:
        following = Following(installation)
        await following.until("spawning")
        await unready_again(installation)
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("succeeded", 2), installation.tail()
        assert outcome["handoff"]["kind"] == "reload"
        assert outcome["handoff"]["cut"] == []
        await installation.logged("generation 1 has left: exited with status 0")


@wide
async def test_an_old_child_that_reconnects_on_probation_and_gets_no_ready_holds_up_nobody(tmp_path: Path) -> None:
    async with on_probation(tmp_path) as (installation, following):
        await unready_again(installation)
        assert (await reload(installation))["result"] == "succeeded", installation.tail()
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("succeeded", 2), installation.tail()
        await installation.logged("generation 1 has left: exited with status 0")


@pytest.mark.matrix
@pytest.mark.parametrize(
    "arm",
    [
        pytest.param(lambda faults: faults.withhold_ready([1]), id="ready-withheld", marks=wide),
        pytest.param(lambda faults: faults.refuse_identify(None), id="identify-refused", marks=wide),
        pytest.param(lambda faults: faults.rest_status(429, "/gateway/bot", retry_after=30), id="429", marks=wide),
        pytest.param(lambda faults: faults.rest_status(503, "/gateway/bot"), id="503", marks=wide),
        pytest.param(lambda faults: faults.rest_status(500, "/users/@me"), id="500-login", marks=wide),
        pytest.param(lambda faults: faults.slow_rest(60, "/gateway/bot"), id="slow", marks=wide),
        pytest.param(lambda faults: faults.rest_status(401, "/users/@me"), id="401-login"),
    ],
)
async def test_a_new_child_that_discord_does_not_let_in_fails_and_the_old_one_serves_on(
    tmp_path: Path, arm: Callable[[Faults], object]
) -> None:
    async with ordeal(tmp_path, handoff__ready_timeout=6) as installation:
        faults = installation.sandbox.faults
        arm(faults)
        ended = await installation.command("reload")
        assert ended.code == 1
        assert "failed" in ended.out + ended.err
        assert [one for one in ("not ready within 6 s", "Discord") if one in ended.out + ended.err], ended
        faults.clear()
        await serving_alone(installation, 1)
        installation.configure(handoff__ready_timeout=60)  # for the reload that works


@pytest.mark.matrix
@pytest.mark.parametrize(
    "arm",
    [
        pytest.param(lambda faults: faults.refuse_identify(2), id="identify-refused", marks=wide),
        pytest.param(
            lambda faults: faults.rest_status(429, "/gateway/bot", count=2, retry_after=0.5), id="429", marks=wide
        ),
        pytest.param(lambda faults: faults.rest_status(502, "/gateway/bot", count=1), id="502", marks=wide),
    ],
)
async def test_a_reload_outlasts_what_passes(tmp_path: Path, arm: Callable[[Faults], object]) -> None:
    async with ordeal(tmp_path) as installation:
        arm(installation.sandbox.faults)
        outcome = await reload(installation)
        assert outcome["result"] == "succeeded", installation.tail()


@wide
async def test_rest_errors_of_handlers_in_a_handoff_are_tried_again_and_double_nothing(
    tmp_path: Path,
) -> None:
    async with ordeal(tmp_path) as installation:
        faults = installation.sandbox.faults
        faults.rest_status(429, "/interactions/*", count=10, retry_after=0.2)
        faults.rest_status(502, "/channels/*/messages", count=5)
        faults.rest_status(429, "/channels/*/messages", count=10, retry_after=0.2)
        following = Following(installation)
        await following.until("draining")
        faults.rest_status(429, "/interactions/*", count=10, retry_after=0.2)
        assert (await following.result())["result"] == "succeeded"
        faults.clear()


def revoke(installation: Rig) -> None:
    """Revoke the token. Discord ends all sessions, so from now on nothing is expected of any child."""
    for session in installation.sandbox.gateway.sessions:
        installation.hurt[session.generation] = time.monotonic()
    installation.sandbox.faults.revoke_token()


async def revoked_while_connecting(installation: Rig) -> None:
    following = Following(installation)
    await following.until("connecting")
    revoke(installation)
    outcome = await following.result()
    assert outcome["result"] == "failed", outcome
    assert "token" in outcome["reason"]


async def revoked_while_activating(installation: Rig) -> None:
    """Whichever of the two learns of it first: nobody is left to serve."""
    following = await held_in_activating(installation, 2)
    revoke(installation)
    outcome = await following.result()
    assert outcome["result"] == "failed", outcome
    assert "token" in outcome["reason"]


async def revoked_on_probation(installation: Rig) -> None:
    """The old child learns of it first, and leaves: the reload has succeeded, and then the new one dies of it too."""
    installation.configure(handoff__probation=60)
    following = Following(installation)
    await following.until("probation")
    await in_roles(installation, "standby", "active")
    installation.configure(handoff__probation=0)
    os.kill(pid(installation, 2), signal.SIGSTOP)
    revoke(installation)
    outcome = await following.result()
    assert (outcome["result"], outcome["generation"]) == ("succeeded", 2), outcome
    os.kill(pid(installation, 2), signal.SIGCONT)


async def revoked_while_draining(installation: Rig) -> None:
    """The old child learns of it first: it drains on, but cannot take over again from the new one.

    Where the new one learns of it first, the old one may be active again for the moment until it learns of it too.
    """
    await converse(installation)
    following = Following(installation)
    await following.until("draining")
    os.kill(pid(installation, 2), signal.SIGSTOP)
    revoke(installation)
    await installation.logged("gen 1: WARNING bastion: while it ended, the app raised")
    os.kill(pid(installation, 2), signal.SIGCONT)
    outcome = await following.result()
    assert outcome["result"] == "failed", outcome
    assert "generation 1: Discord refused the token" in outcome["reason"]


async def revoked_while_serving(installation: Rig) -> None:
    revoke(installation)


@pytest.mark.matrix
@pytest.mark.parametrize(
    "revoked",
    [
        revoked_while_serving,
        revoked_while_connecting,
        revoked_while_activating,
        revoked_on_probation,
        revoked_while_draining,
    ],
)
@wide
async def test_a_revoked_token_is_told_and_tried_again_until_it_is_good(
    tmp_path: Path, revoked: Callable[[Rig], Awaitable[None]]
) -> None:
    """Both children lose all their sessions: what comes meanwhile reaches nobody."""
    async with ordeal(tmp_path, restart__backoff_max=0.5) as installation:
        await revoked(installation)
        await installation.logged("Discord refused the token")
        await installation.logged("nobody serves; the next start is in")
        installation.sandbox.faults.clear()
        await installation.until(
            lambda status: (
                status["supervisor"]["state"] == "serving" and [one["role"] for one in status["children"]] == ["active"]
            )
        )


@wide
async def test_the_new_childs_session_closed_with_4004_fails_the_reload(tmp_path: Path) -> None:
    """Discord says so to the session of the new child alone, as it does when a token was reset a moment ago."""
    async with ordeal(tmp_path) as installation:
        following = Following(installation)
        await session_ready(installation, 2)
        installation.sandbox.faults.close(0, 4004, which="newest")
        outcome = await following.result()
        assert outcome["result"] == "failed", outcome
        assert "4004" in outcome["reason"], installation.tail(200)
        await serving_alone(installation, 1)


@wide
async def test_the_old_childs_session_closed_with_4004_hands_over_to_the_new_one(tmp_path: Path) -> None:
    async with ordeal(tmp_path) as installation:
        following = Following(installation)
        await session_ready(installation, 2)
        installation.sandbox.faults.close(0, 4004, which="oldest")
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("succeeded", 2), installation.tail()
        lost = [line for line in installation.log if "session of shard 1 of generation 1 cannot be resumed" in line]
        assert not lost, "only the shard that Discord refused has lost its session"
