"""The trail that a living child leaves for its successor: what it has handed to the app, what is running.

Called for every event of the gateway, so it does as little as it can (`benchmarks.quiet`). A sequence counts as handed
over when the gate has taken its event and holds nothing back; handlers begin only after that, as tasks, and are named
before. While the gate holds events back the sequence stands still, and follows the replay event by event.

Knows the gate's places and `sessions`' file. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from discord.gateway import DiscordWebSocket

from bot.gate import Gate, Place
from bot.inflight import ANSWER, JOIN, Begun, InFlight, Kinds, Origin, is_handler
from bot.internals import Receiver
from bot.sessions import ID, MAX_KINDS, SessionFile

_METHOD = "discord.py: "
_OF_ONE_KIND = (_METHOD, "CommandTree-invoker", ANSWER, JOIN)
"""How tasks are named that share their name with all others of their kind."""


@dataclass(slots=True, eq=False)
class _Session:
    """A gateway session of this child."""

    session: str
    note: Callable[[int], object]
    """Notes a sequence of it as handed over."""
    received: int = 0


@dataclass(slots=True, eq=False)
class Trail:
    """What is noted in the files: in this child's own, and in that of a dead child whose events it handles."""

    file: SessionFile
    gate: Gate
    receiver: Receiver = field(default_factory=Receiver)
    unnamed: list[Begun] = field(default_factory=list)
    """What has begun since handlers were named last; tasks get their names only after they have begun."""
    _sessions: dict[int, _Session] = field(default_factory=dict)
    _kinds: dict[tuple[str, str], int] = field(default_factory=dict)
    """The number in the file of each kind of handler: task and event."""
    _methods: dict[str, Kinds] = field(default_factory=dict)
    """The same of those that run a method."""
    _recovered: SessionFile | None = None
    _inflight: InFlight | None = None

    def install(self, inflight: InFlight) -> None:
        """Have the gate, and each task that begins, lead here. Which connection receives, `receiver` is to be told."""
        gate = self.gate
        gate.taken, gate.place, gate.handed = self.taken, self.place, self.handed
        gate.waiting, gate.begun = self.waits, self.name_handlers
        gate.claiming = self.file.take_in_hand
        inflight.watcher = self.unnamed.append
        inflight.begin_handlers(gate.client, self.file.briefs)
        self._inflight = inflight
        self.recover(None)

    def recover(self, file: SessionFile | None) -> None:
        """Name handlers also in the file of a dead child whose events are handled; None: no more.

        It is for the next successor.
        """
        self._recovered = file
        if self._inflight is not None:
            self._inflight.kinds = self._methods if file is None else {}

    def taken(self) -> None:
        """Note that the event that was received last has been taken."""
        websocket = self.receiver.websocket
        if websocket is None or websocket.sequence is None:
            return
        session = self._sessions.get(websocket.shard_id or 0)
        if session is None or session.session != websocket.session_id:
            session = self._began(websocket)
            if session is None:
                return
        session.received = websocket.sequence
        if self.unnamed:
            self.name_handlers()
        if not self.gate.holding:
            session.note(websocket.sequence)

    def _began(self, websocket: DiscordWebSocket) -> _Session | None:
        shard, session = websocket.shard_id or 0, websocket.session_id
        if session is None:
            return None
        shards, gateway = websocket.shard_count or 1, str(websocket.gateway)
        self.file.session(shard=shard, shards=shards, session=session, gateway=gateway)
        began = self._sessions[shard] = _Session(session, self.file.noting(shard))
        return began

    def place(self) -> Place | None:
        """Return where the event stands that is being received now."""
        websocket = self.receiver.websocket
        return None if websocket is None else (websocket.shard_id or 0, websocket.sequence or 0)

    def handed(self, place: Place) -> None:
        """Note that an event that was held back is held back no longer."""
        self.name_handlers()
        self.file.handed(*place)

    def begin_replay(self) -> None:
        """Note that all but what is held back has been handled, here or by another child."""
        self.file.active_since = self.gate.clock()
        first = self.gate.first_held()
        for shard, session in self._sessions.items():
            session.note(first[shard] - 1 if shard in first else session.received)

    def end_replay(self) -> None:
        """Note that nothing is held back any more."""
        self.name_handlers()
        if not self.gate.holding:
            for session in self._sessions.values():
                session.note(session.received)

    def waits(self, event: Origin) -> Callable[[], None]:
        """Name an event whose handler begins in a moment; call what is returned when it does, or when it need not."""
        return self._name(event.describe())

    def name_handlers(self) -> None:
        """Note which handlers have begun since, and that nothing is in hand any more."""
        for begun in self.unnamed:
            task, origin = begun(), begun.origin
            if task is None or task.done():
                continue
            name = task.get_name()
            kind = self._kinds.get((name, origin.name))
            if kind is None:
                if not is_handler(name):
                    continue
                kind = self._kind(name, origin.name)
            if kind and self._recovered is None:
                data = origin.data
                try:
                    begun.over = self.file.began_as(kind, int(data["id"]) if "id" in data else 0)
                except (TypeError, ValueError):  # it has no data, or its id is no number
                    begun.over = None
            if begun.over is None:
                begun.over = self._name(f"{name} ({origin.describe()})")
        self.unnamed.clear()
        self.file.let_go()

    def _kind(self, name: str, event: str) -> int:
        if not name.startswith(_OF_ONE_KIND) or len(self._kinds) >= MAX_KINDS:
            return 0
        kind = self._kinds[name, event] = self.file.kind(f"{name} ({event}{ID})")
        if name.startswith(_METHOD):
            self._methods.setdefault(name.removeprefix(_METHOD), Kinds(name)).of[event] = kind
        return kind

    def _name(self, name: str) -> Callable[[], None]:
        noted = [(file, file.began(name)) for file in (self.file, self._recovered) if file is not None]

        def over() -> None:
            for file, slot in noted:
                file.ended(slot)

        return over
