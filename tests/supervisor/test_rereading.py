"""The settings file is found once; a reload reads it again, or is refused, and the bot that serves goes on."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from installed import Installed, command, installed

from bastion.supervisor import run
from bastion.supervisor.entry import SHIPPED, Named
from bastion.supervisor.rereading import reread, unread
from bastion.supervisor.settings import Settings, SettingsError, load

ENVIRON = {"DISCORD_TOKEN": "a.b.c"}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A settings file's path in an empty directory, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "bastion.toml"


def started(config: Path, text: str | None, *, named: Named | None = None) -> Settings:
    if text is not None:
        config.write_text(text)
    return load(None, environ=ENVIRON, named=named)


class TestWhatIsRead:
    def test_it_is_the_file_of_the_start_wherever_one_is_found_now(
        self, config: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept = started(config, '[bot]\nprogram = "main.py"\nshards = 2')
        (config.parent / "elsewhere").mkdir()
        monkeypatch.chdir(config.parent / "elsewhere")
        Path("bastion.toml").write_text("[bot]\nshards = 5")
        config.write_text('[bot]\nprogram = "main.py"\nshards = 3')
        again = reread(kept, environ=ENVIRON | {"BASTION_CONFIG": "bastion.toml"})
        assert (again.bot.shards, again.source) == (3, config)

    def test_one_that_is_gone_is_refused_though_another_is_found(self, config: Path) -> None:
        (config.parent / "mine.toml").write_text('[bot]\nprogram = "main.py"')
        kept = load(Path("mine.toml"), environ=ENVIRON)
        (config.parent / "mine.toml").unlink()
        config.write_text('[bot]\nprogram = "other.py"')
        with pytest.raises(SettingsError, match=r"mine\.toml: cannot be read: No such file or directory"):
            reread(kept, environ=ENVIRON)

    @pytest.mark.parametrize("nothing", ["", " \n\t\n", "# [bot]\n# program = 'x'\n", "[bot]\n[handoff]\n", "\ufeff"])
    def test_one_that_holds_nothing_any_more_is_refused(self, config: Path, nothing: str) -> None:
        kept = started(config, "[handoff]\nlinger = 5")
        config.write_text(nothing)
        with pytest.raises(SettingsError, match=r"bastion\.toml: holds no settings any more"):
            reread(kept, environ=ENVIRON)

    def test_one_that_held_nothing_may_go_on_doing_so(self, config: Path) -> None:
        kept = started(config, "# all defaults\n")
        config.write_text("")
        assert reread(kept, environ=ENVIRON) == kept

    @pytest.mark.parametrize("was", ['program = "main.py"', 'app = "main:bot"'])
    def test_one_that_names_no_bot_any_more_is_refused(self, config: Path, was: str) -> None:
        kept = started(config, f"[bot]\n{was}\n")
        for rest in ("[bot]\nshards = 2", '[handoff]\nlinger = 1\n[bot]\nprogram = ""'):
            config.write_text(rest)
            with pytest.raises(SettingsError, match=r"names neither bot\.program nor bot\.app any more, and .* runs"):
                reread(kept, environ=ENVIRON)

    def test_one_that_names_the_bot_that_ships_is_read(self, config: Path) -> None:
        kept = started(config, '[bot]\nprogram = "main.py"')
        config.write_text(f'[bot]\napp = "{SHIPPED}"')
        assert reread(kept, environ=ENVIRON).bot.app == SHIPPED

    def test_what_the_command_line_names_needs_no_key(self, config: Path) -> None:
        named = Named(program="main.py")
        kept = started(config, '[bot]\nprogram = "other.py"\nshards = 2', named=named)
        config.write_text("[bot]\nshards = 3")
        again = reread(kept, environ=ENVIRON, named=named)
        assert (again.bot.program, again.bot.shards) == ("main.py", 3)

    def test_the_old_ones_may_have_had_the_bot_that_ships(self, config: Path) -> None:
        kept = started(config, "[bot]\nshards = 2")
        config.write_text("[bot]\nshards = 3")
        assert reread(kept, environ=ENVIRON).bot.shards == 3

    def test_without_one_at_the_start_one_that_appears_is_not_read_and_that_is_said(self, config: Path) -> None:
        kept = started(config, None)
        assert unread(kept, environ=ENVIRON) is None
        config.write_text("[bot]\nshards = 3")
        assert reread(kept, environ=ENVIRON).bot.shards == "auto"
        assert unread(kept, environ=ENVIRON) == (
            f"{config} is not read: there was no settings file at the start. Restart the supervisor to have it read"
        )
        assert unread(load(None, environ=ENVIRON), environ=ENVIRON) is None

    def test_the_log_of_a_reload_says_so(self, config: Path, caplog: pytest.LogCaptureFixture) -> None:
        again = run.reread(started(config, None), environ=ENVIRON)
        assert "is not read" not in caplog.text
        config.write_text("[bot]\nshards = 3")
        run.reread(again, environ=ENVIRON)
        assert f"{config} is not read: there was no settings file at the start" in caplog.text


# --- a supervisor that runs -------------------------------------------------------------------------------------------


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _socket(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


BROKEN: list[tuple[str, Callable[[Path], Any], str]] = [
    ("gone", Path.unlink, "cannot be read: No such file or directory"),
    ("emptied", lambda path: path.write_text(""), "holds no settings any more"),
    ("only comments", lambda path: path.write_text("# nothing\n"), "holds no settings any more"),
    ("directory", _directory, "cannot be read: it is a directory"),
    ("pipe", _pipe, "cannot be read: it is a pipe"),
    ("socket", _socket, "cannot be read: it is no regular file"),
    ("device", _device, "cannot be read: it is no regular file"),
    ("not UTF-8", lambda path: path.write_bytes(b"\xff[bot]"), "not UTF-8 text"),
    ("no TOML", lambda path: path.write_text("[bot"), "not valid TOML"),
    ("too big", lambda path: path.write_bytes(b"#" * 2**21), "larger than 1048576 bytes"),
    ("no bot", lambda path: path.write_text("[bot]\nshards = 1\n"), "names neither bot.program nor bot.app any more"),
]


def mend(it: Installed) -> None:
    if it.config.is_dir() and not it.config.is_symlink():
        it.config.rmdir()
    else:
        it.config.unlink(missing_ok=True)
    it.configure()


@pytest.mark.wide
def test_a_file_that_is_lost_or_damaged_costs_the_reload_and_nothing_else(tmp_path: Path) -> None:
    with installed(tmp_path, bot__app="my.bot:client") as it:
        for name, damage, said in BROKEN:
            damage(it.config)
            outcome = it.reload()
            assert (outcome["result"], outcome["generation"]) == ("refused", 1), name
            assert outcome["reason"].startswith(f"{it.config}: {said}"), (name, outcome["reason"])
            refused = it.text.count("reload refused")
            it.signal(signal.SIGHUP)
            it.logged("reload refused", times=refused + 1)
            assert it.child()["generation"] == 1
            mend(it)
        assert it.reload()["result"] == "succeeded"
        assert it.stop() == 0


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("")], ids=["gone", "emptied"])
def test_the_command_says_so_and_ends_with_1(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    with installed(tmp_path, control__socket=str(tmp_path / "run" / "supervisor.sock")) as it:
        damage(it.config)
        code, said = command(tmp_path, "reload", RUNTIME_DIRECTORY=str(tmp_path / "run"))
        assert code == 1
        assert f"s: {it.config}: " in said
        assert said.endswith(". Generation 1 goes on serving.\n")
        assert it.stop() == 0


def test_a_crash_restarts_the_bot_whatever_has_become_of_the_file(tmp_path: Path) -> None:
    with installed(tmp_path, bot__app="my.bot:client") as it:
        _pipe(it.config)
        os.kill(it.child()["pid"], signal.SIGKILL)
        it.serving(2)
        assert it.stop() == 0


def test_a_reexecution_keeps_the_file_too(tmp_path: Path) -> None:
    """The new code is started by the same command line, which would find another file now."""
    with installed(tmp_path, start=False) as it:
        it.config.rename(tmp_path / "mine.toml")
        it.start(config=Path("mine.toml"))
        it.serving(1)
        (tmp_path / "mine.toml").unlink()
        it.signal(signal.SIGUSR2)
        it.logged(f"not re-executed, the supervisor goes on as it is: {tmp_path}/mine.toml: cannot be read")
        assert it.child()["generation"] == 1
        assert it.stop() == 0
