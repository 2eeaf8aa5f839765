"""Cost in quiet: what the gate adds to an event, by kind and by state; and what a whole bot spends on an event.

The first table feeds the same messages, as JSON text, to bots in this process that differ only in what stands between
discord.py's connection and the handler: gate, trail, and the watch over tasks. The path measured is: decode, parse,
update the cache, dispatch, run the handler's task. Reading the socket and unpacking is left out, so the share shown is
larger than the true one.

The second table compares whole processes against the sandbox, by CPU time: the bot alone, under a supervisor, and under
one that has been told to claim every event, as in a handoff's window. They are started several times, for two processes
that run the same differ by some per cent for all their life. What the gate costs is therefore measured within one
process, which takes it out and puts it back every fifth of a second (`bots/toggled.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import discord
import yarl
from discord.gateway import DiscordWebSocket

from bastion.bot import internals
from bastion.bot.gate import Gate
from bastion.bot.inflight import InFlight
from bastion.bot.ledger import SQLiteLedger
from bastion.bot.sessions import SessionFile
from bastion.bot.trail import Trail
from bastion.sandbox import Sandbox
from benchmarks.installation import MIX, Supervised, alone, sandbox_settings, supervised
from benchmarks.installation import discord as local_discord
from benchmarks.payloads import KINDS, Source
from benchmarks.processes import cpu_seconds
from benchmarks.report import Benchmark, BenchmarkError, Result, Table
from benchmarks.stats import Spread, ratios, spread

SIDES: Final = ("alone", "active", "active, window", "joined, window", "standby")
WHOLE: Final[dict[str, str | None]] = {
    "alone": None,
    "supervised": "sharded:make",
    "window": "sharded:make",
}
"""Whole bots, with what their supervisor runs. "window" has claims switched on by hand."""
_WARM = 20
_BLOCK: Final = 4
"""Turns that make a pair: with the gate, without, without, with."""


class _Listener(discord.Client):
    """Hears every kind and does nothing with it."""

    def __init__(self) -> None:
        super().__init__(intents=discord.Intents.all())
        self.heard = 0
        tree: discord.app_commands.CommandTree[Any] = discord.app_commands.CommandTree(self)

        @tree.command(description="Answers at once")
        async def ping(interaction: discord.Interaction[Any]) -> None:
            self.heard += 1

    async def on_message(self, message: discord.Message) -> None:
        self.heard += 1

    async def on_raw_reaction_add(self, event: discord.RawReactionActionEvent) -> None:
        self.heard += 1

    async def on_raw_message_edit(self, event: discord.RawMessageUpdateEvent) -> None:
        self.heard += 1

    async def on_raw_message_delete(self, event: discord.RawMessageDeleteEvent) -> None:
        self.heard += 1

    async def on_raw_typing(self, event: discord.RawTypingEvent) -> None:
        self.heard += 1

    async def on_member_update(self, before: discord.Member, after: discord.Member) -> None:
        self.heard += 1


class Side:
    """One bot in one state."""

    def __init__(self, client: _Listener, inflight: InFlight | None, trail: Trail | None) -> None:
        self.client = client
        self._inflight = inflight
        self._websocket = DiscordWebSocket(None, loop=asyncio.get_running_loop())  # type: ignore[arg-type]
        self._websocket.gateway, self._websocket.shard_id, self._websocket.shard_count = yarl.URL(), 0, 1
        self._websocket._dispatch = client.dispatch
        self._websocket._discord_parsers = internals.parsers(client)
        if trail is not None:
            internals.note_receipt(self._websocket, trail.gate.ears, trail.receiver)

    async def feed(self, messages: Sequence[str]) -> float:
        """Give it messages one after the other, each handled before the next; return CPU seconds per message.

        CPU time, so that what else runs on the machine counts as little as can be. No side waits for anything.
        """
        loop = asyncio.get_running_loop()
        loop.set_task_factory(None)
        if self._inflight is not None:
            self._inflight.install(loop)
        began = time.thread_time()
        for message in messages:
            await self._websocket.received_message(message)
            await asyncio.sleep(0)
        seconds = time.thread_time() - began
        loop.set_task_factory(None)
        return seconds / len(messages)


@asynccontextmanager
async def side(name: str, start: Sequence[str], directory: Path) -> AsyncIterator[Side]:
    """Make one side; its client never connects."""
    async with _Listener() as client:
        if name == "alone":
            made = Side(client, None, None)
            await made.feed(start)
        else:
            role: Any = "standby" if name in ("standby", "joined, window") else "active"
            ledger = SQLiteLedger(str(directory / f"{name}.sqlite"), 1)
            gate = Gate(client=client, ledger=ledger, observer=lambda name, args: None, role=role)
            gate.install()
            inflight = InFlight()
            file = SessionFile.create(directory / f"{name}.sessions", token="", supervisor=0)
            trail = Trail(file, gate)
            trail.install(inflight)
            made = Side(client, inflight, trail)
            await made.feed(start)
            if name in ("active, window", "joined, window"):
                gate.open_window()
            if name == "joined, window":
                await gate.activate()
        yield made


async def _by_kind(options: argparse.Namespace) -> list[dict[str, Any]]:
    times: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in SIDES} for kind in KINDS}
    source = Source()
    for turn in range(options.rounds):
        with tempfile.TemporaryDirectory(dir=_tmpfs()) as directory:
            async with AsyncExitStack() as stack:
                start = source.start()
                sides = {name: await stack.enter_async_context(side(name, start, Path(directory))) for name in SIDES}
                order = list(SIDES)[turn % len(SIDES) :] + list(SIDES)[: turn % len(SIDES)]
                for kind in KINDS:
                    warm, events = source.events(kind, _WARM), source.events(kind, options.batch)
                    for name in order:
                        await sides[name].feed(warm)
                        times[kind][name].append(await sides[name].feed(events))
        gc.collect()
    return [_row(kind, times[kind]) for kind in KINDS]


def _row(kind: str, times: dict[str, list[float]]) -> dict[str, Any]:
    base = times["alone"]
    row: dict[str, Any] = {"kind": kind, "alone_us": _micros(base).as_dict()}
    for name in SIDES[1:]:
        added = [one - other for one, other in zip(times[name], base, strict=True)]
        row[name] = {"added_us": _micros(added).as_dict(), "ratio": ratios(times[name], base).as_dict()}
    return row


def _micros(seconds: Sequence[float]) -> Spread:
    return spread([1e6 * value for value in seconds])


async def _whole(options: argparse.Namespace) -> dict[str, list[float]]:
    """CPU seconds per event of whole bots, in turn."""
    found: dict[str, list[float]] = {name: [] for name in (*WHOLE, "supervisor")}
    for _ in range(options.starts):
        async with AsyncExitStack() as stack:
            sides = {name: await _start(stack, name, options) for name in WHOLE}
            for turn in range(options.turns + 1):
                for name in sorted(sides, reverse=bool(turn % 2)):
                    of_bot, of_supervisor = await _turn(sides[name], options)
                    if turn:  # the first turn warms all up
                        found[name].append(of_bot)
                    if turn and name == "supervised":
                        found["supervisor"].append(of_supervisor)
            windowed = sides["window"].supervisor
            assert windowed is not None
            claims = (await windowed.serving())["claims"]["won"]
            if claims < options.turns * options.rate * options.seconds / 2:
                raise BenchmarkError(f"only {claims} events were claimed: the window was not open")
    return found


@dataclass(frozen=True)
class _Side:
    """A bot that runs, and what it hears."""

    sandbox: Sandbox
    pid: int
    supervisor: Supervised | None = None

    def cpu_seconds(self) -> tuple[float, float]:
        """Return those of the bot and those of its supervisor."""
        return cpu_seconds(self.pid), cpu_seconds(self.supervisor.running.pid) if self.supervisor else 0.0


async def _start(stack: AsyncExitStack, name: str, options: argparse.Namespace) -> _Side:
    sandbox = await stack.enter_async_context(local_discord(sandbox_settings(shards=options.shards)))
    app = WHOLE[name]
    if app is None:
        bot = await stack.enter_async_context(alone(sandbox, shards=options.shards))
        return _Side(sandbox, bot.pid)
    settings: dict[str, Any] = {}
    if name == "window":
        directory = stack.enter_context(tempfile.TemporaryDirectory(dir=_tmpfs()))
        # A shared ledger, for only then claims can be switched on by hand.
        settings = {"ledger__shared": True, "ledger__path": f"{directory}/ledger.db"}
    supervisor = await stack.enter_async_context(supervised(sandbox, app=app, **settings))
    side = _Side(sandbox, (await supervisor.serving())["pid"], supervisor)
    if name == "window":
        os.kill(supervisor.running.pid, signal.SIGTTIN)
    return side


async def _turn(side: _Side, options: argparse.Namespace) -> tuple[float, float]:
    """Return CPU seconds per event of the bot and of its supervisor."""
    before = side.cpu_seconds()
    report = await side.sandbox.traffic.run(rate=options.rate, seconds=options.seconds, mix=MIX)
    await side.sandbox.settled(timeout=10, linger=0.3)
    side.sandbox.journal.clear()
    bot, supervisor = (now - then for now, then in zip(side.cpu_seconds(), before, strict=True))
    return bot / report.total, supervisor / report.total


async def _gate(options: argparse.Namespace) -> dict[str, list[float]]:
    """CPU seconds per event of one process with its gate and without it, in turn; several such processes."""
    found: dict[str, list[float]] = {"gate in": [], "gate out": []}
    for _ in range(options.starts):
        turns = await _toggled(options)
        blocks = [turns[start : start + _BLOCK] for start in range(0, len(turns) - _BLOCK + 1, _BLOCK)]
        for block in blocks[2:-2]:  # those in which the traffic began and ended are left out
            for name, side in (("gate in", True), ("gate out", False)):
                mine = [(seconds, events) for gated, seconds, events in block if gated is side]
                found[name].append(sum(seconds for seconds, _ in mine) / sum(events for _, events in mine))
    return found


async def _toggled(options: argparse.Namespace) -> list[tuple[bool, float, int]]:
    """Have a bot take turns with its gate and without it; return for each which it was, CPU seconds, and events."""
    async with AsyncExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "turns"
        sandbox = await stack.enter_async_context(local_discord(sandbox_settings(shards=options.shards)))
        toggled = supervised(sandbox, app="toggled:make", environ={"BENCH_TURNS": str(file)})
        pid = (await (await stack.enter_async_context(toggled)).serving())["pid"]
        await sandbox.traffic.run(rate=options.rate, seconds=options.seconds, mix=MIX)  # warms all up
        gc.disable()  # a collection of all that the journal holds would keep the events back for a turn
        stack.callback(gc.enable)
        os.kill(pid, signal.SIGUSR2)
        await sandbox.traffic.run(rate=options.rate, seconds=options.toggled, mix=MIX)
        os.kill(pid, signal.SIGUSR2)
        journal = sandbox.journal
        await journal.until(lambda: bool(journal.handlings("turns", "written")), timeout=10)
        turns: list[tuple[bool, float, int]] = json.loads(file.read_text(encoding="ascii"))
    return turns


async def run(options: argparse.Namespace) -> Result:
    """Measure both."""
    rows = await _by_kind(options)
    whole = await _whole(options) | await _gate(options) if options.turns else {}
    kinds = Table(
        title="Microseconds per event, from JSON text to the end of its handler; what each state adds; its share",
        columns=[
            "kind",
            "without supervisor",
            "active adds",
            "in the window",
            "joined, window",
            "standby",
            "active",
            "window",
            "joined",
        ],
        rows=[
            [
                row["kind"],
                row["alone_us"]["median"],
                *(row[name]["added_us"]["median"] for name in SIDES[1:]),
                *(f"{100 * (row[name]['ratio']['median'] - 1):+.1f} %" for name in SIDES[1:4]),
            ]
            for row in rows
        ],
    )
    result = Result(
        rows=[*rows],
        ratios={f"{name} / alone": {row["kind"]: row[name]["ratio"]["median"] for row in rows} for name in SIDES[1:]},
        tables=[kinds],
        notes=[f"Median of {options.rounds} rounds of {options.batch} events a kind and state, in turn."],
    )
    if whole:
        _add_whole(result, whole, options)
    return result


def _add_whole(result: Result, whole: dict[str, list[float]], options: argparse.Namespace) -> None:
    micros = {name: _micros(values) for name, values in whole.items()}
    supervised, window = ratios(whole["supervised"], whole["alone"]), ratios(whole["window"], whole["alone"])
    gate = ratios(whole["gate in"], whole["gate out"])
    result.rows.append({"whole_us": {name: value.as_dict() for name, value in micros.items()}})
    result.ratios["whole bot, supervised / alone"] = supervised.as_dict()
    result.ratios["whole bot, gate in / gate out"] = gate.as_dict()
    result.ratios["whole bot, window / alone"] = window.as_dict()
    result.tables.append(
        Table(
            title="CPU of whole processes, socket and reports included",
            columns=["process", "us per event", "events/s one core can take"],
            rows=[
                ["bot alone", micros["alone"].text(), 1e6 / micros["alone"].median],
                ["bot under a supervisor", micros["supervised"].text(), 1e6 / micros["supervised"].median],
                ["under a supervisor, in an open window", micros["window"].text(), 1e6 / micros["window"].median],
                ["another one, its gate in", micros["gate in"].text(), 1e6 / micros["gate in"].median],
                ["the same process, its gate out", micros["gate out"].text(), 1e6 / micros["gate out"].median],
                ["the supervisor itself", micros["supervisor"].text(), None],
            ],
        )
    )
    result.notes.append(
        f"Whole processes: {options.starts} starts, {options.turns} turns each of {options.seconds:g} s at "
        f"{options.rate:g} events/s; "
        f"supervised / alone is {supervised.text(3)}, gate in / gate out {gate.text(3)}, "
        f"in an open window / alone {window.text(3)}."
    )


def _tmpfs() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--rounds", type=int, default=40, help="rounds in this process")
    parser.add_argument("--batch", type=int, default=200, help="events of a kind in a round")
    parser.add_argument("--starts", type=int, default=6, help="starts of the whole bots")
    parser.add_argument("--turns", type=int, default=6, help="turns after each start; 0 leaves them out")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of such a turn")
    parser.add_argument("--toggled", type=float, default=60.0, help="seconds in which the gate goes out and in again")
    parser.add_argument("--rate", type=float, default=1000.0, help="events/s in such a turn")
    parser.add_argument("--shards", type=int, default=2)


BENCHMARK = Benchmark(
    name="quiet",
    summary="What the gate costs an event, by kind and state, against the same bot without a supervisor.",
    limit=900,
    arguments=arguments,
    run=run,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
