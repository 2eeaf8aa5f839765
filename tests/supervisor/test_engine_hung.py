"""A disk that hangs while a bot is spawned: the engine goes on with everything else, and with the bot that serves."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import anyio
import msgspec
import pytest
from hung import hung
from supervising import make_settings, supervised, until, with_restart

from bastion.supervisor import reading
from bastion.supervisor.settings import Settings, refreshed

pytestmark = pytest.mark.anyio

PATIENCE = 0.3


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for the disk that will hang."""
    monkeypatch.setattr(reading, "PATIENCE", PATIENCE)
    (tmp_path / "hung").mkdir()
    return tmp_path / "hung"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path)


def with_env_file(settings: Settings, path: Path) -> Settings:
    bot = msgspec.structs.replace(settings.bot, env_file=path, args=("show=COLOUR",))
    return refreshed(replace(settings, bot=bot))


async def test_a_crash_restart_waits_for_no_environment_file_for_long(settings: Settings, place: Path) -> None:
    (place / "env").write_text("COLOUR=red\n")
    async with supervised(with_env_file(settings, place / "env")) as it:
        with hung(place):
            os.kill(it.pids[1], signal.SIGKILL)
            await it.serving(2)
        said = f"bot.env_file: {place}/env: its file system has not answered for {PATIENCE:g} s"
        assert f"{said}; the bot is given what was read before" in it.text
        assert [line.text for line in it.lines].count("COLOUR is red") == 2


async def test_a_stop_waits_for_no_bot_that_waits_for_a_disk(
    settings: Settings, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PATIENCE", 60.0)
    (place / "env").write_text("COLOUR=red\n")
    async with supervised(with_env_file(settings, place / "env")) as it:
        with hung(place):
            os.kill(it.pids[1], signal.SIGKILL)
            await until(lambda: "generation 1 has left" in it.text)
            await it.until(lambda roles: roles == {})
            with anyio.fail_after(5):
                await it.engine.stop()
    assert it.code == 0


async def test_a_release_that_cannot_be_reached_is_tried_again_until_it_can(settings: Settings, place: Path) -> None:
    settings = replace(settings, bot=msgspec.structs.replace(settings.bot, directory=place))
    async with supervised(settings) as it:
        with hung(place) as disk:
            os.kill(it.pids[1], signal.SIGKILL)
            said = f"cannot be started: {place}: its file system has not answered for {PATIENCE:g} s"
            await until(lambda: said in it.text)
            disk.mend()
            await it.until(lambda roles: list(roles.values()) == ["active"])
        assert (await it.engine.reload()).result == "succeeded"


async def test_a_reload_fails_and_the_next_one_works(settings: Settings, place: Path) -> None:
    async with supervised(settings) as it:
        it.release(directory=place)
        with hung(place) as disk:
            outcome = await it.engine.reload()
            said = f"bot.directory: {place}: its file system has not answered for {PATIENCE:g} s"
            assert (outcome.result, outcome.reason, outcome.generation) == ("failed", said, 1)
            assert (outcome.handoff and outcome.handoff.result) == "failed"
            disk.mend()
        assert (await it.engine.reload()).result == "succeeded"


async def test_where_no_thread_is_to_be_had_the_bot_is_tried_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(look: object) -> None:
        raise RuntimeError("can't start new thread")

    async with supervised(settings) as it:
        with monkeypatch.context() as patched:
            patched.setattr("bastion.supervisor.engine.aside", refuse)
            os.kill(it.pids[1], signal.SIGKILL)
            await until(lambda: "cannot be started: can't start new thread" in it.text)
        await it.until(lambda roles: list(roles.values()) == ["active"])


async def test_a_spare_that_cannot_be_spawned_costs_nobody_else_anything(settings: Settings, place: Path) -> None:
    settings = replace(settings, bot=msgspec.structs.replace(settings.bot, directory=place))
    async with supervised(with_restart(settings, spare=True), serving=False) as it:
        await it.until(lambda roles: roles == {1: "active", 2: "standby"})
        with hung(place) as disk:
            os.kill(it.pids[2], signal.SIGKILL)
            await until(lambda: "has not answered" in it.text)
            assert (await it.roles()) == {1: "active"}
            disk.mend()
            await it.until(lambda roles: sorted(roles.values()) == ["active", "standby"])


async def test_a_first_start_fails_with_a_code_that_lets_it_be_tried_again(settings: Settings, place: Path) -> None:
    settings = replace(settings, bot=msgspec.structs.replace(settings.bot, directory=place))
    with hung(place):
        async with supervised(settings, serving=False) as it:
            await until(lambda: it.code is not None)
    assert (it.code, it.engine.failure) == (
        1,
        f"bot.directory: {place}: its file system has not answered for {PATIENCE:g} s",
    )
