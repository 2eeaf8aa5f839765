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
   That is exact as long as equal events of such a stream are further apart than the sessions' skew.

Equal occurrences are interchangeable, so an offset needs only the right count, not the right pairing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

PAIR_WITHIN = 0.5
"""Seconds between two sessions' receipts of one event up to which they count as the same when only time can tell.

Skews of more than a few hundred milliseconds between healthy sessions on one machine have not been reported.
"""

SURE_AFTER = 1.0
"""Seconds after a session began by which all that happened before it has reached the other sessions.

A child must not be activated sooner: an offset worked out while such an event is still on its way would be wrong.
"""

_ALIGN_LIMIT = 64
"""Occurrences on either side that the comparison in time looks at; older ones cannot matter to it."""

_LOCAL = frozenset(
    {"READY", "RESUMED", "GUILD_MEMBERS_CHUNK", "RATE_LIMITED", "VOICE_SERVER_UPDATE", "VOICE_CHANNEL_STATUS_UPDATE"}
)
"""Events of one session alone: never held back, never claimed."""

_UNIQUE: Mapping[str, tuple[str, ...]] = {
    "INTERACTION_CREATE": ("id",),
    "MESSAGE_CREATE": ("id",),
    "MESSAGE_DELETE": ("id",),
    "GUILD_AUDIT_LOG_ENTRY_CREATE": ("id",),
    "CHANNEL_CREATE": ("id",),
    "CHANNEL_DELETE": ("id",),
    "THREAD_DELETE": ("id",),
    "GUILD_ROLE_CREATE": ("role.id",),
    "GUILD_ROLE_DELETE": ("role_id",),
    "GUILD_SCHEDULED_EVENT_CREATE": ("id",),
    "GUILD_SCHEDULED_EVENT_DELETE": ("id",),
    "STAGE_INSTANCE_CREATE": ("id",),
    "STAGE_INSTANCE_DELETE": ("id",),
    "AUTO_MODERATION_RULE_CREATE": ("id",),
    "AUTO_MODERATION_RULE_DELETE": ("id",),
    "ENTITLEMENT_CREATE": ("id",),
    "ENTITLEMENT_DELETE": ("id",),
}
"""Events that happen once for the ids named: creation and deletion of an object."""

_REACTION = ("channel_id", "message_id", "user_id", "emoji.id", "emoji.name", "burst")
_SAYS: Mapping[str, tuple[str, ...]] = {
    "MESSAGE_REACTION_ADD": _REACTION,
    "MESSAGE_REACTION_REMOVE": _REACTION,
    "MESSAGE_REACTION_REMOVE_ALL": ("channel_id", "message_id"),
    "MESSAGE_REACTION_REMOVE_EMOJI": ("channel_id", "message_id", "emoji.id", "emoji.name"),
    # Not the content: two releases with and without the message content intent see different ones.
    "MESSAGE_UPDATE": ("id", "edited_timestamp", "pinned", "flags"),
    "MESSAGE_DELETE_BULK": ("channel_id", "ids"),
    "TYPING_START": ("channel_id", "user_id", "timestamp"),
    "GUILD_MEMBER_ADD": ("user.id", "joined_at"),
    "GUILD_MEMBER_REMOVE": ("user.id",),
    "GUILD_CREATE": ("id", "joined_at"),
    "GUILD_DELETE": ("id", "unavailable"),
    "CHANNEL_PINS_UPDATE": ("channel_id", "last_pin_timestamp"),
    "THREAD_CREATE": ("id", "newly_created"),
}
"""What tells one kind of occurrence from another, where that is less than the whole payload."""

_encoder = msgspec.json.Encoder(order="deterministic")


@dataclass(frozen=True, slots=True)
class Identity:
    """What an event is, before its occurrence is numbered."""

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
    fields = _UNIQUE.get(name)
    if fields is not None:
        text = ":".join([name, *(str(_pick(data, path)) for path in fields)])
        return Identity(text, stream, counted=False, anchor=name == "MESSAGE_CREATE")
    said = _SAYS.get(name)
    body = data if said is None else [_pick(data, path) for path in said]
    digest = hashlib.blake2b(_encoder.encode((name, stream, body)), digest_size=12).hexdigest()
    return Identity(digest, stream, counted=True)


def _stream(name: str, data: Mapping[str, Any]) -> str:
    guild = data["id"] if name in ("GUILD_CREATE", "GUILD_DELETE", "GUILD_UPDATE") else data.get("guild_id")
    return str(guild) if guild is not None else f"dm:{data.get('channel_id', '')}"


def _pick(data: Mapping[str, Any], path: str) -> Any:
    value: Any = data
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
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


@dataclass(slots=True, eq=False)
class Occurrence:
    """One counted event as this child saw it: its place, from which its key follows."""

    identity: Identity
    index: int
    """1 for the first of this digest that this child saw in this stream's present session."""
    mark: str | None
    at: float
    stream: _Stream = field(repr=False)


@dataclass(slots=True, eq=False)
class _Digest:
    seen: int = 0
    places: list[tuple[int, float]] = field(default_factory=list)
    """(position of the newest anchor before it, time) of each occurrence; kept only by a child that joined."""
    offset: int | None = None


