"""The mirror's side of a stream: each shard's stand-in is fed with the payloads that the holder's shard receives.

Knows stand-ins and frames. Knows nothing of how a session moves.
"""

from __future__ import annotations

from bastion.bot.session.standin import StandIn
from bastion.bot.session.stream import Channel, Kind, StreamError

_INVALID_SESSION = '{"op":9,"d":false,"s":null,"t":null}'
"""What Discord says of a session that cannot be resumed."""


class Mirror:
    """The stand-ins of one client."""

    def __init__(self, stream: Channel) -> None:
        self._stream = stream
        self._stand_ins: dict[int, StandIn] = {}
        self._expected: set[int] = set()
        self._closed = False

    def expect(self, shard: int) -> None:
        """Keep what comes of a shard from now on for the connection that will be asked for.

        The other bot may send sooner than discord.py has noticed that its own connection has closed.
        """
        self._make(shard)
        self._expected.add(shard)

    def connect(self, shard: int) -> StandIn:
        """Return a new connection for a shard. Its IDENTIFY asks the holder for a snapshot."""
        if shard in self._expected:
            self._expected.discard(shard)
            return self._stand_ins[shard]
        return self._make(shard)

    def _make(self, shard: int) -> StandIn:
        made = self._stand_ins[shard] = StandIn(
            identified=lambda: self._stream.send(Kind.SNAPSHOT, shard, b""),
            asked=lambda text: self._stream.send(Kind.REQUEST, shard, text.encode()),
        )
        if self._closed:
            made.end(4000)
        return made

    def close(self) -> None:
        """Close all connections, and whatever is asked for from now on: the client is closed.

        discord.py closes the connections that it has. One that it is about to get would keep it for ever.
        """
        self._closed = True
        for stand_in in self._stand_ins.values():
            stand_in.end(4000)

    def take(self, kind: Kind, shard: int, body: bytes) -> None:
        """Take a frame of the holder's. Raises `StreamError` if it is none that a holder sends."""
        if kind is not Kind.PAYLOAD:
            raise StreamError(f"a holder does not send frames of kind {kind.name}")
        if (stand_in := self._stand_ins.get(shard)) is not None:
            stand_in.feed(body.decode())

    def invalidate(self, shard: int) -> None:
        """Tell a shard, behind all that has come, that its session is dead: it IDENTIFYs anew."""
        if (stand_in := self._stand_ins.get(shard)) is not None:
            stand_in.feed(_INVALID_SESSION)

    def end(self, shard: int, code: int) -> None:
        """Close a shard's stand-in with this code, behind all that has come."""
        if (stand_in := self._stand_ins.get(shard)) is not None:
            stand_in.end(code)
