"""What a dead child left undone: this child goes on with its gateway sessions, where it had come to.

Nobody has a cache but Discord. So each shard IDENTIFYs for one, and meanwhile its dead session is resumed and held
(`discordpy.held`), for Discord would forget it. When the shard is ready, it changes over by discord.py's own reconnect:
its own session ends, RESUMED is what comes next. An example, of a shard whose dead session stood at 41:

    resumed from 41      42, 43, 44 come, and are held
    IDENTIFY             READY, the guilds: the cache. What else comes updates it, and waits in the gate
    ready                the own session ends; what waits of it in the gate is forgotten, the dead one brings it all
    42, 43, 44           are parsed and handled, as is whatever comes from now on

Three rules follow:

- What was begun is not begun again: the dead child's file says how far it was, and while this child is not active it
  notes there how far it is, for its own successor. What others have claimed is not handled either: the dead child may
  have been in an overlap when it died, and others may have handled what its session had yet to bring.
- The cache is newer than what the dead session brings, up to the change-over. All of it is done once more
  nevertheless, in its order: each event says what something has become, so what the last one leaves is the present
  again. Only what is not of that kind is told and not done (`discordpy.again`): what was made and is there stays as it
  is, members who come and go are counted by the list that they are in, and the shard's messages leave the message
  cache first, to come again. What is gone from the cache cannot be told, and an update is told beside a cache that
  may know it already, so that it says little of what was before: these are counted as missed.
- An interaction that is older than 3 s by Discord's clock cannot be answered: it is counted as expired.

A session that no shard can change over to, for this release asks for other intents or another number of shards, is only
told: when all shards are ready, what it has brought until then is handled, and it is closed. Of events without an id
only those are told that came before the own session of their guild began; that one brings the others.

A session that cannot be resumed is given up: its shard goes on with its own. If no other child was there when that one
began, what it brings is handled as it comes.

Knows gate, claims and dead sessions. How a connection is made is `session`'s matter, where sessions are noted
`sessions`'.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import discord
import msgspec

from bastion.bot import internals
from bastion.bot.dated import DiscordClock
from bastion.bot.discordpy import again
from bastion.bot.discordpy.held import Held, Payload, SessionGoneError, decoded
from bastion.bot.gate import INTERACTION_LIFE, Event, Gate
from bastion.bot.keys import Identity, identify
from bastion.bot.ledger import Among, Ledger
from bastion.bot.session.handover import Handover
from bastion.bot.session.resumes import Resumes
from bastion.bot.sessions import DeadSession, SessionFile, whose

_log = logging.getLogger("bastion.recovery")

OPEN_SECONDS = 5.0
"""Longest time for one connection to be opened."""
ACCEPT_SECONDS = 3.0
"""How long a shard that could go on with its own session waits for Discord's answer to RESUME."""
_RETRY_SECONDS = 0.1
_DEFAULT_AFTER = 2
"""After so many connections that did not open at the session's own address the gateway's is tried in turn."""
SURE_AFTER = 1.0
"""Seconds after a session began by which all that happened before has reached the other sessions, and their caches."""
MEMBERS_SECONDS = 2.0
"""How long a shard that has all its guilds waits for their members: those of many guilds take minutes to come."""
_CLOSE_SECONDS = 0.5
_DATED = ("MESSAGE_CREATE", "INTERACTION_CREATE")
"""Events that come as soon as what they have the id of is made."""

_OF_A_MEMBER = ("GUILD_MEMBER_ADD", "GUILD_MEMBER_UPDATE", "GUILD_MEMBER_REMOVE", "VOICE_STATE_UPDATE")
_OF_WHAT_IS_THERE: Mapping[str, tuple[str, ...]] = {
    "CHANNEL_DELETE": ("guild_channel_delete",),
    "CHANNEL_UPDATE": ("guild_channel_update",),
    "GUILD_MEMBER_ADD": ("member_join",),
    "GUILD_MEMBER_REMOVE": ("member_remove",),
    "GUILD_MEMBER_UPDATE": ("member_update",),
    "GUILD_ROLE_DELETE": ("guild_role_delete",),
    "GUILD_ROLE_UPDATE": ("guild_role_update",),
    "GUILD_UPDATE": ("guild_update",),
    "GUILD_SCHEDULED_EVENT_UPDATE": ("scheduled_event_update",),
    "GUILD_SOUNDBOARD_SOUND_DELETE": ("soundboard_sound_delete",),
    "GUILD_SOUNDBOARD_SOUND_UPDATE": ("soundboard_sound_update",),
    "PRESENCE_UPDATE": ("presence_update",),
    "STAGE_INSTANCE_DELETE": ("stage_instance_delete",),
    "STAGE_INSTANCE_UPDATE": ("stage_instance_update",),
    "THREAD_DELETE": ("thread_delete", "raw_thread_delete"),
    "THREAD_UPDATE": ("thread_update", "raw_thread_update"),
    "VOICE_STATE_UPDATE": ("voice_state_update",),
}
"""Events that are about something in the cache, which may be gone, or newer than an update; with what hears them."""


