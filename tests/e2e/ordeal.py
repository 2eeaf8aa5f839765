"""Faults under traffic: follow a reload phase by phase, break something, and judge what became of every event.

The verdict is strict: an event that reached a session of a child which was, or became, responsible for it is handled
once. Excused is only what nobody could have handled; `Judgement` says what that is.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from casualties import UNTOLD, tellable
from named import Named
from rig import ALL_KINDS, Rig, rig

from bastion.bot.components import OWNER_FIRST
from bastion.sandbox import Entry, SandboxSettings

WINDOW = 0.25
"""Seconds of the sandbox's IDENTIFY window; Discord's is 5."""
RATE = 100
"""Events a second."""
CUT_SECONDS = 0.6
"""Longest time from an event's arrival to its report, with handlers of 50 ms: what is younger at a kill may be cut."""
MEMBERS = 0.4
"""How much longer it may take for a guild that is joined, whose members are asked for first."""
MOMENT = 0.15
"""How late the log may tell of what has happened."""
INTERACTIONS = frozenset({"slash", "autocomplete", "button", "select", "modal"})
REACTIONS = frozenset({"reaction_add", "reaction_remove"})
MESSAGES = frozenset({"message", "command_message", "edit", "delete"})
CONVERSATIONS = 20
"""So many that the traffic, which talks in the name of the same people, answers all of them in no test."""
UNKNOWN_INTERACTION = 10062

_ACTIVE = re.compile(r"supervisor: generation (\d+) is active$")
_SIGNALLED = re.compile(r"supervisor: (?:SIG(?:TERM|KILL) to generation (\d+)$|generation (?P<gave_up>\d+) gives up: )")
"""A child that gives up has cut its handlers by then; its process may take a moment to end."""
_LEFT = re.compile(r"supervisor: generation (\d+) has left: (.*)$")


def settings(**changes: Any) -> SandboxSettings:
    options = {
        "max_concurrency": 2,
        "identify_window": WINDOW,
        "recommended_shards": 2,
        "member_request_window": 0.0,
        "identifies_per_day": 100_000,
    }
    return SandboxSettings(**(options | changes))


def of_moving(shards: int, **changes: Any) -> SandboxSettings:
    """Return the settings of a Discord whose sessions are moved: all shards at once, and a longer memory of events."""
    return settings(**({"max_concurrency": 16, "recommended_shards": shards, "replay_buffer": 3500} | changes))


class Following:
    """A reload, followed through the control socket as `supervisor reload` does."""

    def __init__(self, installation: Rig, command: str = "reload", **options: bool) -> None:
        self.phases: list[str] = []
        self._installation = installation
        self._grew = asyncio.Event()
        self._reading = asyncio.ensure_future(self._follow({"command": command, **options}))

    async def _follow(self, command: dict[str, Any]) -> dict[str, Any]:
        reader, writer = await asyncio.open_unix_connection(self._installation.directory / "s.sock")
        try:
            writer.write(json.dumps(command).encode() + b"\n")
            async for line in reader:
                answer = json.loads(line)
                if answer["type"] == "progress":
                    self.phases.append(answer["progress"]["phase"])
                    self._grew.set()
                elif answer["type"] == "outcome":
                    return dict(answer["outcome"])
                elif answer["type"] == "error":
                    raise AssertionError(f"{answer}\n{self._installation.tail()}")
        finally:
            self._grew.set()
            writer.close()
        raise AssertionError(f"the answer broke off after {self.phases}\n{self._installation.tail()}")

    async def until(self, phase: str) -> None:
        """Return when the reload has entered the phase."""
        async with asyncio.timeout(40):
            while phase not in self.phases:
                assert not self._reading.done(), f"never {phase}: {self._reading}\n{self._installation.tail()}"
                self._grew.clear()
                await self._grew.wait()

    async def result(self) -> dict[str, Any]:
        """Return the outcome."""
        try:
            async with asyncio.timeout(60):
                return await self._reading
        except TimeoutError:
            for process in psutil.process_iter():
                if "bastion.bot" in process.cmdline() and self._installation.sandbox.api_url in process.cmdline():
                    process.send_signal(signal.SIGUSR1)  # what they wait for is in their stacks
            await asyncio.sleep(1)
            told = [*self._installation.log]
            with suppress(OSError):  # there may be nobody to ask
                told.append(json.dumps(await ask_status(self._installation)))
            raise AssertionError("\n".join([f"no result after {self.phases[-1:]}", *told])) from None

    async def gave_up(self) -> None:
        """Wait for the end of the connection, whatever it brought."""
        async with asyncio.timeout(60):
            await asyncio.wait([self._reading])
        self._reading.exception()


