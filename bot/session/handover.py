"""Who has each shard's session, this bot or another one, and how a session goes from one to the other.

Each shard is in one of three states here:

    own        its connection is Discord's; what comes is this bot's to handle, and is copied to the mirrors
    ending     it has been stopped and closed; its position is on the way to the mirror (`giving`)
    mirrored   its connection is a stand-in; what comes is another bot's to handle (`taking` makes it own again)

A session moves by discord.py's own reconnect: on the one side its connection closes and a stand-in takes its place, on
the other side a stand-in closes and RESUME goes out on a connection that has been opened before. The gateway's sequence
says who handles what: up to N the one, from N + 1 on the other. Nothing is compared.

Knows shards, connections and streams. Knows nothing of roles, handlers and the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Protocol

import discord
import msgspec
from discord.gateway import DiscordWebSocket

from bastion.bot.discordpy import members, sockets
from bastion.bot.discordpy.messages import Recent
from bastion.bot.internals import Receiver
from bastion.bot.session import notes
from bastion.bot.session.giving import Giving
from bastion.bot.session.peers import Peer
from bastion.bot.session.resumes import Resumes
from bastion.bot.session.statefile import Replay, Saved, Writing
from bastion.bot.session.stream import Kind, Listener, Stream, StreamError, connect
from bastion.bot.session.taking import Taking

_log = logging.getLogger("bastion.session")

ASKED_SECONDS = 1.0
"""How old a question may be that a mirror still says yes to. It answers in a millisecond, if it does not hang."""
ANSWER_SECONDS = 2.0
"""How long an answer is waited for: twice as long, so that nobody else handles what the mirror has said yes to."""

LISTEN_SECONDS = 30.0
"""How long a mirror may take to connect: it is told where as soon as this bot listens."""

STATE_SECONDS = 2.0
"""How long a newer bot may take to read the app's state, 16 MiB at most."""

_connecting: ContextVar[int] = ContextVar("connecting", default=0)
"""The shard whose connection is being opened."""


class _Sequence(msgspec.Struct):
    s: int | None = None


_sequence = msgspec.json.Decoder(_Sequence)


