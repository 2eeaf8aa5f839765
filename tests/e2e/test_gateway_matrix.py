"""Whatever Discord does to connections and sessions, at rest and in a reload: nothing is lost that it still has.

Each case goes through the life of one installation: the fault strikes the bot that serves, then once in each of two or
three phases of a reload. Sessions move, or the new bot has its own (overlap). A session that Discord ends is begun anew
at once, under a permit, by whoever holds it; what was on its way to it, and came before the next READY, Discord has not
kept. Everything else is handled once, but for interactions that nobody could answer within 3 s.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from casualties import INTERACTIONS, UNTOLD
from named import Named
from ordeal import Following, at_rest, seen
from rig import Rig, active
from test_moved_faults import ANSWERED_WITHIN, MEMBERS, MOMENT, counted_as_missed, in_traffic, in_vain, missing

from bastion.sandbox import Entry
from bastion.sandbox.faults import Fault, Faults
from bastion.sandbox.snowflake import shard_of

pytestmark = [pytest.mark.anyio, pytest.mark.wide, pytest.mark.timeout(300)]

SHARDS = 2
FAR = 0.05
"""Seconds to Discord and back."""
WITHOUT_ID = ("reaction_add", "reaction_remove", "edit", "typing", "member_leave", "member_update")
"""Kinds that two sessions tell apart by content and time alone: see architecture.md, "Its limit"."""
MISCOUNTED = 16
"""So many of them may be handled twice where a new session was 5 s late as it began, in one of a case's four overlaps:
half a second's worth."""
SERVED_WITHIN = 30.0
"""Seconds from a fault until every shard has a session again; most take one or two."""


@dataclass(frozen=True)
class Kind:
    """What Discord does to one shard, or to all: something at once, after what it will do to what follows is armed."""

    name: str
    strike: Callable[[Faults, int], Fault]
    arm: Callable[[Faults], Fault] | None = None
    ends: bool = False
    """The session is over."""
    everywhere: bool = False

    @property
    def shards(self) -> range:
        """Those that are hit."""
        return range(SHARDS if self.everywhere else 1)


def closing(code: int) -> Kind:
    return Kind(f"close-{code}", lambda faults, shard: faults.close(shard, code), ends=code in (1000, 1001, 4007, 4009))


def drop(faults: Faults, shard: int) -> Fault:
    return faults.drop_shard(shard)


def op_9(faults: Faults, shard: int) -> Fault:
    return faults.invalidate(shard)


def op_9_resumable(faults: Faults, shard: int) -> Fault:
    return faults.invalidate(shard, resumable=True)


KINDS = [
    *map(closing, (1000, 1001, 4000, 4001, 4002, 4003, 4005, 4007, 4008, 4009)),
    Kind("1006", drop),
    Kind("op-7", Faults.reconnect),
    Kind("op-7-all", Faults.reconnect, everywhere=True),
    Kind("op-7-storm", Faults.reconnect, lambda faults: faults.refuse_resume("reconnect", count=6)),
    Kind("op-9-true", op_9_resumable),
    Kind("op-9-true-all", op_9_resumable, everywhere=True),
    Kind("op-9-true-storm", op_9_resumable, lambda faults: faults.refuse_resume("resumable", count=4)),
    Kind("op-9-false", op_9, ends=True),
    Kind("op-9-false-all", op_9, ends=True, everywhere=True),
    Kind("no-json", lambda faults, shard: faults.garble(shard, "text")),
    Kind("bad-compression", lambda faults, shard: faults.garble(shard, "bytes")),
    Kind("no-object", lambda faults, shard: faults.garble(shard, "list")),
    Kind("no-hello", drop, lambda faults: faults.withhold_hello(count=1)),
    Kind("no-answer-to-resume", drop, lambda faults: faults.withhold_resume(count=1)),
    Kind("half-open", Faults.mute),
    Kind("no-resume-address", drop, lambda faults: faults.resume_address_status(503, count=2)),
]
CASES = [pytest.param(kind, way, id=f"{kind.name}-{way}") for kind in KINDS for way in ("moved", "overlap")]