async def reload(installation: Rig) -> dict[str, Any]:
    """Reload and return the outcome."""
    return await Following(installation).result()


def order(installation: Rig, generation: int, moment: str, deed: str) -> None:
    """Tell a vandal what to break, and when."""
    Path(installation.environ["VANDAL"]).write_text(f"{generation} {moment} {deed}\n")


async def order_now(installation: Rig, generation: int, deed: str) -> None:
    """Have a vandal break something at once."""
    order(installation, generation, "now", deed)
    os.kill(pid(installation, generation), signal.SIGUSR2)
    await installation.logged(f"gen {generation}: vandal: {deed}", timeout=40)


def pid(installation: Rig, generation: int) -> int:
    """Return a child's process id, as the log told it."""
    for line in installation.log:
        if found := re.search(rf"generation {generation} spawned as \w+: pid (\d+)", line):
            return int(found[1])
    raise AssertionError(f"generation {generation} was never spawned\n{installation.tail()}")


def hurt(installation: Rig, generation: int, number: signal.Signals) -> None:
    """Signal a child, and note when: from then on nothing is expected of it."""
    installation.hurt[generation] = time.monotonic()
    os.kill(pid(installation, generation), number)


async def converse(installation: Rig) -> None:
    """Begin conversations, which keep a child draining; the traffic may answer some of them."""
    sandbox = installation.sandbox
    for entry in [sandbox.emit_slash("ask") for _ in range(CONVERSATIONS)]:
        await sandbox.journal.wait_handled(entry, timeout=20)


async def hold(installation: Rig, generation: int) -> None:
    """Begin a handler that keeps an active child draining for some seconds; its event is handled already."""
    entry = installation.sandbox.emit_message(content="hold")
    try:
        await installation.logged(f"gen {generation}: vandal: holds")
    except AssertionError as error:
        handled = installation.sandbox.journal.handlings(entry.kind, entry.key)
        raise AssertionError(f"{entry} handled {handled} {error}") from None


async def held_in_activating(installation: Rig, generation: int) -> Following:
    """Reload, and come to where the new child was told to become active; it reads that at ``hear``."""
    order(installation, generation, "ready", "deaf")
    following = Following(installation)
    await following.until("activating")
    return following


async def hear(installation: Rig, generation: int) -> None:
    """Let a deaf child read its pipe."""
    await order_now(installation, generation, "hear")


async def ask_status(installation: Rig) -> dict[str, Any]:
    """Ask the control socket itself for the status, which costs little."""
    reader, writer = await asyncio.open_unix_connection(installation.directory / "s.sock")
    writer.write(b'{"command": "status"}\n')
    status: dict[str, Any] = json.loads(await reader.readline())["status"]
    writer.close()
    await writer.wait_closed()
    return status


async def in_roles(installation: Rig, *roles: str) -> dict[str, Any]:
    """Wait until the children, oldest first, have these roles, and none but the active one runs a handler."""
    async with asyncio.timeout(40):
        while True:
            status = await ask_status(installation)
            idle = not any(one["in_flight"] for one in status["children"] if one["role"] != "active")
            if idle and [one["role"] for one in status["children"]] == list(roles):
                return status
            await asyncio.sleep(0.05)


async def session_ready(installation: Rig, generation: int) -> None:
    """Wait until all sessions of a child are ready."""
    sandbox = installation.sandbox

    def ready() -> bool:
        sessions = [one for one in sandbox.gateway.sessions if one.generation == generation]
        return sum(one.subscribed for one in sessions) >= sandbox.settings.recommended_shards

    await sandbox.gateway.wait_for(ready, timeout=40)


