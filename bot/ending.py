"""How the process of a program ends: as without a supervisor, and soon.

A program's ``main()`` may return although its process goes on: a thread that is no daemon, a busy executor or a
database connection keeps the process alive. The bot serves nobody by then. So the process has `THREADS_SECONDS`; then
the log names the threads, and the process is killed. A program that does not return after its drain is killed likewise.

A program may also replace itself (`os.execv` as a restart command). The new image would be a second bot, without a
supervisor. So the process ends instead.

Knows threads, exit codes and the main thread; knows nothing of discord.py, of roles or of messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

from bastion.bot.starting import is_within, leads_there, where, where_is_main

_log = logging.getLogger("bastion")

THREADS_SECONDS = 3.0
"""How long threads may keep a process after its program has ended."""

CLEAN_UP_SECONDS = 3.0
"""How long a program may clean up after its client has been closed by a drain, at least."""

Ended = Callable[[BaseException | None], BaseException | None]
"""Is told what a program ended with, and returns the error that is still to be shown, if any."""

_OUR_THREADS = "bastion-"


class Ending:
    """The end of this process. ``over`` is set once no client of the program's is connected any more."""

    def __init__(self, *, directory: Path, over: threading.Event, flush: Callable[[], None]) -> None:
        """``flush`` writes what has been said to the supervisor and not sent yet."""
        self._directory = directory
        self._over = over
        self._flush = flush
        self._pid = os.getpid()
        self._returned = threading.Event()

    def run(self, program: Callable[[], None], ended: Ended) -> int:
        """Run the program, tell ``ended`` how it ended, and return its exit code.

        If a thread of the program runs the client, ``ended`` is told when that thread has closed the client.
        """
        error: BaseException | None = None
        try:
            program()
        except BaseException as raised:
            error = raised
        if os.getpid() != self._pid:  # a fork of the program's has come to its end
            return _code(error)
        self._returned.set()
        if error is None and not self._over.is_set() and _others_live():
            _begin(partial(self._wait_for_threads, ended))
            return 0
        if (shown := ended(error)) is not None:
            shown = shown.with_traceback(in_program(shown.__traceback__, self._directory))
            sys.excepthook(type(shown), shown, shown.__traceback__)
        self._flush()
        self._give_threads(_code(error))
        return _code(error)

    def limit_clean_up(self, seconds: float) -> None:
        """Interrupt the program, as Ctrl-C would, if it has not ended ``seconds`` from now; then end its process.

        At least `CLEAN_UP_SECONDS` are given, and as many again to an interrupted program: a coroutine beside the
        client may run for ever, and would never clean up otherwise.
        """
        limit = max(CLEAN_UP_SECONDS, seconds)

        def wait() -> None:
            if self._returned.wait(limit):
                return
            place = where_is_main(self._directory)
            _log.warning("the program has not ended %.0f s after its client was closed: it is at %s", limit, place)
            os.kill(self._pid, signal.SIGINT)
            if not self._returned.wait(CLEAN_UP_SECONDS):
                self.now(0, f"the program has not ended, though it was interrupted {CLEAN_UP_SECONDS:g} s ago")

        _begin(wait)

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give a busy executor no more time than threads have: the end of a loop waits for it, behind ``main()``."""
        own: Callable[..., Awaitable[None]] = loop.shutdown_default_executor

        async def shut_down(*args: Any, **options: Any) -> None:
            done = threading.Event()
            if self._over.is_set():
                self._end_unless(done, THREADS_SECONDS, 0, self._kept)
            await own(*args, **options)
            done.set()

        loop.shutdown_default_executor = shut_down  # type: ignore[method-assign]

    def now(self, code: int, reason: str = "") -> NoReturn:
        """End the process at once, from whichever thread."""
        if reason:
            _log.warning("%s; its process is ended", reason)
        self._flush()
        os._exit(code)

    def on_exec(self, told: Callable[[], None]) -> None:
        """Have ``told`` called, and the process ended, where the program replaces itself. Forks of it may."""
        for name in ("execv", "execve"):
            setattr(os, name, self._instead_of(getattr(os, name), told))

    def _instead_of(self, execute: Callable[..., Any], told: Callable[[], None]) -> Callable[..., Any]:
        def replaced(*args: Any) -> Any:
            if os.getpid() == self._pid:
                told()
                self.now(0)
            return execute(*args)

        return replaced

    def _wait_for_threads(self, ended: Ended) -> None:
        self._over.wait()
        ended(None)
        self._flush()
        self._give_threads(0)

    def _give_threads(self, code: int) -> None:
        self._end_unless(threading.Event(), THREADS_SECONDS, code, self._kept)

    def _end_unless(self, done: threading.Event, seconds: float, code: int, reason: Callable[[], str]) -> None:
        """End the process in ``seconds``, unless something is done by then."""

        def wait() -> None:
            if not done.wait(seconds):
                self.now(code, reason())

        _begin(wait)

    def _kept(self) -> str:
        return f"the program ended {THREADS_SECONDS:g} s ago and is kept by {self._keepers()}"

    def _keepers(self) -> str:
        frames = sys._current_frames()
        named = [
            f"thread {thread.name} ({where(frames.get(thread.ident or 0), self._directory)})" for thread in _others()
        ]
        return ", ".join(named) or f"what it does at its exit ({where_is_main(self._directory)})"


def _begin(wait: Callable[[], None]) -> None:
    """Run this in a thread. Where the system has none left, an end goes without its limit; the supervisor's holds."""
    with contextlib.suppress(RuntimeError):
        threading.Thread(target=wait, name="bastion-end", daemon=True).start()


def _others() -> list[threading.Thread]:
    """Return the threads that keep Python from exiting."""
    return [
        thread
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and not thread.daemon and not thread.name.startswith(_OUR_THREADS)
    ]


def _others_live() -> bool:
    return bool(_others())


def _code(error: BaseException | None) -> int:
    """Return the exit code that Python would end with."""
    match error:
        case None:
            return 0
        case SystemExit(code=None):
            return 0
        case SystemExit(code=int(code)):
            return code
        case SystemExit(code=text):
            print(text, file=sys.stderr)
            return 1
        case KeyboardInterrupt():
            return 128 + signal.SIGINT
        case _:
            return 1


def in_program(trace: TracebackType | None, directory: Path) -> TracebackType | None:
    """Leave out the frames before the program's first frame. Without such a frame, leave out those that lead there.

    A file that cannot be parsed has no frame: its traceback is the place that the `SyntaxError` names.
    """
    return _from(trace, lambda frame: is_within(frame, directory)) or _from(trace, lambda frame: not leads_there(frame))


def _from(trace: TracebackType | None, wanted: Callable[[FrameType], bool]) -> TracebackType | None:
    while trace is not None and not wanted(trace.tb_frame):
        trace = trace.tb_next
    return trace


def place_of(error: BaseException, directory: Path) -> str:
    """Return where in the program an error was raised, such as ``main.py:12, in migrate``; "" if nowhere there."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    innermost: FrameType | None = frames[-1] if frames else None
    own = [frame for frame in frames if is_within(frame, directory)]
    return where(innermost, directory) if own else ""
