"""What a release is resolved to, and what is said when it cannot be."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest

from bastion.supervisor.entry import SHIPPED
from bastion.supervisor.release import ReleaseError, remarks, resolve, still_there, switch
from bastion.supervisor.settings import BotSettings


def test_the_directory_is_resolved_and_the_interpreter_defaults_to_ours(tmp_path: Path) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "current").symlink_to("42")
    release = resolve(BotSettings(app="shop.main:bot", directory=tmp_path / "current", shards=4, args=("-v",)))
    assert release.directory == tmp_path / "42"
    assert release.python == Path(sys.executable)
    assert (release.app, release.shards, release.args) == ("shop.main:bot", 4, ("-v",))


def test_a_releases_own_venv_goes_before_ours_and_its_symlink_is_kept(tmp_path: Path) -> None:
    own = tmp_path / ".venv" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.symlink_to(sys.executable)
    assert resolve(BotSettings(directory=tmp_path)).python == own


def test_a_name_is_looked_up_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    release = resolve(BotSettings(directory=tmp_path, python=Path(sys.executable).name))
    assert release.python == Path(sys.executable)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    broken_venv = tmp_path / "release" / ".venv" / "bin"
    broken_venv.mkdir(parents=True)
    (broken_venv / "python").symlink_to("/no/such/python3")
    for bot, message in {
        BotSettings(directory=tmp_path / "gone"): f"bot.directory: {tmp_path}/gone: No such file or directory",
        BotSettings(directory=tmp_path / "file"): f"bot.directory: {tmp_path}/file: not a directory",
        BotSettings(directory=tmp_path / "loop"): f"bot.directory: {tmp_path}/loop: ",
        BotSettings(directory=tmp_path, python="/gone/python"): "bot.python: /gone/python: no such file",
        BotSettings(
            directory=tmp_path, python=str(tmp_path / "file")
        ): f"bot.python: {tmp_path}/file: not an executable",
        BotSettings(directory=tmp_path, python="no-such-python"): "bot.python: no-such-python: not found on PATH",
        BotSettings(directory=tmp_path / "release"): f"the release's .venv: {broken_venv}/python: no such file",
    }.items():
        with pytest.raises(ReleaseError) as caught:
            resolve(bot)
        assert str(caught.value).startswith(message)


def test_without_a_program_and_an_app_the_bot_that_ships_runs(tmp_path: Path) -> None:
    bot = BotSettings(directory=tmp_path)
    release = resolve(bot)
    assert (release.app, release.program, release.entry) == (SHIPPED, "", SHIPPED)
    assert remarks(bot) == [(logging.INFO, "neither bot.program nor bot.app is set: the bot that ships runs")]


def test_its_old_name_is_taken_for_it_with_a_warning_unless_it_is_the_users(tmp_path: Path) -> None:
    bot = BotSettings(directory=tmp_path, app="bot.bastion:create")
    assert resolve(bot).app == SHIPPED
    ((level, said),) = remarks(bot)
    assert level == logging.WARNING
    assert said == f'bot.app = "bot.bastion:create" is an old name, accepted for this version only: write "{SHIPPED}"'
    (tmp_path / "bot").mkdir()
    assert resolve(bot).app == SHIPPED
    (tmp_path / "bot" / "bastion.py").write_text("")
    assert resolve(bot).app == "bot.bastion:create"
    assert remarks(bot) == []


class TestProgram:
    @pytest.mark.parametrize("program", ["main.py", "sub/main.py", "link.py"])
    def test_a_script_of_the_release_is_what_runs_and_what_is_shown(self, tmp_path: Path, program: str) -> None:
        (tmp_path / "sub").mkdir()
        for script in ("main.py", "sub/main.py"):
            (tmp_path / script).write_text("")
        (tmp_path / "link.py").symlink_to("main.py")
        bot = BotSettings(directory=tmp_path, program=program)
        release = resolve(bot)
        assert (release.program, release.app, release.entry) == (program, "", program)
        assert remarks(bot) == []

    def test_one_elsewhere_is_named_absolutely(self, tmp_path: Path) -> None:
        script = tmp_path / "main.py"
        script.write_text("")
        (tmp_path / "release").mkdir()
        assert resolve(BotSettings(directory=tmp_path / "release", program=str(script))).entry == str(script)

    def test_a_module_is_left_to_the_child_to_find(self, tmp_path: Path) -> None:
        assert resolve(BotSettings(directory=tmp_path, program="-m my.bot")).entry == "-m my.bot"

    def test_what_cannot_be_run_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "directory").mkdir()
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "loop.py").symlink_to("loop.py")
        (tmp_path / "file").write_text("")
        for program, message in {
            "gone.py": "No such file or directory",
            "directory": 'is a directory: name the file to run, or a package by "-m NAME"',
            "pipe": "not a regular file",
            "loop.py": "Too many levels of symbolic links",
            "file/main.py": "Not a directory",
        }.items():
            with pytest.raises(ReleaseError) as caught:
                resolve(BotSettings(directory=tmp_path, program=program))
            assert str(caught.value) == f"bot.program: {tmp_path}/{program}: {message}"
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path).is_dir())
        with pytest.raises(ReleaseError, match=r"bot\.program: .*/file: permission denied"):
            resolve(BotSettings(directory=tmp_path, program="file"))

    def test_one_that_is_gone_before_it_is_spawned_again_is_noticed(self, tmp_path: Path) -> None:
        (tmp_path / "main.py").write_text("")
        release = resolve(BotSettings(directory=tmp_path, program="main.py"))
        still_there(release)
        (tmp_path / "main.py").unlink()
        with pytest.raises(ReleaseError, match=r"bot\.program: .*/main\.py: No such file"):
            still_there(release)


def test_a_release_that_was_pruned_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "42").mkdir()
    release = resolve(BotSettings(directory=tmp_path / "42"))
    still_there(release)
    (tmp_path / "42").rmdir()
    with pytest.raises(ReleaseError, match="No such file"):
        still_there(release)


class TestSwitch:
    @pytest.fixture
    def current(self, tmp_path: Path) -> Path:
        for name in ("1", "2"):
            (tmp_path / "releases" / name).mkdir(parents=True)
        (tmp_path / "current").symlink_to("releases/1")
        return tmp_path / "current"

    def test_the_link_names_the_release_relatively_and_can_be_moved_back(self, current: Path) -> None:
        switched = switch(current, current.parent / "releases" / "2")
        assert str(current.readlink()) == "releases/2"
        assert switched.undo()
        assert str(current.readlink()) == "releases/1"
        assert sorted(path.name for path in current.parent.iterdir()) == ["current", "releases"]

    def test_one_elsewhere_is_named_absolutely(self, current: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        elsewhere = tmp_path_factory.mktemp("elsewhere")
        switch(current, elsewhere)
        assert current.readlink() == elsewhere.resolve()

    def test_what_somebody_else_has_moved_meanwhile_is_left(self, current: Path) -> None:
        switched = switch(current, current.parent / "releases" / "2")
        switch(current, current.parent / "releases")
        assert not switched.undo()
        assert str(current.readlink()) == "releases"

    def test_a_directory_is_not_replaced(self, current: Path) -> None:
        with pytest.raises(ReleaseError, match="--release moves a symlink, and this is none"):
            switch(current.parent / "releases" / "1", current.parent / "releases" / "2")

    def test_a_release_that_is_not_there_is_named_and_the_link_stays(self, current: Path) -> None:
        with pytest.raises(ReleaseError, match=r"--release: .*/releases/3: No such file or directory"):
            switch(current, current.parent / "releases" / "3")
        assert str(current.readlink()) == "releases/1"
