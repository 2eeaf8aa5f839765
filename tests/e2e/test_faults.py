"""Children that die in the middle of a handoff: what the machine's table promises, shown with real processes.

An event that a child had claimed when it was killed is cut with its handler: nobody may handle it again. All others
that some session received are handled once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from rig import ALL_KINDS, Rig, active, rig

from sandbox import Entry, SandboxSettings

pytestmark = pytest.mark.anyio

WINDOW = 0.25
CUT_SECONDS = 0.5
"""Longest time from an event's arrival to its report with handlers of 50 ms: what is younger at a kill may be cut."""
INTERACTIONS = ("slash", "autocomplete", "button", "select")


def settings() -> SandboxSettings:
    return SandboxSettings(
        max_concurrency=2,
        identify_window=WINDOW,
        recommended_shards=4,
        member_request_window=0.0,
        identifies_per_day=100_000,
    )


class Reload:
    """A `supervisor reload` in a process of its own, followed line by line."""

    def __init__(self, installation: Rig) -> None:
        self.installation = installation
        self.lines: list[str] = []

    async def until(self, phase: str) -> None:
        """Start it and return when it enters the phase."""
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "supervisor", "reload", "--config", str(self.installation.config)),
            env=self.installation.environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            async for line in self.process.stdout:
                self.lines.append(line.decode())
                if line.startswith(phase.encode()):
                    return
        raise AssertionError(f"never {phase}: {self.lines}")

    async def result(self) -> int:
        async with asyncio.timeout(60):
            out, _ = await self.process.communicate()
        self.lines += out.decode().splitlines()
        assert self.process.returncode is not None
        return self.process.returncode


def child(status: dict[str, Any], generation: int) -> dict[str, Any]:
    found: dict[str, Any] = next(child for child in status["children"] if child["generation"] == generation)
    return found


def unexplained(installation: Rig, deaf: set[int], killed_at: float, served_at: float) -> list[Entry]:
    """Expected events that some session received and nobody handled, but for those a killed handler may have had.

    ``deaf`` are the killed child's sessions: what reached them later was read by nobody. Interactions that came while
    nobody served are not counted either: Discord takes no answer to them after 3 s.
    """
    journal = installation.sandbox.journal
    return [
        entry
        for entry in journal.entries
        if installation.expected(entry)
        and any(session not in deaf or at < killed_at for session, at in entry.delivered)
        and not journal.handlings(entry.kind, entry.key)
        and not any(killed_at - CUT_SECONDS < at < killed_at + 0.1 for _, at in entry.delivered)
        and not (entry.kind in INTERACTIONS and all(killed_at < at < served_at for _, at in entry.delivered))
    ]


@pytest.mark.parametrize(
    ("number", "victim", "phase", "code", "serving", "kind", "result"),
    [
        pytest.param(
            signal.SIGKILL, 2, "spawning", 1, 1, "reload", "failed", id="new-spawning", marks=pytest.mark.wide
        ),
        pytest.param(signal.SIGKILL, 2, "connecting", 1, 1, "reload", "failed", id="new-connecting"),
        pytest.param(signal.SIGKILL, 2, "draining", 1, 1, "reload", "rolled-back", id="new-draining"),
        pytest.param(
            signal.SIGKILL, 1, "spawning", 0, 2, "failover", "succeeded", id="old-spawning", marks=pytest.mark.wide
        ),
        pytest.param(signal.SIGKILL, 1, "connecting", 0, 2, "failover", "succeeded", id="old-connecting"),
        pytest.param(
            signal.SIGKILL, 1, "draining", 0, 2, "reload", "succeeded", id="old-draining", marks=pytest.mark.wide
        ),
        pytest.param(
            signal.SIGSTOP, 2, "connecting", 1, 1, "reload", "failed", id="new-hangs-connecting", marks=pytest.mark.wide
        ),
        pytest.param(
            signal.SIGSTOP,
            2,
            "draining",
            1,
            1,
            "reload",
            "rolled-back",
            id="new-hangs-draining",
            marks=pytest.mark.wide,
        ),
        pytest.param(
            signal.SIGSTOP,
            1,
            "connecting",
            0,
            2,
            "reload or failover",
            "succeeded",
            id="old-hangs-connecting",
            marks=pytest.mark.wide,
        ),
        pytest.param(
            signal.SIGSTOP, 1, "draining", 0, 2, "reload", "succeeded", id="old-hangs-draining", marks=pytest.mark.wide
        ),
    ],
)
async def test_a_child_that_dies_or_hangs_in_a_handoff(
    tmp_path: Path, number: signal.Signals, victim: int, phase: str, code: int, serving: int, kind: str, result: str
) -> None:
    async with rig(
        tmp_path,
        app="sharded_client:client",
        settings=settings(),
        handler_ms="50-50",
        discord__identify_window=WINDOW,
        restart__hang_timeout=3,
    ) as installation:
        sandbox = installation.sandbox
        installation.environ["PROBE_WAIT_S"] = "14"
        await installation.start()
        sandbox.traffic.start(rate=60, mix=ALL_KINDS)
        if phase == "draining":
            for _ in range(8):  # the traffic may answer some of them
                await sandbox.journal.wait_handled(sandbox.emit_slash("ask"))
        reload = Reload(installation)
        await reload.until(phase)
        before = await installation.until(lambda status: len(status["children"]) == 2)
        deaf = {session.info.number for session in sandbox.gateway.sessions if session.generation == victim}
        os.kill(child(before, victim)["pid"], number)
        killed_at = time.monotonic()

        assert await reload.result() == code, reload.lines
        after = await installation.until(
            lambda status: (
                status["supervisor"]["state"] == "serving"
                and len(status["children"]) == 1
                and active(status) is not None
            )
        )
        served_at = time.monotonic()
        assert [one["generation"] for one in after["children"]] == [serving], installation.tail()
        # An old child that hangs may be found out before the switch or only when it does not drain.
        assert after["last_handoff"]["kind"] in kind.split(" or ")
        assert after["last_handoff"]["result"] == result

        again = await installation.reload()
        assert again["result"] == "succeeded", again
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=8, quiet=2)
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"
        missing = [
            (entry.kind, entry.key, [(session in deaf, at - killed_at) for session, at in entry.delivered])
            for entry in unexplained(installation, deaf, killed_at, served_at)
        ]
        assert not missing, f"{missing}\n{found}\n{installation.tail()}"
        pids = [one["pid"] for one in before["children"]]
        assert await installation.stop() == 0
        assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_a_standby_to_which_discord_gives_nothing_is_not_activated(tmp_path: Path) -> None:
    async with rig(
        tmp_path, app="sharded_client:client", settings=settings(), handler_ms="0-50", discord__identify_window=WINDOW
    ) as installation:
        sandbox = installation.sandbox
        await installation.start()
        sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        with sandbox.faults.deaf_sessions(count=4):
            outcome = await installation.reload()
        assert outcome["result"] == "failed"
        assert "heard nothing while the active one heard" in outcome["reason"]
        serving = active(await installation.status())
        assert serving is not None
        assert serving["generation"] == 1
        assert (await installation.reload())["result"] == "succeeded"
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=8, quiet=2)
        assert found.clean, f"{found}\n{installation.tail()}"
