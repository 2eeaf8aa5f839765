"""State on its way from the old child to the new one: who has it, who waits for it.

Knows which child exports and which imports, and passes a file's name on. What is in the file, and how long anybody
waits for it, is the children's affair: whatever goes wrong here costs the state, never the handoff.
"""

from __future__ import annotations

import contextlib
import glob
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bastion.wire import Activate, Drain, Exported, FromChild, Import, Ready, Standby, ToChild, state_base


@dataclass(slots=True, kw_only=True)
class Passing:
    """Which living children export and import, by generation, and who is to have state of whom now.

    Who ``has_its_own`` has been active: it goes on with what it has in memory.
    """

    exports: set[int] = field(default_factory=set)
    imports: set[int] = field(default_factory=set)
    has_its_own: set[int] = field(default_factory=set)
    giver: int | None = None
    taker: int | None = None


class Relay:
    """The passing on of state in one slot. ``send`` puts a message into a child's pipe."""

    def __init__(self, send: Callable[[int, ToChild], None]) -> None:
        self._send = send
        self.passing = Passing()

    def addressed(self, generation: int, message: ToChild, *, active: int | None) -> ToChild:
        """Return what is sent to a child: a change of role tells both whether state is carried over.

        ``active`` is the child that holds the role now.
        """
        if isinstance(message, Activate):
            passing = self.passing
            if active is not None:
                passing.has_its_own.add(active)
            wanted = active in passing.exports and generation in passing.imports - passing.has_its_own
            passing.has_its_own.add(generation)
            passing.giver, passing.taker = (active, generation) if wanted else (None, None)
            return Activate(wait_for_state=True) if wanted else message
        if isinstance(message, Drain | Standby) and generation == self.passing.giver:
            return msgspec.structs.replace(message, export=True)
        return message

    def heard(self, generation: int, message: FromChild) -> None:
        """Note what a child can do, and pass on what it exported."""
        if isinstance(message, Ready):
            if message.exports:
                self.passing.exports.add(generation)
            if message.imports:
                self.passing.imports.add(generation)
        elif isinstance(message, Exported):
            if generation == self.passing.giver:
                self._pass(Import(file=message.file, reason=message.reason))
            elif message.file is not None:
                with contextlib.suppress(OSError):
                    Path(message.file).unlink()

    def left(self, generation: int) -> None:
        """Forget a child. Who waits for its state waits no longer."""
        self.passing.exports.discard(generation)
        self.passing.imports.discard(generation)
        self.passing.has_its_own.discard(generation)
        if generation == self.passing.giver:
            self._pass(Import(reason=f"generation {generation} left without giving any", crashed=True))
        elif generation == self.passing.taker:
            self.passing.giver = self.passing.taker = None

    def _pass(self, message: Import) -> None:
        taker, self.passing.giver, self.passing.taker = self.passing.taker, None, None
        if taker is not None:
            self._send(taker, message)


def forget(ledger: Path, *, supervisor: int = 0) -> None:
    """Remove the state that earlier children left beside this ledger under a number: a new start begins without."""
    base = glob.escape(Path(state_base(str(ledger), supervisor)).name)
    for left in (*ledger.parent.glob(f"{base}.state-*"), *ledger.parent.glob(f"{base}.checkpoint*")):
        with contextlib.suppress(OSError):  # of a disk that has become read-only
            left.unlink()
