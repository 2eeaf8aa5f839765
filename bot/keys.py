"""The claim key of an event: the same in every session that receives it, and in no other event.

This module is pure. It knows payloads, arrival order and a clock that all processes of one machine share; it knows
nothing of discord.py, roles or where claims are kept.

An event that carries an id of its own is keyed by it. Any other is keyed by a digest of what it says and by its
*number*: how many times that digest has occurred in its stream (its guild, or its DM channel) since the window opened.
A rightful repeat (react, unreact, react) thereby gets a key of its own.

The child that was active when the window opened counts from one. A child that joined later has missed an unknown
number of occurrences, its *offset*, and works it out from what the others wrote beside their claims, in this order:

1. Messages are *anchors*: both sessions see them, once, and within one stream in the same place among the other events
   (a guild's events reach each session in the order in which they happened; how late is each session's own matter).
   Every claim of a counted event carries the anchor before it, so an anchor that both know fixes the offset exactly;
   so does an anchor that the other has claimed, for it had then handled everything before it.
2. Without a common anchor, the occurrences are laid beside each other in time and the offset that fits best is taken.
   That is exact as long as equal events of such a stream are further apart than the sessions' skew. A child that stood
   still read late: it knows for how long, and that what it then read may have come at any time meanwhile. How late one
   session is at a time, by more than is usual, shows in what both heard on that shard and can tell apart: messages,
   interactions and others with an id of their own, of any stream.

Equal occurrences are interchangeable, so an offset needs only the right count, not the right pairing.

A window may stay open for days. What a child keeps is therefore bounded by time: one that listens forgets a digest that
has not occurred for `KEPT_SECONDS` and aligns itself anew should it come again; by then the newest claim of each digest
is still there and says how far the count is. The active child forgets, and counts from one again, only after
`IDLE_SECONDS`, when every listening one has forgotten too, and together with the digest's claims.
"""

from __future__ import annotations

import hashlib
import itertools
from bisect import bisect
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Protocol, TypeAlias

import msgspec

PAIR_WITHIN = 0.5
"""Seconds between two sessions' receipts of one event up to which they count as the same when only time can tell.

Skews of more than a few hundred milliseconds between healthy sessions on one machine have not been reported.
"""

SURE_AFTER = 1.0
"""Seconds after a session began by which all that happened before it has reached the other sessions.

A child must not be activated sooner: an offset worked out while such an event is still on its way would be wrong.
"""

KEPT_SECONDS = 900.0
"""How long claims are kept: longer than any child holds an event back (5 minutes), and than a session that was cut may
need to bring what it missed."""

IDLE_SECONDS = 2 * KEPT_SECONDS
"""After so long without an occurrence a digest is counted from one again."""

_BEFORE = 60.0
"""Seconds: what another child received so long before a digest's first occurrence here was another occurrence."""

_NEWEST = 1000
"""How many anchors of a stream are kept at least, and places of a digest: the claims that they are compared with are
seconds behind."""

_BEYOND = 10.0
"""How much more a second beyond `PAIR_WITHIN` counts than one within it."""

_ALIGN_LIMIT = 64
"""Occurrences on either side that the comparison in time looks at; older ones cannot matter to it."""

_LATE = 0.3
"""Seconds by which a session must be later than another before that is reckoned with: less is what sessions differ."""

_NEIGHBOURS = 6
"""With how many receipts before an event, and as many after it, its lateness is judged."""

_NEAR = 0.25
"""How far from an event, in seconds, these may be."""

_TOGETHER, _APART = 4, 0.05
"""Of what comes within these seconds so many are remembered to judge lateness by."""

_HEARD = 8000
"""How many are remembered a shard: of a minute at least and, where less than that comes, as long as events are held."""

_LOCAL = frozenset(
    {"READY", "RESUMED", "GUILD_MEMBERS_CHUNK", "RATE_LIMITED", "VOICE_SERVER_UPDATE", "VOICE_CHANNEL_STATUS_UPDATE"}
)
"""Events of one session alone: never held back, never claimed."""

Path: TypeAlias = str | tuple[str, ...]
"""Where something is in a payload."""

