"""The only child is killed under traffic: what its successor still gets from the dead sessions.

A handler that ran when its process was killed is lost and named; an interaction that nobody could answer within 3 s is
counted as expired. Everything else that Discord kept for the dead sessions is handled, once.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from casualties import INTERACTIONS, UNTOLD
from rig import ALL_KINDS, Rig, active, rig

from bastion.sandbox import Entry, SandboxSettings, Verdict

pytestmark = pytest.mark.anyio

WINDOW = 0.25
LONGEST_HANDLER = 0.5
"""Handlers take up to 0.3 s, their reports some more on a busy machine."""
ANSWERABLE = 3.0


def settings(shards: int) -> SandboxSettings:
    return SandboxSettings(
        max_concurrency=2,
        identify_window=WINDOW,
        recommended_shards=shards,
        member_request_window=0.0,
        identifies_per_day=100_000,
        replay_buffer=3500,  # on a busy machine a start takes long; what that costs is another test's
        skew=(0.0, 0.3),
    )


@dataclass(frozen=True)
class Death:
    """One killed child: its sessions, when it died, when another one served, and what was said about it."""

    sessions: set[int]
    at: float
    over_at: float
    handoff: dict[str, Any]


async def kill(installation: Rig, *, meanwhile: Callable[[], None] = lambda: None) -> Death:
    """Kill the active child and wait until its successor serves and has said all it has to say."""
    before = active(await installation.status())
    assert before is not None
    generation, said = before["generation"], len(installation.log)
    # It is the only child; a session may have been begun by one that is dead.
    sessions = {session.info.number for session in installation.sandbox.gateway.sessions if session.connected}
    os.kill(before["pid"], signal.SIGKILL)
    at = time.monotonic()
    meanwhile()
    await installation.until(
        lambda status: (
            status["supervisor"]["state"] == "serving"
            and (now := active(status)) is not None
            and now["generation"] > generation
        )
    )
    over_at = time.monotonic()
    handoff = await told(installation, since=said)
    assert handoff["kind"] == "recovery"
    assert handoff["result"] == "succeeded"
    assert handoff["from"] == generation
    return Death(sessions, at, over_at, handoff)


async def told(installation: Rig, *, since: int = 0) -> dict[str, Any]:
    """Wait until a successor has counted what its own sessions did not see either, and the status has it.

    It does so a second after they took over. ``since`` is a place in the log.
    """

    def counted() -> list[str]:
        said = "\n".join(installation.log[since:])
        return re.findall(r"recovered what generation \d+ left: .* (\d+) events missed", said) or (
            ["0"] if "can be recovered: its file" in said else []
        )

    def holds(status: dict[str, Any]) -> bool:
        return any(int(missed) == status["last_handoff"]["recovered"]["missed"] for missed in counted())

    handoff: dict[str, Any] = (await installation.until(holds))["last_handoff"]
    return handoff


def cut_by_death(handoff: dict[str, Any]) -> tuple[list[str], int]:
    """Return what the status names of the handlers that died, and how many it only counts."""
    names: list[str] = handoff["cut"]
    more = re.fullmatch(r"and (\d+) more", names[-1]) if names else None
    return (names[:-1], int(more[1])) if more else (names, 0)


async def reloads(installation: Rig) -> None:
    """Assert that the next reload works."""
    again = await installation.reload()
    assert again["result"] == "succeeded", f"{again}\n{installation.tail()}"


def unhandled(installation: Rig) -> list[Entry]:
    """Return what nobody handled; without the members of guilds that were left, for nobody can tell of them."""
    journal = installation.sandbox.journal
    left = {entry.guild_id for entry in journal.entries if entry.kind == "guild_leave"}
    return [
        entry
        for entry in journal.entries
        if installation.expected(entry) and not journal.handlings(entry.kind, entry.key)
        if not (entry.kind == "member_join" and entry.guild_id in left)
    ]


def cut(entry: Entry, death: Death) -> bool:
    """Whether a handler of the killed child can have been at it: it came to it a moment before."""
    return any(
        session in death.sessions and death.at - LONGEST_HANDLER < at < death.at + 0.02
        for session, at in entry.delivered
    )


def too_late(entry: Entry, death: Death) -> bool:
    """Whether nobody could answer an interaction within 3 s, as nobody lived."""
    return entry.kind in INTERACTIONS and death.at - 1 < entry.at < death.over_at - ANSWERABLE + 1


def check(installation: Rig, deaths: list[Death], found: Verdict) -> None:
    """Every event was handled once, but for what is named or counted."""
    shown = f"{[death.handoff for death in deaths]}\n{found}\n{installation.tail(80)}"
    assert found.duplicated == 0, shown
    for death in deaths:
        lost = [entry for entry in unhandled(installation) if entry.kind not in UNTOLD]
        mine = [entry for entry in lost if cut(entry, death) and entry.kind not in INTERACTIONS]
        assert len(mine) <= len(death.handoff["cut"]), shown
        named = set(re.findall(r"MESSAGE_CREATE (\d+)", " ".join(death.handoff["cut"])))
        assert {entry.key for entry in mine if entry.kind == "message"} <= named, shown
        # One that was on its way to the child when it died was either begun or not yet taken: cut, or expired.
        late = [one for one in lost if one.kind in INTERACTIONS and (too_late(one, death) or cut(one, death))]
        counted = death.handoff["expired"] + found.refused + len(death.handoff["cut"]) - len(mine)
        assert len(late) <= counted, shown
    left = [
        (entry.kind, entry.key, [(session, round(at - deaths[0].at, 2)) for session, at in entry.delivered])
        for entry in unhandled(installation)
        if not any(cut(entry, death) or too_late(entry, death) for death in deaths) and entry.kind not in UNTOLD
    ]
    assert not left, f"{left}\n{shown}"


@pytest.mark.parametrize(
    ("shards", "kills"),
    [
        pytest.param(4, 1, id="4-shards"),
        pytest.param(1, 2, id="1-shard-twice", marks=pytest.mark.wide),
        pytest.param(4, 3, id="4-shards-three-times", marks=pytest.mark.wide),
    ],
)
async def test_what_came_while_nobody_lived_is_handled_once(tmp_path: Path, shards: int, kills: int) -> None:
    async with rig(
        tmp_path, app="sharded_client:client", settings=settings(shards), discord__identify_window=WINDOW
    ) as installation:
        sandbox = installation.sandbox
        await installation.start()
        sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        await sandbox.journal.until(lambda: len(sandbox.journal.entries) > 200)
        deaths = [await kill(installation) for _ in range(kills)]
        if kills > 1:  # the one of the fast suite leaves it to the others
            await reloads(installation)
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=8, quiet=2)
        check(installation, deaths, found)
        for death in deaths:
            assert death.handoff["recovered"]["sessions"] == shards
            assert death.handoff["recovered"]["lost"] == 0
            assert death.handoff["replayed"] > 50
        updates = [entry for entry in unhandled(installation) if entry.kind in UNTOLD]
        counted = sum(death.handoff["recovered"]["missed"] for death in deaths)
        running = sum(len(death.handoff["cut"]) for death in deaths)
        assert len(updates) <= counted + running, f"{counted}\n{found}\n{installation.tail()}"
        assert await installation.stop() == 0


@pytest.mark.wide
async def test_a_successor_that_is_killed_over_it_leaves_the_rest_to_the_next_one(tmp_path: Path) -> None:
    async with rig(
        tmp_path, app="sharded_client:client", settings=settings(4), discord__identify_window=WINDOW
    ) as installation:
        sandbox = installation.sandbox
        await installation.start()
        sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        await sandbox.journal.until(lambda: len(sandbox.journal.entries) > 200)
        killed: list[float] = []

        async def kill_the_successor() -> None:
            spawned = await installation.logged("generation 2 spawned")
            await installation.logged("resumed shard 0 of generation 1")
            await sandbox.journal.until(lambda: any(by(installation, 2)))
            os.kill(int(spawned.partition("pid ")[2].partition(",")[0]), signal.SIGKILL)  # in a moment it is active
            killed.append(time.monotonic())

        killing = asyncio.create_task(kill_the_successor())
        first = await kill(installation)
        await killing
        await reloads(installation)
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=8, quiet=2)
        assert first.handoff["to"] == 3
        assert first.handoff["recovered"]["lost"] == 0
        shown = f"{first.handoff}\n{found}\n{installation.tail(80)}"
        assert found.duplicated == 0, shown
        left = [
            entry
            for entry in unhandled(installation)
            if not too_late(entry, first) and entry.kind not in UNTOLD and entry.at < killed[0]
        ]
        names, unnamed = cut_by_death(first.handoff)
        assert len(left) <= len(names) + unnamed, shown
        named = set(re.findall(r"MESSAGE_CREATE (\d+)", " ".join(names)))
        assert len({entry.key for entry in left if entry.kind == "message"} - named) <= unnamed, shown
        later = [one for one in unhandled(installation) if one.at >= killed[0] and one.kind not in UNTOLD]
        assert not [entry for entry in later if not too_late(entry, first)], shown


def by(installation: Rig, generation: int) -> Iterator[bool]:
    """Say of each event whether this generation handled it."""
    journal = installation.sandbox.journal
    for entry in journal.entries:
        yield any(handling.by == generation for handling in journal.handlings(entry.kind, entry.key))


@pytest.mark.wide
async def test_sessions_that_ended_meanwhile_are_counted_and_the_bot_serves_no_later(tmp_path: Path) -> None:
    async with rig(
        tmp_path, app="sharded_client:client", settings=settings(4), discord__identify_window=WINDOW
    ) as installation:
        sandbox = installation.sandbox
        await installation.start()
        sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        await sandbox.journal.until(lambda: len(sandbox.journal.entries) > 200)

        def forget() -> None:
            for session in sandbox.gateway.sessions[:2]:
                sandbox.gateway.end(session)

        death = await kill(installation, meanwhile=forget)
        said = death.handoff["recovered"]
        assert (said["sessions"], said["lost"]) == (4, 2)
        assert 0 < said["unheard_seconds"] < death.over_at - death.at
        await installation.logged("cannot be resumed: Discord no longer knows it (op 9)")
        from_now = time.monotonic()
        await sandbox.journal.until(lambda: len([one for one in sandbox.journal.entries if one.at > from_now]) > 100)
        await reloads(installation)
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=8, quiet=2)
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"
        late = [entry for entry in unhandled(installation) if entry.at > from_now]
        assert not late, f"{late}\n{found}\n{installation.tail()}"


@pytest.mark.wide
@pytest.mark.parametrize("damage", ["removed", "overwritten"])
async def test_a_file_that_is_gone_or_damaged_holds_up_nobody(tmp_path: Path, damage: str) -> None:
    async with rig(
        tmp_path,
        app="sharded_client:client",
        settings=settings(2),
        discord__identify_window=WINDOW,
        ledger__path=str(tmp_path / "ledger"),
    ) as installation:
        await installation.start()
        file = tmp_path / "ledger-sessions-1"
        assert file.exists()
        if damage == "removed":
            file.unlink()
        else:
            with file.open("r+b") as damaged:  # not cut short: its writer, who has it mapped, would be killed by that
                damaged.write(b"nonsense")
        death = await kill(installation)
        assert set(death.handoff["recovered"].values()) == {0}
        await installation.logged("nothing of generation 1 can be recovered: its file")
        await installation.sandbox.journal.wait_handled(installation.sandbox.emit_message())
        assert [path.name for path in tmp_path.glob("ledger-sessions-*")] == ["ledger-sessions-2"]
        await reloads(installation)
        assert await installation.stop() == 0
        assert not list(tmp_path.glob("ledger-sessions-*"))


@pytest.mark.wide
async def test_a_child_that_hangs_is_recovered_as_one_that_was_killed(tmp_path: Path) -> None:
    async with rig(
        tmp_path,
        app="sharded_client:client",
        settings=settings(2),
        handler_ms="0-50",
        discord__identify_window=WINDOW,
        restart__hang_timeout=3,
    ) as installation:
        sandbox = installation.sandbox
        await installation.start()
        sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        await sandbox.journal.until(lambda: len(sandbox.journal.entries) > 100)
        before = active(await installation.status())
        assert before is not None
        sessions = {one.info.number for one in sandbox.gateway.sessions}
        os.kill(before["pid"], signal.SIGSTOP)
        at = time.monotonic()
        after = await installation.until(
            lambda status: (now := active(status)) is not None and now["generation"] > before["generation"]
        )
        death = Death(sessions, at, time.monotonic(), after["last_handoff"])
        await reloads(installation)
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=8, quiet=2)
        assert found.duplicated == 0, f"{found}\n{installation.tail()}"
        check(installation, [death], found)


@pytest.mark.wide
@pytest.mark.parametrize("phase", ["spawning", "connecting"])
async def test_a_new_child_that_connects_still_recovers_the_old_one_that_dies(tmp_path: Path, phase: str) -> None:
    async with rig(
        tmp_path,
        app="sharded_client:client",
        settings=settings(4),
        discord__identify_window=WINDOW,
        handoff__session="overlap",
    ) as installation:
        sandbox = installation.sandbox
        await installation.start()
        sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        reload = asyncio.create_task(installation.reload())
        status = await installation.until(lambda status: phase in (status["last_handoff"] or {}).get("phases", {}))
        sessions = {one.info.number for one in sandbox.gateway.sessions if one.generation == 1}
        os.kill(next(one["pid"] for one in status["children"] if one["generation"] == 1), signal.SIGKILL)
        at = time.monotonic()
        assert (await reload)["result"] == "succeeded"
        over_at = time.monotonic()
        handoff = await told(installation)
        assert handoff["kind"] == "failover"
        await reloads(installation)
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=8, quiet=2)
        check(installation, [Death(sessions, at, over_at, handoff)], found)
