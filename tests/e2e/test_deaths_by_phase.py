"""A child that dies or stands still in the phases of a handoff that last but a moment, and in those of the defaults.

What comes of it is what the machine's table says. Each ordeal ends with a reload that works and the journal's verdict.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
from ordeal import (
    Following,
    converse,
    hear,
    held_in_activating,
    hold,
    hurt,
    in_roles,
    ordeal,
    order,
    pid,
    reload,
    serving_alone,
    session_ready,
)
from rig import ALL_KINDS, Rig

from bastion.sandbox.world import OpenModal

pytestmark = [pytest.mark.anyio, pytest.mark.wide]

WAITS_FOR_LEAVE = """#!{python} -P
import os, sys, time
if sys.argv[sys.argv.index("--generation") + 1] == "2":
    while not os.path.exists({leave!r}):
        time.sleep(0.05)
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""
"""An interpreter that holds the second generation back before Python starts, until a file is there."""


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("phase", "number", "kind"),
    [
        ("ready", signal.SIGKILL, "failover"),
        ("ready", signal.SIGSTOP, "failover"),
        ("activating", signal.SIGKILL, "failover"),
        ("activating", signal.SIGSTOP, "reload"),
    ],
)
async def test_an_old_child_that_is_lost_as_the_new_one_comes_is_replaced_by_it(
    tmp_path: Path, phase: str, number: signal.Signals, kind: str
) -> None:
    """One that stands still once it has answered is found out after the other takes over: it is the one that drains."""
    async with ordeal(tmp_path, restart__hang_timeout=8) as installation:
        if phase == "ready":
            following = Following(installation)
            await session_ready(installation, 2)
            assert "activating" not in following.phases
            hurt(installation, 1, number)
        else:
            following = await held_in_activating(installation, 2)
            hurt(installation, 1, number)
            if number == signal.SIGKILL:
                await installation.logged("generation 1 has left: killed by SIGKILL")
            assert following.phases[-1] == "activating"
            await hear(installation, 2)
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("succeeded", 2), installation.tail()
        assert outcome["handoff"]["kind"] == kind
        await serving_alone(installation, 2)
        await installation.logged("generation 1 has left: killed by SIGKILL")


