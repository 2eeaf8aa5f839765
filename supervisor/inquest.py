"""What dead children left running: asked of the living, told once.

A child notes in a file, beside the ledger, what it runs. Only children can read it, so the supervisor asks: all that
live when one has died before it had drained, and, as long as nobody has answered, each that is spawned later. The first
answer counts. Who is asked is asked before it is told anything that follows from the death; so one that was asked from
its first moment and died without an answer never came as far as to run anything, and nobody is asked about it.

Knows generations and messages. Decides nothing about children.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from bastion.wire import Cut, Drained, FromChild, Inquire, ToChild


@dataclass(slots=True)
class Inquest:
    """The deaths of one slot. ``send`` puts a message into a child's pipe."""

    send: Callable[[int, ToChild], None]
    open: set[int] = field(default_factory=set)
    """Dead generations of which nobody has told yet: what they left must stay."""
    _told: set[int] = field(default_factory=set)
    """Living generations that have said themselves what they had to cut."""
    _silent: set[int] = field(default_factory=set)
    """Living generations that were asked when they were spawned, and have answered nothing yet."""

    def spawned(self, generation: int) -> None:
        """Ask a new child about all of whom nobody has told yet."""
        if self.open:
            self._silent.add(generation)
        for dead in sorted(self.open):
            self.send(generation, Inquire(generation=dead))

    def left(self, generation: int, *, living: Iterable[int]) -> None:
        """Ask about a child that is gone, unless it has said itself what it had to cut."""
        if generation in self._told | self._silent:
            self._told.discard(generation)
            self._silent.discard(generation)
            return
        self.open.add(generation)
        for other in living:
            self.send(other, Inquire(generation=generation))

    def heard(self, generation: int, message: FromChild) -> Cut | None:
        """Note what a child tells; return the first answer about a dead one, or what one tells of itself at its end."""
        if isinstance(message, Cut):
            self._silent.discard(generation)
        if isinstance(message, Drained):
            self._told.add(generation)
        elif isinstance(message, Cut) and message.generation == generation:
            if not message.lives:
                self._told.add(generation)
            return message
        elif isinstance(message, Cut) and message.generation in self.open:
            self.open.remove(message.generation)
            return message
        return None
