"""The pipe's messages: what a child and the supervisor say to each other.

One JSON object a line, tagged by ``type``. This module knows the shapes and the framing; it knows nothing of
processes, of discord or of what a message means. It is the one module of the parent that the child imports, so it
imports nothing but msgspec.

A line that cannot be read raises `WireError`; whoever reads then ends *that* peer and nobody else.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

PROTOCOL = 1
"""Version of these messages, sent in `Hello`. A child with another one is refused before it connects."""

MAX_LINE = 64 * 1024
"""Longest line in bytes, newline included. The largest honest one is a `Drained` naming some hundred handlers."""

RoleName: TypeAlias = Literal["starting", "standby", "active", "draining"]
ShardState: TypeAlias = Literal["waiting", "connecting", "ready", "resuming", "closed"]


class WireError(ValueError):
    """The peer sent something that is not a message."""


class _Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Base of all messages: immutable, by name only, nothing unknown let in."""


class Hello(_Message, frozen=True, tag="hello"):
    """First words of a child: the runtime is loaded, the app is not yet."""

    pid: int
    protocol: int
    versions: dict[str, str]


class Identify(_Message, frozen=True, tag="identify"):
    """The child asks leave to IDENTIFY this shard; it opens no socket for it before the `Permit`."""

    shard: int


class Limits(_Message, frozen=True, tag="limits"):
    """What ``GET /gateway/bot`` said: session_start_limit and the shard count. ``reset_after`` is in seconds."""

    total: int
    remaining: int
    reset_after: float
    max_concurrency: int
    shards: int
    """How many shards this child will connect (its own count, also when the settings fixed it)."""


class Shard(_Message, frozen=True, tag="shard"):
    """A shard changed its state. ``connecting`` is sent right after IDENTIFY left: from there its window counts."""

    id: int
    state: ShardState
    latency_ms: float | None = None


class Ready(_Message, frozen=True, tag="ready"):
    """Every shard is ready and the guild cache is filled."""

    shards: int
    guilds: int


class Role(_Message, frozen=True, tag="role"):
    """The role now held: the acknowledgement of `Activate`, `Standby` and `Drain`."""

    role: RoleName


class WindowAck(_Message, frozen=True, tag="window"):
    """Whether this child now claims every event before it handles it."""

    open: bool


class Claims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Counts of asked claims since the child began."""

    won: int = 0
    lost: int = 0
    errors: int = 0


class Beat(_Message, frozen=True, tag="beat"):
    """A numbered sign of life from the child's event loop, once a second, and at once in answer to a `Ping`.

    Counters run since the child began. ``loop_lag_ms`` is by how much the loop woke late at worst since the last beat.
    """

    n: int
    loop_lag_ms: float
    in_flight: int
    handled: int
    held: int = 0
    replayed: int = 0
    expired: int = 0
    overflowed: int = 0
    received: int = 0
    heard: int = 0
    """Events received in a window that every session of the bot should get: what two children can compare."""
    guilds: int = 0
    claims: Claims = Claims()
    latencies: dict[int, float] = {}
    """Milliseconds by shard id, for those shards whose heartbeat was answered at least once."""
    pong: int = 0
    """Number of the newest `Ping` seen, 0 before the first."""


class Drained(_Message, frozen=True, tag="drained"):
    """A draining child has nothing left to finish. ``cut`` names the handlers that the limit ended."""

    finished: int
    cut: list[str]


class Fatal(_Message, frozen=True, tag="fatal"):
    """The child gives up and exits. ``retryable``: the same release could succeed on another try."""

    reason: str
    retryable: bool


class Permit(_Message, frozen=True, tag="permit"):
    """Leave to IDENTIFY this shard now, once."""

    shard: int


class Window(_Message, frozen=True, tag="window"):
    """Claim every event from now on (open), or forget the claims and stop asking (closed). Answered by `WindowAck`."""

    open: bool


class Activate(_Message, frozen=True, tag="activate"):
    """Become the active child: replay what nobody claimed, then go on live. Answered by `Role`."""


class Standby(_Message, frozen=True, tag="standby"):
    """Stop handling, hold events again (an activation that is taken back). Answered by `Role`."""


class Drain(_Message, frozen=True, tag="drain"):
    """Take nothing new, finish what began within ``limit`` seconds, close the sessions, exit.

    Answered by `Role`, then `Drained`.
    """

    limit: float


class Ping(_Message, frozen=True, tag="ping"):
    """Answer with a `Beat` whose ``pong`` is this ``n``."""

    n: int


FromChild: TypeAlias = Hello | Identify | Limits | Shard | Ready | Role | WindowAck | Beat | Drained | Fatal
ToChild: TypeAlias = Permit | Window | Activate | Standby | Drain | Ping

_encoder = msgspec.json.Encoder()
_from_child: msgspec.json.Decoder[FromChild] = msgspec.json.Decoder(FromChild)
_to_child: msgspec.json.Decoder[ToChild] = msgspec.json.Decoder(ToChild)


def encode(message: FromChild | ToChild) -> bytes:
    """One line, newline included."""
    return _encoder.encode(message) + b"\n"


def decode_from_child(line: bytes) -> FromChild:
    """Read one line that a child sent. Raises `WireError`."""
    try:
        return _from_child.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(str(error)) from None


def decode_to_child(line: bytes) -> ToChild:
    """Read one line that the supervisor sent. Raises `WireError`."""
    try:
        return _to_child.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(str(error)) from None


class LineBuffer:
    """Cuts a byte stream into lines, refusing to grow past `MAX_LINE`."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that ``data`` completed, without their newlines. Raises `WireError` on an endless line."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) >= MAX_LINE or any(len(line) >= MAX_LINE for line in lines):
            raise WireError(f"a line longer than {MAX_LINE} bytes")
        return lines
