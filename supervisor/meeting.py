"""Which way a new child gets its sessions: from the child that has them, or by IDENTIFYs of its own.

Both say what their sessions are like (`Wants`). The holder is told to serve, and when it does the new child is told to
connect: as a mirror if their sessions are alike, else to be given the app's state. An example, for a reload from
generation 3 to 4:

    4 -> Wants             3 <- Serve(4)             3 -> Serving(4)             4 <- Mirror, or Overlap

Where both will have sessions, the holder claims every event before it says that it serves. So a child with sessions of
its own never begins them before that; one that hangs is dead by then.

Knows what children said, and passes secrets and a path on. Decides nothing about processes or roles: the machine does.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from bastion.wire import Mirror, Overlap, Serve, Serving, ToChild, Wants, difference

_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class _Pair:
    """A new child that waits until the holder serves."""

    holder: int
    answer: Mirror | Overlap


class Meeting:
    """What the children of one slot said of their sessions. ``send`` puts a message into a child's pipe."""

    def __init__(self, send: Callable[[int, ToChild], None]) -> None:
        self._send = send
        self.wants: dict[int, Wants] = {}
        """By generation, of the living children."""
        self._pairs: dict[int, _Pair] = {}
        self.mirrors: set[int] = set()
        """The living children that began as mirrors."""
        self.reasons: dict[int, str] = {}
        """Why a living child has sessions of its own."""

    def wanted(self, generation: int, wants: Wants, *, holder: int | None, path: str, obstacle: str | None) -> None:
        """Take what a child says of its sessions, and answer it if it is not the ``holder`` itself.

        ``holder`` is the active child, ``path`` where it is to listen. ``obstacle`` says why nothing can be moved,
        whatever both are like.
        """
        self.wants[generation] = wants
        if holder == generation:
            return
        theirs = self.wants.get(holder) if holder is not None else None
        why = obstacle or difference(theirs, wants)
        if holder is None:
            self._answer(generation, Overlap(why=why or ""))
            return
        first, second = secrets.token_hex(_SECRET_BYTES), secrets.token_hex(_SECRET_BYTES)
        answer: Mirror | Overlap
        if theirs is None or theirs.stream != wants.stream:
            path = ""
        if theirs is not None and why is None:
            answer = Mirror(path=path, shows=second, expects=first, shards=theirs.shards, ids=theirs.ids)
        else:
            answer = Overlap(path=path, shows=second, expects=first, why=why or "")
        self._pairs[generation] = _Pair(holder, answer)
        claims = isinstance(answer, Overlap)
        self._send(holder, Serve(generation=generation, path=path, shows=first, expects=second, claims=claims))

    def serving(self, generation: int, message: Serving) -> None:
        """Take the answer of a holder: its mirror may connect."""
        pair = self._pairs.get(message.generation)
        if pair is None or pair.holder != generation or message.claims is not isinstance(pair.answer, Overlap):
            return
        if message.problem and isinstance(pair.answer, Mirror):
            self._overlap(message.generation, pair, f"generation {generation} does not listen: {message.problem}")
            return
        del self._pairs[message.generation]
        if isinstance(pair.answer, Mirror):
            self.wants[message.generation] = self.wants[generation]
        if isinstance(pair.answer, Overlap) and message.problem:
            self._answer(message.generation, Overlap(why=pair.answer.why))
        else:
            self._answer(message.generation, pair.answer)

    def told(self, generation: int, answer: Mirror | Overlap) -> None:
        """Pass on to a new child what another supervisor, whose child has sessions, has answered."""
        if isinstance(answer, Mirror) and (wants := self.wants.get(generation)) is not None:
            self.wants[generation] = msgspec.structs.replace(wants, shards=answer.shards, ids=answer.ids)
        self._answer(generation, answer)

    def overdue(self, generation: int) -> None:
        """Let a new child be no mirror of its holder, which reads its pipe no more, or hangs."""
        pair = self._pairs.get(generation)
        if pair is not None and isinstance(pair.answer, Mirror):
            self._overlap(generation, pair, f"generation {pair.holder} does not answer")

    def is_asked(self, holder: int) -> bool:
        """Whether a holder has still to answer."""
        return any(pair.holder == holder for pair in self._pairs.values())

    def waits_for(self, generation: int) -> int | None:
        """Return which holder a new child waits for."""
        pair = self._pairs.get(generation)
        return None if pair is None else pair.holder

    def left(self, generation: int) -> None:
        """Forget a child. Who waits for it to serve waits no longer."""
        self.wants.pop(generation, None)
        self.reasons.pop(generation, None)
        self._pairs.pop(generation, None)
        self.mirrors.discard(generation)
        for waiting, pair in [(number, pair) for number, pair in self._pairs.items() if pair.holder == generation]:
            del self._pairs[waiting]
            why = pair.answer.why if isinstance(pair.answer, Overlap) else f"generation {generation} died"
            self._answer(waiting, Overlap(why=why))

    def _overlap(self, generation: int, pair: _Pair, why: str) -> None:
        """Have the holder claim for a child that cannot connect to it."""
        self._pairs[generation] = _Pair(pair.holder, Overlap(why=why))
        self._send(pair.holder, Serve(generation=generation, path="", shows="", expects="", claims=True))

    def _answer(self, generation: int, answer: Mirror | Overlap) -> None:
        if isinstance(answer, Mirror):
            self.mirrors.add(generation)
        else:
            self.reasons[generation] = answer.why
        self._send(generation, answer)
