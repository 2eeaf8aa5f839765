"""The supervised bot; SIGUSR2 takes out its gate, trail and watch over tasks, and puts them back: for what they cost.

Both sides are one process, so nothing else differs: two processes that run the same differ by some per cent for all
their life. With the gate out it is everything else that a bot under a supervisor is; it could not be handed over.
"""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from typing import Any

from sharded import Sharded


@dataclass
class _Between:
    """What stands in the places that lead from discord.py to the app."""

    parsers: dict[str, Any]
    dispatch: Any
    schedule: Any
    factory: Any
    connections: dict[int, Any]


class Toggled(Sharded):
    """Gives discord.py back what was put in the place of its own, and takes it again."""

    async def on_ready(self) -> None:
        gate: Any = self.dispatch.__self__  # type: ignore[attr-defined]
        stock = dict.fromkeys(self.shards, gate._own)
        self._other = _Between(dict(gate._parsers), gate._own, None, None, stock)
        self._gated = True
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, self._toggle)
        await super().on_ready()

    def _toggle(self) -> None:
        self._other = self._exchange(self._other)
        self._gated = not self._gated
        self.reports.note("gate", "in" if self._gated else "out")

    def _exchange(self, other: _Between) -> _Between:
        loop, connection = asyncio.get_running_loop(), self._connection
        sockets: dict[int, Any] = {number: shard._parent.ws for number, shard in self.shards.items()}
        former = _Between(
            {name: connection.parsers[name] for name in other.parsers},
            self.dispatch,
            self.__dict__.pop("_schedule_event", None),
            loop.get_task_factory(),
            {number: websocket._dispatch for number, websocket in sockets.items()},
        )
        connection.parsers.update(other.parsers)
        self.dispatch = connection.dispatch = other.dispatch  # type: ignore[method-assign]
        if other.schedule is not None:
            self._schedule_event = other.schedule  # type: ignore[method-assign]
        loop.set_task_factory(other.factory)
        for number, websocket in sockets.items():
            websocket._dispatch = other.connections[number]
        return former


def make() -> Toggled:
    """Return a client that has not connected."""
    return Toggled()
