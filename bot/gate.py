"""Which gateway events reach the app, by role.

Active passes everything, claiming first while a window is open. Standby keeps discord.py's cache right but holds every
event back. Draining holds too, for it may be made active again. A child that was active once, draining or in standby,
still feeds its `wait_for`s and its own components, until it has finished. One whose client is being closed holds
everything for good.
What is held and was claimed by another child is forgotten as time goes by; what is left on activation is what nobody
handled, and is replayed in order before anything that arrives meanwhile.

Knows roles, claims and what discord.py calls parsers and dispatch. Knows nothing of pipes, shards or processes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, TypeAlias
from weakref import WeakSet

import discord
import msgspec

from bastion.bot import components, internals
from bastion.bot.components import ACTIVE_FIRST, OWNER_FIRST, Ownership
from bastion.bot.inflight import JOIN, current
from bastion.bot.keys import Identity, identify
from bastion.bot.ledger import PAIR_WITHIN, SKEW, Among, Ledger

Role: TypeAlias = Literal["standby", "active", "draining"]
Place: TypeAlias = tuple[int, int]
"""Where an event stands in its gateway session: shard and sequence."""
Observer: TypeAlias = Callable[[str, tuple[Any, ...]], None]
StrangerTaken: TypeAlias = Callable[["Event", discord.Interaction[Any], float], None]

INTERACTION_LIFE = 3.0
"""Seconds after which Discord takes no first answer to an interaction (its documentation, "Interaction Callback")."""

HELD_COUNT = 20_000
"""Most events held back, of about 2 KB each. A standby forgets what was claimed each second: this is for faults."""

HELD_SECONDS = 300.0
"""Longest time an event is held back."""

_FORGET_AFTER = (3.0, PAIR_WITHIN + 3.0)
"""Seconds after its receipt when an event that is held back is forgotten, if another child has claimed it: one that is
well has by the first of them, one that stands still by the second, or is dead."""
_SLICE_SECONDS = 0.005
"""Longest time a replay keeps the event loop to itself."""

_BASE = frozenset({"connect", "disconnect", "ready", "resumed", "error", "guild_available", "guild_unavailable"})
_JOINS = frozenset({"guild_join", "guild_available"})
_UNGATED_PARSERS = frozenset({"READY", "RESUMED", "GUILD_MEMBERS_CHUNK", "VOICE_SERVER_UPDATE"})


@lru_cache(maxsize=1024)
def _is_base(name: str) -> bool:
    return name in _BASE or name.startswith(("shard_", "socket_"))


class Event(msgspec.Struct, weakref=True, eq=False):
    """One gateway event on its way to the app. A struct, for these are made in one step, without a frame of Python."""

    name: str
    data: Any
    at: float
    """When it came."""
    decision: bool | None = None
    """Whether this child handles it; None while undecided. Everything that follows from one event shares it."""
    identity: Identity | None = None
    session: tuple[float, float] = (0.0, 0.0)
    """When the session was asked for that has brought it, and when it was there, if that is known."""
    counted: bool = False
    interaction: discord.Interaction[Any] | None = None
    """What discord.py made of it, if it is one and was handled here."""
    place: Place | None = None
    """Known of what is held back, or claimed."""
    recovered: bool = False
    """Whether it comes from a session of a dead child."""
    foreign: bool = False
    """Whether another child handles it, whose session brought it."""

    def describe(self) -> str:
        """Return a name for logs: what it is and its id, never its content."""
        ident = self.data.get("id") if isinstance(self.data, dict) else None
        return f"{self.name} {ident}" if ident else self.name


@dataclass(slots=True)
class _Held:
    event: Event
    dispatch: str | None
    """The dispatch held back, or None for a raw interaction."""
    args: tuple[Any, ...] = ()
    fed: bool = False
    """Whether pending `wait_for`s have seen it already."""
    looks: int = 0
    """How often it has been looked at whether another child has claimed it."""


@dataclass(slots=True)
class Counters:
    """What the gate did since it began."""

    received: int = 0
    heard: int = 0
    """Received in a window, and not of one session alone."""
    handled: int = 0
    replayed: int = 0
    expired: int = 0
    overflowed: int = 0


@dataclass(slots=True, eq=False)
class Gate:
    """Stands between discord.py and the handlers of one client."""

    client: discord.Client
    ledger: Ledger
    observer: Observer
    """Told of every base event, before the app is; but for ``socket_event_type``, which tells nothing of a shard."""
    role: Role
    stranger_taken: StrangerTaken = lambda *_: None
    """Told of a component or modal that was taken though nothing here knows it, and how many seconds are left for it.

    Handlers that hear every interaction have begun by then."""
    clock: Callable[[], float] = time.monotonic
    place: Callable[[], Place | None] = lambda: None
    """Where in its session the event stands that is being received now."""
    taken: Callable[[], None] = lambda: None
    """Called when an event has been parsed: what it begins has begun, as tasks that have not made a step yet."""
    handed: Callable[[Place], None] = lambda place: None
    """Told of each event that was held back, when it is held back no longer."""
    dated: Callable[[int, float], None] = lambda ident, at: None
    """Told of each interaction's id, and when it came."""
    claiming: Callable[[Event], None] = lambda event: None
    """Told of each event before it is claimed; it counts as running until `begun` or `handed` is called.

    So there is nothing that a child has claimed when it dies, and of which it leaves no trace."""
    begun: Callable[[], None] = lambda: None
    """Called when handlers have begun of what was claimed just now, or was neither received just now nor held back.

    Also when a claim is lost: there are none then."""
    waiting: Callable[[Event], Callable[[], object]] = lambda event: lambda: None
    """Told of each interaction that the active child leaves to an older one for a moment.

    What it returns is called after that, when handlers that began for it are told of."""
    receiver: internals.Receiver = field(default_factory=internals.Receiver)
    """Knows whether what is being parsed is another child's to handle."""
    recovers: Callable[[Event], bool] = lambda event: False
    """Handles what a dead child's session brings. Else it may decide an event: one that is True is not held back."""
    hides: Callable[[str, tuple[Any, ...]], bool] = lambda name, args: False
    """Says of a base event whether nobody is to hear of it."""
    ask_older: Callable[[Any, Callable[[bool], None]], bool] = lambda data, then: False
    """Asks the child that had the sessions before whether a component is its own; False: there is none to ask."""
    counters: Counters = field(default_factory=Counters)
    holding: bool = False
    """Whether events are held back. The gate's own to change."""
    window_open: bool = False
    """Whether events are claimed before they are handled, for another child may hear them too. The gate's own."""
    _closes: asyncio.TimerHandle | None = None
    """When the window closes."""
    _leftovers: bool = False
    """Whether claims of a window that has closed are still to be forgotten."""
    _began: dict[int, tuple[float, float]] = field(default_factory=dict)
    """When the session of each shard was asked for, and when it was there, if this child began it."""
    _held: deque[_Held] = field(default_factory=deque)
    _finishing: bool = False
    """Whether handlers, conversations and components of an active time may still be alive here."""
    _shut: bool = False
    """Whether the client is being closed: what it holds is held for good."""
    _own: internals.Dispatch = field(init=False)
    _parse_interaction: internals.Parser = field(init=False)
    _parsers: dict[str, internals.Parser] = field(default_factory=dict)
    ears: internals.Ears = field(init=False)
    """By what the app hears events."""
    _untold: dict[Event, asyncio.Event | None] = field(default_factory=dict)
    """The joins that the app has not been told of. Of those that this child handles: what is set when it has."""
    _awaited: dict[int, list[Event]] = field(default_factory=dict)
    """Those of them, by guild, that discord.py tells of as available, when a shard is ready."""
    _told_early: WeakSet[Event] = field(default_factory=WeakSet)
    """The joins that the app was told of before discord.py does so."""
    _later: dict[asyncio.TimerHandle, tuple[Event, Callable[[], object]]] = field(default_factory=dict)

    def install(self) -> None:
        """Put the gate into the client."""
        self.ears = internals.ears(self.client)
        self._own = internals.replace_dispatch(self.client, self._dispatch)
        internals.on_awaited_guild(self.client, self._note_awaited)
        parsers = internals.parsers(self.client)
        for name, parser in list(parsers.items()):
            if name in _UNGATED_PARSERS:
                parsers[name] = self._told(parser)
            else:
                self._parsers[name] = parser
                parsers[name] = self._gated(name, parser)
        if self.role == "standby":
            self.holding = True
        else:
            self.ledger.clear()

    @property
    def held(self) -> int:
        """How many dispatches are held back now."""
        return len(self._held)

    def first_held(self) -> dict[int, int]:
        """Return the sequence of the first event of each shard that is held back."""
        first: dict[int, int] = {}
        joins = (event for event in self._untold if event.decision is None)
        for event in (*(held.event for held in self._held), *joins):
            if event.place is not None:
                shard, sequence = event.place
                first[shard] = min(sequence, first.get(shard, sequence))
        return first

    def open_window(self) -> None:
        """Claim every event from now on."""
        self._keep_open()
        self.window_open = True
        self.ledger.trim(self.clock())

    def close_window(self) -> None:
        """Stop asking for claims soon: no other child is there, but sessions may be late with what one has handled."""
        if self.window_open and self._closes is None:
            self._closes = asyncio.get_running_loop().call_later(PAIR_WITHIN, self._close)

    def _keep_open(self) -> None:
        if self._closes is not None:
            self._closes.cancel()
            self._closes = None

    def _close(self) -> None:
        self._closes = None
        if self.role == "active":
            self._claim_joins()
        self.window_open, self._leftovers = False, True

    def session_began(self, shard: int, *, at: float) -> None:
        """Note a shard's fresh session, which is there now: it brings nothing from before ``at``."""
        self._began[shard] = at, self.clock()

    def session_start(self, shard: int) -> float:
        """Return when a shard's session began, 0.0 if another child began it."""
        return self._began.get(shard, (0.0, 0.0))[0]

    def release(self, shard: int, *, handle: bool) -> None:
        """Hold nothing of a shard back any more: handle it, or forget it, for a dead child's session brings it too."""

        def is_of_shard(event: Event) -> bool:
            return event.place is not None and event.place[0] == shard

        released = [held for held in self._held if is_of_shard(held.event)]
        self._held = deque(held for held in self._held if not is_of_shard(held.event))
        for event in [event for event in self._untold if is_of_shard(event) and event.decision is None]:
            event.decision = handle
            if handle:
                self._await_telling(event)
        for held in released:
            held.event.decision = handle
            if handle:
                self.counters.replayed += held.dispatch is not None
                self._release(held)
        self.begun()

    def standby(self) -> None:
        """Hold everything from now on, but for what a child that was active still owes its conversations."""
        self._take_now()
        self._finishing = not self._shut and (self._finishing or self.role == "active")
        self.role = "standby"
        self.holding = True

    def drain(self) -> None:
        """Take nothing new from now on; go on feeding what already waits.

        What is still answered is claimed also where no other child is there: one that resumes this one's sessions is
        told of it again.
        """
        self.open_window()
        self._take_now()
        self._finishing = not self._shut
        self.role = "draining"
        self.holding = True

    def tell_of_joins(self) -> None:
        """Tell a draining child's app now of the guilds whose members are still awaited.

        They may never come: Discord puts off whoever asks second, and a session that has ended is told nothing.
        """
        if self.role != "draining":
            return
        for event in [event for event, told in self._untold.items() if told]:
            number = int(event.data["id"])
            if event in (awaited := self._awaited.get(number, [])):
                awaited.remove(event)
            self._told_early.add(event)
            guild = self.client.get_guild(number) or internals.make_guild(self.client, event.data)
            self._tell_of_join(event, (guild,))

    def finish(self) -> None:
        """Take nothing any more, not even for what waits: it is about to be closed."""
        self._finishing = False

    def shut(self) -> list[str]:
        """Take nothing any more and hold everything, whatever is ordered: the client is being closed, and nobody asked.

        What is not claimed is another child's to handle. Returns the names of interactions that were left to an older
        child for a moment, and that this one will not take after all.
        """
        self._shut = self.holding = True
        self._finishing = False
        left = [event.describe() for event, _ in self._later.values()]
        for handle in self._later:
            handle.cancel()
        self._later.clear()
        return left

    async def activate(self) -> None:
        """Handle what was held and nobody claimed, in order and in slices, then go on live."""
        self.role = "active"
        self._finishing = False
        while self._held and self.role == "active" and not self._shut:
            until = self.clock() + _SLICE_SECONDS
            while self._held and self.clock() < until:
                held = self._held.popleft()
                self._release(held)
                if held.event.place is not None:
                    self.handed(held.event.place)
            await asyncio.sleep(0)
        if self.role == "active" and not self._shut:
            self.holding = False
            self._claim_joins()

    def recover(self, event: Event, parse: Callable[[], None] | None = None) -> bool:
        """Hand an event to the app that a dead child's session brings, if it is decided so; else only parse it.

        ``parse`` does that; left out, the event's own parser does. Returns whether anything heard it.
        """
        event.recovered = True
        if event.name == "INTERACTION_CREATE":
            self._run_interaction(event, components.ownership(self.client, event.data))
            return True
        token = current.set(event)
        try:
            (parse or (lambda: self.parse(event)))()
        finally:
            current.reset(token)
        return event.counted

    def parse(self, event: Event) -> None:
        """Have discord.py parse an event, gate or no gate."""
        if parser := self._parsers.get(event.name):
            parser(event.data)

    def hears(self, names: Iterable[str]) -> bool:
        """Whether anything in the app hears one of these dispatches now."""
        return any(self.ears.hear(name) for name in names)

    def announce(self, name: str, *args: Any) -> None:
        """Dispatch an event of the runtime itself to the app, as ``on_<name>``; its handlers count as under way."""
        if self.client.is_closed():
            return  # It has no loop that a handler could run in.
        token = current.set(Event(name, None, self.clock(), decision=True))
        try:
            self._own(name, *args)
        finally:
            current.reset(token)
        self.begun()

    def forget_claimed(self) -> None:
        """Drop from what is held what others have claimed, and what is too old. Call it about once a second."""
        if self.role == "active" or not self._held:
            return
        now = self.clock()
        while self._held and now - self._held[0].event.at > HELD_SECONDS:
            self._held.popleft()
            self.counters.overflowed += 1
        keys = {}
        for held in self._held:
            age = now - held.event.at
            if age < _FORGET_AFTER[0]:
                break
            event, identity = held.event, held.event.identity
            if held.looks == len(_FORGET_AFTER) or age < _FORGET_AFTER[held.looks]:
                continue
            if identity is None:
                continue
            held.looks += 1
            if identity.unique:
                keys[identity.text] = event
            elif event.decision is None and self.ledger.pair(identity.text, event.at, among=_among(event)):
                event.decision = False
        for key in self.ledger.claimed(list(keys)):
            keys[key].decision = False
        self._held = deque(held for held in self._held if held.event.decision is not False)

    def trim(self) -> None:
        """Let go of claims that nobody can need any more. Call it about once a second."""
        if self.window_open:
            self.ledger.trim(self.clock())
        elif self._leftovers:
            self._leftovers = self.ledger.trim(self.clock(), kept=PAIR_WITHIN)

    def _gated(self, name: str, parser: internals.Parser) -> internals.Parser:
        if name == "INTERACTION_CREATE":
            self._parse_interaction = parser
            parser = self._take_interaction
        elif name == "GUILD_CREATE":
            parser = self._take_guild

        counters, clock = self.counters, self.clock
        receiver = self.receiver

        def gated(data: Any) -> None:
            counters.received += 1
            if receiver.foreign:
                self._parse_foreign(Event(name, data, clock(), False, foreign=True), parser)
                return
            quiet = not (self.window_open or self.holding)
            event = Event(name, data, clock(), True if quiet else None)
            if not quiet:
                if self.recovers(event):
                    return
                if event.decision is None:
                    self._consider(event)
            token = current.set(event)
            try:
                parser(data)
            finally:
                current.reset(token)
            self.taken()

        return gated

    def _parse_foreign(self, event: Event, parser: internals.Parser) -> None:
        """Keep the cache right by what another child handles."""
        token = current.set(event)
        try:
            parser(event.data)
        finally:
            current.reset(token)

    def mirror(self) -> None:
        """Be fed by another child, whose events these are; what is this child's own waits, and need not be claimed."""
        self._keep_open()
        self.window_open = False
        self.holding = True

    def take_for_older(self, data: Any) -> bool:
        """Handle a component that the active child does not know, if it is this one's; return whether it is."""
        mine = components.ownership(self.client, data)
        ends = self._finishing or self.role == "active"  # it has not heard yet that it is that no longer
        if not ends or mine not in (Ownership.OWNER, Ownership.SHARED):
            return False
        event = Event("INTERACTION_CREATE", data, self.clock(), True)
        self._run_interaction(event, mine)
        self.begun()
        return True

    def _told(self, parser: internals.Parser) -> internals.Parser:
        def told(data: Any) -> None:
            parser(data)
            if not self.receiver.foreign:
                self.taken()

        return told

    def _consider(self, event: Event) -> None:
        """Note of an event what its claim, and its being held back, will need."""
        place = event.place = self.place()
        if not self.window_open:
            return
        identity = event.identity = identify(event.name, event.data)
        if identity is None:
            event.decision = True
            return
        self.counters.heard += 1
        if place is not None:
            event.session = self._began.get(place[0], event.session)

    def _take_guild(self, data: Any) -> None:
        event = current.get()
        assert isinstance(event, Event)
        # Without the key it was joined just now: discord.py's own criterion.
        if data.get("unavailable") is None:
            self._note_join(event)
        self._parsers["GUILD_CREATE"](data)
        if event.decision and event in self._untold:
            self._await_telling(event)
            self.begun()

    def _note_join(self, event: Event) -> None:
        """Take a join that discord.py tells the app of only later, when it has the guild's members.

        It is claimed now, and runs from now on: by then this child may be draining, or dead.
        """
        heard = self.ears.hear("guild_join")
        if heard or self.holding:
            self._untold[event] = None
        if heard and not self.holding and event.decision is None:
            event.decision = self.claim(event)

    def _note_awaited(self) -> None:
        """Note that the guild that came just now is told of by a task that began with READY.

        That says guild_available of all guilds, of this one too, though the bot was not there before.
        """
        event = current.get()
        if isinstance(event, Event) and event in self._untold:
            self._awaited.setdefault(int(event.data["id"]), []).append(event)

    def _claim_joins(self) -> None:
        """Claim what was joined while events were held back, and is not told of yet."""
        if not self.ears.hear("guild_join"):
            return
        for event in [event for event in self._untold if event.decision is None]:
            event.decision = self.claim(event)
            if event.decision:
                self._await_telling(event)
                self.begun()

    def _await_telling(self, event: Event) -> None:
        """Have a join count as running until it is told of."""
        told = self._untold[event] = asyncio.Event()
        token = current.set(event)
        try:
            asyncio.get_running_loop().create_task(told.wait(), name=JOIN)
        finally:
            current.reset(token)

    def _join(self, event: Any, guild: int) -> Event | None:
        """Return the join that a dispatch tells of: the one that it descends from, or one that was awaited for READY.

        A guild may be joined again while the members of its first time are still awaited.
        """
        if isinstance(event, Event) and event.name == "GUILD_CREATE" and int(event.data["id"]) == guild:
            return event if event in self._untold else None
        awaited = self._awaited.get(guild)
        join = awaited.pop(0) if awaited else None
        if not awaited:
            self._awaited.pop(guild, None)
        return join

    def _tell_of_join(self, event: Event, args: tuple[Any, ...]) -> None:
        token = current.set(event)
        try:
            if event.decision is None:
                self._decide(event, "guild_join", args)
            if event.decision:
                self._pass(event, "guild_join", *args)
                self.begun()
        finally:
            current.reset(token)
            if told := self._untold.pop(event, None):
                told.set()

    def _dispatch(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        """Let a dispatch pass, or not."""
        event = current.get()
        if name == "socket_event_type":
            if self.ears.hear(name):
                self._own(name, *args, **kwargs)
            return
        recovered = isinstance(event, Event) and event.recovered
        if name in _JOINS and args and not recovered and (join := self._join(event, args[0].id)):
            self._tell_of_join(join, args)
            return
        if name == "guild_join" and event in self._told_early:
            return
        if _is_base(name):
            if self.hides(name, args):
                return
            self.observer(name, args)
            self._own(name, *args, **kwargs)
            return
        if not isinstance(event, Event):
            self._own(name, *args, **kwargs)
            return
        undecided = event.decision is None
        if undecided and not self._decide(event, name, args):
            return
        if event.decision:
            if name == "interaction":
                event.interaction = args[0]
            self._pass(event, name, *args, **kwargs)
            if undecided:
                self.begun()
        elif event.foreign and internals.waits_for(self.client, name):
            self._feed(name, args)

    def _feed(self, name: str, args: tuple[Any, ...]) -> None:
        """Let conversations of an active time hear what another child handles."""
        if self._finishing or self.role == "active":
            internals.feed_waiters(self.client, name, *args)

    def _decide(self, event: Event, name: str, args: tuple[Any, ...]) -> bool:
        """Claim an undecided event if something here would hear it now; hold it if now is not the time."""
        if self.holding:
            fed = self._finishing and internals.waits_for(self.client, name)
            if fed:
                internals.feed_waiters(self.client, name, *args)
            if self.ears.hear(name):
                self._hold(_Held(event, name, tuple(internals.snapshot(arg) for arg in args), fed))
            return False
        if not self.ears.hear(name):
            return False
        event.decision = self.claim(event)
        return True

    def _pass(self, event: Event, name: str, /, *args: Any, **kwargs: Any) -> None:
        if not self.ears.hear(name):
            return
        if not event.counted:
            event.counted = True
            self.counters.handled += 1
        self._own(name, *args, **kwargs)

    def _hold(self, held: _Held) -> None:
        if len(self._held) >= HELD_COUNT:
            self._held.popleft()
            self.counters.overflowed += 1
        self._held.append(held)

    def _release(self, held: _Held) -> None:
        event = held.event
        if event.decision is False:
            return
        if held.dispatch is None:
            self._release_interaction(event)
            return
        if event.decision is None:
            if not self.ears.hear(held.dispatch):
                return
            event.decision = self.claim(event)
            if not event.decision:
                return
            self.counters.replayed += 1
        self._replay(held, held.dispatch)

    def _replay(self, held: _Held, name: str) -> None:
        token = current.set(held.event)
        try:
            if held.fed:
                internals.without_waiters(self.client, name, lambda: self._pass(held.event, name, *held.args))
            else:
                self._pass(held.event, name, *held.args)
        finally:
            current.reset(token)

    def _take_interaction(self, data: Any) -> None:
        event = current.get()
        assert isinstance(event, Event)
        self.dated(int(data["id"]), event.at)
        if event.foreign:
            return  # whoever handles it asks for what is this child's
        mine = components.ownership(self.client, data)
        if mine is Ownership.STRANGER and not self.holding and self._leave_to_older(event):
            return
        if event.decision:
            self._run_interaction(event, mine)
        elif not self.holding:
            if mine is Ownership.STRANGER:
                self._take_later(event, OWNER_FIRST)
            else:
                self._claim_interaction(event, mine)
        elif self._finishing and mine is Ownership.OWNER:
            self._claim_interaction(event, mine)
        elif self._finishing and mine is Ownership.SHARED:
            self._take_later(event, ACTIVE_FIRST)
        else:
            self._hold(_Held(event, None))

    def _release_interaction(self, event: Event) -> None:
        age = self.clock() - event.at
        mine = components.ownership(self.client, event.data)
        if age < OWNER_FIRST and mine is Ownership.STRANGER:
            if not self._leave_to_older(event):
                self._take_later(event, OWNER_FIRST - age)
        elif age <= INTERACTION_LIFE:
            self.counters.replayed += self._claim_interaction(event, mine)
        else:
            self.counters.expired += self.claim(event)

    def _leave_to_older(self, event: Event) -> bool:
        """Ask the child that had the sessions before whether a component is its own; False: there is none to ask."""
        over: list[Callable[[], object]] = []

        def told(mine: bool) -> None:
            if mine:
                event.decision = False
            elif self.role == "active" and not self._shut:
                event.decision = None
                self._claim_interaction(event, components.ownership(self.client, event.data))
            for end in over:
                end()

        asked = self.ask_older(event.data, told)
        if asked:
            over.append(self.waiting(event))
        return asked

    def _take_later(self, event: Event, delay: float) -> None:
        """Leave an interaction to another child for ``delay`` seconds; then it is whoever's claim is first."""

        def take() -> None:
            del self._later[handle]
            mine = components.ownership(self.client, event.data)
            if self.role == "active" or (self._finishing and mine in (Ownership.OWNER, Ownership.SHARED)):
                self._claim_interaction(event, mine)
            else:
                self._hold(_Held(event, None))
            over()

        # What an older child leaves to the active one does not die with it.
        over = self.waiting(event) if self.role == "active" else (lambda: None)
        handle = asyncio.get_running_loop().call_later(delay, take)
        self._later[handle] = event, over

    def _take_now(self) -> None:
        """Take what is still left to an older child: when a younger one takes over, no older one is there any more.

        The younger one may not have received it, if its session began just after.
        """
        if self.role != "active":
            return
        for handle, (event, over) in self._later.items():
            handle.cancel()
            self._claim_interaction(event, components.ownership(self.client, event.data))
            over()
        self._later.clear()

    def _claim_interaction(self, event: Event, mine: Ownership) -> bool:
        event.decision = self.claim(event)
        if event.decision:
            self._run_interaction(event, mine)
            self.begun()
        return event.decision

    def _run_interaction(self, event: Event, mine: Ownership) -> None:
        event.counted = True
        self.counters.handled += 1
        token = current.set(event)
        try:
            self._parse_interaction(event.data)
            if mine is Ownership.STRANGER and event.interaction is not None:
                self.stranger_taken(event, event.interaction, event.at + INTERACTION_LIFE - self.clock())
        finally:
            current.reset(token)

    def claim(self, event: Event) -> bool:
        """Ask for the right to handle an event. Without a window, or without a name for it, it is this child's."""
        identity = event.identity
        if not self.window_open or identity is None:
            return True
        self.claiming(event)
        if identity.unique:
            won = self.ledger.claim(identity.text, event.at)
        else:
            won = self.ledger.claim_occurrence(identity.text, event.at, among=_among(event))
        if not won:
            self.begun()
        return won


def _among(event: Event) -> Among:
    """Return when another child has received an event, if it has."""
    asked_for, there = event.session
    return Among(max(asked_for, event.at - PAIR_WITHIN), event.at + PAIR_WITHIN, sure=there + SKEW / 2)
