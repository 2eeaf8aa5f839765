"""`supervisor check` and the release's own code: what it executes, and what it leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from bastion.supervisor.checked import Check, look
from bastion.supervisor.release import Release

MARK = "import os; open(os.path.join({directory!r}, 'executed'), 'a').write(__name__ + chr(10))\n"
NAMES = (
    *("bastion.py", "supervisor.py", "bot.py", "sandbox.py", "sitecustomize.py", "usercustomize.py", "json.py"),
    *("ast.py", "discord.py", "msgspec.py", "bastion/__init__.py", "bastion/bot/__init__.py", "bot/__main__.py"),
)
"""Modules of a user's that are named like what a check needs itself, or like what Python executes unasked."""
PYTHONPATHS = ("", ".", "{directory}", "{directory}/../release")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A release full of modules that leave a mark when they are executed."""
    release = tmp_path / "release"
    for name in (*NAMES, "main.py", "pkg/__init__.py", "pkg/__main__.py", "pkg/app.py"):
        path = release / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MARK.format(directory=str(tmp_path)) + "client = 3\n")
    return release


def executed(directory: Path) -> list[str]:
    """Return the names of the modules that have been executed."""
    mark = directory.parent / "executed"
    return mark.read_text().split() if mark.exists() else []


def check(directory: Path, *, app: str = "", program: str = "", imported: bool = False, path: str = "") -> Check:
    release = Release(directory=directory, python=Path(sys.executable), app=app, program=program, shards="auto")
    environ = {**os.environ, "PYTHONPATH": path.format(directory=directory)}
    return look(release, environ=environ, token="a.b.c", imported=imported)[0]


@pytest.mark.parametrize("path", PYTHONPATHS)
@pytest.mark.parametrize("asked", [{"app": "pkg.app:client"}, {"program": "main.py"}, {"program": "-m pkg"}])
def test_nothing_of_the_users_is_executed(directory: Path, asked: dict[str, str], path: str) -> None:
    found = check(directory, path=path, **asked)
    assert found.ok, found.detail
    assert executed(directory) == []


@pytest.mark.parametrize("path", PYTHONPATHS)
def test_with_an_import_it_is_executed_and_the_mark_is_seen(directory: Path, path: str) -> None:
    assert check(directory, program="main.py", imported=True, path=path).ok
    assert executed(directory) == ["__mp_main__"]
    check(directory, program="-m pkg", imported=True, path=path)
    assert executed(directory) == ["__mp_main__", "pkg", "__mp_main__"]
    assert not check(directory, app="pkg.app:client", imported=True, path=path).ok
    assert executed(directory)[3:] == ["pkg", "pkg.app"]


def test_modules_on_pythonpath_are_found_and_their_sitecustomize_is_not_executed(
    directory: Path, tmp_path: Path
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    for name in ("sitecustomize.py", "bastion.py", "shared.py"):
        (library / name).write_text(MARK.format(directory=str(tmp_path)) + "client = 3\n")
    assert check(directory, app="shared:client", path=str(library)).ok
    assert not check(directory, app="shared:client").ok
    assert executed(directory) == []
    (directory / "main.py").write_text("import shared, os\nassert os.environ['PYTHONPATH'].endswith('library')\n")
    assert check(directory, program="main.py", imported=True, path=str(library)).detail.startswith("main.py: no client")
    assert executed(directory) == ["shared"]


@pytest.mark.parametrize(
    "token",
    ["a.b.c", "MTIzNDU2Nzg5MDEyMzQ1Njc4.GaBcDe.abcdefghijklmnopqrstuvwxyz0123456789AB"],
    ids=["the settings' own", "one that looks like it"],
)
def test_no_token_is_in_the_environment_of_what_is_imported(
    directory: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    for name in ("DISCORD_TOKEN", "MY_TOKEN"):
        monkeypatch.setenv(name, token)
    monkeypatch.setenv("OTHER", "kept")
    (directory / "main.py").write_text(
        f"import os\nassert {token!r} not in os.environ.values()\nassert os.environ['OTHER'] == 'kept'\n"
        "assert not {'DISCORD_TOKEN', 'MY_TOKEN'} & set(os.environ)\n"
    )
    assert check(directory, program="main.py", imported=True).detail.startswith("main.py: no client")


def test_a_failed_import_is_quoted_whatever_else_it_prints(directory: Path) -> None:
    (directory / "main.py").write_text("import atexit\natexit.register(print, 'bye')\nimport nosuch_x\n")
    found = check(directory, program="main.py", imported=True)
    assert (found.name, found.ok) == ("program", False)
    assert found.detail == "main.py: ModuleNotFoundError: No module named 'nosuch_x' (main.py:3)"


def test_a_check_that_takes_too_long_is_ended(directory: Path) -> None:
    (directory / "main.py").write_text("import time\ntime.sleep(600)\n")
    release = Release(directory=directory, python=Path(sys.executable), app="", program="main.py", shards="auto")
    (found,) = look(release, environ=os.environ, token="", imported=True, timeout=1)
    assert (found.ok, found.detail) == (False, "main.py: its check takes longer than 1 s")


SLEEPERS = (
    "import subprocess, time\n"
    "for options in ({}, {'process_group': 0}, {'start_new_session': True}):\n"
    "    subprocess.Popen(['sleep', '600'], **options)\n"
    "open('started', 'w').close()\n"
)


def left(directory: Path) -> list[psutil.Process]:
    """Return the processes that work in a directory."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            found += [process] if process.cwd() == str(directory) else []
    return found


def test_no_process_is_left_of_an_import_that_starts_some(directory: Path) -> None:
    (directory / "main.py").write_text(SLEEPERS)
    assert check(directory, program="main.py", imported=True).ok
    assert (directory / "started").exists()
    assert left(directory) == []


def test_no_process_is_left_when_the_command_is_killed_in_the_middle(directory: Path, tmp_path: Path) -> None:
    (directory / "pkg" / "app.py").write_text(f"{SLEEPERS}time.sleep(600)\nclient = 3\n")
    settings = f'[bot]\napp = "pkg.app:client"\ndirectory = "release"\n[control]\nsocket = "{tmp_path}/run/s.sock"\n'
    (tmp_path / "bastion.toml").write_text(settings)
    command = [sys.executable, "-m", "bastion.supervisor", "check", "--import"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 20
        while not (directory / "started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(left(directory)) == 5, "the guard, the import and its three are seen"
        process.kill()
    while left(directory):
        assert time.monotonic() < deadline
        time.sleep(0.01)
