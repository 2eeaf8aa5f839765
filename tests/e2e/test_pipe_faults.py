"""Apps that break the pipes between their process and the supervisor, phase by phase of a handoff.

What comes of it is what the machine's table says. Each ordeal ends with a reload that works and the journal's verdict.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ordeal import Following, converse, in_roles, ordeal, order, order_now, reload, serving_alone

pytestmark = pytest.mark.anyio

SHIM = """#!{python} -P
import argparse, os, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("--generation")
parser.add_argument("--write", type=int)
found, _ = parser.parse_known_args()
if found.generation == "2":
    {deed}
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""
"""An interpreter that does something with the second generation's pipe before Python starts."""


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        pytest.param("os.write(found.write, b'hello\\n')", "sent something that is not a message", id="garbage"),
        pytest.param(
            "os.close(found.write); time.sleep(60)",
            "closed its pipe and lives on",
            id="close",
            marks=pytest.mark.wide,
        ),
        pytest.param("time.sleep(60)", "said nothing within 5 s of its start", id="silence", marks=pytest.mark.wide),
    ],
)
async def test_a_new_child_that_breaks_its_pipe_before_hello_changes_nothing(
    tmp_path: Path, deed: str, reason: str
) -> None:
    shim = tmp_path / "python"
    shim.write_text(SHIM.format(python=sys.executable, deed=deed))
    shim.chmod(0o755)
    async with ordeal(tmp_path, bot__python=str(shim), handoff__ready_timeout=5) as installation:
        outcome = await reload(installation)
        assert outcome["result"] == "failed"
        assert reason in outcome["reason"]
        await serving_alone(installation, 1)
        installation.configure(handoff__ready_timeout=60)  # for the reload that works


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("moment", "deed", "result", "reason"),
    [
        pytest.param("setup", "garbage", "failed", "not a message", id="connecting-garbage", marks=pytest.mark.wide),
        pytest.param("setup", "close", "failed", "closed its pipe", id="connecting-close", marks=pytest.mark.wide),
        pytest.param("setup", "deaf", "failed", "not ready within 8 s", id="connecting-deaf", marks=pytest.mark.wide),
        pytest.param("ready", "garbage", "failed", "not a message", id="ready-garbage", marks=pytest.mark.wide),
        pytest.param("ready", "close", "failed", "closed its pipe", id="ready-close", marks=pytest.mark.wide),
        pytest.param("ready", "deaf", "failed", "did not become active", id="ready-deaf", marks=pytest.mark.wide),
        pytest.param(
            "activating", "garbage", "failed", "not a message", id="before-ack-garbage", marks=pytest.mark.wide
        ),
        pytest.param("activating", "close", "failed", "closed its pipe", id="before-ack-close", marks=pytest.mark.wide),
        pytest.param("activating", "kill", "failed", "SIGKILL", id="before-ack-kill", marks=pytest.mark.wide),
        pytest.param(
            "activating", "stop", "failed", "did not become active", id="before-ack-stop", marks=pytest.mark.wide
        ),
        pytest.param(
            "active", "garbage", "rolled-back", "not a message", id="draining-garbage", marks=pytest.mark.wide
        ),
        pytest.param("active", "close", "rolled-back", "closed its pipe", id="draining-close", marks=pytest.mark.wide),
    ],
)
async def test_a_new_child_that_breaks_gives_way_to_the_old_one(
    tmp_path: Path, moment: str, deed: str, result: str, reason: str
) -> None:
    # A stopped child is found out by two clocks: here the one of its activation runs out well before the other.
    patience = {"restart__hang_timeout": 15} if deed == "stop" else {}
    async with ordeal(tmp_path, handoff__ready_timeout=8, **patience) as installation:
        if moment == "active":
            await converse(installation)
        order(installation, 2, moment, deed)
        outcome = await reload(installation)
        assert (outcome["result"], outcome["generation"]) == (result, 1), installation.tail()
        assert reason in outcome["reason"]
        await serving_alone(installation, 1)
        installation.configure(handoff__ready_timeout=60)  # for the reload that works


@pytest.mark.matrix
@pytest.mark.parametrize("deed", ["garbage", "close", "deaf"])
@pytest.mark.parametrize(
    ("phase", "kind"), [("spawning", "failover"), ("connecting", "failover"), ("draining", "reload")]
)
@pytest.mark.wide
async def test_an_old_child_that_breaks_its_pipe_in_a_handoff_is_replaced_by_the_new_one(
    tmp_path: Path, phase: str, kind: str, deed: str
) -> None:
    async with ordeal(tmp_path, handoff__drain_timeout=3) as installation:
        if phase == "draining":
            await converse(installation)
        following = Following(installation)
        await following.until(phase)
        await order_now(installation, 1, deed)
        outcome = await following.result()
        assert outcome["handoff"]["kind"] == kind, installation.tail()
        assert (outcome["result"], outcome["generation"]) == ("succeeded", 2)
        await serving_alone(installation, 2)


@pytest.mark.matrix
@pytest.mark.parametrize("deed", ["garbage", "close"])
@pytest.mark.wide
async def test_an_old_child_that_breaks_its_pipe_on_probation_ends_the_probation_and_costs_nothing(
    tmp_path: Path, deed: str
) -> None:
    async with ordeal(tmp_path, handoff__probation=60) as installation:
        following = Following(installation)
        await following.until("probation")
        await in_roles(installation, "standby", "active")
        await order_now(installation, 1, deed)
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("succeeded", 2), installation.tail()
        assert outcome["handoff"]["kind"] == "reload"
        await serving_alone(installation, 2)
        installation.configure(handoff__probation=0)
    assert installation.sandbox.journal.verdict().lost == 0  # it ran no handler any more


@pytest.mark.matrix
@pytest.mark.parametrize("deed", ["garbage", "close"])
@pytest.mark.wide
async def test_the_only_child_that_breaks_its_pipe_is_killed_and_replaced(tmp_path: Path, deed: str) -> None:
    """What Discord sent to nobody in between is not judged here."""
    async with ordeal(tmp_path) as installation:
        await order_now(installation, 1, deed)
        await serving_alone(installation, 2)


@pytest.mark.wide
async def test_the_only_child_that_does_not_read_its_pipe_is_ended_in_a_reload_and_followed_by_the_new_one(
    tmp_path: Path,
) -> None:
    async with ordeal(tmp_path, restart__hang_timeout=8) as installation:
        await order_now(installation, 1, "deaf")
        outcome = await reload(installation)
        assert (outcome["result"], outcome["handoff"]["kind"]) == ("succeeded", "failover")
        assert "beats, but has not answered for 8 s" in outcome["handoff"]["reason"]
        await serving_alone(installation, 2)
