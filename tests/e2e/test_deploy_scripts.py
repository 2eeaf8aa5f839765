"""The deploy scripts that ship, with a real supervisor, under traffic: a good release takes over, a broken one changes
nothing, and nothing is lost or doubled meanwhile, in the bot's database neither. What needs no supervisor is in
test_deploy_data."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from ordeal import at_rest
from rig import ALL_KINDS, Ended, Rig, active, rig
from test_handoff import verdict

from bastion.sandbox import SandboxSettings

pytestmark = pytest.mark.anyio

SCRIPTS = Path(__file__).resolve().parents[2] / "examples" / "deploy"
WINDOW = 0.25
GOOD = "from sharded_bot import ShardedBot\nclient = ShardedBot(guild_ready_timeout=0.5)\n# {}\n"
BROKEN = "import no_such_module\n"
COUNTING = """
import sqlite3
from sharded_bot import ShardedBot

rows = sqlite3.connect("bot.db", isolation_level=None, timeout=30)
rows.execute("PRAGMA journal_mode=wal")
rows.execute("CREATE TABLE IF NOT EXISTS handled (kind TEXT, key TEXT)")


class Counting(ShardedBot):
    async def handled(self, kind, key):
        rows.execute("INSERT INTO handled VALUES (?, ?)", (kind, str(key)))
        await super().handled(kind, key)


