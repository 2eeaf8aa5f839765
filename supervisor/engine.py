"""The running supervisor: signals, settings, commands, permits; and a slot that holds the children.

The engine carries out and decides nothing: what happens when is the machine's. It is the only place with a task group,
with the process's signals and with the control of time. Waiting for one child never keeps it from another: everything
that children do arrives as a callback of the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec

from bastion.counted import counted
from bastion.supervisor import __version__, diskroom, headroom, lasting, orphans, sessionfiles
from bastion.supervisor.aside import aside
from bastion.supervisor.ceilings import with_ceiling
from bastion.supervisor.child import CommandFactory, HeldChild, Launch, SpawnError, launcher
from bastion.supervisor.common_identifies import CommonIdentifies
from bastion.supervisor.events import Alone, ByHand, Prepared, Refused, Reload, Rollback, Stop, Weighed
from bastion.supervisor.identify import IdentifyQueue
from bastion.supervisor.ledgerdir import Place, base_directory, held, ledger_place
from bastion.supervisor.location import SettingsError
from bastion.supervisor.logs import LogLine as LogLine
from bastion.supervisor.logs import to_logging
from bastion.supervisor.neighbourhood import Neighbourhood
from bastion.supervisor.observed import ActiveReadiness, HandoffRecord, Summary, Totals, utc_now
from bastion.supervisor.outcome import Outcome as Outcome
from bastion.supervisor.outcome import Progress as Progress
from bastion.supervisor.reading import UnansweredError
from bastion.supervisor.release import Release, ReleaseError, resolve, still_there, touch
from bastion.supervisor.settings import Settings, refreshed
from bastion.supervisor.slot import Slot
from bastion.supervisor.state import Phase, Timing
from bastion.supervisor.status import HandoffResult, SessionStartLimit, Status, SupervisorState, SupervisorStatus
from bastion.wire import EXIT_CONFIG, FORMER, ToChild, Wants, claimer, saved_path, stream_path

if TYPE_CHECKING:
    from bastion.supervisor.reexec import Reexec

SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)
"""The signals that ask for something; none is lost while the supervisor re-executes itself."""
_LOOP_TURNS = 3
"""Turns of the event loop after which a signal that came before is known: one reads it, the next calls its handler."""
EXIT_FAILURE = 1
"""The exit code where another try may help; a service manager makes it."""
_NOT_RUNNING = "the supervisor is not running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the next program of this process goes on with: the bot, and what the operator knows the supervisor by."""

    bot: HeldChild
    newest: int
    """The highest generation that there was: none is used twice."""
    settings: Settings
    """Those of the last good handoff."""
    place: Place
    started_at: str
    identifies: SessionStartLimit | None
    at: float
    """Since when nobody listens to the bot, by the machine's monotonic clock."""


