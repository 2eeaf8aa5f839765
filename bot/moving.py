"""One child's sessions, where they move: what it has asked the supervisor for, and what it is told.

    Wants  ->            Mirror: feed from the bot that has the sessions, be ready with its cache, take them when told
                         Overlap: begin sessions of its own (`shards`)
    Serve  -> Serving    let another child be the mirror

Knows the supervisor's messages about sessions, and puts the pieces of `session` around a client. What an event means,
and which role this child has, it does not know.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import discord
import msgspec
from discord.gateway import DiscordWebSocket

from bastion import wire
from bastion.bot import internals
from bastion.bot.carry import Carry
from bastion.bot.discordpy.loading import Loading
from bastion.bot.discordpy.messages import Recent
from bastion.bot.session.handover import Handover
from bastion.bot.session.statefile import Saved, StateFileError, Writing
from bastion.bot.session.stream import StreamError
from bastion.bot.session.taking import WORD_SECONDS

_log = logging.getLogger("bastion.session")

SAVE_SECONDS = 4.0
"""How long a bot that was told to stop may serve on while its cache is written down."""

RESUMED_SECONDS = 15.0
"""How long a bot that has a stopped one's cache is not ready for want of a session: Discord may be slow to answer."""

STREAM = 1
"""Version of the stream between two children: frames, notes, and what a snapshot says."""


class MirrorLostError(Exception):
    """This child can be no mirror any more. The text says why."""


def account_of(token: str) -> str:
    """Return what two children compare to know that their tokens are the same."""
    return hashlib.blake2b(token.encode(), digest_size=16, person=b"bastion account").hexdigest()


