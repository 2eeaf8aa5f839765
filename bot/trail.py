"""The trail that a living child leaves for its successor: what it has handed to the app, what is running.

A sequence counts as handed over when the gate has taken its event and holds nothing back; handlers begin only after
that, as tasks, and their event is named for each before. While the gate holds events back the sequence stands still,
and follows the replay event by event.

Knows the gate's places and `sessions`' file. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from discord.gateway import DiscordWebSocket

from bastion.bot.gate import Gate, Place
from bastion.bot.inflight import Begun, InFlight, Origin, is_handler
from bastion.bot.internals import Receiver
from bastion.bot.internals import intents as intents_of
from bastion.bot.sessions import SessionFile


@dataclass(slots=True, eq=False)
class Trail:
    """What is noted in the files: in this child's own, and in that of a dead child whose events it handles."""

    file: SessionFile
    gate: Gate
    receiver: Receiver = field(default_factory=Receiver)
    unnamed: list[Begun] = field(default_factory=list)
    """What has begun since handlers were named last; tasks get their names only after they have begun."""
    _words: dict[DiscordWebSocket, int] = field(default_factory=dict)
    """By the newest connection of each shard, the word in the file that says how far it was handed over."""
    _sessions: dict[int, str] = field(default_factory=dict)
    """The session of each shard."""
    _claims: list[Callable[[], object]] = field(default_factory=list)
    """What is to be called when the handlers have been named of what is being claimed."""
    _recovered: SessionFile | None = None

    def install(self, inflight: InFlight) -> None:
        """Have the gate, and each task that begins, lead here. Which connection receives, `receiver` is to be told."""
        gate = self.gate
        gate.taken, gate.place, gate.handed = self.taken, self.place, self.handed
        gate.waiting, gate.claiming, gate.begun = self.waits, self.claims, self.name_handlers
        inflight.watcher = self.unnamed.append

    def recover(self, file: SessionFile | None) -> None:
        """Name handlers also in the file of a dead child whose events are handled; None: no more.

        It is for the next successor.
        """
        self._recovered = file

    def taken(self, *, recovered: bool = False) -> None:
        """Note that the event that was received last has been taken; one that is ``recovered`` is not held back."""
        websocket = self.receiver.websocket
        if websocket is None:
            return
        word = self._words.get(websocket) or self._began(websocket)
        if word is None:
            return
        if self.unnamed:
            self.name_handlers()
        if recovered or not self.gate.holding:
            self.file.words[word] = websocket.sequence or 0

    def resumed(self, websocket: DiscordWebSocket) -> None:
        """Note a session that another child had, and that is this one's from its next event on."""
        word = self._began(websocket)
        if word is not None:
            self.file.words[word] = websocket.sequence or 0

    def _began(self, websocket: DiscordWebSocket) -> int | None:
        """Begin to note what a connection brings: of a new session, or of the one that its shard had before."""
        if websocket.session_id is None or websocket.sequence is None:
            return None
        shard = websocket.shard_id or 0
        for other in [one for one in self._words if (one.shard_id or 0) == shard]:
            del self._words[other]
        if self._sessions.get(shard) != websocket.session_id:
            shards, gateway = websocket.shard_count or 1, str(websocket.gateway)
            intents = intents_of(self.gate.client).value
            session = websocket.session_id
            began = self.gate.session_start(shard) or self.gate.clock()
            self.file.session(
                shard=shard, shards=shards, session=session, gateway=gateway, intents=intents, began=began
            )
            self._sessions[shard] = websocket.session_id
        word = self._words[websocket] = self.file.word(shard)
        return word

    def catch_up(self) -> None:
        """Note all that was received: what discord.py does not know is not noted as it comes. Once a second will do."""
        if not self.gate.holding:
            for websocket, word in self._words.items():
                if websocket.sequence is not None:
                    self.file.words[word] = websocket.sequence

    def reads(self, until: float) -> None:
        """Note that all has been read, and taken, that had come until then. Call it about once a second."""
        self.file.reading_at = until

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
        first = self.gate.first_held()
        for websocket, word in self._words.items():
            if websocket.sequence is not None:
                shard = websocket.shard_id or 0
                self.file.words[word] = first[shard] - 1 if shard in first else websocket.sequence

    def end_replay(self) -> None:
        """Note that nothing is held back any more."""
        self.name_handlers()
        self.catch_up()

    def waits(self, event: Origin) -> Callable[[], object]:
        """Name an event whose handler begins in a moment; call what is returned when it does, or when it need not."""
        return self._name(event.describe())

    def claims(self, event: Origin) -> None:
        """Name an event that is being claimed, until handlers are named the next time."""
        self._claims.append(self.waits(event))

    def name_handlers(self) -> None:
        """Name the event of each handler that has begun since. Nothing is being claimed any more."""
        for begun in self.unnamed:
            if not begun.ended and is_handler(begun.task.get_name()):
                begun.over = self._name(begun.origin.describe())
        self.unnamed.clear()
        for over in self._claims:
            over()
        self._claims.clear()

    def _name(self, event: str) -> Callable[[], object]:
        over = self.file.began(event)
        if self._recovered is None:
            return over
        also = self._recovered.began(event)
        return lambda: (over(), also())
