"""Bots whose environment has packages called like ours: `check`, `run` and `reload` work, and each gets its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from environments import Environment, environment, fingerprints, must, sources, wheel_of
from rig import ALL_KINDS, APPS, Rig, rig
from test_handoff import WINDOW, assert_clean, reload_by_command, settings, verdict

pytestmark = [pytest.mark.anyio, pytest.mark.wide]

MARK = "import os, pathlib\npathlib.Path(os.environ['MARKS'], {name!r}).touch()\n"
"""What each module of the user's does when it is executed."""
CLIENT = "from sharded_bot import ShardedBot\nclient = ShardedBot(guild_ready_timeout=0.5)\n"
START = "client.run(os.environ['DISCORD_TOKEN'])\n"
PROJECT = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "somebodys-bot"
version = "1"
[tool.setuptools]
packages = ["bot"]
"""
SUPERVISORD = "supervisor==4.3.0"


@dataclass
class Place:
    """What a user has: a release, an environment for it, and what says which of the user's modules ran."""

    root: Path
    environment: Environment
    start: dict[str, str] = field(default_factory=lambda: {"bot__program": "main.py"})
    path: list[Path] = field(default_factory=lambda: [APPS])
    """PYTHONPATH; the bot's own code is in tests/apps."""
    runs: set[str] = field(default_factory=lambda: {"main"})
    """Names of the user's modules that a start executes."""

    @property
    def release(self) -> Path:
        return self.root / "release"

    @property
    def marks(self) -> Path:
        return self.root / "marks"

    def marked(self) -> set[str]:
        return {file.name for file in self.marks.iterdir()}

    def write(self, file: Path, text: str = "") -> None:
        """Write a module that leaves a mark."""
        name = file.parent.name if file.stem == "__init__" else file.stem
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(MARK.format(name=name) + text)

    def bot(self, folder: Path) -> None:
        """Write the commonest layout of all: a package called `bot`, started by ``python -m bot``."""
        self.write(folder / "bot" / "__init__.py")
        self.write(folder / "bot" / "client.py", CLIENT)
        self.write(folder / "bot" / "__main__.py", f"from bot.client import client\n{START}")
        self.start = {"bot__program": "-m bot"}
        self.runs = {"bot", "client", "__main__"}

    def main(self, *imported: str) -> None:
        """Write a program that imports modules of its own, and ends at once if it gets others."""
        own = "".join(f"import {name}\nassert {name}.of_the_user\n" for name in imported)
        self.write(self.release / "main.py", f"{own}{CLIENT}if __name__ == '__main__':\n    {START}")
        for name in imported:
            self.runs.add(name.rpartition(".")[2])


def bot_installed(place: Place) -> None:
    place.bot(place.environment.packages)


def bot_by_path(place: Place) -> None:
    place.bot(place.root / "elsewhere")
    place.path.insert(0, place.root / "elsewhere")


def bot_editable(place: Place) -> None:
    project = place.root / "project"
    place.bot(project)
    (project / "pyproject.toml").write_text(PROJECT)
    place.environment.pip("install", "--no-deps", "-e", project)


def bot_in_the_release(place: Place) -> None:
    place.bot(place.release)


def bot_as_an_app(place: Place) -> None:
    place.bot(place.environment.packages)
    place.start = {"bot__app": "bot.client:client"}
    place.runs = {"bot", "client"}


def bot_without_init(place: Place) -> None:
    place.write(place.release / "bot" / "inside.py", "of_the_user = True\n")
    place.main("bot.inside")


def modules_called_like_ours(place: Place) -> None:
    for name in ("supervisor", "sandbox"):
        place.write(place.release / f"{name}.py", "of_the_user = True\n")
    place.main("supervisor", "sandbox")


def a_module_bastion_that_nobody_imports(place: Place) -> None:
    place.write(place.release / "bastion.py")
    place.main()


def a_package_bastion_that_nobody_imports(place: Place) -> None:
    place.write(place.release / "bastion" / "__init__.py")
    place.main()


def a_module_bastion(place: Place) -> None:
    place.write(place.release / "bastion.py", "of_the_user = True\n")
    place.main("bastion")


def a_package_bastion(place: Place) -> None:
    place.write(place.release / "bastion" / "__init__.py")
    place.write(place.release / "bastion" / "cogs.py", "of_the_user = True\n")
    place.main("bastion.cogs")
    place.runs.add("bastion")