@dataclass
class _Life:
    """What the log and the test know of one child."""

    activations: list[float] = field(default_factory=list)
    signalled: float | None = None
    left: float = float("inf")
    cleanly: bool = False


@dataclass
class Judgement:
    """Tells which unhandled events somebody should have handled.

    Excused is an event

    - that no session of a responsible child received. Responsible is a child that was or became active, from its
      session's beginning until another one became active or it was killed: afterwards it hears, but for nobody;
    - that a child received so shortly before it was killed in its active time that the handler may have been running,
      and that is named as cut; where the supervisor ended everything at once nobody was left to name it;
    - that is an interaction and came when nobody served: Discord takes no answer after 3 s;
    - that nobody can tell: an update, or a join, of a member of whom no session that received it knew.
    """

    installation: Rig
    stopped_at: float = float("inf")
    """When the supervisor was told to stop: nobody is responsible for what comes later."""

    def __post_init__(self) -> None:
        self.lives: dict[int, _Life] = defaultdict(_Life)
        self.activations: list[tuple[float, int]] = []
        for at, line in zip(self.installation.log_at, self.installation.log, strict=True):
            if found := _ACTIVE.search(line):
                self.lives[int(found[1])].activations.append(at)
                self.activations.append((at, int(found[1])))
            elif found := _SIGNALLED.search(line):
                life = self.lives[int(found[1] or found["gave_up"])]
                life.signalled = life.signalled or at
            elif found := _LEFT.search(line):
                life = self.lives[int(found[1])]
                life.left, life.cleanly = at, found[2] == "exited with status 0" and life.signalled is None
        for generation, at in self.installation.hurt.items():
            life = self.lives[generation]
            life.signalled = at
            # What a child does before it is hurt may be read in the log after that.
            life.activations = [min(one, at) for one in life.activations]
            self.activations = [
                (min(one, at), whose) if whose == generation else (one, whose) for one, whose in self.activations
            ]
        if not self.lives[1].activations:  # it handles events from its first moment
            self.lives[1].activations.append(0.0)
        self.named = {generation: Named(self.installation, generation) for generation in self.lives}
        entries = self.installation.sandbox.journal.entries
        self.left_guilds = {entry.guild_id for entry in entries if entry.kind == "guild_leave"}
        self.generations = [one.generation for one in self.installation.sandbox.gateway.identifies if not one.reason]

    def generation(self, session: int) -> int:
        """Return whose session this is; sessions are numbered in the order of their IDENTIFYs."""
        return self.generations[session - 1]

    def died(self, generation: int) -> float:
        """Return when a child that did not leave by itself began to die."""
        life = self.lives[generation]
        return life.left if life.cleanly else min(life.left, life.signalled or float("inf"))

    def responsible_until(self, generation: int) -> float:
        """Return when others took over, 0.0 for one that was never active."""
        life = self.lives[generation]
        if not life.activations:
            return 0.0
        successors = (at for at, other in self.activations if other != generation and at > life.activations[-1])
        return min(min(successors, default=float("inf")), self.died(generation), self.stopped_at) - MOMENT

    def unserved(self) -> Iterator[tuple[float, float]]:
        """Yield the times between the death of an active child and the next activation."""
        for generation, life in self.lives.items():
            died = self.died(generation)
            if not life.activations or life.cleanly or died == float("inf"):
                continue
            if any(life.activations[-1] < at < died for at, _ in self.activations):
                continue  # somebody else was active by then
            yield (
                died - CUT_SECONDS,
                min((at for at, _ in self.activations if at > died), default=float("inf")) + MOMENT,
            )

    def excuse(self, entry: Entry) -> str | None:
        """Return why nobody need have handled an event, None if somebody should have."""
        if entry.kind == "member_join" and entry.guild_id in self.left_guilds:
            return "its guild was left: nobody can tell of a member"
        if entry.delivered and not tellable(entry, self.installation.sandbox):
            return "no session that received it had been sent the members"
        heard = [(self.generation(session), at) for session, at in entry.delivered]
        due = [(generation, at) for generation, at in heard if at < self.responsible_until(generation)]
        if not due:
            return "nobody who was responsible received it"
        for generation, at in heard:
            life = self.lives[generation]
            died = self.died(generation)
            if not life.activations or life.cleanly:
                continue
            begun = max(
                [at, *(one for one in life.activations if one <= died)]
            )  # what it held began when it was active
            longer = OWNER_FIRST if entry.kind in INTERACTIONS else MEMBERS if entry.kind == "guild_join" else 0.0
            if not died - CUT_SECONDS - longer < begun or at > life.left + MOMENT:
                continue
            if self.stopped_at < float("inf") or self.named[generation].excuses(entry):
                return f"its handler was running in generation {generation}"
        if entry.kind in INTERACTIONS and any(all(start < at < end for _, at in due) for start, end in self.unserved()):
            return "nobody served"
        return None

    def unhandled(self) -> dict[str, list[str]]:
        """Return what somebody should have handled and nobody did: messages, interactions, reactions, others."""
        journal = self.installation.sandbox.journal
        by_key: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in journal.entries:
            if self.installation.expected(entry):
                by_key[entry.kind, entry.key].append(entry)
        found: dict[str, list[str]] = {"messages": [], "interactions": [], "reactions": [], "others": []}
        for (kind, key), entries in by_key.items():
            short = len(entries) - len(journal.handlings(kind, key))
            if kind in UNTOLD and key in self.installation.untold:
                continue
            if short > 0 and short > sum(1 for _ in islice(filter(self.excuse, entries), short)):
                found[_class(kind)].append(self.tell(kind, key, entries))
        return found

    def tell(self, kind: str, key: str, entries: list[Entry]) -> str:
        """Return when events of one key were emitted, delivered to whom, excused why, and handled by whom."""
        emitted = [
            f"emitted at {one.at:.3f}, delivered to"
            f" {[(self.generation(session), round(at, 3)) for session, at in one.delivered]}"
            f" (excused: {self.excuse(one) or 'no'})"
            for one in entries
        ]
        handled = [
            (one.by, round(one.at, 3), one.source) for one in self.installation.sandbox.journal.handlings(kind, key)
        ]
        return f"{kind} {key}: {'; '.join(emitted)}; handled {handled}"


