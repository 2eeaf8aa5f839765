"""An engine among others that share its ledger; here the others are what a test writes into the register."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from supervising import fake_command, make_settings, supervised, until

from bastion.supervisor import neighbourhood, neighbours
from bastion.supervisor.engine import Engine
from bastion.supervisor.logs import LogLine
from bastion.supervisor.neighbours import Neighbour, Register, Stage, join, leave
from bastion.supervisor.settings import LedgerSettings, Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return replace(make_settings(tmp_path), ledger=LedgerSettings(path=tmp_path / "claims", shared=True))


@pytest.fixture
def older(tmp_path: Path) -> Iterator[Register]:
    """Another supervisor, which was there first."""
    register = Register(join(tmp_path / "claims"))
    yield register
    leave(register.membership)


def seen(register: Register) -> Neighbour | None:
    """What the engine says in the register."""
    return next(iter(register.look()), None)


async def test_no_bot_is_spawned_before_the_others_claim_for_us(settings: Settings, older: Register) -> None:
    older.tell(Stage.ACTIVE, claims_for=1)
    async with supervised(settings, serving=False) as it:
        await until(lambda: seen(older))
        await anyio.sleep(2 * neighbours.LOOK_SECONDS)
        assert "spawned" not in it.text, "the claims are from before it came"
        older.tell(Stage.ACTIVE, claims_for=2)
        await until(lambda: "generation 1 spawned as standby" in it.text)


async def test_one_that_never_claims_does_not_keep_us_from_starting(
    settings: Settings, older: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "CLAIM_PATIENCE", 0.1)
    older.tell(Stage.ACTIVE, claims_for=0)
    async with supervised(settings, serving=False) as it:
        await until(lambda: "generation 1 spawned" in it.text)
        assert "another supervisor does not claim its events after 0.1 s" in it.text


async def test_a_stop_while_the_others_are_waited_for_starts_nothing(settings: Settings, older: Register) -> None:
    older.tell(Stage.ACTIVE, claims_for=0)
    lines: list[LogLine] = []
    engine = Engine(settings, log=lines.append, command=fake_command)
    codes = []

    async def run() -> None:
        codes.append(await engine.run())

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await until(lambda: seen(older))
            await engine.stop()
    assert codes == [0]
    assert not [line for line in lines if "spawned" in line.text]
    assert seen(older) is None


async def test_it_claims_for_one_that_comes_and_says_so_when_its_bot_does(settings: Settings, tmp_path: Path) -> None:
    async with supervised(settings) as it:
        newcomer = Register(join(tmp_path / "claims"))
        assert seen(newcomer) == Neighbour(number=1, stage=Stage.ACTIVE, claims_for=0)
        await until(lambda: seen(newcomer) == Neighbour(number=1, stage=Stage.ACTIVE, claims_for=2))
        following = Register(join(tmp_path / "claims"))
        await until(lambda: following.look()[0].claims_for == 3)
        for register in (newcomer, following):
            leave(register.membership)
        await until(lambda: "beside us: nobody" in it.text)
    assert sorted(file.name for file in neighbours.register_of(tmp_path / "claims").iterdir()) == ["counter"]


async def test_readiness_is_that_of_the_bot_that_waits(
    settings: Settings, older: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbourhood, "ANSWER_PATIENCE", 0.1)
    older.tell(Stage.ACTIVE, claims_for=2)
    lines: list[LogLine] = []
    engine = Engine(settings, log=lines.append, command=fake_command)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.run)
        await until(lambda: (readiness := engine.readiness()) is not None and readiness.ready)
        readiness = engine.readiness()
        assert readiness is not None
        assert readiness.standby
        assert seen(older) == Neighbour(number=2, stage=Stage.READY, claims_for=1)
        older.tell(Stage.YIELDING, claims_for=2)
        await until(lambda: (said := seen(older)) is not None and said.stage is Stage.ACTIVE)
        readiness = engine.readiness()
        assert readiness is not None
        assert not readiness.standby
        with anyio.fail_after(10):
            await engine.stop()