@dataclass
class Course:
    """One installation, what has been done to it, and when."""

    installation: Rig
    kind: Kind
    hurts: list[tuple[float, float]] = field(default_factory=list)
    hits: int = 0

    async def strike(self) -> None:
        """Do what the kind says, and wait until every shard of the bot that serves is ready again."""
        faults, began = self.installation.sandbox.faults, time.monotonic()
        with ExitStack() as armed:
            if self.kind.arm is not None:
                armed.enter_context(self.kind.arm(faults))
            for shard in self.kind.shards:
                self.hits += self.kind.strike(faults, shard).hits  # none, if it is between two connections
            await self.whole()
        self.hurts.append((began - MOMENT, time.monotonic()))

    async def whole(self) -> None:
        """Wait until a message to each shard is handled that is sent from now on."""
        sandbox = self.installation.sandbox
        waiting = set(self.kind.shards)
        async with asyncio.timeout(SERVED_WITHIN):
            while waiting:
                entry = sandbox.emit_message()
                if (shard := shard_of(entry.guild_id or 0, SHARDS)) in waiting:
                    with suppress(TimeoutError, AssertionError):  # sent to a session that is over
                        await sandbox.journal.wait_handled(entry, timeout=1)
                        waiting.discard(shard)

    def excused(self, entry: Entry) -> bool:
        """Say whether nobody could handle an event, or could answer it in time."""
        if entry.kind in INTERACTIONS and any(at > entry.at + ANSWERED_WITHIN for _, at in entry.delivered):
            return True  # the session of the bot that served was resumed too late for it
        for began, ended in self.hurts:
            if in_vain(entry, began, ended):
                return True
            shard = shard_of(entry.guild_id or 0, SHARDS)
            if self.kind.ends and shard in self.kind.shards and began < entry.at < ended + MEMBERS:
                return True
        return False

    async def judge(self) -> None:
        """Nothing is doubled, or lost but what is excused; no IDENTIFY was one too many; the next reload works."""
        installation, sandbox = self.installation, self.installation.sandbox
        await at_rest(installation)
        outcome = await installation.reload()
        assert outcome["result"] == "succeeded", f"{outcome}\n{installation.tail()}"
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=15, quiet=2)
        names = [Named(installation, generation) for generation in range(1, 8)]
        lost = [entry for entry in missing(installation) if not self.excused(entry)]
        lost = [entry for entry in lost if not any(named.excuses(entry) for named in names)]
        untold = [entry for entry in lost if entry.kind in UNTOLD]
        if len(untold) <= counted_as_missed(installation):
            lost = [entry for entry in lost if entry not in untold]
        assert not lost, f"{lost}\n{self.hurts}\n{found}\n{installation.tail(150)}"
        doubled = {kind.kind: kind.duplicated for kind in found.kinds.values() if kind.duplicated}
        if installation.options.get("handoff__session") == "overlap":  # a late session's equal events may be miscounted
            assert sum(doubled.pop(kind, 0) for kind in WITHOUT_ID) <= MISCOUNTED, f"{found}\n{installation.tail(150)}"
        assert not doubled, f"{found}\n{installation.tail(150)}"
        assert not sandbox.gateway.violations, installation.tail(150)
        assert not [line for line in installation.log if "has left: exited with status 1" in line], installation.tail()


@pytest.mark.matrix
@pytest.mark.parametrize(("kind", "way"), CASES)
async def test_whatever_discord_does_at_rest_and_in_each_phase_of_a_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, way: str
) -> None:
    if kind.name == "half-open":
        monkeypatch.setenv("PROBE_HEARTBEAT_TIMEOUT", "4")  # seconds without a word; discord.py's are 60
    chance = random.Random(os.environ.get("BASTION_SEED", "1") + kind.name)
    options: dict[str, Any] = {"handoff__session": "auto" if way == "moved" else "overlap"}
    options |= {"handoff__ready_timeout": 60, "handoff__probation": 2, "handoff__drain_timeout": 5}
    async with in_traffic(tmp_path, shards=SHARDS, far=FAR, **options) as installation:
        course = Course(installation, kind)
        await course.strike()
        assert course.hits >= len(kind.shards), f"{kind.name} has hit nothing"
        for phase in ("connecting", "activating", "probation"):
            following = Following(installation)
            await following.until(phase)
            await asyncio.sleep(chance.uniform(0, 0.5))
            await course.strike()
            outcome = await following.result()
            told = f"{phase}: {outcome}\n{installation.tail(100)}"
            if kind.arm is not None and outcome["result"] == "failed":  # it went on for as long as a switch may take
                assert "a shard was between two connections" in outcome["reason"], told
            else:
                assert outcome["result"] == "succeeded", told
            await at_rest(installation)
        await course.judge()


@pytest.mark.matrix
@pytest.mark.parametrize(
    "arm",
    [
        pytest.param(lambda faults: faults.slow_rest(15, "/users/@me", count=1), id="slow-login"),
        pytest.param(lambda faults: faults.slow_rest(15, "/gateway/bot", count=1), id="slow-gateway"),
        pytest.param(lambda faults: faults.rest_status(429, "*", count=30, retry_after=0.3), id="429"),
        pytest.param(lambda faults: faults.rest_status(502, "*", count=4), id="502"),
        pytest.param(lambda faults: faults.rest_status(503, "/gateway/bot", count=2), id="503-gateway"),
    ],
)
async def test_rest_that_is_slow_or_fails_for_a_while_costs_a_moved_session_nothing(
    tmp_path: Path, arm: Callable[[Faults], Fault]
) -> None:
    async with in_traffic(tmp_path, shards=SHARDS, far=FAR) as installation:
        course = Course(installation, KINDS[0])
        identifies = len(installation.sandbox.gateway.identifies)
        began = time.monotonic()
        with arm(installation.sandbox.faults):
            outcome = await installation.reload()
            assert outcome["result"] == "succeeded", f"{outcome}\n{installation.tail(100)}"
        course.hurts.append((began, time.monotonic()))
        assert outcome["handoff"]["session"] == "moved"
        await course.judge()
        assert len(installation.sandbox.gateway.identifies) == identifies


async def test_another_recommendation_of_shards_ends_nothing_and_a_reload_follows_it(tmp_path: Path) -> None:
    async with in_traffic(tmp_path, shards=SHARDS, far=FAR) as installation:
        sandbox = installation.sandbox
        sandbox.settings.change({"recommended_shards": 2 * SHARDS})
        course = Course(installation, KINDS[2])
        await course.strike()
        assert {one.num_shards for one in sandbox.gateway.sessions} == {SHARDS}, "a bot at rest does not change"
        outcome = await installation.reload()
        assert outcome["result"] == "succeeded", f"{outcome}\n{installation.tail(100)}"
        status = await seen(
            installation, lambda status: len((active(status) or {"shards": []})["shards"]) == 2 * SHARDS
        )
        assert status["last_handoff"]["session"] == "overlap"
        await course.judge()