def _doubled(installation: Rig, judgement: Judgement) -> list[str]:
    """Tell all about the events that were handled too often."""
    journal = installation.sandbox.journal
    return [
        judgement.tell(
            kind.kind, example.key, [one for one in journal.entries if (one.kind, one.key) == (kind.kind, example.key)]
        )
        for kind in journal.verdict().kinds.values()
        for example in kind.duplicated_examples
    ]


def so_far(installation: Rig) -> str:
    """Return the end of the log, with times, and where the whole of it is kept."""
    lines = [f"{at:.2f} {line}" for at, line in zip(installation.log_at, installation.log, strict=True)]
    whole = installation.directory / "whole.log"
    whole.write_text("\n".join(lines))
    return f"the whole log: {whole}\n" + "\n".join(lines[-80:])


def _class(kind: str) -> str:
    for name, kinds in (("messages", MESSAGES), ("interactions", INTERACTIONS), ("reactions", REACTIONS)):
        if kind in kinds:
            return name
    return "others"


async def judge(installation: Rig, *, doubled: int = 0, quiet: float = 2) -> Judgement:
    """Stop the traffic; assert that nothing is lost, no more than ``doubled`` doubled, and no other answer refused.

    For ``quiet`` seconds nothing must have been handled before.
    """
    sandbox = installation.sandbox
    await sandbox.traffic.stop()
    found = await sandbox.settled(timeout=15, quiet=quiet)
    judgement = Judgement(installation)
    told = f"{found}\n{so_far(installation)}"
    for name, lost in judgement.unhandled().items():
        assert not lost, f"lost {name}: {lost}\n{told}"
    assert found.emitted > RATE, told
    assert found.duplicated <= doubled, f"{_doubled(installation, judgement)}\n{told}"
    assert found.strays == 0, told
    refused = [one for one in sandbox.journal.refused if one.code != UNKNOWN_INTERACTION]
    assert len(refused) + found.duplicated <= doubled, f"answers refused: {refused}\n{told}"
    unreported = [line for line in installation.log if "REPORT LOST" in line]
    assert not unreported, f"{unreported}\n{told}"
    return judgement


