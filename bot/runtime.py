"""One child's life: wait until the program logs in, put the pieces around its client, obey the supervisor, end well.

Knows how gate, ledger, shards, handlers under way and link fit together, and what each of the supervisor's messages
means here. Decides nothing about other children: the supervisor does.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import platform
import signal
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import discord
from discord.gateway import DiscordWebSocket

from bastion import wire
from bastion.bot import internals, lifecycle, stacks
from bastion.bot.apps import one_line
from bastion.bot.carry import Carry, Limits
from bastion.bot.controls import Controls
from bastion.bot.dated import DiscordClock
from bastion.bot.discordpy.members import MemberRequests
from bastion.bot.drain import Drain
from bastion.bot.ending import Ending
from bastion.bot.expired import ExpiredControls
from bastion.bot.gate import INTERACTION_LIFE, Event, Gate
from bastion.bot.inflight import InFlight
from bastion.bot.late import TooLate
from bastion.bot.ledger import SQLiteLedger
from bastion.bot.link import Link, die_with_parent
from bastion.bot.loops import Loops
from bastion.bot.moving import MirrorLostError, Moving, account_of
from bastion.bot.noted import told_by_machine, told_by_wall
from bastion.bot.presence import Presence
from bastion.bot.reasons import ForkError, NoTokenError, SetupError, TwoClientsError, explain, worth_showing
from bastion.bot.recovery import SURE_AFTER, Recovery
from bastion.bot.registration import Registration
from bastion.bot.session import statefile
from bastion.bot.session.statefile import Saved, StateFileError, Writing
from bastion.bot.session.taking import HandoverError, RefusedError, SilentError
from bastion.bot.sessions import (
    DeadSession,
    SessionFile,
    SessionFileError,
    TakenError,
    former_file,
    neighbours_file,
    whose,
)
from bastion.bot.shards import PARSED, Shards, turns
from bastion.bot.starting import Starting
from bastion.bot.trail import Trail
from bastion.counted import counted

_log = logging.getLogger("bastion")

BEAT_SECONDS = 1.0
HURRIED_SECONDS = 1.0
"""How long handlers may go on when the supervisor is gone or ends this child by SIGTERM: 2 s is the promise."""

ALARM_SECONDS = 1.8
"""After this the kernel ends a hurried child whose event loop does not. A busy machine takes some tenths over it."""

MEMBERS_PATIENCE = 35.0
"""How long readiness may wait for members that Discord put off: 30 s is Discord's limit for one guild."""

RESUME_PATIENCE = 30.0
"""How long a successor that is ready otherwise handles what had piled up before it says so: some 20,000 events."""

SILENT_PATIENCE = 2.0
"""Seconds after its youngest session for which a standby that hears nothing listens before it calls itself ready. By
then the active child has told again what it has heard, and the supervisor can tell deaf from quiet."""

CATCH_UP_SECONDS = 10.0
"""How long a shard of a child that has a successor may take to come back before the child stands by, or drains. What
Discord has kept for that shard the successor never hears, if its own session is younger. Three RESUMEs that nobody
answers take 9 s."""

ROBBED_SECONDS = 3.0
"""How long the handlers of a bot may go on whose sessions another one has taken: it is asked to end after 3 s."""

GIVE_SECONDS = 3.0
"""How long a bot that was told to stop serves on, so that another supervisor's bot takes its sessions: that supervisor
looks four times a second."""

LEAST_LEFT = 1.0
"""Seconds that a handler needs to answer an interaction: with less, a refusal is not the app's fault."""

_CLOSE_SECONDS = 5.0
_CUT_NAMED = 200
_CUT_LENGTH = 200
"""Most names, and most characters of one, of what a drain cut: they must fit in one line of the pipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the supervisor says on the command line."""

    generation: int
    app: str = ""
    program: str = ""
    """What is run as ``python`` would run it. Empty: ``app``."""
    shards: str | int
    standby: bool
    ledger: str
    left: str = ""
    """What the paths begin with of what a child leaves for its successor. Empty: as the ledger's."""
    api_url: str
    read_fd: int
    write_fd: int
    directory: Path
    args: list[str]
    expired_text: str = ""
    state: Limits = field(default_factory=Limits)
    supervisor: int = 0
    """The supervisor's number among those who share the ledger, 0 if it has the ledger to itself."""

    @property
    def left_at(self) -> str:
        """Return what the paths begin with of what a child leaves for its successor."""
        return self.left or self.ledger

    def claimer(self, generation: int) -> int:
        """Return under which number a generation of this supervisor claims. One of another has its number already."""
        return wire.claimer(self.supervisor, generation)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Login:
    """A client that has logged in, and what is put around it by then: its setup_hook may need it."""

    client: discord.Client
    token: str = field(repr=False)
    presence: Presence
    registration: Registration
    controls: Controls


