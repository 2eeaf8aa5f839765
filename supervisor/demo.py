"""`supervisor demo`: the shipped bot, redeployed three times under load, with the books kept by a local Discord.

Runs the sandbox in this process, the supervisor in one of its own, and reloads through the command line, as an operator
would. Knows the order of the show and how to tell it; what was lost or doubled is the sandbox's verdict.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from bastion.counted import counted
from bastion.supervisor.console import Mark, can_draw, paint, plain, timeline_text
from bastion.supervisor.control_client import NoSupervisorError, RefusedError, fetch_status
from bastion.supervisor.local_sandbox import MIX, SHARDS, speak_to_the_shipped_bot
from bastion.supervisor.location import MAX_SOCKET_PATH
from bastion.supervisor.printable import wants_colour

if TYPE_CHECKING:
    from bastion.sandbox import LatencySummary, Sandbox, Verdict

START_TIMEOUT = 60.0
"""Seconds for the first bot to be active: imports, four IDENTIFYs, the guilds."""
STOP_TIMEOUT = 20.0
"""Seconds for the supervisor to drain and end, before it is told to end at once."""
SETTLE_TIMEOUT = 10.0
"""Seconds for the last answers after the traffic has ended."""
LOOK_EVERY = 0.1
"""Seconds between looks at the status of a supervisor that starts: it tells nobody when its bot is active."""

_GOOD = "from bastion.bot.bastion import create\n\n__all__ = ['create']\n"
_BROKEN = "from bastion.bot.bastion import craete\n\n__all__ = ['craete']\n"
_SETTINGS = """\
[bot]
app = "release:create"
directory = "current"
python = {python}

[handoff]
drain_timeout = 10
probation = 1.5

[control]
socket = {socket}

