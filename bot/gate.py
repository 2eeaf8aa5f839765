"""Which gateway events reach the app, by role.

Active passes everything, claiming first while a window is open. Standby keeps discord.py's cache right but holds every
event back. Draining holds too, for it may be made active again. A child that was active once, draining or in standby,
still feeds its `wait_for`s and its own components.
What is held and was claimed by another child is forgotten as time goes by; what is left on activation is what nobody
handled, and is replayed in order before anything that arrives meanwhile.

Knows roles, claims and what discord.py calls parsers and dispatch. Knows nothing of pipes, shards or processes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import discord

from bot import components, internals
from bot.components import OWNER_FIRST, Ownership
from bot.inflight import current
from bot.keys import Identity, Numbering, Occurrence, identify
from bot.ledger import Ledger, number_key

Role: TypeAlias = Literal["standby", "active", "draining"]
Observer: TypeAlias = Callable[[str, tuple[Any, ...]], None]

INTERACTION_LIFE = 3.0
"""Seconds after which Discord takes no first answer to an interaction (its documentation, "Interaction Callback")."""

HELD_COUNT = 20_000
"""Most events held back, of about 2 KB each. A standby forgets what was claimed each second: this is for faults."""

HELD_SECONDS = 300.0
"""Longest time an event is held back."""

_FORGET_AFTER = 3.0
_SLICE_SECONDS = 0.005
"""Longest time a replay keeps the event loop to itself."""

_BASE = frozenset({"connect", "disconnect", "ready", "resumed", "error", "guild_available", "guild_unavailable"})
_UNGATED_PARSERS = frozenset({"READY", "RESUMED", "GUILD_MEMBERS_CHUNK", "VOICE_SERVER_UPDATE"})


def _is_base(name: str) -> bool:
    return name in _BASE or name.startswith(("shard_", "socket_"))


@dataclass(slots=True, eq=False)
class Event:
    """One gateway event on its way to the app."""

    name: str
    data: Any
    at: float
    identity: Identity | None = None
    occurrence: Occurrence | None = None
    decision: bool | None = None
    """Whether this child handles it; None while undecided. Everything that follows from one event shares it."""
    counted: bool = False

    @property
    def passed(self) -> bool:
        """Whether handlers of this event may run here."""
        return self.decision is True

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
    """Told of every base event, before the app is."""
    role: Role
    clock: Callable[[], float] = time.monotonic
    counters: Counters = field(default_factory=Counters)
    _numbering: Numbering | None = None
    _held: deque[_Held] = field(default_factory=deque)
    _holding: bool = False
    _finishing: bool = False
    """Whether handlers, conversations and components of an active time may still be alive here."""
    _own: internals.Dispatch = field(init=False)
    _parse_interaction: internals.Parser = field(init=False)
    _always_heard: bool = False
    _joins: dict[int, Event] = field(default_factory=dict)
    _later: set[asyncio.TimerHandle] = field(default_factory=set)

    def install(self) -> None:
        """Put the gate into the client. A standby's window is open from here on."""
        self._always_heard = internals.overrides_dispatch(self.client)
        self._own = internals.replace_dispatch(self.client, self._dispatch)
        parsers = internals.parsers(self.client)
        for name in [name for name in parsers if name not in _UNGATED_PARSERS]:
            parsers[name] = self._gated(name, parsers[name])
        if self.role == "standby":
            self._holding = True
            self._numbering = Numbering(joined=True, clock=self.clock)
        else:
            self.ledger.clear()

    @property
    def window_open(self) -> bool:
        """Whether events are claimed before they are handled."""
        return self._numbering is not None

    @property
    def held(self) -> int:
        """How many dispatches are held back now."""
        return len(self._held)

    def open_window(self) -> None:
        """Claim every event from now on. Counting begins here: others follow this child's numbers."""
        if self._numbering is None:
            self._numbering = Numbering(joined=False, clock=self.clock)

    def close_window(self) -> None:
        """Forget all claims and stop asking for them: no other child is there."""
        self._numbering = None
        self._joins.clear()
        self.ledger.clear()

    def session_began(self, shard: int, shards: int, *, identified_at: float) -> None:
        """Note a fresh session: events before it were missed."""
        if self._numbering is not None:
            self._numbering.session_began(
                shard, shards, identified_at=identified_at, ready_at=self.clock(), active=self.role == "active"
            )

    def standby(self) -> None:
        """Hold everything from now on, but for what a child that was active still owes its conversations."""
        self._finishing = self._finishing or self.role == "active"
        self.role = "standby"
        self._holding = True

    def drain(self) -> None:
        """Take nothing new from now on; go on feeding what already waits."""
        self._finishing = True
        self.role = "draining"
        self._holding = True

    async def activate(self) -> None:
        """Handle what was held and nobody claimed, in order and in slices, then go on live."""
        self.role = "active"
        self._finishing = False
        while self._held and self.role == "active":
            until = self.clock() + _SLICE_SECONDS
            while self._held and self.clock() < until:
                self._release(self._held.popleft())
            await asyncio.sleep(0)
        if self.role == "active":
            self._holding = False

    def announce(self, name: str, *args: Any) -> None:
        """Dispatch an event of the runtime itself to the app, as ``on_<name>``; its handlers count as under way."""
        if self.client.is_closed():
            return  # It has no loop that a handler could run in.
        token = current.set(Event(name, None, self.clock(), decision=True))
        try:
            self._own(name, *args)
        finally:
            current.reset(token)

    def forget_claimed(self) -> None:
        """Drop from what is held all that others have claimed, and what is too old. Call it about once a second."""
        if self.role == "active" or not self._held:
            return
        now = self.clock()
        while self._held and now - self._held[0].event.at > HELD_SECONDS:
            self._held.popleft()
            self.counters.overflowed += 1
        keys = {}
        for held in self._held:
            if now - held.event.at < _FORGET_AFTER:
                break
            key = self._sure_key(held.event)
            if key is not None:
                keys[key] = held.event
        for key in self.ledger.claimed(list(keys)):
            keys[key].decision = False
        self._held = deque(held for held in self._held if held.event.decision is not False)

    def _gated(self, name: str, parser: internals.Parser) -> internals.Parser:
        if name == "INTERACTION_CREATE":
            self._parse_interaction = parser
            parser = self._take_interaction

        def gated(data: Any) -> None:
            event = Event(name, data, self.clock())
            self.counters.received += 1
            if self._numbering is not None:
                self._identify(event, self._numbering)
            elif not self._holding:
                event.decision = True
            if name == "GUILD_CREATE" and self._numbering is not None and event.identity is not None:
                self._note_join(event)
            token = current.set(event)
            try:
                parser(data)
            finally:
                current.reset(token)

        return gated

    def _identify(self, event: Event, numbering: Numbering) -> None:
        event.identity = identify(event.name, event.data)
        if event.identity is None:
            event.decision = True
            return
        self.counters.heard += 1
        event.occurrence = numbering.observe(event.identity, event.at)

    def _note_join(self, event: Event) -> None:
        """Take a join that discord.py tells the app of only later, when it has the guild's members.

        It is claimed now: by then this child may be draining. While READY is being awaited it is dispatched, as
        guild_available, by a task that began with READY, so it must be found again by its guild.
        """
        if self._holding:
            self._joins[int(event.data["id"])] = event
        elif self._heard("guild_join"):
            event.decision = self._claim(event)

    def _dispatch(self, name: str, /, *args: Any, **kwargs: Any) -> None:
        event = current.get()
        if name in ("guild_join", "guild_available") and args and args[0].id in self._joins:
            name, event = "guild_join", self._joins.pop(args[0].id)
        if _is_base(name):
            self.observer(name, args)
            self._own(name, *args, **kwargs)
            return
        if not isinstance(event, Event):
            self._own(name, *args, **kwargs)
            return
        if event.decision is None and not self._decide(event, name, args):
            return
        if event.decision:
            self._pass(event, name, *args, **kwargs)

    def _decide(self, event: Event, name: str, args: tuple[Any, ...]) -> bool:
        """Claim an undecided event if something here would hear it now; hold it if now is not the time."""
        if self._holding:
            fed = self._finishing and internals.waits_for(self.client, name)
            if fed:
                internals.feed_waiters(self.client, name, *args)
            if self._heard(name):
                self._hold(_Held(event, name, tuple(internals.snapshot(arg) for arg in args), fed))
            return False
        if not self._heard(name):
            return False
        event.decision = self._claim(event)
        return True

    def _heard(self, name: str) -> bool:
        return self._always_heard or internals.hears(self.client, name)

    def _pass(self, event: Event, name: str, /, *args: Any, **kwargs: Any) -> None:
        if not event.counted and self._heard(name):
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
            if not self._heard(held.dispatch):
                return
            event.decision = self._claim(event)
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
        if event.decision:
            self._run_interaction(event)
        elif self._holding:
            if self._finishing and components.ownership(self.client, data) is Ownership.OWNER:
                self._claim_interaction(event)
            else:
                self._hold(_Held(event, None))
        elif components.ownership(self.client, data) is Ownership.STRANGER:
            self._leave_to_owner(event, OWNER_FIRST)
        else:
            self._claim_interaction(event)

    def _release_interaction(self, event: Event) -> None:
        age = self.clock() - event.at
        if age < OWNER_FIRST and components.ownership(self.client, event.data) is Ownership.STRANGER:
            self._leave_to_owner(event, OWNER_FIRST - age)
        elif age <= INTERACTION_LIFE:
            self.counters.replayed += self._claim_interaction(event)
        else:
            self.counters.expired += self._claim(event)

    def _leave_to_owner(self, event: Event, delay: float) -> None:
        def take() -> None:
            self._later.discard(handle)
            if self._holding and self.role != "active":
                self._hold(_Held(event, None))
            else:
                self._claim_interaction(event)

        handle = asyncio.get_running_loop().call_later(delay, take)
        self._later.add(handle)

    def _claim_interaction(self, event: Event) -> bool:
        event.decision = self._claim(event)
        if event.decision:
            self._run_interaction(event)
        return event.decision

    def _run_interaction(self, event: Event) -> None:
        event.counted = True
        self.counters.handled += 1
        token = current.set(event)
        try:
            self._parse_interaction(event.data)
        finally:
            current.reset(token)

    def _claim(self, event: Event) -> bool:
        """Ask for the right to handle an event. Without a window, or without a key, it is this child's."""
        if self._numbering is None or event.identity is None:
            return True
        occurrence = event.occurrence
        if occurrence is None:
            return self.ledger.claim(event.identity.text, event.at)
        number = self._numbering.number(occurrence, self.ledger)
        return self.ledger.claim_number(event.identity.text, number, occurrence.mark, event.at)

    def _sure_key(self, event: Event) -> str | None:
        if self._numbering is None or event.identity is None:
            return None
        if event.occurrence is None:
            return event.identity.text
        number = self._numbering.sure_number(event.occurrence, self.ledger)
        return None if number is None else number_key(event.identity.text, number)
