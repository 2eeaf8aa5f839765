"""Two supervisors that share nothing but a ledger's directory, as two containers do: one hands over to the other.

The gateway sessions move from one's bot to the other's, as in a reload.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from casualties import INTERACTIONS, UNTOLD
from named import Named
from rig import ALL_KINDS, Rig, active, rig
from test_handoff import WINDOW, settings, verdict
from test_moved_faults import missing

from bastion.sandbox import Sandbox, SandboxSettings
from bastion.supervisor import neighbours
from bastion.supervisor.neighbours import register_of
from bastion.supervisor.private import own_directory

pytestmark = pytest.mark.anyio

LATE = {kind: weight for kind, weight in ALL_KINDS.items() if kind not in INTERACTIONS}
"""Kinds of which nothing is lost, however late it is handled."""
SHARDS = 4
"""Of the app, and so the IDENTIFYs of the first bot; no later one needs any."""


@dataclass
class Street:
    """Supervisors side by side, oldest first."""

    first: Rig
    directory: Path
    houses: list[Rig] = field(default_factory=list)

    @property
    def register(self) -> Path:
        return register_of(own_directory(self.directory / "ledger") / "claims.sqlite3")

    def build(self) -> Rig:
        """Prepare one more supervisor."""
        directory = self.directory / f"house-{len(self.houses)}"
        directory.mkdir()
        house = Rig(self.first.sandbox, directory, dict(self.first.environ), {}, self.first.expected)
        house.configure(**self.first.options | {"control__socket": str(directory / "s.sock")})
        self.houses.append(house)
        return house

    async def arrive(self, *, since: float | None = None) -> Rig:
        """Start one more, deployed now, and wait until it could take over."""
        house = self.build()
        await house.start("--standby-since", str(time.time() if since is None else since), serving=False)
        await house.logged("is ready to take over from another supervisor's bot", timeout=40)
        return house

    @property
    def identifies(self) -> int:
        """How many IDENTIFYs there were, of all bots."""
        return len(self.first.sandbox.gateway.identifies)

    def log(self) -> str:
        return "\n\n".join(f"--- {house.directory.name}\n{house.tail()}" for house in self.houses)


@asynccontextmanager
async def street(
    tmp_path: Path,
    *,
    app: str = "sharded_bot",
    handler_ms: str = "0-100",
    discord: SandboxSettings | None = None,
    **options: object,
) -> AsyncIterator[Street]:
    (tmp_path / "ledger").mkdir(mode=0o700)
    shared = {
        "ledger__path": str(tmp_path / "ledger" / "claims.sqlite3"),
        "ledger__shared": True,
        "discord__identify_window": WINDOW,
    }
    async with rig(
        tmp_path, app=f"{app}:client", settings=discord or settings(), handler_ms=handler_ms, **shared | options
    ) as made:
        found = Street(made, tmp_path)
        try:
            yield found
        finally:
            for house in found.houses:
                await house.destroy()


async def serves(house: Rig, *, generation: int = 1) -> None:
    await house.until(lambda status: (active(status) or {}).get("generation") == generation, timeout=40)


async def kill_all_of(house: Rig) -> None:
    """Kill a supervisor and its bots in one moment, as the kernel does when a container's first process is killed."""
    status = await house.status()
    for pid in [status["supervisor"]["pid"], *(child["pid"] for child in status["children"])]:
        os.kill(pid, signal.SIGKILL)
    await house.stopped()


async def assert_clean(found: Street, *, at_least: int) -> None:
    judged = await verdict(found.first, at_least=at_least)
    assert judged.clean, f"{judged}\n{found.log()}"
    assert judged.emitted >= at_least


