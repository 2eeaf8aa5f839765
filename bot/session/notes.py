"""What the two bots at the ends of a stream tell each other about the sessions, beside gateway payloads.

A note is one JSON object in a frame of kind NOTE; the frame names the shard, where the note is about one. An example of
a handover of shards 0 and 1:

    mirror  WantState         its app takes a state
    mirror  Switch            its cache is complete, its websockets are open
    holder  Ping 1            and the mirror answers Pong 1
    holder  End of shard 0    stopped at sequence 812, closed with 4000
    mirror  Taken 0, Resumed 0
    holder  End of shard 1
    mirror  Taken 1, Resumed 1
    holder  the app's state, meanwhile: it is exported once the last shard has been stopped

Knows the shapes. What a note means is `giving`'s, `taking`'s and `handover`'s.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec


class _Note(msgspec.Struct, frozen=True, kw_only=True, tag_field="note"):
    """Base of all notes."""


class Switch(_Note, frozen=True, tag="switch"):
    """Of a mirror: it can take the sessions now."""


class Ping(_Note, frozen=True, tag="ping"):
    """Of a holder: to be answered at once."""

    number: int


class Pong(_Note, frozen=True, tag="pong"):
    """The answer to the `Ping` of this number."""

    number: int


class WantState(_Note, frozen=True, tag="want-state"):
    """Of a new bot: send the app's state (a frame of kind STATE) once no event is yours to handle any more."""


class End(_Note, frozen=True, tag="end"):
    """Of a holder: it has closed the shard's connection, and has handled everything up to this sequence.

    ``at`` is when it stopped, in seconds of the machine's monotonic clock.
    """

    sequence: int
    at: float
    close_seconds: float = 0.0
    """How long it waited for the answer to its close."""
    binding: bool = False
    """Whether another shard has been taken already: then this one is the mirror's, however late it is."""
    asking: list[int] = []
    """Guilds whose members it has asked for, and not all got: their answer may have gone with the connection."""


class Taken(_Note, frozen=True, tag="taken"):
    """Of a mirror: RESUME has left in time. The session is the mirror's from now on."""


class Late(_Note, frozen=True, tag="late"):
    """Of a mirror: it could not RESUME in time, and has not. The holder takes the session back."""


class Resumed(_Note, frozen=True, tag="resumed"):
    """Of the new holder: Discord has accepted the RESUME."""


class Refused(_Note, frozen=True, tag="refused"):
    """Of a mirror: Discord does not accept the RESUME of the first shard, so the session is dead. ``why`` says how."""

    why: str


class Failed(_Note, frozen=True, tag="failed"):
    """Of a holder: it keeps the sessions, or has taken them back."""

    why: str


class Ask(_Note, frozen=True, tag="ask"):
    """Of a holder: is this component or modal the mirror's? ``data`` is the interaction, as Discord sent it.

    ``at`` is when it was asked, in seconds of the machine's monotonic clock: a mirror that reads it late says no.
    """

    number: int
    at: float
    data: dict[str, Any]


class Answer(_Note, frozen=True, tag="answer"):
    """The answer to the `Ask` of this number. If it is ``mine``, it is being handled."""

    number: int
    mine: bool


class Latency(_Note, frozen=True, tag="latency"):
    """Of a holder: the latency of the shard's connection, in seconds."""

    seconds: float


class Leave(_Note, frozen=True, tag="leave"):
    """Of a holder: it feeds this mirror no more, for its sessions are about to be another bot's."""


Note: TypeAlias = (
    Switch | Ping | Pong | WantState | End | Taken | Late | Resumed | Refused | Failed | Ask | Answer | Latency | Leave
)

_decoder: msgspec.json.Decoder[Note] = msgspec.json.Decoder(Note)
encode = msgspec.json.encode


def decode(body: bytes) -> Note:
    """Read a note. Raises `msgspec.DecodeError` for what is none."""
    return _decoder.decode(body)
