"""Every private attribute of discord.py that the runtime touches, and nothing else.

There is no public way to these. `PRIVATE` names them all; a test walks it over the supported versions, so that a change
in discord.py fails there, loudly, and not in somebody's production. No decision is taken here.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import datetime
import fcntl
import sys
import termios
from array import array
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, cast

import aiohttp
import discord
import yarl
from discord.activity import create_activity
from discord.backoff import ExponentialBackoff
from discord.ext import tasks
from discord.gateway import DiscordWebSocket
from discord.http import Route
from discord.shard import SessionStartLimits, Shard

Parser: TypeAlias = Callable[[Any], None]
AnyView: TypeAlias = "discord.ui.view.BaseView"
"""A view or a modal. Before discord.py 2.6 they had no base of this name, so nothing may look it up."""
Dispatch: TypeAlias = Callable[..., None]
FromClient: TypeAlias = Callable[..., Coroutine[Any, Any, DiscordWebSocket]]

PRIVATE: Mapping[str, tuple[str, ...]] = {
    "client": ("_connection", "_listeners", "_hooks"),
    "state": (
        "parsers",
        "dispatch",
        "shard_count",
        "_view_store",
        "store_view",
        "_intents",
        "_chunk_requests",
        "_chunk_timeout",
        "_add_ready_state",
        "_chunk_guilds",
        "chunker",
        "_messages",
        "_activity",
        "_status",
        "_command_tree",
        "_ready_state",
        "_ready_states",
    ),
    "sharded state": ("_delay_ready", "_delay_shard_ready", "_ready_tasks"),
    "view store": ("_views", "_modals", "_dynamic_items", "_synced_message_views"),
    "websocket": ("from_client", "DEFAULT_GATEWAY", "REQUEST_MEMBERS", "poll_event", "close"),
    "websocket's own": ("_discord_parsers", "_dispatch"),
    "sharded client": ("launch_shards", "launch_shard"),
    "shard": ("reidentify", "reconnect"),
    "backoff": ("_max",),
    "http": (
        "get_bot_gateway",
        "user_agent",
        "_HTTPClient__session",
        "bulk_upsert_global_commands",
        "bulk_upsert_guild_commands",
        "get_global_commands",
        "get_guild_commands",
    ),
    "command tree": ("_guild_commands",),
    "route": ("BASE",),
    "member": ("_copy",),
    "guild": ("_members", "_member_count"),
    "loop": (
        "_call_loop_function",
        "_last_iteration",
        "_last_iteration_failed",
        "_next_iteration",
        "_try_sleep_until",
        "_handle",
    ),
}


def set_addresses(*, api_url: str | None = None, gateway_url: str | None = None) -> None:
    """Send REST, or gateway connections, of this process to another place than Discord's default one."""
    if api_url is not None:
        Route.BASE = api_url.rstrip("/")
    if gateway_url is not None:
        DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(gateway_url)


def parsers(client: discord.Client) -> dict[str, Parser]:
    """Return the live table of event parsers: every websocket of the client reads this very dict."""
    return client._connection.parsers


def replace_dispatch(client: discord.Client, dispatch: Dispatch) -> Dispatch:
    """Put ``dispatch`` in the place of the client's own, everywhere it is called from; return the client's own."""
    own: Dispatch = client.dispatch
    client.dispatch = dispatch  # type: ignore[method-assign]
    client._connection.dispatch = dispatch
    return own


@lru_cache(maxsize=1024)
def method_of(event: str) -> str:
    """Return the name of an event's method: always the same object, for only those are found in a type's cache."""
    return sys.intern(f"on_{event}")


@dataclass(frozen=True, slots=True, eq=False)
class Ears:
    """By what an app hears events: a method of its client, a cog's listener, a `wait_for`. All of it may change."""

    client: discord.Client
    waiting: Mapping[str, Any]
    """The pending `wait_for`s, by event."""
    cogs: Mapping[str, Any]
    """The listeners of cogs, by method."""
    everything: bool
    """Whether its client has a ``dispatch`` of its own, which hears every event."""

    def hear(self, event: str) -> bool:
        """Whether anything in the app listens to an event now."""
        method = method_of(event)
        return self.everything or hasattr(self.client, method) or event in self.waiting or bool(self.cogs.get(method))