@pytest.mark.parametrize("session", ["auto", pytest.param("overlap", marks=pytest.mark.wide)])
async def test_the_older_one_that_is_told_to_stop_hands_over_and_nothing_is_lost_or_doubled(
    tmp_path: Path, session: str
) -> None:
    async with street(tmp_path, handoff__session=session) as here:
        (tmp_path / "ledger").chmod(0o1777)  # as the root of a volume may be
        old = here.build()
        await old.start()
        old.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        for _ in range(3):
            new = await here.arrive()
            assert active(await new.status()) is None
            assert await old.stop() == 0, old.tail()
            await serves(new)
            handoff = (await new.status())["last_handoff"]
            assert handoff["session"] == ("moved" if session == "auto" else "overlap"), handoff
            old = new
        await old.logged("beside us: nobody")
        await assert_clean(here, at_least=400)
        assert here.identifies == (SHARDS if session == "auto" else 4 * SHARDS)
        assert await old.stop() == 0
        assert sorted(path.name for path in here.register.iterdir()) == ["counter"]


@pytest.mark.wide
async def test_a_supervisor_that_is_killed_is_followed_at_once_by_the_one_that_waits(tmp_path: Path) -> None:
    """Its bot lets its handlers end, as whenever its supervisor is gone; what it takes no more, the other does."""
    async with street(tmp_path) as here:
        old = here.build()
        await old.start()
        new = await here.arrive()
        old.sandbox.traffic.start(rate=50, mix=ALL_KINDS)
        await old.until(lambda status: status["children"][0]["handled"] > 30)
        assert old.process is not None
        old.process.kill()
        await old.stopped()
        await serves(new)
        await new.until(lambda status: status["children"][0]["handled"] > 30)
        await assert_clean(here, at_least=60)
        assert here.identifies == SHARDS


async def test_a_container_that_is_killed_is_followed_at_once_by_the_one_that_waits(tmp_path: Path) -> None:
    """Supervisor and bot are gone in the same moment. What has not begun is handled by the other one."""
    async with street(tmp_path, handler_ms="0") as here:
        old = here.build()
        await old.start()
        new = await here.arrive()
        old.sandbox.traffic.start(rate=50, mix=LATE)
        await old.until(lambda status: status["children"][0]["handled"] > 30)
        await kill_all_of(old)
        await serves(new)
        await new.until(lambda status: status["children"][0]["handled"] > 30)
        await assert_clean(here, at_least=60)
        assert here.identifies == SHARDS


@pytest.mark.wide
async def test_a_container_that_is_killed_beside_nobody_is_recovered_by_the_next_one(tmp_path: Path) -> None:
    kinds = {kind: weight for kind, weight in LATE.items() if kind not in UNTOLD}
    async with street(tmp_path, handler_ms="0") as here:
        old = here.build()
        await old.start()
        old.sandbox.traffic.start(rate=50, mix=kinds)
        await old.until(lambda status: status["children"][0]["handled"] > 30)
        await kill_all_of(old)
        new = here.build()
        await new.start()
        await new.until(lambda status: status["children"][0]["handled"] > 30)
        judged = await verdict(here.first, at_least=60)
        assert (judged.lost, judged.duplicated) == (0, 0), f"{judged}\n{here.log()}"
        assert here.identifies <= 2 * SHARDS


@pytest.mark.wide
async def test_a_supervisor_that_stands_still_is_followed_and_when_it_wakes_up_nothing_is_doubled(
    tmp_path: Path,
) -> None:
    """Its bot goes on all the time, and gives its sessions when the other's asks. Woken up, it waits behind."""
    async with street(tmp_path) as here:
        old = here.build()
        await old.start()
        new = await here.arrive()
        old.sandbox.traffic.start(rate=50, mix=ALL_KINDS)
        await old.until(lambda status: status["children"][0]["handled"] > 30)
        assert old.process is not None
        old.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(neighbours.STILL_LOOKS * neighbours.LOOK_SECONDS / 2)
        assert active(await new.status()) is None, "it may only be slow"
        await serves(new)
        await new.logged("supervisor 1 (active, no sign of life for 15 s)")
        await new.until(lambda status: status["children"][0]["handled"] > 30)

        old.process.send_signal(signal.SIGCONT)
        await old.logged("beside us: supervisor 2 (active)")
        await old.logged("another supervisor's bot is active since this one stood still")
        await new.logged("beside us: supervisor 1 (ready)")
        assert await new.stop() == 0, new.tail()
        await serves(old)
        await old.logged("beside us: nobody")
        await assert_clean(here, at_least=500)
        assert here.identifies == SHARDS, "the sessions have come back"