client = Counting(guild_ready_timeout=0.5)
# {}
"""
Deploy = Callable[["Server", str], "list[str]"]


class Server:
    """A machine with a bot that was deployed once, by hand."""

    def __init__(self, it: Rig, first: str) -> None:
        self.it = it
        self.root = it.directory / "srv"
        self.source = it.directory / "source"
        self.source.mkdir()
        (self.root / "releases" / "first").mkdir(parents=True)
        (self.root / "releases" / "first" / "app.py").write_text(first)
        (self.root / "current").symlink_to("releases/first")
        wrapper = it.directory / "supervisor"
        wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m bastion.supervisor "$@"\n')
        wrapper.chmod(0o755)
        self.environ = it.environ | {
            "BASTION_ROOT": str(self.root),
            "BASTION_CONFIG": str(it.config),
            "SUPERVISOR": str(wrapper),
            "PYTHON": sys.executable,
            "KEEP": "2",
            "GIT_CONFIG_GLOBAL": "/dev/null",
        }

    @property
    def current(self) -> Path:
        return (self.root / "current").resolve()

    def write(self, text: str) -> None:
        (self.source / "app.py").write_text(text)

    async def run(self, script: str, *words: str) -> Ended:
        process = await asyncio.create_subprocess_exec(
            *(str(SCRIPTS / script), *words),
            env=self.environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate()
        return Ended(process.returncode or 0, out.decode(), err.decode())

    async def serves(self) -> str:
        status = await self.it.until(lambda status: len(status["children"]) == 1 and active(status) is not None)
        return str(status["children"][0]["release"])

    async def assert_clean(self) -> None:
        judged = await verdict(self.it, at_least=51)
        assert judged.clean, f"{judged}\n{self.it.tail()}"
        assert judged.emitted > 50


def follow(refused: Ended) -> None:
    """Run the commands that a deploy names which was stopped."""
    commands = "\n".join(line for line in refused.err.splitlines() if line.startswith("    "))
    subprocess.run(["bash", "-euc", commands], check=True)


def by_git(server: Server, text: str) -> list[str]:
    def git(*words: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *identity, *words], cwd=server.source, check=True, capture_output=True)

    if not (server.source / ".git").exists():
        git("init", "--initial-branch=main")
        git("clone", "--quiet", str(server.source), str(server.root / "repository"))
    server.write(text)
    git("add", ".")
    git("commit", "--quiet", "--message", "a release")
    return ["git.sh"]


def by_rsync(server: Server, text: str) -> list[str]:
    server.write(text)
    return ["rsync.sh", str(server.source)]


def from_ci(server: Server, text: str) -> list[str]:
    server.write(text)
    archive = server.it.directory / "mybot.tar.gz"
    subprocess.run(["tar", "-czf", str(archive), "-C", str(server.source), "."], check=True)
    return ["ci.sh", str(archive)]


@asynccontextmanager
async def server(directory: Path, first: str = GOOD.format("first"), **options: object) -> AsyncIterator[Server]:
    settings = SandboxSettings(
        max_concurrency=16, identify_window=WINDOW, member_request_window=0.0, identifies_per_day=100_000
    )
    options = {"discord__identify_window": WINDOW, "handoff__drain_timeout": 3} | options
    async with rig(directory, app="app:client", settings=settings, **options) as it:
        made = Server(it, first)
        it.environ["PYTHONPATH"] = made.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent / "apps")
        it.configure(bot__directory=str(made.root / "current"))
        await it.start()
        yield made


@pytest.mark.parametrize(
    ("deploy", "needs"),
    [
        (by_git, "git"),
        pytest.param(by_rsync, "rsync", marks=pytest.mark.wide),
        pytest.param(from_ci, "tar", marks=pytest.mark.wide),
    ],
)
async def test_a_good_release_takes_over_and_a_broken_one_changes_nothing(
    tmp_path: Path, deploy: Deploy, needs: str
) -> None:
    if shutil.which(needs) is None:
        pytest.skip(f"{needs} is not installed here")
    async with server(tmp_path) as it:
        it.it.sandbox.traffic.start(rate=40, mix=ALL_KINDS)
        ended = await it.run(*deploy(it, GOOD.format("second")))
        assert ended.code == 0, ended
        good = it.current
        assert good.name != "first"
        assert await it.serves() == str(good)

        ended = await it.run(*deploy(it, BROKEN))
        assert ended.code == 1, ended
        assert "No module named 'no_such_module'" in ended.err
        assert (it.current, await it.serves()) == (good, str(good))

        assert (await it.it.command("rollback")).code == 0
        assert await it.serves() == str(it.root / "releases" / "first")
        await it.assert_clean()


@pytest.mark.wide
async def test_old_releases_are_removed_and_broken_ones_before_the_one_that_served_last(tmp_path: Path) -> None:
    async with server(tmp_path) as it:
        for text in (GOOD.format(1), GOOD.format(2), BROKEN, BROKEN + "# again\n"):
            await it.run(*from_ci(it, text))
            await at_rest(it.it)  # the release of a bot that is still ending is in use, and stays
        before = it.current
        ended = await it.run(*from_ci(it, GOOD.format(3)))
        assert ended.code == 0, ended
        assert {path.name for path in (it.root / "releases").iterdir()} == {before.name, it.current.name}
        assert before.name != it.current.name
        assert (await it.it.command("rollback")).code == 0
        assert await it.serves() == str(before)


async def test_a_deploy_that_would_lose_a_database_stops_before_the_switch(tmp_path: Path) -> None:
    async with server(tmp_path, first=COUNTING.format("first")) as it:
        before = it.current
        ended = await it.run(*by_git(it, COUNTING.format("second")))
        assert ended.code == 1, ended
        assert "bot.db" in ended.err
        assert f"mv -iT {before}/bot.db {it.root}/shared/bot.db" in ended.err
        assert "SHARED='bot.db'" in ended.err
        assert (it.current, await it.serves()) == (before, str(before))
        assert [path.name for path in (it.root / "releases").iterdir()] == ["first"]
        assert (before / "bot.db").stat().st_size > 0


@pytest.mark.wide
async def test_five_deploys_keep_all_rows_of_a_shared_database(tmp_path: Path) -> None:
    async with server(tmp_path, first=COUNTING.format("first")) as it:
        refused = await it.run(*by_git(it, COUNTING.format("refused")))
        assert await it.it.stop() == 0
        follow(refused)
        (it.root / "deploy.conf").write_text("SHARED='.env bot.db'\n")
        (it.root / "shared" / ".env").write_text("PREFIX=!\n")
        ended = await it.run(*by_git(it, COUNTING.format("shared")))
        assert ended.code == 0, ended
        await it.it.start()

        it.it.sandbox.traffic.start(rate=40, mix={"message": 1.0})
        for number in range(5):
            ended = await it.run(*by_git(it, COUNTING.format(number)))
            assert ended.code == 0, ended
            await it.serves()
        judged = await verdict(it.it, at_least=51)
        assert judged.clean, f"{judged}\n{it.it.tail()}"

        with sqlite3.connect(it.root / "shared" / "bot.db") as connection:
            ((rows,),) = connection.execute("SELECT count(DISTINCT key) FROM handled WHERE kind = 'message'")
        connection.close()
        assert rows == judged.emitted > 50
        assert len(list((it.root / "releases").iterdir())) == 2
        assert (it.current / ".env").read_text() == "PREFIX=!\n"


@pytest.mark.wide
@pytest.mark.timeout(600)
async def test_by_pip_a_release_is_an_environment_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    async with server(tmp_path) as it:
        it.environ["BASTION_DISPOSABLE"] = "app.py"  # of the first release, which has no list of what it brought
        it.environ["BASTION_PACKAGE"] = str(SCRIPTS.parents[1])
        (it.source / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n'
            '[project]\nname = "mybot"\nversion = "2"\n[tool.setuptools]\npy-modules = ["app"]\n'
        )
        it.write(GOOD.format("packaged"))
        it.it.sandbox.traffic.start(rate=40, mix=ALL_KINDS)
        ended = await it.run("pip.sh", str(it.source))
        assert ended.code == 0, ended
        assert await it.serves() == str(it.current)
        status = await it.it.status()
        assert (it.current / ".venv").is_dir()
        assert status["children"][0]["generation"] == 2

        good = it.current
        it.write(BROKEN)
        ended = await it.run("pip.sh", str(it.source))
        assert ended.code == 1, ended
        assert "No module named 'no_such_module'" in ended.err
        assert (it.current, await it.serves()) == (good, str(good))
        await it.assert_clean()