def ears(client: discord.Client) -> Ears:
    """Return by what an app hears events. To be asked before `replace_dispatch`."""
    everything = not getattr(client.dispatch, "__module__", "").startswith("discord.")
    return Ears(client, client._listeners, getattr(client, "extra_events", {}), everything)


def listens(client: discord.Client, event: str) -> bool:
    """Whether the app hears every event of this name: by a method or a cog's listener, not by a `wait_for` alone."""
    method = method_of(event)
    return hasattr(client, method) or bool(getattr(client, "extra_events", {}).get(method))


def waits_for(client: discord.Client, event: str) -> bool:
    """Whether a `wait_for` of this event is pending."""
    return bool(client._listeners.get(event))


def would_wake(client: discord.Client, event: str, *args: Any) -> bool:
    """Whether a pending `wait_for` of this event takes these arguments. A check that raises takes none."""
    for future, condition in client._listeners.get(event, ()):
        try:
            if not future.done() and condition(*args):
                return True
        except Exception:  # the app's own check; discord.py gives it to the waiter when the event is fed
            return True
    return False


def feed_waiters(client: discord.Client, event: str, *args: Any) -> None:
    """Give an event to pending `wait_for`s alone, as `Client.dispatch` does before it calls listeners."""
    keep = []
    for future, condition in client._listeners.get(event, ()):
        if future.done():
            continue
        try:
            if not condition(*args):
                keep.append((future, condition))
                continue
        except Exception as error:
            future.set_exception(error)
            continue
        future.set_result(None if not args else args[0] if len(args) == 1 else args)
    if keep:
        client._listeners[event] = keep
    else:
        client._listeners.pop(event, None)


def without_waiters(client: discord.Client, event: str, dispatch: Callable[[], None]) -> None:
    """Run a dispatch that pending `wait_for`s of this event do not see, because they were fed before."""
    waiting = client._listeners.pop(event, None)
    try:
        dispatch()
    finally:
        if waiting:
            client._listeners[event] = waiting


def snapshot(value: Any) -> Any:
    """Copy what discord.py goes on changing in its cache, so that an event held back still says what it said."""
    if isinstance(value, discord.Message):
        return copy.copy(value)
    if isinstance(value, discord.Member):
        return discord.Member._copy(value)
    return value


def make_interaction(client: discord.Client, data: Any) -> discord.Interaction[Any]:
    """Build the object that the parser would build of a raw interaction, without dispatching it."""
    return discord.Interaction(data=data, state=client._connection)


def views_of(client: discord.Client, data: Mapping[str, Any]) -> tuple[AnyView | None, AnyView | None]:
    """Return the view bound to the message of a raw component interaction, and the one that is bound to none.

    discord.py gives the interaction to the first of them. Up to 2.6 it files the answer to a command under the
    interaction, whose id the message names, and the answer to a component under no message, also if it is timed.
    """
    views = client._connection._view_store._views
    component = (data["data"]["component_type"], data["data"]["custom_id"])
    message = data.get("message") or {}
    item = views.get(None, {}).get(component)
    unbound = item.view if item is not None else None
    for number in (message.get("id"), (message.get("interaction_metadata") or {}).get("id")):
        bound = views.get(int(number), {}).get(component) if number is not None else None
        if bound is not None:
            return bound.view, unbound
    return None, unbound


def dynamic_item(client: discord.Client, custom_id: str) -> bool:
    """Whether a registered dynamic item answers components of this custom id."""
    return any(pattern.fullmatch(custom_id) for pattern in client._connection._view_store._dynamic_items)


def open_modal(client: discord.Client, custom_id: str) -> bool:
    """Whether this process sent the modal and waits for it."""
    modal = client._connection._view_store._modals.get(custom_id)
    return modal is not None and not modal.is_finished()