_UNIQUE: Mapping[str, Path] = {
    "INTERACTION_CREATE": "id",
    "MESSAGE_CREATE": "id",
    "MESSAGE_DELETE": "id",
    "GUILD_AUDIT_LOG_ENTRY_CREATE": "id",
    "CHANNEL_CREATE": "id",
    "CHANNEL_DELETE": "id",
    "THREAD_DELETE": "id",
    "GUILD_ROLE_CREATE": ("role", "id"),
    "GUILD_ROLE_DELETE": "role_id",
    "GUILD_SCHEDULED_EVENT_CREATE": "id",
    "GUILD_SCHEDULED_EVENT_DELETE": "id",
    "STAGE_INSTANCE_CREATE": "id",
    "STAGE_INSTANCE_DELETE": "id",
    "AUTO_MODERATION_RULE_CREATE": "id",
    "AUTO_MODERATION_RULE_DELETE": "id",
    "ENTITLEMENT_CREATE": "id",
    "ENTITLEMENT_DELETE": "id",
}
"""Events that happen once for the id that is there: creation and deletion of an object."""

_REACTION: tuple[Path, ...] = ("channel_id", "message_id", "user_id", ("emoji", "id"), ("emoji", "name"), "burst")
_SAYS: Mapping[str, tuple[Path, ...]] = {
    "MESSAGE_REACTION_ADD": _REACTION,
    "MESSAGE_REACTION_REMOVE": _REACTION,
    "MESSAGE_REACTION_REMOVE_ALL": ("channel_id", "message_id"),
    "MESSAGE_REACTION_REMOVE_EMOJI": ("channel_id", "message_id", ("emoji", "id"), ("emoji", "name")),
    # Not the content: two releases with and without the message content intent see different ones.
    "MESSAGE_UPDATE": ("id", "edited_timestamp", "pinned", "flags"),
    "MESSAGE_DELETE_BULK": ("channel_id", "ids"),
    "TYPING_START": ("channel_id", "user_id", "timestamp"),
    "GUILD_MEMBER_ADD": (("user", "id"), "joined_at"),
    "GUILD_MEMBER_REMOVE": (("user", "id"),),
    "GUILD_CREATE": ("id", "joined_at"),
    "GUILD_DELETE": ("id", "unavailable"),
    "CHANNEL_PINS_UPDATE": ("channel_id", "last_pin_timestamp"),
    "THREAD_CREATE": ("id", "newly_created"),
}
"""What tells one kind of occurrence from another, where that is less than the whole payload."""

_DATED = frozenset({"GUILD_MEMBER_ADD", "GUILD_CREATE"})
"""Events whose ``joined_at``, to the microsecond, no later occurrence has: these need no number."""

_encoder = msgspec.json.Encoder(order="deterministic")


Span: TypeAlias = tuple[float, float]
"""The earliest and the latest time at which an event came."""


_Receipt: TypeAlias = tuple[float, str, float]
"""When an event with a key of its own was read, the key, and the earliest time at which it came."""


class Identity(msgspec.Struct, frozen=True):
    """What an event is, before its occurrence is numbered. A struct, for each event of a window is given one."""

    text: str
    """The key itself if unique, else the digest."""
    stream: str
    counted: bool
    anchor: bool = False


def identify(name: str, data: Mapping[str, Any]) -> Identity | None:
    """Identify a gateway event from its raw payload. None: local to its session, never claimed."""
    if name in _LOCAL or (name == "GUILD_CREATE" and data.get("unavailable") is not None):
        return None
    stream = _stream(name, data)
    ident = _UNIQUE.get(name)
    if ident is not None:
        return Identity(f"{name}:{_pick(data, ident)}", stream, counted=False, anchor=name == "MESSAGE_CREATE")
    said = _SAYS.get(name)
    body = data if said is None else [_pick(data, path) for path in said]
    digest = hashlib.blake2b(_encoder.encode((name, stream, body)), digest_size=12).hexdigest()
    return Identity(digest, stream, counted=name not in _DATED or data.get("joined_at") is None)


def shard_of(stream: str, shards: int) -> int:
    """Return which of so many shards receives a stream."""
    return 0 if stream.startswith("dm:") else (int(stream) >> 22) % shards


def _stream(name: str, data: Mapping[str, Any]) -> str:
    guild = data["id"] if name in ("GUILD_CREATE", "GUILD_DELETE", "GUILD_UPDATE") else data.get("guild_id")
    return str(guild) if guild is not None else f"dm:{data.get('channel_id', '')}"