@pytest.mark.wide
async def test_a_container_that_is_paused_is_followed_and_handles_nothing_again_when_it_goes_on(tmp_path: Path) -> None:
    """What came meanwhile waits in the old bot's sockets. It sees that its sessions are another's, and is replaced."""
    async with street(tmp_path) as here:
        old = here.build()
        await old.start()
        new = await here.arrive()
        old.sandbox.traffic.start(rate=50, mix=LATE)
        status = await old.until(lambda status: status["children"][0]["handled"] > 30)
        paused = [status["supervisor"]["pid"], status["children"][0]["pid"]]
        for pid in paused:
            os.kill(pid, signal.SIGSTOP)
        await serves(new)
        await new.until(lambda status: status["children"][0]["handled"] > 30)
        for pid in reversed(paused):
            os.kill(pid, signal.SIGCONT)
        await old.logged("another supervisor's bot took its sessions over while it stood still")
        await new.logged("beside us: supervisor 1 (ready)")
        assert await new.stop() == 0, new.tail()
        await serves(old, generation=2)
        await assert_clean(here, at_least=500)
        assert here.identifies == SHARDS


@pytest.mark.wide
async def test_a_newcomer_that_is_killed_changes_nothing_and_the_next_one_takes_over(tmp_path: Path) -> None:
    async with street(tmp_path) as here:
        old = here.build()
        await old.start()
        old.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        new = await here.arrive()
        assert new.process is not None
        new.process.kill()
        await new.stopped()
        await old.logged("beside us: supervisor 2 (dead)")
        following = await here.arrive()
        assert await old.stop() == 0
        await serves(following)
        await assert_clean(here, at_least=200)


@pytest.mark.wide
async def test_a_newcomer_that_is_killed_and_restarted_while_the_old_one_waits_for_it_loses_nothing(
    tmp_path: Path,
) -> None:
    """The old one serves on, for who was killed may come again; it does, and is not in standby for ever."""
    async with street(tmp_path) as here:
        old = here.build()
        await old.start()
        old.sandbox.traffic.start(rate=50, mix=ALL_KINDS)
        since = time.time()
        new = here.build()
        await new.start("--standby-since", str(since), serving=False)
        await new.logged("spawned as standby")
        assert old.process is not None
        assert new.process is not None
        old.process.send_signal(signal.SIGTERM)
        await old.logged("serves until another supervisor's bot does")
        new.process.kill()
        await new.stopped()
        await new.start("--standby-since", str(since), serving=False)
        assert await old.stopped(timeout=40) == 0, old.tail()
        await serves(new)
        await assert_clean(here, at_least=100)


@pytest.mark.wide
async def test_one_that_is_told_to_stop_just_after_its_newcomer_has_died_waits_for_it_to_come_again(
    tmp_path: Path,
) -> None:
    async with street(tmp_path) as here:
        old = here.build()
        await old.start()
        old.sandbox.traffic.start(rate=50, mix=ALL_KINDS)
        new = await here.arrive()
        assert old.process is not None
        assert new.process is not None
        new.process.kill()
        await new.stopped()
        await old.logged("beside us: supervisor 2 (dead)")
        old.process.send_signal(signal.SIGTERM)
        await old.logged("serves until another supervisor's bot does")
        await new.start("--standby-since", str(time.time()), serving=False)
        assert await old.stopped(timeout=40) == 0, old.tail()
        await serves(new)
        await assert_clean(here, at_least=100)


