"""Whatever hangs or is no file where the settings name one: said in time, and nobody is held up by it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hung import hung
from installed import Installed, command, installed

from bastion.supervisor.reading import PATIENCE

HANGING: dict[str, tuple[dict[str, Any], str]] = {
    "settings": ({}, "{0}/bastion.toml: its file system"),
    "token": ({"discord__token_file": "hung/token"}, "discord.token_file: {0}/hung/token: its file system"),
    "environment": ({"bot__env_file": "hung/env"}, "bot.env_file: {0}/hung/env: its file system"),
    "release": ({"bot__directory": "hung"}, "bot.directory: {0}/hung: its file system"),
    "interpreter": ({"bot__python": "hung/python"}, "bot.python: {0}/hung/python: its file system"),
}


def begin_beside(it: Installed, place: Path, name: str) -> None:
    """Serve, with a link to settings where the disk will hang, or with a token that comes from a file."""
    place.mkdir()
    (it.directory / "token").write_text("a.b.c")
    if name == "settings":
        it.config.rename(place / "bastion.toml")
        it.config.symlink_to(place / "bastion.toml")
    it.configure(discord__token_file="token")
    it.start(DISCORD_TOKEN="")
    it.serving(1)


def answers_for(it: Installed, seconds: float) -> None:
    """Ask again and again: each answer comes at once."""
    end = time.monotonic() + seconds
    while (asked := time.monotonic()) < end:
        assert it.child()["generation"] == 1
        assert time.monotonic() - asked < 1
        time.sleep(0.5)


@pytest.mark.wide
@pytest.mark.parametrize("name", HANGING)
def test_a_disk_that_hangs_fails_the_reload_in_time_and_holds_up_nobody(tmp_path: Path, name: str) -> None:
    options, said = HANGING[name]
    with installed(tmp_path, start=False) as it:
        begin_beside(it, tmp_path / "hung", name)
        before = dict(it.options)
        if options:
            it.configure(**options)
        with hung(tmp_path / "hung"):
            began = time.monotonic()
            it.signal(signal.SIGHUP)
            answers_for(it, PATIENCE - 2)
            it.logged(f"reload failed: {said.format(tmp_path)} has not answered for 10 s")
            assert PATIENCE - 1 < time.monotonic() - began < PATIENCE + 3
        it.options = before
        it.configure()
        assert it.reload()["result"] == "succeeded"
        assert it.stop() == 0


@pytest.mark.wide
def test_a_stop_waits_for_no_disk(tmp_path: Path) -> None:
    with installed(tmp_path, start=False) as it:
        begin_beside(it, tmp_path / "hung", "settings")
        with hung(tmp_path / "hung"):
            it.signal(signal.SIGHUP)
            it.logged("SIGHUP: reload")
            began = time.monotonic()
            assert it.stop() == 0
            assert time.monotonic() - began < PATIENCE / 2


@pytest.mark.wide
@pytest.mark.parametrize("name", ["settings", "release"])
def test_a_first_start_from_a_disk_that_hangs_ends_with_a_code_that_lets_it_be_tried_again(
    tmp_path: Path, name: str
) -> None:
    options, said = HANGING[name]
    with installed(tmp_path, start=False) as it, hung_start(it, name, options):
        assert it.process is not None
        assert it.process.wait(PATIENCE + 10) == 1
        assert it.ended() == 1
        assert said.format(tmp_path) in it.text


@pytest.mark.wide
@pytest.mark.parametrize("name", ["settings", "release"])
def test_a_first_start_from_a_disk_that_hangs_can_be_stopped(tmp_path: Path, name: str) -> None:
    with installed(tmp_path, start=False) as it, hung_start(it, name, HANGING[name][0]):
        time.sleep(1)
        began = time.monotonic()
        assert it.stop() == 0
        assert time.monotonic() - began < PATIENCE / 2


@contextmanager
def hung_start(it: Installed, name: str, options: dict[str, Any]) -> Iterator[None]:
    place = it.directory / "hung"
    place.mkdir()
    it.configure(**options)
    if name == "settings":
        it.config.unlink()
        it.config.symlink_to(place / "bastion.toml")
    with hung(place):
        it.start(DISCORD_TOKEN="" if name == "token" else "a.b.c")
        yield


# --- commands ---------------------------------------------------------------------------------------------------------

COMMANDS = ["status", "reload", "check", "run", "stop", "rollback", "healthcheck"]


@pytest.mark.parametrize(
    "name", [*COMMANDS[:4], *(pytest.param(name, marks=pytest.mark.wide) for name in COMMANDS[4:])]
)
def test_a_pipe_is_refused_by_every_command(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "bastion.toml")
    code, said = command(tmp_path, name)
    assert code == 78
    assert f"{tmp_path}/bastion.toml: cannot be read: it is a pipe, which could not be read a second time" in said


def test_a_start_from_a_shells_pipe_is_refused_with_its_reason(tmp_path: Path) -> None:
    words = f"exec {sys.executable} -m bastion.supervisor run --config <(echo '[bot]')"
    environ = {"PATH": os.environ["PATH"], "DISCORD_TOKEN": "a.b.c", "RUNTIME_DIRECTORY": str(tmp_path)}
    ended = subprocess.run(["bash", "-c", words], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 78
    assert "it is a pipe, which could not be read a second time: name a regular file" in ended.stderr


@pytest.mark.wide
@pytest.mark.parametrize("name", ["status", "reload", "check"])
def test_a_disk_that_hangs_ends_a_command_in_time(tmp_path: Path, name: str) -> None:
    place = tmp_path / "hung"
    place.mkdir()
    with hung(place):
        began = time.monotonic()
        code, said = command(tmp_path, name, "--config", "hung/bastion.toml")
        assert time.monotonic() - began < PATIENCE + 3
    assert code == 78
    assert f"{place}/bastion.toml: its file system has not answered for 10 s" in said