def open_modals(client: discord.Client) -> list[discord.ui.Modal]:
    """Return the modals that this process sent and that were not submitted, as far as discord.py knows."""
    return [modal for modal in client._connection._view_store._modals.values() if not modal.is_finished()]


def bound_views(client: discord.Client) -> Iterator[tuple[AnyView, int | None]]:
    """Yield each unfinished view that has a component which nothing but the view answers, and its message.

    A view that was edited away is left out: discord.py keeps it until it times out, but nobody can see it.
    """
    store = client._connection._view_store
    unbound = store._views.get(None, {}).items()
    lasting = {component for component, item in unbound if item.view is not None and item.view.is_persistent()}
    seen: set[str] = set()
    for number, items in list(store._views.items()):
        for component, item in items.items():
            view = item.view
            if view is None or view.id in seen or view.is_finished() or component in lasting:
                continue
            if number is not None and store._synced_message_views.get(number) is not view:
                continue
            if not dynamic_item(client, component[1]):
                seen.add(view.id)
                yield view, number


def on_view_sent(client: discord.Client, sent: Callable[[AnyView], None], registered: Callable[[AnyView], Any]) -> None:
    """Call ``sent`` with every view and modal that discord.py files, and before it ``registered`` if the app did so."""
    state = client._connection
    store_view, add_view = state.store_view, client.add_view

    def stored(view: AnyView, *args: Any, **options: Any) -> None:
        store_view(view, *args, **options)
        sent(view)

    def added(view: AnyView, **options: Any) -> None:
        registered(view)
        add_view(view, **options)

    state.store_view = stored  # type: ignore[method-assign]
    client.add_view = added  # type: ignore[method-assign]


_wait: Callable[[Any], Coroutine[Any, Any, bool]] = discord.ui.View.wait


async def wait_finished(view: AnyView) -> None:
    """Wait until a view or modal was submitted, stopped or timed out. Cancelling this finishes it."""
    await _wait(view)


def around_view_waits(block: Callable[[], AbstractContextManager[None]]) -> None:
    """Run every ``wait`` of a view or modal in this process within a block."""

    async def wait(view: AnyView) -> bool:
        with block():
            return await _wait(view)

    owner: Any = next(kind for kind in discord.ui.View.__mro__ if "wait" in vars(kind))
    owner.wait = wait


def on_wait_for(client: discord.Client, note: Callable[[asyncio.Future[Any]], None]) -> None:
    """Call ``note`` with the future of every `wait_for`, which listens from the call on, awaited or not."""
    own = client.wait_for

    def wait_for(event: Any, /, **options: Any) -> Any:
        name = str(event).lower()
        before = len(client._listeners.get(name, ()))
        waiting = own(event, **options)
        listening = client._listeners.get(name, [])
        if len(listening) > before:
            note(listening[-1][0])
        return waiting

    client.wait_for = wait_for  # type: ignore[method-assign]


def intents(client: discord.Client) -> discord.Intents:
    """Return the intents that the client identifies with."""
    return client._connection._intents


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """What a client keeps in its cache."""

    members: int
    """Which members, as the value of `discord.MemberCacheFlags`."""
    messages: bool
    chunks: bool
    """Whether it asks for all members of all guilds."""


def cache_policy(client: discord.Client) -> CachePolicy:
    """Return what a client keeps in its cache."""
    state = client._connection
    return CachePolicy(
        members=state.member_cache_flags.value,
        messages=state._messages is not None,
        chunks=state._chunk_guilds,
    )


async def gateway_bot(client: discord.Client) -> tuple[int, str, SessionStartLimits]:
    """Ask ``GET /gateway/bot``: recommended shards, gateway address, session_start_limit."""
    shards, url, limit = await client.http.get_bot_gateway()
    return shards, url, SessionStartLimits(**limit)


