"""An installation for one program of tests/apps/programs, with the reloads and checks that all tests of programs share.

A test may break the release, so the installation runs a copy of the program. Processes of the program are found by
their environment: the variable MARKS is the test's own, and every descendant of the program inherits the variable.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from layouts import KEPT, PROGRAMS, Program
from rig import Rig, active, rig

from bastion.sandbox import SandboxSettings

WINDOW = 0.25
"""Seconds of the sandbox's IDENTIFY window in tests; Discord's is 5."""
READY_SOON = ", guild_ready_timeout=0.3)"
"""discord.py waits 2 s for guilds unless told otherwise; the copies that tests run are told otherwise."""
BROKEN = 'raise RuntimeError("this release is broken")\n'


@dataclass(frozen=True)
class Installed:
    """The installation, and the program in it."""

    rig: Rig
    program: Program
    release: Path
    marks: Path

    @property
    def main(self) -> Path:
        """The file that is executed."""
        return self.release / self.program.source

    async def start(self) -> None:
        """Start by nothing but `supervisor run PROGRAM`; return when the bot serves and has registered its commands."""
        await self.rig.start(*self.program.words)
        await self.rig.sandbox.journal.until(lambda: set(self.commands()) == self._expected())

    def _expected(self) -> set[str]:
        return set(self.program.commands) or {str(KEPT["name"])}

    def commands(self) -> dict[str, str]:
        """Names and ids of the commands that are registered."""
        world = self.rig.sandbox.world
        scope = next(iter(world.guilds)) if self.program.of_guild else None
        return {command["name"]: command["id"] for command in world.commands.get(scope, {}).values()}

    def traffic(self, rate: float) -> None:
        self.rig.sandbox.traffic.start(rate=rate, mix=self.program.traffic())

    async def generation(self) -> int:
        """The number of the bot that serves."""
        serving = active(await self.rig.status())
        assert serving is not None
        return int(serving["generation"])

    def marked(self, what: str) -> Counter[int]:
        """Count the marks of a kind, by generation."""
        lines = self.marks.read_text().splitlines() if self.marks.exists() else []
        return Counter(int(words[-1]) for line in lines if (words := line.split())[0] == what)

    def bots(self) -> list[psutil.Process]:
        """Every living process of the program: the bot, and whatever the bot has started."""
        return [process for process in psutil.process_iter() if self._is_bot(process)]

    def _is_bot(self, process: psutil.Process) -> bool:
        with suppress(psutil.Error):  # gone, or about to be
            ours = process.environ().get("MARKS") == str(self.marks)
            return ours and "bastion.supervisor" not in process.cmdline() and alive(process)
        return False


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def gone(processes: list[psutil.Process], *, seconds: float = 3) -> None:
    """Wait until all these processes have ended."""
    end = time.monotonic() + seconds
    while left := [process for process in processes if alive(process)]:
        assert time.monotonic() < end, f"left behind: {[(one.pid, one.cmdline()) for one in left if alive(one)]}"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def installed(
    directory: Path, program: Program, *, python: str = "", token: str = "sandbox-token", **options: Any
) -> AsyncIterator[Installed]:
    """Copy a program and prepare a supervisor. ``python``: the interpreter of the release; empty: the tests' own.

    ``token`` is the bot's.
    """
    release = copied(program, directory / "release")
    settings = SandboxSettings(
        max_concurrency=16,
        identify_window=WINDOW,
        identifies_per_day=100_000,
        guilds=2 if program.of_guild else 8,
        token=token,
    )
    told: dict[str, Any] = {
        "bot__directory": str(release),
        "bot__args": list(program.args),
        "bot__python": python,
        "discord__identify_window": WINDOW,
    } | options
    async with rig(directory, settings=settings, **told) as installation:
        it = Installed(installation, program, release, directory / "marks")
        prepare(it)
        try:
            yield it
        finally:
            for process in it.bots():  # a failed test must not leave bots to the next test
                with suppress(psutil.NoSuchProcess):
                    process.kill()


def copied(program: Program, release: Path) -> Path:
    """Copy a program to a release that a test may change."""
    shutil.copytree(program.directory, release, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for source in release.rglob("*.py"):
        source.write_text(source.read_text().replace("intents=intents)", f"intents=intents{READY_SOON}"))
    return release


def prepare(it: Installed) -> None:
    """Prepare the sandbox's traffic and the program's environment."""
    sandbox, environ = it.rig.sandbox, it.rig.environ
    sandbox.journal.expect(it.program.kinds())
    sandbox.traffic.options.commands = it.program.says or ("hello there",)
    sandbox.traffic.options.slash = it.program.commands
    if not it.program.commands:
        sandbox.world.put_commands(None, [KEPT])
    it.rig.cwd = it.release
    environ["PYTHONPATH"] = str(PROGRAMS / "common")
    environ["MARKS"] = str(it.marks)
    environ["GUILD"] = str(next(iter(sandbox.world.guilds)))
    environ["CHANNEL"] = str(next(iter(sandbox.world.channels)))
    environ["PORT"] = str(free_port())
    if it.program.own_token:
        del environ["DISCORD_TOKEN"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def reload_by_command(it: Installed) -> None:
    outcome = await it.rig.reload()
    assert outcome["result"] == "succeeded", f"{outcome}\n{it.rig.tail()}"
    assert outcome["handoff"]["cut"] == []


async def reload_by_hup(it: Installed) -> None:
    before = await it.generation()
    it.rig.hup()
    await it.rig.until(
        lambda status: (
            status["supervisor"]["state"] == "serving"
            and (serving := active(status)) is not None
            and serving["generation"] > before
        )
    )


@contextmanager
def another_release(it: Installed, program: Program | None = None) -> Iterator[Path]:
    """Let the settings name another release for a while: a second copy of the program, or another program."""
    release = it.rig.directory / "another"
    shutil.rmtree(release, ignore_errors=True)
    before = dict(it.rig.options)
    it.rig.configure(bot__directory=str(copied(program or it.program, release)))
    yield release
    it.rig.options = before
    it.rig.configure()


async def reload_of_a_broken_release(it: Installed) -> None:
    """The reload fails and quotes the program's exception; the old bot goes on serving."""
    before = await it.generation()
    with another_release(it) as release:
        (release / it.program.source).write_text(BROKEN)
        ended = await it.rig.command("reload")
    assert ended.code == 1, f"{ended}\n{it.rig.tail()}"
    assert "RuntimeError: this release is broken" in ended.err
    assert ended.err.endswith(f" Generation {before} goes on serving.\n")
    assert await it.generation() == before


async def assert_exact(it: Installed, *, at_least: int) -> None:
    """Stop the traffic, when there was ``at_least`` so much, and assert that no event was lost or doubled."""
    journal = it.rig.sandbox.journal
    await journal.until(lambda: journal.verdict().emitted >= at_least, timeout=30)
    await it.rig.sandbox.traffic.stop()
    verdict = await it.rig.sandbox.settled(timeout=15, quiet=3)
    assert verdict.clean, f"{verdict}\n{it.rig.tail()}"
    assert verdict.emitted >= at_least, verdict
    assert not it.rig.sandbox.gateway.violations


async def stopped(it: Installed) -> None:
    """Stop the supervisor by SIGTERM; assert exit code 0 and that no process of the program is left."""
    assert await it.rig.stop() == 0, it.rig.tail()
    await gone(it.bots())
