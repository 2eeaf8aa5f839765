"""The earlier import names: they lead to the same modules, with a warning, unless somebody else has them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src"
INSTALL = "from bastion.old_names import install; install()\n"
MARKER = "print('the marker of the user')\n"
NAMES = ("bot", "supervisor", "sandbox")
EDITABLE = """
import importlib.util, sys
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        return importlib.util.spec_from_file_location(name, {file!r}) if name == {name!r} else None
sys.meta_path.append(Finder)
"""


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Python = Callable[..., Said]


@pytest.fixture
def python(tmp_path: Path) -> Python:
    """Run a program with our sources on the path, behind what the user has there."""

    def run(program: str, *options: str) -> Said:
        (tmp_path / "program.py").write_text(INSTALL + program)
        environ = {"PYTHONPATH": f"{tmp_path / 'theirs'}:{SOURCES}", "PYTHONDONTWRITEBYTECODE": "1"}
        words = [sys.executable, *options, "program.py"]
        done = subprocess.run(words, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
        return Said(done.returncode, done.stdout, done.stderr)

    (tmp_path / "theirs").mkdir()
    return run


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A directory of the user's on the import path."""
    return tmp_path / "theirs"


# --- where nobody else has them ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("bot.lifecycle", "bastion.bot.lifecycle"),
        ("bot.bastion.cards", "bastion.bot.bastion.cards"),
        ("supervisor.settings", "bastion.supervisor.settings"),
        ("sandbox.settings", "bastion.sandbox.settings"),
    ],
)
@pytest.mark.parametrize("first", ["old", "new"])
def test_an_old_name_gives_the_same_module_whichever_is_imported_first(
    python: Python, old: str, new: str, first: str
) -> None:
    imports = f"import {old}\nimport {new}\n" if first == "old" else f"import {new}\nimport {old}\n"
    said = python(imports + f"print({old} is {new}, {old}.__name__, {old}.__spec__.name, {old.split('.')[0]}.__spec__)")
    assert said.code == 0, said.err
    assert said.out.startswith(f"True {new} {new} ModuleSpec(name='bastion.")


def test_what_an_earlier_app_imports_works_and_is_warned_of_once_for_each_name(python: Python) -> None:
    said = python(
        "from bot import lifecycle\nimport bot, bot.lifecycle\nfrom bot.lifecycle import in_step\n"
        "from sandbox import Sandbox\nprint(lifecycle.role(), in_step.__module__, Sandbox.__module__)"
    )
    assert said.out == "active bastion.bot.lifecycle bastion.sandbox.server\n", said.err
    warnings = [line for line in said.err.splitlines() if "Warning" in line]
    assert len(warnings) == 2, said.err
    assert "program.py:2: FutureWarning: the package `bot` of bastion-supervisor is called `bastion.bot`" in warnings[0]
    assert "program.py:5: FutureWarning: the package `sandbox` of bastion-supervisor" in warnings[1]
    assert "from bastion import lifecycle" in warnings[0]


def test_the_new_names_are_not_warned_of(python: Python) -> None:
    said = python("from bastion import lifecycle\nimport bastion.sandbox.settings\nprint(lifecycle.role())")
    assert (said.out, said.err) == ("active\n", "")


def test_the_bot_that_ships_is_found_under_the_name_that_old_settings_have(python: Python) -> None:
    said = python("from importlib import import_module\nprint(type(import_module('bot.bastion').create()).__module__)")
    assert said.out == "bastion.bot.bastion.client\n", said.err


def test_a_program_of_ours_runs_under_its_old_name(python: Python) -> None:
    run = "import runpy, sys\nsys.argv[1:] = ['--version']\nrunpy.run_module('supervisor', run_name='__main__')"
    said = python(run)
    assert (said.code, said.out) == (0, f"supervisor, version {version('bastion-supervisor')}\n"), said.err
    assert "`bastion.supervisor`" in said.err


def test_what_is_not_there_is_not_found(python: Python) -> None:
    assert python("import bot.no_such_module").err.endswith("No module named 'bot.no_such_module'\n")
    assert python("import sandbox.server.deeper").err.endswith("'sandbox.server' is not a package\n")
    assert python("import wire").err.endswith("No module named 'wire'\n")


def test_who_makes_warnings_errors_is_told_by_one(python: Python) -> None:
    said = python("import sandbox", "-W", "error::FutureWarning")
    assert said.code == 1
    assert said.err.splitlines()[-1].startswith("FutureWarning: the package `sandbox`")


