"""A gateway session: what it is due, in order, whether or not a socket is there to take it.

Knows one session's queue, sequence, delay and replay buffer. It knows no socket, no other session and no world. The
gateway attaches a connection, which takes frames out with `next_due` and `take`.
"""

from __future__ import annotations

import random
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .events import Event, encode, frame
from .journal import Entry
from .settings import SandboxSettings
from .snowflake import shard_of


class Skew:
    """The delay of a session's events: uniform over the setting's span, drawn anew every now and then.

    A fresh draw for each event would be worth little: order within a session is kept, so at 100 events/s every session
    would soon run at the span's upper end and two sessions would hardly differ. So a draw lasts for about one span (but
    at least 50 ms), and two sessions drift apart by up to the whole span.
    """

    __slots__ = ("_delay", "_last_due", "_random", "_redraw_at", "_settings", "_span")

    def __init__(self, settings: SandboxSettings, generator: random.Random) -> None:
        self._settings = settings
        self._random = generator
        self._redraw_at = 0.0
        self._delay = 0.0
        self._last_due = 0.0
        self._span: tuple[float, float] | None = None

    def due(self, now: float) -> float:
        """When an event emitted now reaches this session: never before an earlier one."""
        low, high = span = self._settings.skew
        if now >= self._redraw_at or span is not self._span:
            self._span = span
            self._delay = self._random.uniform(low, high)
            self._redraw_at = now + max(0.05, high - low) * self._random.uniform(0.5, 1.5)
        self._last_due = max(self._last_due, now + self._delay)
        return self._last_due


@dataclass(slots=True)
class Pending:
    """A frame that waits for its time."""

    due: float
    data: bytes
    entry: Entry | None


@dataclass(slots=True, kw_only=True)
class SessionInfo:
    """Who a session belongs to and what it asked for."""

    number: int
    shard: int
    num_shards: int
    intents: int
    generation: int
    resume_url: str
    id: str = field(default_factory=lambda: secrets.token_hex(16))


class Session:
    """One session, from its IDENTIFY to its end. It is subscribed as soon as READY was queued."""

    def __init__(self, info: SessionInfo, settings: SandboxSettings, generator: random.Random) -> None:
        self.info = info
        self._settings = settings
        self._skew = Skew(settings, generator)
        self._pending: deque[Pending] = deque()
        self._replay: deque[tuple[int, bytes, Entry | None]] = deque()
        self.wake: Callable[[], None] | None = None
        self.presence: dict[str, object] = {"status": "online", "activities": []}
        self.presence_at = time.monotonic()
        self.seq = 0
        self.subscribed = False
        self.deaf = False
        self.ended = False
        self.created_at = time.monotonic()
        self.ready_at: float | None = None
        self.detached_at: float | None = None
        self.delivered = 0
        self.resumed = 0

    @property
    def id(self) -> str:
        """The session id given in READY."""
        return self.info.id

    @property
    def shard(self) -> int:
        """The shard it identified as."""
        return self.info.shard

    @property
    def num_shards(self) -> int:
        """The shard count it identified with."""
        return self.info.num_shards

    @property
    def intents(self) -> int:
        """The intents it identified with."""
        return self.info.intents

    @property
    def generation(self) -> int:
        """The bot generation that its User-Agent named, 0 for none."""
        return self.info.generation

    @property
    def connected(self) -> bool:
        """Whether a socket is attached."""
        return self.wake is not None

    @property
    def waiting(self) -> int:
        """Frames that are on their way to this session."""
        return len(self._pending)

    def set_presence(self, data: Mapping[str, object]) -> None:
        """Take a presence, of op 3 or of IDENTIFY (where discord.py names a single activity ``game``)."""
        game = data.get("game")
        self.presence = {
            "status": data.get("status") or "online",
            "activities": data.get("activities") or ([game] if game else []),
        }
        self.presence_at = time.monotonic()

    def covers(self, guild_id: int | None) -> bool:
        """Whether events of a guild (None: direct messages, entitlements) come to this shard."""
        return self.shard == (0 if guild_id is None else shard_of(guild_id, self.num_shards))

    def queue(self, event: Event, *, now: float) -> bool:
        """Queue an event with this session's delay. Returns whether its intents let it through."""
        if self.deaf or not event.allowed(self.intents):
            return False
        self._push(event.name, event.json(self.intents), self._skew.due(now), event.entry)
        return True

    def queue_own(self, name: str, data: object, *, now: float) -> None:
        """Queue what concerns this session alone (READY, backfill, chunks), without a delay of its own."""
        self._push(name, encode(data), max(now, self._pending[-1].due) if self._pending else now, None)

    def _push(self, name: str, data: bytes, due: float, entry: Entry | None) -> None:
        self.seq += 1
        wire = frame(name, self.seq, data)
        self._replay.append((self.seq, wire, entry))
        while len(self._replay) > self._settings.replay_size:
            self._replay.popleft()
        if self.wake is None:
            return
        self._pending.append(Pending(due, wire, entry))
        if len(self._pending) == 1:
            self.wake()

    def next_due(self) -> float | None:
        """When the next frame may be sent; None when nothing waits."""
        return self._pending[0].due if self._pending else None

    def take(self, now: float) -> bytes:
        """Remove the next frame and note its delivery."""
        pending = self._pending.popleft()
        self.delivered += 1
        if pending.entry is not None:
            pending.entry.delivered.append((self.info.number, now))
        return pending.data

    def attach(self, wake: Callable[[], None]) -> None:
        """A connection takes over. ``wake`` is called when there is something new to send."""
        self.wake = wake
        self.detached_at = None

    def detach(self) -> None:
        """The socket is gone; what was not sent stays in the replay buffer."""
        self.wake = None
        self.detached_at = time.monotonic()
        self._pending.clear()

    def can_replay(self, seq: int) -> bool:
        """Whether every event after ``seq`` is still in the buffer."""
        if seq == self.seq:
            return True
        return bool(self._replay) and self._replay[0][0] <= seq + 1

    def replay(self, seq: int, *, now: float) -> int:
        """Queue all events after ``seq`` once more, then RESUMED. Returns how many there were."""
        missed = [Pending(now, wire, entry) for number, wire, entry in self._replay if number > seq]
        self._pending.extend(missed)
        self.resumed += 1
        self._push("RESUMED", b"{}", now, None)
        if self.wake is not None:
            self.wake()
        return len(missed)
