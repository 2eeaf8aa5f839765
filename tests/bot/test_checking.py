"""What a release's interpreter says about a program or an app: from its source alone, and from an import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import discord
import pytest

import bastion
from bastion.bot.checking import Answer, Asked, looked_at

CLIENT = "import discord\nclient = discord.Client(intents=discord.Intents.none())\n"
TOKEN = "MTIzNDU2Nzg5MDEyMzQ1Njc4.GaBcDe.abcdefghijklmnopqrstuvwxyz0123456789AB"

LAUNCHER = Path(bastion.__file__).parent / "supervisor" / "launcher.py"


class Release:
    """A directory that modules are written to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, path: str, source: str) -> Path:
        file = self.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
        return file

    def look(self, *, program: str = "", app: str = "") -> Answer:
        """Look at the source, in this process."""
        return looked_at(
            Asked(directory=self.directory, program=program, app=app, path=(), withheld=("DISCORD_TOKEN",), args=())
        )

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the check as the supervisor does, with the release as the current directory."""
        command = [sys.executable, str(LAUNCHER), "check", "--directory", str(self.directory), *options]
        environ = {name: value for name, value in os.environ.items() if name != "DISCORD_TOKEN"}
        return subprocess.run(
            command, capture_output=True, text=True, cwd=self.directory, env=environ, timeout=30, check=False
        )

    def imported(self, *options: str) -> dict[str, Any]:
        """Return the answer to ``--import``."""
        done = self.run("--import", *options)
        answer: dict[str, Any] = json.loads(done.stdout)
        assert "Traceback" not in done.stderr
        assert done.returncode == (78 if answer["problem"] else 0)
        return answer


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release(tmp_path)


class TestSource:
    """Nothing is executed: that is shown with the supervisor, in tests/supervisor/test_checked.py."""

    @pytest.mark.parametrize(
        ("path", "program"),
        [
            ("main.py", "main.py"),
            ("src/main.py", "src/main.py"),
            ("main", "main"),
            ("mybot.py", "-m mybot"),
            ("mybot/__main__.py", "-m mybot"),
            ("mybot/run/start.py", "-m mybot.run.start"),
        ],
    )
    def test_a_program_that_is_there_and_is_python_will_do(self, release: Release, path: str, program: str) -> None:
        release.write(path, "raise SystemExit('executed')")
        assert release.look(program=program).problem == ""

    def test_a_package_may_have_an_init_or_none(self, release: Release) -> None:
        release.write("mybot/__init__.py", "raise SystemExit('executed')")
        release.write("mybot/inner/__main__.py", "")
        assert release.look(program="-m mybot.inner").problem == ""

    @pytest.mark.parametrize(
        ("program", "said"),
        [
            ("main.py", "there is no file {0}/main.py"),
            ("folder", '{0}/folder is a directory: name a file in it, or a package as "-m folder"'),
            ("-m nosuch", "there is no module nosuch in {0}"),
            ("-m folder", "there is no module folder.__main__ in {0}"),
            ("-m folder.nosuch.deeper", "there is no module folder.nosuch in {0}"),
            ("-m .", "there is no module  in {0}"),
        ],
    )
    def test_a_program_that_is_not_there_is_named(self, release: Release, program: str, said: str) -> None:
        release.write("folder/x.py", "")
        problem = release.look(program=program).problem
        assert problem == f'bot.program = "{program}": {said.format(release.directory)}'

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ("import os\nx = = 1\n", "main.py:2: invalid syntax: x = = 1"),
            ("\nreturn 3\n", "main.py:2: 'return' outside function: return 3"),
            ("def f():\n  x\n y\n", "main.py:3: unindent does not match any outer indentation level: y"),
        ],
    )
    @pytest.mark.parametrize("asked", [{"program": "main.py"}, {"program": "-m main"}, {"app": "main:client"}])
    def test_a_syntax_error_is_quoted_with_its_line(
        self, release: Release, source: str, said: str, asked: dict[str, str]
    ) -> None:
        release.write("main.py", source)
        assert release.look(**asked).problem == said

    def test_what_is_no_text_is_no_python(self, release: Release) -> None:
        release.write("main.py", "").write_bytes(b"\x00\xff")
        assert release.look(program="main.py").problem.startswith("main.py")

    @pytest.mark.parametrize(
        "source",
        [
            "client = make()",
            "async def client(): ...",
            "class client(Bot): ...",
            "from elsewhere import client",
            "import elsewhere as client",
            "from elsewhere import *",
            "try:\n    client = 1\nexcept ImportError:\n    client = 2",
            "with x() as client: ...",
            "client: Bot = make()",
            "def make():\n    global client\n    client = 3",
            "def __getattr__(name): ...",
            "globals()['client'] = 3",
        ],
    )
    def test_an_app_whose_module_defines_the_attribute_will_do(self, release: Release, source: str) -> None:
        release.write("pkg/app.py", source)
        assert release.look(app="pkg.app:client").problem == ""
        assert release.look(app="pkg.app:client.inner").problem == ""

    @pytest.mark.parametrize(
        "source", ["", "bot = make()", "def make():\n    client = 3", "class App:\n    client = 3", "x = client"]
    )
    def test_an_attribute_that_the_source_does_not_define_is_named(self, release: Release, source: str) -> None:
        release.write("app.py", source)
        assert release.look(app="app:client").problem == 'bot.app = "app:client": module app has no "client"'

    @pytest.mark.parametrize("spec", ["app", "app:", ":client"])
    def test_another_form_than_module_and_attribute_is_refused(self, release: Release, spec: str) -> None:
        assert release.look(app=spec).problem == f'bot.app = "{spec}" is not of the form "module:attribute"'

    def test_an_app_that_runs_its_client_when_it_is_imported_is_told_where_to_move_that(self, release: Release) -> None:
        release.write("app.py", CLIENT + "client.run('token')\n")
        assert release.look(app="app:client").problem == (
            'bot.app = "app:client": app runs the bot when it is imported (app.py:3); move that under '
            '`if __name__ == "__main__":`, or name the file in bot.program'
        )

    def test_the_bot_that_ships_is_found_whatever_the_release_has_of_that_name(self, release: Release) -> None:
        release.write("bastion/__init__.py", "raise SystemExit('executed')")
        assert release.look(app="bastion.bot.bastion:create").problem == ""

    def test_what_concerns_a_handoff_is_told_with_it(self, release: Release) -> None:
        release.write("main.py", "import sqlite3\n")
        (use,) = release.look(program="main.py").uses
        assert (use["what"], use["places"]) == ("a database", ["main.py:1"])

    def test_what_an_app_leaves_out_is_told_with_it(self, release: Release) -> None:
        release.write("main.py", "bot = Bot()\nif __name__ == '__main__':\n    bot.add_cog(Fun())\n    bot.run('t')\n")
        answer = release.look(app="main:bot")
        assert (answer.skipped, answer.program) == (["main.py:3 bot.add_cog"], "main.py")
        assert release.look(program="main.py").skipped == []

    def test_the_answer_is_one_json_object_and_the_exit_code_says_whether_it_will_do(self, release: Release) -> None:
        release.write("main.py", "print('executed')")
        done = release.run("--program=main.py")
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["problem"] == ""
        done = release.run("--program=-m nosuch")
        assert (done.returncode, done.stderr) == (78, "")
        assert "no module nosuch" in json.loads(done.stdout)["problem"]


KINDS = ["discord.Client", "discord.AutoShardedClient", "commands.Bot", "commands.AutoShardedBot"]


class TestImport:
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_class_of_the_client_and_its_intents_are_told(self, release: Release, kind: str) -> None:
        prefix = "command_prefix='!', " if kind.startswith("commands") else ""
        release.write(
            "app.py",
            "import discord\nfrom discord.ext import commands\n"
            f"class App({kind}): ...\n"
            f"client = App({prefix}intents=discord.Intents(guilds=True, message_content=True))\n",
        )
        intents = discord.Intents(guilds=True, message_content=True).value
        for asked in ("--app=app:client", "--program=app.py"):
            answer = release.imported(asked)
            assert (answer["kind"], answer["intents"]) == (kind.partition(".")[2], intents)

    @pytest.mark.parametrize(
        "function", ["def create():\n", "async def create():\n    import asyncio; await asyncio.sleep(0)\n"]
    )
    def test_an_app_may_be_a_function_also_an_asynchronous_one(self, release: Release, function: str) -> None:
        release.write("app.py", CLIENT + function + "    return client\n")
        assert release.imported("--app=app:create")["kind"] == "Client"

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ("async def create():\n    1 / 0\n", "raised when called: ZeroDivisionError: division by zero (app.py:2)"),
            ("def create():\n    1 / 0\n", "raised when called: ZeroDivisionError: division by zero (app.py:2)"),
            ("async def create():\n    return 3\n", "is an int, not a discord.py client"),
            ("create = 3\n", "is an int, not a discord.py client"),
            (
                "import nosuch\ncreate = 3\n",
                "cannot be imported: ModuleNotFoundError: No module named 'nosuch' (app.py:1)",
            ),
        ],
    )
    def test_an_app_that_cannot_be_had_is_told_with_the_line(self, release: Release, source: str, said: str) -> None:
        release.write("app.py", source)
        assert said in release.imported("--app=app:create")["problem"]

    @pytest.mark.parametrize(
        ("source", "said"),
        [
            ("import os\n\nimport x_nosuch\n", "ModuleNotFoundError: No module named 'x_nosuch' (main.py:3)"),
            ("import helper\n", "ValueError: no card file (helper.py:2)"),
            ("import broken\n", "SyntaxError: invalid syntax (broken.py, line 1)"),
            ("import sys\nsys.exit('usage: main')\n", "SystemExit: usage: main (main.py:2)"),
            ("import sys\nprint('noise', file=sys.stderr)\n1 / 0", "ZeroDivisionError: division by zero (main.py:3)"),
        ],
    )
    def test_the_exception_of_a_failed_import_is_quoted_with_its_line(
        self, release: Release, source: str, said: str
    ) -> None:
        release.write("helper.py", "\nraise ValueError('no card file\\nat all')\n")
        release.write("broken.py", "x = = 1")
        release.write("main.py", source)
        assert release.imported("--program=main.py")["problem"] == f"main.py: {said}"

    @pytest.mark.parametrize(
        "start",
        [
            "client.run('token')",
            "import asyncio\nasyncio.run(client.start('token'))",
            "import asyncio\nasync def go():\n    async with client:\n        await client.start('t')\n"
            "asyncio.run(go())",
            "try:\n    client.run('token')\nexcept Exception:\n    while True: ...",
        ],
    )
    @pytest.mark.parametrize("program", ["main.py", "-m main"])
    def test_a_program_without_a_guard_gets_as_far_as_its_login(
        self, release: Release, start: str, program: str
    ) -> None:
        source = CLIENT.replace("client =", "def make(): return ") + f"client = make()\n{start}\nopen('after', 'w')\n"
        release.write("main.py", source)
        answer = release.imported(f"--program={program}")
        assert (answer["kind"], answer["intents"], answer["problem"]) == ("Client", 0, "")
        assert not (release.directory / "after").exists()

    def test_a_program_that_goes_on_after_its_login_was_refused_is_ended(self, release: Release) -> None:
        forever = "try:\n    client.run('token')\nfinally:\n    import time\n    time.sleep(600)\n"
        release.write("main.py", CLIENT + forever)
        assert release.imported("--program=main.py")["kind"] == "Client"

    def test_threads_and_exit_handlers_do_not_keep_it(self, release: Release) -> None:
        release.write(
            "main.py", CLIENT + "import threading, time\nthreading.Thread(target=time.sleep, args=[600]).start()\n"
        )
        assert release.imported("--program=main.py")["kind"] == "Client"

    def test_a_main_guard_is_not_entered(self, release: Release) -> None:
        release.write("main.py", "if __name__ == '__main__':\n    1 / 0\nassert __name__ == '__mp_main__'\n")
        answer = release.imported("--program=main.py")
        assert (answer["problem"], answer["kind"]) == ("", "")
        assert answer["note"] == "no client was made while it was imported, so class and intents are not known"

    @pytest.mark.parametrize(
        ("path", "program", "argv", "first"),
        [
            ("src/main.py", "src/main.py", "src/main.py", "src"),
            ("mybot/__main__.py", "-m mybot", "{0}/mybot/__main__.py", "."),
            ("mybot.py", "-m mybot", "{0}/mybot.py", "."),
        ],
    )
    def test_it_finds_arguments_import_path_and_directory_as_in_a_run(
        self, release: Release, path: str, program: str, argv: str, first: str
    ) -> None:
        source = "import os, sys, json, __main__\nassert __main__ is sys.modules['__mp_main__']\n"
        tell = "json.dump([sys.argv, sys.path[0], os.getcwd(), __file__], open('seen', 'w'))\n"
        release.write(path, source + tell)
        assert release.imported(f"--program={program}", "--", "--debug", "x y")["problem"] == ""
        here = str(release.directory)
        seen = json.loads((release.directory / "seen").read_text())
        folder = str((release.directory / first).resolve())
        assert seen == [[argv.format(here), "--debug", "x y"], folder, here, f"{here}/{path}"]

    def test_of_several_clients_none_is_guessed(self, release: Release) -> None:
        release.write("main.py", CLIENT + "other = discord.AutoShardedClient(intents=client.intents)\n")
        answer = release.imported("--program=main.py")
        assert (answer["kind"], answer["intents"]) == ("", None)
        assert answer["note"] == "has 2 clients (Client, AutoShardedClient), so the intents are not known"

    @pytest.mark.parametrize("asked", ["--app=main:client", "--program=main.py"])
    def test_a_program_that_needs_its_token_is_imported_as_far_as_that(self, release: Release, asked: str) -> None:
        release.write("main.py", "import os\ntoken = os.environ['DISCORD_TOKEN']\n" + CLIENT)
        answer = release.imported(asked)
        assert (answer["problem"], answer["kind"]) == ("", "")
        assert answer["note"] == (
            "asks for DISCORD_TOKEN, which a check does not give, so the rest is not known: "
            "KeyError: 'DISCORD_TOKEN' (main.py:2)"
        )

    @pytest.mark.parametrize(
        "source",
        [
            CLIENT + "import os\nclient.run(os.environ['DISCORD_TOKEN'])\n",
            "import asyncio, discord, os\nasync def main():\n"
            "    async with discord.Client(intents=discord.Intents.none()) as bot:\n"
            "        await bot.start(os.environ['DISCORD_TOKEN'])\nasyncio.run(main())\n",
        ],
    )
    def test_a_client_that_was_made_before_the_token_is_asked_for_is_known(self, release: Release, source: str) -> None:
        release.write("main.py", source)
        answer = release.imported("--program=main.py")
        assert (answer["problem"], answer["kind"], answer["intents"]) == ("", "Client", 0)

    def test_what_is_printed_is_not_taken_for_the_answer(self, release: Release) -> None:
        release.write("main.py", CLIENT + "import os\nprint('loading ...', flush=True)\nos.write(1, b'more')\n")
        done = release.run("--import", "--program=main.py")
        assert json.loads(done.stdout)["kind"] == "Client"
        assert "loading ...\nmore" in done.stderr