@pytest.mark.wide
@pytest.mark.parametrize("words", [(), ("--standby-since", "0")], ids=["started by hand", "restarted much later"])
async def test_one_that_is_started_beside_another_waits_whatever_it_is_told(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    async with street(tmp_path) as here:
        old = here.build()
        await old.start()
        old.sandbox.traffic.start(rate=50, mix=ALL_KINDS)
        new = here.build()
        await new.start(*words, serving=False)
        await new.logged("is ready to take over from another supervisor's bot")
        status = await new.status()
        assert active(status) is None
        assert status["supervisor"]["beside"] == "supervisor 1 (active)"
        assert await old.stop() == 0
        await serves(new)
        await assert_clean(here, at_least=100)


@pytest.mark.wide
@pytest.mark.parametrize("far", [0.0, 0.2])
async def test_of_three_the_two_that_wait_serve_one_after_the_other(tmp_path: Path, far: float) -> None:
    """Both mirror the first. When the second has the sessions, the third mirrors that one.

    Where Discord is ``far``, the third's first bot, which mirrored the first and is ended for that, is gone while the
    sessions still move: that is no reason for the first to take them back.
    """
    async with street(tmp_path, discord=settings(network_delay=far)) as here:
        first = here.build()
        await first.start()
        first.sandbox.traffic.start(rate=50, mix=ALL_KINDS)
        second, third = await here.arrive(), await here.arrive()
        assert await first.stop() == 0, first.tail()
        await serves(second)
        await third.logged("generation 2 is ready to take over", timeout=40)
        assert await second.stop() == 0, second.tail()
        await third.until(lambda status: active(status) is not None)
        await assert_clean(here, at_least=100)
        assert here.identifies == SHARDS


@pytest.mark.wide
async def test_a_reload_goes_on_beside_one_that_waits(tmp_path: Path) -> None:
    async with street(tmp_path) as here:
        old = here.build()
        await old.start()
        old.sandbox.traffic.start(rate=50, mix=ALL_KINDS)
        new = await here.arrive()
        outcome = await old.reload()
        assert outcome["result"] == "succeeded", old.tail()
        assert outcome["handoff"]["session"] == "moved", outcome
        await serves(old, generation=2)
        await old.logged("beside us: supervisor 2 (ready)", timeout=40)
        assert await old.stop() == 0, old.tail()
        await new.until(lambda status: active(status) is not None)
        await assert_clean(here, at_least=100)
        assert here.identifies == SHARDS


@pytest.mark.wide
async def test_a_newcomer_whose_bot_is_killed_while_it_takes_the_sessions_costs_nothing(tmp_path: Path) -> None:
    async with street(tmp_path, handler_ms="0") as here:
        old = here.build()
        await old.start()
        old.sandbox.traffic.start(rate=50, mix=LATE)
        new = await here.arrive()
        bot = (await new.status())["children"][0]["pid"]
        os.kill(bot, signal.SIGSTOP)  # so that it dies before it has done anything
        assert old.process is not None
        old.process.send_signal(signal.SIGTERM)
        await new.logged("beside us: supervisor 1 (yielding)")
        os.kill(bot, signal.SIGKILL)
        assert await old.stopped(timeout=40) == 0, old.tail()
        await serves(new, generation=2)
        await assert_clean(here, at_least=60)
        assert here.identifies == SHARDS


async def test_one_that_finds_nobody_is_active_whatever_lies_in_the_ledgers_directory(tmp_path: Path) -> None:
    async with street(tmp_path) as here:
        here.register.mkdir()
        for name in ("1", "2", "3.new", "counter"):
            (here.register / name).write_bytes(b"left by somebody who was killed")
        old = here.directory / "ledger" / "claims.sqlite3-sessions-1048577"
        old.write_bytes(b"old")
        house = here.build()
        await house.start("--standby-since", "2999-01-01T00:00:00Z")
        await house.logged("nobody: the bot will be active as soon as it is ready")
        assert not old.exists(), "whose it was is gone"
        assert len(list(old.parent.glob("*-sessions-*"))) == 1, "its own"
        assert sorted(path.name for path in here.register.iterdir()) == ["3", "counter"]


@pytest.mark.wide
async def test_two_that_are_stopped_together_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async with street(tmp_path, handoff__drain_timeout=20) as here:
        old = here.build()
        await old.start()
        new = await here.arrive()
        began = time.monotonic()
        assert await asyncio.gather(old.stop(), new.stop()) == [0, 0]
        assert time.monotonic() - began < 10


@pytest.mark.wide
async def test_claims_are_switched_on_and_off_by_hand_and_off_empties_the_ledger(tmp_path: Path) -> None:
    async with street(tmp_path) as here:
        house = here.build()
        await house.start()
        assert house.process is not None
        house.process.send_signal(signal.SIGTTIN)
        await house.logged("claims are switched on by hand")
        house.sandbox.traffic.start(rate=50, mix=ALL_KINDS)
        await house.until(lambda status: status["children"][0]["claims"]["won"] > 20)
        await house.sandbox.traffic.stop()
        assert rows(here) > 20
        house.process.send_signal(signal.SIGTTOU)
        await house.logged("SIGTTOU: claims off")
        async with asyncio.timeout(60):  # they end half a minute later: another bot's session may be late
            while rows(here):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


def rows(here: Street) -> int:
    with contextlib.closing(sqlite3.connect(here.directory / "ledger" / "claims.sqlite3", timeout=5)) as db:
        return int(db.execute("SELECT count(*) FROM claims").fetchone()[0])


async def test_standby_without_a_shared_ledger_is_refused(tmp_path: Path) -> None:
    async with street(tmp_path, ledger__shared=False) as here:
        house = here.build()
        ended = await house.command("run", "--standby-since", "0")
        assert ended.code == 78
        assert "--standby-since needs ledger.shared = true" in ended.err
        ended = await house.command("run", "--standby-since", "yesterday")
        assert ended.code == 2
        assert "write unix seconds, or a time such as" in ended.err


@pytest.mark.wide
async def test_a_supervisor_that_replaces_its_own_program_stays_who_it_is(tmp_path: Path) -> None:
    async with street(tmp_path) as here:
        old = here.build()
        await old.start()
        assert old.process is not None
        old.process.send_signal(signal.SIGUSR2)
        await old.logged("re-execution's reload succeeded")
        assert (here.register / "1").exists()
        old.sandbox.traffic.start(rate=50, mix=ALL_KINDS)
        new = await here.arrive()
        assert await old.stop() == 0
        await serves(new)
        await assert_clean(here, at_least=50)


@pytest.mark.wide
async def test_the_one_that_serves_has_in_its_log_why_each_newcomer_failed(tmp_path: Path) -> None:
    """The reasons are found before, and after, the newcomer has entered the register."""
    async with street(tmp_path) as here:
        old = here.build()
        await old.start()
        for change, why in (
            ({"bot__app": "broken_import:client"}, "this release is broken: it raises on import"),
            ({"bot__directory": "/nowhere"}, "bot.directory: /nowhere: No such"),
            ({"handoff__ready_timeout": -1}, "handoff.ready_timeout = -1"),
            ({"health__listen": f"unix:{tmp_path}/nowhere/health"}, "health.listen"),
        ):
            new = here.build()
            new.configure(**new.options | change)
            await new.start("--standby-since", str(time.time()), serving=False)
            said = await old.logged(f"supervisor {len(here.houses)} has no bot that could take over: ")
            assert why in said, new.tail()
            await new.destroy()
        assert active(await old.status()) is not None


@pytest.mark.wide
async def test_newcomers_with_sessions_of_their_own_keep_discords_limit_together(tmp_path: Path) -> None:
    """Discord refuses an IDENTIFY that comes too soon after another one, whichever container has sent it."""
    slow = settings(max_concurrency=1, identify_window=0.5)
    async with street(tmp_path, handoff__session="overlap", discord=slow, discord__identify_window=0.5) as here:
        old = here.build()
        await old.start()
        await asyncio.gather(here.arrive(), here.arrive())
        assert here.identifies == 3 * SHARDS
        assert not [one for one in here.first.sandbox.gateway.identifies if one.reason], here.log()


async def test_a_bot_that_is_killed_beside_one_that_waits_is_followed_by_that_one(tmp_path: Path) -> None:
    """Its supervisor lives, and has another bot wait behind the one that has the sessions now."""
    async with street(tmp_path, handler_ms="0") as here:
        old = here.build()
        await old.start()
        new = await here.arrive()
        old.sandbox.traffic.start(rate=50, mix=LATE)
        status = await old.until(lambda status: status["children"][0]["handled"] > 30)
        os.kill(status["children"][0]["pid"], signal.SIGKILL)
        await serves(new)
        await old.logged("generation 2 is ready to take over from another supervisor's bot")
        assert await new.stop() == 0, new.tail()
        await serves(old, generation=2)
        await assert_clean(here, at_least=60)
        assert here.identifies == SHARDS


@pytest.mark.wide
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.25])
async def test_an_old_bot_that_dies_after_its_supervisor_was_told_to_stop_is_followed(
    tmp_path: Path, delay: float
) -> None:
    async with street(tmp_path, handler_ms="0") as here:
        old = here.build()
        await old.start()
        new = await here.arrive()
        old.sandbox.traffic.start(rate=50, mix=LATE)
        status = await old.until(lambda status: status["children"][0]["handled"] > 30)
        assert old.process is not None
        old.process.send_signal(signal.SIGTERM)
        await old.logged("told to stop")
        await asyncio.sleep(delay)  # one look is 0.25 s: before, while and after the other one takes the sessions
        with contextlib.suppress(ProcessLookupError):
            os.kill(status["children"][0]["pid"], signal.SIGKILL)
        assert await old.stopped(timeout=40) == 0, old.tail()
        await serves(new)
        await assert_clean(here, at_least=60)
        assert here.identifies == SHARDS


