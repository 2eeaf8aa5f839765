"""Many reloads with random faults: nothing is lost or doubled, and the supervisor does not grow.

The seed is printed when the test fails; ``BASTION_SEED`` repeats its choices, though not the timing of processes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import re
import signal
import sqlite3
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from casualties import UNTOLD
from ordeal import (
    INTERACTIONS,
    Following,
    assert_nobody_left,
    at_rest,
    hurt,
    judge,
    order,
    reload,
    session_ready,
    so_far,
    under_traffic,
)
from rig import Rig
from test_upgrade import upgraded

from bastion.sandbox import Entry

pytestmark = pytest.mark.anyio

GROWTH_KB = 5.0
"""Resident memory that a reload may add to the supervisor, on average: caches go on filling for a hundred reloads."""
WARM_UP = 10
"""Reloads after which caches are full."""


@dataclass
class Sizes:
    """What the supervisor holds, taken when one child serves; what the ledger holds when its claims are forgotten."""

    rss_kb: list[float] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    ledger_kb: list[float] = field(default_factory=list)

    def take(self, supervisor: psutil.Process, tasks: int) -> None:
        self.tasks.append(tasks)
        self.rss_kb.append(supervisor.memory_info().rss / 1024)
        self.descriptors.append(supervisor.num_fds())
        self.threads.append(supervisor.num_threads())

    def take_ledger(self, ledger: Path) -> None:
        self.ledger_kb.append(sum(file.stat().st_size for file in ledger.parent.iterdir()) / 1024)

    def growth_kb(self) -> float:
        """Return the kilobytes of resident memory that a reload adds, by linear regression."""
        later = self.rss_kb[WARM_UP:]
        return statistics.linear_regression(range(len(later)), later).slope

    def assert_steady(self) -> None:
        assert self.growth_kb() < GROWTH_KB, self
        for values in (self.descriptors, self.threads, self.tasks):
            assert min(values[-WARM_UP:]) <= max(values[:WARM_UP]), self
        assert self.ledger_kb[-1] <= 2 * max(self.ledger_kb[:2]), self


class Chaos:
    """Chooses a fault for each reload, and does it."""

    def __init__(self, installation: Rig, seed: int) -> None:
        self.installation = installation
        self.random = random.Random(seed)
        self.done: list[str] = []
        self.faults: list[Callable[[int, int], Awaitable[dict[str, Any]]]] = [
            self.nothing,
            self.killed,
            self.vandalised,
            self.broken_shards,
            self.refused_requests,
            self.twice,
        ]

    async def one(self, old: int, new: int) -> None:
        """Reload once, from generation ``old`` to ``new``, with a fault."""
        fault = self.random.choice(self.faults)
        self.done.append(f"{time.monotonic():.2f}: {old}->{new} {fault.__name__}")
        outcome = await fault(old, new)
        assert outcome["result"] in ("succeeded", "failed", "rolled-back"), outcome
        self.installation.sandbox.faults.clear()

    def note(self, *words: object) -> None:
        self.done[-1] += " " + " ".join(map(str, words))

    async def nothing(self, old: int, new: int) -> dict[str, Any]:
        outcome = await reload(self.installation)
        assert outcome["result"] == "succeeded", outcome
        return outcome

    async def killed(self, old: int, new: int) -> dict[str, Any]:
        phase = self.random.choice(["spawning", "connecting", "ready", "draining"])
        victim = self.random.choice([old, new])
        self.note(victim, phase)
        following = Following(self.installation)
        if await self.reaches(following, phase, new):
            try:
                hurt(self.installation, victim, signal.SIGKILL)
            except ProcessLookupError:
                del self.installation.hurt[victim]  # it had left already
        return await following.result()

    async def vandalised(self, old: int, new: int) -> dict[str, Any]:
        moment = self.random.choice(["setup", "ready", "activating", "active", "deactivating", "draining"])
        deed = self.random.choice(["garbage", "close", "kill"])
        self.note(moment, deed)
        order(self.installation, old if moment in ("deactivating", "draining") else new, moment, deed)
        return await reload(self.installation)

    async def broken_shards(self, old: int, new: int) -> dict[str, Any]:
        faults = self.installation.sandbox.faults
        phase = self.random.choice(["spawning", "connecting", "ready", "draining"])
        which = self.random.choice(["oldest", "newest", "all"])
        how = self.random.choice(["drop", "reconnect", "invalidate", "invalidate resumable", "4000"])
        self.note(which, phase, how)
        following = Following(self.installation)
        if await self.reaches(following, phase, new):
            for shard in (0, 1):
                match how:
                    case "drop":
                        faults.drop_shard(shard, which=which)  # type: ignore[arg-type]
                    case "reconnect":
                        faults.reconnect(shard, which=which)  # type: ignore[arg-type]
                    case "4000":
                        faults.close(shard, 4000, which=which)  # type: ignore[arg-type]
                    case _:
                        faults.invalidate(shard, resumable="resumable" in how, which=which)  # type: ignore[arg-type]
        return await following.result()

    async def refused_requests(self, old: int, new: int) -> dict[str, Any]:
        status = self.random.choice([429, 500, 503])
        path = self.random.choice(["/gateway/bot", "/interactions/*", "/channels/*/messages", "/users/@me"])
        self.note(status, path)
        self.installation.sandbox.faults.rest_status(status, path, count=2, retry_after=0.2)
        return await reload(self.installation)

    async def twice(self, old: int, new: int) -> dict[str, Any]:
        """A second reload waits for the end of the first, and hurries it."""
        first = Following(self.installation)
        await self.reaches(first, self.random.choice(["spawning", "connecting", "draining"]), new)
        second = Following(self.installation)
        outcome = await first.result()
        assert outcome["result"] == "succeeded", outcome
        return await second.result()

    async def reaches(self, following: Following, phase: str, new: int) -> bool:
        """Wait for the phase. False: the reload was over before it was seen."""
        try:
            if phase == "ready":
                await session_ready(self.installation, new)
            else:
                await following.until(phase)
        except AssertionError:
            return False
        return True


@pytest.mark.parametrize(
    "reloads",
    [
        pytest.param(40, marks=pytest.mark.timeout(600)),
        pytest.param(200, marks=pytest.mark.timeout(4000)),
    ],
)
@pytest.mark.soak
@pytest.mark.skipif(os.environ.get("BASTION_SOAK") != "1", reason="takes ten minutes: set BASTION_SOAK=1 to run it")
async def test_reloads_with_random_faults_lose_nothing_double_nothing_and_leave_nothing(
    tmp_path: Path, reloads: int
) -> None:
    seed = int(os.environ.get("BASTION_SEED") or random.SystemRandom().randrange(2**32))
    print(f"BASTION_SEED={seed}")
    options = {
        "health__listen": f"unix:{tmp_path}/health.sock",
        "handoff__drain_timeout": 3,
        "handoff__ready_timeout": 30,
        "restart__backoff_max": 0.5,
    }
    async with under_traffic(tmp_path, **options) as installation:
        assert installation.process is not None
        supervisor = psutil.Process(installation.process.pid)
        chaos, sizes = Chaos(installation, seed), Sizes()
        for number in range(reloads):
            status = await at_rest(installation)
            # This process is Discord: a full collection of all that its journal holds would keep it for half a second.
            gc.freeze()
            old = status["children"][0]
            sizes.take(supervisor, await tasks(installation))
            if number % WARM_UP == WARM_UP - 1:
                sizes.take_ledger(await claims_forgotten(old["pid"]))
            new = 1 + max(int(line.split(" spawned as")[0].rsplit(" ", 1)[1]) for line in spawned(installation))
            try:
                await chaos.one(old["generation"], new)
            except AssertionError as error:
                told = f"{chaos.done[-5:]}\n{error}\n{so_far(installation)}"
                raise AssertionError(f"BASTION_SEED={seed} {told}") from None
        await at_rest(installation)
        try:
            await judge(installation)
        except AssertionError as error:
            raise AssertionError(f"BASTION_SEED={seed} {chaos.done}\n{error}") from None
        print(f"growth {sizes.growth_kb():.1f} KB a reload; {sizes}")
        sizes.assert_steady()
        assert await installation.stop() == 0
        assert_nobody_left(installation)
        gc.unfreeze()


async def tasks(installation: Rig) -> int:
    """Return how many tasks the supervisor has."""
    status, body = await installation.health("/metrics")
    assert status == 200
    return int(float(re.search(r"^bastion_tasks (\S+)$", body, re.MULTILINE)[1]))  # type: ignore[index]


async def claims_forgotten(pid: int) -> Path:
    """Wait until the window is closed, half a minute later, and no claim is kept; return the ledger of that child."""
    words = psutil.Process(pid).cmdline()
    ledger = Path(words[words.index("--ledger") + 1])
    async with asyncio.timeout(90):
        while True:
            with closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as database:
                if database.execute("SELECT count(*) FROM claims").fetchone() == (0,):
                    return ledger
            await asyncio.sleep(0.1)


def spawned(installation: Rig) -> list[str]:
    return [line for line in installation.log if " spawned as " in line]


CUT_SECONDS = 0.5
"""Handlers take 20 ms, and their report some more: what was delivered so long before a kill may have been cut by it."""
DEAF_SECONDS = 5.0
"""An interaction that comes so long before a bot serves again may be too old for an answer: Discord waits 3 s."""


class Ends:
    """Ends bot or supervisor in one of the ways in which that happens, and brings a bot back."""

    def __init__(self, installation: Rig, seed: int) -> None:
        self.installation = installation
        self.random = random.Random(seed)
        self.done: list[str] = []
        self.away: list[tuple[float, float]] = []
        """From when to when no bot served that handled anything."""

    async def one(self) -> None:
        """Do one thing, and wait until a bot serves."""
        way = self.random.choice(
            [
                self.reloaded,
                self.reloaded,
                self.overlapped,
                self.upgraded,
                self.restarted,
                self.bot_killed,
                self.all_killed,
            ]
        )
        self.done.append(f"{time.monotonic():.2f}: {way.__name__}")
        began = time.monotonic()
        served_throughout = await way()
        await at_rest(self.installation)
        if not served_throughout:
            self.away.append((began, time.monotonic()))

    async def reloaded(self) -> bool:
        self.installation.configure(handoff__session="auto")
        assert (await reload(self.installation))["result"] == "succeeded"
        return True

    async def overlapped(self) -> bool:
        self.installation.configure(handoff__session="overlap")
        assert (await reload(self.installation))["result"] == "succeeded"
        return True

    async def upgraded(self) -> bool:
        await upgraded(self.installation)
        return True

    async def restarted(self) -> bool:
        assert await self.installation.stop() == 0
        await self.installation.start()
        return False

    async def bot_killed(self) -> bool:
        status = await self.installation.status()
        bot = status["children"][0]
        os.kill(bot["pid"], signal.SIGKILL)
        await self.installation.until(
            lambda now: [one["pid"] for one in now["children"] if one["role"] == "active"] not in ([], [bot["pid"]])
        )
        return False

    async def all_killed(self) -> bool:
        """The supervisor, and with it its bot."""
        self.process.kill()
        await self.installation.stopped()
        await self.installation.start()
        return False

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self.installation.process is not None
        return self.installation.process

    def excuses(self, entry: Entry) -> bool:
        """Say whether an event may be nobody's: a handler of it was cut, it was too old, or can be told no more."""
        for began, ended in self.away:
            if any(began - CUT_SECONDS < at < began + CUT_SECONDS for _, at in entry.delivered):
                return True
            if entry.kind in INTERACTIONS and began - DEAF_SECONDS < entry.at < ended:
                return True
            if entry.kind in UNTOLD and began - CUT_SECONDS < entry.at < ended + DEAF_SECONDS:
                return True
        return False


