"""The supervisor is killed: whatever its children are at, none survives it for long; nothing stops the next start."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from ordeal import INTERACTIONS, Following, converse, in_roles, order, pid, reload, session_ready, under_traffic
from rig import EXPECTED, Rig

pytestmark = [pytest.mark.anyio, pytest.mark.wide]

ORPHANS = 2.0
"""Seconds that a child may outlive its supervisor."""


async def with_two_children_connecting(installation: Rig) -> tuple[int, Following | None]:
    following = Following(installation)
    await following.until("connecting")
    return 2, following


async def with_two_children_ready(installation: Rig) -> tuple[int, Following | None]:
    following = Following(installation)
    await session_ready(installation, 2)
    return 2, following


async def with_an_old_child_that_drains(installation: Rig) -> tuple[int, Following | None]:
    """Its handlers would go on for seconds."""
    await converse(installation)
    following = Following(installation)
    await following.until("draining")
    return 2, following


async def with_an_old_child_on_probation(installation: Rig) -> tuple[int, Following | None]:
    installation.configure(handoff__probation=60)
    following = Following(installation)
    await following.until("probation")
    await in_roles(installation, "standby", "active")
    return 2, following


async def with_a_blocked_child(installation: Rig) -> tuple[int, Following | None]:
    """Its event loop stands still, in the app's code."""
    order(installation, 1, "now", "block")
    os.kill(pid(installation, 1), signal.SIGUSR2)
    await installation.logged("gen 1: vandal: block", timeout=40)
    return 1, None


async def with_a_spare(installation: Rig) -> tuple[int, Following | None]:
    await installation.logged("generation 2 is ready, as a spare", timeout=40)
    return 2, None


@pytest.mark.matrix
@pytest.mark.parametrize(
    "reach",
    [
        with_two_children_connecting,
        with_two_children_ready,
        with_an_old_child_that_drains,
        with_an_old_child_on_probation,
        with_a_blocked_child,
        with_a_spare,
    ],
)
async def test_a_killed_supervisor_takes_its_children_with_it_and_does_not_stop_the_next(
    tmp_path: Path, reach: Callable[[Rig], Awaitable[tuple[int, Following | None]]]
) -> None:
    spare = reach is with_a_spare
    async with under_traffic(tmp_path, restart__spare=spare, handoff__drain_timeout=60) as installation:
        children, following = await reach(installation)
        old = installation.process
        assert old is not None
        bots = [process.pid for process in installation.processes() if process.pid != old.pid]
        assert len(bots) == children, installation.tail()
        waiting = [asyncio.ensure_future(outlives(bot)) for bot in bots]
        await asyncio.sleep(0)
        old.kill()
        outlived = await asyncio.gather(*waiting)
        await installation.stopped()
        if following is not None:
            await following.gave_up()
        assert max(outlived) < ORPHANS, f"{outlived}\n{installation.tail()}"

        installation.configure(restart__spare=False, handoff__probation=0)
        await installation.start()
        served_at = time.monotonic()
        assert [one["generation"] for one in (await installation.status())["children"]] == [1]
        again = await reload(installation)
        assert again["result"] == "succeeded", installation.tail()

        sandbox = installation.sandbox
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=15, quiet=2)
        told = f"{found}\n{installation.tail()}"
        assert found.duplicated == 0, told
        # What came while no supervisor was there is nobody's; from the next one's start on, nothing is lost.
        later = [one for one in sandbox.journal.entries if one.at > served_at and one.kind in EXPECTED]
        assert len(later) > 50, told
        # Where the machine is so busy that the sandbox itself tells of an interaction too late, nobody can answer it.
        later = [
            one for one in later if not (one.kind in INTERACTIONS and all(at > one.at + 2 for _, at in one.delivered))
        ]
        lost = [one for one in later if installation.expected(one) and not sandbox.journal.handlings(one.kind, one.key)]
        assert not lost, f"{lost}\n{told}"
        assert await installation.stop() == 0
        assert installation.processes() == []


async def outlives(number: int) -> float:
    """Wait until a process is dead; return after how many seconds."""
    began, ended = time.monotonic(), asyncio.Event()
    fd = os.pidfd_open(number)
    try:
        asyncio.get_running_loop().add_reader(fd, ended.set)
        async with asyncio.timeout(30):
            await ended.wait()
        return time.monotonic() - began
    finally:
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
