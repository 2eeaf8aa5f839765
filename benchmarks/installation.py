"""What a benchmark measures: a sandbox in this process, and bots in processes of their own.

`Supervised` is a supervisor with the benchmarks' bot; `Alone` the same bot by itself. This process does nothing else
while traffic flows than be Discord, so that it takes no more of the cores than Discord's side must.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bastion.sandbox import Sandbox, SandboxSettings
from bastion.supervisor.control_client import NoSupervisorError, RefusedError, fetch_status
from benchmarks.processes import family
from benchmarks.report import BenchmarkError

BOTS = Path(__file__).resolve().parent / "bots"
START_TIMEOUT = 90.0
"""Seconds for a bot to be ready on a busy machine; more where the settings make it wait for IDENTIFYs."""

MIX: Mapping[str, float] = {"message": 5, "reaction_add": 2, "edit": 1, "delete": 1, "typing": 1, "member_update": 0.2}
"""What the bot handles and reports itself: no REST calls, which would be most of the work at thousands a second."""

REPORTED = ("message", "reaction_add", "reaction_remove", "edit", "delete", "typing", "member_update", "slash")


def sandbox_settings(*, shards: int, **changes: Any) -> SandboxSettings:
    """Return settings of a Discord without limits that would measure Discord: change what a benchmark is about."""
    values: dict[str, Any] = {
        "recommended_shards": shards,
        "max_concurrency": 16,
        "identify_window": 0.25,
        "identifies_per_day": 1_000_000,
        "member_request_window": 0.0,
        "guilds": max(8, shards),
        "skew": (0.0, 0.0),
    }
    return SandboxSettings(**(values | changes))


@asynccontextmanager
async def discord(settings: SandboxSettings) -> AsyncIterator[Sandbox]:
    """Run a sandbox that expects what the bot reports."""
    async with Sandbox(settings) as sandbox:
        sandbox.journal.expect(REPORTED)
        yield sandbox


def environment_of_this() -> dict[str, str]:
    """Return this process's environment, without what would tell a bot or a supervisor something."""
    ours = ("BASTION_", "DISCORD_", "NOTIFY_", "BENCH_", "LISTEN_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


def environment(sandbox: Sandbox, **more: str) -> dict[str, str]:
    """Return what every bot finds in its environment."""
    address = {
        "DISCORD_API_URL": sandbox.api_url,
        "DISCORD_TOKEN": sandbox.token,
        "BENCH_GATEWAY_URL": sandbox.gateway_url,
    }
    return environment_of_this() | address | more


@dataclass(slots=True, eq=False)
class Running:
    """A process whose output is read to its end; the last lines are kept."""

    process: asyncio.subprocess.Process
    lines: list[str] = field(default_factory=list)
    _reading: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, *command: str, env: Mapping[str, str], cwd: Path) -> Running:
        """Start it in a session of its own: Ctrl-C is for the benchmark, which ends its processes in order."""
        process = await asyncio.create_subprocess_exec(
            *command,
            env=dict(env),
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_this,
        )
        running = cls(process)
        running._reading = asyncio.ensure_future(running._read())
        return running

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(line.decode(errors="replace").rstrip())
            del self.lines[:-200]

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self.process.pid

    @property
    def tail(self) -> str:
        """Return its last lines."""
        return "\n".join(self.lines[-15:])

    async def end(self, *, within: float = 20.0) -> None:
        """Ask it by SIGTERM, wait, then kill it and all that it started."""
        if self.process.returncode is None:
            others = family(self.pid)[1:]
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
            waiting = asyncio.ensure_future(self.process.wait())
            try:
                await asyncio.wait([waiting], timeout=within)
            finally:
                for pid in [self.pid, *others] if not waiting.done() else []:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                await waiting
        if self._reading is not None:
            self._reading.cancel()


