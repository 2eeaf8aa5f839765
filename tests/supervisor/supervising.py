"""A supervisor over fake children, for tests of the engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec

from bastion.supervisor.engine import Engine
from bastion.supervisor.logs import LogLine
from bastion.supervisor.observed import Summary
from bastion.supervisor.outcome import Progress
from bastion.supervisor.release import Release
from bastion.supervisor.settings import (
    BotSettings,
    ControlSettings,
    DiscordSettings,
    HandoffSettings,
    HealthSettings,
    LedgerSettings,
    RestartSettings,
    Settings,
    StateSettings,
)
from bastion.supervisor.status import ChildStatus

FAKE = Path(__file__).parent / "fake_bot" / "main.py"
TOKEN = "the.secret.token"


def fake_command(release: Release) -> Sequence[str]:
    return (str(release.python), "-I", "-S", str(FAKE))


def make_settings(tmp_path: Path, *args: str) -> Settings:
    return Settings(
        bot=BotSettings(directory=tmp_path, args=args),
        discord=DiscordSettings(api_url="http://127.0.0.1:1/api", identify_window=0.02),
        handoff=HandoffSettings(ready_timeout=20.0, drain_timeout=5.0, probation=0, linger=0),
        restart=RestartSettings(backoff_first=0.05, backoff_max=0.2, stable_after=60.0),
        state=StateSettings(),
        ledger=LedgerSettings(),
        control=ControlSettings(socket=tmp_path / "supervisor.sock"),
        health=HealthSettings(),
        source=None,
        token=TOKEN,
    )


def with_window(settings: Settings, seconds: float) -> Settings:
    return replace(settings, discord=msgspec.structs.replace(settings.discord, identify_window=seconds))


def with_limits(settings: Settings, **seconds: float) -> Settings:
    return replace(settings, handoff=msgspec.structs.replace(settings.handoff, **seconds))


def with_restart(settings: Settings, **changes: Any) -> Settings:
    return replace(settings, restart=msgspec.structs.replace(settings.restart, **changes))


def open_fds() -> set[str]:
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found.add(f"{fd.name}:{fd.readlink()}")
    return found


async def until(condition: Callable[[], object], *, seconds: float = 15.0) -> None:
    """Wait until something holds that no event tells of."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.005)


def living(pids: Sequence[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@dataclass
class Supervised:
    """A running engine, what it logged, and whom it spawned."""

    settings: Settings
    engine: Engine = field(init=False)
    lines: list[LogLine] = field(default_factory=list)
    pids: dict[int, int] = field(default_factory=dict)
    code: int | None = None

    def reread(self, kept: Settings) -> Settings:
        return self.settings

    def release(self, *args: str, **changes: Any) -> None:
        """The next reload finds these arguments."""
        self.settings = replace(self.settings, bot=msgspec.structs.replace(self.settings.bot, args=args, **changes))

    def log(self, line: LogLine) -> None:
        self.lines.append(line)

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)

    async def children(self) -> list[ChildStatus]:
        children = (await self.engine.status()).children
        self.pids |= {child.generation: child.pid for child in children}
        return children

    async def roles(self) -> dict[int, str]:
        return {child.generation: child.role for child in await self.children()}

    async def until(self, condition: Callable[[dict[int, str]], bool], *, seconds: float = 15.0) -> None:
        """Wait until the roles of the living children are as wanted."""
        await self.until_seen(lambda children: condition({child.generation: child.role for child in children}), seconds)

    async def until_seen(self, condition: Callable[[list[ChildStatus]], bool], seconds: float = 15.0) -> None:
        """Wait until the living children are seen as wanted."""
        with anyio.fail_after(seconds):
            while not condition(await self.children()):  # noqa: ASYNC110
                await anyio.sleep(0.005)

    async def serving(self, generation: int) -> None:
        """Wait until nobody but this generation lives, and it is active."""
        await self.until(lambda roles: roles == {generation: "active"})


@asynccontextmanager
async def supervised(
    settings: Settings,
    *,
    signals: bool = False,
    serving: bool = True,
    root: Path = Path("/"),
    on_move: Callable[[Summary], None] | None = None,
) -> AsyncIterator[Supervised]:
    """Run an engine; at the end it is stopped and must have left nothing behind."""
    await anyio.lowlevel.checkpoint()
    before = open_fds()
    it = Supervised(settings)
    it.engine = Engine(
        settings,
        reread=it.reread,
        log=it.log,
        command=fake_command,
        root=root,
        on_move=on_move,
    )

    async def run() -> None:
        with it.engine.handling_signals() if signals else nullcontext():
            it.code = await it.engine.run()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        if serving:
            await it.serving(1)
        yield it
        with anyio.fail_after(20):
            await it.engine.stop()
    assert it.code is not None
    assert living(list(it.pids.values())) == []
    assert open_fds() <= before
    assert TOKEN not in it.text


def recorder() -> tuple[list[Progress], Callable[[Progress], None]]:
    seen: list[Progress] = []
    return seen, seen.append
