"""Every private attribute of discord.py that the runtime touches, and nothing else.

There is no public way to these. `PRIVATE` names them all; a test walks it over the supported versions, so that a change
in discord.py fails there, loudly, and not in somebody's production. No decision is taken here.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeAlias

import aiohttp
import discord
import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route
from discord.shard import SessionStartLimits, Shard

Parser: TypeAlias = Callable[[Any], None]
Dispatch: TypeAlias = Callable[..., None]
FromClient: TypeAlias = Callable[..., Coroutine[Any, Any, DiscordWebSocket]]

PRIVATE: Mapping[str, tuple[str, ...]] = {
    "client": ("_connection", "_listeners", "_schedule_event", "_hooks"),
    "state": (
        "parsers",
        "dispatch",
        "shard_count",
        "_view_store",
        "_intents",
        "_chunk_requests",
        "_chunk_timeout",
        "chunker",
    ),
    "view store": ("_views", "_modals", "_dynamic_items"),
    "websocket": ("from_client", "DEFAULT_GATEWAY", "REQUEST_MEMBERS"),
    "sharded client": ("launch_shards", "launch_shard"),
    "shard": ("reidentify", "reconnect"),
    "http": ("get_bot_gateway", "user_agent", "_HTTPClient__session"),
    "route": ("BASE",),
    "member": ("_copy",),
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


def overrides_dispatch(client: discord.Client) -> bool:
    """Whether the app has a ``dispatch`` of its own, which hears events that have no listener."""
    return not type(client).dispatch.__module__.startswith("discord.")


def hears(client: discord.Client, event: str) -> bool:
    """Whether anything in the app listens to this event now: a method, a cog's listener, a `wait_for`."""
    return listens(client, event) or event in client._listeners


def listens(client: discord.Client, event: str) -> bool:
    """Whether the app hears every event of this name: by a method or a cog's listener, not by a `wait_for` alone."""
    name = f"on_{event}"
    return hasattr(client, name) or bool(getattr(client, "extra_events", {}).get(name))


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


def live_view(client: discord.Client, message_id: int | None, component: tuple[int, str]) -> bool:
    """Whether an unfinished view that is bound to this message answers the component."""
    item = client._connection._view_store._views.get(message_id, {}).get(component) if message_id else None
    return item is not None and item.view is not None and not item.view.is_finished()


def persistent_view(client: discord.Client, component: tuple[int, str]) -> bool:
    """Whether a view that is bound to no message, or a dynamic item, answers the component."""
    store = client._connection._view_store
    if component in store._views.get(None, {}):
        return True
    return any(pattern.fullmatch(component[1]) for pattern in store._dynamic_items)


def open_modal(client: discord.Client, custom_id: str) -> bool:
    """Whether this process sent the modal and waits for it."""
    return custom_id in client._connection._view_store._modals


def intents(client: discord.Client) -> discord.Intents:
    """Return the intents that the client identifies with."""
    return client._connection._intents


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


def ask_again_for_members(client: discord.Client, *, patience: float) -> None:
    """Repeat a request for a guild's members that Discord put off, and let readiness wait ``patience`` seconds for it.

    Discord answers one such request a guild and 30 s, over all sessions of a bot, and discord.py does not know the
    refusal: a bot that starts soon after another one would be ready with half a cache.
    """
    state = client._connection
    own_timeout = state._chunk_timeout

    def refused(data: Mapping[str, Any]) -> None:
        meta = data.get("meta") or {}
        if data.get("opcode") != DiscordWebSocket.REQUEST_MEMBERS or "guild_id" not in meta:
            return
        guild_id, nonce = int(meta["guild_id"]), meta.get("nonce")

        async def again() -> None:
            if not client.is_closed() and any(request.nonce == nonce for request in state._chunk_requests.values()):
                await state.chunker(guild_id, nonce=nonce)

        loop = asyncio.get_running_loop()
        loop.call_later(float(data.get("retry_after", 1.0)), lambda: loop.create_task(again()))

    guild_delete = state.parsers["GUILD_DELETE"]

    def left(data: Any) -> None:
        # Nobody answers for a guild that was left: whoever waits for its members would wait in vain.
        for key, request in list(state._chunk_requests.items()):
            if request.guild_id == int(data["id"]):
                del state._chunk_requests[key]
                request.done()
        guild_delete(data)

    state.parsers["GUILD_DELETE"] = left
    state.parsers["RATE_LIMITED"] = refused
    state._chunk_timeout = (  # type: ignore[method-assign]
        lambda guild: own_timeout(guild) + (0.0 if client.is_ready() else patience)
    )


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


def replace_launch(client: discord.AutoShardedClient, launch: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Put ``launch`` in the place of the loop that connects one shard after the other."""
    client.launch_shards = launch  # type: ignore[method-assign]


def prepare_shards(client: discord.AutoShardedClient, count: int, ids: list[int] | range) -> None:
    """Fix count and ids before any shard can get READY: on_ready counts against them."""
    client.shard_count = count
    client._connection.shard_count = count
    client._connection.shard_ids = ids


def before_connect(client: discord.Client, prepare: Callable[[], Awaitable[None]]) -> None:
    """Await ``prepare`` after login and before the first gateway connection."""
    connect = client.connect

    async def prepared(*, reconnect: bool = True) -> None:
        await prepare()
        await connect(reconnect=reconnect)

    client.connect = prepared  # type: ignore[method-assign]


def on_session(client: discord.Client, note: Callable[[int, int], None]) -> None:
    """Call ``note`` with (shard id, shard count) of every READY, before discord.py sees it."""
    ready = parsers(client)["READY"]

    def noted(data: Any) -> None:
        shard, count = data.get("shard", (0, 1))
        note(shard, count)
        ready(data)

    parsers(client)["READY"] = noted


def around_setup_hook(client: discord.Client, translate: Callable[[Exception], Exception]) -> None:
    """Turn what the app's ``setup_hook`` raises into another exception, so that its origin stays known."""
    hook = client.setup_hook

    async def setup_hook() -> None:
        try:
            await hook()
        except Exception as error:
            raise translate(error) from error

    client.setup_hook = setup_hook  # type: ignore[method-assign]


def default_identify_hook(client: discord.Client) -> bool:
    """Whether ``before_identify_hook`` is discord.py's own, which sleeps 5 s a shard."""
    hook = getattr(client.before_identify_hook, "__func__", None)
    return hook is discord.Client.before_identify_hook


def silence_identify_hook(client: discord.Client) -> None:
    """Take away the sleep before IDENTIFY; permits take its place."""

    async def nothing(shard_id: int | None, *, initial: bool = False) -> None:
        del shard_id, initial

    client.before_identify_hook = nothing  # type: ignore[method-assign]
