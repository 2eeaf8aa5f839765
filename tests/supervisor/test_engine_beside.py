"""An engine among others that share its ledger; here the others are what a test writes into the register."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from supervising import fake_command, make_settings, supervised, until

from bastion.bot.sessions import SessionFile
from bastion.supervisor import neighbourhood, neighbours
from bastion.supervisor.engine import Engine
from bastion.supervisor.logs import LogLine
from bastion.supervisor.neighbours import Neighbour, Register, Stage, join, leave
from bastion.supervisor.settings import LedgerSettings, Settings
from bastion.wire import claimer, sessions_path

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return replace(make_settings(tmp_path), ledger=LedgerSettings(path=tmp_path / "claims", shared=True))


@pytest.fixture
def older(tmp_path: Path) -> Iterator[Register]:
    """Another supervisor, which was there first."""
    register = Register(join(tmp_path / "claims"))
    yield register
    with contextlib.suppress(OSError):  # a test has let it die
        leave(register.membership)


def seen(register: Register) -> Neighbour | None:
    """What the engine says in the register."""
    return next(iter(register.look()), None)


async def test_no_bot_is_spawned_before_the_bot_of_a_dead_supervisor_has_ended(
    settings: Settings, older: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its supervisor was killed a moment ago, and the bot lives on for up to two seconds."""
    older.tell(Stage.ACTIVE, holder=3)
    file = Path(sessions_path(str(tmp_path / "claims"), claimer(older.number, 3)))
    lives = SessionFile.create(file, token="t", supervisor=1)
    ended: list[bool] = []
    monkeypatch.setattr(neighbourhood, "is_held", lambda path: path == file and not ended)
    os.close(older.membership.lock)
    async with supervised(settings, serving=False) as it:
        await anyio.sleep(2 * neighbours.LOOK_SECONDS)
        assert "spawned" not in it.text
        ended.append(True)
        await until(lambda: "generation 1 spawned" in it.text)
    lives.close()


async def test_a_bot_that_does_not_end_with_its_supervisor_does_not_keep_us_from_starting(
    settings: Settings, older: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "END_PATIENCE", 0.1)
    monkeypatch.setattr(neighbourhood, "is_held", lambda path: True)
    older.tell(Stage.ACTIVE, holder=3)
    SessionFile.create(
        Path(sessions_path(str(tmp_path / "claims"), claimer(older.number, 3))), token="t", supervisor=1
    ).close()
    os.close(older.membership.lock)
    async with supervised(settings, serving=False) as it:
        await until(lambda: "generation 1 spawned" in it.text)
        assert "the bot of supervisor 1, which is dead, has not ended after 0.1 s" in it.text


async def test_it_says_in_the_register_that_its_bot_is_active(settings: Settings, tmp_path: Path) -> None:
    async with supervised(settings) as it:
        newcomer = Register(join(tmp_path / "claims"))
        assert seen(newcomer) == Neighbour(number=1, stage=Stage.ACTIVE)
        await until(lambda: "beside us: supervisor 2 (arriving)" in it.text)
        leave(newcomer.membership)
        await until(lambda: "beside us: nobody" in it.text)
    assert sorted(file.name for file in neighbours.register_of(tmp_path / "claims").iterdir()) == ["counter"]


async def test_readiness_is_that_of_the_bot_that_waits(
    settings: Settings, older: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbourhood, "ANSWER_PATIENCE", 0.1)
    older.tell(Stage.ACTIVE)
    lines: list[LogLine] = []
    engine = Engine(settings, log=lines.append, command=fake_command)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(engine.run)
        await until(lambda: (readiness := engine.readiness()) is not None and readiness.ready)
        readiness = engine.readiness()
        assert readiness is not None
        assert readiness.standby
        assert seen(older) == Neighbour(number=2, stage=Stage.READY)
        older.tell(Stage.YIELDING)
        await until(lambda: (said := seen(older)) is not None and said.stage is Stage.ACTIVE)
        readiness = engine.readiness()
        assert readiness is not None
        assert not readiness.standby
        with anyio.fail_after(10):
            await engine.stop()
