"""A shard that stays away: it is said, `status` shows it, and after `handoff.ready_timeout` a successor is tried."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ordeal import WINDOW, ask_status, at_rest, seen, serving_alone, settings
from rig import Rig, active, rig

pytestmark = [pytest.mark.anyio, pytest.mark.wide, pytest.mark.timeout(180)]

SAID = "has not been ready for 10 s"
TIMEOUT = 12


def away(status: dict[str, object], shard: int) -> float | None:
    """For how long a shard of the active bot has been away."""
    child = active(status)
    assert child is not None
    found: float | None = child["shards"][shard]["away"]
    return found


def said(installation: Rig, text: str) -> list[str]:
    return [line for line in installation.log if text in line]


def violations(installation: Rig) -> list[object]:
    return list(installation.sandbox.gateway.violations)


async def test_a_shard_that_discord_gives_no_session_is_said_once_and_once_more_when_it_has_one(tmp_path: Path) -> None:
    options = {"discord__identify_window": WINDOW, "handoff__ready_timeout": 100}
    async with rig(tmp_path, app="sharded_bot:client", settings=settings(), **options) as installation:
        await installation.start()
        faults = installation.sandbox.faults
        with faults.refuse_identify(None) as fault:
            faults.close(1, 4009)
            await installation.logged(SAID)
            assert fault.hits > 3, "it is asked for again and again"
            status = await ask_status(installation)
            assert away(status, 0) is None
            assert (away(status, 1) or 0.0) > 9.5
            shown = (await installation.command("status")).out
            assert re.search(r"generation 1, shards not ready: \w+: 1; away for 1\d\.\d s: closed with 4009", shown), (
                shown
            )
        line = await installation.logged("shard 1 of generation 1 is ready again, after ")
        assert 10 <= int(line.split()[-2]) < 20
        assert len(said(installation, SAID)) == 1
        assert "closed with 4009" in said(installation, SAID)[0]
        assert away(await ask_status(installation), 1) is None
        assert not violations(installation)


async def test_one_that_only_this_bot_is_denied_has_a_successor_that_takes_over(tmp_path: Path) -> None:
    options = {"discord__identify_window": WINDOW, "handoff__ready_timeout": TIMEOUT}
    async with rig(tmp_path, app="sharded_bot:client", settings=settings(), **options) as installation:
        await installation.start()
        faults = installation.sandbox.faults
        fault = faults.withhold_ready([1], count=1)
        faults.invalidate(1)
        await installation.logged(SAID)
        await installation.logged("a successor is tried", timeout=TIMEOUT)
        status = await serving_alone(installation, 2)
        handoff = status["last_handoff"]
        assert fault.hits == 1
        assert (handoff["kind"], handoff["result"], handoff["session"]) == ("recovery", "succeeded", "overlap")
        assert handoff["reason"].startswith("shard 1 of generation 1 is away (Discord has ended the session (op 9)")
        assert not violations(installation)
        assert (await installation.reload())["result"] == "succeeded"


async def test_where_no_bot_gets_a_session_the_old_one_serves_on_and_nobody_is_tried_without_a_pause(
    tmp_path: Path,
) -> None:
    options = {"discord__identify_window": WINDOW, "handoff__ready_timeout": TIMEOUT}
    async with rig(tmp_path, app="sharded_bot:client", settings=settings(), **options) as installation:
        await installation.start()
        sandbox = installation.sandbox
        with sandbox.faults.withhold_ready([1]):
            sandbox.faults.invalidate(1)
            await installation.logged("recovery 1 -> 2 failed", timeout=60)
            status = await at_rest(installation)
            assert active(status)["generation"] == 1  # type: ignore[index]
            message = next(
                entry for entry in iter(sandbox.emit_message, None) if (entry.guild_id or 0) >> 22 & 1 == 0
            )  # to a guild of the other shard
            await sandbox.journal.wait_handled(message)
            await installation.logged("generation 3 spawned", timeout=60)
            began = [at for at, line in zip(installation.log_at, installation.log, strict=True) if "spawned as" in line]
            assert began[2] - began[1] > 2 * TIMEOUT - 1, "after its own time and a pause as long"
        sandbox.faults.drop_shard(1, which="oldest")
        await seen(installation, lambda status: all(one["away"] is None for one in (active(status) or {})["shards"]))
        assert (await installation.reload())["result"] == "succeeded"
        assert not violations(installation)
