"""What a dead child left undone: its gateway sessions are resumed beside this child's own, and what they missed is
handed to the app.

A dead child's session goes on where it stopped: in the same order, without a gap. So the side stream is an observer of
its own, as the dead child was. It claims under the dead child's generation and goes on counting where that one stopped:
not where the claims end, for the child before that one may have heard, and claimed, what its session had yet to bring.
This child's own sessions are those of a standby meanwhile: they hold events back, and when all are there they take over
as from a living child. Nothing here has to compare two streams: the claims do.

An event is handed over when its guild is in the cache, in the order of its session. It does not change the cache, which
comes from newer sessions: messages live in a cache of the side stream's own, and what happened to members and guilds is
told but not done again. What only makes sense beside an older state of the cache (what a channel was before its update)
is left to this child's own sessions; what these did not see is counted as missed.

Knows gate, claims and payloads. How a connection is made is `internals`' matter, where sessions are noted `sessions`'.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import discord

from bastion.bot import internals
from bastion.bot.dated import DiscordClock
from bastion.bot.gate import HELD_COUNT, HELD_SECONDS, INTERACTION_LIFE, Event, Gate
from bastion.bot.keys import PAIR_WITHIN, SURE_AFTER, Numbering, identify, shard_of
from bastion.bot.ledger import Ledger, number_key
from bastion.bot.sessions import DeadSession, SessionFile, whose

_log = logging.getLogger("bastion.recovery")

CONNECT_SECONDS = 15.0
"""Longest time for one connection to be opened and RESUMED."""
RESUMABLE_SECONDS = 300.0
"""Longest time in which a session that does not answer is tried again: Discord forgets it after a few minutes."""
_RETRY_SECONDS = 1.0
_AT_ONCE = 0.1
"""Seconds until a connection is opened anew that had been resumed."""
_AGAIN_SECONDS = 2.5
"""How long the end of the recovery waits for connections that have just broken: interactions live 3 s. With the second
after it, it must be less than the supervisor waits for a child to become active."""
_CLOSE_SECONDS = 0.5
_MESSAGES = 1000
_DATED = ("MESSAGE_CREATE", "INTERACTION_CREATE")
"""Events that come as soon as what they have the id of is made."""
_SLICE_SECONDS = 0.005

_TOLD = frozenset(
    {
        *("MESSAGE_CREATE", "MESSAGE_UPDATE", "MESSAGE_DELETE", "MESSAGE_DELETE_BULK", "TYPING_START"),
        *("MESSAGE_REACTION_ADD", "MESSAGE_REACTION_REMOVE", "MESSAGE_REACTION_REMOVE_ALL"),
        *("MESSAGE_REACTION_REMOVE_EMOJI", "MESSAGE_POLL_VOTE_ADD", "MESSAGE_POLL_VOTE_REMOVE"),
        *("CHANNEL_PINS_UPDATE", "INVITE_CREATE", "INVITE_DELETE", "WEBHOOKS_UPDATE"),
        *("GUILD_INTEGRATIONS_UPDATE", "INTEGRATION_CREATE", "INTEGRATION_UPDATE", "INTEGRATION_DELETE"),
        *("GUILD_AUDIT_LOG_ENTRY_CREATE", "GUILD_BAN_ADD", "GUILD_BAN_REMOVE", "VOICE_CHANNEL_EFFECT_SEND"),
        *("AUTO_MODERATION_RULE_CREATE", "AUTO_MODERATION_RULE_UPDATE", "AUTO_MODERATION_RULE_DELETE"),
        *("AUTO_MODERATION_ACTION_EXECUTION", "APPLICATION_COMMAND_PERMISSIONS_UPDATE"),
        *("ENTITLEMENT_CREATE", "ENTITLEMENT_UPDATE", "ENTITLEMENT_DELETE"),
        *("SUBSCRIPTION_CREATE", "SUBSCRIPTION_UPDATE", "SUBSCRIPTION_DELETE"),
    }
)
"""Events whose parsers change nothing in the cache but messages."""

_UNTOLD: Mapping[str, tuple[str, ...]] = {
    "CHANNEL_CREATE": ("guild_channel_create",),
    "CHANNEL_DELETE": ("guild_channel_delete",),
    "CHANNEL_UPDATE": ("guild_channel_update",),
    "GUILD_EMOJIS_UPDATE": ("guild_emojis_update",),
    "GUILD_MEMBER_UPDATE": ("member_update", "user_update"),
    "GUILD_ROLE_CREATE": ("guild_role_create",),
    "GUILD_ROLE_DELETE": ("guild_role_delete",),
    "GUILD_ROLE_UPDATE": ("guild_role_update",),
    "GUILD_SCHEDULED_EVENT_CREATE": ("scheduled_event_create",),
    "GUILD_SCHEDULED_EVENT_DELETE": ("scheduled_event_delete",),
    "GUILD_SCHEDULED_EVENT_UPDATE": ("scheduled_event_update",),
    "GUILD_SCHEDULED_EVENT_USER_ADD": ("scheduled_event_user_add",),
    "GUILD_SCHEDULED_EVENT_USER_REMOVE": ("scheduled_event_user_remove",),
    "GUILD_SOUNDBOARD_SOUND_CREATE": ("soundboard_sound_create",),
    "GUILD_SOUNDBOARD_SOUND_DELETE": ("soundboard_sound_delete",),
    "GUILD_SOUNDBOARD_SOUND_UPDATE": ("soundboard_sound_update",),
    "GUILD_SOUNDBOARD_SOUNDS_UPDATE": ("soundboard_sound_update",),
    "GUILD_STICKERS_UPDATE": ("guild_stickers_update",),
    "GUILD_UPDATE": ("guild_update",),
    "PRESENCE_UPDATE": ("presence_update", "raw_presence_update"),
    "STAGE_INSTANCE_CREATE": ("stage_instance_create",),
    "STAGE_INSTANCE_DELETE": ("stage_instance_delete",),
    "STAGE_INSTANCE_UPDATE": ("stage_instance_update",),
    "THREAD_CREATE": ("thread_create", "thread_join"),
    "THREAD_DELETE": ("thread_delete", "raw_thread_delete"),
    "THREAD_MEMBERS_UPDATE": ("thread_member_join", "thread_member_remove", "raw_thread_member_remove"),
    "THREAD_MEMBER_UPDATE": ("thread_join",),
    "THREAD_UPDATE": ("thread_update", "raw_thread_update"),
    "USER_UPDATE": ("user_update",),
    "VOICE_STATE_UPDATE": ("voice_state_update",),
}
"""Events that say something only beside the cache as it was; with what hears them."""


@dataclass(slots=True, eq=False)
class _Missed:
    """One event of a side stream that waits for its turn."""

    event: Event
    sequence: int
    stream: str
    live: bool
    """Whether it came after RESUMED: then it is as old as its time of arrival says."""


@dataclass(slots=True, eq=False)
class _Side:
    """One dead session."""

    dead: DeadSession
    sequence: int
    pending: deque[_Missed] = field(default_factory=deque)
    resumed: bool = False
    connected: bool = False
    """Whether it has been RESUMED on the connection that it has now: all that it missed has then been received."""
    over: bool = False
    task: asyncio.Task[None] | None = None
    websocket: internals.SideSocket | None = None


class Recovery:
    """The sessions of one dead child, from RESUME until this child's own sessions have taken over."""

    def __init__(
        self,
        *,
        client: discord.Client,
        gate: Gate,
        ledger: Ledger,
        file: SessionFile,
        generation: int,
        covered: Callable[[DeadSession], bool],
        discord_clock: DiscordClock,
        changed: Callable[[], None],
        begun: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read what the dead child left.

        ``ledger`` claims under the dead child's generation. ``covered`` tells of which dead sessions this child's own
        have missed nothing; ``discord_clock`` how old at least what came late is. ``changed`` is called when there is
        news to report, ``begun`` when handlers may have begun, before their event counts as handed over: who dies in
        between leaves names rather than gaps.
        """
        self.generation = generation
        self.missed = 0
        self.lost = 0
        self.cut, self.more_cut = file.running()
        self._client = client
        self._gate = gate
        self._ledger = ledger
        self._file = file
        self._clock = clock
        self._discord_clock = discord_clock
        self._changed = changed
        self._begun = begun
        self._numbering = Numbering(joined=False, clock=clock, continues=self._past)
        # What was claimed before this either reached it before it was active, or is from before its session began; what
        # reached it later, it has asked for.
        self._past_before = file.active_since - PAIR_WITHIN
        self._untold: list[tuple[str, tuple[str, ...]]] = []
        self._gone: dict[int, discord.Guild] = {}
        self._messages: deque[discord.Message] = deque(maxlen=_MESSAGES)
        self._sides = [_Side(dead, dead.sequence) for dead in file.sessions() if not covered(dead)]
        self._own: dict[int, tuple[int, float]] = {}
        self._sure_at = 0.0
        self._began_at: float | None = None
        self._finishing = False
        self._stopped = False
        self._close_code = 4000
        self._settled = asyncio.Event()
        self._again: asyncio.TimerHandle | None = None

    @property
    def sessions(self) -> int:
        """How many sessions of the dead child were found."""
        return len(self._sides)

    @property
    def errors(self) -> int:
        """Claims that failed."""
        return self._ledger.errors

    @property
    def hopeless(self) -> bool:
        """Whether no session is left that could bring anything."""
        return all(side.over for side in self._sides)

    @property
    def settled(self) -> bool:
        """Whether each session has brought all that it missed, or is lost."""
        return all(side.connected or side.over for side in self._sides)

    def begin(self) -> None:
        """Connect, once. The client must have logged in."""
        if self._began_at is not None or self._stopped:
            return
        self._began_at = self._clock()
        self._settle()
        for side in self._sides:
            side.task = asyncio.ensure_future(self._follow(side))

    async def caught_up(self, patience: float) -> None:
        """Wait until every session has been resumed or is lost, at most until ``patience`` seconds after `begin`.

        Then until what it went on beside counts what comes as it does.
        """
        left = patience if self._began_at is None else self._began_at + patience - self._clock()
        try:
            if not self.settled or self._began_at is None:
                await asyncio.wait_for(self._settled.wait(), max(0.0, left))
        except TimeoutError:
            _log.warning("the sessions of %s do not all answer; going on without", whose(self.generation))
        await self._sure()

    def session_began(self, shard: int, shards: int) -> None:
        """Note that a READY of this child's own sessions is about to be read: it names all guilds that there are."""
        self._own[shard] = shards, self._clock()

    def advance(self) -> None:
        """Hand over what can be: the next of each session whose guild is in the cache."""
        if self._stopped:
            return
        until = self._clock() + _SLICE_SECONDS
        for side in self._sides:
            while side.pending and self._may(side.pending[0]):
                if self._clock() > until:
                    self._soon()
                    return
                self._hand_over(side, side.pending.popleft())

    async def finish(self) -> None:
        """Hand over the rest and end the sessions: from now on this child's own hear everything.

        One that is not resumed yet, or once more because its connection has just broken, is waited for: what came on it
        before this child's own began may not have been received.
        """
        if self._stopped or self._finishing:
            return
        self._finishing = True
        if any(self._may_be_back(side) for side in self._sides):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._settled.wait(), _AGAIN_SECONDS)
        for side in self._sides:
            if not (side.connected or side.over or self._stopped):
                self._lose(side, "its connection broke and is not back" if side.resumed else "no answer")
                if side.task is not None:
                    side.task.cancel()
        await self._sure()
        while any(side.pending for side in self._sides) and not self._stopped:
            self.advance()
            await asyncio.sleep(0)
        if self._stopped:
            return  # `abandon` leaves them to another child
        self._close_code = 1000
        self._stopped = True
        self._hang_up()
        asyncio.get_running_loop().call_later(SURE_AFTER, self._count_untold)

    def _may_be_back(self, side: _Side) -> bool:
        """Whether a session may be connected in a moment that is not: it was, or has not been waited for in vain."""
        waited = self._clock() - self._began_at if self._began_at is not None else 0.0
        return not (side.connected or side.over) and (side.resumed or waited < CONNECT_SECONDS)

    async def _sure(self) -> None:
        """Wait until nothing that the side streams brought as the past can still come to this child's own sessions."""
        for _ in range(2):  # one more session may go on meanwhile
            await asyncio.sleep(max(0.0, self._sure_at - self._clock()))

    async def abandon(self) -> None:
        """Close the connections and leave the sessions for another child to resume; hand nothing over any more."""
        self._stopped = True
        if tasks := self._hang_up():
            await asyncio.wait(tasks, timeout=_CLOSE_SECONDS)

    def _hang_up(self) -> list[asyncio.Task[None]]:
        tasks = [side.task for side in self._sides if side.task is not None]
        for task in tasks:
            task.cancel()
        return tasks

    # Connections.

    async def _follow(self, side: _Side) -> None:
        """Keep one session connected until it ends or is no longer needed."""
        give_up = self._clock() + RESUMABLE_SECONDS
        while True:
            try:
                await self._receive(side)
            except internals.SessionGoneError as error:
                self._lose(side, str(error))
                return
            except (ConnectionError, TimeoutError) as error:
                _log.info("shard %s of %s: %s", side.dead.shard, whose(self.generation), error or "no answer")
            except Exception:
                _log.exception("shard %s of %s", side.dead.shard, whose(self.generation))
                self._lose(side, "it cannot be read")
                return
            if side.connected:  # Discord counts from the end of the connection
                give_up = self._clock() + RESUMABLE_SECONDS
            elif self._clock() > give_up:
                self._lose(side, f"no answer within {RESUMABLE_SECONDS:g} s")
                return
            pause, side.connected = _AT_ONCE if side.connected else _RETRY_SECONDS, False
            self._settle()
            await asyncio.sleep(pause)

    async def _receive(self, side: _Side) -> None:
        answered = asyncio.Event()

        def take(name: str, data: Any) -> None:
            if name == "RESUMED":
                answered.set()
            self._take(side, name, data)

        try:
            async with asyncio.timeout(CONNECT_SECONDS) as patience:
                side.websocket = await internals.resume_beside(
                    self._client,
                    take,
                    shard=side.dead.shard,
                    session=side.dead.session,
                    sequence=side.sequence,
                    gateway=side.dead.gateway,
                )
                while True:
                    await internals.read_beside(side.websocket)
                    self._received(side)
                    if answered.is_set():
                        patience.reschedule(None)
        finally:
            if side.websocket is not None:
                websocket, side.websocket = side.websocket, None
                await websocket.close(self._close_code)

    def _received(self, side: _Side) -> None:
        assert side.websocket is not None
        side.sequence = side.websocket.sequence or side.sequence
        if not side.pending:
            self._file.handed(side.dead.shard, side.sequence)

    def _lose(self, side: _Side, reason: str) -> None:
        """Go on without a session."""
        side.over = True
        self.lost += 1
        _log.warning(
            "the session of shard %s of %s cannot be resumed: %s; what was sent on it %s is lost",
            side.dead.shard,
            whose(self.generation),
            reason,
            "from now on until this child's own begins" if side.resumed else "meanwhile",
        )
        self._settle()

    def _settle(self) -> None:
        if not self.settled:
            self._settled.clear()
        elif not self._settled.is_set():
            self._settled.set()
            self._changed()

    # Events.

    def _take(self, side: _Side, name: str, data: Any) -> None:
        if name == "RESUMED":
            if not side.resumed:
                _log.info("resumed shard %s of %s", side.dead.shard, whose(self.generation))
            side.resumed = side.connected = True
            if self._own:
                self._gate.begin_anew(side.dead.shard, side.dead.shards, told=self._is_told)
                self._sure_at = self._clock() + SURE_AFTER
            self._settle()
            return
        event = Event(name, data, self._clock(), recovered=True)
        if name in _DATED:
            self._discord_clock.came(int(data["id"]), event.at)
        event.identity = identify(name, data)
        if event.identity is None:
            return
        event.occurrence = self._numbering.observe(event.identity, event.at)
        assert side.websocket is not None
        missed = _Missed(event, side.websocket.sequence or 0, event.identity.stream, side.resumed)
        if len(side.pending) >= HELD_COUNT:
            self._drop(side.pending.popleft())
        side.pending.append(missed)
        while event.at - side.pending[0].event.at > HELD_SECONDS:
            self._drop(side.pending.popleft())
        self.advance()

    def _drop(self, missed: _Missed) -> None:
        self.missed += 1
        self._gate.counters.overflowed += 1

    def _may(self, missed: _Missed) -> bool:
        """Whether the guild of an event is in the cache, or it is known that it will not come."""
        if self._finishing or missed.stream.startswith("dm:"):
            return True
        guild = self._client.get_guild(int(missed.stream))
        if guild is not None:
            return not guild.unavailable
        began_at = self._own_began_at(missed)
        if began_at is None:
            return False
        # One that was joined just now may reach this child's own session a little later.
        wait = max(began_at, missed.event.at) + SURE_AFTER - self._clock()
        if wait > 0:
            self._soon(wait)
        return wait <= 0

    def _own_began_at(self, missed: _Missed) -> float | None:
        """Return when the READY came that names the guild of an event, if it still exists."""
        for shard, (shards, at) in self._own.items():
            if shard_of(missed.stream, shards) == shard:
                return at
        return None

    def _is_left_to_own(self, missed: _Missed) -> bool:
        """Whether an event of a guild that is not known yet is so young that this child's own session hears it too."""
        if missed.stream.startswith("dm:") or self._client.get_guild(int(missed.stream)) is not None:
            return False
        began_at = self._own_began_at(missed)
        return began_at is not None and missed.event.at > began_at + SURE_AFTER

    def _soon(self, wait: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        if self._again is not None:
            if self._again.when() <= loop.time() + wait:
                return
            self._again.cancel()
        self._again = loop.call_later(wait, self._advance_again)

    def _advance_again(self) -> None:
        self._again = None
        self.advance()

    def _hand_over(self, side: _Side, missed: _Missed) -> None:
        event = missed.event
        assert event.identity is not None
        if self._finishing and self._is_left_to_own(missed):
            pass
        elif event.name == "INTERACTION_CREATE":
            self._hand_over_interaction(missed)
        elif heard_by := self._left_to_own_cache(event):
            self._untold.append((self._key(event), heard_by))
        elif (run := self._way(event)) is not None and self._claim(event):
            try:
                self._gate.counters.replayed += self._gate.recover(event, run)
            except Exception:
                _log.exception("%s could not be read again", event.describe())
                self.missed += 1
        self._begun()
        self._file.let_go()
        self._file.handed(side.dead.shard, missed.sequence)

    def _left_to_own_cache(self, event: Event) -> tuple[str, ...]:
        """Return what hears an event that makes sense only beside the cache as it was; nothing if it can be told here.

        Of a guild that was left meanwhile nobody can be a member any more; this child's own session may hold the join
        from before that.
        """
        if event.name == "GUILD_MEMBER_ADD" and self._client.get_guild(int(event.data["guild_id"])) is None:
            return ("member_join",)
        return _UNTOLD.get(event.name, ())

    def _is_told(self, event: Event) -> bool:
        """Whether an event of this child's own sessions is told from a dead one that goes on beside it.

        One of a kind that the dead one's intents leave out is not, nor is one that it had read before.
        """
        if event.identity is None or not self._numbering.counts(event.identity.text):
            return False
        return self._way(event) is not None and not self._left_to_own_cache(event)

    def _hand_over_interaction(self, missed: _Missed) -> None:
        event = missed.event
        if not self._claim(event):
            return
        age = self._clock() - event.at
        if not missed.live:
            age = max(age, self._discord_clock.age(int(event.data["id"]), self._clock()))
        event.at = self._clock() - age
        if age <= INTERACTION_LIFE:
            self._gate.counters.replayed += self._gate.recover(event)
        else:
            self._gate.counters.expired += 1

    def _way(self, event: Event) -> Callable[[], None] | None:
        """Return how an event is told without being done again; None: not at all."""
        client, gate, data = self._client, self._gate, event.data
        if event.name in _TOLD:
            return lambda: self._tell(event)
        if event.name in ("GUILD_MEMBER_ADD", "GUILD_MEMBER_REMOVE"):
            leaving = event.name == "GUILD_MEMBER_REMOVE"
            return lambda: internals.as_member(client, data, present=leaving, run=lambda: gate.parse(event))
        if event.name in ("GUILD_CREATE", "GUILD_DELETE") and not data.get("unavailable"):
            return lambda: self._tell_of_guild(event.name, data)
        return None

    def _tell_of_guild(self, name: str, data: Mapping[str, Any]) -> None:
        """Tell of a guild that was joined or left; of one that is not there any more with what the payloads say."""
        guild = self._client.get_guild(int(data["id"])) or self._gone.get(int(data["id"]))
        if guild is None:
            guild = internals.make_guild(self._client, {**data, "unavailable": name == "GUILD_DELETE"})
            self._gone[guild.id] = guild
        self._client.dispatch("guild_join" if name == "GUILD_CREATE" else "guild_remove", guild)

    def _tell(self, event: Event) -> None:
        """Parse what changes nothing but messages, on the side stream's own message cache."""
        channel: Any = None
        if event.name == "MESSAGE_CREATE":
            channel = self._client.get_channel(int(event.data["channel_id"]))
            event.data = self._without_old_member(event.data)
        newest = getattr(channel, "last_message_id", None)
        internals.with_messages(self._client, self._messages, lambda: self._gate.parse(event))
        if newest is not None and newest > int(event.data["id"]):
            channel.last_message_id = newest

    def _without_old_member(self, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Leave out what a message says of its author's membership if the cache knows it, newer."""
        guild = self._client.get_guild(int(data.get("guild_id") or 0))
        if guild is None or guild.get_member(int(data["author"]["id"])) is None:
            return data
        return {key: value for key, value in data.items() if key != "member"}

    # Claims.

    def _past(self, digest: str) -> int:
        """Return how many occurrences of a digest the dead child had seen when it was killed."""
        return self._ledger.past(digest, self._past_before)

    def _claim(self, event: Event) -> bool:
        assert event.identity is not None
        occurrence = event.occurrence
        if occurrence is None:
            self._file.take_in_hand(event.identity.text)
            return self._ledger.claim(event.identity.text, event.at)
        number = self._numbering.number(occurrence, self._ledger)
        self._file.take_in_hand(number_key(event.identity.text, number))
        return self._ledger.claim_number(event.identity.text, number, occurrence.mark, event.at)

    def _key(self, event: Event) -> str:
        assert event.identity is not None
        if event.occurrence is None:
            return event.identity.text
        return number_key(event.identity.text, self._numbering.number(event.occurrence, self._ledger))

    def _count_untold(self) -> None:
        """Count what was left to this child's own sessions and happened before they began."""
        heard = [key for key, names in self._untold if self._gate.hears(names)]
        self.missed += len(heard) - len(self._ledger.claimed(heard))
        self._untold.clear()
        self._ledger.close()
        self._changed()
        _log.info(
            "recovered what %s left: %s sessions, %s lost, %s events missed",
            whose(self.generation),
            self.sessions,
            self.lost,
            self.missed,
        )
