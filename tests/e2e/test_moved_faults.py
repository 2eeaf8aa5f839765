"""What goes wrong while sessions move: nothing is lost that Discord still has, nothing doubled, the next reload works.

Discord is 0.2 s away, so that a switch of four shards takes a second and a half. What a killed bot ran is named in the
log; an interaction that nobody could answer within 3 s is Discord's to refuse. Everything else is handled once.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest
from casualties import INTERACTIONS, UNTOLD
from named import Named
from ordeal import WINDOW, Following, at_rest, of_moving, order_now, pid
from rig import ALL_KINDS, Rig, rig

from bastion.sandbox import Entry
from bastion.sandbox.snowflake import shard_of

pytestmark = [pytest.mark.anyio, pytest.mark.wide, pytest.mark.timeout(240)]

SHARDS = 4
RATE = 100
FAR = 0.2
"""Seconds to Discord and back."""
ANSWERED_WITHIN = 3.0
"""Seconds in which Discord takes an answer."""
MEMBERS = 1.0
"""Seconds from a new session's IDENTIFY until the members of its guilds are known again, and their updates told."""
MOMENT = 0.5
"""Seconds from when somebody serves again until what waited is answered."""
PHASES = {"spawning": 0.3, "connecting": 0.5, "activating": 1.5, "probation": 1.0, "draining": 1.0}
"""The phases of a reload, and for how many seconds each of them lasts here, about: in that time the fault comes."""


@dataclass(frozen=True)
class Fault:
    """Somebody is killed, or stands still for so many seconds."""

    victim: str
    seconds: float | None
    phase: str

    @property
    def name(self) -> str:
        """Of the test's case."""
        how = "killed" if self.seconds is None else f"stopped-{self.seconds:g}s"
        return f"{self.victim}-{how}-{self.phase}"


FAULTS = [
    Fault(victim, seconds, phase)
    for victim, seconds, phase in product(("old", "new", "supervisor"), (None, 1.0, 10.0), PHASES)
]


@asynccontextmanager
async def in_traffic(tmp_path: Path, *, shards: int = SHARDS, far: float = FAR, **options: Any) -> AsyncIterator[Rig]:
    """An installation that serves, under traffic."""
    settings = of_moving(shards, network_delay=far)
    options = {"restart__backoff_first": 0.2, "discord__identify_window": WINDOW} | options
    async with rig(tmp_path, app="vandal:client", settings=settings, handler_ms="20-20", **options) as installation:
        installation.environ |= {"VANDAL": str(tmp_path / "order"), "PROBE_WAIT_S": "2"}
        await installation.start()
        installation.sandbox.traffic.start(rate=RATE, mix=ALL_KINDS)
        yield installation


async def suffer(installation: Rig, fault: Fault, seed: int) -> tuple[float, float]:
    """Do to the victim what it says, at a moment of the phase that the seed chooses; return from when to when."""
    await asyncio.sleep(random.Random(seed).uniform(0, PHASES[fault.phase]))
    assert installation.process is not None
    victims = {"supervisor": installation.process.pid, "old": pid(installation, 1)}
    if fault.victim == "new":
        await installation.logged("generation 2 spawned")
        victims["new"] = pid(installation, 2)
    began = time.monotonic()
    with suppress(psutil.NoSuchProcess):
        victim = psutil.Process(victims[fault.victim])
        victim.send_signal(signal.SIGKILL if fault.seconds is None else signal.SIGSTOP)
        if fault.seconds is not None:
            await asyncio.sleep(fault.seconds)
            victim.send_signal(signal.SIGCONT)
    return began, time.monotonic()


async def judged(
    installation: Rig, *, hurt: tuple[float, float] = (0.0, 0.0), dead: tuple[float, float] = (0.0, 0.0)
) -> None:
    """The next reload works; nothing is doubled, or lost but what a killed bot ran and what nobody could answer.

    ``dead``: from when to when Discord did not let one shard's session be resumed. What it had sent on the closing
    connection, and what came while the shard had no session, it has not kept.
    """
    sandbox = installation.sandbox
    installation.configure(handoff__probation=0, handoff__linger=0)
    outcome = await installation.reload()
    assert outcome["result"] == "succeeded", f"{outcome}\n{installation.tail()}"
    await sandbox.traffic.stop()
    found = await sandbox.settled(timeout=15, quiet=3)
    assert found.duplicated == 0, f"{found}\n{installation.tail(120)}"
    names = [Named(installation, generation) for generation in range(1, 12)]
    lost = [entry for entry in missing(installation) if not in_vain(entry, *hurt)]
    lost = [entry for entry in lost if not any(named.excuses(entry) for named in names)]
    of_the_dead = [entry for entry in lost if dead[0] < entry.at < dead[1]]
    shards = sandbox.gateway.sessions[0].num_shards
    if len({shard_of(entry.guild_id or 0, shards) for entry in of_the_dead}) == 1:
        lost = [entry for entry in lost if entry not in of_the_dead]
    untold = [entry for entry in lost if entry.kind in UNTOLD]
    if len(untold) <= counted_as_missed(installation):
        lost = [entry for entry in lost if entry not in untold]
    assert not lost, f"{lost}\n{found}\n{installation.tail(120)}"
    assert found.emitted > RATE, found


