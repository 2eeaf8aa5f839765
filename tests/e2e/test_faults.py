"""Children that die in the middle of a handoff: what the machine's table promises, shown with real processes.

An event that a child had claimed when it was killed is cut with its handler: nobody may handle it again. All others
that some session received are handled once.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from casualties import INTERACTIONS, UNTOLD, Reload, child, missed, sessions_of, tellable, unexplained
from ordeal import MOMENT, order_now
from rig import ALL_KINDS, active, rig

from bastion.sandbox import SandboxSettings

pytestmark = pytest.mark.anyio

WINDOW = 0.25


def settings() -> SandboxSettings:
    return SandboxSettings(
        max_concurrency=2,
        identify_window=WINDOW,
        recommended_shards=4,
        member_request_window=0.0,
        identifies_per_day=100_000,
        replay_buffer=3500,  # on a busy machine it takes long to replace one that hangs
    )


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("number", "victim", "phase", "code", "serving", "kind", "result"),
    [
        pytest.param(
            signal.SIGKILL, 2, "spawning", 1, 1, "reload", "failed", id="new-spawning", marks=pytest.mark.wide
        ),
        pytest.param(signal.SIGKILL, 2, "connecting", 1, 1, "reload", "failed", id="new-connecting"),
        pytest.param(
            signal.SIGKILL, 2, "draining", 1, 1, "reload", "rolled-back", id="new-draining", marks=pytest.mark.wide
        ),
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
            "failover",
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
        handoff__session="overlap",
    ) as installation:
        sandbox = installation.sandbox
        installation.environ["PROBE_WAIT_S"] = "14"
        await installation.start()
        sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        if phase == "draining":
            for _ in range(8):  # the traffic may answer some of them
                await sandbox.journal.wait_handled(sandbox.emit_slash("ask"))
        reload = Reload(installation)
        await reload.until(phase)
        # One that stops while it is being imported has no beat that could stop: it is given `handoff.ready_timeout`.
        before = await installation.until(
            lambda status: (
                len(status["children"]) == 2
                and (number != signal.SIGSTOP or child(status, victim)["loop_lag_ms"] is not None)
            )
        )
        deaf = {session.info.number for session in sandbox.gateway.sessions if session.generation == victim}
        killed_at = time.monotonic()
        os.kill(child(before, victim)["pid"], number)

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
        assert after["last_handoff"]["kind"] == kind
        assert after["last_handoff"]["result"] == result

        # Whoever hangs is found out by the switch at the latest, and its sessions are resumed.
        resumed = victim == 1 and phase != "draining"
        untold: set[str] = set()
        if after["last_handoff"]["recovered"] is not None:

            def counted(status: dict[str, Any]) -> bool:
                found = unexplained(installation, victim, killed_at, served_at, resumed=resumed)
                untold.clear()
                untold.update(entry.key for entry in found if missed(entry, sandbox) and entry.at < served_at)
                return len(untold) <= int(status["last_handoff"]["recovered"]["missed"])

            await installation.until(counted)

        again = await installation.reload()
        assert again["result"] == "succeeded", again
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=8, quiet=2)
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"
        unread = MOMENT if number == signal.SIGSTOP else 0.0
        missing = [
            (entry.kind, entry.key, [(session in deaf, at - killed_at) for session, at in entry.delivered])
            for entry in unexplained(installation, victim, killed_at, served_at, unread=unread, resumed=resumed)
            if not (missed(entry, sandbox) and entry.key in untold)
            and (not unread or resumed or tellable(entry, sandbox, but=deaf))
        ]
        assert not missing, f"{missing}\n{found}\n{installation.tail()}"
        pids = [one["pid"] for one in before["children"]]
        assert await installation.stop() == 0
        assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.wide
async def test_an_active_bot_that_stands_still_while_the_new_one_connects_reads_what_came_before_it_hands_over(
    tmp_path: Path,
) -> None:
    async with rig(
        tmp_path, app="vandal:client", settings=settings(), handler_ms="0-50", discord__identify_window=WINDOW
    ) as installation:
        sandbox = installation.sandbox
        installation.environ |= {"VANDAL": str(tmp_path / "order"), "VANDAL_STALL_S": "6"}
        await installation.start()
        # The handlers of several updates that are read at once all see the member as it is after the last one.
        sandbox.traffic.start(rate=100, mix={kind: share for kind, share in ALL_KINDS.items() if kind not in UNTOLD})
        reload = Reload(installation)
        await reload.until("spawning")
        stalled_at = time.monotonic()
        await order_now(installation, 1, "stall")
        assert await reload.result() == 0, reload.lines
        handoff = (await installation.status())["last_handoff"]
        assert (handoff["kind"], handoff["result"]) == ("reload", "succeeded")
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=8, quiet=2)
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"
        old = sessions_of(installation, 1)
        stalled = [
            entry
            for entry in sandbox.journal.entries
            if installation.expected(entry)
            and entry.delivered
            and all(session in old and at > stalled_at for session, at in entry.delivered)
        ]
        assert stalled, "the new bot's sessions began after the old one had begun to stand still"
        handled = sandbox.journal.handlings
        lost = [entry for entry in stalled if entry.kind not in INTERACTIONS and not handled(entry.kind, entry.key)]
        assert not lost, f"{lost}\n{installation.tail()}"


async def test_a_standby_to_which_discord_gives_nothing_is_not_activated(tmp_path: Path) -> None:
    async with rig(
        tmp_path,
        app="sharded_client:client",
        settings=settings(),
        handler_ms="0-50",
        discord__identify_window=WINDOW,
        handoff__session="overlap",
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


async def test_a_reload_goes_ahead_where_discord_ends_the_old_session_for_the_new_one(tmp_path: Path) -> None:
    async with rig(
        tmp_path,
        app="app:client",
        settings=settings(),
        handler_ms="0-50",
        discord__identify_window=WINDOW,
        handoff__session="overlap",
    ) as installation:
        sandbox = installation.sandbox
        source = "from sharded_client import ShardedClient\nclient = ShardedClient(guild_ready_timeout=0.5)\n"
        installation.configure(bot__directory=str(installation.release("app", source)))
        await installation.start()
        identifies = len(sandbox.gateway.identifies)
        sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        with sandbox.faults.kick_old_sessions() as fault:
            outcome = await installation.reload()
            assert fault.hits == 4, "each shard of the new bot, once: nobody takes them back"
            assert len(sandbox.gateway.identifies) == identifies + 4, sandbox.gateway.identifies[identifies:]
        assert outcome["result"] == "succeeded", outcome
        assert "Discord ended generation 1's session" in outcome["handoff"]["reason"]
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=8, quiet=2)
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"
        journal = sandbox.journal
        heard = [entry for entry in journal.entries if installation.expected(entry) and tellable(entry, sandbox)]
        lost = [entry for entry in heard if not journal.handlings(entry.kind, entry.key)]
        assert not lost, f"{lost}\n{found}\n{installation.tail()}"


@pytest.mark.wide
async def test_an_active_bot_that_was_kicked_takes_its_shards_back_when_the_reload_fails(tmp_path: Path) -> None:
    async with rig(
        tmp_path,
        app="sharded_client:client",
        settings=settings(),
        discord__identify_window=WINDOW,
        handoff__session="overlap",
    ) as installation:
        sandbox = installation.sandbox
        await installation.start()
        with sandbox.faults.kick_old_sessions(count=1):
            reload = Reload(installation)
            await reload.until("connecting")
            await installation.logged("the handoff goes ahead")
            before = await installation.status()
            os.kill(child(before, 2)["pid"], signal.SIGKILL)
            assert await reload.result() == 1
        await installation.until(
            lambda status: (
                len(status["children"]) == 1
                and [shard["state"] for shard in status["children"][0]["shards"]] == ["ready"] * 4
            )
        )
        assert (await installation.reload())["result"] == "succeeded"