def a_program_bastion(place: Place) -> None:
    place.write(place.release / "bastion.py", f"{CLIENT}{START}")
    place.start = {"bot__program": "bastion.py"}
    place.runs = {"bastion"}


USERS: list[Callable[[Place], None]] = [
    bot_installed,
    bot_by_path,
    bot_editable,
    bot_in_the_release,
    bot_as_an_app,
    bot_without_init,
    modules_called_like_ours,
    a_module_bastion_that_nobody_imports,
    a_package_bastion_that_nobody_imports,
    a_module_bastion,
    a_package_bastion,
    a_program_bastion,
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    return wheel_of(sources(directory / "source"), directory)


@asynccontextmanager
async def installation(place: Place) -> AsyncIterator[Rig]:
    """Prepare a supervisor for what is in the place."""
    place.marks.mkdir()
    directory = place.root / "run"
    directory.mkdir()
    options: dict[str, object] = {"bot__directory": str(place.release), "bot__python": str(place.environment.python)}
    async with rig(directory, app="", settings=settings(), discord__identify_window=WINDOW) as it:
        it.options.pop("bot__app", None)
        it.configure(**options, **place.start)
        it.environ |= {"MARKS": str(place.marks), "PYTHONPATH": ":".join(map(str, place.path))}
        it.environ |= {"PYTHONDONTWRITEBYTECODE": "1"}
        yield it


async def is_served(place: Place) -> None:
    """Check, run, and reload under traffic: each event is handled once, by the user's modules and no others."""
    async with installation(place) as it:
        checked = await it.command("check")
        assert [line for line in checked.out.splitlines() if line.startswith("FAIL")] == [], checked
        assert place.marked() == set(), "check executes nothing of the user's"
        await it.start()
        assert place.marked() == place.runs, it.tail()
        it.sandbox.traffic.start(rate=50, mix=ALL_KINDS)
        await reload_by_command(it)
        assert_clean(await verdict(it, at_least=25), it, at_least=25)
        assert await it.stop() == 0
        assert it.processes() == []
        assert "FutureWarning" not in "\n".join(it.log), "no old name was taken for ours"
    assert place.marked() == place.runs


@pytest.mark.parametrize("user", USERS)
async def test_what_is_called_like_ours_stays_the_users(
    tmp_path: Path, wheel: Path, user: Callable[[Place], None]
) -> None:
    place = Place(tmp_path, environment(tmp_path / "venv", [wheel]))
    place.release.mkdir()
    user(place)
    await is_served(place)


@pytest.mark.parametrize("first", ["ours", "theirs"])
async def test_beside_supervisord_both_work(tmp_path: Path, wheel: Path, first: str) -> None:
    made = environment(tmp_path / "venv", [wheel, SUPERVISORD] if first == "ours" else [SUPERVISORD, wheel])
    before = fingerprints(made.packages / "supervisor")
    place = Place(tmp_path, made)
    place.main()
    await is_served(place)
    assert fingerprints(made.packages / "supervisor") == before
    assert must(made.bin / "supervisord", "--version", cwd=tmp_path) == "4.3.0\n"
    must(made.python, "-c", "import supervisor.options, supervisor.supervisord", cwd=tmp_path)


# --- the earlier names ------------------------------------------------------------------------------------------------


async def test_a_bot_with_the_old_names_is_served_and_warned(tmp_path: Path, wheel: Path) -> None:
    place = Place(tmp_path, environment(tmp_path / "venv", [wheel]))
    place.write(place.release / "main.py", f"from bot import lifecycle\n{CLIENT}{START}")
    async with installation(place) as it:
        await it.start()
        assert "`from bastion import lifecycle`" in await it.logged("the package `bot` of bastion-supervisor")
        it.sandbox.traffic.start(rate=50, mix=ALL_KINDS)
        await reload_by_command(it)
        assert_clean(await verdict(it, at_least=25), it, at_least=25)
        assert await it.stop() == 0


async def test_settings_that_name_the_shipped_bot_as_before_are_served(tmp_path: Path, wheel: Path) -> None:
    place = Place(tmp_path, environment(tmp_path / "venv", [wheel]), start={"bot__app": "bot.bastion:create"})
    place.release.mkdir()
    async with installation(place) as it:
        await it.start()
        await it.logged('bot.app = "bot.bastion:create" is an old name, accepted for this version only')
        await reload_by_command(it)
        assert await it.stop() == 0