def counted_as_missed(installation: Rig) -> int:
    """Return how many events a bot that followed a dead one without a mirror has counted as not to be told."""
    return sum(int(found[1]) for line in installation.log if (found := re.search(r"(\d+) events? missed", line)))


def missing(installation: Rig) -> list[Entry]:
    """Return the events that some session received and nobody handled."""
    journal = installation.sandbox.journal
    return [
        entry
        for entry in journal.entries
        if installation.expected(entry) and entry.delivered and not journal.handlings(entry.kind, entry.key)
    ]


def in_vain(entry: Entry, began: float, ended: float) -> bool:
    """Say whether nobody could answer an interaction in time: it came while somebody was hurt, or just before."""
    return entry.kind in INTERACTIONS and began - ANSWERED_WITHIN < entry.at < ended + MOMENT


@pytest.mark.matrix
@pytest.mark.parametrize("fault", [pytest.param(one, id=one.name) for one in FAULTS])
async def test_whoever_is_killed_or_stands_still_in_whatever_phase(tmp_path: Path, fault: Fault) -> None:
    seed = int(os.environ.get("BASTION_SEED", "1"))
    async with in_traffic(tmp_path, handoff__probation=3, handoff__linger=2) as installation:
        if fault.phase == "draining":
            installation.configure(handoff__probation=0)
            for entry in [installation.sandbox.emit_slash("ask") for _ in range(10)]:
                await installation.sandbox.journal.wait_handled(entry, timeout=20)
        following = Following(installation)
        await following.until(fault.phase)
        began, ended = await suffer(installation, fault, seed)
        if fault.victim == "supervisor" and fault.seconds is None:
            await following.gave_up()
            await installation.stopped()  # and the bots with it
            await installation.start()
            assert [one for one in installation.log if "generation 1 resumes them" in one], installation.tail()
        else:
            outcome = await following.result()
            assert outcome["result"] in ("succeeded", "failed", "rolled-back"), outcome
        if fault.seconds is None:
            ended = time.monotonic()
        await at_rest(installation)
        await judged(installation, hurt=(began, ended))


async def test_an_old_bot_that_reads_its_pipe_no_more_is_followed_by_one_with_sessions_of_its_own(
    tmp_path: Path,
) -> None:
    """It cannot be told to serve a mirror. When the new bot is ready, that it does not answer is found out, too."""
    async with in_traffic(tmp_path, far=0.0, restart__hang_timeout=4) as installation:
        following = Following(installation)
        await following.until("spawning")
        began = time.monotonic()
        await order_now(installation, 1, "deaf")
        outcome = await following.result()
        assert (outcome["result"], outcome["generation"]) == ("succeeded", 2), installation.tail(60)
        assert outcome["handoff"]["why"] == "generation 1 died", "it was ended, for it did not answer"
        await at_rest(installation)
        await judged(installation, hurt=(began, time.monotonic()))


# --- what Discord does ------------------------------------------------------------------------------------------------


@pytest.mark.matrix
@pytest.mark.parametrize("shards", [1, SHARDS])
@pytest.mark.parametrize("how", ["invalid", 4007, 4009, "cut", "silence"])
async def test_no_session_can_be_resumed(tmp_path: Path, how: Any, shards: int) -> None:
    """A bot of several shards finds out with the first, and the reload goes by overlap; a bot of one begins anew."""
    async with in_traffic(tmp_path, shards=shards) as installation:
        sandbox = installation.sandbox
        fault = sandbox.faults.withhold_resume() if how == "silence" else sandbox.faults.refuse_resume(how)
        began = time.monotonic() - MOMENT
        with fault:
            outcome = await installation.reload()
            assert outcome["result"] == "succeeded", f"{outcome}\n{installation.tail(100)}"
        ended = time.monotonic()
        if shards > 1:
            assert outcome["handoff"]["session"] == "overlap"
            assert "Discord does not resume the session of shard" in outcome["handoff"]["why"]
            assert len(sandbox.gateway.identifies) == shards + 1 + shards, "the first one's by the old bot"
        else:
            assert (outcome["handoff"]["session"], outcome["handoff"]["identifies"]) == ("moved", 1)
        await at_rest(installation)
        await judged(installation, hurt=(began, ended), dead=(began, ended + MEMBERS))


@pytest.mark.matrix
@pytest.mark.parametrize("how", ["invalid", 4007, 4009])
async def test_a_session_after_the_first_cannot_be_resumed_and_the_new_bot_begins_it_anew(
    tmp_path: Path, how: Any
) -> None:
    async with in_traffic(tmp_path) as installation:
        sandbox = installation.sandbox
        following = Following(installation)
        await sandbox.gateway.wait_for(lambda: sum(one.resumed for one in sandbox.gateway.sessions) == 1, timeout=30)
        began = time.monotonic() - MOMENT
        with sandbox.faults.refuse_resume(how, count=1) as fault:
            outcome = await following.result()
        assert fault.hits == 1
        assert outcome["result"] == "succeeded", f"{outcome}\n{installation.tail(100)}"
        assert (outcome["handoff"]["session"], outcome["handoff"]["identifies"]) == ("moved", 1)
        await at_rest(installation)
        ended = time.monotonic()
        await judged(installation, hurt=(began, ended), dead=(began, ended + MEMBERS))


