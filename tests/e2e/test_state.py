"""What a bot carries over: after the old child's last event, before the new one's first; and when that goes wrong."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest
from ordeal import Following
from rig import Rig, active, rig

from bastion.sandbox import Entry, SandboxSettings

pytestmark = pytest.mark.anyio

WINDOW = 0.25


def installation_of(tmp_path: Path, **options: Any) -> Any:
    settings = SandboxSettings(identify_window=WINDOW, member_request_window=0.0, identifies_per_day=100_000)
    return rig(
        tmp_path,
        app="",
        settings=settings,
        discord__identify_window=WINDOW,
        **{"bot__app": "stateful:client", "restart__backoff_first": 0.1, "ledger__path": str(tmp_path / "ledger")}
        | options,
    )


def files(installation: Rig, pattern: str) -> list[Path]:
    return list(installation.directory.glob(f"ledger.{pattern}"))


async def remembered(installation: Rig) -> tuple[int, int]:
    """Ask the bot how many messages it has seen, and how many different ones."""
    before = len(installation.sandbox.journal.notes("seen"))
    await installation.sandbox.journal.wait_handled(installation.sandbox.emit_message(content="how many?"))
    total, different = installation.sandbox.journal.notes("seen")[before].split(":")
    return int(total), int(different)


async def state_of(installation: Rig) -> str:
    status = await installation.until(lambda status: status["last_handoff"]["state"] != "carrying")
    state: str = status["last_handoff"]["state"]
    return state


@pytest.mark.parametrize("fault", ["", pytest.param("bytes", marks=pytest.mark.wide)])
@pytest.mark.parametrize("probation", [0, pytest.param(1, marks=pytest.mark.wide)])
@pytest.mark.parametrize("session", ["auto", "overlap"])
async def test_a_bot_remembers_every_message_over_reloads_in_traffic(
    tmp_path: Path, fault: str, probation: float, session: str
) -> None:
    async with installation_of(tmp_path, handoff__probation=probation, handoff__session=session) as installation:
        installation.environ["STATE_FAULT"] = fault
        await installation.start()
        sandbox = installation.sandbox
        sandbox.traffic.start(rate=100, mix={"message": 1.0})
        for _ in range(2):
            assert (await installation.reload())["result"] == "succeeded"
            assert await state_of(installation) == "carried"
        await sandbox.journal.until(lambda: len(sandbox.journal.entries) > 150)
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=15, quiet=2)
        assert found.clean, found
        total, different = await remembered(installation)
        assert (total, different) == (found.emitted + 1, found.emitted + 1)
        assert installation.sandbox.journal.notes("import") == ["first", "first"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param("export hangs", "export_state takes longer than 0.5 s (state.timeout)", marks=pytest.mark.wide),
        pytest.param("export raises", "export_state raised KeyError: 'x'", marks=pytest.mark.wide),
        pytest.param("too big", "more than the 16777216 allowed", marks=pytest.mark.wide),
        pytest.param("nonsense", "neither bytes nor a JSON value", marks=pytest.mark.wide),
        pytest.param("export kills", "the old bot died before it gave any", marks=pytest.mark.wide),
        pytest.param("import hangs", "import_state takes longer than 0.5 s (state.timeout)", marks=pytest.mark.wide),
        pytest.param("import raises", "import_state raised KeyError: 'y'", marks=pytest.mark.wide),
    ],
)
async def test_state_that_cannot_be_carried_costs_the_state_and_nothing_else(
    tmp_path: Path, fault: str, reason: str
) -> None:
    async with installation_of(tmp_path, state__timeout=0.5, state__checkpoint=0) as installation:
        installation.environ["STATE_FAULT"] = fault
        await installation.start()
        sandbox = installation.sandbox
        sandbox.traffic.start(rate=50, mix={"message": 1.0})
        outcome = await installation.reload()
        assert outcome["result"] == "succeeded"
        state = await state_of(installation)
        assert state.startswith("failed: ")
        assert reason in state
        await installation.logged(reason)
        await sandbox.traffic.stop()
        found = await sandbox.settled(timeout=15, quiet=2)
        assert found.clean or fault == "export kills", found
        assert found.latency.max < 2.5, "events waited for the state, but not long"
        total, _ = await remembered(installation)
        assert total < found.emitted + 1


async def test_after_a_crash_the_last_checkpoint_is_given(tmp_path: Path) -> None:
    async with installation_of(tmp_path, state__checkpoint=0.1) as installation:
        await start_and_remember_three(installation)
        await crash(installation, generation=1)
        assert (await state_of(installation)) == "checkpoint"
        assert await remembered(installation) == (4, 4)
        assert installation.sandbox.journal.notes("import") == ["first"]

        await checkpointed(installation)
        await crash(installation, generation=2)
        assert await remembered(installation) == (5, 5), "the second crash too"


@pytest.mark.parametrize(
    ("fault", "state", "count"),
    [
        ("", "checkpoint", 6),
        pytest.param("import hangs", "failed: import_state takes longer", 3, marks=pytest.mark.wide),
    ],
)
async def test_what_came_after_a_crash_is_handled_after_the_import(
    tmp_path: Path, fault: str, state: str, count: int
) -> None:
    async with installation_of(tmp_path, state__timeout=0.5, state__checkpoint=0.1) as installation:
        installation.environ["STATE_FAULT"] = fault
        sandbox = installation.sandbox
        await start_and_remember_three(installation)
        await kill(installation, generation=1)
        missed = [sandbox.emit_message() for _ in range(2)]
        await installation.until(lambda status: (active(status) or {}).get("generation") == 2)
        for entry in missed:
            await sandbox.journal.wait_handled(entry)
        assert (await state_of(installation)).startswith(state)
        assert installation.sandbox.journal.notes("import") == ["first"]
        assert await remembered(installation) == (count, count)


async def test_a_rollback_on_probation_goes_on_with_what_the_old_bot_remembers(tmp_path: Path) -> None:
    async with installation_of(tmp_path, handoff__probation=60) as installation:
        await installation.start()
        sandbox = installation.sandbox
        await sandbox.journal.wait_handled(sandbox.emit_message())
        following = Following(installation)
        await following.until("probation")
        back = await Following(installation, "rollback").result()
        assert back["result"] == "succeeded", f"{back}\n{installation.tail()}"
        assert (await following.result())["result"] == "rolled-back"
        serving = active(status := await installation.status())
        assert serving is not None
        assert (serving["generation"], status["last_handoff"]["state"]) == (1, "none")
        assert await remembered(installation) == (2, 2)


@pytest.mark.wide
async def test_state_is_not_said_to_be_on_its_way_once_giver_and_taker_are_dead(tmp_path: Path) -> None:
    async with installation_of(
        tmp_path, state__timeout=20, state__checkpoint=0, restart__hang_timeout=20
    ) as installation:
        installation.environ["STATE_FAULT"] = "never drained"
        await installation.start()
        old = psutil.Process((await installation.status())["children"][0]["pid"])
        following = Following(installation)
        await following.until("draining")
        status = await installation.until(lambda status: is_active(status, 2))
        assert status["last_handoff"]["state"] == "carrying"
        old.suspend()  # It cannot be made active again before it is killed.
        psutil.Process(next(child["pid"] for child in status["children"] if child["generation"] == 2)).kill()
        await installation.logged("generation 1 is made active again")
        old.kill()
        status = await installation.until(lambda status: is_active(status, 3))
        handoff = status["last_handoff"]
        assert (handoff["result"], handoff["to"]) == ("succeeded", 3)
        assert handoff["state"] == "failed: generation 2 left before it had taken it"


@pytest.mark.wide
async def test_a_stop_and_a_start_begin_without_state(tmp_path: Path) -> None:
    async with installation_of(tmp_path, state__checkpoint=0.1) as installation:
        await installation.start()
        sandbox = installation.sandbox
        await sandbox.journal.wait_handled(sandbox.emit_message())
        await checkpointed(installation)
        assert await installation.stop() == 0
        assert (tmp_path / "ledger.checkpoint").exists(), "so that this test can fail"
        await installation.start()
        assert await remembered(installation) == (1, 1)


@pytest.mark.wide
async def test_without_hooks_nothing_is_carried_and_nothing_is_asked_for(tmp_path: Path) -> None:
    async with installation_of(tmp_path, bot__app="plain_client:client") as installation:
        await installation.start()
        outcome = await installation.reload()
        assert (outcome["result"], outcome["handoff"]["state"]) == ("succeeded", "none")
        assert not files(installation, "checkpoint*")


@pytest.mark.wide
async def test_the_bot_that_ships_takes_its_replies_back_after_a_reload_and_after_a_crash(tmp_path: Path) -> None:
    async with installation_of(tmp_path, bot__app="bastion.bot.bastion:create", state__checkpoint=0.1) as installation:
        sandbox = installation.sandbox
        await installation.start()
        first, second = [sandbox.emit_message(content="<Glass Heron>") for _ in range(2)]
        replies = [await reply_to(installation, asked) for asked in (first, second)]

        assert (await installation.reload())["result"] == "succeeded"
        assert await state_of(installation) == "carried"
        await deleted_with(installation, first, replies[0])

        await checkpointed(installation)
        await crash(installation, generation=2)
        assert await state_of(installation) == "checkpoint"
        await deleted_with(installation, second, replies[1])
        looked_up = [call for call in sandbox.journal.rest if call.method == "GET" and "/messages" in call.route]
        assert looked_up == [], "it knew, and did not search"


async def reply_to(installation: Rig, asked: Entry) -> int:
    """Wait for the reply to a message; return its id."""
    journal, world = installation.sandbox.journal, installation.sandbox.world
    messages = world.channels[asked.channel_id or 0].messages
    found: list[int] = []

    def answered() -> bool:
        found[:] = [message.id for message in messages.values() if message.reference_id == asked.message_id]
        return bool(found)

    await journal.until(answered)
    return found[0]


async def deleted_with(installation: Rig, asked: Entry, reply: int) -> None:
    sandbox = installation.sandbox
    assert asked.message_id is not None
    sandbox.emit_delete(message=asked.message_id, channel=asked.channel_id)
    await sandbox.journal.until(lambda: reply not in sandbox.world.channels[asked.channel_id or 0].messages)


def is_active(status: dict[str, Any], generation: int) -> bool:
    return any(child["generation"] == generation and child["role"] == "active" for child in status["children"])


async def start_and_remember_three(installation: Rig) -> None:
    """Start a bot, and wait until its checkpoint has three messages."""
    await installation.start()
    for _ in range(3):
        await installation.sandbox.journal.wait_handled(installation.sandbox.emit_message())
    await checkpointed(installation)


async def checkpointed(installation: Rig) -> None:
    """Wait for a checkpoint that began after this call: the second one to come."""
    for _ in range(2):
        before = [path.stat().st_mtime_ns for path in files(installation, "checkpoint")]
        async with asyncio.timeout(10):
            while [  # noqa: ASYNC110 - there is no event in another process to wait for
                path.stat().st_mtime_ns for path in files(installation, "checkpoint")
            ] in (before, []):
                await asyncio.sleep(0.02)


async def crash(installation: Rig, *, generation: int) -> None:
    await kill(installation, generation=generation)
    await installation.until(lambda status: (active(status) or {}).get("generation") == generation + 1)


async def kill(installation: Rig, *, generation: int) -> None:
    status = await installation.status()
    serving = active(status)
    assert serving is not None
    assert serving["generation"] == generation
    psutil.Process(serving["pid"]).kill()