def test_at_the_top_of_a_checkout_the_folder_is_the_same_package_too(python: Python) -> None:
    said = python(
        f"import sys\nsys.path.insert(0, {str(SOURCES.parent)!r})\n"
        "from bot import lifecycle\nimport bot.keys, bastion.bot.lifecycle, bastion.bot.keys\n"
        "print(lifecycle is bastion.bot.lifecycle, bot.keys is bastion.bot.keys, bot is bastion.bot)"
    )
    assert said.out == "True True True\n", said.err
    assert "program.py:4: FutureWarning: the package `bot` of bastion-supervisor" in said.err


def test_a_second_installation_changes_nothing(python: Python) -> None:
    said = python("import sys\nbefore = list(sys.meta_path)\ninstall()\nprint(sys.meta_path == before)")
    assert said.out == "True\n"


# --- where somebody else has them -------------------------------------------------------------------------------------


def module(folder: Path, name: str) -> None:
    (folder / f"{name}.py").write_text(MARKER)


def package(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(MARKER)


def folder_without_init(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    (folder / name / "inside.py").write_text(MARKER)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [module, package])
def test_a_module_of_the_users_wins(python: Python, theirs: Path, name: str, make: Callable[[Path, str], None]) -> None:
    make(theirs, name)
    said = python(f"import {name}\nprint({name}.__file__)")
    assert said.out == f"{MARKER[7:-3]}\n{next(theirs.rglob('*.py'))}\n"
    assert said.err == ""


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_init_wins_too(python: Python, theirs: Path, name: str) -> None:
    folder_without_init(theirs, name)
    said = python(f"import {name}.inside\nprint(list({name}.__path__))")
    assert said.out == f"{MARKER[7:-3]}\n['{theirs / name}']\n"
    assert said.err == ""


def test_so_does_an_editable_install_whose_finder_comes_later(python: Python, theirs: Path, tmp_path: Path) -> None:
    package(tmp_path, "elsewhere")
    said = python(EDITABLE.format(name="bot", file=str(tmp_path / "elsewhere" / "__init__.py")) + "import bot")
    assert (said.out, said.err) == (f"{MARKER[7:-3]}\n", "")


def test_what_the_users_package_lacks_is_not_taken_from_ours(python: Python, theirs: Path) -> None:
    package(theirs, "bot")
    assert python("import bot.lifecycle").err.endswith("No module named 'bot.lifecycle'\n")


def test_a_users_package_that_takes_the_place_of_ours_keeps_its_modules(python: Python, theirs: Path) -> None:
    package(theirs, "bot")
    (theirs / "bot" / "lifecycle.py").write_text("mine = True\n")
    said = python(
        f"import sys\nsys.path.remove({str(theirs)!r})\nimport bot, bot.lifecycle\n"
        f"sys.path.insert(0, {str(theirs)!r})\ndel sys.modules['bot'], sys.modules['bot.lifecycle']\n"
        "from bot import lifecycle\nprint(lifecycle.mine)"
    )
    assert said.out.endswith("True\n"), said.err


def test_a_bastion_of_the_users_is_not_run_to_find_an_old_name(python: Python, theirs: Path) -> None:
    module(theirs, "bastion")
    said = python("")
    assert "the marker of the user" in said.out, "the test's program does import it"
    (theirs.parent / "program.py").write_text("import bastion_old_names as o\no.install()\nimport bot\n")
    words = [sys.executable, "program.py"]
    environ = {"PYTHONPATH": f"{theirs}:{SOURCES}"}
    done = subprocess.run(words, cwd=theirs.parent, env=environ, capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.stderr.endswith("No module named 'bot'\n")


# --- what an earlier version's supervisor starts ----------------------------------------------------------------------


def start_by_hand(*words: str) -> str:
    run = "runpy._run_module_as_main('bot')"  # what `python -m bot` does
    return f"import runpy, sys\nsys.argv = ['-m', *{words!r}]\n{run}"


@pytest.mark.parametrize(
    "words", [("--app", "mybot:client", "--generation", "2"), ("--check", "--app", "mybot:client")]
)
def test_a_child_of_an_earlier_supervisor_says_what_to_do(python: Python, words: tuple[str, ...]) -> None:
    said = python(start_by_hand(*words))
    assert (said.code, said.out) == (78, "")
    last = said.err.splitlines()[-1]
    assert last.startswith("this release has a newer bastion-supervisor than the running supervisor: ")
    assert last.endswith("restart the supervisor once")


def test_a_person_who_syncs_under_the_old_name_is_served(python: Python) -> None:
    said = python(start_by_hand("sync", "--app", "mybot:client"))
    assert "newer bastion-supervisor" not in said.err
    assert "DISCORD_TOKEN" in said.err
