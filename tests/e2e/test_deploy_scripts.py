"""The deploy scripts that ship, with a real supervisor, under traffic: a good release takes over, a broken one changes
nothing, and nothing is lost or doubled meanwhile."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from rig import ALL_KINDS, Ended, Rig, active, rig
from test_handoff import verdict

from bastion.sandbox import SandboxSettings

pytestmark = pytest.mark.anyio

SCRIPTS = Path(__file__).resolve().parents[2] / "examples" / "deploy"
WINDOW = 0.25
GOOD = "from sharded_bot import ShardedBot\nclient = ShardedBot(guild_ready_timeout=0.5)\n# {}\n"
BROKEN = "import no_such_module\n"
Deploy = Callable[["Server", str], "list[str]"]


class Server:
    """A machine with a bot that was deployed once."""

    def __init__(self, it: Rig) -> None:
        self.it = it
        self.root = it.directory / "srv"
        self.source = it.directory / "source"
        self.source.mkdir()
        (self.root / "releases" / "first").mkdir(parents=True)
        (self.root / "releases" / "first" / "app.py").write_text(GOOD.format("first"))
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
            *("sh", str(SCRIPTS / script), *words),
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
        judged = await verdict(self.it)
        assert judged.clean, f"{judged}\n{self.it.tail()}"
        assert judged.emitted > 50


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
async def server(directory: Path, **options: object) -> AsyncIterator[Server]:
    settings = SandboxSettings(
        max_concurrency=16, identify_window=WINDOW, member_request_window=0.0, identifies_per_day=100_000
    )
    options = {"discord__identify_window": WINDOW, "handoff__settle": 0.2, "handoff__drain_timeout": 3} | options
    async with rig(directory, app="app:client", settings=settings, **options) as it:
        made = Server(it)
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
async def test_old_releases_are_removed_but_for_the_last_and_the_current(tmp_path: Path) -> None:
    async with server(tmp_path) as it:
        for number in range(3):
            ended = await it.run(*from_ci(it, GOOD.format(number)))
            assert ended.code == 0, ended
        left = {path.name for path in (it.root / "releases").iterdir()}
        assert len(left) == 2
        assert it.current.name in left
        assert (await it.it.command("rollback")).code == 0


@pytest.mark.wide
@pytest.mark.timeout(600)
async def test_by_pip_a_release_is_an_environment_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    async with server(tmp_path) as it:
        server_environ = {key: value for key, value in os.environ.items() if key.startswith(("PIP_", "SSL_"))}
        it.environ.update(server_environ)
        (it.source / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"\n'
            '[project]\nname = "mybot"\nversion = "2"\n[tool.setuptools]\npy-modules = ["app"]\n'
        )
        it.write(GOOD.format("packaged"))
        it.it.sandbox.traffic.start(rate=40, mix=ALL_KINDS)
        ended = await it.run("pip.sh", str(SCRIPTS.parents[1]), str(it.source))
        assert ended.code == 0, ended
        assert await it.serves() == str(it.current)
        status = await it.it.status()
        assert (it.current / ".venv").is_dir()
        assert status["children"][0]["generation"] == 2

        good = it.current
        it.write(BROKEN)
        ended = await it.run("pip.sh", str(SCRIPTS.parents[1]), str(it.source))
        assert ended.code == 1, ended
        assert "No module named 'no_such_module'" in ended.err
        assert (it.current, await it.serves()) == (good, str(good))
        await it.assert_clean()