def _pick(data: Mapping[str, Any], path: Path) -> Any:
    if isinstance(path, str):
        return data.get(path)
    value: Any = data
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim of a counted event says beside its key."""

    number: int
    mark: str | None
    """The newest anchor that the claimer had seen in this stream, "" for none yet, None if it may have missed some."""
    at: float
    """When the claimer received it, in seconds of the machine's monotonic clock."""


class Others(Protocol):
    """What Numbering needs to look up of the other children's claims."""

    def claimed_by_others(self, digest: str) -> Sequence[Claimed]:
        """Return the others' claims of this digest, by number."""

    def anchor_claimed_by_others(self, anchors: Collection[str]) -> tuple[str, float] | None:
        """Return one of these anchors that another child has claimed, and when that child received it."""

    def received_by_others(self, keys: Collection[str]) -> Mapping[str, float]:
        """Return when the others received those of these events that they have claimed."""


@dataclass(slots=True, eq=False)
class Occurrence:
    """One counted event as this child saw it: its place, from which its key follows."""

    identity: Identity
    index: int
    """1 for the first of this digest that this child saw in this stream's present session."""
    mark: str | None
    at: float
    stream: _Stream = field(repr=False)
    entry: _Digest = field(repr=False)


@dataclass(slots=True, eq=False)
class _Digest:
    since: float
    """No claim from before this is of an occurrence that was seen here."""
    sure: float
    seen: int = 0
    last: float = 0.0
    places: list[tuple[int, Span]] = field(default_factory=list)
    """(position of the newest anchor before it, when it came) of the newest occurrences, as long as the offset is
    unknown."""
    offset: int | None = None

    def found(self, offset: int) -> None:
        """Take the offset; what it was worked out from is not needed any more."""
        self.offset = offset
        self.places.clear()

    def times(self, limit: int) -> dict[int, Span]:
        """Return when the newest occurrences came, by index."""
        newest = self.places[-limit:]
        return {self.seen - len(newest) + place: span for place, (_, span) in enumerate(newest, 1)}


