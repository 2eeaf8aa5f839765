"""One child's life: load the app, put the pieces around it, obey the supervisor, end well.

Knows how gate, ledger, shards, handlers under way and link fit together, and what each of the supervisor's messages
means here. Decides nothing about other children: the supervisor does.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import platform
import signal
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
import discord

from bot import apps, internals, stacks
from bot.gate import Gate
from bot.inflight import InFlight
from bot.keys import SURE_AFTER
from bot.ledger import SQLiteLedger
from bot.link import Link, die_with_parent
from bot.shards import Shards, ShardsError
from supervisor import wire

_log = logging.getLogger("bastion")

BEAT_SECONDS = 1.0
HURRIED_SECONDS = 1.2
"""How long handlers may go on when the supervisor is gone or ends this child by SIGTERM: 2 s is the promise."""

ALARM_SECONDS = 2
"""After this the kernel ends a hurried child whose event loop does not."""

MEMBERS_PATIENCE = 35.0
"""How long readiness may wait for members that Discord put off: 30 s is Discord's limit for one guild."""

_CLOSE_SECONDS = 5.0
EXIT_CONFIGURATION = 78

_CLOSE_CODES = {
    4004: "Discord refused the token (close code 4004): it was reset or is not this bot's",
    4010: "Discord refused the shard (close code 4010): shard id and count do not fit",
    4011: "Discord requires more shards (close code 4011): set bot.shards higher, or to auto",
    4012: "Discord refused the gateway version (close code 4012): update discord.py",
    4013: "Discord refused the intents (close code 4013): the app asks for some that do not exist",
}

_EXPLAINED = (
    ShardsError,
    discord.ConnectionClosed,
    discord.GatewayNotFound,
    discord.HTTPException,
    discord.LoginFailure,
    discord.PrivilegedIntentsRequired,
    aiohttp.ClientConnectionError,
)
"""Errors of which `explain` says all: a traceback through discord.py would tell an operator nothing more."""

_NOT_THE_APPS = {Path(__file__).parent, Path(importlib.__file__).parent}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the supervisor says on the command line."""

    generation: int
    app: str
    shards: str | int
    standby: bool
    ledger: str
    api_url: str
    read_fd: int
    write_fd: int
    directory: Path
    args: list[str]


class SetupError(Exception):
    """The app's setup_hook raised."""


