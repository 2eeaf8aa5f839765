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
from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import anyio.to_thread

from supervisor import __version__, headroom, machine, orphans
from supervisor.child import CommandFactory, Launch, python_module
from supervisor.identify import IdentifyQueue
from supervisor.ledgerdir import ledger_path
from supervisor.location import SettingsError
from supervisor.logs import LogLine as LogLine
from supervisor.logs import to_logging
from supervisor.observed import utc_now
from supervisor.outcome import Outcome as Outcome
from supervisor.outcome import Progress as Progress
from supervisor.release import Release, ReleaseError, resolve, still_there
from supervisor.settings import Settings
from supervisor.slot import Slot
from supervisor.status import HandoffResult, Status, SupervisorState, SupervisorStatus

_NOT_RUNNING = "the supervisor is not running"


class Engine:
    """One supervisor: runs the bot's children until it is stopped."""

    def __init__(
        self,
        settings: Settings,
        *,
        reread: Callable[[], Settings] | None = None,
        log: Callable[[LogLine], None] | None = None,
        signals: bool = True,
        command: CommandFactory = python_module,
        root: Path = Path("/"),
        others: Collection[int] = (),
    ) -> None:
        """Take the settings; nothing starts before `run`.

        ``reread`` reads the settings again for a reload and raises `SettingsError`; None keeps these ones. The
        ledger's path, the control socket and the identify window stay as they were at the start.
        ``log`` takes each line (default: the standard logging, logger "supervisor"). ``signals`` False leaves the
        process's signal handlers alone. ``command`` gives the start of a child's command line. Below ``root`` are the
        /proc and /sys in which memory is looked at. ``others`` are processes that someone else here waits for: as PID 1
        the engine reaps orphans, and these are none.
        """
        self.failure: str | None = None
        """Why `run` has ended with another code than 0."""
        self._settings = settings
        self._wanted: Settings | None = None
        """Settings of the handoff under way; they replace the others when it has succeeded."""
        self._reread = reread or (lambda: settings)
        self._log = log or to_logging
        self._signals = signals
        self._command = command
        self._root = root
        self._others = frozenset(others)
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
        self._done: anyio.Event
        self._tasks: anyio.abc.TaskGroup
        self._ledger: Path
        self.permits: IdentifyQueue

    # Running.

    async def run(self) -> int:
        """Run until stopped. Returns the exit code: 0, or 78 with `failure` set.

        If it is cancelled, every child is killed before it returns.
        """
        self._done = anyio.Event()
        loop = asyncio.get_running_loop()
        with self._handling_signals(loop):
            self.permits = IdentifyQueue(window=self._settings.discord.identify_window, clock=loop.time)
            with contextlib.ExitStack() as stack:
                try:
                    release = resolve(self._settings.bot)
                    self._ledger = stack.enter_context(ledger_path(self._settings.ledger.path, environ=os.environ))
                except (ReleaseError, OSError) as error:
                    self._fail(str(error))
                else:
                    await self._serve(release)
        if self._error is not None:
            raise self._error
        return self._code

    async def _serve(self, release: Release) -> None:
        async with anyio.create_task_group() as self._tasks, self._with_slot() as slot:
            slot.begin(release, _timing(self._settings))
            if self._stop_wanted:
                self._command_stop()
            await self._done.wait()
            self._tasks.cancel_scope.cancel()

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
    def _handling_signals(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Take SIGHUP, SIGTERM and SIGINT; first of all, for an unhandled SIGHUP would kill."""
        handlers = {signal.SIGHUP: self._command_reload, signal.SIGTERM: self._on_stop, signal.SIGINT: self._on_stop}
        if orphans.adopts():
            handlers[signal.SIGCHLD] = self._reap_orphans
        if not self._signals:
            handlers = {}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            yield
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    def _reap_orphans(self) -> None:
        for pid in orphans.reap(self._others | (self._slot.pids() if self._slot else set())):
            self.log(f"reaped orphan {pid}", level=logging.DEBUG)

    def _fail(self, reason: str) -> None:
        self.failure, self._code = reason, machine.EXIT_CONFIG

    # Commands.

    async def reload(self, *, force: bool = False, on_progress: Callable[[Progress], None] | None = None) -> Outcome:
        """Hand over to a new child, of the release that the settings name now; joins a reload that waits already.

        ``force``: though memory or today's IDENTIFYs may not suffice. ``on_progress`` is called in the event loop and
        must not block. Giving up waiting does not end the handoff.
        """
        return await self._ask("reload", lambda command: machine.Reload(command, force), on_progress)

    async def rollback(self, *, force: bool = False, on_progress: Callable[[Progress], None] | None = None) -> Outcome:
        """Hand over to a new child of the release that served before this one; arguments as for `reload`."""
        return await self._ask("rollback", lambda command: machine.Rollback(command, force), on_progress)

    async def stop(self) -> None:
        """Drain and stop; returns when every child has left. A second call ends them at once."""
        if self._slot is None:
            self._stop_wanted = True
        else:
            await self._ask("stop", machine.Stop, None)

    async def _ask(
        self,
        what: str,
        event: Callable[[int], machine.Reload | machine.Rollback | machine.Stop],
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
            self._slot.happen(machine.Reload(self._new_command("reload")))

    def _on_stop(self) -> None:
        self.log("told to stop")
        self._stop_wanted = True
        self._command_stop()

    def _command_stop(self) -> None:
        if self._slot is not None:
            self._slot.happen(machine.Stop(self._new_command("stop")))

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
            ),
            children=slot.children() if slot else [],
            last_handoff=slot.handoff.status(now=now) if slot and slot.handoff else None,
            restarts=slot.state.restarts if slot else 0,
            session_start_limit=self.permits.limit() if slot else None,
        )

    # What the slot asks for (`slot.Host`).

    def launch(self, *, generation: int, standby: bool) -> Launch:
        """Return what a new child is told."""
        settings = self._wanted or self._settings
        return Launch(
            generation=generation,
            standby=standby,
            api_url=settings.discord.api_url,
            ledger=self._ledger,
            token=settings.token,
        )

    def prepare(self, release: Release | None, *, force: bool) -> None:
        """Read the settings and look at the release, in a thread: both may be on a slow disk."""
        if self._preparing is not None:
            self._preparing.cancel()
        self._preparing = anyio.CancelScope()
        self._tasks.start_soon(self._prepare, release, force, self._preparing)

    async def _prepare(self, release: Release | None, force: bool, scope: anyio.CancelScope) -> None:
        with scope:
            settings, event = await self._prepared(release, force=force)
            slot = self._slot
            if slot is None or slot.state.phase is not machine.Phase.PREPARING:
                return  # the spare had to take over meanwhile; what was asked for waits, and is looked at again
            self._wanted = settings
            slot.happen(event)

    async def _prepared(
        self, release: Release | None, *, force: bool
    ) -> tuple[Settings | None, machine.Prepared | machine.Refused]:
        try:
            settings, found = await anyio.to_thread.run_sync(self._look, release, abandon_on_cancel=True)
            if not force and (reason := await self._too_little(settings, found)):
                return None, machine.Refused(reason)
            return settings, machine.Prepared(found, _timing(settings))
        except (SettingsError, ReleaseError) as error:
            return None, machine.Refused(str(error))
        except Exception as error:
            return None, machine.Refused(f"the settings cannot be read: {type(error).__name__}: {error}")

    def _look(self, release: Release | None) -> tuple[Settings, Release]:
        settings = self._reread()
        if release is None:
            return settings, resolve(settings.bot)
        still_there(release)
        return settings, release

    async def _too_little(self, settings: Settings, release: Release) -> str | None:
        """Say what a second child beside the active one would lack."""
        slot = self._slot
        pid = slot.pid(slot.state.active) if slot else None
        if slot is None or pid is None:
            return None
        if reason := self._too_few_identifies(slot, release):
            return reason
        look = partial(
            headroom.shortage,
            pid=pid,
            factor=settings.handoff.headroom,
            leaving=slot.pid(slot.state.spare),
            root=self._root,
        )
        return await anyio.to_thread.run_sync(look, abandon_on_cancel=True)

    def _too_few_identifies(self, slot: Slot, release: Release) -> str | None:
        """The active child must be able to connect anew after the handoff has failed: that is the reserve."""
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
            f"{possible:%Y-%m-%d %H:%M:%S} UTC; --force does it now"
        )

    def permits_changed(self) -> None:
        """Give the permits that can be given now, and come back when the next one can."""
        slot = self._slot
        if slot is None:
            return
        for wish in self.permits.grant(active=slot.state.active):
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
        """Answer commands, all with the same outcome."""
        slot = self._slot
        assert slot is not None
        if slot.state.wanted is None:  # the attempt has ended: a token that did not work is not kept
            if self._wanted is not None and result == "succeeded":
                self._settings = self._wanted
            self._wanted = None
        now = asyncio.get_running_loop().time()
        record = slot.handoff
        ours = record is not None and (result != "refused" or record.result == "refused")
        outcome = Outcome(
            result=result,
            reason=reason,
            generation=slot.state.active,
            handoff=record.status(now=now) if record is not None and ours else None,
        )
        for command in commands:
            what = self._what.pop(command, "command")
            level = logging.INFO if result == "succeeded" else logging.WARNING
            self.log(f"{what} {result}" + (f": {reason}" if reason else ""), level=level)
            answer = self._answers.get(command)
            if answer is not None and not answer.done():
                answer.set_result(outcome)

    def progressed(self) -> None:
        """Tell those who wait how far the handoff is; those whose reload has not begun, that it waits."""
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


def _timing(settings: Settings) -> machine.Timing:
    return machine.Timing(
        ready_timeout=settings.handoff.ready_timeout,
        drain_timeout=settings.handoff.drain_timeout,
        settle=settings.handoff.settle,
        backoff_first=settings.restart.backoff_first,
        backoff_max=settings.restart.backoff_max,
        stable_after=settings.restart.stable_after,
        hang_timeout=settings.restart.hang_timeout,
        probation=settings.handoff.probation,
        spare=settings.restart.spare,
    )