@dataclass(slots=True, eq=False)
class _Stream:
    joined: bool
    since: float
    """Nothing received by another child before this can have reached this one."""
    sure: float
    """Everything that happened after this reaches this child."""
    mark: str | None = ""
    anchors: dict[str, int] = field(default_factory=dict)
    digests: dict[str, _Digest] = field(default_factory=dict)


class Numbering:
    """Numbers the occurrences that one child sees while a window is open.

    ``joined`` tells whether this child came after the window was opened. ``clock`` is the machine's monotonic clock.
    """

    def __init__(self, *, joined: bool, clock: Callable[[], float]) -> None:
        self._joined = joined
        self._clock = clock
        self._streams: dict[str, _Stream] = {}
        self._sessions: dict[int, tuple[float, float]] = {}
        self._shards = 1

    def session_began(
        self, shard: int, shards: int, *, identified_at: float, ready_at: float, active: bool = False
    ) -> None:
        """Note a fresh session (READY) of a shard: what happened since the one before was missed.

        A child that only listens aligns itself anew. One that is ``active`` goes on counting, for others follow its
        numbers, but no longer vouches for where its streams stand.
        """
        self._shards = shards
        self._sessions[shard] = (identified_at, ready_at)
        for name in [name for name in self._streams if self._shard_of(name) == shard]:
            if active or not self._joined:
                self._streams[name].mark = None
            else:
                del self._streams[name]

    def observe(self, identity: Identity, at: float) -> Occurrence | None:
        """Take note of an event as it arrives, each once and in its place; counted ones get an `Occurrence`."""
        stream = self._streams.get(identity.stream) or self._open(identity.stream)
        if not identity.counted:
            if identity.anchor:
                stream.mark = identity.text
                if stream.joined:
                    stream.anchors.setdefault(identity.text, len(stream.anchors) + 1)
            return None
        entry = stream.digests.setdefault(identity.text, _Digest())
        entry.seen += 1
        if stream.joined:
            entry.places.append((len(stream.anchors), at))
        return Occurrence(identity, entry.seen, stream.mark, at, stream)

    def number(self, occurrence: Occurrence, others: Others) -> int:
        """Return the occurrence's number, the same that every other child gives it."""
        number = self.sure_number(occurrence, others)
        if number is not None:
            return number
        stream = occurrence.stream
        entry = stream.digests[occurrence.identity.text]
        rows = others.claimed_by_others(occurrence.identity.text)
        entry.offset = _align(entry.places, rows, since=stream.since, sure=stream.sure, now=self._clock())
        return entry.offset + occurrence.index

    def sure_number(self, occurrence: Occurrence, others: Others) -> int | None:
        """Return the occurrence's number if more than a comparison in time can tell it."""
        stream = occurrence.stream
        if not stream.joined:
            return occurrence.index
        entry = stream.digests[occurrence.identity.text]
        if entry.offset is None:
            rows = others.claimed_by_others(occurrence.identity.text)
            offset = self._offset(stream, entry, rows, others) if rows else 0
            if offset is None:
                return None
            entry.offset = offset
        return entry.offset + occurrence.index

    def _open(self, name: str) -> _Stream:
        since, sure = self._sessions.get(self._shard_of(name), (0.0, 0.0))
        stream = self._streams[name] = _Stream(joined=self._joined, since=since, sure=sure)
        return stream

    def _shard_of(self, stream: str) -> int:
        return 0 if stream.startswith("dm:") else (int(stream) >> 22) % self._shards

    def _offset(self, stream: _Stream, entry: _Digest, rows: Sequence[Claimed], others: Others) -> int | None:
        if any(row.mark is None and row.at >= stream.since for row in rows):
            return None
        for row in rows:
            place = stream.anchors.get(row.mark or "")
            if place is not None:
                return row.number - 1 - _before(entry, place)
        passed = others.anchor_claimed_by_others(stream.anchors)
        if passed is None:
            return None
        anchor, at = passed
        claimed = max((row.number for row in rows if row.at < at), default=0)
        return max(0, claimed - _before(entry, stream.anchors[anchor]))


def _before(entry: _Digest, place: int) -> int:
    return sum(1 for position, _ in entry.places if position < place)


def _align(
    places: Sequence[tuple[int, float]], rows: Sequence[Claimed], *, since: float, sure: float, now: float
) -> int:
    """Return the offset that lays this child's occurrences best beside the others' claims, by time alone."""
    mine = [at for _, at in places[:_ALIGN_LIMIT]]
    last = rows[-1].number
    theirs = {row.number: row.at for row in rows[-_ALIGN_LIMIT:]}
    lowest = max((row.number for row in rows if row.at < since), default=0)
    candidates: Iterable[int] = range(max(lowest, last - _ALIGN_LIMIT), last + 1)
    return min(candidates, key=lambda offset: (_misfit(mine, theirs, offset, last, sure=sure, now=now), -offset))


def _misfit(
    mine: Sequence[float], theirs: Mapping[int, float], offset: int, last: int, *, sure: float, now: float
) -> float:
    """Seconds by which an offset is implausible: pairs that are apart, and events that should have had a partner."""
    total = 0.0
    for number, at in theirs.items():
        index = number - offset
        if index < 1:
            total += max(0.0, at - sure)
        elif index <= len(mine):
            total += abs(at - mine[index - 1])
        else:
            total += PAIR_WITHIN + now - at
    for index in range(max(1, last - offset + 1), len(mine) + 1):
        total += PAIR_WITHIN + now - mine[index - 1]
    return total