SOAK = (
    pytest.mark.soak,
    pytest.mark.skipif(
        os.environ.get("BASTION_SOAK") != "1", reason="takes half an hour: set BASTION_SOAK=1 to run it"
    ),
    pytest.mark.timeout(4000),
)


@pytest.mark.parametrize(
    "ends", [pytest.param(12, marks=(pytest.mark.wide, pytest.mark.timeout(300))), pytest.param(200, marks=SOAK)]
)
async def test_reloads_restarts_and_kills_at_random_lose_nothing_double_nothing_and_leave_nothing(
    tmp_path: Path, ends: int
) -> None:
    seed = int(os.environ.get("BASTION_SEED") or random.SystemRandom().randrange(2**32))
    print(f"BASTION_SEED={seed}")
    (tmp_path / "lasting").mkdir(mode=0o700)
    options = {
        "restart__resume_directory": str(tmp_path / "lasting"),
        "restart__backoff_first": 0.1,
        "restart__backoff_max": 0.5,
        "handoff__drain_timeout": 3,
    }
    async with under_traffic(tmp_path, rate=60, **options) as installation:
        chaos = Ends(installation, seed)
        files: list[int] = []
        for _ in range(ends):
            await at_rest(installation)
            gc.freeze()
            files.append(sum(1 for _ in (tmp_path / "lasting").iterdir()))
            try:
                await chaos.one()
            except (AssertionError, TimeoutError) as error:
                told = f"{chaos.done[-5:]}\n{error}\n{so_far(installation)}"
                raise AssertionError(f"BASTION_SEED={seed} {told}") from None
        await installation.sandbox.traffic.stop()
        found = await installation.sandbox.settled(timeout=15, quiet=2)
        journal = installation.sandbox.journal
        told = f"BASTION_SEED={seed} {chaos.done}\n{found}\n{installation.tail()}"
        assert found.duplicated == 0, told
        lost = [
            one
            for one in journal.entries
            if installation.expected(one) and not journal.handlings(one.kind, one.key) and not chaos.excuses(one)
        ]
        assert not lost, f"{lost}\n{told}"
        assert max(files) <= max(files[:3]) + 2, files
        assert await installation.stop() == 0
        assert_nobody_left(installation)
        gc.unfreeze()
