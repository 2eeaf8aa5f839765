"""The trail that a living child leaves for its successor: what it has handed to the app, what is running.

Called for every message of the gateway and for every handler, so it does as little as it can (`benchmarks.quiet`). A
sequence counts as handed over when the gate has taken its event and holds nothing back; handlers begin only after that,
as tasks. While the gate holds events back the sequence stands still, and follows the replay event by event.

Knows the gate's places and `sessions`' file. Decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from discord.gateway import DiscordWebSocket

from bot.gate import Gate, Place
from bot.inflight import InFlight, Origin
from bot.sessions import SessionFile


@dataclass(slots=True, eq=False)
class Trail:
    """What is noted in the files: in this child's own, and in that of a dead child whose events it handles."""

    file: SessionFile
    gate: Gate
    inflight: InFlight
    recovered: SessionFile | None = None
    """The dead child's file: handlers of its events are named there too, for the next successor."""
    _receiving: DiscordWebSocket | None = None
    _sessions: dict[int, str] = field(default_factory=dict)
    _received: dict[int, int] = field(default_factory=dict)
    _unnamed: list[asyncio.Task[Any]] = field(default_factory=list)
    _running: dict[asyncio.Task[Any], tuple[tuple[SessionFile, int], ...]] = field(default_factory=dict)

    def before(self, websocket: DiscordWebSocket) -> None:
        """Note from which connection a message is being taken."""
        self._receiving = websocket

    def after(self, websocket: DiscordWebSocket) -> None:
        """Note that a message has been dispatched."""
        sequence = websocket.sequence
        if sequence is None or websocket.session_id is None:
            return
        shard = websocket.shard_id or 0
        if self._sessions.get(shard) != websocket.session_id:
            self._began(websocket, shard, websocket.session_id)
        self._received[shard] = sequence
        if not self.gate.holding:
            self.file.handed(shard, sequence)
        if self._unnamed:
            self.name_handlers()

    def _began(self, websocket: DiscordWebSocket, shard: int, session: str) -> None:
        self._sessions[shard] = session
        shards, gateway = websocket.shard_count or 1, str(websocket.gateway)
        self.file.session(shard=shard, shards=shards, session=session, gateway=gateway)

    def place(self) -> Place | None:
        """Return where the event stands that is being received now."""
        websocket = self._receiving
        return None if websocket is None else (websocket.shard_id or 0, websocket.sequence or 0)

    def handed(self, place: Place) -> None:
        """Note that an event that was held back is held back no longer."""
        self.file.handed(*place)
        if self._unnamed:
            self.name_handlers()

    def begin_replay(self) -> None:
        """Note that all but what is held back has been handled, here or by another child."""
        self.file.active_since = self.gate.clock()
        first = self.gate.first_held()
        for shard, sequence in self._received.items():
            self.file.handed(shard, first[shard] - 1 if shard in first else sequence)

    def end_replay(self) -> None:
        """Note that nothing is held back any more."""
        if not self.gate.holding:
            for shard, sequence in self._received.items():
                self.file.handed(shard, sequence)
        self.name_handlers()

    def waits(self, event: Origin) -> Callable[[], None]:
        """Name an event whose handler begins in a moment; call what is returned when it does, or when it need not."""
        noted = self._note(event.describe())

        def over() -> None:
            for file, slot in noted:
                file.ended(slot)

        return over

    def began(self, task: asyncio.Task[Any]) -> None:
        """Learn of a handler; it gets its name only after this."""
        self._unnamed.append(task)

    def ended(self, task: asyncio.Task[Any]) -> None:
        """Learn that a handler has ended."""
        for file, slot in self._running.pop(task, ()):
            file.ended(slot)

    def name_handlers(self) -> None:
        """Note the names of the handlers that have begun since."""
        for task in self._unnamed:
            name = self.inflight.name(task)
            if name is not None:
                self._running[task] = self._note(name)
        self._unnamed.clear()

    def _note(self, name: str) -> tuple[tuple[SessionFile, int], ...]:
        mine = (self.file, self.file.began(name))
        return (mine,) if self.recovered is None else (mine, (self.recovered, self.recovered.began(name)))