@dataclass(slots=True, eq=False)
class _Stream:
    joined: bool
    since: float
    """Nothing received by another child before this can have reached this one."""
    sure: float
    """Everything that happened after this reaches this child."""
    mark: str | None = ""
    anchors: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Position and time of each, in order."""
    position: int = 0
    """How many anchors there have been."""
    heard: float = 0.0
    digests: dict[str, _Digest] = field(default_factory=dict)

    def join(self) -> None:
        """Follow the numbers of others from here on, but for what is counted already."""
        self.joined = True
        for digest in self.digests.values():
            digest.offset = digest.offset or 0


class Numbering:
    """Numbers the occurrences that one child sees while a window is open.

    ``joined`` tells whether this child came after the window was opened. ``clock`` is the machine's monotonic clock.
    ``came`` tells the earliest time at which what was read at a time can have come. ``continues``, for the session of a
    dead child that goes on: how many occurrences of a digest it is past.
    """

    def __init__(
        self,
        *,
        joined: bool,
        clock: Callable[[], float],
        came: Callable[[float], float] = lambda at: at,
        continues: Callable[[str], int] | None = None,
    ) -> None:
        self._joined = joined
        self._came = came
        self._continues = continues
        self._clock = clock
        self._streams: dict[str, _Stream] = {}
        """In the order in which they were heard last."""
        self._recent: dict[str, _Stream] = {}
        """The stream of each digest, in the order in which they occurred last."""
        self._sessions: dict[int, tuple[float, float]] = {}
        self._shards = 1
        self._heard: dict[int, deque[_Receipt]] = {}
        """By shard, receipts of events with a key of their own, by which the session's lateness can be judged."""

    def session_began(
        self, shard: int, shards: int, *, identified_at: float, ready_at: float, active: bool = False
    ) -> None:
        """Note a fresh session (READY) of a shard: what happened since the one before was missed.

        A child that only listens aligns itself anew. One that is ``active`` goes on counting, for others follow its
        numbers, but no longer vouches for where its streams stand.
        """
        self._shards = shards
        self._sessions[shard] = (identified_at, ready_at)
        self._heard.pop(shard, None)
        for name in [name for name in self._streams if self._shard_of(name) == shard]:
            if active or not self._joined:
                self._streams[name].mark = None
            else:
                gone = self._streams.pop(name)
                for text in gone.digests:
                    del self._recent[text]

    def observe(self, identity: Identity, at: float) -> Occurrence | None:
        """Take note of an event as it arrives, each once and in its place; counted ones get an `Occurrence`."""
        stream = self._streams.pop(identity.stream, None) or self._open(identity.stream)
        self._streams[identity.stream] = stream
        stream.heard = at
        if not identity.counted:
            if identity.anchor:
                stream.mark = identity.text
                if stream.joined and identity.text not in stream.anchors:
                    stream.position += 1
                    stream.anchors[identity.text] = stream.position, at
                    if len(stream.anchors) > 2 * _NEWEST:
                        stream.anchors = dict(list(stream.anchors.items())[-_NEWEST:])
            if stream.joined:
                self._hear(identity, at)
            return None
        entry = stream.digests.get(identity.text)
        if entry is None:
            entry = stream.digests[identity.text] = _Digest(since=max(stream.since, at - _BEFORE), sure=stream.sure)
            if self._continues is not None:
                entry.offset = self._continues(identity.text)
        entry.seen += 1
        entry.last = at
        self._recent.pop(identity.text, None)
        self._recent[identity.text] = stream
        if stream.joined and entry.offset is None:
            entry.places.append((stream.position, (max(self._came(at), stream.since), at)))
            if len(entry.places) > 2 * _NEWEST:
                del entry.places[:-_NEWEST]
        return Occurrence(identity, entry.seen, stream.mark, at, stream, entry)

    def number(self, occurrence: Occurrence, others: Others) -> int:
        """Return the occurrence's number, the same that every other child gives it."""
        number = self.sure_number(occurrence, others)
        if number is not None:
            return number
        entry = occurrence.entry
        rows = others.claimed_by_others(occurrence.identity.text)
        late = self._lateness(entry, self._heard.get(self._shard_of(occurrence.identity.stream), ()), others)
        entry.found(_align(entry, rows, late, sure=entry.sure, now=self._clock()))
        assert entry.offset is not None
        return entry.offset + occurrence.index

    def sure_number(self, occurrence: Occurrence, others: Others) -> int | None:
        """Return the occurrence's number if more than a comparison in time can tell it."""
        stream = occurrence.stream
        entry = occurrence.entry
        if not stream.joined:
            return (entry.offset or 0) + occurrence.index
        if entry.offset is None:
            rows = others.claimed_by_others(occurrence.identity.text)
            offset = self._offset(stream, entry, rows, others) if rows else 0
            if offset is None:
                return None
            entry.found(offset)
            return offset + occurrence.index
        return entry.offset + occurrence.index

    def counts(self, digest: str) -> bool:
        """Say whether a digest is being counted."""
        return digest in self._recent

    def idle(self, before: float) -> list[str]:
        """Return the digests that have not occurred since."""
        return [text for text, _ in takewhile(lambda one: one[1].digests[one[0]].last < before, self._recent.items())]

    def forget(self, before: float, *, listening: bool) -> None:
        """Forget the digests that have not occurred since, and streams in which nothing has.

        A child that is ``listening`` aligns itself anew should one come again: the active one goes on counting.
        """
        for text in self.idle(before):
            stream = self._recent.pop(text)
            if listening and not stream.joined:
                stream.join()
            del stream.digests[text]
        if listening and not self._joined:
            return  # a stream that it opened anew would count from one
        for name, _ in list(takewhile(lambda one: one[1].heard < before, self._streams.items())):
            del self._streams[name]

    def _open(self, name: str) -> _Stream:
        since, sure = self._sessions.get(self._shard_of(name), (0.0, 0.0))
        return _Stream(joined=self._joined, since=since, sure=sure)

    def _shard_of(self, stream: str) -> int:
        return shard_of(stream, self._shards)

    def _hear(self, identity: Identity, at: float) -> None:
        heard = self._heard.setdefault(self._shard_of(identity.stream), deque(maxlen=_HEARD))
        if len(heard) < _TOGETHER or at - heard[-_TOGETHER][0] > _APART:
            heard.append((at, identity.text, self._came(at)))

    def _lateness(self, entry: _Digest, heard: Sequence[_Receipt], others: Others) -> dict[int, Span]:
        """Return how much later than the others this child received its occurrences, at least and at most, by index.

        Those of which nothing is known, and those for which it is no more than usual, are left out. A receipt that may
        have waited to be read says that the session was late only as far as it came late.
        """
        near = {index: _near(heard, at) for index, (_, at) in entry.times(_ALIGN_LIMIT).items()}
        theirs = others.received_by_others({key for receipts in near.values() for _, key, _ in receipts})
        found = {}
        for index, receipts in near.items():
            late = [(earliest - theirs[key], at - theirs[key]) for at, key, earliest in receipts if key in theirs]
            if late and max(map(abs, itertools.chain(*late))) > _LATE:
                certain = min(max(least, min(0.0, most)) for least, most in late)
                found[index] = certain, max(most for _, most in late)
        return found

    def _offset(self, stream: _Stream, entry: _Digest, rows: Sequence[Claimed], others: Others) -> int | None:
        recent = [row for row in rows if row.at >= entry.since]
        if any(row.mark is None for row in recent):
            return None
        for row in recent:
            found = stream.anchors.get(row.mark or "")
            if found is not None:
                return row.number - 1 - _before(entry, found[0])
        newest_first = reversed(stream.anchors.items())
        known = takewhile(lambda item: item[1][1] >= entry.since, newest_first)
        near = [anchor for anchor, _ in known]
        passed = others.anchor_claimed_by_others(near)
        if passed is None:
            return None
        anchor, at = passed
        claimed = max((row.number for row in rows if row.at < at), default=0)
        return max(0, claimed - _before(entry, stream.anchors[anchor][0]))


