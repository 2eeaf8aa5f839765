"""What people install: a wheel, an sdist, an editable checkout. All of ours is in `bastion`, and disturbs nobody."""

from __future__ import annotations

import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from environments import ROOT, Environment, environment, fingerprints, must, run, sources, wheel_of

pytestmark = pytest.mark.wide

ROOMS = ("supervisor", "bot", "sandbox", "wire")
VERSION = f"supervisor, version {version('bastion-supervisor')}\n"
SUPERVISORD = "supervisor==4.3.0"
USER = """
from bastion import lifecycle
from bastion.sandbox import Sandbox, SandboxSettings
from bastion.wire import PROTOCOL

number: int = PROTOCOL
sandbox: Sandbox = Sandbox(SandboxSettings(guilds=4))
role: str = lifecycle.role()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    return wheel_of(sources(directory / "source"), directory)


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Environment:
    return environment(tmp_path / "venv", [wheel])


def content(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


# --- a wheel ----------------------------------------------------------------------------------------------------------


def test_a_wheel_has_the_rooms_as_files_and_no_package_of_ours_beside_bastion(wheel: Path) -> None:
    found = content(wheel)
    top = {name.partition("/")[0] for name in found if ".dist-info" not in name}
    assert top == {"bastion", "bastion_old_names.py", "bastion_old_names.pth"}
    for room in ROOMS:
        theirs = {f"bastion/{file.relative_to(ROOT)}" for file in (ROOT / room).rglob("*.py")}
        assert theirs <= set(found), "each module of the room"
    assert {"bastion/py.typed", "bastion/bot/bastion/cards.tsv", "bastion/lifecycle.py"} <= set(found)
    assert found["bastion/bot/bastion/cards.tsv"] == (ROOT / "bot" / "bastion" / "cards.tsv").read_bytes()


def test_what_an_earlier_version_has_left_where_wheels_are_built_is_not_packed(tmp_path: Path, wheel: Path) -> None:
    source = sources(tmp_path / "source")
    (source / "build" / "lib" / "supervisor").mkdir(parents=True)
    (source / "build" / "lib" / "supervisor" / "options.py").write_text("")
    assert content(wheel_of(source, tmp_path)).keys() == content(wheel).keys()


def test_an_sdist_makes_the_same_wheel(tmp_path: Path, wheel: Path) -> None:
    builder = environment(tmp_path / "venv", ["setuptools>=77"])
    source = sources(tmp_path / "source")
    must(builder.python, "-c", "from setuptools import build_meta; build_meta.build_sdist('..')", cwd=source)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert all(member.isfile() or member.isdir() for member in archive), "no links, which Windows and zips lack"
    (tmp_path / "made").mkdir()
    assert content(wheel_of(sdist, tmp_path / "made")) == content(wheel)


# --- installed --------------------------------------------------------------------------------------------------------


def test_the_commands_answer(installed: Environment) -> None:
    for words in (("supervisor",), ("bastion",), ("python", "-m", "bastion.supervisor")):
        said = run(installed.bin / words[0], *words[1:], "--version", cwd=installed.directory)
        assert (said.returncode, said.stdout, said.stderr) == (0, VERSION, "")


@pytest.mark.parametrize(
    ("old", "words", "answer"),
    [
        ("supervisor", ("--version",), VERSION.strip()),
        ("sandbox", ("--help",), "Usage: python -m bastion.sandbox [OPTIONS]"),
        ("bot", ("sync", "--help"), "usage: python -m bastion.bot sync"),
    ],
)
def test_the_old_names_run_with_a_warning(
    installed: Environment, old: str, words: tuple[str, ...], answer: str
) -> None:
    said = run(installed.python, "-m", old, *words, cwd=installed.directory)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith(answer)
    assert said.stderr.count(f"FutureWarning: the package `{old}` of bastion-supervisor is called `bastion.{old}`") == 1


def test_a_users_own_tests_import_the_sandbox_as_before(installed: Environment) -> None:
    said = installed.run("from sandbox import Sandbox, SandboxSettings; print(Sandbox.__module__)")
    assert said.stdout == "bastion.sandbox.server\n", said.stderr


def test_an_earlier_supervisor_is_told_why_the_release_does_not_start(installed: Environment) -> None:
    words = ("--app", "app:client", "--generation", "2", "--read", "3", "--write", "4")
    said = run(installed.python, "-P", "-m", "bot", *words, cwd=installed.directory)
    assert said.returncode == 78
    assert said.stderr.splitlines()[-1].endswith("restart the supervisor once"), "it quotes the last line"


def test_an_interpreter_loads_one_small_module_more_at_its_start(installed: Environment, tmp_path: Path) -> None:
    loaded = "import sys; print(*sorted(sys.modules))"
    without = environment(tmp_path / "without").run(loaded).stdout.split()
    assert set(installed.run(loaded).stdout.split()) == {*without, "bastion_old_names"}


def test_an_interpreter_starts_in_silence_where_that_module_is_gone(installed: Environment) -> None:
    (installed.packages / "bastion_old_names.py").unlink()
    said = installed.run("print('started')")
    assert (said.stdout, said.stderr) == ("started\n", "")


def test_an_uninstallation_leaves_nothing(installed: Environment) -> None:
    installed.pip("uninstall", "-y", "bastion-supervisor")
    assert [file.name for file in installed.packages.iterdir() if "bastion" in file.name] == []
    assert installed.run("").stderr == ""


def test_types_are_seen_by_a_users_mypy(installed: Environment, tmp_path: Path) -> None:
    user = tmp_path / "user.py"
    mypy = (sys.executable, "-m", "mypy", "--strict", "--config-file=", "--python-executable", installed.python, user)
    user.write_text(USER)
    assert must(*mypy, cwd=tmp_path).startswith("Success")
    user.write_text(USER.replace("role: str", "role: int"))
    assert 'variable has type "int"' in run(*mypy, cwd=tmp_path).stdout


# --- beside supervisord -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_supervisord_is_untouched_whichever_is_installed_first(wheel: Path, tmp_path: Path, first: str) -> None:
    alone = environment(tmp_path / "alone", [SUPERVISORD])
    both = environment(tmp_path / "both", [wheel, SUPERVISORD] if first == "ours" else [SUPERVISORD, wheel])
    assert fingerprints(both.packages / "supervisor") == fingerprints(alone.packages / "supervisor")
    theirs = both.packages / "supervisor" / "options.py"
    said = both.run("import supervisor.options as o, bastion.supervisor as b; print(o.__file__, b.__name__)")
    assert (said.stdout, said.stderr) == (f"{theirs} bastion.supervisor\n", "")
    assert must(both.bin / "supervisord", "--version", cwd=tmp_path) == "4.3.0\n"
    assert must(both.bin / "supervisor", "--version", cwd=tmp_path) == VERSION
    both.pip("uninstall", "-y", "supervisor")
    assert "bastion.supervisor" in both.run("import supervisor; print(supervisor.__name__)").stdout


# --- from a checkout --------------------------------------------------------------------------------------------------


def test_an_editable_install_puts_bastion_alone_on_the_path(tmp_path: Path) -> None:
    source = sources(tmp_path / "source")
    editable = environment(tmp_path / "venv")
    editable.pip("install", "--no-deps", "-e", source)
    said = editable.run(
        "import bastion.bot.lifecycle as l, importlib.util as u\n"
        "print(l.__file__, [name for name in ('bot', 'supervisor', 'sandbox', 'wire') if u.find_spec(name)])"
    )
    assert said.stdout == f"{source}/src/bastion/bot/lifecycle.py []\n", said.stderr
    assert must(editable.bin / "supervisor", "--version", cwd=tmp_path) == VERSION
    (source / "bot" / "lifecycle.py").write_text("changed = True\n")
    assert editable.run("import bastion.bot.lifecycle as l; print(l.changed)").stdout == "True\n"


def test_a_bare_checkout_needs_its_sources_on_the_path_and_nothing_else(tmp_path: Path) -> None:
    source = sources(tmp_path / "source")
    python = environment(tmp_path / "venv").python
    words = (python, "-m", "bastion.supervisor", "--version")
    assert must(*words, cwd=tmp_path, environ={"PYTHONPATH": f"{source}/src"}) == VERSION
    assert "No module named" in run(*words, cwd=tmp_path).stderr