@pytest.mark.matrix
@pytest.mark.parametrize("moment", [0.0, 0.3, 0.6, 0.9, 1.2])
@pytest.mark.parametrize("how", ["cut", "reconnect", "close"])
async def test_connections_break_while_their_sessions_move(tmp_path: Path, how: str, moment: float) -> None:
    async with in_traffic(tmp_path) as installation:
        faults = installation.sandbox.faults
        following = Following(installation)
        await following.until("activating")
        await asyncio.sleep(moment)
        began = time.monotonic()
        for shard in range(SHARDS):
            match how:
                case "cut":
                    faults.drop_shard(shard)
                case "reconnect":
                    faults.reconnect(shard)
                case _:
                    faults.close(shard, 4000)
        outcome = await following.result()
        assert outcome["result"] == "succeeded", f"{outcome}\n{installation.tail(100)}"
        await at_rest(installation)
        assert len(installation.sandbox.gateway.identifies) == SHARDS, installation.tail(100)
        await judged(installation, hurt=(began, time.monotonic()))


@pytest.mark.parametrize("seconds", [1.5, 20.0])
async def test_a_shard_between_two_connections_is_waited_for_and_the_bot_serves_on_if_it_stays_away(
    tmp_path: Path, seconds: float
) -> None:
    async with in_traffic(tmp_path) as installation:
        sandbox = installation.sandbox
        began = time.monotonic()
        with sandbox.faults.withhold_resume(), sandbox.faults.refuse_identify(count=None):
            sandbox.faults.drop_shard(0)
            following = Following(installation)
            await following.until("activating")
            await asyncio.sleep(seconds)
        outcome = await following.result()
        ended = time.monotonic()
        assert outcome["result"] == ("succeeded" if seconds < 2 else "failed"), f"{outcome}\n{installation.tail(100)}"
        await at_rest(installation)
        await sandbox.gateway.wait_for(
            lambda: len({one.shard for one in sandbox.gateway.sessions if one.connected}) == SHARDS, timeout=60
        )
        ended = max(ended, time.monotonic())
        await judged(installation, hurt=(began, ended), dead=(began, ended + MEMBERS))


ANEW_WITHIN = {"invalid": 3.0, 4007: 3.0, 4009: 3.0, "cut": 5.0, "silence": 9.0}
"""Seconds from the end of a connection until the shard has a new session, by how Discord refuses the old one."""


@pytest.mark.matrix
@pytest.mark.parametrize("how", list(ANEW_WITHIN))
async def test_a_bot_that_serves_begins_a_new_session_when_discord_does_not_resume_its_own(
    tmp_path: Path, how: Any
) -> None:
    async with in_traffic(tmp_path) as installation:
        sandbox = installation.sandbox
        fault = sandbox.faults.withhold_resume() if how == "silence" else sandbox.faults.refuse_resume(how)
        began = time.monotonic()
        with fault:
            sandbox.faults.drop_shard(0)
            await sandbox.gateway.wait_for(lambda: len(sandbox.gateway.identifies) > SHARDS, timeout=ANEW_WITHIN[how])
            assert fault.hits <= 3, "discord.py asks some hundred times a second"
        if how != "invalid":
            await installation.logged("Discord does not resume the session of shard 0")
        assert [one.shard for one in sandbox.gateway.identifies][SHARDS:] == [0]
        assert not sandbox.gateway.violations
        await sandbox.gateway.wait_for(
            lambda: {one.shard for one in sandbox.gateway.sessions if one.connected} == set(range(SHARDS))
        )
        ended = time.monotonic()
        await judged(installation, hurt=(began, ended), dead=(began - MOMENT, ended + MEMBERS))


# --- under load -------------------------------------------------------------------------------------------------------

BUSY = 700
KILLS = 8


@pytest.mark.soak
@pytest.mark.skipif(os.environ.get("BASTION_SOAK") != "1", reason="takes minutes: set BASTION_SOAK=1 to run it")
async def test_a_busy_bot_with_a_spare_that_is_killed_eight_times_costs_what_it_ran(tmp_path: Path) -> None:
    async with in_traffic(tmp_path, far=0.02, restart__spare=True, restart__backoff_max=0.2) as installation:
        sandbox = installation.sandbox
        await sandbox.traffic.stop()
        mix = {"message": 5.0, "edit": 1.0, "reaction_add": 2.0, "typing": 2.0, "toggle": 1.0}
        sandbox.traffic.start(rate=BUSY, mix=mix)
        for generation in range(1, KILLS + 1):
            await installation.logged(f"generation {generation + 1} is ready, as a spare")
            os.kill(pid(installation, generation), signal.SIGKILL)
            await installation.logged(f"generation {generation + 1} is active")
        assert len(sandbox.gateway.identifies) == SHARDS, installation.tail()
        await judged(installation)