@pytest.mark.wide
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.25])
async def test_a_new_bot_that_dies_as_soon_as_it_is_active_is_followed(tmp_path: Path, delay: float) -> None:
    """By the old one, if that has not begun to end, else by the next one of its own supervisor; never by both."""
    async with street(tmp_path, handler_ms="0") as here:
        old = here.build()
        await old.start()
        new = await here.arrive()
        old.sandbox.traffic.start(rate=50, mix=kinds_that_can_be_told())
        await old.until(lambda status: status["children"][0]["handled"] > 30)
        bot = (await new.status())["children"][0]["pid"]
        assert old.process is not None
        old.process.send_signal(signal.SIGTERM)
        await new.logged("generation 1 is active")
        await asyncio.sleep(delay)
        os.kill(bot, signal.SIGKILL)
        await new.until(lambda status: (active(status) or {}).get("generation", 1) > 1)
        assert await old.stopped(timeout=60) == 0, old.tail()
        judged = await verdict(here.first, at_least=100)
        cut = Named(new, 1)  # what ran in it when it was killed is lost, and named
        lost = [entry for entry in missing(here.first) if not cut.excuses(entry)]
        assert (lost, judged.duplicated) == ([], 0), f"{judged}\n{here.log()}"


def kinds_that_can_be_told() -> dict[str, float]:
    return {kind: weight for kind, weight in LATE.items() if kind not in UNTOLD}


