"""SIGTERM to the supervisor, in every phase: it wins, in bounded time, and nobody is left over.

A single one lets the handlers finish that have begun; a second one ends everything at once. Nothing is handled twice
in either case.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from ordeal import (
    Following,
    Judgement,
    assert_nobody_left,
    converse,
    hear,
    held_in_activating,
    hurt,
    order,
    order_now,
    session_ready,
    under_traffic,
)
from rig import Rig

pytestmark = pytest.mark.anyio

DRAIN_TIMEOUT = 3
DRAIN_GRACE = 15.0
"""What the machine gives a child past its limit to close its sessions."""
TERM_GRACE = 3.0
"""Seconds from SIGTERM to SIGKILL of a child that is ended."""
SLACK = 4.0
"""For a busy machine."""
SLOW_START = """#!{python} -P
import os, signal, sys, time
if "{generation}" in sys.argv[sys.argv.index("--generation") + 1]:
    if {deaf}:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("takes its time", flush=True)
    time.sleep(60)
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""
"""An interpreter that takes its time before one generation's Python starts."""


def slow_start(directory: Path, generation: int, *, deaf: bool = False) -> str:
    shim = directory / "python"
    shim.write_text(SLOW_START.format(python=sys.executable, generation=generation, deaf=deaf))
    shim.chmod(0o755)
    return str(shim)


def terminate(installation: Rig) -> float:
    """Send SIGTERM to the supervisor; return the time."""
    assert installation.process is not None
    installation.process.send_signal(signal.SIGTERM)
    return time.monotonic()


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


async def ended(installation: Rig, *, within: float) -> None:
    """Assert that the supervisor exits with 0 in time, leaves nobody, and that nothing failed."""
    assert installation.process is not None
    began = time.monotonic()
    await installation.stopped(timeout=60)
    took = time.monotonic() - began
    assert installation.process.returncode == 0, installation.tail()
    assert took < within + SLACK, f"{took:.1f} s\n{installation.tail()}"
    assert_nobody_left(installation)
    assert not errors(installation), installation.tail()
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


def assert_killed(installation: Rig) -> None:
    """Assert that the second SIGTERM did not ask: each child that still lived was killed, and died of that.

    One that the first SIGTERM had ended already may have come to its own end.
    """
    told = [number for number, line in enumerate(installation.log) if line.endswith("supervisor: told to stop")]
    assert len(told) == 2, installation.tail()
    before, after = installation.log[: told[1]], installation.log[told[1] :]

    def generations(pattern: str, log: list[str]) -> set[str]:
        return {found[1] for line in log if (found := re.search(pattern, line))}

    lived = generations(r"generation (\d+) spawned", before) - generations(r"generation (\d+) has left", before)
    assert lived, installation.tail()
    assert generations(r"supervisor: SIGKILL to generation (\d+)$", after) == lived, installation.tail()
    ended = generations(r"supervisor: SIGTERM to generation (\d+)$", before)
    assert not generations(r"supervisor: SIGTERM to generation (\d+)$", after), installation.tail()
    killed = generations(r"generation (\d+) has left: killed by SIGKILL$", after)
    assert lived - ended <= killed <= lived, installation.tail()


async def in_preparing(installation: Rig) -> None:
    """The settings are on a disk that does not answer."""
    installation.config.unlink()
    os.mkfifo(installation.config)
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
    await held_in_activating(installation, 2)


async def in_draining(installation: Rig) -> None:
    await converse(installation)
    following = Following(installation)
    await following.until("draining")


async def in_probation(installation: Rig) -> None:
    installation.configure(handoff__probation=30)
    following = Following(installation)
    await following.until("probation")


async def while_the_old_one_lingers(installation: Rig) -> None:
    await converse(installation)
    following = Following(installation)
    outcome = await following.result()
    assert outcome["result"] == "succeeded"
    assert outcome["lingering"] > 0, installation.tail()


