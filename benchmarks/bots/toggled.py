"""The supervised bot, which takes out its gate, trail and watch over tasks and puts them back: for what they cost.

Both sides are one process and take turns of a fifth of a second, so that nothing else differs: two processes that run
the same differ by some per cent for all their life, and one process from second to second by more. With the gate out it
is everything else that a bot under a supervisor is; it could not be handed over.

SIGUSR2 begins the turns; the next one ends them, and what they cost is written to the file BENCH_TURNS: for each,
whether the gate was in, CPU seconds of the process, events received.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sharded import Sharded

TURN: Final = 0.2
"""Seconds."""


@dataclass
class _Between:
    """What stands in the places that lead from discord.py to the app."""

    parsers: dict[str, Any]
    dispatch: Any
    factory: Any
    connections: dict[int, Any]


class Toggled(Sharded):
    """Gives discord.py back what was put in the place of its own, and takes it again."""

    async def on_ready(self) -> None:
        gate: Any = self.dispatch.__self__  # type: ignore[attr-defined]
        stock = dict.fromkeys(self.shards, gate._own)
        self._other = _Between(dict(gate._parsers), gate._own, None, stock)
        self._gated = True
        self._turns: asyncio.Task[None] | None = None
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, self._begin_or_end)
        await super().on_ready()

    def _begin_or_end(self) -> None:
        if self._turns is None:
            self._turns = asyncio.get_running_loop().create_task(self._take_turns())
        else:
            self._turns.cancel()
            self._turns = None

    async def _take_turns(self) -> None:
        turns: list[tuple[bool, float, int]] = []
        try:
            while True:
                # In, out, out, in: what changes steadily meanwhile is in both.
                for gated in (True, False, False, True):
                    if gated is not self._gated:
                        self._toggle()
                    cpu, events = time.process_time(), self._received()
                    await asyncio.sleep(TURN)
                    turns.append((gated, time.process_time() - cpu, self._received() - events))
        finally:
            if not self._gated:
                self._toggle()
            Path(os.environ["BENCH_TURNS"]).write_text(json.dumps(turns), encoding="ascii")
            self.reports.note("turns", "written")

    def _received(self) -> int:
        sockets: list[Any] = [shard._parent.ws for shard in self.shards.values()]
        return sum(websocket.sequence for websocket in sockets)

    def _toggle(self) -> None:
        self._gated = not self._gated
        loop, connection, other = asyncio.get_running_loop(), self._connection, self._other
        sockets: dict[int, Any] = {number: shard._parent.ws for number, shard in self.shards.items()}
        self._other = _Between(
            {name: connection.parsers[name] for name in other.parsers},
            self.dispatch,
            loop.get_task_factory(),
            {number: websocket._dispatch for number, websocket in sockets.items()},
        )
        connection.parsers.update(other.parsers)
        self.dispatch = connection.dispatch = other.dispatch  # type: ignore[method-assign]
        loop.set_task_factory(other.factory)
        for number, websocket in sockets.items():
            websocket._dispatch = other.connections[number]


def make() -> Toggled:
    """Return a client that has not connected."""
    return Toggled()