def _before(entry: _Digest, place: int) -> int:
    """Return how many occurrences came before an anchor; those whose places are forgotten all did."""
    forgotten = entry.seen - len(entry.places)
    return forgotten + sum(1 for position, _ in entry.places if position < place)


def _near(heard: Sequence[_Receipt], at: float) -> list[_Receipt]:
    """Return the receipts nearest to a time."""
    place = bisect(heard, (at,))
    nearest = (heard[index] for index in range(max(0, place - _NEIGHBOURS), min(len(heard), place + _NEIGHBOURS)))
    return [receipt for receipt in nearest if abs(receipt[0] - at) <= _NEAR]


def _align(entry: _Digest, rows: Sequence[Claimed], late: Mapping[int, Span], *, sure: float, now: float) -> int:
    """Return the offset that lays this child's occurrences best beside the others' claims, by time alone.

    ``late`` says of some occurrences by how much, from and to, they came later here.
    """
    seen = entry.seen
    mine = {
        index: (min(earliest, latest - late[index][1]), latest - late[index][0])
        if index in late
        else (earliest, latest)
        for index, (earliest, latest) in entry.times(_ALIGN_LIMIT).items()
    }
    behind = max([0.0, *(most for _, most in late.values())])
    last = rows[-1].number
    theirs = {row.number: row.at for row in rows[-_ALIGN_LIMIT:]}
    lowest = max((row.number for row in rows if row.at < entry.since), default=0)
    # After many occurrences here the counts are not far apart: the active child keeps up with what reaches it.
    many = seen > _ALIGN_LIMIT
    first, final = (last - seen - _ALIGN_LIMIT, last - seen + _ALIGN_LIMIT) if many else (last - _ALIGN_LIMIT, last)
    candidates: Iterable[int] = range(max(lowest, first), max(lowest, final) + 1)

    def misfit(offset: int) -> float:
        return _misfit(mine, seen, theirs, offset, last, sure=sure, now=now, behind=behind)

    return min(candidates, key=lambda offset: (misfit(offset), -offset))


def _misfit(
    mine: Mapping[int, Span],
    seen: int,
    theirs: Mapping[int, float],
    offset: int,
    last: int,
    *,
    sure: float,
    now: float,
    behind: float,
) -> float:
    """Say how implausible an offset is: pairs that are apart, and events that should have had a partner.

    What the other claimed may be from before this child's session, or on its way here, which is ``behind``; what came
    here may be on its way to the other, or the other takes nothing any more.
    """
    total = 0.0
    for number, at in theirs.items():
        index = number - offset
        if index < 1:
            total += _strain(at - sure)
        elif index in mine:
            earliest, latest = mine[index]
            total += _strain(max(earliest - at, at - latest))
        elif index > seen:
            total += _strain(now - behind - at)
    for index, (_, latest) in mine.items():
        if index + offset > last:
            total += PAIR_WITHIN + min(max(0.0, now - latest), PAIR_WITHIN)
    return total


def _strain(seconds: float) -> float:
    """Weigh a difference in time: up to the skew between two sessions it means little, beyond it a lot."""
    return max(0.0, seconds) + _BEYOND * max(0.0, seconds - PAIR_WITHIN)
