"""What Discord does wrong in a handoff: dropped shards, ended sessions, a READY that never comes, REST errors, a token.

Nothing is lost that a living session received or Discord replays. What only an ended session was due is lost with a
supervisor or without; during a handoff the other child's session has it too. Where a reload cannot succeed it says why,
and the old child goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from ordeal import (
    Following,
    converse,
    ordeal,
    reload,
    serving_alone,
    session_ready,
)
from rig import Rig

from sandbox.faults import Faults

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


async def revoked_while_connecting(installation: Rig) -> None:
    following = Following(installation)
    await following.until("connecting")
    installation.sandbox.faults.revoke_token()
    outcome = await following.result()
    assert outcome["result"] == "failed", outcome
    assert "token" in outcome["reason"]


async def revoked_while_draining(installation: Rig) -> None:
    await converse(installation)
    following = Following(installation)
    await following.until("draining")
    installation.sandbox.faults.revoke_token()
    assert (await following.result())["result"] in ("rolled-back", "failed", "succeeded")


async def revoked_while_serving(installation: Rig) -> None:
    installation.sandbox.faults.revoke_token()


@pytest.mark.parametrize("revoke", [revoked_while_serving, revoked_while_connecting, revoked_while_draining])
@wide
async def test_a_revoked_token_is_told_and_tried_again_until_it_is_good(
    tmp_path: Path, revoke: Callable[[Rig], Awaitable[None]]
) -> None:
    """Both children lose all their sessions: what comes meanwhile reaches nobody."""
    async with ordeal(tmp_path, restart__backoff_max=0.5) as installation:
        await revoke(installation)
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
        assert "4004" in outcome["reason"]
        await serving_alone(installation, 1)


@wide
async def test_the_old_childs_session_closed_with_4004_hands_over_to_the_new_one(tmp_path: Path) -> None:
    async with ordeal(tmp_path) as installation:
        following = Following(installation)
        await session_ready(installation, 2)
        installation.sandbox.faults.close(0, 4004, which="oldest")
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("succeeded", 2), installation.tail()