@dataclass(slots=True, eq=False)
class Runtime:
    """The pieces of one child. `begin` comes before the program, `ended` after it."""

    options: Options
    _token: str = field(default="", repr=False)
    link: Link = field(init=False)
    starting: Starting = field(init=False)
    ending: Ending = field(init=False)
    over: threading.Event = field(default_factory=threading.Event)
    """Set while no client of the program's is connected that was."""
    inflight: InFlight = field(default_factory=InFlight)
    ledger: SQLiteLedger = field(init=False)
    loops: Loops = field(init=False)
    carry: Carry = field(init=False)
    discord_clock: DiscordClock = field(init=False)
    presence: Presence = field(init=False)
    registration: Registration = field(init=False)
    client: discord.Client | None = None
    """The first one that connects."""
    gate: Gate | None = None
    controls: Controls | None = None
    shards: Shards | None = None
    moving: Moving | None = None
    trail: Trail | None = None
    recovery: Recovery | None = None
    members: MemberRequests | None = None
    _beats: int = 0
    _pong: int = 0
    _late: float = 0.0
    _ready: bool = False
    _ready_said: bool = False
    _youngest_session: float = 0.0
    _own_sessions: dict[int, tuple[int, float]] = field(default_factory=dict)
    """Shard count and time of each shard's newest READY."""
    _connects: bool = False
    """Whether the client that is connected is about to, or has."""
    _pid: int = field(default_factory=os.getpid)
    _loop: asyncio.AbstractEventLoop | None = None
    """The program's own, in which its client has logged in."""
    _logins: dict[discord.Client, _Login] = field(default_factory=dict)
    """Clients that have logged in and may connect; empty once one does."""
    _logging_in: asyncio.Task[Any] | None = None
    _error: BaseException | None = None
    """Why the program's last login failed."""
    _fatal: bool = False
    """Whether the supervisor has been told that this child cannot go on."""
    _hopeless: bool = False
    _running: list[tuple[str, asyncio.Task[Any]]] = field(default_factory=list)
    """The handlers under way when the client was closed, and nobody had asked for that."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _ending: asyncio.Task[None] | None = None
    _ends_at: float = 0.0
    """When the time to drain is over, by the loop's clock."""
    _drain: Drain | None = None
    _closing: bool = False
    _left: list[str] | None = None
    """Once the client is being closed and nobody asked: what this child will not take after all."""
    _beside: bool = False
    """Whether another child may begin the turns of loops."""
    _orders: int = 0
    """How many roles this child was told to take: an older order ends where a newer one begins."""
    _was_active: bool = False
    _told_active: bool = False
    """Whether the app has heard last that it is active."""
    _activating: asyncio.Task[None] | None = None
    _saved: Saved | None = None
    """What a bot that was stopped has left, until it is used."""
    _saved_at: Path | None = None
    _finishing: asyncio.Task[None] | None = None
    _saves: bool = False
    """Whether this child was told to leave its sessions to the next start."""
    _saving: Writing | None = None
    """What this child leaves, once it is told to stop."""
    _taking: asyncio.Task[None] | None = None
    """The app's import of what a predecessor left."""
    _checkpoints: asyncio.Task[None] | None = None

    # The program, up to the connection of its client.

    def begin(self, unread: bytes = b"") -> bool:
        """Greet the supervisor and wait for a login, in whatever loop. Call it in the main thread, before the program.

        ``unread`` is what has come through the pipe already. False: the supervisor is gone.
        """
        options = self.options
        self.starting = Starting(self._say, directory=options.directory, end=self._end_early)
        self.link = Link(
            options.read_fd,
            options.write_fd,
            on_message=self.starting.heard,
            on_lost=self._orphaned,
            unread=unread,
        )
        self.ending = Ending(directory=options.directory, over=self.over, flush=self.link.flush_now)
        self.link.open()
        if not die_with_parent(_supervisor()):
            return False
        self._take_signals()
        self.ending.on_exec(self._replaced)
        self._send_hello()
        lifecycle.PROCESS.enter("standby" if options.standby else "active")
        self._prepare()
        self.starting.begin()
        return True

    def _say(self, message: wire.FromChild) -> None:
        self.link.send(message)

    def remark(self, text: str) -> None:
        """Tell the operator something about the program."""
        _log.warning("%s", text)
        self.link.send(wire.Remark(text=text))

    def _take_signals(self) -> None:
        """Take SIGTERM, until the program does so itself; what it starts or forks gets the default ones."""
        # A handler of Python's, not of the loop's: the alarm behind it must be set although the loop hangs.
        context = contextvars.copy_context()  # A signal interrupts any handler; what it begins is not the handler's.

        def terminated(*_: object) -> None:
            self._terminated(context)

        def in_fork() -> None:
            if signal.getsignal(signal.SIGTERM) is terminated:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)

        signal.signal(signal.SIGTERM, terminated)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.register_at_fork(after_in_child=in_fork)
        stacks.on_sigusr1(lambda: self._loop)

    def _prepare(self) -> None:
        """Make and install what concerns the whole process, before the program is imported."""
        options = self.options
        self.ledger = SQLiteLedger(options.ledger, options.claimer(options.generation))
        self.discord_clock = DiscordClock(self.ledger)
        self._beside = options.standby
        self.loops = Loops(lifecycle=lifecycle.PROCESS, ledger=self.ledger, beside=lambda: self._beside)
        self.loops.install()
        self.carry = Carry(Path(wire.checkpoint_path(options.left_at, options.supervisor)), limits=options.state)
        internals.set_addresses(api_url=options.api_url)
        internals.around_view_waits(self.inflight.waiting)
        internals.around_login(self._log_in)

    async def _log_in(self, client: discord.Client, token: object, log_in: Callable[[], Awaitable[None]]) -> None:
        """Put around a client what its setup_hook may need. Which client is handed over is decided as it connects."""
        if os.getpid() != self._pid:
            self._refuse(ForkError())
        if self.client is not None:
            if self.over.is_set():
                self._logs_in_again()
            internals.around_connect(client, partial(self._connect_second, client))
            await log_in()
            return
        self._surround(client, token)
        try:
            await log_in()
        except Exception as error:
            self._error = self._error or error
            raise
        finally:
            self._logging_in = None

    def _surround(self, client: discord.Client, token: object) -> None:
        usable = isinstance(token, str) and bool(token.strip())
        self._error = None if usable else NoTokenError(self.options.program)
        self._logging_in = asyncio.current_task()
        self._enter_loop(asyncio.get_running_loop())
        given = str(token).strip() if usable else ""
        self.link.send(wire.LoggedIn(token=given))
        presence = Presence(lifecycle=lifecycle.PROCESS, notes=self.ledger)
        presence.install(client)
        registration = Registration(
            lifecycle=lifecycle.PROCESS,
            notes=self.ledger,
            lock=f"{self.options.ledger}.commands",
            remark=self.remark,
        )
        registration.install(client)
        controls = Controls(client)
        controls.install()
        internals.on_wait_for(client, self.inflight.note_wait)
        internals.around_setup_hook(client, self._setup_failed)
        internals.before_close(client, partial(self._before_close, client))
        internals.around_connect(client, partial(self._connect, client))
        self._logins[client] = _Login(
            client=client, token=given, presence=presence, registration=registration, controls=controls
        )

    def _enter_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Beat in the program's loop from now on: it may hang, and a thread would not notice."""
        self.starting.logged_in()
        if self._loop is not loop:
            self._loop = loop
            if self.options.generation == 1 and not self.options.standby:
                self.ledger.forget_notes()  # a first standby is beside another supervisor's bot
            self.inflight.install(loop)
            self.ending.watch(loop)
            self._spawn(self._beat())

    def _setup_failed(self, error: Exception) -> None:
        self._error = self._error or SetupError(error, self.options.directory)

    def _logs_in_again(self) -> None:
        """End a program that begins anew after its client has been closed: the supervisor starts the next one."""
        if self._ending is None:
            self._say_fatal("the program logged in again after its client had been closed", retryable=True)
            self.ending.now(1, "the program logs in again; the supervisor starts it anew instead")
        self.ending.now(0)

    def _replaced(self) -> None:
        """The program replaces itself by another one, a copy of itself as a rule."""
        if self._ending is None:
            self._say_fatal("the program executed itself anew; the supervisor starts it instead", retryable=True)

    async def _connect(self, client: discord.Client, connect: Callable[[], Awaitable[None]]) -> None:
        """Connect the first client that does so, and see to its end."""
        if self.client is None:
            self._choose(self._logins[client])
        elif self.client is not client:
            await self._connect_second(client, connect)
        assert self.shards is not None
        self._connects = True
        error: Exception | None = None
        try:
            await self._before_connect()
            await connect()
        except Exception as raised:
            error = raised
            if self._ending is not None:
                _log.warning("while it ended, the app raised %s", one_line(raised))
            raise
        finally:
            self.shards.stop()  # when one shard is refused, others may still be connecting
            while self._ending is not None and not self._ending.done():
                await asyncio.wait([self._ending])  # Another order may put a new one in its place, or take it back.
            self.over.set()
            if self._ending is None:
                self._closed_unasked(error)

    def _closed_unasked(self, error: Exception | None) -> None:
        """Note what runs when the client is closed, which nobody has asked for; the program's end decides about it."""
        self._error = self._error or error
        self._running = [(one.origin.describe(), one.task) for one in self.inflight.handlers()]

    def _not_finished(self) -> list[str]:
        """Return the events of what ran when the client was closed, and was then cancelled, or runs still."""
        return [name for name, task in self._running if not task.done() or task.cancelled() or task.cancelling()]

    async def _connect_second(self, client: discord.Client, _: object) -> None:
        self._refuse(TwoClientsError(self.client, client))

    def _refuse(self, error: Exception) -> NoReturn:
        """End the program, which does what no supervisor could hand over."""
        self._give_up(error)
        self.ending.now(wire.EXIT_CONFIG)

    def _choose(self, login: _Login) -> None:
        """Put the pieces around the client that is handed over, and obey from now on."""
        client, loop = login.client, asyncio.get_running_loop()
        self.client, self._token = client, login.token
        self.presence, self.registration, self.controls = login.presence, login.registration, login.controls
        self._logins.clear()
        self.carry.attach(client)
        receiver = internals.Receiver()
        self.moving = Moving(
            client,
            receiver,
            say=self.link.send,
            takes=self._takes_for_younger,
            holds=self._holds,
            came=self._session_came,
            asks=self._ask_for_members,
            lost=self._mirror_lost,
            is_robbed=self._is_robbed if self.options.supervisor else lambda: False,
            carry=self.carry,
            rests=self._rests,
        )
        self.moving.install(standby=self.options.standby)
        self.gate = Gate(
            client=client,
            ledger=self.ledger,
            observer=self._observe,
            role=lifecycle.role(),
            dated=self.discord_clock.came,
            stranger_taken=ExpiredControls(self.options.expired_text, self.inflight).take,
            receiver=receiver,
            hides=self.moving.handover.hides,
            ask_older=self.moving.handover.ask,
        )
        self.gate.install()
        TooLate(self._came_late, self._expired).install()
        internals.ready_with_the_last_guild(client)
        self.shards = Shards(
            client=client, requested=self.options.shards, send=self.link.send, handover=self.moving.handover
        )
        self.shards.install()
        self.members = MemberRequests(client, patience=MEMBERS_PATIENCE, gives_way=self._leaves_joins)
        self.members.install()
        internals.on_session(client, self._session_began)
        self._leave_trail(receiver)
        self.starting.connected(partial(_in_loop, loop, self._obey))

    def _came_late(self, event: Event) -> bool:
        """Say whether little was left of an interaction's time when it was read: this process may have stood still."""
        if event.name != "INTERACTION_CREATE":
            return False
        return self.discord_clock.age(int(event.data["id"]), event.at) > INTERACTION_LIFE - LEAST_LEFT

    def _expired(self) -> None:
        assert self.gate is not None
        self.gate.counters.expired += 1

    def _leave_trail(self, receiver: internals.Receiver) -> None:
        assert self.gate is not None
        path = self._sessions_path(self.options.generation)
        try:
            claimer = self.options.claimer(self.options.generation)
            file = SessionFile.create(path, token=self._token, supervisor=_supervisor(), claimer=claimer)
        except (OSError, ValueError) as error:
            what = error.strerror if isinstance(error, OSError) and error.strerror else error
            self.remark(f"{path}: {what}; should this process be killed, nothing that it misses can be recovered")
            return
        self.trail = Trail(file, self.gate, receiver)
        self.trail.install(self.inflight)
        internals.note_receiver(self.gate.ears, self.trail.receiver)

    def _ask_for_members(self, guilds: Iterable[int]) -> None:
        if self.members is not None:
            self._spawn(self.members.ask(guilds))

    def _leaves_joins(self) -> bool:
        """Whether another child's app is told of the guilds that are joined now."""
        return self.gate is not None and self.gate.role != "active"

    async def _before_connect(self) -> None:
        assert self.client is not None
        assert self.shards is not None
        internals.sign_requests(self.client, f"generation/{self.options.generation}")
        await asyncio.sleep(0)  # what the supervisor has asked for so far is obeyed first
        await self._read_saved()
        if self.recovery is not None:
            await self._begin_recovery(self.recovery)
        if not self.options.standby:
            await self._take_state()
        self.presence.inherit()
        await self.shards.prepare()
        await self._meet(self.shards)
        if self.recovery is not None:
            self.recovery.planned(self.shards.count, self.shards.ids)
        await self.shards.permitted()

    async def _meet(self, shards: Shards) -> None:
        """Tell what the sessions are to be like; where another child has such, be its mirror."""
        assert self.moving is not None
        assert self.gate is not None
        self.moving.tell_wants(
            shards=shards.count,
            ids=list(shards.ids),
            any_count=shards.any_count,
            token=self._token,
            api_url=self.options.api_url,
        )
        if not self.options.standby:
            return
        order = await self.moving.answer()
        if self._saved is not None and await self._follow_saved(self._saved, shards):
            return
        if isinstance(order, wire.Mirror):
            if shards.count < order.shards:
                self.remark(
                    f"Discord recommends {counted(shards.count, 'shard')}; the bot keeps its {order.shards}, and so "
                    "its sessions, until it is stopped and started"
                )
            shards.fix(order.shards, order.ids)
            self.gate.mirror()
            try:
                self.moving.follow(order)
            except MirrorLostError as error:
                self._mirror_lost(str(error))
        else:
            self.gate.open_window()
            self.moving.follow_for_state(order)

    async def _read_saved(self) -> None:
        """Read what a bot that was stopped has left, and note down what it had noted."""
        if self._saved_at is None:
            return
        try:
            saved = await asyncio.to_thread(statefile.read, self._saved_at)
            if saved.head.wants.account != account_of(self._token):
                raise StateFileError("it is of another token")
        except (StateFileError, RuntimeError) as error:
            await self._go_without_saved(f"{self._saved_at}: {error}")
            return
        self._saved = saved
        for key, value in told_by_machine(saved.notes).items():
            self.ledger.note(key, value)

    async def _follow_saved(self, saved: Saved, shards: Shards) -> bool:
        """Have the cache and the sessions of a bot that was stopped; return whether that can be."""
        assert self.moving is not None
        assert self.gate is not None
        why = self.moving.follow_saved(saved)
        if why is not None:
            self._saved = None
            await self._go_without_saved(why)
            return False
        shards.fix(saved.head.wants.shards, saved.head.wants.ids)
        self.gate.mirror()
        return True

    async def _go_without_saved(self, why: str) -> None:
        """Begin new sessions, and go on with those of the bot that was stopped as with those of one that was killed."""
        assert self.gate is not None
        self.remark(f"the bot's cache of before its stop cannot be used, so its sessions begin anew: {why}")
        self._recover(wire.FORMER, self.gate)
        if self.recovery is not None:
            await self._begin_recovery(self.recovery)

    def _takes_for_younger(self, data: dict[str, Any]) -> bool:
        return self.gate is not None and self.gate.take_for_older(data)

    def _holds(self) -> bool:
        return self.gate is not None and self.gate.holding

    def _rests(self) -> bool:
        return self.gate is not None and self.gate.role != "active"

    def _session_came(self, websocket: DiscordWebSocket) -> None:
        if self.trail is not None:
            self.trail.resumed(websocket)

    def _is_robbed(self) -> bool:
        """Say whether another supervisor's bot has taken the sessions while this one stood still. If so, give up."""
        if self.trail is None or not self.trail.file.taken:
            return False
        if not self._fatal:
            internals.keep_sessions()
            self._say_fatal("another supervisor's bot took its sessions over while it stood still", retryable=True)
            self._end(ROBBED_SECONDS)
        return True

    def _mirror_lost(self, why: str) -> None:
        """A child that cannot go on with the sessions that it mirrors is of no use, unless it drains."""
        if not self._fatal and self._ending is None:
            self._say_fatal(why, retryable=True, apart=True)
            self._end(ROBBED_SECONDS if self._was_active else 0.0)

    async def _before_close(self, client: discord.Client) -> None:
        """Leave to a successor what is not claimed, where discord.py gives up or the app closes its own client.

        Of a client with several shards discord.py closes all when Discord refuses one.
        """
        if self.client is None:
            self._forget(client)
            return
        if self.client is not client or self._closing or self._left is not None or self.gate is None:
            return
        self._left = self.gate.shut()
        if self.moving is not None:
            self.moving.handover.copy_no_more()
        if self.gate.role == "active":
            internals.keep_sessions()
        asyncio.get_running_loop().call_later(_CLOSE_SECONDS, self._close_hangs)
        if self.recovery is not None:
            await self.recovery.abandon()

    def _forget(self, client: discord.Client) -> None:
        """A client is closed that has only logged in: the program is where it was before."""
        self._logins.pop(client, None)
        if not self._logins:
            self.starting.again()

    def _close_hangs(self) -> None:
        """A client is being closed, or a program goes on without one: too long, either way."""
        if self._ending is not None or self._fatal:
            return
        if not self.over.is_set():
            self._closed_unasked(None)
            reason = f"the app's client was being closed, and was not within {_CLOSE_SECONDS:g} s"
            self._say_fatal(reason, retryable=True, cut=self._not_finished())
        elif self._error is not None:
            self._give_up(self._error, cut=self._not_finished())
        else:
            reason = f"the app closed its own client, and its program has not ended {_CLOSE_SECONDS:g} s later"
            self._say_fatal(reason, retryable=True, cut=self._not_finished())

    def _send_hello(self) -> None:
        versions = {
            "python": platform.python_version(),
            "discord.py": discord.__version__,
            "aiohttp": aiohttp.__version__,
        }
        self.link.send(wire.Hello(pid=os.getpid(), protocol=wire.PROTOCOL, versions=versions))

    def _session_began(self, shard: int, count: int) -> None:
        assert self.gate is not None
        assert self.shards is not None
        self._youngest_session = asyncio.get_running_loop().time()
        self._own_sessions[shard] = count, self._youngest_session
        self.gate.session_began(shard, at=self.shards.identified_at.get(shard, self._youngest_session))
        if self.recovery is not None:
            self.recovery.session_began(shard)

    def _observe(self, name: str, args: tuple[Any, ...]) -> None:
        assert self.shards is not None
        assert self.client is not None
        self.shards.observe(name, args)
        if self.recovery is not None:
            self.recovery.look()
        if name == "ready" and not self._ready:
            self._ready = True
            loop = asyncio.get_running_loop()
            sure_at = self._youngest_session + (SURE_AFTER if self._stands_beside() else 0.0)
            loop.call_at(sure_at, lambda: self._spawn(self._send_ready()))

    def _stands_beside(self) -> bool:
        """Whether another child may handle what this one's own sessions hear."""
        if self.recovery is not None and self.recovery.alone:
            return False
        return self.options.standby and not (self.moving is not None and self.moving.is_mirror)

    async def _send_ready(self) -> None:
        """Say that it is ready; a standby that has heard nothing yet listens on, so that its silence can mean more."""
        assert self.client is not None
        assert self.gate is not None
        if self.moving is not None and self.moving.is_mirror:
            await self.moving.complete()
            if self._saved is not None:
                self._saved = None
                self._go_on_for(wire.FORMER, self.moving)
                await self.moving.resumed_saved()
        elif self._stands_beside() and not self.gate.counters.heard:
            silent_until = self._youngest_session + SILENT_PATIENCE
            await asyncio.sleep(max(0.0, silent_until - asyncio.get_running_loop().time()))
        if self.recovery is not None:
            await self._begin_recovery(self.recovery)
            await self.recovery.caught_up(RESUME_PATIENCE)
        if self._ready_said and self.gate.role == "active":
            return  # it was told to become that before it could say once more that it is ready
        self._send_beat()  # so that the supervisor can compare what this child has heard
        self._ready_said = True
        self._say_ready(self.client)

    def _say_ready(self, client: discord.Client) -> None:
        self.link.send(wire.Ready(shards=client.shard_count or 1, guilds=len(client.guilds)))

    def _obey(self, message: wire.ToChild) -> None:
        if isinstance(message, wire.Ping):
            self._pong = message.n
            self._send_beat()
        elif isinstance(message, wire.Permit):
            if self.shards is not None:
                self.shards.permits.grant(message.shard)
        elif isinstance(message, wire.Inquire):
            names, more = self._left_running(message.generation)
            self.link.send(wire.Cut(generation=message.generation, names=_shortened(names, more)))
        elif self.gate is None:
            self._end(0.0)
        elif isinstance(message, wire.Window):
            if message.open:
                self._another_comes()
                self.gate.open_window()
            else:
                self._beside = False
                self.ledger.forget_turns()
                self.gate.close_window()
        elif isinstance(message, wire.Recover):
            if self.moving is not None and self.moving.is_mirror:
                if self.moving.handover.may_be_with(message.generation):  # else another mirror's, which had none
                    self._go_on_for(message.generation, self.moving)
            elif message.saved:
                self._saved_at = Path(message.saved)
            else:
                self._recover(message.generation, self.gate)
        elif isinstance(message, wire.Serve):
            self._another_comes()
            if message.claims:
                self.gate.open_window()
            if self.moving is not None:
                self.moving.serve(message)
        elif isinstance(message, wire.Mirror | wire.Overlap):
            if self.moving is not None:
                self.moving.answered(message)
        elif isinstance(message, wire.Introduce):
            self._introduce(self.gate)
        elif isinstance(message, wire.Activate):
            self._orders += 1
            self._activating = self._spawn(self._activate(self.gate, order=self._orders, still=message.still))
        elif isinstance(message, wire.Standby):
            self._orders += 1
            self._spawn(self._stand_by(self.gate, order=self._orders))
        elif isinstance(message, wire.Drain):
            if message.save and self._ending is None and self.moving is not None:
                self._spawn(self._save_and_end(message, self.moving))
                return
            if message.gives and self._ending is None and self.moving is not None:
                self._spawn(self._give_and_end(message, self.moving))
                return
            self._end(message.limit, message.linger)

    def _another_comes(self) -> None:
        """Learn that another child may begin the turns of loops from now on."""
        self._beside = True
        self.loops.write_down()

    async def _stand_by(self, gate: Gate, *, order: int) -> None:
        """Hold events from now on, behind those that had come by now."""
        await self._catch_up(gate, CATCH_UP_SECONDS)
        if order != self._orders:
            return
        gate.standby()
        self._rest("standby")
        self._announce(gate, active=False)
        self.link.send(wire.Role(role="standby"))
        if self.moving is not None:
            self.moving.state_may_be_due()

    def _introduce(self, gate: Gate) -> None:
        """Tell a supervisor that knows nothing of this child all that it has to know."""
        assert self.moving is not None
        assert self.shards is not None
        self.link.send(wire.LoggedIn(token=self._token))
        self.link.send(self.moving.wants)
        self._say_ready(gate.client)
        self.shards.tell()
        self._send_beat()
        self.link.send(wire.Role(role="active"))

    async def _catch_up(self, gate: Gate, patience: float) -> None:
        """Read, in at most ``patience`` seconds, what has come to this child's own sessions by now, and handle it.

        Another child is active by now, and what came before its sessions began it has never heard. Both claim. Where it
        has taken this child's sessions, what still comes is its own to handle.
        """
        mirrors = self.moving is not None and self.moving.is_mirror
        if gate.window_open and gate.role == "active" and not mirrors and self.shards is not None:
            await self.shards.caught_up(patience)
        self._reads()

    def _reads(self, *, until: float | None = None) -> None:
        """Note that all has been read, and taken, that had come until now or then; if it has."""
        if self.trail is None or self.gate is None or self.gate.holding or self.shards is None or self.shards.broken:
            return
        self.trail.reads(asyncio.get_running_loop().time() if until is None else until)

    async def _activate(self, gate: Gate, *, order: int, still: int) -> None:
        if order != self._orders:
            return  # told otherwise before it began
        if self._ending is not None:
            if self._closing:
                return
            self._ending.cancel()
            if self._drain is not None and self._drain.cut:
                self._say_cut(self._drain.cut, lives=True)
            self._ending = self._drain = None
        if gate.client.is_closed():
            return  # The app or Discord closed it during the drain: `_last_words` says so.
        takes_state = self.carry.imports and not self._was_active and self.options.standby
        asked = takes_state and self.moving is not None and self.moving.asks_for_state()
        moved = self.moving is not None and self.moving.is_mirror
        if moved and not await self._take_sessions(gate, still=still):
            return
        if self.recovery is not None:
            await self._begin_recovery(self.recovery)
        if takes_state:
            self.link.send(wire.Role(role="active"))
            await self._take_state(asked=asked)
        if order != self._orders:
            return
        gate.role = "active"
        self._work()
        self._announce(gate, active=True)
        self._spawn(self.presence.activated(moved=moved))
        self._spawn(self.registration.catch_up())
        self._checkpoints = self._spawn(self.carry.keep_checkpoints())
        if self.recovery is not None:
            self.recovery.finish()
        await self._take_over(gate, announced=not takes_state)

    async def _take_over(self, gate: Gate, *, announced: bool) -> None:
        if self.trail is not None:
            self.trail.begin_replay()
        if announced:
            self.link.send(wire.Role(role="active"))
        await gate.activate()
        if self.members is not None:
            self.members.ask_now()
        if self.trail is not None:
            self.trail.end_replay()
        if self.moving is not None and not gate.holding:
            self.moving.handover.handles()
        self._send_beat()

    async def _take_sessions(self, gate: Gate, *, still: int) -> bool:
        """Have the sessions of the child that this one mirrors. Its own first events wait until it is active.

        ``still``: under which number that child claims, if it may stand still; 0 if it does not.
        """
        assert self.moving is not None
        gate.mirror()
        try:
            await self.moving.take(impatient=bool(still))
        except SilentError as error:
            _log.warning("%s: its sessions are resumed all the same", error)
            self._go_on_for(still, self.moving)
            await self.moving.resumed_saved()
        except HandoverError as error:
            apart = isinstance(error, RefusedError)
            self._say_fatal(f"the sessions could not be taken: {error}", retryable=True, apart=apart)
            self._end(0.0)
            return False
        return True

    def _go_on_for(self, generation: int, moving: Moving) -> None:
        """Resume the sessions of a child that is gone, which this one mirrors."""
        assert self.gate is not None
        if self.gate.role != "active":
            self.gate.mirror()
        handled: dict[int, tuple[str, int]] = {}
        try:
            file = self._taken_from(generation)
        except TakenError as error:
            self._mirror_lost(f"{whose(generation)} is dead, and {error}")
            return
        except SessionFileError as error:
            _log.warning("how far %s had come is not known: %s", whose(generation), error)
        else:
            handled = {one.shard: (one.session, one.sequence) for one in file.sessions()}
            file.close()
        moving.holder_died(handled)
        if self._ready_said and not self._orders:
            self._spawn(self._send_ready())

    # What a dead child left.

    def _recover(self, generation: int, gate: Gate) -> None:
        """Recover the sessions of a generation whose process is gone, unless this child is active already.

        If it has said that it is ready, it says so once more when nothing can be missing any more.
        """
        if gate.role == "active" or self._orders:
            return  # it serves, or is about to: its own sessions have missed nothing
        if self.recovery is None:
            self._begin_to_recover(generation, gate)
        if self._ready_said:
            self._spawn(self._send_ready())

    def _begin_to_recover(self, generation: int, gate: Gate) -> None:
        assert self.client is not None
        assert self.moving is not None
        assert self.shards is not None
        try:
            file = self._left_by(generation)
        except TakenError as error:
            _log.info("nothing of %s is to be recovered: %s", whose(generation), error)
            return
        covered = partial(self._covers, file.reading_at if file is not None else 0.0)
        if file is not None and self._ready_said and all(map(covered, file.sessions())):
            file.close()
            return
        claimer = self.options.claimer(generation) if file is None else file.claimer
        self.recovery = Recovery(
            client=self.client,
            gate=gate,
            ledger=SQLiteLedger(self.options.ledger, claimer),
            file=file,
            generation=generation,
            covered=covered,
            alone=not self._own_sessions,
            connections=self.moving.handover,
            ready=self.shards.is_ready,
            discord_clock=self.discord_clock,
            changed=self._recovery_changed,
            taken=partial(self.trail.taken, recovered=True) if self.trail is not None else lambda: None,
            ended=partial(self._recovery_ended, gate),
        )
        if self.trail is not None:
            self.trail.recover(file)
        gate.recovers = self.recovery.takes
        for shard in self._own_sessions:
            self.recovery.session_began(shard)
        if self.shards.count:
            self.recovery.planned(self.shards.count, self.shards.ids)
        self._recovery_changed()
        if self._connects:
            self._spawn(self._begin_recovery(self.recovery))

    def _left_by(self, generation: int) -> SessionFile | None:
        """Open what a dead child left, if it can be used."""
        try:
            return self._taken_from(generation)
        except TakenError:
            raise
        except SessionFileError as error:
            _log.warning("nothing of %s can be recovered: %s", whose(generation), error)
            if generation == wire.FORMER:
                self.carry.forget_checkpoint()
            return None

    def _recovery_ended(self, gate: Gate) -> None:
        """Go on as any active child."""
        gate.recovers = lambda event: False
        if self.trail is not None:
            self.trail.recover(None)

    async def _begin_recovery(self, recovery: Recovery) -> None:
        """Begin it, once the app has the dead child's state: what is recovered comes after that."""
        await self._take_state()
        recovery.begin()

    def _left_running(self, generation: int) -> tuple[list[str], int]:
        """Return the events of what another child of this supervisor ran when it died, and how many more there were."""
        if self.recovery is not None and self.recovery.generation == generation:
            # Its file names what this child runs of its events, too.
            return self.recovery.cut, self.recovery.more_cut
        try:
            file = self._file_of(generation)
        except SessionFileError:
            return [], 0  # It never came as far as to run anything, or has said itself that it could leave no file.
        left = file.running()
        file.close()
        return left

    def _taken_from(self, generation: int) -> SessionFile:
        """Open what a dead child left, for this supervisor's bots alone. Raises `TakenError`, `SessionFileError`."""
        file = self._file_of(generation)
        if not file.take(self.options.supervisor):
            file.close()
            raise TakenError
        return file

    def _file_of(self, generation: int) -> SessionFile:
        """Open what a dead child left, of this supervisor's or of an earlier one. Raises `SessionFileError`."""
        if generation == wire.FORMER:
            return former_file(self.options.left_at, token=self._token)
        if (other := wire.supervisor_of(generation)) and not self._was_active:
            self.carry.inherit(Path(wire.checkpoint_path(self.options.left_at, other)))
        if other:
            return neighbours_file(self.options.left_at, generation, token=self._token)
        return SessionFile.open(self._sessions_path(generation), token=self._token, supervisor=_supervisor())

    def _sessions_path(self, generation: int) -> Path:
        return Path(wire.sessions_path(self.options.left_at, self.options.claimer(generation)))

    def _covers(self, reading_at: float, dead: DeadSession) -> bool:
        """Whether this child's own sessions have missed nothing of a dead one, that was read until then at least."""
        counts = {count for count, _ in self._own_sessions.values()}
        if counts == {dead.shards}:
            return self._heard_since(dead.shard, reading_at)
        return len(counts) == 1 and all(self._heard_since(shard, reading_at) for shard in range(*counts))

    def _heard_since(self, shard: int, reading_at: float) -> bool:
        """Whether a shard's session had begun a while before."""
        _, began_at = self._own_sessions.get(shard, (0, float("inf")))
        return self.shards is not None and self.shards.lasts(shard, began_at) and began_at + SURE_AFTER < reading_at

    def _recovery_changed(self) -> None:
        recovery = self.recovery
        if recovery is None:
            return
        self.link.send(
            wire.Recovered(
                generation=recovery.generation,
                sessions=recovery.sessions,
                lost=recovery.lost,
                missed=recovery.missed,
                unheard=round(max(0.0, recovery.unheard), 1),
                cut=_shortened(recovery.cut, recovery.more_cut),
            )
        )

    # The active role, and what belongs to it.

    def _work(self) -> None:
        """Begin what runs by itself in an active child."""
        self._was_active = True
        lifecycle.PROCESS.enter("active")
        self.loops.resume()

    def _announce(self, gate: Gate, *, active: bool) -> None:
        """Tell the app of its role, if it has not heard so: what it began in `on_activate` it ends once."""
        if active is not self._told_active:
            self._told_active = active
            gate.announce("activate" if active else "deactivate")

    async def _take_state(self, *, asked: bool = False) -> None:
        """Have the app import what a predecessor left, once: whoever comes later waits for the same.

        ``asked``: the old child has been asked for its state.
        """
        if self._taking is None:
            self._taking = self._spawn(self._import_state(asked=asked))
        await asyncio.wait([self._taking])

    async def _import_state(self, *, asked: bool) -> None:
        if asked:
            self.link.send(wire.Importing())
        message = await self.carry.take_over() if asked else await self.carry.take_checkpoint()
        if message is not None:
            self.link.send(message)

    def _rest(self, role: lifecycle.Role) -> None:
        """Let go of the active role, where what runs by itself is concerned."""
        lifecycle.PROCESS.enter(role)
        self.loops.pause()
        if self._checkpoints is not None:
            self._checkpoints.cancel()

    def _end(self, limit: float, linger: float = 0.0) -> None:
        """Drain and close. A second call while it drains can only hurry it."""
        if self._closing:
            return
        self._orders += 1
        if self._ending is None and self.gate is not None and self.controls is not None:
            self._drain = Drain(
                self.inflight,
                self.controls,
                on_lingering=self._lingers,
                on_over=self.gate.finish,
                on_cut=_log_cut,
            )
        self._ends_at = asyncio.get_running_loop().time() + limit
        if self._drain is not None:
            self._drain.order(limit, linger)
            self.loops.order(limit)
        if self.gate is not None:
            # discord.py's own patience, 5 s for a small guild, may be longer than what is left.
            asyncio.get_running_loop().call_later(limit / 2, self.gate.tell_of_joins)
        if self._ending is None:  # last of all: the program's loop may begin tasks at once (an eager task factory)
            self._ending = asyncio.ensure_future(self._drain_and_close())

    async def _save_and_end(self, message: wire.Drain, moving: Moving) -> None:
        """Serve on until the cache is written down, then end. The sessions stay open: the next start resumes them."""
        internals.keep_sessions()
        self._saves = True
        began = asyncio.get_running_loop().time()
        try:
            self._saving = await moving.save(Path(message.save))
        except StateFileError as error:
            self.remark(f"the bot's cache is not kept for the next start, which costs IDENTIFYs: {error}")
        self._end(max(0.0, message.limit - (asyncio.get_running_loop().time() - began)), message.linger)

    async def _give_and_end(self, message: wire.Drain, moving: Moving) -> None:
        """Serve on until another supervisor's bot that mirrors the sessions has taken them, then end."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(moving.handover.gives(), GIVE_SECONDS)
        self._end(message.limit, message.linger)

    async def _finish_saving(self, saving: Writing | None) -> None:
        """Leave the app's state, and the file of the cache with it, if there is one."""
        state = await self.carry.leave()
        if saving is None:
            return
        self.discord_clock.write_down()
        try:
            await saving.finish(notes=told_by_wall(self.ledger.notes()), state=state)
            _log.info("the sessions and the cache are kept for the next start")
        except StateFileError as error:
            self.remark(f"the bot's cache is not kept for the next start, which costs IDENTIFYs: {error}")

    async def _drain_and_close(self) -> None:
        if self.recovery is not None:
            await self.recovery.abandon()
        if self.gate is not None and self._drain is not None:
            left = self._ends_at - asyncio.get_running_loop().time()
            await self._catch_up(self.gate, min(CATCH_UP_SECONDS, left / 2))
            self.gate.drain()
            if self.moving is not None:
                self.moving.handover.copy_no_more()
            if self.moving is not None and self._saves:
                self.moving.handover.end_record()
                # Now, not when the handlers have ended: whoever waits for them may lose patience, and kill.
                self._finishing = self._spawn(self._finish_saving(self._saving))
            self._rest("draining")
            self.link.send(wire.Role(role="draining"))
            self._announce(self.gate, active=False)
            if self.moving is not None:
                self.moving.state_may_be_due()
            result = await self._drain.run()
            _log_cut(loops := await self.loops.finish())
            self._send_beat()
            self.link.send(wire.Drained(finished=result.finished, cut=_shortened(result.cut + loops)))
            self._drain = None
        if self.moving is not None:
            await self.moving.state_is_given()
            if self._finishing is not None:
                await asyncio.wait([self._finishing])
        self._closing = True
        if self.moving is not None:
            self.moving.handover.close()
        if self.shards is not None:
            self.shards.stop()
        self.ending.limit_clean_up(self._ends_at - asyncio.get_running_loop().time())
        for client in [self.client] if self.client is not None else list(self._logins):
            try:
                await asyncio.wait_for(client.close(), _CLOSE_SECONDS)
            except Exception:
                _log.exception("the client could not be closed cleanly")
        if self.moving is not None:
            self.moving.handover.client_closed()
        if self._logging_in is not None:
            # A client that is closed while it still logs in or sets up does not end by itself.
            await asyncio.wait([self._logging_in], timeout=0.5)
            self._logging_in.cancel()

    def _lingers(self, views: int, conversations: int) -> None:
        self.link.send(wire.Lingering(views=views, conversations=conversations))
        self._send_beat()

    def ended(self, error: BaseException | None) -> BaseException | None:
        """Say why the program has ended, unless it was asked to. Returns the error that is still to be shown."""
        signal.setitimer(signal.ITIMER_REAL, 0)  # the alarm was for a loop that does not end
        if self._ending is not None:
            return None if isinstance(error, asyncio.CancelledError | KeyboardInterrupt) else worth_showing(error)
        if not self._fatal:
            self._say_why(self._error or error)
        return worth_showing(self._error if isinstance(self._error, NoTokenError) else error)

    @property
    def hopeless(self) -> bool:
        """Whether this child has given up for a reason that no second try can help."""
        return self._hopeless

    def _say_why(self, error: BaseException | None) -> None:
        if error is None and self.client is not None:
            self._say_fatal("the app closed its own client", retryable=True, cut=self._not_finished())
        else:
            self._give_up(error, cut=self._not_finished())

    def _give_up(self, error: BaseException | None, *, cut: Sequence[str] = ()) -> None:
        reason, retryable = explain(error, self.options.api_url, self.options.directory)
        _log.error("%s", reason)
        self._say_fatal(reason, retryable=retryable, cut=cut)

    def _say_fatal(self, reason: str, *, retryable: bool, cut: Sequence[str] = (), apart: bool = False) -> None:
        """Say that this child cannot go on, and what it does not finish. In any thread. ``apart`` as for `Fatal`."""
        self._say_cut([*cut, *(self._left or [])])
        self._fatal, self._hopeless = True, not retryable
        self.link.send(wire.Fatal(reason=reason, retryable=retryable, apart=apart))

    def _say_cut(self, names: list[str], *, lives: bool = False) -> None:
        self.link.send(wire.Cut(generation=self.options.generation, names=_shortened(names), lives=lives))

    def _orphaned(self, reason: str) -> None:
        """End soon: the supervisor is gone. Called in the link's thread."""
        _log.warning("%s: ending", reason)
        self._terminated(contextvars.Context())

    def _terminated(self, context: contextvars.Context) -> None:
        taking = self.moving is not None and self.moving.handover.took_some
        if taking or (self.gate is not None and self.gate.role == "active"):
            internals.keep_sessions()  # It is ended, not relieved: its successor resumes them.
        self._end_soon(context)

    def _end_soon(self, context: contextvars.Context) -> None:
        """Have the loop end this child in a hurry, or the kernel if the loop does not. In any thread."""
        if self._loop is None:
            os._exit(1)
        _end_within(ALARM_SECONDS)
        _in_loop(self._loop, self._hurry, context=context)

    def _hurry(self) -> None:
        if self.gate is None:
            os._exit(1)
        self._end(HURRIED_SECONDS)

    def _end_early(self) -> None:
        """End before the client has connected. Called in the link's thread."""
        if self._loop is None:
            self.ending.now(0)
        _in_loop(self._loop, self._end, 0.0)

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        self._send_beat()
        while True:
            due = loop.time() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            self._late = max(self._late, loop.time() - due)
            if self.gate is not None:
                self.gate.forget_claimed()
                self.gate.trim()
            if self.moving is not None:
                self.moving.handover.tell_latencies()
            if self.trail is not None:
                self.trail.name_handlers()  # those that began beside any event
                self.trail.catch_up()
            self.discord_clock.write_down()
            self._send_beat()
            beat_at = loop.time()
            await turns(PARSED)  # the loop may have stood still
            self._reads(until=beat_at)

    def _send_beat(self) -> None:
        if self.gate is None or self.client is None or self.shards is None:
            self._beats += 1
            self.link.send(wire.Beat(n=self._beats, loop_lag_ms=round(self._late * 1000, 1), in_flight=0, handled=0))
            return
        counters = self.gate.counters
        ledger = self.gate.ledger
        errors = ledger.errors + (self.recovery.errors if self.recovery is not None else 0)
        self._beats += 1
        self.link.send(
            wire.Beat(
                n=self._beats,
                loop_lag_ms=round(self._late * 1000, 1),
                in_flight=self.inflight.count(),
                lingering=self._drain.lingering if self._drain is not None else 0,
                handled=counters.handled,
                held=self.gate.held,
                replayed=counters.replayed,
                expired=counters.expired,
                overflowed=counters.overflowed,
                received=counters.received,
                heard=counters.heard,
                guilds=len(self.client.guilds),
                claims=wire.Claims(won=ledger.won, lost=ledger.lost, errors=errors),
                latencies=self.shards.latencies(),
                pong=self._pong,
            )
        )
        self._late = 0.0

    def _spawn(self, coroutine: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _in_loop(
    loop: asyncio.AbstractEventLoop,
    call: Callable[..., None],
    *args: Any,
    context: contextvars.Context | None = None,
) -> None:
    """Call something in the program's loop, unless that is closed: then the program is ending by itself."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *args, context=context)


def _log_cut(names: list[str]) -> None:
    for name in _shortened(names):
        _log.warning("cut, for it was not done within the time to drain: %s", name)


def _shortened(names: list[str], unnamed: int = 0) -> list[str]:
    """Return as many names of what was cut as fit in one message, and how many more there are, named or not."""
    shown = [name if len(name) <= _CUT_LENGTH else name[: _CUT_LENGTH - 3] + "..." for name in names[:_CUT_NAMED]]
    more = len(names) - len(shown) + unnamed
    return [*shown, f"and {more} more"] if more else shown


def _supervisor() -> int:
    return int(os.environ.get("BASTION_SUPERVISOR_PID") or os.getppid())


def _end_within(seconds: float) -> None:
    """Set the alarm that nobody handles, once: a later cause must not put it off."""
    left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    signal.setitimer(signal.ITIMER_REAL, left or seconds)