async def untold_counted(installation: Rig) -> None:
    """Where a successor had to recover, wait until it has counted the updates that it cannot tell; excuse them."""
    journal, now = installation.sandbox.journal, time.monotonic()
    async with asyncio.timeout(40):
        while True:
            recovered = ((await ask_status(installation))["last_handoff"] or {}).get("recovered")
            if recovered is None:
                return
            judgement = Judgement(installation)
            found = {
                entry.key
                for entry in journal.entries
                if entry.kind in UNTOLD and entry.at < now and installation.expected(entry)
                if not journal.handlings(entry.kind, entry.key) and judgement.excuse(entry) is None
            }
            if len(found) <= recovered["missed"]:
                installation.untold |= found
                return
            await asyncio.sleep(0.05)


async def seen(installation: Rig, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask for the status until something holds; ask the socket itself, which costs little."""
    status: dict[str, Any] = {}
    try:
        async with asyncio.timeout(60):
            while True:
                status = await ask_status(installation)
                if holds(status):
                    return status
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"never seen: {status}\n{installation.tail()}") from None


async def at_rest(installation: Rig) -> dict[str, Any]:
    """Wait until one child serves and no other is there."""
    return await seen(
        installation,
        lambda status: (
            status["supervisor"]["state"] == "serving" and [one["role"] for one in status["children"]] == ["active"]
        ),
    )


async def serving_alone(installation: Rig, generation: int) -> dict[str, Any]:
    """Wait until this generation serves, and every other child has gone."""
    return await installation.until(
        lambda status: (
            status["supervisor"]["state"] == "serving"
            and [(one["generation"], one["role"]) for one in status["children"]] == [(generation, "active")]
        )
    )


@asynccontextmanager
async def under_traffic(
    directory: Path,
    *,
    app: str = "vandal:client",
    sandbox: SandboxSettings | None = None,
    serving: bool = True,
    handler_ms: str = "50-50",
    rate: float = RATE,
    mix: dict[str, float] = ALL_KINDS,
    **options: Any,
) -> AsyncIterator[Rig]:
    """An installation under traffic, whose bots have sessions of their own: test_moved.py is about those that move."""
    options = {
        "discord__identify_window": WINDOW,
        "restart__hang_timeout": 4,
        "restart__backoff_first": 0.2,
        "handoff__session": "overlap",
    } | options
    async with rig(
        directory, app=app, settings=sandbox or settings(), handler_ms=handler_ms, **options
    ) as installation:
        installation.environ |= {"VANDAL": str(directory / "order"), "PROBE_WAIT_S": "8"}
        await installation.start(serving=serving)
        installation.sandbox.traffic.start(rate=rate, mix=mix)
        if serving:
            await installation.sandbox.journal.until(
                lambda: installation.sandbox.journal.last_handled_at > 0, timeout=20
            )
        yield installation


@asynccontextmanager
async def ordeal(directory: Path, *, quiet: float = 2, **options: Any) -> AsyncIterator[Rig]:
    """An installation under traffic. Afterwards the next reload works, nothing is lost or doubled, nobody is left."""
    async with under_traffic(directory, **options) as installation:
        yield installation
        await untold_counted(installation)
        again = await reload(installation)
        assert again["result"] == "succeeded", f"{again}\n{installation.tail()}"
        await judge(installation, quiet=quiet)
        assert await installation.stop() == 0, installation.tail()
        assert_nobody_left(installation)


def assert_nobody_left(installation: Rig) -> None:
    """Assert that no process of the installation lives."""
    pids = [int(found[1]) for line in installation.log if (found := re.search(r"spawned as \w+: pid (\d+)", line))]
    assert pids
    assert not [number for number in pids if psutil.pid_exists(number)]
    assert installation.processes() == []