@dataclass(slots=True, eq=False)
class Runtime:
    """The pieces of one child."""

    options: Options
    link: Link = field(init=False)
    inflight: InFlight = field(default_factory=InFlight)
    client: discord.Client | None = None
    gate: Gate | None = None
    shards: Shards | None = None
    _beats: int = 0
    _pong: int = 0
    _late: float = 0.0
    _ready: bool = False
    _youngest_session: float = 0.0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _main: asyncio.Future[None] | None = None
    _ending: asyncio.Task[None] | None = None
    _closing: bool = False
    _drain_ends: float = float("inf")

    async def run(self, token: str) -> int:
        """Live until the client is closed. Returns the exit code."""
        options = self.options
        self.link = Link(options.read_fd, options.write_fd, on_message=self._obey, on_lost=self._orphaned)
        self.link.open()
        if not die_with_parent(int(os.environ.get("BASTION_SUPERVISOR_PID") or os.getppid())):
            return 1
        loop = asyncio.get_running_loop()
        # A handler of Python's, not of the loop's: the alarm behind it must be set although the loop hangs.
        signal.signal(signal.SIGTERM, lambda *_: self._terminated(loop))
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        stacks.on_sigusr1(loop)
        self._send_hello()
        try:
            client = apps.load(options.app, directory=options.directory, args=options.args)
            self._surround(client, loop)
            async with client:
                self._main = asyncio.ensure_future(client.start(token))
                await asyncio.wait([self._main])
                if self.shards is not None:
                    self.shards.stop()  # when one shard is refused, others may still be connecting
                if not self._main.cancelled():
                    self._main.result()
        except BaseException as error:
            if self._ending is None:
                return self._give_up(error)
            _log.warning("while it ended, the app raised %s", apps.one_line(error))
        return await self._last_words()

    def _surround(self, client: discord.Client, loop: asyncio.AbstractEventLoop) -> None:
        options = self.options
        self.client = client
        internals.set_addresses(api_url=options.api_url)
        internals.around_setup_hook(client, lambda error: SetupError(f"setup_hook raised {apps.one_line(error)}"))
        self.inflight.install(loop)
        ledger = SQLiteLedger(options.ledger, options.generation)
        role = "standby" if options.standby else "active"
        self.gate = Gate(client=client, ledger=ledger, observer=self._observe, role=role)  # type: ignore[arg-type]
        self.gate.install()
        self.shards = Shards(client=client, requested=options.shards, send=self.link.send)
        self.shards.install()
        internals.before_connect(client, self._before_connect)
        internals.ask_again_for_members(client, patience=MEMBERS_PATIENCE)
        internals.on_session(client, self._session_began)
        self._spawn(self._beat())

    async def _before_connect(self) -> None:
        assert self.client is not None
        assert self.shards is not None
        internals.sign_requests(self.client, f"generation/{self.options.generation}")
        await self.shards.prepare()

    def _send_hello(self) -> None:
        versions = {
            "python": platform.python_version(),
            "discord.py": discord.__version__,
            "aiohttp": aiohttp.__version__,
        }
        self.link.send(wire.Hello(pid=os.getpid(), protocol=wire.PROTOCOL, versions=versions))

    def _session_began(self, shard: int, count: int) -> None:
        assert self.gate is not None
        assert self.shards is not None
        self._youngest_session = asyncio.get_running_loop().time()
        self.gate.session_began(shard, count, identified_at=self.shards.identified_at.get(shard, 0.0))

    def _observe(self, name: str, args: tuple[Any, ...]) -> None:
        assert self.shards is not None
        assert self.client is not None
        self.shards.observe(name, args)
        if name == "ready" and not self._ready:
            self._ready = True
            loop = asyncio.get_running_loop()
            loop.call_at(self._youngest_session + (SURE_AFTER if self.options.standby else 0.0), self._send_ready)

    def _send_ready(self) -> None:
        assert self.client is not None
        self._send_beat()  # so that the supervisor can compare what this child has heard
        self.link.send(wire.Ready(shards=self.client.shard_count or 1, guilds=len(self.client.guilds)))

    def _obey(self, message: wire.ToChild) -> None:
        if isinstance(message, wire.Ping):
            self._pong = message.n
            self._send_beat()
        elif isinstance(message, wire.Permit):
            if self.shards is not None:
                self.shards.permits.grant(message.shard)
        elif self.gate is None:
            self._end(0.0)
        elif isinstance(message, wire.Window):
            if message.open:
                self.gate.open_window()
            else:
                self.gate.close_window()
            self.link.send(wire.WindowAck(open=self.gate.window_open))
        elif isinstance(message, wire.Activate):
            self._spawn(self._activate(self.gate))
        elif isinstance(message, wire.Standby):
            self.gate.standby()
            self.gate.announce("deactivate")
            self.link.send(wire.Role(role="standby"))
        else:
            self._end(message.limit)

    async def _activate(self, gate: Gate) -> None:
        if self._ending is not None:
            if self._closing:
                return
            self._ending.cancel()
            self._ending = None
        if gate.client.is_closed():
            return  # The app closed it during the drain: `_last_words` says so.
        gate.role = "active"
        gate.announce("activate")
        self.link.send(wire.Role(role="active"))
        await gate.activate()
        self._send_beat()

    def _end(self, limit: float) -> None:
        """Drain and close. A second call while it drains can only hurry it."""
        ends = asyncio.get_running_loop().time() + limit
        if self._ending is not None:
            if self._closing or ends >= self._drain_ends:
                return
            self._ending.cancel()
        self._drain_ends = ends
        self._ending = asyncio.ensure_future(self._drain_and_close(limit))

    async def _drain_and_close(self, limit: float) -> None:
        if self.gate is not None:
            if self.gate.role != "draining":
                self.gate.drain()
                self.link.send(wire.Role(role="draining"))
                self.gate.announce("deactivate")
            result = await self.inflight.drain(limit)
            self._send_beat()
            for name in result.cut:
                _log.warning("cut, for it was not done within the time to drain: %s", name)
            self.link.send(wire.Drained(finished=result.finished, cut=result.cut))
        self._closing = True
        if self.shards is not None:
            self.shards.stop()
        if self.client is not None:
            try:
                await asyncio.wait_for(self.client.close(), _CLOSE_SECONDS)
            except Exception:
                _log.exception("the client could not be closed cleanly")
        if self._main is not None:
            # A client that is closed while it still logs in or sets up does not end by itself.
            await asyncio.wait([self._main], timeout=0.5)
            self._main.cancel()

    async def _last_words(self) -> int:
        while self._ending is not None and not self._ending.done():
            await asyncio.wait([self._ending])  # Another order may put a new one in its place, or take it back.
        if self._ending is None:
            self.link.send(wire.Fatal(reason="the app closed its own client", retryable=True))
        else:
            self._ending.result()
        for task in self._tasks:
            task.cancel()
        self.link.flush_now()
        return 0 if self._ending is not None else 1

    def _give_up(self, error: BaseException) -> int:
        reason, retryable = explain(error, self.options.api_url)
        _log.error("%s", reason, exc_info=origin(error))
        self.link.send(wire.Fatal(reason=reason, retryable=retryable))
        self.link.flush_now()
        return 1 if retryable else EXIT_CONFIGURATION

    def _orphaned(self, reason: str) -> None:
        _log.warning("%s: ending", reason)
        self._hurry()

    def _terminated(self, loop: asyncio.AbstractEventLoop) -> None:
        _end_within(ALARM_SECONDS)
        loop.call_soon_threadsafe(self._hurry)

    def _hurry(self) -> None:
        _end_within(ALARM_SECONDS)
        if self.gate is None:
            os._exit(1)
        self._end(HURRIED_SECONDS)

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        self._send_beat()
        while True:
            due = loop.time() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            self._late = max(self._late, loop.time() - due)
            if self.gate is not None:
                self.gate.forget_claimed()
            self._send_beat()

    def _send_beat(self) -> None:
        if self.gate is None or self.client is None or self.shards is None:
            return
        counters = self.gate.counters
        ledger = self.gate.ledger
        self._beats += 1
        self.link.send(
            wire.Beat(
                n=self._beats,
                loop_lag_ms=round(self._late * 1000, 1),
                in_flight=self.inflight.count(),
                handled=counters.handled,
                held=self.gate.held,
                replayed=counters.replayed,
                expired=counters.expired,
                overflowed=counters.overflowed,
                received=counters.received,
                heard=counters.heard,
                guilds=len(self.client.guilds),
                claims=wire.Claims(won=ledger.won, lost=ledger.lost, errors=ledger.errors),
                latencies=self.shards.latencies(),
                pong=self._pong,
            )
        )
        self._late = 0.0

    def _spawn(self, coroutine: Any) -> None:
        task: asyncio.Task[None] = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _end_within(seconds: int) -> None:
    """Set the alarm that nobody handles, once: a later cause must not put it off."""
    left = signal.alarm(0)
    signal.alarm(left or seconds)


