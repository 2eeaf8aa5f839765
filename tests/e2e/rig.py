"""A whole installation for one test: a sandbox in this process, a supervisor and its bots in processes of their own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bastion.sandbox import Entry, Sandbox, SandboxSettings

APPS = Path(__file__).resolve().parent.parent / "apps"
ALL_KINDS = {
    "command_message": 2.0,
    "slash": 2.0,
    "autocomplete": 1.0,
    "button": 1.0,
    "select": 0.5,
    "modal": 0.5,
    "message": 2.0,
    "reaction_add": 1.0,
    "toggle": 1.0,
    "edit": 1.0,
    "delete": 0.5,
    "typing": 1.0,
    "member_join": 0.3,
    "member_leave": 0.3,
    "member_update": 0.3,
    "guild_join": 0.04,
    "guild_leave": 0.04,
}


EXPECTED = (
    *("message", "slash", "autocomplete", "button", "select", "modal", "reaction_add", "reaction_remove", "edit"),
    *("delete", "typing", "member_join", "member_leave", "member_update", "guild_join", "guild_leave"),
    *("voice_join", "voice_mute", "voice_leave", "thread_create", "thread_update", "thread_delete"),
)


def expectation() -> Callable[[Entry], bool]:
    """Say what an unmodified bot can hear: all kinds, but no update of members of a guild joined meanwhile.

    discord.py asks for the members of such a guild and, if the guild is left before the answer, never asks again: with
    a supervisor or without, it then does not know whose update it got.
    """
    joined: set[int | None] = set()

    def expected(entry: Entry) -> bool:
        if entry.kind == "guild_join":
            joined.add(entry.guild_id)
        if entry.kind == "member_update" and entry.guild_id in joined:
            return False
        return entry.kind in EXPECTED

    return expected


@dataclass(frozen=True)
class Ended:
    """A command line that has ended."""

    code: int
    out: str
    err: str


@dataclass
class Rig:
    """Handles to what runs."""

    sandbox: Sandbox
    directory: Path
    environ: dict[str, str]
    options: dict[str, Any]
    expected: Callable[[Entry], bool]
    process: asyncio.subprocess.Process | None = None
    log: list[str] = field(default_factory=list)
    log_at: list[float] = field(default_factory=list)
    """When each line of the log was read, in monotonic seconds."""
    hurt: dict[int, float] = field(default_factory=dict)
    """When a test has killed or stopped a generation, in monotonic seconds."""
    cwd: Path | None = None
    """Where the supervisor is started; None: where the tests are."""
    python: str = sys.executable
    user: int | None = None
    """As whom supervisor and commands run; None: as the tests do. One number for user and group."""
    prefix: tuple[str, ...] = ()
    """What the supervisor's command line begins with."""
    untold: set[str] = field(default_factory=set)
    """Keys of updates that a successor could not tell, and has counted as missed."""
    _reading: asyncio.Task[None] | None = None
    _grew: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def config(self) -> Path:
        return self.directory / "bastion.toml"

    def configure(self, **changes: Any) -> None:
        """Write bastion.toml; keys are ``section__key``."""
        self.options.update(changes)
        sections: dict[str, list[str]] = {}
        for name, value in self.options.items():
            section, key = name.split("__")
            sections.setdefault(section, []).append(f"{key} = {json.dumps(value)}")
        text = "\n".join(f"[{section}]\n" + "\n".join(lines) for section, lines in sections.items())
        self.config.write_text(text + "\n")

    async def health(self, path: str) -> tuple[int, str]:
        """Ask the health address, which must be ``health.sock``. Returns HTTP status and body."""
        reader, writer = await asyncio.open_unix_connection(self.directory / "health.sock")
        writer.write(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        return int(head.split()[1]), body

    async def start(self, *words: str, serving: bool = True, output: int = asyncio.subprocess.PIPE) -> None:
        """Start the supervisor. ``output`` is where both its streams go, for a reader other than this one."""
        self.process = await asyncio.create_subprocess_exec(
            *(*self.prefix, self.python, "-m", "bastion.supervisor", "run", "--config", str(self.config), *words),
            cwd=self.cwd,
            env=self.environ,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            limit=2**20,
            **self._identity(),
        )
        if output == asyncio.subprocess.PIPE:
            self._reading = asyncio.ensure_future(self._read(self.process))
        if serving:
            await self.until(lambda status: status["supervisor"]["state"] == "serving" and active(status) is not None)

    def _identity(self) -> dict[str, Any]:
        return {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.log.append(line.decode(errors="replace").rstrip())
            self.log_at.append(time.monotonic())
            self._grew.set()

    async def logged(self, text: str, *, timeout: float = 20) -> str:
        """Wait for a line of the supervisor's log."""
        try:
            async with asyncio.timeout(timeout):
                while True:
                    for line in self.log:
                        if text in line:
                            return line
                    self._grew.clear()
                    await self._grew.wait()
        except TimeoutError:
            raise AssertionError(f"not logged within {timeout:g} s: {text}\n{self.tail()}") from None

    async def command(self, *words: str) -> Ended:
        process = await asyncio.create_subprocess_exec(
            *(self.python, "-m", "bastion.supervisor", words[0], "--config", str(self.config), *words[1:]),
            env=self.environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            **self._identity(),
        )
        try:
            out, err = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.communicate()
            raise
        assert process.returncode is not None
        return Ended(process.returncode, out.decode(), err.decode())

    async def reload(self) -> dict[str, Any]:
        ended = await self.command("reload", "--json")
        assert ended.out, f"reload said nothing: {ended.code} {ended.err}\n{self.tail()}"
        outcome: dict[str, Any] = json.loads(ended.out)
        assert (ended.code == 0) == (outcome["result"] == "succeeded")
        return outcome

    async def status(self) -> dict[str, Any]:
        ended = await self.command("status", "--json")
        assert ended.code == 0, f"{ended}\n{self.tail()}"
        status: dict[str, Any] = json.loads(ended.out)
        return status

    async def until(self, holds: Callable[[dict[str, Any]], bool], *, timeout: float = 40) -> dict[str, Any]:
        """Ask for the status until something holds; there is no event to wait for outside of the supervisor."""
        newest = "no status"
        try:
            async with asyncio.timeout(timeout):
                while True:
                    assert self.process is not None
                    if self.process.returncode is not None:
                        raise AssertionError(f"the supervisor ended with {self.process.returncode}\n{self.tail()}")
                    ended = await self.command("status", "--json")
                    newest = ended.out
                    if ended.code == 0 and holds(status := json.loads(ended.out)):
                        return dict(status)
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"not within {timeout} s\n{newest}\n{self.tail()}") from None

    def hup(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    async def stop(self) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.stopped()

    async def stopped(self, *, timeout: float = 30) -> int:
        """Wait until the supervisor has exited and its log has been read; return its exit code."""
        assert self.process is not None
        async with asyncio.timeout(timeout):
            code = await self.process.wait()
            if self._reading is not None:
                await self._reading
        return code

    async def destroy(self) -> None:
        """End everything that a failed test left."""
        if self.process is None:
            return
        if self.process.returncode is None:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):  # it is ending by itself
                for process in psutil.Process(self.process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
                self.process.kill()
        await self.process.wait()
        if self._reading is not None:
            await self._reading

    def processes(self) -> list[psutil.Process]:
        """Every living process of this installation: supervisor, command lines, bots."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):  # gone, or about to be
                ours = {str(self.config), self.sandbox.api_url}.intersection(process.cmdline())
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def release(self, module: str, source: str) -> Path:
        """Write a release of one module and return its directory; what the test apps share can be imported there."""
        directory = self.directory / "release"
        directory.mkdir(exist_ok=True)
        (directory / f"{module}.py").write_text(source)
        self.environ["PYTHONPATH"] = str(APPS)
        return directory

    def tail(self, count: int = 60) -> str:
        return "\n".join(self.log[-count:])


def active(status: dict[str, Any]) -> dict[str, Any] | None:
    """The active child of a status."""
    return next((child for child in status["children"] if child["role"] == "active"), None)


@asynccontextmanager
async def rig(
    directory: Path,
    *,
    app: str = "",
    settings: SandboxSettings | None = None,
    handler_ms: str = "0-300",
    **options: Any,
) -> AsyncIterator[Rig]:
    """Start a sandbox and prepare, but do not start, a supervisor for ``app``, or for what its start will name."""
    async with Sandbox(settings or SandboxSettings(max_concurrency=16)) as sandbox:
        sandbox.traffic.options.slash = ("ping", "slow", "fruit", "lasting", "form")
        expected = expectation()
        sandbox.journal.expect(expected)
        environ = {
            key: value for key, value in os.environ.items() if not key.startswith(("BASTION_", "DISCORD_", "NOTIFY_"))
        }
        environ |= {
            "DISCORD_API_URL": sandbox.api_url,
            "DISCORD_TOKEN": sandbox.token,
            "PROBE_HANDLER_MS": handler_ms,
            "PYTHONPATH": "",
        }
        made = Rig(sandbox, directory, environ, {}, expected)
        made.configure(
            **{
                **({"bot__app": app} if app else {}),
                "bot__directory": str(APPS),
                "control__socket": str(directory / "s.sock"),
                "handoff__linger": 0,
                "handoff__probation": 0,
                "health__listen": "",
            }
            | options
        )
        try:
            yield made
        finally:
            await made.destroy()