class Handover:
    """The sessions of one client."""

    def __init__(self, client: discord.Client, recent: Recent, receiver: Receiver, *, answers: Answers) -> None:
        """``receiver`` is told of each payload before it is parsed. ``answers`` takes components that are ours."""
        self._client, self._recent, self._receiver, self._answers = client, recent, receiver, answers
        self._opened = sockets.Opened(sockets.choose_sockets(client, self._connect))
        self._addresses: dict[int, str] = {}
        """What each shard's connection was opened with last."""
        self.websockets: dict[int, DiscordWebSocket] = {}
        self.peers: list[Peer] = []
        """The bots at the other ends of our streams."""
        self._source: Peer | None = None
        """The one whose payloads the mirrored shards get."""
        self._older: Peer | None = None
        """The older bot, to which this bot has connected."""
        self._recorded: Peer | None = None
        """The file in which all is written that comes."""
        self._wants_state: Peer | None = None
        """The newer bot that waits for the state of this bot's app."""
        self._mirrored: set[int] = set()
        self._between: set[int] = set()
        """Shards whose connection is being opened."""
        self._quiet: set[int] = set()
        """Shards whose connection closes, and is resumed, because their session moves: no app hears of that."""
        self._handled: dict[int, int] = {}
        """Up to which sequence a dead bot has handled what may come once more of its session, by shard."""
        self._broke: dict[int, str] = {}
        """Why a shard's connection is at its end, if its close code does not say."""
        self._resumed: dict[int, DiscordWebSocket] = {}
        """Connections that shards have next, with the sessions of a dead bot."""
        self._latencies: dict[int, float] = {}
        self._questions: dict[int, tuple[asyncio.TimerHandle, Callable[[bool], None]]] = {}
        self._asked = 0
        self._listeners: dict[int, Listener] = {}
        self.taking: Taking | None = None
        self.resumes = Resumes()
        self._changed = asyncio.Event()

    # Connections.

    @contextlib.contextmanager
    def connecting(self, shard: int) -> Iterator[None]:
        """Note for the time of a ``from_client`` which shard it is for."""
        token = _connecting.set(shard)
        self._between.add(shard)
        try:
            yield
        finally:
            self._between.discard(shard)
            _connecting.reset(token)
            self._note_change()

    async def _connect(self, url: str) -> Any:
        shard = _connecting.get()
        self._addresses[shard] = url
        if shard not in self._mirrored and self.taking is not None and self.taking.too_late(shard):
            self._stay_mirrored(shard)
        if shard in self._mirrored and self._source is not None:
            return self._source.mirror.connect(shard)
        return await self._opened.take(shard, url)

    async def connected(self, shard: int, websocket: DiscordWebSocket, *, resumed: bool) -> None:
        """Note a shard's new connection. ``resumed``: RESUME has just left on it, and nothing has been read since."""
        if shard in self._mirrored:
            self.websockets[shard] = websocket
            sockets.tap(websocket, lambda text: self._heard_of_another(text))
            sockets.borrow_latency(websocket, lambda: self._latencies.get(shard, 0.0))
            return
        if resumed and self.taking is not None and self.taking.too_late(shard):
            self.websockets[shard] = websocket
            self._stay_mirrored(shard)
            with contextlib.suppress(Exception):
                await websocket.socket.close(code=4000)  # discord.py reconnects, and finds the stand-in
            return
        self.websockets[shard] = websocket
        if resumed:
            self.resumes.sent(shard, websocket)
            if self.taking is not None:
                self.taking.took(shard)
            self._answers.session_came(websocket)
        elif self.taking is not None:
            self.taking.began_anew(shard)
        sockets.tap(websocket, lambda text: self._heard(shard, text))
        sockets.pace(
            websocket, lambda: self._stopped(shard, websocket), lambda why: self._broke.__setitem__(shard, why)
        )

    def _stopped(self, shard: int, websocket: DiscordWebSocket) -> bool:
        """Say whether what still comes on a connection is not this bot's to handle."""
        return self.websockets.get(shard) is not websocket or shard in self._mirrored or self._answers.is_robbed()

    def _heard(self, shard: int, text: str) -> None:
        self._receiver.text, self._receiver.foreign = text, False
        if self._handled:
            self._receiver.foreign = self._was_handled(shard, text)
        if self.resumes.heard(shard, text):
            self._note_change()
        for peer in self.peers:
            peer.copies.heard(shard, text)

    def _was_handled(self, shard: int, text: str) -> bool:
        """Say whether a dead bot has handled this; from the first that it has not, nobody has."""
        until, sequence = self._handled.get(shard), _sequence.decode(text).s
        if until is None or sequence is None:
            return False
        if sequence > until:
            del self._handled[shard]
        return sequence <= until

    def _heard_of_another(self, text: str) -> None:
        self._receiver.text, self._receiver.foreign = text, True

    def why_away(self, shard: int) -> str:
        """Say why a shard's newest connection has ended; empty if that is not known."""
        if why := self._broke.pop(shard, ""):
            return why
        if self.resumes.unanswered(shard):
            return "no answer to RESUME"
        websocket = self.websockets.get(shard)
        return "" if websocket is None else sockets.why_ended(websocket)

    def why_dead(self, shard: int) -> str:
        """Say why Discord resumes a shard's session no more; empty if it may."""
        return self.resumes.dead(shard) or ""

    def mirrors(self, shard: int) -> bool:
        """Whether a shard's session is another bot's."""
        return shard in self._mirrored

    def moves(self, shard: int) -> bool:
        """Whether a shard's connection changes because its session moves."""
        return shard in self._quiet

    def hides(self, name: str, args: tuple[Any, ...]) -> bool:
        """Whether a dispatch tells of a connection that changes because its session moves."""
        if not self._quiet:
            return False
        if name in ("disconnect", "resumed"):
            if name == "resumed" and not isinstance(self._client, discord.AutoShardedClient):
                self.resumed(self._client.shard_id or 0)
            return True
        if name in ("shard_disconnect", "shard_resumed") and args and args[0] in self._quiet:
            if name == "shard_resumed":
                self.resumed(args[0])
            return True
        return False

    def may_resume(self, shard: int) -> bool:
        """Whether discord.py may resume a shard's session, and has not given that up to the holder."""
        if shard in self._mirrored:
            return True
        return not self._answers.is_robbed() and (self.taking is None or not self.taking.refused)

    def is_dead(self, shard: int) -> bool:
        """Whether Discord resumes a shard's session no more. Ask before each RESUME."""
        return shard not in self._mirrored and self.resumes.dead(shard) is not None

    def resume_from(self, shard: int, sequence: int) -> int:
        """Return from which sequence a shard is to be resumed. ``sequence`` is of the last event that came here."""
        return sequence if self.taking is None else self.taking.resume_from(shard, sequence)

    def may_identify(self, shard: int) -> bool:
        """Whether discord.py may begin a session for a shard; not if its session is dead, and the holder begins one."""
        if self._answers.is_robbed():
            return False
        why = self.resumes.dead(shard)
        if self.taking is not None and self.taking.refuses(shard, why or "it is not valid any more"):
            return False
        if why is not None:
            _log.warning("Discord does not resume the session of shard %d, %s: it begins a new one", shard, why)
        elif shard in self._quiet and self.taking is None:
            _log.warning(
                "Discord no longer knows the session of shard %d: it begins a new one, and what was sent on the old "
                "one meanwhile is lost",
                shard,
            )
        self.resumes.forget(shard)
        self._quiet.discard(shard)
        self._note_change()
        self._handled.pop(shard, None)
        return True

    def resumed(self, shard: int) -> None:
        """Note that Discord has accepted a shard's RESUME."""
        if shard not in self._mirrored:
            self._quiet.discard(shard)
            self._note_change()
            if self.taking is not None:
                self.taking.resumed(shard)

    async def settled(self) -> None:
        """Wait until no shard is mirrored, and none is between the connections that its session moves from and to."""
        while self._mirrored or self._quiet:
            await self.changed()

    @property
    def steady(self) -> bool:
        """Whether each shard has a connection, with a session, none is being opened, and all that came is handled."""
        if self._answers.holds() or any(map(self.resumes.waits, self.own)):
            return False
        return not self._between and all(sockets.is_in_session(self.websockets[shard]) for shard in self.own)

    async def changed(self) -> None:
        """Wait until something may have changed."""
        self._changed.clear()
        await self._changed.wait()

    def _note_change(self) -> None:
        self._changed.set()

    # Streams.

    def serve(self, number: int, path: str, *, shows: bytes, expects: bytes) -> None:
        """Listen for the mirror of this number, for `LISTEN_SECONDS`. Raises `OSError`."""
        listener = Listener(path, lambda: self._peer(shows, expects, accepted=number)[1])
        listener.open()
        self._listeners[number] = listener
        asyncio.get_running_loop().call_later(LISTEN_SECONDS, self._listen_no_more, number)

    def _listen_no_more(self, number: int) -> None:
        if (listener := self._listeners.pop(number, None)) is not None:
            listener.close()

    def follow(self, path: str, *, shows: bytes, expects: bytes, shards: list[int]) -> None:
        """Mirror these shards of the bot that listens there; without any, only be given its app's state.

        Raises `OSError`.
        """
        peer, stream = self._peer(shows, expects)
        self._older = peer
        self._mirrored.update(shards)
        if shards:
            self._source = peer  # its stand-ins are asked for before it has proven itself
        connect(path, stream)

    def follow_saved(self, saved: Saved) -> None:
        """Mirror what a bot that was stopped has left, as if it still held its sessions: see `holder_died`."""
        peer = self._bare_peer()
        peer.begin(Replay(saved, peer.take))
        self._mirrored.update(saved.head.wants.ids)
        self._source = peer

    async def record(self, file: Writing) -> None:
        """Write each shard's snapshot into a file, and what comes from now on, until `end_record`.

        Raises `StreamError`: a shard has no session now, or the disk takes no more.
        """
        self._recorded = peer = self._bare_peer()
        peer.begin(file)
        self.peers.append(peer)
        for shard in self.own:
            peer.copies.begin_with_snapshot(shard)
        await peer.copies.snapshots_written()
        await file.room()

    def copy_no_more(self) -> None:
        """Learn that what comes from now on is not handled here: a mirror that goes on with the sessions is to get it.

        The mirror resumes behind what has been copied to it.
        """
        for peer in self.peers:
            for shard in self.own:
                peer.copies.end(shard)

    def end_record(self) -> None:
        """Write nothing more into the file: what comes is the next bot's to handle."""
        if self._recorded is not None and self._recorded in self.peers:
            self._recorded.close()
            self.peers.remove(self._recorded)

    def _bare_peer(self) -> Peer:
        return Peer(
            self._client, self._recent, self.websockets.get, noted=self._noted, state_came=self._answers.state_came
        )

    def _peer(self, shows: bytes, expects: bytes, *, accepted: int | None = None) -> tuple[Peer, Stream]:
        peer = self._bare_peer()
        peer.number = accepted

        def opened(stream: Stream) -> bool:
            if accepted is not None:
                if (listener := self._listeners.pop(accepted, None)) is None:
                    return False
                listener.close()
            self.peers.append(peer)
            return True

        stream = Stream(
            shows=shows,
            expects=expects,
            on_frame=peer.take,
            on_lost=lambda why: self._lost(peer, why),
            on_open=opened,
        )
        peer.begin(stream)
        return peer, stream

    def _lost(self, peer: Peer, why: str) -> None:
        peer.close()
        if peer in self.peers:
            self.peers.remove(peer)
            _log.info("the stream to the other bot has ended: %s", why)
            if peer is self._source:
                self._let_go()
        if peer is self._wants_state:
            self._wants_state = None
        if peer is self._older:
            self._older = None
            self._answers.state_comes_no_more()
        if peer is self._source and self._mirrored:
            if self.taking is not None and self.taking.peer is peer:
                self.taking.lost()
            else:
                self._answers.source_lost(why)
        self._note_change()

    def _noted(self, peer: Peer, shard: int, note: notes.Note) -> None:
        match note:
            case notes.Switch():
                if peer.giving is None:
                    peer.giving = Giving(self, peer)
                    peer.spawn(peer.giving.run())
            case notes.Ping(number=number):
                peer.note(notes.Pong(number=number))
                if self.taking is not None and self.taking.peer is peer:
                    self.taking.noted(shard, note)
            case notes.WantState():
                self._wants_state = peer
                self._answers.state_may_be_due()
            case notes.Ask(number=number, data=data, at=at):
                mine = time.monotonic() - at < ASKED_SECONDS and self._answers.takes(data)
                peer.note(notes.Answer(number=number, mine=mine))
            case notes.Answer(number=number, mine=mine):
                self._answered(number, mine=mine)
            case notes.Latency(seconds=seconds):
                self._latencies[shard] = seconds
            case notes.Leave() if peer is self._source and self._mirrored and self.taking is None:
                self._answers.source_left()
            case notes.End() | notes.Failed():
                if self.taking is not None and self.taking.peer is peer:
                    self.taking.noted(shard, note)
            case _:
                if peer.giving is not None:
                    peer.giving.noted(shard, note)

    def tell_latencies(self) -> None:
        """Tell the mirrors how far Discord is. Call it about once a second."""
        for shard, websocket in self.websockets.items():
            if shard not in self._mirrored and 0 <= (seconds := websocket.latency) < float("inf"):
                for peer in self.peers:
                    peer.note(notes.Latency(seconds=seconds), shard=shard)

    def close(self) -> None:
        """Feed nobody any more, and listen for nobody."""
        for number in list(self._listeners):
            self._listen_no_more(number)
        self._leave(list(self.peers))

    def leave_all_but(self, peer: Peer) -> None:
        """Feed nobody any more but one: the sessions are about to be that bot's, and the others will mirror it."""
        others = [other for other in self.peers if other is not peer]
        for other in others:
            other.note(notes.Leave())
            other.stream.flush()
        self._leave(others)

    def _leave(self, peers: list[Peer]) -> None:
        for peer in peers:
            peer.stream.close()
            peer.close()
            self.peers.remove(peer)

    def client_closed(self) -> None:
        """Learn that the client has been closed: no stand-in is to keep it."""
        if self._source is not None:
            self._source.mirror.close()

    # The state of the app.

    def ask_for_state(self) -> bool:
        """Ask the older bot for its app's state; return whether there is an older bot to be asked."""
        if self._older is None:
            return False
        self._older.note(notes.WantState())
        return True

    @property
    def is_asked_for_state(self) -> bool:
        """Whether a newer bot waits for the state of this bot's app."""
        return self._wants_state is not None

    async def give_state(self, state: bytes) -> None:
        """Give the state of this bot's app to the newer bot that waits for it, and wait until the kernel has it."""
        if (peer := self._wants_state) is not None:
            self._wants_state = None
            peer.stream.send(Kind.STATE, 0, state)
            with contextlib.suppress(StreamError, TimeoutError):
                await asyncio.wait_for(peer.stream.room(0), STATE_SECONDS)

    # Giving: what `Giving` does to a shard.

    def given(self) -> None:
        """Learn that the last session is on its way to the other bot."""
        self._note_change()
        self._answers.state_may_be_due()

    async def gives(self) -> None:
        """Wait until no session is this bot's any more, or nobody is there who could take them."""
        while self.own and any(peer.copies.feeds for peer in self.peers):
            await self.changed()

    @property
    def own(self) -> list[int]:
        """The shards whose sessions this bot has."""
        return [shard for shard in self.websockets if shard not in self._mirrored]

    def guilds(self, shard: int) -> int:
        """Return how many guilds a shard has."""
        count = self._client.shard_count or 1
        return sum(1 for guild in self._client.guilds if (guild.id >> 22) % count == shard)

    async def end(self, shard: int, peer: Peer, *, binding: bool) -> None:
        """Stop a shard where it stands, close its connection, and tell a mirror its position."""
        websocket, at = self.websockets[shard], time.monotonic()
        sequence = websocket.sequence or 0
        self._source = peer
        peer.mirror.expect(shard)
        peer.copies.end(shard)
        self._quiet.add(shard)
        self.resumes.forget(shard)
        self._mirrored.add(shard)  # from here on `sockets.pace` drops what still comes
        with contextlib.suppress(Exception):
            await asyncio.wait_for(websocket.close(4000), sockets.CLOSE_SECONDS)
        waited = time.monotonic() - at
        asking = members.asking(self._client, shard)
        end = notes.End(sequence=sequence, at=at, close_seconds=waited, binding=binding, asking=asking)
        peer.note(end, shard=shard)

    def take_back(self, shard: int, peer: Peer) -> None:
        """Have a shard again that nobody has taken: discord.py resumes it where it was stopped."""
        self._mirrored.discard(shard)
        peer.copies.begin(shard)
        peer.mirror.end(shard, 4000)

    def identify(self, shard: int, peer: Peer) -> None:
        """Have a shard again whose session is dead."""
        self._mirrored.discard(shard)
        self._quiet.discard(shard)
        peer.copies.begin(shard)
        peer.mirror.invalidate(shard)

    # Taking: what `Taking` does to a shard.

    @property
    def mirrored(self) -> list[int]:
        """The shards whose sessions another bot has."""
        return sorted(self._mirrored)

    async def take(self, *, impatient: bool = False) -> Taking | None:
        """Take all sessions from the bot that has them; return how it went, None if there were none to take.

        ``impatient``: that bot may stand still. Raises `HandoverError` if it keeps them, `SilentError` if it does.
        """
        if not self._mirrored or self._source is None:
            return None
        self.taking = Taking(self, self._source, self.mirrored, impatient=impatient)
        try:
            await self.taking.run()
        finally:
            await self._opened.close()
        return self.taking

    def may_be_with(self, number: int) -> bool:
        """Whether the bot of this number may have the sessions that are mirrored here, or be taking them."""
        return self._source is None or self._source.number in (None, number)

    @property
    def took_some(self) -> bool:
        """Whether sessions have come to this bot from another one."""
        return self.taking is not None and self.taking.took_some

    def handles(self) -> None:
        """Learn that what came since the sessions are this bot's has been handled, and is from now on as it comes."""
        for peer in self.peers:
            peer.copies.release()
        self._note_change()

    async def open(self, shard: int) -> None:
        """Open a connection for a shard's RESUME. Raises what discord.py's own way raises."""
        await self._opened.open(shard, sockets.resume_url(self.websockets[shard], self._addresses[shard]))

    def resume(self, shard: int) -> None:
        """Close a shard's stand-in behind all that has come: discord.py resumes the session then."""
        self._quiet.add(shard)
        self._mirrored.discard(shard)
        if self._source is not None:
            self._source.mirror.end(shard, 4000)

    def ask_for_members(self, guilds: Iterable[int]) -> None:
        """Ask for members that the other bot was asking for when its session came here."""
        self._answers.ask_for_members(guilds)

    def _stay_mirrored(self, shard: int) -> None:
        assert self._source is not None
        self._mirrored.add(shard)
        self._source.mirror.expect(shard)
        self._source.note(notes.Late(), shard=shard)

    def holder_died(self, handled: Mapping[int, tuple[str, int]]) -> None:
        """Resume what a dead bot had, in any phase: ``handled`` says by shard how far it had come in which session.

        Its events that have been copied here were handled. What it had read and handled, and had not written to the
        stream any more, comes again and is not handled again.
        """
        if self._source is not None:
            self._source.stream.read_rest()
        for shard in self.mirrored:
            session, sequence = handled.get(shard, ("", 0))
            websocket = self.websockets.get(shard)
            if websocket is not None and websocket.session_id == session:
                self._handled[shard] = sequence
            self.resume(shard)
        # What it was asking for nobody knows.
        self.ask_for_members([guild.id for guild in self._client.guilds])
        if self._source is not None and self._source in self.peers:  # it may stand still, and answers no question then
            self._source.stream.close()
            self._lost(self._source, "its sessions are this bot's")

    # A dead bot's session, in the place of one's own.

    def may_change(self, shard: int) -> bool:
        """Whether a shard has a connection of its own that can be left for another session."""
        websocket = self.websockets.get(shard)
        if websocket is None or shard in self._between or shard in self._mirrored or self.resumes.waits(shard):
            return False
        return sockets.is_in_session(websocket)

    def change(self, shard: int, to: DiscordWebSocket, gateway: str) -> Coroutine[Any, Any, None]:
        """Leave a shard's own session for one that has been resumed; return what ends the own one.

        discord.py reconnects then, and gets that connection.
        """
        websocket = self.websockets.pop(shard)  # from here on `sockets.pace` drops what still comes
        self._quiet.add(shard)
        self._resumed[shard] = to
        sockets.go_on_with(websocket, session=to.session_id or "", gateway=gateway, sequence=to.sequence or 0)
        return sockets.end_session(websocket)

    def resumed_before(self, shard: int) -> DiscordWebSocket | None:
        """Return the connection that a shard is to go on with, once."""
        return self._resumed.pop(shard, None)

    # Components.

    def ask(self, data: dict[str, Any], then: Callable[[bool], None]) -> bool:
        """Ask the older bot whether a component is its own, and call ``then`` with the answer; False: there is none."""
        if not self.peers or self._source is None or self._source not in self.peers or self._mirrored:
            return False
        self._asked += 1
        number = self._asked
        handle = asyncio.get_running_loop().call_later(ANSWER_SECONDS, lambda: self._answered(number, mine=False))
        self._questions[number] = handle, then
        self._source.note(notes.Ask(number=number, data=data, at=time.monotonic()))
        return True

    def _answered(self, number: int, *, mine: bool) -> None:
        handle, then = self._questions.pop(number, (None, None))
        if handle is not None and then is not None:
            handle.cancel()
            then(mine)

    def _let_go(self) -> None:
        """Nobody answers any more."""
        for number in list(self._questions):
            self._answered(number, mine=False)


class Answers(Protocol):
    """What the bot around a `Handover` is asked by it."""

    def takes(self, data: dict[str, Any]) -> bool:
        """Handle a component if it is this bot's own; return whether it is."""

    def holds(self) -> bool:
        """Say whether events of this bot's own sessions wait to be handled."""

    def session_came(self, websocket: DiscordWebSocket) -> None:
        """Learn that a session has just become this bot's, or goes on after its connection was cut."""

    def ask_for_members(self, guilds: Iterable[int]) -> None:
        """Ask Discord for the members of these guilds, unless they are all here."""

    def is_robbed(self) -> bool:
        """Say whether another bot has taken the sessions while this one stood still."""

    def source_lost(self, why: str) -> None:
        """Learn that the stream has ended from which the mirrored shards are fed. That alone means nothing."""

    def source_left(self) -> None:
        """Learn that the bot which feeds the mirrored shards feeds them no more: another one will have its sessions."""

    def state_may_be_due(self) -> None:
        """Learn that a newer bot waits for the app's state, or that no session is this bot's any more."""

    def state_came(self, state: bytes) -> None:
        """Take the state of the older bot's app."""

    def state_comes_no_more(self) -> None:
        """Learn that the older bot gives no state any more."""
