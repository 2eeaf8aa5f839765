"""The supervised bot with gate, trail and the watch over tasks taken out once it is ready: for what these cost alone.

It is everything else that a bot under a supervisor is. It could not be handed over any more.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sharded import Sharded


class Ungated(Sharded):
    """Gives discord.py back what was put in the place of its own."""

    async def on_ready(self) -> None:
        gate: Any = self.dispatch.__self__  # type: ignore[attr-defined]
        connection: Any = self._connection
        connection.parsers.update(gate._parsers)
        self.dispatch = connection.dispatch = gate._own  # type: ignore[method-assign]
        del self._schedule_event
        for shard in self.shards.values():
            websocket: Any = shard._parent.ws
            websocket._dispatch = gate._own
        asyncio.get_running_loop().set_task_factory(None)
        await super().on_ready()


def make() -> Ungated:
    """Return a client that has not connected."""
    return Ungated()
