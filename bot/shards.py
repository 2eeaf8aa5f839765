"""Shards side by side: all at once as far as permits allow, where discord.py connects one after the other.

A permit is asked for before any socket is opened (an open socket that waits gets no heartbeats and is dropped), on
first connects and on every reconnect that must IDENTIFY.

Knows shards and permits; knows nothing of roles, events or claims.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import discord
import yarl
from discord.gateway import DiscordWebSocket
from discord.shard import SessionStartLimits

from bastion import wire
from bastion.bot import internals
from bastion.bot.discordpy import sockets
from bastion.bot.session.handover import Handover
from bastion.counted import counted

_log = logging.getLogger("bastion.shards")

_PERMIT_LIFE = 10.0
"""Seconds for which a permit that came after its connection gave up can still be used. The supervisor counts it as
used 30 s after it was given, so an IDENTIFY under it must not come later than that."""

_BROKEN = frozenset({"closed", "resuming"})
"""States of a shard whose session may have more to bring than its connection."""

NEAR_FAILURES = 2
"""After so many connections in a row that a session's own address did not take, the gateway's common one is tried."""

PREPARE_PAUSES = (1.0, 2.0, 4.0)
"""Seconds between tries to learn where the gateway is. Of Discord's errors discord.py tries 500, 502 and 504 again."""

FRUITLESS, LONGEST_PAUSE = 3, 45.0
"""After so many IDENTIFYs in a row that brought no session each further one waits, twice as long as the one before it,
for so many seconds at most: a thousand are all that Discord allows a day."""

PARSED = 3
"""Turns of the loop until what it has read from a socket is parsed: one for aiohttp, one for discord.py, one spare."""


class ShardsError(Exception):
    """The settings and the app do not agree on the shards. The text says how to mend it."""


@dataclass(slots=True, eq=False)
class Permits:
    """Waits for leave to IDENTIFY, one shard at a time."""

    ask: Callable[[int], None]
    _waiting: dict[int, asyncio.Future[None]] = field(default_factory=dict)
    _granted: dict[int, float] = field(default_factory=dict)

    async def acquire(self, shard: int) -> None:
        """Return when this shard may IDENTIFY."""
        granted = self._granted.pop(shard, None)
        if granted is not None and time.monotonic() - granted < _PERMIT_LIFE:
            return
        future = self._waiting.get(shard)
        if future is None:
            future = self._waiting[shard] = asyncio.get_running_loop().create_future()
            self.ask(shard)
        # Shielded: when discord.py gives up waiting, the request stands and the next try takes it over.
        await asyncio.shield(future)
        self._granted.pop(shard, None)

    def grant(self, shard: int) -> None:
        """Hand over a permit that came from the supervisor."""
        self._granted[shard] = time.monotonic()
        future = self._waiting.pop(shard, None)
        if future is not None:
            future.set_result(None)

    def ask_again(self) -> None:
        """Ask anew for what is still waited for: whoever had heard it has forgotten."""
        for shard in self._waiting:
            self.ask(shard)

    def keep(self, shard: int) -> None:
        """Put an acquired permit back for the connection that follows."""
        self._granted[shard] = time.monotonic()