def origin(error: BaseException) -> BaseException | None:
    """Return the exception whose traceback tells more than `explain` does; None if there is none.

    What the app raised is returned without our own frames, so that the traceback begins in the app.
    """
    if isinstance(error, (apps.AppError, SetupError)):
        cause = error.__cause__
        return cause and cause.with_traceback(_in_app(cause.__traceback__))
    return None if isinstance(error, _EXPLAINED) else error


def _in_app(trace: TracebackType | None) -> TracebackType | None:
    """Leave out the frames that come before the app's: this runtime's and the import system's."""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if Path(file).parent not in _NOT_THE_APPS and not file.startswith("<frozen importlib"):
            break
        trace = trace.tb_next
    return trace


def explain(error: BaseException, api_url: str) -> tuple[str, bool]:
    """Return why a child gives up, in one line, and whether the same release could succeed on another try."""
    if isinstance(error, (apps.AppError, ShardsError, SetupError)):
        return str(error), False
    if isinstance(error, discord.LoginFailure):
        return "Discord refused the token (401): check DISCORD_TOKEN or discord.token_file", False
    if isinstance(error, discord.PrivilegedIntentsRequired):
        return (
            "Discord refused the intents (close code 4014): the app asks for privileged ones that are not enabled on "
            "the Bot page of the Developer Portal",
            False,
        )
    if isinstance(error, discord.ConnectionClosed):
        reason = _CLOSE_CODES.get(error.code, f"Discord closed the gateway (close code {error.code})")
        return reason, error.code not in _CLOSE_CODES
    if isinstance(error, (aiohttp.ClientConnectionError, discord.GatewayNotFound)):
        return f"Discord cannot be reached at {api_url}: {apps.one_line(error)}", True
    if isinstance(error, discord.HTTPException):
        return f"Discord refused a request while the app started: {apps.one_line(error)}", error.status >= 429
    return f"the app ended with {apps.one_line(error)}", True