class _Id(msgspec.Struct):
    id: str


_id = msgspec.json.Decoder(_Id)


@dataclass(slots=True, eq=False)
class _Side:
    """One dead session."""

    dead: DeadSession
    unanswered_since: float = 0.0
    held: Held | None = None
    resumed: bool = False
    """Whether Discord has accepted RESUME on the connection that it has now."""
    changed_at: float | None = None
    """When its shard has changed over to it."""
    last: int = 0
    """The sequence of what had come by then."""
    caught_up: bool = False
    """Whether all that had come by then is handled."""
    over: bool = False
    """Whether it is given up."""
    telling: bool = False
    """Whether what it has brought is being handled, though no shard changes over to it."""
    task: asyncio.Task[None] | None = None


class Recovery:
    """The sessions of one dead child, until its successor is active and the cache is no newer than they are."""

    def __init__(
        self,
        *,
        client: discord.Client,
        gate: Gate,
        ledger: Ledger,
        file: SessionFile | None,
        generation: int,
        covered: Callable[[DeadSession], bool],
        alone: bool,
        connections: Handover,
        ready: Callable[[int], bool],
        discord_clock: DiscordClock,
        changed: Callable[[], None],
        taken: Callable[[], None] = lambda: None,
        ended: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Read what the dead child left, if it left anything.

        ``ledger`` claims under the dead child's generation. ``covered`` tells of which dead sessions this child's own
        have missed nothing, ``ready`` which shards are ready; ``alone``: none of its sessions began beside a living
        child. ``changed`` is called when there is news to report, ``taken`` when an event has been parsed and its
        handlers have begun, ``ended`` when nothing is left to do.
        """
        self.generation = generation
        self.missed = 0
        self.lost = 0
        self.alone = alone
        self.cut, self.more_cut = file.running() if file is not None else ([], 0)
        self._client, self._gate, self._ledger, self._file = client, gate, ledger, file
        self._changing, self._ready, self._clock = connections, ready, clock
        self._discord_clock = discord_clock
        self._changed, self._taken, self._ended = changed, taken, ended
        found = [] if file is None else [dead for dead in file.sessions() if not covered(dead)]
        self._sides = {dead.shard: _Side(dead) for dead in found}
        self._apart: list[_Side] = []
        """Sessions that no shard can change over to."""
        self._planned: tuple[int, ...] | None = None
        """This child's own shards."""
        self._read_at = 0.0 if file is None else file.reading_at
        self._own: dict[int, float] = {}
        """When each shard's own session began."""
        self._missing: dict[int, set[int]] = {}
        """By shard, the guilds that its own session has named and not brought yet."""
        self._waits_for_members: set[int] = set()
        """Shards that have all guilds, for a moment."""
        self._made: set[int] = set()
        """Guilds that the dead sessions have brought: the cache is no newer there."""
        self._resumes = Resumes()
        self._begun = self._activated = self._stopped = self._over = False
        self._settled = asyncio.Event()
        self._again: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def sessions(self) -> int:
        """How many sessions of the dead child were found."""
        return len(self._all)

    @property
    def _all(self) -> list[_Side]:
        return [*self._sides.values(), *self._apart]

    @property
    def errors(self) -> int:
        """Claims that failed."""
        return self._ledger.errors

    @property
    def unheard(self) -> float:
        """For about how many seconds nobody has heard a session that is lost: what came then cannot be counted."""
        lost = (side.dead.shard for side in self._all if side.over)
        return max((self._own.get(shard, self._clock()) - self._read_at for shard in lost), default=0.0)

    def begin(self) -> None:
        """Resume the sessions, once. The client must have logged in, and the app have its state."""
        if self._begun or self._stopped:
            return
        self._begun = True
        intents = internals.intents(self._client).value
        for side in self._all:
            if side.dead.intents != intents and side not in self._apart:
                self._set_apart(side)
            side.unanswered_since = self._clock()
            side.task = asyncio.ensure_future(self._follow(side))
        self._settle()

    def planned(self, count: int, ids: list[int] | range) -> None:
        """Learn how many shards there are in all, and which are this child's."""
        self._planned = tuple(ids)
        for shard, side in list(self._sides.items()):
            if side.dead.shards != count or shard not in ids:
                self._set_apart(side)

    def _set_apart(self, side: _Side) -> None:
        del self._sides[side.dead.shard]
        self._apart.append(side)

    def session_began(self, shard: int) -> None:
        """Note that a READY of this child's own sessions is about to be read."""
        self._own.setdefault(shard, self._clock())
        self._missing.pop(shard, None)

    def _came(self, shard: int, guild: int) -> None:
        """Note a guild that a shard's own session brings. discord.py's readiness may wait for members for minutes."""
        if shard not in self._missing:
            count = self._client.shard_count or 1
            missing = {one.id for one in self._client.guilds if one.unavailable and (one.id >> 22) % count == shard}
            self._missing[shard] = missing
        self._missing[shard].discard(guild)
        if not self._missing[shard]:
            self._waits_for_members.add(shard)
            asyncio.get_running_loop().call_later(MEMBERS_SECONDS, self._wait_no_longer, shard)

    def _wait_no_longer(self, shard: int) -> None:
        self._waits_for_members.discard(shard)
        self.look()

    def _is_ready(self, shard: int) -> bool:
        """Whether a shard's guilds are in the cache, and their members, unless they are long to come."""
        return self._ready(shard) or (self._missing.get(shard) == set() and shard not in self._waits_for_members)

    async def caught_up(self, patience: float) -> None:
        """Wait until every session has brought what had come, or is given up; at most ``patience`` seconds."""
        self.look()
        try:
            await asyncio.wait_for(self._settled.wait(), patience)
        except TimeoutError:
            _log.warning("not all that %s had left is handled; going on", whose(self.generation))

    def finish(self) -> None:
        """Learn that this child is active: from now on its gate holds nothing back, and it claims in its own name."""
        self._activated = True
        self._end_soon()

    async def abandon(self) -> None:
        """Leave the sessions for another child to resume; hand nothing over any more."""
        if not (self._over or self._stopped):
            internals.keep_sessions()
        self._stopped = True
        tasks = [side.task for side in self._all if side.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CLOSE_SECONDS)

    def look(self) -> None:
        """Change over each shard that can, and give up what is waited for in vain. Call it whenever something changes.

        Whether a shard is ready, and whether its connection is whole, discord.py's base events tell.
        """
        if self._stopped or not self._begun:
            return
        for side in self._all:
            shard = side.dead.shard
            if side.over or side.changed_at is not None or side.telling:
                continue
            if not (self._are_ready() if side in self._apart else self._is_ready(shard)):
                continue
            wait = side.unanswered_since + ACCEPT_SECONDS - self._clock()
            if side.resumed and side in self._apart:
                self._tell_when_sure(side)
            elif side.resumed and self._changing.may_change(shard):
                self._change(side)
            elif not side.resumed and wait <= 0:
                self._lose(side, f"no answer for {ACCEPT_SECONDS:g} s")
            elif not side.resumed:
                self._look_again(wait)

    def _are_ready(self) -> bool:
        return self._planned is not None and all(map(self._is_ready, self._planned))

    def _look_again(self, wait: float) -> None:
        if self._again is not None:
            self._again.cancel()
        self._again = asyncio.get_running_loop().call_later(wait + 0.01, self.look)

    # Sessions.

    async def _follow(self, side: _Side) -> None:
        """Have a session resumed, and hold what it brings, until its shard changes over to it or it is given up."""
        failed = 0
        while (why := self._resumes.dead(side.dead.shard)) is None:
            try:
                await self._open(side, elsewhere=failed >= _DEFAULT_AFTER and failed % 2 == 0)
                failed = 0
                await self._hold(side)
            except SessionGoneError as error:
                why = str(error)
                break
            except (ConnectionError, TimeoutError) as error:
                failed += 1
                _log.info("shard %s of %s: %s", side.dead.shard, whose(self.generation), error or "no answer")
            except Exception:
                _log.exception("shard %s of %s", side.dead.shard, whose(self.generation))
                why = "it cannot be read"
                break
            if side.resumed:
                side.resumed, side.unanswered_since = False, self._clock()
                asyncio.get_running_loop().call_soon(self.look)
            await asyncio.sleep(_RETRY_SECONDS)
        self._lose(side, why)

    async def _open(self, side: _Side, *, elsewhere: bool) -> None:
        dead = side.dead
        with self._changing.connecting(dead.shard):
            async with asyncio.timeout(OPEN_SECONDS):
                side.held = await Held.resume(
                    self._client,
                    side.held,
                    shard=dead.shard,
                    session=dead.session,
                    sequence=dead.sequence,
                    gateway=None if elsewhere else dead.gateway,
                )
        self._resumes.sent(dead.shard, side.held.websocket)

    async def _hold(self, side: _Side) -> None:
        assert side.held is not None
        try:
            await side.held.read(lambda text, payload: self._heard(side, text, payload))
        finally:
            if side.changed_at is None:
                await side.held.discard()

    def _heard(self, side: _Side, text: str, payload: Payload) -> None:
        if payload.t in _DATED:
            self._discord_clock.came(int(_id.decode(payload.d).id), self._clock())
        if self._resumes.heard(side.dead.shard, text):
            _log.info("resumed shard %s of %s", side.dead.shard, whose(self.generation))
            side.resumed = True
            asyncio.get_running_loop().call_soon(self.look)  # not here: the task that reads would go on reading

    def _change(self, side: _Side) -> None:
        """Have a shard go on with its dead session. What waits of its own is told by that one."""
        dead, held = side.dead, side.held
        assert held is not None
        side.changed_at, side.last = self._clock(), held.sequence or 0
        if side.task is not None:
            side.task.cancel()
        self.missed += held.dropped
        self._gate.counters.overflowed += held.dropped
        self._gate.release(dead.shard, handle=False)
        again.forget_messages(self._client, dead.shard)
        held.release(dead.sequence, lambda: self._catch_up(side))
        task = asyncio.ensure_future(self._changing.change(dead.shard, held.websocket, dead.gateway))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _catch_up(self, side: _Side) -> None:
        side.caught_up = True
        self._settle()

    def _lose(self, side: _Side, why: str) -> None:
        """Go on without a session."""
        if side.over or side.changed_at is not None or side.telling:
            return
        side.over = True
        self.lost += 1
        _log.warning(
            "the session of shard %s of %s cannot be resumed: %s; what was sent on it until this child's own is lost",
            side.dead.shard,
            whose(self.generation),
            why,
        )
        if side.task is not None and side.task is not asyncio.current_task():
            side.task.cancel()
        if self.alone and side not in self._apart:
            self._gate.release(side.dead.shard, handle=True)
        self._settle()

    def _tell_when_sure(self, side: _Side) -> None:
        """Tell what a session has brought, once it has brought all from before the shards' own sessions began."""
        wait = max(self._own.values(), default=0.0) + SURE_AFTER - self._clock()
        if wait > 0:
            self._look_again(wait)
            return
        side.telling = True
        task = asyncio.ensure_future(self._tell(side))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _tell(self, side: _Side) -> None:
        """Handle what a session has brought to which no shard changes over, then close it."""
        assert side.held is not None
        while (came := side.held.take()) and not self._stopped:
            for at, text in came:
                self._tell_one(side, at, decoded(text))
                await asyncio.sleep(0)  # each is a task's worth of work, and there may be thousands
        if side.task is not None and not self._stopped:
            side.task.cancel()  # which closes it
        side.caught_up = True
        self._settle()

    def _tell_one(self, side: _Side, at: float, payload: Payload) -> None:
        if payload.t is None or payload.t == "RESUMED":
            return
        event = Event(name=payload.t, data=msgspec.json.decode(payload.d), at=at)
        event.identity = identify(event.name, event.data)
        event.decision = event.identity is not None and self._tells(event, event.identity)
        with self._noting(event, side.dead.shard, payload.s or 0):
            if event.decision:
                self._hand_over_decided(event, old=True, known=True)

    @contextlib.contextmanager
    def _noting(self, event: Event, shard: int, sequence: int) -> Iterator[None]:
        """Note for this child's own successor that an event has been handed over, behind what is done meanwhile."""
        assert self._file is not None
        try:
            yield
        except Exception:
            _log.exception("%s could not be read again", event.describe())
            self.missed += 1
        self._gate.begun()
        self._taken()
        self._file.handed(shard, sequence)

    def _tells(self, event: Event, identity: Identity) -> bool:
        """Say whether an event is told that the shards' own sessions may bring too."""
        if identity.unique:
            self._gate.claiming(event)
            return self._ledger.claim(identity.text, event.at)
        guild, count = int(event.data.get("guild_id") or 0), self._client.shard_count or 1
        return event.at < self._own.get((guild >> 22) % count, event.at)

    def _settle(self) -> None:
        if not self._settled.is_set() and all(side.caught_up or side.over for side in self._all):
            self._settled.set()
            self._changed()
        self._end_soon()

    def _end_soon(self) -> None:
        """End it when this child is active, and nothing can come any more that the cache knows already."""
        if self._activated and self._settled.is_set() and not (self._over or self._stopped):
            newest = max((side.changed_at or 0.0 for side in self._sides.values()), default=0.0)
            wait = max(0.0, newest + SURE_AFTER - self._clock())
            asyncio.get_running_loop().call_later(wait, self._end)

    def _end(self) -> None:
        if self._over or self._stopped:
            return
        self._over = True
        self._changed()
        self._ledger.close()
        self._ended()
        if self._file is not None:
            _log.info(
                "recovered what %s left: %s sessions, %s lost, %s events missed%s",
                whose(self.generation),
                self.sessions,
                self.lost,
                self.missed,
                f" and what came to the lost ones for about {self.unheard:.0f} s" if self.lost else "",
            )

    # Events.

    def takes(self, event: Event) -> bool:
        """Handle an event, if a dead session brings it; return whether it does.

        Else decide it, if its shard waits for no dead session and no other child handles it.
        """
        place = self._gate.place()
        if place is None or self._over or self._stopped or (self._activated and self._gate.role != "active"):
            return False
        shard, sequence = place
        side = self._sides.get(shard)
        if side is None or side.over:
            if self.alone and self._begun and not self._apart:
                event.decision = True
            return False
        if side.changed_at is None or self._file is None:
            if event.name == "GUILD_CREATE":
                self._came(shard, int(event.data["id"]))
            return False
        old = sequence <= side.last
        known = old or self._clock() < side.changed_at + SURE_AFTER
        with self._noting(event, shard, sequence):
            self._hand_over(event, old=old, known=known, began=side.dead.began)
        return True

    def _hand_over(self, event: Event, *, old: bool, known: bool, began: float) -> None:
        """Have an event parsed and handled. ``old``: it had come before the change-over; ``known``: it may have.

        ``began`` is when the session began that brings it.
        """
        event.identity = identify(event.name, event.data)
        event.decision = event.identity is None or self._claim(event, event.identity, began=began if old else None)
        self._hand_over_decided(event, old=old, known=known)

    def _hand_over_decided(self, event: Event, *, old: bool, known: bool) -> None:
        if event.name == "INTERACTION_CREATE":
            if event.decision:
                self._hand_over_interaction(event)
            return
        if not known:
            self._gate.counters.replayed += self._gate.recover(event)
            return
        told = self._gate.recover(event, self._way(event))
        self._gate.counters.replayed += told
        says_all = told and not (old and event.name.endswith("_UPDATE"))
        if event.decision and not says_all and self._gate.hears(_OF_WHAT_IS_THERE.get(event.name, ())):
            self.missed += 1

    def _hand_over_interaction(self, event: Event) -> None:
        age = self._discord_clock.age(int(event.data["id"]), self._clock())
        event.at = self._clock() - age
        if age > INTERACTION_LIFE:
            self._gate.counters.expired += 1
        else:
            self._gate.counters.replayed += self._gate.recover(event)

    def _way(self, event: Event) -> Callable[[], None]:
        """Return how an event is parsed that the cache may know."""
        client, gate, name, data = self._client, self._gate, event.name, event.data
        if name in _OF_A_MEMBER and int(data.get("guild_id") or 0) not in self._made:
            return lambda: again.with_member(client, name, data, lambda: gate.parse(event))
        if name in ("GUILD_CREATE", "GUILD_DELETE") and data.get("unavailable") is None:
            guild = client.get_guild(int(data["id"]))
            if name == "GUILD_CREATE" and guild is not None:
                return lambda: client.dispatch("guild_join", guild)
            if name == "GUILD_CREATE":
                self._made.add(int(data["id"]))
            if name == "GUILD_DELETE" and guild is None:
                gone = internals.make_guild(client, {**data, "unavailable": True})
                return lambda: client.dispatch("guild_remove", gone)
        if name == "THREAD_CREATE":
            return lambda: again.with_thread(client, data, lambda: gate.parse(event))
        if name == "MESSAGE_CREATE":
            event.data = again.without_old_member(client, data)
        return lambda: gate.parse(event)

    # Claims.

    def _claim(self, event: Event, identity: Identity, *, began: float | None) -> bool:
        """Claim an event. ``began``: when the dead child's session began, of what another one may have handled there.

        Before this child is active that is in the dead one's name, for a successor would go on from there. What may
        happen again is not claimed: nobody else is told of it. But a dead one may have died in an overlap with another,
        which had handled what this session brings now.
        """
        ledger = self._gate.ledger if self._activated else self._ledger
        if identity.unique:
            self._gate.claiming(event)
            return ledger.claim(identity.text, event.at)
        if began is not None:
            return not self._ledger.pair(identity.text, event.at, among=Among(began, float("inf")))
        return self._gate.claim(event) if self._activated else True