def sign_requests(client: discord.Client, suffix: str) -> None:
    """Append to the User-Agent of every REST request, which Discord's rules allow. Call it after login.

    Answers to interactions take their headers from the HTTP session alone.
    """
    client.http.user_agent = f"{client.http.user_agent} {suffix}"
    session: aiohttp.ClientSession = client.http._HTTPClient__session  # type: ignore[attr-defined]
    session.headers["User-Agent"] = client.http.user_agent


def let_shards_be_ready_on_their_own(client: discord.AutoShardedClient) -> None:
    """Keep a shard that identifies anew from cutting off what the others do to be ready.

    Stock, its READY cancels the waiting for all shards and with it each one's own: those are never called ready, and
    the guilds that they join from then on are never told of. Its own former waiting may outlive its cancellation (on
    Python 3.11 `asyncio.wait_for` swallows one that comes together with a guild, or with the last members), and takes
    away what the new one waits for: the new one begins when that has ended, with what was there at its READY.

    Call it after `ready_with_the_last_guild`.
    """
    state = client._connection
    own, own_of_shard, ready = state._delay_ready, state._delay_shard_ready, state.parsers["READY"]
    newest: dict[int, asyncio.Task[Any]] = {}
    arrivals: dict[int, asyncio.Queue[discord.Guild]] = {}

    def parse_ready(data: Any) -> None:
        ready(data)
        arrivals[data["shard"][0]] = state._ready_states[data["shard"][0]]

    async def delay_shard_ready(shard_id: int) -> None:
        former, newest[shard_id] = newest.get(shard_id), cast("asyncio.Task[Any]", asyncio.current_task())
        if former is not None and not former.done():
            await asyncio.wait([former])
        state._ready_states[shard_id] = arrivals[shard_id]
        await own_of_shard(shard_id)

    async def delay_ready() -> None:
        await asyncio.wait(state._ready_tasks.values())  # which, cancelled, leaves them alone
        await own()

    state.parsers["READY"] = parse_ready
    state._delay_ready = delay_ready  # type: ignore[method-assign]
    state._delay_shard_ready = delay_shard_ready  # type: ignore[method-assign]


def wrap_connections(around: Callable[[FromClient], FromClient]) -> None:
    """Put a function around every opening of a gateway connection in this process."""
    inner: FromClient = DiscordWebSocket.from_client
    DiscordWebSocket.from_client = staticmethod(around(inner))  # type: ignore[method-assign]


def reconnect_side_by_side(keep: Callable[[asyncio.Task[None]], None]) -> None:
    """Let a sharded client's shards reconnect at the same time; stock, one that waits holds up all others."""

    def beside(method: Callable[..., Awaitable[None]]) -> Callable[..., Coroutine[Any, Any, None]]:
        async def start(shard: Shard, *args: Any) -> None:
            keep(asyncio.ensure_future(method(shard, *args)))

        return start

    Shard.reidentify = beside(Shard.reidentify)  # type: ignore[method-assign]
    Shard.reconnect = beside(Shard.reconnect)  # type: ignore[method-assign]


class _Soon(ExponentialBackoff[Any]):
    """What waits between two tries to connect: 8 s at most, and not up to 17 minutes."""

    def __init__(self, base: int = 1, *, integral: Any = False) -> None:
        super().__init__(base, integral=integral)
        self._max = 3


def reconnect_soon() -> None:
    """Have a client that cannot be connected try again within seconds, however long it could not be."""
    for module in (discord.client, discord.shard):
        module.__dict__["ExponentialBackoff"] = _Soon


