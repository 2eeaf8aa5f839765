"""The memory of which reply answers which message: five minutes, and so many at most.

Knows ids and time. Knows nothing of Discord.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

REMEMBERED: Final = 300.0
"""Seconds in which deleting the asking message takes back the reply."""

CAPACITY: Final = 20_000
"""Replies remembered at most, about 5 MB: 66 a second for five minutes. Past it the oldest are forgotten."""


@dataclass(slots=True)
class _Entry:
    expires: float
    reply: int | None = None
    withdrawn: bool = False


class Replies:
    """Replies by the message that asked. Ids are Discord's; times are those of ``clock``, in seconds."""

    def __init__(self, *, capacity: int = CAPACITY, clock: Callable[[], float] = time.monotonic) -> None:
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._capacity = capacity
        self._clock = clock
        self._first_used: float | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def begin(self, asked: int) -> None:
        """Note that a reply to this message is on its way."""
        self._tidy()
        self._entries[asked] = _Entry(self._clock() + REMEMBERED)
        if len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    def sent(self, asked: int, reply: int) -> bool:
        """Note the reply. Returns whether the asking message was deleted meanwhile: then the reply must go."""
        entry = self._entries.get(asked)
        if entry is None:
            return False
        if entry.withdrawn:
            del self._entries[asked]
            return True
        entry.reply = reply
        return False

    def failed(self, asked: int) -> None:
        """Forget a reply that could not be sent."""
        self._entries.pop(asked, None)

    def withdraw(self, asked: int) -> int | None:
        """Return the reply to a message that was deleted, once, or None. One still on its way is told by `sent`."""
        self._tidy()
        entry = self._entries.get(asked)
        if entry is None:
            return None
        if entry.reply is None:
            entry.withdrawn = True
            return None
        del self._entries[asked]
        return entry.reply

    def ignore(self, message: int) -> None:
        """Note that nothing answers this message: its deletion needs no second thought."""
        self.begin(message)
        self._entries[message].withdrawn = True

    def expects(self, asked: int) -> bool:
        """Whether it is known what answers this message: a reply, one on its way, or nothing (`ignore`)."""
        return asked in self._entries

    def complete(self) -> bool:
        """Whether this memory reaches back `REMEMBERED` seconds, so that no earlier process can know more."""
        return self._first_used is not None and self._clock() - self._first_used >= REMEMBERED

    def exported(self) -> list[list[float | None]]:
        """Return the memory for another process: message, its reply or None if nothing answers it, seconds to live.

        A reply on its way is left out: only this process will know it.
        """
        self._tidy()
        now = self._clock()
        return [
            [asked, None if entry.withdrawn else entry.reply, round(entry.expires - now, 3)]
            for asked, entry in self._entries.items()
            if entry.withdrawn or entry.reply is not None
        ]

    def take(self, exported: list[list[float | None]]) -> None:
        """Remember what another process has exported."""
        now = self._clock()
        for asked, reply, left in exported:
            if asked is not None and left is not None and int(asked) not in self._entries:
                entry = _Entry(now + min(left, REMEMBERED), withdrawn=reply is None)
                entry.reply = None if reply is None else int(reply)
                self._entries[int(asked)] = entry

    def _tidy(self) -> None:
        now = self._clock()
        if self._first_used is None:
            self._first_used = now
        while self._entries:
            asked = next(iter(self._entries))
            if self._entries[asked].expires > now:
                return
            del self._entries[asked]