class Engine:
    """One supervisor: runs the bot's children until it is stopped."""

    def __init__(
        self,
        settings: Settings,
        *,
        reread: Callable[[Settings], Settings] = lambda kept: kept,
        log: Callable[[LogLine], None] | None = None,
        command: CommandFactory = launcher,
        root: Path = Path("/"),
        others: Collection[int] = (),
        on_move: Callable[[Summary], None] | None = None,
        on_handoff: Callable[[], object] = lambda: None,
    ) -> None:
        """Take the settings; nothing starts before `run`.

        ``reread`` reads the settings again for a reload, given those of the last good handoff, and raises
        `SettingsError`. The ledger's path, the control socket and the identify window stay as they were at the start.
        ``log`` takes each line (default: the standard logging, logger "supervisor"). ``command`` gives the start of a
        child's command line. Below ``root`` are the /proc and /sys in which memory is looked at. ``others`` are
        processes that someone else here waits for: where the kernel hands orphans to this process the engine reaps
        them, and these are none. ``on_move`` is called in the event loop whenever something may have changed,
        ``on_handoff`` when a handoff has ended; neither must block.
        """
        self.failure: str | None = None
        """Why `run` has ended with another code than 0."""
        self._settings = settings
        self._control = settings.control.socket
        self._wanted: Settings | None = None
        """Settings of the handoff under way; they replace the others when it has succeeded."""
        self._reread = reread
        self._log = log or to_logging
        self._command = command
        self._root = root
        self._not_ours = frozenset(others)
        self._on_move = on_move
        self._on_handoff = on_handoff
        self._beside: Neighbourhood | None = None
        """The supervisors that share the ledger, if it is shared."""
        self._started_at = utc_now()
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Outcome]] = {}
        self._watchers: dict[int, Callable[[Progress], None]] = {}
        self._what: dict[int, str] = {}
        self._slot: Slot | None = None
        self._stop_wanted = False
        self._code = 0
        self._error: Exception | None = None
        self._pump: asyncio.TimerHandle | None = None
        self._preparing: anyio.CancelScope | None = None
        self._done = asyncio.Event()
        self._tasks: anyio.abc.TaskGroup
        self._by_hand: ByHand | None = None
        """Asked for before there was a slot."""
        self._place: Place
        self._successor: Reexec | None = None
        self._reexec_asked = asyncio.Event()
        self._stepped = asyncio.Event()
        self.permits: IdentifyQueue

    # Running.

    async def run(self, *, kept: Kept | None = None, successor: Reexec | None = None) -> int:
        """Run until stopped. Returns the exit code: 0, or 78 with `failure` set.

        With ``kept`` there is the bot of an earlier program in this process, and one of this program's takes over from
        it. ``successor`` is asked on SIGUSR2. Signals are taken by `handling_signals`, which may have begun before. If
        this is cancelled, every child is killed before it returns.
        """
        self._successor = successor
        self.permits = self._queue(None)
        with contextlib.ExitStack() as stack:
            if kept is not None:
                self._place = stack.enter_context(held(kept.place))
                if kept.place.lasting is not None:
                    self._lasting(stack)  # the lock on it ended with the program before
                self._settle(kept.place, stack)
                await self._serve(kept)
            else:
                await self._begin(stack)
        if self._error is not None:
            raise self._error
        return self._code

    async def _begin(self, stack: contextlib.ExitStack) -> None:
        ledger = self._settings.ledger
        try:
            place = self._place = stack.enter_context(
                ledger_place(
                    ledger.path,
                    environ=os.environ,
                    control=self._control,
                    shared=ledger.shared,
                    lasting=self._lasting(stack),
                )
            )
            self._settle(place, stack)
            release = await self._first_release()
        except UnansweredError as error:
            self._fail(str(error), code=EXIT_FAILURE)
            return
        except ReleaseError as error:
            self._fail(str(error))
            return
        except OSError as error:
            self._fail(diskroom.named(error, ledger.path or base_directory(os.environ)))
            return
        if release is None:
            return
        if ledger.path is not None and place.path.parent != ledger.path.parent.resolve():
            self.log(f"other users may enter {ledger.path.parent}, so the ledger is {place.path}")
        if self._beside is not None and not await self._beside.wait_for_ends(stopped=lambda: self._stop_wanted):
            return
        await self._serve(release)

    def _queue(self, common: CommonIdentifies | None) -> IdentifyQueue:
        clock = asyncio.get_running_loop().time
        return IdentifyQueue(window=self._settings.discord.identify_window, clock=clock, common=common)

    def _settle(self, place: Place, stack: contextlib.ExitStack) -> None:
        """Live beside other supervisors, if the place is theirs too."""
        if place.membership is not None:
            common = CommonIdentifies(place.path.with_name(f"{place.path.name}-identifies"))
            stack.callback(common.close)
            self.permits = self._queue(common)
            self._beside = Neighbourhood(place.membership, place.path, say=self.log)

    def _lasting(self, stack: contextlib.ExitStack) -> Path | None:
        """Return what the paths begin with of what outlives us; None if nothing does.

        Supervisors that share the ledger hand over to each other, and leave nothing.
        """
        directory, within = self._settings.restart.resume_directory, self._settings.restart.resume_within
        if directory is None or not within or self._settings.ledger.shared:
            return None
        try:
            return stack.enter_context(lasting.lasting_place(directory))
        except OSError as error:
            problem = f"{error.filename}: {error.strerror}" if error.strerror and error.filename else str(error)
            self.log(
                f"restart.resume_directory: {problem}: events that come between a stop and the next start will be lost",
                level=logging.WARNING,
            )
            return None

    async def _first_release(self) -> Release | None:
        """Return what the settings name; None if we were told to stop, which no disk holds up."""
        with anyio.CancelScope() as self._preparing:
            if self._stop_wanted:
                self._preparing.cancel()
            return await aside(partial(resolve, self._settings.bot))
        return None

    async def _serve(self, start: Release | Kept) -> None:
        async with anyio.create_task_group() as self._tasks, self._with_slot() as slot:
            if isinstance(start, Kept):
                self._adopt(start, slot)
            else:
                # One that was held back asks for a reload when the next turn begins, and so once there is a child.
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
                if former := self._place.former:
                    self.log(
                        "the bot of an earlier supervisor has left its sessions: generation 1 resumes them "
                        + ("and reads its cache" if self.saved() else "beside new ones, for there is no cache")
                    )
                self._begin_first(slot, start, former=former)
            if self._beside is not None:
                self._tasks.start_soon(self._beside.watch, slot)
            if self._by_hand is not None:
                slot.happen(self._by_hand)
            if self._stop_wanted:
                self._command_stop()
            if self._successor is not None:
                self._tasks.start_soon(self._reexecute_when_asked, self._successor, slot)
            await self._done.wait()
            self._tasks.cancel_scope.cancel()

    def _begin_first(self, slot: Slot, release: Release, *, former: bool) -> None:
        """Begin the first bot, which may find other supervisors' bots, or what such a bot has left."""
        timing = timing_of(self._settings)
        if self._beside is None:
            slot.begin(release, timing, bereft=FORMER if former else None)
            return
        found, waits = self._beside.at_the_beginning()
        slot.begin(release, timing, company=found.company, waits=waits, bereft=found.dead or None)

    def _adopt(self, kept: Kept, slot: Slot) -> None:
        """Go on with the bot. Its own settings change with a handoff only, for it may refuse them."""
        timing, old = timing_of(self._settings), kept.settings
        discord = msgspec.structs.replace(self._settings.discord, api_url=old.discord.api_url)
        self._settings = replace(
            self._settings, bot=old.bot, discord=discord, token=old.token, environment=old.environment
        )
        self._started_at = kept.started_at
        self.permits.begin_with(kept.identifies)
        slot.adopt(kept.bot, timing, newest=kept.newest, command=self._new_command("the re-execution's reload"))
        if orphans.adopts():
            self._reap_orphans()
        bot = f"generation {kept.bot.generation}, which was by itself for {time.monotonic() - kept.at:.2f} s"
        self.log(f"re-executed: supervisor {__version__} goes on with {bot}")
        # Held back since before the re-execution: from here on nothing that a signal asks for is lost.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    @contextlib.asynccontextmanager
    async def _with_slot(self) -> AsyncIterator[Slot]:
        """Hold a slot; at the end, however it comes, no child and no waiting caller is left."""
        slot = self._slot = Slot(self, command=self._command)
        try:
            yield slot
        finally:
            if self._pump is not None:
                self._pump.cancel()
            slot.kill()
            with anyio.CancelScope(shield=True):
                await slot.emptied()
            self._slot = None
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_result(Outcome(result="refused", reason=_NOT_RUNNING))

    @contextlib.contextmanager
    def handling_signals(self, kept: Kept | None = None) -> Iterator[None]:
        """Take the process's signals, before `run` too: a stop that comes then lets nothing begin.

        SIGHUP is the only one that needs a child. Before there is one, whoever starts an engine holds SIGHUP back.
        """
        shared = kept.place.membership is not None if kept else self._settings.ledger.shared
        handlers = {
            signal.SIGHUP: self._command_reload,
            signal.SIGTERM: self._on_stop,
            signal.SIGINT: self._on_stop,
            signal.SIGUSR2: self._on_reexec,
        }
        if orphans.adopts():
            handlers[signal.SIGCHLD] = self._reap_orphans
        if shared:  # there is room for others, who may switch claims on
            handlers[signal.SIGTTIN] = partial(self._on_by_hand, ByHand(True))
            handlers[signal.SIGTTOU] = partial(self._on_by_hand, ByHand(False))
        loop = asyncio.get_running_loop()
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)
                if number != signal.SIGCHLD:
                    # One more that comes while we exit has nothing to end, and must not make it look like a death.
                    signal.signal(number, signal.SIG_IGN)

    def _reap_orphans(self) -> None:
        awaited = (self._slot.pids() if self._slot else set()) | (self._successor.pids if self._successor else set())
        for pid in orphans.reap(self._not_ours | awaited):
            self.log(f"reaped orphan {pid}", level=logging.DEBUG)

    def _fail(self, reason: str, *, code: int = EXIT_CONFIG) -> None:
        self.failure, self._code = reason, code
        if self._beside is not None:
            self._beside.tell_failure(reason)

    # Commands.

    async def reload(self, *, force: bool = False, on_progress: Callable[[Progress], None] | None = None) -> Outcome:
        """Hand over to a new child, of the release that the settings name now; joins a reload that waits already.

        ``force``: though memory or today's IDENTIFYs may not suffice. ``on_progress`` is called in the event loop and
        must not block. Giving up waiting does not end the handoff.
        """
        return await self._ask("reload", lambda command: Reload(command, force), on_progress)

    async def rollback(self, *, force: bool = False, on_progress: Callable[[Progress], None] | None = None) -> Outcome:
        """Hand over to a new child of the release that served before this one; arguments as for `reload`."""
        return await self._ask("rollback", lambda command: Rollback(command, force), on_progress)

    async def stop(self) -> None:
        """Drain and stop; returns when every child has left. A second call ends them at once."""
        if self._slot is None:
            self._stop_early()
        else:
            await self._ask("stop", self._stop_event, None)

    def _stop_early(self) -> None:
        """Let nothing begin that has not begun."""
        self._stop_wanted = True
        if self._preparing is not None:
            self._preparing.cancel()

    async def _ask(
        self,
        what: str,
        event: Callable[[int], Reload | Rollback | Stop],
        on_progress: Callable[[Progress], None] | None,
    ) -> Outcome:
        if self._slot is None:
            return Outcome(result="refused", reason=_NOT_RUNNING)
        command = self._new_command(what)
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._answers[command] = answer
        if on_progress is not None:
            self._watchers[command] = on_progress
        try:
            self._slot.happen(event(command))
            self.progressed()
            return await answer
        finally:
            self._answers.pop(command, None)
            self._watchers.pop(command, None)

    def _new_command(self, what: str) -> int:
        command = next(self._ids)
        self._what[command] = what
        return command

    def _command_reload(self) -> None:
        self.log("SIGHUP: reload")
        if self._slot is not None:
            self._slot.happen(Reload(self._new_command("reload")))

    def _on_stop(self) -> None:
        self.log("told to stop")
        if self._slot is None:
            self._stop_early()
        self._stop_wanted = True
        self._command_stop()

    def _on_by_hand(self, wish: ByHand) -> None:
        self.log("SIGTTIN: claims on" if wish.on else "SIGTTOU: claims off")
        if self._slot is None:
            self._by_hand = wish
        else:
            self._slot.happen(wish)

    def _on_reexec(self) -> None:
        if self._stop_wanted or (self._slot is not None and self._slot.state.shown == "stopping"):
            self.log("SIGUSR2: ignored, the supervisor is stopping")
        elif self._reexec_asked.is_set():
            self.log("SIGUSR2: a re-execution is under way already")
        else:
            self.log("SIGUSR2: re-execution")
            self._reexec_asked.set()

    def _command_stop(self) -> None:
        if self._slot is not None:
            self._slot.happen(self._stop_event(self._new_command("stop")))

    def _stop_event(self, command: int) -> Stop:
        """Return the command to stop; another supervisor's new bot may have to connect as many shards as ours has.

        Somebody may have come since the last look at the others, and take over from us.
        """
        if self._beside is not None and self._slot is not None:
            self._beside.look_now(self._slot)
        shards = (self._slot.shards(self._slot.state.active) if self._slot else None) or 1
        return Stop(command, self.permits.seconds_for(shards))

    # Re-execution.

    async def _reexecute_when_asked(self, successor: Reexec, slot: Slot) -> None:
        while True:
            await self._reexec_asked.wait()
            try:
                problem = await self._reexecute(successor, slot)
            except Exception as error:  # a defect of ours; the bots need not suffer for it
                problem = f"{type(error).__name__}: {error}"
            self.log(f"not re-executed, the supervisor goes on as it is: {problem}", level=logging.ERROR)
            slot.happen(Alone(False))
            self._reexec_asked.clear()

    async def _reexecute(self, successor: Reexec, slot: Slot) -> str:
        """Let the new code take over as soon as nothing is under way. Returns only if it cannot: why."""
        while True:
            if not self._rests(slot):
                self.log("the re-execution waits until nothing else is under way")
                await self._until(partial(self._rests, slot))
            if problem := await successor.try_out(self._keep(slot)):
                return problem
            slot.happen(Alone(True))
            await self._until(lambda: slot.alone)
            async with successor.quiet():
                with successor.holding_signals():
                    for _ in range(_LOOP_TURNS):
                        await anyio.lowlevel.checkpoint()
                    if slot.alone and self._rests(slot):
                        return successor.take_over(self._keep(slot))

    def _rests(self, slot: Slot) -> bool:
        """Say whether nothing is under way; nor is an IDENTIFY, of which the new program could not know."""
        return slot.at_rest and not self.permits.out

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._stepped.clear()
            await self._stepped.wait()

    def _keep(self, slot: Slot) -> Kept:
        return Kept(
            bot=slot.held,
            newest=slot.state.last_generation,
            settings=self._settings,
            place=self._place,
            started_at=self._started_at,
            identifies=self.permits.limit(),
            at=time.monotonic(),
        )

    async def status(self) -> Status:
        """Return what was observed up to now. Sizes and CPU shares are sampled here (a few reads of /proc)."""
        slot, now = self._slot, asyncio.get_running_loop().time()
        if slot is None:
            state: SupervisorState = "stopping" if self._stop_wanted or self.failure else "starting"
        else:
            state = slot.state.shown
        return Status(
            supervisor=SupervisorStatus(
                pid=os.getpid(),
                version=__version__,
                started_at=self._started_at,
                state=state,
                config=str(self._settings.source) if self._settings.source else None,
                beside=self._beside.text if self._beside is not None else "",
            ),
            children=slot.children() if slot else [],
            last_handoff=slot.handoff.status(now=now) if slot and slot.handoff else None,
            restarts=slot.state.restarts if slot else 0,
            session_start_limit=self.permits.limit() if slot else None,
        )

    def readiness(self) -> ActiveReadiness | None:
        """Return how ready the active child is, or one that can take over; None if neither or while it stops."""
        return self._slot.readiness() if self._slot else None

    def totals(self) -> Totals:
        """Return what was counted since the start."""
        return self._slot.totals if self._slot else Totals()

    # What the slot asks for (`slot.Host`).

    async def launch(self, release: Release, *, generation: int, standby: bool) -> Launch:
        """Return what a new child is told. Raises `SpawnError` if the disk of its release does not answer."""
        wanted = self._wanted
        try:
            fresh, _ = await asyncio.gather(self._refreshed(), aside(partial(touch, release)))
        except (UnansweredError, RuntimeError) as error:  # RuntimeError: no thread is to be had
            raise SpawnError(f"cannot be started: {error}", retryable=True) from None
        settings = wanted or fresh
        return Launch(
            generation=generation,
            standby=standby,
            api_url=settings.discord.api_url,
            ledger=self._place.path,
            left=self._place.left,
            supervisor=self._place.supervisor,
            expired_text=settings.bot.expired_text,
            state_timeout=settings.state.timeout,
            checkpoint=settings.state.checkpoint,
            token=settings.token,
            environment=settings.environment,
        )

    async def _refreshed(self) -> Settings:
        """Read ``bot.env_file`` for a child that no reload has read it for."""
        settings = self._settings
        if self._wanted is not None:
            return settings
        try:
            fresh = await aside(partial(refreshed, settings))
        except SettingsError as error:
            self.log(f"{error}; the bot is given what was read before", level=logging.WARNING)
            return settings
        if self._settings is settings:
            self._settings = fresh
        return fresh

    def keep_sessions(self, generations: set[int]) -> None:
        """Remove what all other generations have left of their gateway sessions."""
        sessionfiles.keep(self._place.left, self._place.supervisor, generations)

    def holds(self, generation: int) -> None:
        """Write down which child has the sessions, for whoever follows a supervisor that is killed."""
        if self._place.membership is None:
            place = self._place
            sessionfiles.note_holder(place.left, control=self._control, generation=generation, claims=place.path)

    def saves(self) -> str:
        """Return where a child that is stopped leaves its cache for the next start; empty: it leaves nothing."""
        return "" if self._place.lasting is None else saved_path(str(self._place.lasting))

    def saved(self) -> str:
        """Return where the cache of a bot is that was stopped before this start; empty: nowhere."""
        if self._place.lasting is None:
            return ""
        found = lasting.kept(self._place.lasting, within=self._settings.restart.resume_within, say=self.log)
        return "" if found is None else str(found)

    def stream_path(self, generation: int) -> str:
        """Return where the holder of the sessions is to listen for a child."""
        return stream_path(str(self._place.path), claimer(self._place.supervisor, generation))

    def ask_neighbours(self, generation: int, wants: Wants) -> bool:
        """Ask other supervisors what a new child is to do; return whether anybody could answer."""
        return self._beside is not None and self._beside.ask(generation, wants)

    def company_keeps_apart(self, mirrors: Collection[int]) -> str | None:
        """Return why the bots of other supervisors keep ours from being moved, None if all are among these mirrors."""
        return None if self._beside is None else self._beside.keeps_apart(mirrors)

    def answer_neighbour(self, bot: int, message: ToChild) -> None:
        """Tell another supervisor's bot what to do."""
        if self._beside is not None:
            self._beside.answer(bot, message)

    def keeps_sessions_apart(self) -> str | None:
        """Return why sessions are not to be moved, whatever the children are like; None if they may be."""
        settings = self._wanted or self._settings
        return None if settings.handoff.session == "auto" else 'handoff.session = "overlap"'

    def prepare(self, release: Release | None, *, force: bool) -> None:
        """Read the settings and look at the release, in a thread: both may be on a disk that never answers."""
        if self._preparing is not None:
            self._preparing.cancel()
        self._preparing = anyio.CancelScope()
        self._tasks.start_soon(self._prepare, release, force, self._preparing)

    async def _prepare(self, release: Release | None, force: bool, scope: anyio.CancelScope) -> None:
        with scope:
            settings, event = await self._prepared(release, force=force)
            slot = self._slot
            if slot is None or slot.state.phase is not Phase.PREPARING:
                return  # the spare had to take over meanwhile; what was asked for waits, and is looked at again
            self._wanted = settings
            slot.happen(event)

    async def _prepared(self, release: Release | None, *, force: bool) -> tuple[Settings | None, Prepared | Refused]:
        try:
            settings, found = await aside(partial(self._look, release))
            moves = settings.handoff.session == "auto" and self._may_move(found)
            if not (moves or force) and (reason := self._too_few_identifies(found)):
                return None, Refused(f"{reason}; --force does it now")
            # With force too: what lingers gives way sooner than the kernel has to choose.
            reason, crowded = await self._too_little_memory(settings)
            reason = reason or await self._too_little_disk()
            if reason and not force:
                return None, Refused(f"{reason}; --force tries all the same")
            return settings, Prepared(found, timing_of(settings), crowded)
        except UnansweredError as error:
            return None, Refused(str(error), "failed")
        except (SettingsError, ReleaseError) as error:
            return None, Refused(with_ceiling(str(error)))
        except Exception as error:
            return None, Refused(with_ceiling(f"the settings cannot be read: {type(error).__name__}: {error}"))

    def weigh(self, release: Release) -> None:
        """Look whether there is room for a spare; the answer goes to `Slot.happen`."""
        self._tasks.start_soon(self._weigh, release)

    async def _weigh(self, release: Release) -> None:
        try:
            reason = None if self._may_move(release) else self._too_few_identifies(release)
            reason = reason or (await self._too_little_memory(self._settings))[0]
            reason = reason or await self._too_little_disk()
        except Exception as error:  # of a machine that does not tell; it must not cost the bot that serves
            reason = f"it is not known whether there is room for it: {type(error).__name__}: {error}"
        if self._slot is not None:
            self._slot.happen(Weighed(reason))

    def _look(self, release: Release | None) -> tuple[Settings, Release]:
        settings = self._reread(self._settings)
        if release is None:
            return settings, resolve(settings.bot)
        still_there(release)
        return settings, release

    async def _too_little_memory(self, settings: Settings) -> tuple[str | None, bool]:
        """Say what a second child beside the active one would lack, and whether one that lingers has to leave first."""
        slot = self._slot
        pid = slot.pid(slot.state.active) if slot else None
        if slot is None or pid is None:
            return None, False
        look = partial(headroom.shortage, pid=pid, factor=settings.handoff.headroom, root=self._root)
        spare, lingerer = slot.pid(slot.state.spare), slot.pid(slot.state.lingering)
        reason = await aside(partial(look, leaving=spare))
        if reason is None or lingerer is None:
            return reason, False
        return await aside(partial(look, leaving=lingerer)), True

    async def _too_little_disk(self) -> str | None:
        """Say why a second child could not claim, nor leave its sessions; a child that is alone need not claim."""
        slot = self._slot
        if slot is None or slot.state.active is None:
            return None
        try:
            async with asyncio.timeout(diskroom.PATIENCE):
                return await aside(partial(diskroom.shortage, self._place.path))
        except TimeoutError:
            return diskroom.unanswered(self._place.path)

    def _may_move(self, release: Release) -> bool:
        """Say whether a bot of this release may take the sessions over, as far as that is known before it is there."""
        slot = self._slot
        if slot is None or slot.state.active is None or not slot.sessions_may_move():
            return False
        return release.shards in ("auto", slot.shards(slot.state.active))

    def _too_few_identifies(self, release: Release) -> str | None:
        """The active child must be able to connect anew after the handoff has failed: that is the reserve."""
        slot = self._slot
        if slot is None or slot.state.active is None:
            return None
        reserve = slot.shards(slot.state.active) or 0
        needed = reserve if release.shards == "auto" else release.shards
        seconds = self.permits.shortage(needed=needed, reserve=reserve)
        limit = self.permits.limit()
        if seconds is None or limit is None:
            return None
        possible = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        return (
            f"too few IDENTIFYs are left today: the new bot needs {needed}, {reserve} are kept for the active one to "
            f"connect anew, {limit.remaining} of {limit.total} are left. It will be possible at "
            f"{possible:%Y-%m-%d %H:%M:%S} UTC"
        )

    def permits_changed(self) -> None:
        """Give the permits that can be given now, and come back when the next one can."""
        slot = self._slot
        if slot is None:
            return
        # While a successor is tried because shards of the active child are away, these must not take every permit.
        first = None if slot.state.replaces else slot.state.active
        for wish in self.permits.grant(active=first):
            slot.send_permit(wish.generation, wish.shard)
        if self._pump is not None:
            self._pump.cancel()
        due = self.permits.next_due()
        self._pump = None if due is None else asyncio.get_running_loop().call_at(due, self._permits_due)

    def _permits_due(self) -> None:
        self._pump = None
        self.permits_changed()
        self.progressed()

    def answered(self, commands: Sequence[int], result: HandoffResult, reason: str | None) -> None:
        """Answer commands, all with the same outcome, which names what a child left running that died over it."""
        slot = self._slot
        assert slot is not None
        if slot.state.wanted is None:  # the attempt has ended: a token that did not work is not kept
            if self._wanted is not None and result == "succeeded":
                self._settings = self._wanted
            self._wanted = None
        record = slot.handoff
        if record is not None and result == "refused" and record.result != "refused":
            record = None
        outcome = Outcome(
            result=result,
            reason=reason,
            generation=None if slot.state.phase in (Phase.STOPPING, Phase.STOPPED) else slot.state.active,
            lingering=slot.lingering() if result == "succeeded" else 0,
            remarks=slot.remarks(slot.state.active) if result == "succeeded" else [],
        )
        slot.when_told(partial(self._answer, commands, outcome, record))

    def _answer(self, commands: Sequence[int], outcome: Outcome, record: HandoffRecord | None) -> None:
        if record is not None:
            outcome = msgspec.structs.replace(
                outcome,
                handoff=record.status(now=asyncio.get_running_loop().time()),
                remarks=[*outcome.remarks, *self._unclaimed(record)],
            )
        for command in commands:
            what = self._what.pop(command, "command")
            level = logging.INFO if outcome.result == "succeeded" else logging.WARNING
            self.log(f"{what} {outcome.result}" + (f": {outcome.reason}" if outcome.reason else ""), level=level)
            answer = self._answers.get(command)
            if answer is not None and not answer.done():
                answer.set_result(outcome)

    def _unclaimed(self, record: HandoffRecord) -> list[str]:
        if not record.unclaimed:
            return []
        text = (
            f"the ledger {self._place.path} failed {counted(record.unclaimed, 'time')} during this {record.kind}: at "
            "most so many events were handled by both bots. The log of the bots says why it failed"
        )
        return [text]

    def progressed(self) -> None:
        """Tell those who wait how far the handoff is; those whose reload has not begun, that it waits."""
        self._tell()
        slot = self._slot
        if slot is None or not self._watchers:
            return
        progress = slot.progress()
        waits = Progress(phase="waiting", message=f"waits until this has ended: {progress.message}")
        for command, watcher in list(self._watchers.items()):
            if command not in slot.state.asked and command not in slot.state.waiting:
                continue
            try:
                watcher(progress if command in slot.state.asked else waits)
            except Exception as error:
                del self._watchers[command]
                self.log(f"a watcher of a reload failed and is dropped: {error!r}", level=logging.WARNING)

    def handed_over(self) -> None:
        """Pass on, when the present turn is over, that a handoff has ended."""
        asyncio.get_running_loop().call_soon(self._on_handoff)

    def stepped(self) -> None:
        """Wake who waits for rest; pass on what runs now."""
        self._stepped.set()
        if self._slot is not None and self._beside is not None:
            self._beside.tell(self._slot)
        self._tell()

    def _tell(self) -> None:
        if self._slot is not None and self._on_move is not None:
            self._on_move(self._slot.summary())

    def finished(self, code: int, reason: str | None) -> None:
        """Let `run` return."""
        if reason is not None:
            self._fail(reason)
        self._code = code
        self._done.set()

    def crashed(self, error: Exception) -> None:
        """Let `run` raise; it ends the children first."""
        self._error = self._error or error
        self._done.set()

    def log(self, text: str, *, generation: int | None = None, level: int = logging.INFO) -> None:
        """Write a line."""
        self._log(LogLine(at=time.time(), generation=generation, text=text, level=level))


def timing_of(settings: Settings) -> Timing:
    """Return the limits that the machine keeps, from the settings."""
    return Timing(
        ready_timeout=settings.handoff.ready_timeout,
        drain_timeout=settings.handoff.drain_timeout,
        backoff_first=settings.restart.backoff_first,
        backoff_max=settings.restart.backoff_max,
        stable_after=settings.restart.stable_after,
        hang_timeout=settings.restart.hang_timeout,
        probation=settings.handoff.probation,
        linger=settings.handoff.linger,
        spare=settings.restart.spare,
        window_timeout=settings.ledger.window_timeout,
    )
