"""A machine whose clock is not Discord's, and a bot that is killed: no interaction is lost that can be answered."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from rig import Rig, active, rig

from bastion.sandbox import Entry, SandboxSettings

pytestmark = [pytest.mark.anyio, pytest.mark.wide]

SURELY_ALIVE = 2.4
"""An interaction that is younger than this when its session is resumed can be answered within its 3 s."""


async def kill_and_ask(installation: Rig, seconds: float) -> list[Entry]:
    """Kill the bot, then use a command five times a second until another one is active, at most for some seconds."""
    serving = active(await installation.status())
    assert serving is not None
    os.kill(serving["pid"], signal.SIGKILL)
    asked = []
    for _ in range(int(seconds * 5)):
        asked.append(installation.sandbox.emit_slash("ping"))
        if any("generation 2 is active" in line for line in installation.log):
            break
        await asyncio.sleep(0.2)
    return asked


def resumed_at(installation: Rig) -> float:
    """Return when the last of the dead sessions was resumed."""
    lines = zip(installation.log_at, installation.log, strict=True)
    return max(at for at, line in lines if "resumed shard" in line)


def a_sandbox(ahead: float) -> SandboxSettings:
    return SandboxSettings(max_concurrency=16, clock_offset=ahead, identify_window=0.2, member_request_window=0.0)


@pytest.mark.matrix
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("ahead", [60, 3, 0, -3, -60])
async def test_every_interaction_that_discord_still_takes_an_answer_to_is_answered_after_a_kill(
    tmp_path: Path, ahead: float, known: bool
) -> None:
    options = {"restart__backoff_first": 0.1, "discord__identify_window": 0.2}
    async with rig(tmp_path, app="plain_client:client", settings=a_sandbox(ahead), **options) as installation:
        await installation.start()
        journal = installation.sandbox.journal
        if known:
            await journal.wait_handled(installation.sandbox.emit_slash("ping"), timeout=20)
            await asyncio.sleep(1.5)  # until the next beat it is not written down
        asked = await kill_and_ask(installation, 20)
        await installation.logged("recovered what generation 1 left")
        resumed = resumed_at(installation)
        due = [entry for entry in asked if entry.at > resumed - SURELY_ALIVE]
        assert due, installation.tail()
        for entry in due:
            await journal.wait_handled(entry, timeout=10)
        assert all(len(journal.handlings(entry.kind, entry.key)) <= 1 for entry in asked)
        assert not any("Traceback" in line for line in installation.log), installation.tail()


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
async def test_an_interaction_that_is_too_old_is_counted_and_one_of_unknown_age_is_tried_without_a_traceback(
    tmp_path: Path, known: bool
) -> None:
    options = {"restart__backoff_first": 5, "discord__identify_window": 0.2}
    async with rig(tmp_path, app="plain_client:client", settings=a_sandbox(-60), **options) as installation:
        await installation.start()
        journal = installation.sandbox.journal
        if known:
            await journal.wait_handled(installation.sandbox.emit_slash("ping"), timeout=20)
            await asyncio.sleep(1.5)
        asked = await kill_and_ask(installation, 0.4)
        await installation.logged("recovered what generation 1 left")
        status = await installation.until(lambda status: (status["last_handoff"] or {}).get("expired") == len(asked))
        assert status["last_handoff"]["kind"] == "recovery"
        assert len(journal.refused) == (0 if known else len(asked)), journal.refused
        late = [line for line in installation.log if "came too late for Discord to take an answer" in line]
        assert len(late) == len(journal.refused)
        assert not any("Traceback" in line for line in installation.log), installation.tail()
