"""Connections up to a bound: if there are too many, the one that has been silent for the longest time makes room.

So whoever connects and asks for nothing keeps nobody out. Knows no sockets.
"""

from __future__ import annotations

from typing import Protocol


class Guest(Protocol):
    """A connection."""

    def send_away(self) -> None:
        """Tell the client that there is no room for it, and end the connection."""


class Crowd:
    """The connections that are there."""

    def __init__(self) -> None:
        self._silent: dict[Guest, None] = {}
        """Those that have not said yet what they want, longest first."""
        self._asking: set[Guest] = set()

    def __len__(self) -> int:
        return len(self._silent) + len(self._asking)

    def enter(self, guest: Guest, *, most: int) -> bool:
        """Take in one more. False: there are ``most``, and all of them wait for answers."""
        if len(self) >= most:
            if not self._silent:
                return False
            longest = next(iter(self._silent))
            del self._silent[longest]
            longest.send_away()
        self._silent[guest] = None
        return True

    def heard(self, guest: Guest) -> bool:
        """Note that it has said what it wants: from now on it stays. False: it has been sent away."""
        if guest not in self._silent:
            return False
        del self._silent[guest]
        self._asking.add(guest)
        return True

    def left(self, guest: Guest) -> None:
        """Forget it."""
        self._silent.pop(guest, None)
        self._asking.discard(guest)