@pytest.mark.wide
async def test_one_that_is_told_to_stop_with_a_bot_on_probation_hands_over(tmp_path: Path) -> None:
    async with street(tmp_path, handoff__probation=30) as here:
        old = here.build()
        await old.start()
        new = await here.arrive()
        old.sandbox.traffic.start(rate=50, mix=ALL_KINDS)
        outcome = asyncio.create_task(old.reload())
        await old.until(lambda status: (active(status) or {}).get("generation") == 2)
        assert await old.stop() == 0, old.tail()
        assert (await outcome)["result"] == "succeeded"
        await new.until(lambda status: active(status) is not None)
        await assert_clean(here, at_least=60)
        assert here.identifies == SHARDS


@pytest.mark.wide
async def test_a_bot_of_another_application_is_refused_and_both_logs_say_why(tmp_path: Path) -> None:
    async with street(tmp_path) as here, Sandbox(settings()) as elsewhere:
        elsewhere.world.application_id += 1
        old = here.build()
        await old.start()
        stranger = here.build()
        stranger.environ |= {"DISCORD_API_URL": elsewhere.api_url, "DISCORD_TOKEN": elsewhere.token}
        await stranger.start(serving=False)
        assert await stranger.stopped() == 78, stranger.tail()
        assert "each needs a path of its own" in stranger.tail()
        await old.logged("supervisor 2, which shares the ledger, runs another application's bot")
        assert active(await old.status()) is not None
