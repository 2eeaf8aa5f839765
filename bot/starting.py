"""The time before the program connects: a thread says every second that the child lives, and where its program is.

A program may import for a minute, migrate a database or wait for one, and have no event loop meanwhile. So a thread
answers the supervisor until the client connects. What the runtime alone can obey waits until then, in order.

Knows messages and threads; knows nothing of discord.py.
"""

from __future__ import annotations

import importlib
import os
import sys
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from bastion import wire

SECONDS = 1.0
"""Between two signs of life."""

_OURS = str(Path(__file__).parents[1]) + os.sep
_IMPORTING = ("<frozen importlib", str(Path(importlib.__file__).parent) + os.sep)
_LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})

Take = Callable[[wire.ToChild], None]


class Starting:
    """What a child does until its client connects. ``directory`` is the release: places in it are the program's own."""

    def __init__(self, send: Callable[[wire.FromChild], None], *, directory: Path, end: Callable[[], None]) -> None:
        """``end`` is called in another thread when the supervisor wants the child to end before it has connected."""
        self._send = send
        self._directory = directory
        self._end = end
        self._take: Take | None = None
        self._waiting: list[wire.ToChild] = []
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._pong = 0

    def begin(self) -> None:
        """Say from now on, every second, that the child lives."""
        self._over = over = threading.Event()
        threading.Thread(target=self._run, args=(over,), name="bastion-starting", daemon=True).start()

    def logged_in(self) -> None:
        """Stop saying so: the program's event loop does from now on."""
        self._over.set()

    def connected(self, take: Take) -> None:
        """Pass the waiting messages to ``take``, and every later message."""
        with self._lock:
            self._take = take
            for message in self._waiting:
                take(message)
            self._waiting.clear()

    def again(self) -> None:
        """Go back to where the program had not logged in: the client that did so is closed, and had not connected."""
        if self._over.is_set():
            self.begin()

    def heard(self, message: wire.ToChild) -> None:
        """Obey or keep a command. Called in the link's thread."""
        with self._lock:
            if self._take is not None:
                self._take(message)
            elif isinstance(message, wire.Ping):
                self._pong = message.n
                self._say()
            elif isinstance(message, wire.Drain):
                self._end()
            else:
                self._waiting.append(message)

    def _run(self, over: threading.Event) -> None:
        while not over.is_set():
            self._say()
            over.wait(SECONDS)

    def _say(self) -> None:
        self._send(wire.Starting(doing=where_is_main(self._directory), pong=self._pong))


def where_is_main(directory: Path) -> str:
    """Say where the main thread is, such as ``main.py:12, in migrate``: in the program, if it is there at all."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return where(frame, directory) if frame is not None else "its end"


def where(innermost: FrameType | None, directory: Path) -> str:
    """Return the innermost place of a stack that is in a release; else the innermost one that is no library's."""
    places = list(_places(innermost))
    own = [place for place in places if is_within(place, directory)]
    others = [place for place in places if not place.f_code.co_filename.startswith((*_LIBRARIES, _OURS, "<"))]
    chosen = next(iter(own or others or places), None)
    return _told(chosen, directory) if chosen is not None else "its beginning"


def _places(frame: FrameType | None) -> list[FrameType]:
    found = []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found


def is_within(frame: FrameType, directory: Path) -> bool:
    """Whether a place is in the release, and in no environment that lies there."""
    file = frame.f_code.co_filename
    return file.startswith(f"{directory}{os.sep}") and not file.startswith((*_LIBRARIES, _OURS))


def leads_there(frame: FrameType) -> bool:
    """Whether a place is one from which a program is reached: this runtime's, or Python's own for imports."""
    return frame.f_code.co_filename.startswith((_OURS, *_IMPORTING))


def _told(frame: FrameType, directory: Path) -> str:
    file, name = frame.f_code.co_filename.removeprefix(f"{directory}{os.sep}"), frame.f_code.co_name
    return f"{file}:{frame.f_lineno}" + ("" if name == "<module>" else f", in {name}")