async def in_a_recovery(installation: Rig) -> None:
    """Nobody serves; the successor has the dead sessions, and none of its own."""
    sandbox = installation.sandbox
    await sandbox.journal.until(lambda: sandbox.journal.verdict().handled_once > 0)
    sandbox.faults.withhold_ready()
    hurt(installation, 1, signal.SIGKILL)
    await installation.logged("gen 2: INFO bastion.recovery: resumed shard 0 of generation 1", timeout=40)
    await sandbox.gateway.wait_for(lambda: any(one.generation == 2 for one in sandbox.gateway.sessions), timeout=40)


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
    pytest.param(in_preparing, id="preparing", marks=wide),
    pytest.param(in_spawning, id="spawning", marks=wide),
    pytest.param(in_connecting, id="connecting"),
    pytest.param(with_the_new_session_ready, id="ready", marks=wide),
    pytest.param(in_activating, id="activating", marks=wide),
    pytest.param(in_draining, id="draining", marks=wide),
    pytest.param(in_probation, id="probation", marks=wide),
    pytest.param(while_a_failed_one_is_ended, id="reverting", marks=wide),
    pytest.param(while_the_old_one_lingers, id="lingering", marks=wide),
    pytest.param(in_backoff, id="backoff", marks=wide),
    pytest.param(in_a_recovery, id="recovery", marks=wide),
]
NOBODY_TO_TALK_TO = (in_backoff, in_a_recovery)
"""Where nobody serves."""


def options(moment: object, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"restart__backoff_first": 0.2 if moment is in_a_recovery else 30}
    if moment is while_the_old_one_lingers:
        found["handoff__linger"] = 60
    return found | changes


@pytest.mark.matrix
@pytest.mark.parametrize("moment", MOMENTS)
async def test_sigterm_lets_handlers_finish_and_ends_everybody_in_time(
    tmp_path: Path, moment: Callable[[Rig], Awaitable[None]]
) -> None:
    async with under_traffic(tmp_path, **options(moment, handoff__drain_timeout=DRAIN_TIMEOUT)) as installation:
        await moment(installation)
        stopped_at = terminate(installation)
        if moment is in_activating:
            await installation.logged("told to stop")
            await hear(installation, 2)
        await ended(installation, within=DRAIN_TIMEOUT + DRAIN_GRACE)
        await assert_begun_is_finished(installation, stopped_at)


@pytest.mark.matrix
@pytest.mark.parametrize("moment", MOMENTS)
@wide
async def test_a_second_sigterm_ends_everybody_at_once(
    tmp_path: Path, moment: Callable[[Rig], Awaitable[None]]
) -> None:
    async with under_traffic(tmp_path, **options(moment, handoff__drain_timeout=60)) as installation:
        if moment not in (in_draining, *NOBODY_TO_TALK_TO):
            await converse(installation)
        await moment(installation)
        terminate(installation)
        if moment is not in_backoff:  # there is nobody to wait for: the first one ends it
            await installation.logged("told to stop")
            terminate(installation)
        await ended(installation, within=1.0)
        if moment is not in_backoff:
            assert_killed(installation)
        await installation.sandbox.traffic.stop()
        assert (await installation.sandbox.settled(timeout=1, quiet=0.5)).duplicated == 0


@wide
async def test_a_second_sigterm_ends_a_child_at_once_that_neither_reads_its_pipe_nor_obeys_sigterm(
    tmp_path: Path,
) -> None:
    """Asked politely, it would be there for a minute."""
    async with under_traffic(tmp_path, handoff__drain_timeout=60) as installation:
        await order_now(installation, 1, "stubborn")
        terminate(installation)
        await installation.logged("told to stop")
        terminate(installation)
        await ended(installation, within=1.0)
        assert_killed(installation)


@pytest.mark.matrix
@pytest.mark.parametrize("generation", [1, 2])
@pytest.mark.parametrize("times", [1, 2])
@wide
async def test_sigterm_before_a_child_has_said_hello(tmp_path: Path, generation: int, times: int) -> None:
    # One that the first SIGTERM ends could be gone before the second.
    shim = slow_start(tmp_path, generation, deaf=times > 1)
    async with under_traffic(
        tmp_path, serving=generation > 1, bot__python=shim, handoff__drain_timeout=DRAIN_TIMEOUT
    ) as installation:
        if generation > 1:
            await in_spawning(installation)
        await installation.logged(f"gen {generation}: takes its time")
        stopped_at = terminate(installation)
        await installation.logged("told to stop")
        if times > 1:
            terminate(installation)
        await ended(installation, within=1.0 if times > 1 else DRAIN_TIMEOUT + DRAIN_GRACE)
        if times > 1:
            assert_killed(installation)
        if generation > 1 and times == 1:
            await assert_begun_is_finished(installation, stopped_at)