[health]
listen = ""
"""


class DemoError(Exception):
    """The show cannot go on. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is shown. ``rate`` is in events per second, ``calm`` in seconds: before, between and after the reloads."""

    rate: float = 40.0
    calm: float = 12.0
    releases: tuple[bool, ...] = (True, False, True)
    """The releases that are reloaded to, after the first: whether each is good."""


@dataclass(slots=True, kw_only=True)
class _Reload:
    """One reload as it was seen from outside. Times are monotonic seconds."""

    number: int
    good: bool
    start: float
    end: float = 0.0
    code: int = -1
    last_line: str = ""

    @property
    def as_expected(self) -> bool:
        return self.code == (0 if self.good else 1)

    @property
    def title(self) -> str:
        return f"reload {self.number}"


@dataclass(slots=True)
class _Teller:
    """Prints what happens as it happens, with the seconds since the beginning."""

    stream: TextIO
    colour: bool
    began: float = field(default_factory=time.monotonic)

    def tell(self, text: str, *, style: str | None = None) -> None:
        seconds = f"{time.monotonic() - self.began:5.1f} s"
        self.show(f"{seconds}  {paint(text, style, colour=self.colour)}")

    def show(self, text: str = "") -> None:
        print(text, file=self.stream, flush=True)


def run_demo(plan: Plan | None = None, *, stream: TextIO | None = None) -> int:
    """Run the demo to its end and return the exit code: 0 only if nothing was lost or doubled and each reload ended as
    its release deserves. SIGINT, SIGTERM and SIGHUP end it early, with every process that it started.
    """
    stream = stream or sys.stdout
    teller = _Teller(stream, wants_colour(stream, environ=os.environ))
    try:
        return asyncio.run(_until_signalled(_demo(plan or Plan(), teller)))
    except DemoError as error:
        teller.tell(str(error), style="red")
        return 1


async def _until_signalled(show: Awaitable[int]) -> int:
    """Cancel the show on a signal; its clean-up then runs to the end."""
    task = asyncio.ensure_future(show)
    received: list[int] = []

    def end(number: int) -> None:
        received.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, end, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        print("interrupted: everything that was started has been stopped", file=sys.stderr)
        return 128 + received[0]


async def _demo(plan: Plan, teller: _Teller) -> int:
    from bastion.sandbox import Sandbox, SandboxSettings

    settings = SandboxSettings(max_concurrency=SHARDS, recommended_shards=SHARDS)
    with tempfile.TemporaryDirectory(prefix="bastion-demo-", dir=_short_directory()) as name:
        stage = _Stage(Path(name))
        stage.publish(good=True)
        async with Sandbox(settings) as sandbox:
            low, high = (round(bound * 1000) for bound in settings.skew)
            teller.tell(
                f"a local Discord listens at {sandbox.url}: {counted(SHARDS, 'shard')}, "
                f"events delayed by {low}-{high} ms"
            )
            async with stage.supervisor(sandbox):
                verdict, reloads = await _acts(plan, teller, stage, sandbox)
                teller.tell("the traffic has ended; the supervisor is told to stop")
        return _judge(teller, verdict, reloads)


async def _acts(plan: Plan, teller: _Teller, stage: _Stage, sandbox: Sandbox) -> tuple[Verdict, list[_Reload]]:
    """Show everything that needs the processes; return what is to be judged."""
    await stage.until_active()
    speak_to_the_shipped_bot(sandbox)
    teller.tell(f"generation 1 is active; traffic begins: {plan.rate:g} events/s of {', '.join(MIX)}")
    began = time.monotonic()
    sandbox.traffic.start(rate=plan.rate, mix=MIX)
    await stage.calm(plan.calm)
    reloads: list[_Reload] = []
    for number, good in enumerate(plan.releases, 1):
        reloads.append(await _reload(number, good, teller, stage))
        await stage.calm(plan.calm)
    ended = time.monotonic()
    await sandbox.traffic.stop()
    await sandbox.settled(timeout=SETTLE_TIMEOUT)
    spans = {"before": (began, reloads[0].start if reloads else ended)}
    spans |= {f"during {reload.title}": (reload.start, reload.end) for reload in reloads}
    spans["after"] = (reloads[-1].end if reloads else ended, ended)
    return sandbox.journal.verdict(since=began, spans=spans), reloads


async def _reload(number: int, good: bool, teller: _Teller, stage: _Stage) -> _Reload:
    """Publish a release and reload through the command line, telling what it says."""
    release = stage.publish(good=good)
    kind = "a good release" if good else "a broken release"
    teller.tell(f"supervisor reload ({kind}: current -> {release})", style="bold")
    reload = _Reload(number=number, good=good, start=time.monotonic())
    async with stage.command("reload") as process:
        assert process.stdout is not None
        phase = ""
        async for line in process.stdout:
            reload.last_line = plain(line.decode(errors="replace").rstrip())
            if phase != (phase := reload.last_line.partition(":")[0]) and not phase.startswith("reload "):
                teller.tell(f"  {reload.last_line}")
        reload.code = await process.wait()
    reload.end = time.monotonic()
    teller.tell(f"  {reload.last_line}", style="green" if reload.code == 0 else "yellow" if not good else "red")
    return reload


class _Stage:
    """The temporary directory and the processes: releases, settings, supervisor, commands."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._config = directory / "bastion.toml"
        self._socket = directory / "run" / "supervisor.sock"
        self._log = directory / "supervisor.log"
        self._releases = 0
        self._environ: dict[str, str] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._ended: asyncio.Task[int] | None = None
        self._config.write_text(
            _SETTINGS.format(python=_toml(sys.executable), socket=_toml(str(self._socket))), encoding="utf-8"
        )

    def publish(self, *, good: bool) -> str:
        """Write a new release and point ``current`` at it in one step, as a deployment does. Returns its name."""
        self._releases += 1
        name = f"releases/{self._releases}"
        release = self._directory / name
        release.mkdir(parents=True)
        (release / "release.py").write_text(_GOOD if good else _BROKEN, encoding="utf-8")
        fresh = self._directory / "current.new"
        fresh.symlink_to(name)
        fresh.replace(self._directory / "current")
        return name

    @contextlib.asynccontextmanager
    async def supervisor(self, sandbox: Sandbox) -> AsyncIterator[None]:
        """Run a supervisor against the sandbox; at the end it has stopped, however the body ended."""
        self._environ = {**os.environ, "DISCORD_API_URL": sandbox.api_url, "DISCORD_TOKEN": sandbox.token}
        with self._log.open("wb") as log:
            self._process = await self._start("run", stdout=log.fileno(), stderr=log.fileno())
        self._ended = asyncio.create_task(self._process.wait())
        try:
            yield
        finally:
            await self._end_supervisor(self._process, self._ended)

    async def _end_supervisor(self, process: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> None:
        """Ask twice, then insist: the second SIGTERM ends it at once, and its children end with it."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if ended.done():
                return
            process.send_signal(number)
            await asyncio.wait({ended}, timeout=STOP_TIMEOUT)

    @contextlib.asynccontextmanager
    async def command(self, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """Run a client command, its two outputs in one; it has ended when the context ends."""
        process = await self._start(name, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT)
        try:
            yield process
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await process.wait()

    async def _start(self, command: str, *, stdout: int, stderr: int) -> asyncio.subprocess.Process:
        # A session of its own: Ctrl-C is for the demo, which ends its processes in order.
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "bastion.supervisor", command, "--config", str(self._config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=self._environ,
            cwd=self._directory,
            start_new_session=True,
        )

    async def until_active(self) -> None:
        """Wait for the first bot. Raises `DemoError` if there is none in time."""
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while not await asyncio.to_thread(self._active):
                    await self.calm(LOOK_EVERY)
        except TimeoutError:
            raise DemoError(f"the bot was not active after {START_TIMEOUT:g} s.{self._last_words()}") from None

    def _active(self) -> bool:
        try:
            children = fetch_status(self._socket)["children"]
        except (NoSupervisorError, RefusedError):
            return False
        return any(child["role"] == "active" and child["active_at"] for child in children)

    async def calm(self, seconds: float) -> None:
        """Let time pass. Raises `DemoError` if the supervisor ends meanwhile."""
        assert self._ended is not None
        done, _ = await asyncio.wait({self._ended}, timeout=seconds)
        if done:
            raise DemoError(f"the supervisor ended with {self._ended.result()}.{self._last_words()}")

    def _last_words(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
        return "".join(f"\n  {plain(line)}" for line in (" Its last lines:", *lines))


def _judge(teller: _Teller, verdict: Verdict, reloads: Sequence[_Reload]) -> int:
    """Print picture, latencies and verdict; return the exit code."""
    teller.show("\nWho answered, second by second:\n")
    teller.show(_picture(teller, verdict, reloads))
    teller.show("\nFrom event to answer in ms, the delays of the local Discord included:\n")
    teller.show(_latencies(verdict))
    teller.show()
    faults = _faults(verdict, reloads)
    teller.show(
        f"emitted {verdict.emitted}, handled once {verdict.handled_once - verdict.duplicated}, "
        f"lost {verdict.lost}, duplicated {verdict.duplicated}"
    )
    for fault in faults:
        teller.show(paint(f"not as it should be: {fault}", "red", colour=teller.colour))
    if faults:
        teller.show(str(verdict))
        return 1
    ended = ", ".join("succeeded" if reload.good else "failed as it should" for reload in reloads)
    teller.show(paint(f"{counted(len(reloads), 'reload')} ({ended}); nobody noticed.", "green", colour=teller.colour))
    return 0


def _faults(verdict: Verdict, reloads: Sequence[_Reload]) -> list[str]:
    faults = [
        f"{reload.title}, of a {'good' if reload.good else 'broken'} release, exited with {reload.code}"
        for reload in reloads
        if not reload.as_expected
    ]
    if not verdict.handled_once:
        faults.append("the bot answered nothing")
    counts = {
        "lost": verdict.lost,
        "duplicated": verdict.duplicated,
        "answers refused as second or too late": verdict.refused,
        "answers to events that never were": verdict.strays,
    }
    return faults + [f"{count} {name}" for name, count in counts.items() if count]


def _picture(teller: _Teller, verdict: Verdict, reloads: Sequence[_Reload]) -> str:
    if not verdict.timeline:
        return "(nothing happened)"
    first, last = verdict.timeline[0].at, verdict.timeline[-1].at
    handled = {second.at: second.handled for second in verdict.timeline}
    marks = [
        Mark(label=reload.title, start=reload.start - first, end=reload.end - first, good=reload.code == 0)
        for reload in reloads
    ]
    return timeline_text(
        [handled.get(at, {}) for at in range(first, last + 1)],
        marks,
        colour=teller.colour,
        unicode=can_draw(teller.stream),
    )


def _latencies(verdict: Verdict) -> str:
    def row(name: str, summary: LatencySummary) -> str:
        numbers = "".join(f"{1000 * value:8.0f}" for value in (summary.p50, summary.p99, summary.max))
        return f"{name:<16}{summary.count:8}{numbers}"

    header = f"{'':<16}{'events':>8}{'p50':>8}{'p99':>8}{'max':>8}"
    return "\n".join([header, *(row(name, summary) for name, summary in verdict.spans.items())])


def _short_directory() -> str | None:
    """Return a parent for the temporary directory in which a socket's path fits; None: the default one."""
    longest = Path(tempfile.gettempdir()) / "bastion-demo-12345678" / "run" / "supervisor.sock"
    return None if len(os.fsencode(longest)) <= MAX_SOCKET_PATH else "/tmp"


def _toml(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