async def test_an_old_child_that_stands_still_before_the_new_ones_hello_is_dead_before_that_one_serves(
    tmp_path: Path,
) -> None:
    shim, leave = tmp_path / "python", tmp_path / "leave"
    shim.write_text(WAITS_FOR_LEAVE.format(python=sys.executable, leave=str(leave)))
    shim.chmod(0o755)
    async with ordeal(tmp_path, bot__python=str(shim)) as installation:
        following = Following(installation)
        await installation.logged("generation 2 spawned")
        hurt(installation, 1, signal.SIGSTOP)
        await installation.logged("generation 1 has left: killed by SIGKILL")
        leave.touch()
        assert following.phases[-1] == "spawning"
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("succeeded", 2), installation.tail()
        assert outcome["handoff"]["kind"] == "failover"
        assert "generation 1 died: hangs" in outcome["handoff"]["reason"]
        await serving_alone(installation, 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_an_old_child_that_is_lost_while_it_stands_by_on_probation_costs_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    """But for its own buttons, menus and forms, which it answers until it leaves, and which nobody presses here."""
    pressed = ("button", "select", "modal")
    others = {kind: weight for kind, weight in ALL_KINDS.items() if kind not in pressed}
    async with ordeal(tmp_path, handoff__probation=60, mix=others) as installation:
        following = Following(installation)
        await following.until("probation")
        await in_roles(installation, "standby", "active")
        hurt(installation, 1, number)
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("succeeded", 2), installation.tail()
        assert outcome["handoff"]["kind"] == "reload"
        assert outcome["handoff"]["cut"] == []
        await installation.logged("generation 1 has left: killed by SIGKILL")
        await serving_alone(installation, 2)
        installation.configure(handoff__probation=0)
    # It ran no handler any more, so nothing at all is excused.
    assert installation.sandbox.journal.verdict().lost == 0


@asynccontextmanager
async def with_probation_and_linger(tmp_path: Path, phase: str) -> AsyncIterator[tuple[Rig, Following]]:
    """By the defaults a reload has both; here they are short. A handler keeps the old child draining for a while."""
    async with ordeal(tmp_path, handoff__probation=1, handoff__linger=2) as installation:
        following = Following(installation)
        await following.until("connecting")
        await hold(installation, 1)
        assert "activating" not in following.phases
        await following.until(phase)
        yield installation, following


@pytest.mark.matrix
@pytest.mark.parametrize("phase", ["probation", "draining"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_with_probation_and_linger_a_new_child_that_is_lost_gives_way_to_the_old_one(
    tmp_path: Path, phase: str, number: signal.Signals
) -> None:
    async with with_probation_and_linger(tmp_path, phase) as (installation, following):
        hurt(installation, 2, number)
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("rolled-back", 1), installation.tail()
        assert "killed by SIGKILL" in outcome["reason"]
        await serving_alone(installation, 1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_with_probation_and_linger_an_old_child_that_is_lost_while_it_drains_holds_up_nobody(
    tmp_path: Path, number: signal.Signals
) -> None:
    async with with_probation_and_linger(tmp_path, "draining") as (installation, following):
        hurt(installation, 1, number)
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("succeeded", 2), installation.tail()
        assert outcome["handoff"]["kind"] == "reload"
        await serving_alone(installation, 2)
        await installation.logged("generation 1 has left: killed by SIGKILL")


async def test_an_old_child_that_is_killed_as_it_takes_what_it_had_left_to_an_older_one_has_it_named(
    tmp_path: Path,
) -> None:
    """Modals whose opener is gone: a child leaves them to the others for a second, and takes them when it drains."""
    staying = {kind: weight for kind, weight in ALL_KINDS.items() if kind not in ("member_leave", "guild_leave")}
    async with ordeal(tmp_path, mix=staying) as installation:
        world, journal = installation.sandbox.world, installation.sandbox.journal
        modals: list[OpenModal] = []
        while len(modals) < 10:
            await journal.until(lambda: bool(world.modals), timeout=20)
            modals += world.modals
            world.modals.clear()
        assert (await reload(installation))["result"] == "succeeded"
        order(installation, 2, "deactivating", "kill")
        following = Following(installation)
        await session_ready(installation, 3)
        await journal.wait_handled(installation.sandbox.emit_message())  # some of the second before it is active
        world.modals.extend(modals)
        left = [installation.sandbox.emit_modal(modal) for modal in modals]
        assert "activating" not in following.phases
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("succeeded", 3), installation.tail()
        named = [one for one in left if any(f" {one.key}" in cut for cut in outcome["handoff"]["cut"])]
        assert named, f"{outcome} {installation.tail()}"


@pytest.mark.matrix
@pytest.mark.parametrize("which", ["oldest", "newest"])
@pytest.mark.parametrize("resumable", [True, False])
async def test_with_probation_and_linger_sessions_may_break_while_the_old_child_drains(
    tmp_path: Path, which: Literal["oldest", "newest"], resumable: bool
) -> None:
    async with with_probation_and_linger(tmp_path, "draining") as (installation, following):
        for shard in (0, 1):
            installation.sandbox.faults.invalidate(shard, resumable=resumable, which=which)
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("succeeded", 2), installation.tail()
        assert outcome["handoff"]["cut"] == []
        await serving_alone(installation, 2)


@pytest.mark.matrix
@pytest.mark.parametrize("deed", ["kill", "stop"])
@pytest.mark.parametrize("moment", ["claimed", "counted"])
@pytest.mark.parametrize("live", [True, False])
async def test_what_a_new_child_had_claimed_and_not_begun_is_named(
    tmp_path: Path, live: bool, moment: str, deed: str
) -> None:
    """Nobody else can claim it."""
    async with ordeal(tmp_path, handoff__probation=60) as installation:
        if live:
            following = Following(installation)
            await following.until("probation")
            await in_roles(installation, "standby", "active")
        order(installation, 2, moment, deed)
        if not live:
            following = Following(installation)
        await installation.logged(f"gen 2: vandal: {deed}", timeout=40)
        installation.hurt[2] = time.monotonic()
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("rolled-back", 1), installation.tail()
        await installation.logged("cut, for generation 2 died: ")
        await serving_alone(installation, 1)
        installation.configure(handoff__probation=0)


@pytest.mark.parametrize("moment", ["claimed", "counted"])
async def test_what_an_active_child_had_claimed_and_not_begun_is_named(tmp_path: Path, moment: str) -> None:
    async with ordeal(tmp_path, restart__spare=True) as installation:
        await in_roles(installation, "active", "standby")
        order(installation, 1, moment, "kill")
        await installation.logged("cut, for generation 1 died: ", timeout=40)
        await in_roles(installation, "active", "standby")
        installation.configure(restart__spare=False)


async def test_a_new_child_that_is_killed_while_the_old_one_lingers_leaves_the_bot_to_that_one(tmp_path: Path) -> None:
    async with ordeal(tmp_path, handoff__probation=1, handoff__linger=60) as installation:
        following = Following(installation)
        await session_ready(installation, 2)
        await converse(installation)
        outcome = await following.result()
        assert outcome["lingering"] > 0, installation.tail()
        hurt(installation, 2, signal.SIGKILL)
        await serving_alone(installation, 1)
        last = (await installation.status())["last_handoff"]
        assert (last["kind"], last["result"], last["from"], last["to"]) == ("failover", "succeeded", 2, 1)


async def test_a_new_child_that_is_killed_when_its_shards_are_ready_changes_nothing(tmp_path: Path) -> None:
    async with ordeal(tmp_path) as installation:
        order(installation, 2, "ready", "kill")
        outcome = await reload(installation)
        assert (outcome["result"], outcome["generation"]) == ("failed", 1), installation.tail()
        assert outcome["reason"].startswith("generation 2: killed by SIGKILL")
        assert "activating" not in outcome["handoff"]["phases"]
        await serving_alone(installation, 1)
    assert pid(installation, 2)
    assert installation.sandbox.journal.verdict().lost == 0


@pytest.mark.parametrize("killed", [False, True])
async def test_a_new_child_that_stands_still_as_it_takes_over_handles_nothing_that_the_old_one_handled(
    tmp_path: Path, killed: bool
) -> None:
    """It receives all of that seconds later than the old one did, in guilds where nobody writes, too."""
    async with ordeal(tmp_path) as installation:
        order(installation, 2, "activating", "stall")
        following = Following(installation)
        if killed:
            await installation.logged("gen 2: vandal: stall", timeout=40)
            hurt(installation, 1, signal.SIGKILL)
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("succeeded", 2), installation.tail()
        await serving_alone(installation, 2)
