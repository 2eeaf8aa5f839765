"""Finding and loading the app: what a release may name, and what is said when that cannot be used."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import discord
import pytest

from bastion.bot import apps, program

pytestmark = pytest.mark.anyio

CLIENT = "import discord\nclient = discord.Client(intents=discord.Intents.none())\n"


class Release:
    """A directory that modules are written to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, path: str, source: str) -> None:
        file = self.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)

    async def load(self, spec: str, *args: str) -> discord.Client:
        program.go_first_on_path("", self.directory)
        return await apps.load(spec, directory=self.directory, args=args)

    async def refused(self, spec: str) -> str:
        """Load what cannot be used; return what is said about it."""
        with pytest.raises(apps.AppError) as refusal:
            await self.load(spec)
        text = str(refusal.value)
        assert "\n" not in text
        return text


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Release]:
    """An empty release; afterwards the interpreter is as it was."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = dict(sys.modules)
    yield Release(tmp_path)
    for name in set(sys.modules) - set(before):
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


async def test_a_module_attribute_that_is_a_client_is_the_app(release: Release) -> None:
    release.write("app.py", CLIENT)
    assert type(await release.load("app:client")) is discord.Client


async def test_the_module_may_lie_in_a_package_and_the_attribute_on_an_object(release: Release) -> None:
    release.write("package/__init__.py", "")
    release.write("package/app.py", CLIENT + "class Holder:\n    inner = client\n")
    assert isinstance((await release.load("package.app:Holder.inner")), discord.Client)


async def test_a_callable_is_called_and_what_it_returns_is_the_app(release: Release) -> None:
    release.write("app.py", CLIENT + "def create():\n    client.made = True\n    return client\n")
    assert (await release.load("app:create")).made  # type: ignore[attr-defined]


async def test_a_class_of_client_without_arguments_is_made(release: Release) -> None:
    release.write(
        "app.py",
        "import discord\nclass App(discord.Client):\n"
        "    def __init__(self):\n        super().__init__(intents=discord.Intents.none())\n",
    )
    assert type(await release.load("app:App")).__name__ == "App"


async def test_a_client_that_can_itself_be_called_is_not_called(release: Release) -> None:
    release.write(
        "app.py",
        "import discord\nclass App(discord.Client):\n    def __call__(self):\n        raise RuntimeError\n"
        "client = App(intents=discord.Intents.none())\n",
    )
    assert type(await release.load("app:client")).__name__ == "App"


async def test_arguments_are_what_the_app_finds_in_sys_argv(release: Release) -> None:
    release.write("app.py", CLIENT + "import sys\nclient.argv = sys.argv[:]\n")
    assert (await release.load("app:client", "--debug", "x y")).argv == ["app", "--debug", "x y"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("spec", ["app", "app:", ":client", ""])
async def test_another_form_than_module_and_attribute_is_refused(release: Release, spec: str) -> None:
    assert (await release.refused(spec)) == f'bot.app = "{spec}" is not of the form "module:attribute"'


async def test_a_module_that_is_not_there_is_named_with_the_directory_it_was_looked_for_in(release: Release) -> None:
    said = await release.refused("nosuch:client")
    assert said == f'bot.app = "nosuch:client": there is no module nosuch in {release.directory}'


async def test_of_a_dotted_module_the_part_that_is_missing_is_named(release: Release) -> None:
    release.write("package/__init__.py", "")
    assert "there is no module package.nosuch in " in (await release.refused("package.nosuch:client"))
    assert "there is no module elsewhere in " in (await release.refused("elsewhere.nosuch:client"))


async def test_a_module_whose_own_import_is_missing_is_told_from_one_that_is_not_there(release: Release) -> None:
    release.write("app.py", "import a_dependency_nobody_has\n" + CLIENT)
    assert (await release.refused("app:client")) == (
        "bot.app = \"app:client\" cannot be imported: ModuleNotFoundError: No module named 'a_dependency_nobody_has'"
    )


async def test_an_attribute_that_is_not_there_is_named_with_its_whole_path(release: Release) -> None:
    release.write("app.py", CLIENT)
    assert (await release.refused("app:bot")) == 'bot.app = "app:bot": module app has no "bot"'
    said = await release.refused("app:client.nosuch.x")
    assert said == 'bot.app = "app:client.nosuch.x": module app has no "client.nosuch.x"'


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise ValueError('no card file\\nat all')", "ValueError: no card file"),
        ("raise ValueError", "ValueError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit('usage: app')", "SystemExit: usage: app"),
        ("x = = 1", "SyntaxError: invalid syntax (app.py, line 1)"),
    ],
)
async def test_a_module_that_raises_or_exits_when_imported_is_refused_in_one_line_that_says_why(
    release: Release, source: str, said: str
) -> None:
    release.write("app.py", source)
    assert (await release.refused("app:client")) == f'bot.app = "app:client" cannot be imported: {said}'


async def test_the_error_of_the_app_is_kept_as_the_cause(release: Release) -> None:
    release.write("app.py", "1 / 0")
    with pytest.raises(apps.AppError) as refusal:
        (await release.load("app:client"))
    assert isinstance(refusal.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("raised", ["ValueError('no token')", "SystemExit('no token')"])
async def test_a_callable_that_raises_or_exits_is_refused(release: Release, raised: str) -> None:
    release.write("app.py", f"def create():\n    raise {raised}\n")
    said = await release.refused("app:create")
    assert said == f'bot.app = "app:create" raised when called: {raised.partition("(")[0]}: no token'


async def test_a_coroutine_function_is_awaited(release: Release) -> None:
    release.write("app.py", CLIENT + "async def create():\n    return client\n")
    assert type(await release.load("app:create")) is discord.Client


async def test_a_coroutine_that_a_callable_returns_is_awaited(release: Release) -> None:
    release.write("app.py", CLIENT + "async def make():\n    return client\ndef create():\n    return make()\n")
    assert type(await release.load("app:create")) is discord.Client


@pytest.mark.parametrize(
    ("source", "kind"),
    [("x = 'a client'", "a str"), ("x = 3", "an int"), ("x = dict", "a dict"), ("x = None", "a NoneType")],
)
async def test_what_is_no_client_is_named_with_what_it_is_and_what_it_should_be(
    release: Release, source: str, kind: str
) -> None:
    release.write("app.py", source)
    assert (await release.refused("app:x")) == (
        f'bot.app = "app:x" is {kind}, not a discord.py client: name a Client, AutoShardedClient, Bot or '
        "AutoShardedBot, or a callable that returns one"
    )


@pytest.mark.parametrize("run", ["client.run('token')", "import asyncio; asyncio.run(client.start('token'))"])
async def test_a_module_that_runs_its_client_when_imported_is_told_where_to_move_that(
    release: Release, run: str
) -> None:
    release.write("app.py", CLIENT + run)
    assert (await release.refused("app:client")) == (
        'bot.app = "app:client": app runs the bot when it is imported; write bot.program = "app.py" instead, or move '
        'that under `if __name__ == "__main__":`'
    )


async def test_a_release_may_import_its_own_modules_that_are_named_like_ours_once_were(release: Release) -> None:
    release.write("supervisor.py", "import discord\nINTENTS = discord.Intents.none()\n")
    release.write("app.py", "import discord, supervisor\nclient = discord.Client(intents=supervisor.INTENTS)\n")
    assert isinstance((await release.load("app:client")), discord.Client)