def replace_launch(client: discord.AutoShardedClient, launch: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Put ``launch`` in the place of the loop that connects one shard after the other."""
    client.launch_shards = launch  # type: ignore[method-assign]


def prepare_shards(client: discord.AutoShardedClient, count: int, ids: list[int] | range) -> None:
    """Fix count and ids before any shard can get READY: on_ready counts against them."""
    client.shard_count = count
    client._connection.shard_count = count
    client._connection.shard_ids = ids


def around_login(log_in: Callable[[discord.Client, object, Callable[[], Awaitable[None]]], Awaitable[None]]) -> None:
    """Have every login of this process go through ``log_in``: it gets the client, its token, and the login itself."""
    own = discord.Client.login

    async def login(client: discord.Client, token: str) -> None:
        await log_in(client, token, lambda: own(client, token))

    discord.Client.login = login  # type: ignore[method-assign, assignment]


def around_connect(client: discord.Client, connect: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]) -> None:
    """Have the connecting of a client go through ``connect``, which gets the connecting itself."""
    own = client.connect

    async def connected(*, reconnect: bool = True) -> None:
        await connect(lambda: own(reconnect=reconnect))

    client.connect = connected  # type: ignore[method-assign]


def on_session(client: discord.Client, note: Callable[[int, int], None]) -> None:
    """Call ``note`` with (shard id, shard count) of every READY, before discord.py sees it."""
    ready = parsers(client)["READY"]

    def noted(data: Any) -> None:
        shard, count = data.get("shard", (0, 1))
        note(shard, count)
        ready(data)

    parsers(client)["READY"] = noted


def on_awaited_guild(client: discord.Client, note: Callable[[], None]) -> None:
    """Call ``note`` when a guild that came is left to the task that awaits the guilds of a READY."""
    state = client._connection
    own = state._add_ready_state

    def add(guild: discord.Guild) -> bool:
        awaited = own(guild)
        if awaited:
            note()
        return awaited

    state._add_ready_state = add  # type: ignore[method-assign]


def heed_cancellation() -> None:
    """End the current task if it was cancelled and went on.

    On Python 3.11 `asyncio.wait_for` swallows a cancellation that comes together with what it waits for. discord.py's
    wait for guilds and members would then outlive the program's loop by its whole timeout, and keep the process.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class _NoLongerAwaitedError(KeyError, AttributeError):
    """Tells discord.py that no readiness waits for a guild: a sharded client expects the one, a plain one the other."""


class _Arrivals(asyncio.Queue[discord.Guild]):
    """The guilds that came since READY; it says that no more will come as soon as all that READY named are here."""

    def __init__(self, missing: set[int]) -> None:
        super().__init__()
        self.missing = missing
        self.over = False

    def put_nowait(self, guild: discord.Guild) -> None:
        if self.over:
            raise _NoLongerAwaitedError
        self.missing.discard(guild.id)
        super().put_nowait(guild)

    def get(self) -> Coroutine[Any, Any, discord.Guild]:
        heed_cancellation()
        return self._get_or_end()

    async def _get_or_end(self) -> discord.Guild:
        try:
            if self.empty() and not self.missing:
                raise TimeoutError  # what discord.py takes for the end of the guilds
            return await super().get()
        except (TimeoutError, asyncio.CancelledError):
            self.over = True
            raise


def ready_with_the_last_guild(client: discord.Client) -> None:
    """End the wait for guilds when the last one is there; stock, it lasts ``guild_ready_timeout`` (2 s) longer.

    READY names them all. While one of them does not come, because it is unavailable or was left, the timeout holds as
    ever. A guild that is joined later, while members are still on their way, is no longer taken for one of them.
    """
    state = client._connection
    ready = state.parsers["READY"]

    def noted(data: Any) -> None:
        ready(data)
        if not state._intents.guilds:
            return
        arrivals = _Arrivals({int(guild["id"]) for guild in data["guilds"]})
        if isinstance(client, discord.AutoShardedClient):
            states = client._connection._ready_states
            before = states[data["shard"][0]]
            while not before.empty():  # of a READY that was cut short
                asyncio.Queue.put_nowait(arrivals, before.get_nowait())
            states[data["shard"][0]] = arrivals
        else:
            state._ready_state = arrivals

    state.parsers["READY"] = noted


def around_setup_hook(client: discord.Client, failed: Callable[[Exception], None]) -> None:
    """Have ``failed`` told of what the app's ``setup_hook`` raises, which goes on to the program as it is."""
    hook = client.setup_hook

    async def setup_hook() -> None:
        try:
            await hook()
        except Exception as error:
            failed(error)
            raise

    client.setup_hook = setup_hook  # type: ignore[method-assign]


def before_close(client: discord.Client, told: Callable[[], Awaitable[None]]) -> None:
    """Have ``told`` awaited before the client is closed, by whom ever, and before the app's own ``close`` begins."""
    inner = client.close

    async def close() -> None:
        await told()
        await inner()

    client.close = close  # type: ignore[method-assign]


def wrap_loops(
    *,
    started: Callable[[tasks.Loop[Any], tuple[Any, ...], dict[str, Any]], None],
    before_loop: Callable[[tasks.Loop[Any], Callable[[], Awaitable[None]]], Awaitable[None]],
) -> None:
    """Have ``started`` told of every loop of this process that is started, and put ``before_loop`` around that hook.

    A loop's task does not run before ``started`` returns. ``before_loop`` is awaited also where the app has none.
    """
    own_start, own_call = tasks.Loop.start, tasks.Loop._call_loop_function

    def start(loop: tasks.Loop[Any], *args: Any, **options: Any) -> asyncio.Task[None]:
        task = own_start(loop, *args, **options)
        started(loop, args, options)
        return task

    async def call(loop: tasks.Loop[Any], name: str, *args: Any, **options: Any) -> None:
        if name == "before_loop":
            await before_loop(loop, lambda: own_call(loop, name, *args, **options))
        else:
            await own_call(loop, name, *args, **options)

    tasks.Loop.start = start  # type: ignore[method-assign, assignment]
    tasks.Loop._call_loop_function = call  # type: ignore[method-assign, assignment]


def turn_due(loop: tasks.Loop[Any]) -> datetime.datetime:
    """Return when the turn that runs now was due."""
    return loop._last_iteration


async def sleep_until_turn(loop: tasks.Loop[Any], *, last: datetime.datetime, due: datetime.datetime) -> None:
    """Sleep before a first turn as discord.py does before any other, which came ``last``.

    So `change_interval` moves it, and `next_iteration` tells it.
    """
    sleeper: Any = loop
    sleeper._last_iteration, sleeper._next_iteration = last, due
    sleeping = sleeper._try_sleep_until(due)
    try:
        await sleeping
    finally:
        sleeper._handle.cancel()


def tries_again(loop: tasks.Loop[Any]) -> bool:
    """Whether the turn that begins now is one that failed before."""
    return loop._last_iteration_failed


def has_presence(client: discord.Client) -> bool:
    """Whether the app gave its client a presence to identify with."""
    return client._connection._activity is not None or client._connection._status is not None


def identify_with(client: discord.Client, *, activity: Any, status: str | None) -> None:
    """Set the presence of sessions that begin from now on. ``activity`` is raw, as `to_dict` gives it."""
    client._connection._activity = activity
    client._connection._status = "invisible" if status == "offline" else status or "online"


def make_activity(client: discord.Client, data: Any) -> Any:
    """Build an activity of what `to_dict` gave."""
    return create_activity(dict(data), client._connection) if data else None  # type: ignore[call-overload]


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandCalls:
    """The REST calls about commands, each with application and guild (None: global)."""

    get: Callable[[int, int | None], Awaitable[list[Any]]]
    put: Callable[[int, int | None, Any], Awaitable[list[Any]]]


def replace_command_sync(
    client: discord.Client, sync: Callable[[int, int | None, Any], Awaitable[list[Any]]]
) -> CommandCalls:
    """Put ``sync`` in the place of the calls that replace all commands; return the calls themselves."""
    http = client.http
    put_global, put_guild = http.bulk_upsert_global_commands, http.bulk_upsert_guild_commands

    async def get(application: int, guild: int | None) -> list[Any]:
        if guild is None:
            return list(await http.get_global_commands(application))
        return list(await http.get_guild_commands(application, guild))

    async def put(application: int, guild: int | None, payload: Any) -> list[Any]:
        if guild is None:
            return list(await put_global(application, payload))
        return list(await put_guild(application, guild, payload))

    http.bulk_upsert_global_commands = (  # type: ignore[method-assign]
        lambda application_id, payload: sync(int(application_id), None, payload)  # type: ignore[assignment, return-value]
    )
    http.bulk_upsert_guild_commands = (  # type: ignore[method-assign]
        lambda application_id, guild_id, payload: sync(int(application_id), int(guild_id), payload)  # type: ignore[assignment, return-value]
    )
    return CommandCalls(get=get, put=put)


def command_tree(client: discord.Client) -> discord.app_commands.CommandTree[Any] | None:
    """Return the client's command tree, if it has one."""
    return client._connection._command_tree


def guilds_with_commands(tree: discord.app_commands.CommandTree[Any]) -> list[int]:
    """Return the ids of the guilds for which the tree has commands of their own."""
    return [guild for guild, commands in tree._guild_commands.items() if commands]


def default_identify_hook(client: discord.Client) -> bool:
    """Whether ``before_identify_hook`` is discord.py's own, which sleeps 5 s a shard."""
    hook = getattr(client.before_identify_hook, "__func__", None)
    return hook is discord.Client.before_identify_hook


def silence_identify_hook(client: discord.Client) -> None:
    """Take away the sleep before IDENTIFY; permits take its place."""

    async def nothing(shard_id: int | None, *, initial: bool = False) -> None:
        del shard_id, initial

    client.before_identify_hook = nothing  # type: ignore[method-assign]


@dataclass(slots=True, eq=False)
class Receiver:
    """What was received last, and which connection it came from."""

    websocket: DiscordWebSocket | None = None
    text: str = ""
    """The payload, as Discord wrote it."""
    foreign: bool = False
    """Whether another bot handles it, or has: it only keeps the cache right here."""


def note_receiver(ears: Ears, receiver: Receiver) -> None:
    """Note for each event that comes from now on, before it is parsed, which connection it comes from."""

    def around(inner: FromClient) -> FromClient:
        async def from_client(*args: Any, **options: Any) -> DiscordWebSocket:
            websocket = await inner(*args, **options)
            note_receipt(websocket, ears, receiver)
            return websocket

        return from_client

    wrap_connections(around)


def note_receipt(websocket: DiscordWebSocket, ears: Ears, receiver: Receiver) -> None:
    """Note it on one connection.

    A connection dispatches a ``socket_event_type`` for each event, whoever hears it, and nothing else unless it is
    debugged. To note it there costs nothing: a dispatch that nothing hears is spared for it.
    """
    client, waiting, cogs, everything = ears.client, ears.waiting, ears.cogs, ears.everything
    each = "socket_event_type"
    method = method_of(each)

    def dispatch(name: str, *args: Any) -> None:
        receiver.websocket = websocket
        # as `Ears.hear`
        if everything or hasattr(client, method) or each in waiting or cogs.get(method) or name != each:
            client.dispatch(name, *args)

    websocket._dispatch = dispatch


def unread(websocket: DiscordWebSocket) -> bool:
    """Whether bytes have come on a connection that the event loop has not read yet."""
    connection = websocket.socket.get_extra_info("socket")
    descriptor = -1 if connection is None else connection.fileno()
    if descriptor < 0:
        return False
    waiting = array("i", [0])
    with contextlib.suppress(OSError):  # it is being closed
        fcntl.ioctl(descriptor, termios.FIONREAD, waiting)
    return waiting[0] > 0


def keep_sessions() -> None:
    """Have every connection that this process still closes leave its session alive, to be resumed by another one."""
    inner = DiscordWebSocket.close

    async def close(self: DiscordWebSocket, code: int = 4000) -> None:
        await inner(self, 4000 if code == 1000 else code)

    DiscordWebSocket.close = close  # type: ignore[method-assign]


def make_guild(client: discord.Client, data: Mapping[str, Any]) -> discord.Guild:
    """Build a guild of a payload, of whatever is in it, without putting it into the cache."""
    given: Any = data
    return discord.Guild(data=given, state=client._connection)