@dataclass(slots=True, eq=False)
class Supervised:
    """A supervisor that serves."""

    running: Running
    config: Path
    socket: Path
    environ: dict[str, str]

    async def status(self) -> dict[str, Any]:
        """Ask it, by its socket. Raises `BenchmarkError` if it does not answer."""
        try:
            return await asyncio.to_thread(fetch_status, self.socket)
        except (NoSupervisorError, RefusedError) as error:
            raise BenchmarkError(f"{error}\n{self.running.tail}") from None

    async def until(self, holds: Callable[[dict[str, Any]], bool], *, timeout: float = START_TIMEOUT) -> dict[str, Any]:
        """Ask for the status until something holds. Raises `BenchmarkError` if it does not in time."""
        deadline = time.monotonic() + timeout
        while True:
            if self.running.process.returncode is not None:
                raise BenchmarkError(f"the supervisor ended\n{self.running.tail}")
            with contextlib.suppress(BenchmarkError):
                status = await self.status()
                if holds(status):
                    return status
            if time.monotonic() > deadline:
                raise BenchmarkError(f"not so within {timeout:g} s\n{self.running.tail}")
            await asyncio.sleep(0.05)

    async def serving(self, *, timeout: float = START_TIMEOUT) -> dict[str, Any]:
        """Wait until a child is active, and is the only one; return it."""

        status = await self.until(_has(["active"]), timeout=timeout)
        child: dict[str, Any] = status["children"][0]
        return child

    async def reload(self) -> dict[str, Any]:
        """Hand over to a new child; return the handoff. Raises `BenchmarkError` unless it succeeded."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bastion.supervisor", "reload", "--json", "--config", str(self.config)),
            env=self.environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            out = (await process.communicate())[0].decode()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            raise BenchmarkError(f"the reload exited with {process.returncode}: {out}\n{self.running.tail}")
        handoff: dict[str, Any] = json.loads(out)["handoff"]
        return handoff


@asynccontextmanager
async def supervised(
    sandbox: Sandbox,
    *,
    app: str = "sharded:make",
    start_timeout: float = START_TIMEOUT,
    start_roles: Sequence[str] = ("active",),
    environ: Mapping[str, str] | None = None,
    **options: Any,
) -> AsyncIterator[Supervised]:
    """Run a supervisor. When the context begins its children have ``start_roles``.

    ``options`` are settings, ``section__key``.
    """
    with tempfile.TemporaryDirectory(prefix="bastion-bench-", dir=_short()) as name:
        directory = Path(name)
        settings: dict[str, Any] = {
            "bot__app": app,
            "bot__directory": str(BOTS),
            "control__socket": str(directory / "s.sock"),
            "handoff__headroom": 1,
            "handoff__probation": 0,
            "handoff__linger": 0,
            "discord__identify_window": sandbox.settings.identify_window,
            "health__listen": f"unix:{directory / 'health.sock'}",
        } | options
        config = directory / "bastion.toml"
        config.write_text(toml(settings), encoding="utf-8")
        environ = environment(sandbox, **(environ or {}))
        running = await Running.start(
            *(sys.executable, "-m", "bastion.supervisor", "run", "--config", str(config)), env=environ, cwd=directory
        )
        made = Supervised(running, config, directory / "s.sock", dict(environ))
        try:
            await made.until(_has(start_roles), timeout=start_timeout)
            yield made
        finally:
            await running.end()


@asynccontextmanager
async def supervised_without_child(sandbox: Sandbox) -> AsyncIterator[Running]:
    """Run a supervisor whose bot ended at once and will not be tried again while anybody looks."""
    waits: dict[str, Any] = {"restart__backoff_first": 600.0, "restart__backoff_max": 600.0}
    async with supervised(sandbox, app="leaves:make", start_roles=(), **waits) as made:
        await made.until(lambda status: any("next start is in" in line for line in made.running.lines))
        yield made.running


def _has(roles: Sequence[str]) -> Callable[[dict[str, Any]], bool]:
    """Whether it serves with children of just these roles; of none: whether it answers at all."""

    def holds(status: dict[str, Any]) -> bool:
        there = sorted(child["role"] for child in status["children"])
        return not roles or (status["supervisor"]["state"] == "serving" and there == sorted(roles))

    return holds


@asynccontextmanager
async def alone(sandbox: Sandbox, *, shards: int, generation: int = 0, **more: str) -> AsyncIterator[Running]:
    """Run the bot by itself; it is ready when the context begins."""
    running = await start_alone(sandbox, shards=shards, generation=generation, **more)
    try:
        await ready(sandbox, running)
        yield running
    finally:
        await running.end()


async def start_alone(sandbox: Sandbox, *, shards: int, generation: int = 0, **more: str) -> Running:
    """Start the bot by itself and do not wait for it."""
    environ = environment(sandbox, BENCH_SHARDS=str(shards), BENCH_GENERATION=str(generation), **more)
    return await Running.start(sys.executable, str(BOTS / "alone.py"), env=environ, cwd=BOTS)


async def ready(sandbox: Sandbox, running: Running, *, timeout: float = START_TIMEOUT) -> float:
    """Wait until a bot's on_ready has run; return when, on the monotonic clock. Raises `BenchmarkError`."""
    key = str(running.pid)
    deadline = time.monotonic() + timeout
    while not (notes := sandbox.journal.handlings("ready", key)):
        if running.process.returncode is not None or time.monotonic() > deadline:
            raise BenchmarkError(f"the bot did not become ready\n{running.tail}")
        await asyncio.sleep(0.02)
    return notes[0].at


def toml(settings: Mapping[str, Any]) -> str:
    """Write ``section__key`` settings as TOML."""
    sections: dict[str, list[str]] = {}
    for name, value in settings.items():
        section, key = name.split("__")
        sections.setdefault(section, []).append(f"{key} = {json.dumps(value)}")
    return "".join(f"[{section}]\n" + "\n".join(lines) + "\n" for section, lines in sections.items())


def _die_with_this() -> None:
    """Ask the kernel for SIGTERM when the benchmark is gone, however it went: nothing may be left running."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _short() -> str | None:
    """A Unix socket's path must be short; some temporary directories are not."""
    return "/tmp" if len(tempfile.gettempdir()) > 60 else None