class Moving:
    """The sessions of one client, as its supervisor wants them."""

    def __init__(
        self,
        client: discord.Client,
        receiver: internals.Receiver,
        *,
        say: Callable[[wire.FromChild], None],
        takes: Callable[[dict[str, Any]], bool],
        holds: Callable[[], bool],
        came: Callable[[DiscordWebSocket], None],
        asks: Callable[[Iterable[int]], None],
        lost: Callable[[str], None],
        is_robbed: Callable[[], bool],
        carry: Carry,
        rests: Callable[[], bool],
    ) -> None:
        """``carry`` has the app's state, ``rests`` says whether this child handles no new events.

        ``takes`` handles a component that is ours, ``came`` is told of a session that is ours from now on.
        ``asks`` asks Discord for the members of guilds, as far as they are not here.
        ``holds`` says whether events wait to be handled, ``lost`` is told why this child can be no mirror any more.
        ``is_robbed`` says whether another bot has taken the sessions while this one stood still.
        """
        self._client, self._receiver, self._say = client, receiver, say
        self._takes, self._holds, self._came, self._asks, self._lost = takes, holds, came, asks, lost
        self.is_robbed = is_robbed
        self._carry, self._rests = carry, rests
        self._giving_state: asyncio.Task[None] | None = None
        self._recent = Recent(client)
        self.handover = Handover(client, self._recent, receiver, answers=self)
        self._loading = Loading(client, self._recent, self._loaded)
        self._wants: wire.Wants
        self._answer: asyncio.Future[wire.Mirror | wire.Overlap] | None = None
        self._complete = asyncio.Event()
        self._holder_is_dead = False

    def install(self, *, standby: bool) -> None:
        """Put this in front of the client's own parsers, before anything else is put there."""
        parsers = internals.parsers(self._client)
        for name, note in (("MESSAGE_CREATE", self._recent.created), ("MESSAGE_UPDATE", self._recent.updated)):
            parsers[name] = self._noting(name, parsers[name], note)
        if standby:
            self._loading.install()

    def _noting(self, name: str, parser: internals.Parser, note: Callable[[str, Any], None]) -> internals.Parser:
        receiver, quoted = self._receiver, f'"{name}"'

        def parse(data: Any) -> None:
            parser(data)
            text = receiver.text
            if data["id"] in text and quoted in text:  # else it came another way, from a dead child's session
                note(text, data)

        return parse

    # Before the connection.

    def tell_wants(self, *, shards: int, ids: list[int], any_count: bool, token: str, api_url: str) -> None:
        """Tell the supervisor what this child's sessions are like."""
        policy = internals.cache_policy(self._client)
        self._wants = wire.Wants(
            application=self._client.application_id or 0,
            account=account_of(token),
            api_url=api_url,
            intents=internals.intents(self._client).value,
            shards=shards,
            ids=ids,
            any_count=any_count,
            library=".".join(discord.__version__.split(".")[:2]),
            stream=STREAM,
            members=policy.members,
            messages=policy.messages,
            chunks=policy.chunks,
        )
        self._say(self._wants)
        self._answer = asyncio.get_running_loop().create_future()

    @property
    def wants(self) -> wire.Wants:
        """Return what this child's sessions are like by now: a mirror has the number of shards that the holder had."""
        return msgspec.structs.replace(self._wants, shards=self._client.shard_count or 1, ids=sorted(self.handover.own))

    async def answer(self) -> wire.Mirror | wire.Overlap:
        """Wait for the supervisor's answer."""
        assert self._answer is not None
        return await self._answer

    def answered(self, message: wire.Mirror | wire.Overlap) -> None:
        """Take the supervisor's answer."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(message)

    def follow(self, order: wire.Mirror) -> None:
        """Mirror the child that has the sessions. Raises `MirrorLostError`."""
        self._loading.begin(order.ids)
        try:
            self.handover.follow(
                order.path,
                shows=bytes.fromhex(order.shows),
                expects=bytes.fromhex(order.expects),
                shards=order.ids,
            )
        except OSError as error:
            raise MirrorLostError(f"the bot that has the sessions does not listen: {error.strerror or error}") from None

    def follow_for_state(self, order: wire.Overlap) -> None:
        """Connect to the child that has the app's state, if there is one: the sessions will be this child's own."""
        if not order.path:
            return
        shows, expects = bytes.fromhex(order.shows), bytes.fromhex(order.expects)
        try:
            self.handover.follow(order.path, shows=shows, expects=expects, shards=[])
        except OSError as error:
            _log.warning("the old bot does not listen, so it gives no state: %s", error.strerror or error)

    def follow_saved(self, saved: Saved) -> str | None:
        """Be the mirror of what a stopped bot has left; return why that cannot be, None if it is so."""
        theirs = saved.head.wants
        why = wire.difference(theirs, self._wants)
        if why is None and set(saved.payloads) != set(theirs.ids):
            why = "it lacks a shard"
        if why is not None:
            return why
        self._loading.begin(theirs.ids, alone=True)
        self.handover.follow_saved(saved)
        if saved.state is not None:
            self._carry.arrived(saved.state)
        return None

    async def resumed_saved(self) -> None:
        """Wait until the sessions of the stopped bot are this one's, after `holder_died`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.handover.settled(), RESUMED_SECONDS)
        self._loading.ask_for_members()
        self._asks([guild.id for guild in self._client.guilds])
        self._say(wire.Moved(pause_ms=0.0, identifies=0))

    async def save(self, path: Path) -> Writing:
        """Write the cache into a file, and what comes from now on, until `handover.end_record`.

        Raises `StateFileError`.
        """
        if self.is_mirror:
            raise StateFileError("its sessions are another bot's")
        file = Writing(path, self.wants)
        try:
            async with asyncio.timeout(SAVE_SECONDS):
                while not self.handover.steady:
                    await self.handover.changed()
                await self.handover.record(file)
        except (StreamError, TimeoutError) as error:
            self.handover.end_record()
            file.close()
            why = f"it takes longer than {SAVE_SECONDS:g} s, or a shard has no session"
            raise StateFileError(str(error) or why) from None
        return file

    def serve(self, order: wire.Serve) -> None:
        """Let another child connect: as a mirror, or for the app's state."""
        problem = ""
        try:
            if order.path:
                shows, expects = bytes.fromhex(order.shows), bytes.fromhex(order.expects)
                self.handover.serve(order.generation, order.path, shows=shows, expects=expects)
        except OSError as error:
            problem = f"{order.path}: {error.strerror or error}"
        self._say(wire.Serving(generation=order.generation, problem=problem, claims=order.claims))

    def _loaded(self) -> None:
        self._complete.set()

    @property
    def is_mirror(self) -> bool:
        """Whether another child has sessions of this client."""
        return bool(self.handover.mirrored)

    async def complete(self) -> None:
        """Wait until the cache is the holder's."""
        await self._complete.wait()

    # The switch.

    async def take(self, *, impatient: bool = False) -> None:
        """Take the sessions, unless they are this child's already. Arguments and errors as for `Handover.take`."""
        taking = await self.handover.take(impatient=impatient)
        if taking is not None:
            pause = max(taking.pauses.values(), default=0.0)
            self._say(wire.Moved(pause_ms=round(pause * 1000, 1), identifies=taking.identified))

    def holder_died(self, handled: dict[int, tuple[str, int]]) -> None:
        """Go on with the sessions of a holder whose process is gone; ``handled`` as for `Handover.holder_died`."""
        self._holder_is_dead = True
        if self._loading.incomplete:
            self._lost("the bot that had the sessions died before its cache was here")
            return
        self.handover.holder_died(handled)

    # What the other child asks for (`handover.Answers`).

    def asks_for_state(self) -> bool:
        """Ask the older child for its app's state; return whether it is there, or may come."""
        return self._carry.has_come or self.handover.ask_for_state()

    def state_may_be_due(self) -> None:
        """Give the app's state to the child that waits for it, if no event is this one's to handle any more."""
        gave_all = self.is_mirror and not self.handover.own
        if self.handover.is_asked_for_state and (gave_all or self._rests()) and self._giving_state is None:
            self._giving_state = asyncio.ensure_future(self._give_state())

    async def _give_state(self) -> None:
        await self.handover.give_state(await self._carry.export())
        self._giving_state = None

    async def state_is_given(self) -> None:
        """Wait until no state is on its way from here."""
        if self._giving_state is not None:
            await self._giving_state

    def state_came(self, state: bytes) -> None:
        """Take the state of the old child's app."""
        self._carry.arrived(state)

    def state_comes_no_more(self) -> None:
        """Wait no longer for the old child's state."""
        self._carry.comes_no_more()

    def takes(self, data: dict[str, Any]) -> bool:
        """Handle a component if it is this child's own; return whether it is."""
        return self._takes(data)

    def holds(self) -> bool:
        """Say whether events of this child's own sessions wait to be handled."""
        return self._holds()

    def session_came(self, websocket: DiscordWebSocket) -> None:
        """Note a session that is this child's from now on."""
        self._came(websocket)

    def ask_for_members(self, guilds: Iterable[int]) -> None:
        """Ask Discord for the members of these guilds, unless they are all here."""
        self._asks(guilds)

    def source_left(self) -> None:
        """Give up being a mirror of that bot: the next child will be one of whoever has the sessions then."""
        self._lost("the sessions that it mirrors go to another bot")

    def source_lost(self, why: str) -> None:
        """Wait for the supervisor's word, if the cache is complete; without that nothing can be done."""
        if self._loading.incomplete:
            self._lost(f"the stream from the bot that has the sessions has ended: {why}")
        else:
            asyncio.get_running_loop().call_later(WORD_SECONDS, self._no_word, why)

    def _no_word(self, why: str) -> None:
        if self.is_mirror and not self._holder_is_dead:
            self._lost(f"the stream from the bot that has the sessions has ended: {why}")