@dataclass(slots=True, eq=False)
class Shards:
    """The gateway connections of one client."""

    client: discord.Client
    requested: str | int
    """The ``bot.shards`` setting: "auto" or a count."""
    send: Callable[[wire.FromChild], None]
    handover: Handover
    permits: Permits = field(init=False)
    identified_at: dict[int, float] = field(default_factory=dict)
    """When each shard's newest IDENTIFY was sent, on the machine's monotonic clock."""
    _states: dict[int, tuple[wire.ShardState, str]] = field(default_factory=dict)
    """How each shard stands, and why it is not ready."""
    _failed: dict[int, int] = field(default_factory=dict)
    """How many connections in a row could not be opened, by shard."""
    _fruitless: dict[int, int] = field(default_factory=dict)
    """How many IDENTIFYs have been sent since a shard was ready last."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever a shard's state changes."""
    _websockets: dict[int, DiscordWebSocket] = field(default_factory=dict)
    """The newest connection of each shard."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _gateway: yarl.URL = field(init=False)
    count: int = 0
    """How many shards the bot has in all."""
    ids: list[int] | range = field(default_factory=list)
    """Those that this child connects."""
    _own_count: int | None = None
    """What the app itself asks for."""

    def install(self) -> None:
        """Put permits in front of every connection of this process."""
        self.permits = Permits(lambda shard: self.send(wire.Identify(shard=shard)))
        if internals.default_identify_hook(self.client):
            internals.silence_identify_hook(self.client)
        internals.wrap_connections(self._permitted)
        internals.reconnect_soon()
        sockets.expect_hello()
        if isinstance(self.client, discord.AutoShardedClient):
            internals.reconnect_side_by_side(self._keep)
            internals.let_shards_be_ready_on_their_own(self.client)
            internals.replace_launch(self.client, self._launch)

    async def prepare(self) -> None:
        """Ask Discord where to connect and how often, and plan the number of shards.

        Raises `ShardsError`, and what discord.py raises for a failed request.
        """
        recommended, url, limit = await self._gateway_bot()
        internals.set_addresses(gateway_url=url)
        self._gateway = yarl.URL(url)
        count, ids = self._plan(recommended)
        self.send(
            wire.Limits(
                total=limit.total,
                remaining=limit.remaining,
                reset_after=limit.reset_after / 1000,
                max_concurrency=limit.max_concurrency,
                shards=len(ids),
            )
        )
        self.fix(count, ids)

    def tell(self) -> None:
        """Say how each shard stands, and what it waits for."""
        for shard, (state, why) in self._states.items():
            self.send(wire.Shard(id=shard, state=state, why=why))
        self.permits.ask_again()

    async def _gateway_bot(self) -> tuple[int, str, SessionStartLimits]:
        """Ask Discord; an error of its own that passes within seconds is no reason to fail."""
        for pause in PREPARE_PAUSES:
            try:
                return await internals.gateway_bot(self.client)
            except discord.GatewayNotFound as error:
                if not isinstance(error.__cause__, discord.HTTPException) or error.__cause__.status < 500:
                    raise
                await asyncio.sleep(pause)
        return await internals.gateway_bot(self.client)

    def fix(self, count: int, ids: list[int] | range) -> None:
        """Fix the number of shards, and which of them this child connects."""
        self.count, self.ids = count, ids
        if isinstance(self.client, discord.AutoShardedClient):
            internals.prepare_shards(self.client, count, ids)
        for shard in ids:
            self._become(shard, "waiting")

    async def permitted(self) -> None:
        """Wait until the first connection of a client with one shard may IDENTIFY."""
        if not isinstance(self.client, discord.AutoShardedClient) and not self.handover.mirrors(self.ids[0]):
            await self.permits.acquire(self.ids[0])
            self.permits.keep(self.ids[0])

    @property
    def any_count(self) -> bool:
        """Whether neither the settings nor the app say how many shards there are."""
        client = self.client
        if not isinstance(client, discord.AutoShardedClient) or self.requested != "auto":
            return False
        return self._own_count is None

    def observe(self, name: str, args: tuple[Any, ...]) -> None:
        """Follow the shards' states by the base events of discord.py."""
        if isinstance(self.client, discord.AutoShardedClient):
            state: wire.ShardState | None = {
                "shard_ready": "ready",
                "shard_resumed": "ready",
                "shard_disconnect": "closed",
            }.get(name)  # type: ignore[assignment]
            if state is not None:
                self._observed(args[0], state)
        elif name in ("ready", "resumed", "disconnect"):
            self._observed(self.client.shard_id or 0, "closed" if name == "disconnect" else "ready")

    def _observed(self, shard: int, state: wire.ShardState) -> None:
        if state == "ready":
            self._fruitless.pop(shard, None)
            self._become(shard, state)
        elif self._state(shard) != "closed":  # discord.py says so again after each try
            self._become(shard, state, "" if shard in self._failed else self.handover.why_away(shard))

    def latencies(self) -> dict[int, float]:
        """Milliseconds between a heartbeat and its answer, by shard, where one was answered."""
        if isinstance(self.client, discord.AutoShardedClient):
            pairs = self.client.latencies
        else:
            pairs = [(self.client.shard_id or 0, self.client.latency)]
        return {shard: round(seconds * 1000, 1) for shard, seconds in pairs if 0 <= seconds < float("inf")}

    def is_ready(self, shard: int) -> bool:
        """Whether a shard has its session, and its guilds are in the cache."""
        return self._state(shard) == "ready"

    @property
    def broken(self) -> bool:
        """Whether a connection has broken whose session has more to bring."""
        return any(state in _BROKEN for state, _ in self._states.values())

    @property
    def unread(self) -> bool:
        """Whether something has come on a connection that the event loop has not read yet."""
        return any(map(internals.unread, self._websockets.values()))

    def lasts(self, shard: int, began_at: float) -> bool:
        """Whether the session that a shard began then is still the one that it has, or will resume."""
        return self._state(shard) != "waiting" and self.identified_at.get(shard, 0.0) <= began_at

    async def caught_up(self, patience: float) -> None:
        """Wait until all that has come to the sessions by now has been read, at most ``patience`` seconds.

        A connection that has broken is waited for until it is resumed, or its session is known to be over.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self.broken:
                    self._changed.clear()
                    await self._changed.wait()
                while self.unread:
                    await turns(1)  # reads a part of each
        await turns(PARSED)

    def stop(self) -> None:
        """Begin no further connection."""
        for task in self._tasks:
            task.cancel()

    def _plan(self, recommended: int) -> tuple[int, list[int] | range]:
        if not isinstance(self.client, discord.AutoShardedClient):
            if self.requested not in ("auto", 1):
                raise ShardsError(
                    f"bot.shards = {self.requested}, but the app is a {type(self.client).__name__}, which connects one "
                    'shard: make it an AutoShardedClient or AutoShardedBot, or set bot.shards = "auto"'
                )
            return self.client.shard_count or 1, [self.client.shard_id or 0]
        own = self._own_count = self.client.shard_count
        if self.client.shard_ids is not None and own is not None:
            if self.requested not in ("auto", own):
                raise ShardsError(
                    f"bot.shards = {self.requested}, but the app itself asks for some of {counted(own, 'shard')} "
                    '(shard_ids): remove them from the app, or set bot.shards = "auto"'
                )
            return own, list(self.client.shard_ids)
        count = (own or recommended) if self.requested == "auto" else int(self.requested)
        return count, range(count)

    async def _launch(self) -> None:
        # Returns at once: discord.py's loop behind it must see the first shard fail while others still wait.
        assert isinstance(self.client, discord.AutoShardedClient)
        for shard in self.ids:
            self._keep(asyncio.ensure_future(self._launch_one(self.client, shard, initial=shard == self.ids[0])))

    async def _launch_one(self, client: discord.AutoShardedClient, shard: int, *, initial: bool) -> None:
        if not self.handover.mirrors(shard):
            await self.permits.acquire(shard)
            self.permits.keep(shard)
        await client.launch_shard(self._gateway, shard, initial=initial)

    def _permitted(self, inner: internals.FromClient) -> internals.FromClient:
        async def from_client(client: discord.Client, **options: Any) -> Any:
            shard = options.get("shard_id") or 0
            if not options.get("resume") and not self.handover.mirrors(shard):
                options |= self._known(shard)
            if options.get("resume") and options.get("session") is not None:
                if not self.handover.may_resume(shard):
                    raise asyncio.CancelledError
                if not self.handover.is_dead(shard):
                    return await self._resume(inner, client, shard, options)
                options |= {"session": None, "sequence": None, "gateway": None}
            if self.handover.mirrors(shard):
                return await self._open(inner, client, shard, options)
            why = f"Discord does not resume its session, {dead}" if (dead := self.handover.why_dead(shard)) else ""
            options["resume"] = False  # discord.py also asks to resume what was cut before READY: nothing is there yet
            if not self.handover.may_identify(shard):
                raise asyncio.CancelledError
            self._become(shard, "waiting", why)
            if (pause := self._pause(shard)) > 0:
                await asyncio.sleep(pause)
            await self.permits.acquire(shard)
            self.identified_at[shard] = time.monotonic()
            self._fruitless[shard] = self._fruitless.get(shard, 0) + 1
            try:
                websocket = await self._open(inner, client, shard, options)
            except Exception:
                if self.client.is_closed():
                    # Another shard was refused for good. discord.py would log this one's failure as a fault of its own.
                    raise asyncio.CancelledError from None
                raise
            self._become(shard, "connecting")
            return websocket

        return from_client

    def _pause(self, shard: int) -> float:
        """Return for how many seconds a shard is to wait before it asks for leave to IDENTIFY."""
        too_many = self._fruitless.get(shard, 0) - FRUITLESS
        if too_many < 0:
            return 0.0
        return self.identified_at[shard] + min(4.0 * 2.0 ** min(too_many, 10), LONGEST_PAUSE) - time.monotonic()

    async def _resume(
        self, inner: internals.FromClient, client: discord.Client, shard: int, options: dict[str, Any]
    ) -> DiscordWebSocket:
        if not self.handover.moves(shard):
            self._become(shard, "resuming")
            if pause := self.handover.resumes.pause(shard):
                await asyncio.sleep(pause)
        if self._failed.get(shard, 0) >= NEAR_FAILURES:
            options["gateway"] = None
        if (sequence := options.get("sequence")) is not None:
            options["sequence"] = self.handover.resume_from(shard, sequence)
        return await self._open(inner, client, shard, options)

    async def _open(
        self, inner: internals.FromClient, client: discord.Client, shard: int, options: dict[str, Any]
    ) -> DiscordWebSocket:
        with self.handover.connecting(shard):
            try:
                websocket = self.handover.resumed_before(shard) or await inner(client, **options)
            except (OSError, aiohttp.ClientError) as error:
                self._failed[shard] = self._failed.get(shard, 0) + 1
                self._become(shard, self._state(shard) or "closed", f"cannot connect: {_told(error)}")
                raise
            self._failed.pop(shard, None)
            self._websockets[shard] = websocket
            await self.handover.connected(shard, websocket, resumed=bool(options.get("resume")))
        return websocket

    def _known(self, shard: int) -> dict[str, Any]:
        """Return with what a session goes on whose shard could not be connected: discord.py would begin a new one."""
        websocket = self._websockets.get(shard)
        if websocket is None or websocket.session_id is None or websocket.sequence is None:
            return {}
        session, sequence, gateway = websocket.session_id, websocket.sequence, websocket.gateway
        return {"resume": True, "session": session, "sequence": sequence, "gateway": gateway}

    def _state(self, shard: int) -> wire.ShardState | None:
        return self._states[shard][0] if shard in self._states else None

    def _become(self, shard: int, state: wire.ShardState, why: str = "") -> None:
        """Note and tell how a shard stands. Without a new reason why it is away the last one holds."""
        before, known = self._states.get(shard, (None, ""))
        why = "" if state == "ready" else why or known
        if (before, known) != (state, why):
            self._states[shard] = state, why
            self._changed.set()
            self.send(wire.Shard(id=shard, state=state, why=why))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a shard could not be connected", exc_info=error)


def _told(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {sockets.CONNECT_SECONDS:g} s"
    return f"{type(error).__name__}: {error}"[:200].rstrip(": ")


async def turns(count: int) -> None:
    """Let the event loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)
