"""Children, the supervisor or all of them are stopped (SIGSTOP) for a while in the middle of a reload, and go on.

Nothing is doubled, and nothing is lost but interactions that expired meanwhile and the handlers of a bot that was
killed because it stood still; both are counted. `BASTION_SEED` repeats one run; `make soak` runs the whole matrix.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ordeal import (
    INTERACTIONS,
    UNKNOWN_INTERACTION,
    Following,
    Judgement,
    at_rest,
    pid,
    reload,
    seen,
    settings,
    so_far,
    under_traffic,
    untold_counted,
)
from rig import ALL_KINDS, Rig

from bastion.sandbox import Entry
from bastion.supervisor.observed import utc_now

pytestmark = [pytest.mark.anyio, pytest.mark.wide]

WHO = ("active", "standby", "supervisor", "all")
PHASES = ("spawning", "connecting", "activating", "draining")
HANG_TIMEOUT = 20
ANSWERABLE = 3.0
MIX = {kind: weight for kind, weight in ALL_KINDS.items() if kind != "member_update"}
"""Of updates that have piled up a handler of discord.py's sees the member as the newest of them has made it."""


@dataclass
class Pause:
    """One pause in a reload from generation 1 to 2, made of a seed."""

    who: str
    seconds: float
    seed: int
    phase: str = field(init=False)
    delay: float = field(init=False)
    began: float = 0.0
    ended: float = float("inf")

    def __post_init__(self) -> None:
        chosen = random.Random(f"{self.who} {self.seconds:g} {self.seed}")
        self.phase = chosen.choice(PHASES if self.who != "standby" else PHASES[1:])
        self.delay = chosen.uniform(0, 0.8)

    @property
    def worked_off(self) -> float:
        """When what has piled up is worked off: a handler for each event of 40 s begins at the same time."""
        return self.ended + 1.5 + self.seconds / 8

    def pids(self, installation: Rig) -> list[int]:
        assert installation.process is not None
        found = {"active": [1], "standby": [2], "supervisor": [], "all": [1, 2]}[self.who]
        pids = [] if self.who in ("active", "standby") else [installation.process.pid]
        for generation in found:
            try:
                pids.append(pid(installation, generation))
            except AssertionError:  # not spawned yet
                continue
        return [one for one in pids if Path(f"/proc/{one}").exists()]

    async def hold(self, installation: Rig) -> None:
        """Stop them, and let them go on after a while."""
        await asyncio.sleep(self.delay)
        stopped = self.pids(installation)
        self.began = time.monotonic()
        for one in stopped:
            os.kill(one, signal.SIGSTOP)
        await asyncio.sleep(self.seconds)
        for one in stopped:
            if Path(f"/proc/{one}").exists():
                os.kill(one, signal.SIGCONT)
        self.ended = time.monotonic()


@dataclass
class Tolerant(Judgement):
    """Excuses interactions, too, that nobody could answer in time because of a pause; it counts them."""

    pause: Pause = field(kw_only=True)
    expired: set[str] = field(default_factory=set)

    def excuse(self, entry: Entry) -> str | None:
        why = super().excuse(entry)
        paused = self.pause.began - ANSWERABLE < entry.at < self.pause.worked_off
        if why is None and entry.kind in INTERACTIONS and paused:
            self.expired.add(entry.key)
            return "it expired in the pause"
        return why


def killed(installation: Rig) -> Iterator[int]:
    """Yield the generations that were ended because they stood still."""
    for generation in (1, 2):
        if any(f"generation {generation}: hangs" in line for line in installation.log):
            yield generation


def told_late(installation: Rig) -> int:
    """Count the interactions of which the log says that they came too late."""
    return sum("came too late for Discord to take an answer" in line for line in installation.log)


async def judged(installation: Rig, pause: Pause) -> dict[str, Any]:
    """Stop the traffic; assert that nothing is lost or doubled but what is said above; return the counts."""
    sandbox = installation.sandbox
    await sandbox.traffic.stop()
    stopped_at = utc_now()

    def idle(status: dict[str, Any]) -> bool:
        return all(one["last_beat_at"] > stopped_at and not one["in_flight"] for one in status["children"])

    await seen(installation, idle)
    found = await sandbox.settled(timeout=30, quiet=3)
    for generation in killed(installation):
        if pause.who in ("active", "standby"):
            installation.hurt[generation] = pause.began
    await untold_counted(installation)
    judgement = Tolerant(installation, pause=pause)
    lost = {name: some for name, some in judgement.unhandled().items() if some}
    told = f"{pause}\n{found}\n{so_far(installation)}"
    assert not lost, f"lost {lost}\n{told}"
    assert found.duplicated == 0, told
    refused = [one for one in sandbox.journal.refused if one.code != UNKNOWN_INTERACTION]
    assert not refused, f"answers refused: {refused}\n{told}"
    return {
        "emitted": found.emitted,
        "expired": len(judgement.expired),
        "refused": len(sandbox.journal.refused),
        "killed": list(killed(installation)),
    }


async def stand_still(directory: Path, pause: Pause) -> dict[str, Any]:
    """Reload under traffic, with the pause in the middle, then once more; judge all of it."""
    options = {"restart__hang_timeout": HANG_TIMEOUT, "handoff__drain_timeout": 10}
    sandbox = settings(replay_buffer=50_000, session_resume_seconds=300.0)
    async with under_traffic(directory, rate=50, mix=MIX, sandbox=sandbox, **options) as installation:
        reloading = Following(installation)
        await reloading.until(pause.phase)
        await pause.hold(installation)
        outcome = await reloading.result()
        await at_rest(installation)
        counts = await judged(installation, pause)
        if pause.who in ("supervisor", "all"):
            assert not any("its stacks follow" in line for line in installation.log), so_far(installation)
            assert not any("Traceback" in line for line in installation.log), so_far(installation)
            assert outcome["result"] == "succeeded", f"{outcome}\n{so_far(installation)}"
        again = await reload(installation)
        assert again["result"] == "succeeded", f"{again}\n{so_far(installation)}"
        cut = (outcome["handoff"] or {}).get("cut") or []
        assert await installation.stop() == 0
        assert told_late(installation) <= counts["refused"]
        return {
            **counts,
            "told": told_late(installation),
            "cut": len(cut),
            "result": outcome["result"],
            "phase": pause.phase,
        }


@pytest.mark.matrix
@pytest.mark.parametrize("who", WHO)
async def test_a_pause_of_a_second_costs_a_reload_nothing(tmp_path: Path, who: str) -> None:
    counts = await stand_still(tmp_path, Pause(who, 1, int(os.environ.get("BASTION_SEED", "1"))))
    assert counts["result"] == "succeeded"
    assert not counts["killed"]


@pytest.mark.soak
@pytest.mark.skipif(os.environ.get("BASTION_SOAK") != "1", reason="takes forty minutes: set BASTION_SOAK=1 to run it")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("seconds", [1, 10, 40])
@pytest.mark.parametrize("who", WHO)
async def test_a_pause_of_any_length_at_any_time_of_a_reload_loses_and_doubles_nothing(
    tmp_path: Path, who: str, seconds: int, number: int
) -> None:
    seed = int(os.environ.get("BASTION_SEED", "1")) + number
    counts = await stand_still(tmp_path, Pause(who, seconds, seed))
    print(f"BASTION_SEED={seed} {who} {seconds} s: {counts}")
