"""Connections up to a bound. Above the bound, the connection that has been silent for the longest time makes room.

So idle clients keep no other client out. Knows no sockets.
"""

from __future__ import annotations

from typing import Protocol


class Guest(Protocol):
    """A connection."""

    def send_away(self) -> None:
        """Tell the client that the server is full, and end the connection."""


class Crowd:
    """The open connections."""

    def __init__(self) -> None:
        self._silent: dict[Guest, None] = {}
        """Connections without a request, the oldest first."""
        self._asking: set[Guest] = set()

    def __len__(self) -> int:
        return len(self._silent) + len(self._asking)

    def enter(self, guest: Guest, *, most: int) -> bool:
        """Admit a connection. False: the bound ``most`` is reached, and all connections wait for answers."""
        if len(self) >= most:
            if not self._silent:
                return False
            longest = next(iter(self._silent))
            del self._silent[longest]
            longest.send_away()
        self._silent[guest] = None
        return True

    def heard(self, guest: Guest) -> bool:
        """Note that the request has come: the connection stays from now on. False: it has been sent away."""
        if guest not in self._silent:
            return False
        del self._silent[guest]
        self._asking.add(guest)
        return True

    def left(self, guest: Guest) -> None:
        """Forget a connection that has ended."""
        self._silent.pop(guest, None)
        self._asking.discard(guest)
