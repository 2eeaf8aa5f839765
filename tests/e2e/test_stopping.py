"""SIGTERM to the supervisor, in every phase: it wins, in bounded time, and nobody is left over.

A single one lets the handlers finish that have begun; a second one ends everything at once. Nothing is handled twice
in either case.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from ordeal import (
    Following,
    Judgement,
    assert_nobody_left,
    converse,
    hurt,
    order,
    session_ready,
    under_traffic,
)
from rig import Rig

pytestmark = pytest.mark.anyio

DRAIN_TIMEOUT = 3
DRAIN_GRACE = 5.0
"""What the machine gives a child past its limit to close its sessions."""
TERM_GRACE = 3.0
"""Seconds from SIGTERM to SIGKILL of a child that is ended."""
SLACK = 4.0
"""For a busy machine."""
SLOW_START = """#!{python} -P
import os, sys, time
if "{generation}" in sys.argv[sys.argv.index("--generation") + 1]:
    time.sleep(60)
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""
"""An interpreter that takes its time before one generation's Python starts."""


def slow_start(directory: Path, generation: int) -> str:
    shim = directory / "python"
    shim.write_text(SLOW_START.format(python=sys.executable, generation=generation))
    shim.chmod(0o755)
    return str(shim)


def terminate(installation: Rig) -> float:
    """Send SIGTERM to the supervisor; return the time."""
    assert installation.process is not None
    installation.process.send_signal(signal.SIGTERM)
    return time.monotonic()


TOO_LATE = "(error code: 10062)"
"""How Discord refuses an answer after 3 s, which is how long a stalled child stands still."""


def errors(installation: Rig) -> list[str]:
    """Return the last line of every traceback in the log."""
    found = []
    log = iter(installation.log)
    for line in log:
        if "Traceback" in line:
            source = line.partition("Traceback")[0].partition(" ")[2]
            frames = (text.partition(" ")[2].removeprefix(source) for text in log)
            found.append(next((text for text in frames if not text.startswith(" ")), "a traceback without an end"))
    return found


async def ended(installation: Rig, *, within: float, stalled: bool = False) -> None:
    """Assert that the supervisor exits with 0 in time, leaves nobody, and that nothing failed.

    ``stalled``: a child stood still for so long that its answers to interactions may have come too late.
    """
    assert installation.process is not None
    began = time.monotonic()
    await installation.stopped(timeout=60)
    took = time.monotonic() - began
    assert installation.process.returncode == 0, installation.tail()
    assert took < within + SLACK, f"{took:.1f} s\n{installation.tail()}"
    assert_nobody_left(installation)
    assert not [error for error in errors(installation) if not (stalled and TOO_LATE in error)], installation.tail()
    assert not (installation.directory / "s.sock").exists()


async def assert_begun_is_finished(installation: Rig, stopped_at: float) -> None:
    """Assert that what had reached a responsible child by the SIGTERM is handled once; later events concern nobody."""
    await installation.sandbox.traffic.stop()
    found = await installation.sandbox.settled(timeout=1, quiet=0.5)
    judgement = Judgement(installation, stopped_at=stopped_at)
    for name, lost in judgement.unhandled().items():
        assert not lost, f"lost {name}: {lost}\n{found}\n{installation.tail()}"
    assert found.duplicated == 0, f"{found}\n{installation.tail()}"
    assert found.handled_once > 0


async def in_preparing(installation: Rig) -> None:
    following = Following(installation)
    await following.until("preparing")


async def in_spawning(installation: Rig) -> None:
    following = Following(installation)
    await following.until("spawning")


async def in_connecting(installation: Rig) -> None:
    following = Following(installation)
    await following.until("connecting")


async def with_the_new_session_ready(installation: Rig) -> None:
    Following(installation)
    await session_ready(installation, 2)


async def in_activating(installation: Rig) -> None:
    order(installation, 2, "activating", "stall")
    following = Following(installation)
    await following.until("activating")


async def in_draining(installation: Rig) -> None:
    await converse(installation)
    following = Following(installation)
    await following.until("draining")


async def in_probation(installation: Rig) -> None:
    installation.configure(handoff__probation=30)
    following = Following(installation)
    await following.until("probation")


async def while_a_failed_one_is_ended(installation: Rig) -> None:
    order(installation, 2, "setup", "garbage")
    following = Following(installation)
    await following.result()


async def in_backoff(installation: Rig) -> None:
    journal = installation.sandbox.journal
    await journal.until(lambda: journal.verdict().handled_once > 0)
    hurt(installation, 1, signal.SIGKILL)
    await installation.logged("nobody serves; the next start is in")


async def while_serving(installation: Rig) -> None:
    """No handoff is under way."""


wide = pytest.mark.wide
MOMENTS = [
    pytest.param(while_serving, id="serving"),
    pytest.param(in_spawning, id="spawning", marks=wide),
    pytest.param(in_connecting, id="connecting"),
    pytest.param(with_the_new_session_ready, id="ready", marks=wide),
    pytest.param(in_activating, id="activating", marks=wide),
    pytest.param(in_draining, id="draining", marks=wide),
    pytest.param(in_probation, id="probation", marks=wide),
    pytest.param(while_a_failed_one_is_ended, id="reverting", marks=wide),
    pytest.param(in_backoff, id="backoff", marks=wide),
]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_sigterm_lets_handlers_finish_and_ends_everybody_in_time(
    tmp_path: Path, moment: Callable[[Rig], Awaitable[None]]
) -> None:
    options = {"handoff__drain_timeout": DRAIN_TIMEOUT, "restart__backoff_first": 30}
    async with under_traffic(tmp_path, **options) as installation:
        await moment(installation)
        stopped_at = terminate(installation)
        await ended(installation, within=DRAIN_TIMEOUT + DRAIN_GRACE, stalled=moment is in_activating)
        await assert_begun_is_finished(installation, stopped_at)


@pytest.mark.parametrize("moment", MOMENTS)
@wide
async def test_a_second_sigterm_ends_everybody_at_once(
    tmp_path: Path, moment: Callable[[Rig], Awaitable[None]]
) -> None:
    options = {"handoff__drain_timeout": 60, "restart__backoff_first": 30}
    async with under_traffic(tmp_path, **options) as installation:
        if moment not in (in_draining, in_backoff):
            await converse(installation)
        await moment(installation)
        terminate(installation)
        if moment is not in_backoff:
            await installation.logged("told to stop")
            terminate(installation)
        await ended(installation, within=1.0, stalled=moment is in_activating)
        await installation.sandbox.traffic.stop()
        assert (await installation.sandbox.settled(timeout=1, quiet=0.5)).duplicated == 0


@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("times", [1, 2])
@wide
async def test_sigterm_before_a_child_has_said_hello(tmp_path: Path, generation: int, times: int) -> None:
    shim = slow_start(tmp_path, generation)
    async with under_traffic(
        tmp_path, serving=generation > 1, bot__python=shim, handoff__drain_timeout=DRAIN_TIMEOUT
    ) as installation:
        if generation > 1:
            await in_spawning(installation)
        await installation.logged(f"generation {generation} spawned")
        stopped_at = terminate(installation)
        await installation.logged("told to stop")
        if times > 1:
            terminate(installation)
        await ended(installation, within=DRAIN_TIMEOUT + DRAIN_GRACE)
        if generation > 1 and times == 1:
            await assert_begun_is_finished(installation, stopped_at)
