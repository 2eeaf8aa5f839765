"""The client's end of the control socket: plain, blocking, and quick to import.

`supervisor status` must answer at once, so nothing is imported here but what a socket and JSON need. Knows the lines of
`control`; shows nothing to anybody.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bastion.supervisor import private

CONNECT_TIMEOUT = 5.0
"""Seconds for a supervisor to take a connection and to answer `status`; a healthy one takes milliseconds."""


class NoSupervisorError(Exception):
    """Nobody answers at the control socket, or no longer. The message says what was seen there."""

    advice = "Start one with `supervisor run`, or name its settings file with --config"
    """What can be done about it."""


class RefusedError(Exception):
    """A supervisor is there, and does not do what was asked."""


class BusyError(RefusedError):
    """A supervisor is there, and has no time or no room just now."""


class _Signals:
    """A socket that is readable once a signal came.

    A signal that comes after Python last looked and before a system call begins does not interrupt that call: Ctrl-C
    would be heard only when the supervisor says something next. Signals go to the main thread, so in another one
    there is nothing to see.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._before: int | None = None
        with suppress(ValueError):  # not the main thread
            self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)

    def close(self) -> None:
        """Let signals be told where they were told before."""
        if self._before is not None:
            signal.set_wakeup_fd(self._before)
        self._reader.close()
        self._writer.close()

    def wait(self, what: socket.socket | int, timeout: float | None) -> None:
        """Return once there is something to read; a signal's handler runs, and may raise, before more is waited for.

        ``timeout`` is in seconds, anew after each signal. Raises TimeoutError.
        """
        while True:
            ready, _, _ = select.select([what, self._reader], [], [], timeout)
            if what in ready:
                return
            if not ready:
                raise TimeoutError
            self._reader.recv(4096)


class Connection:
    """One request to the supervisor at ``path``. Use as a context manager.

    Raises `NoSupervisorError` if nobody listens there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if problem := private.fake(path):
            raise _not_believed(path, problem)
        self._socket = _connected(path)
        if problem := private.impostor(self._socket, path):
            self._socket.close()
            raise _not_believed(path, problem)
        self.pid: int = private.credentials(self._socket)[0]
        """The supervisor's pid; 0 when it lives in another pid namespace."""
        self._signals = _Signals()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._signals.close()
        self._socket.close()

    def ask(self, command: str, *, timeout: float | None = None, **arguments: object) -> Iterator[dict[str, Any]]:
        """Send a request and yield each line of the answer until the supervisor has said all.

        ``timeout`` is how many seconds the answer may be silent; None waits for as long as it takes. Raises
        `RefusedError` on an error line and `NoSupervisorError` when the supervisor hangs or goes away.
        """
        try:
            with suppress(BrokenPipeError):  # the answer may have come already: the supervisor is busy
                self._socket.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            for line in self._lines(timeout):
                yield self._read(line)
        except TimeoutError:
            silent = NoSupervisorError(
                f"the supervisor (pid {self.pid}) at {self._path} took the question and said nothing for "
                f"{timeout or CONNECT_TIMEOUT:g} s: it hangs or is stopped"
            )
            silent.advice = f"See whether process {self.pid} is stopped, or what keeps it busy"
            raise silent from None
        except OSError as error:
            raise self.lost(error.strerror or str(error)) from None

    def _lines(self, timeout: float | None) -> Iterator[bytes]:
        """Yield each line as it comes; the last one may lack its end. Raises TimeoutError, other OSErrors."""
        begun = b""
        while True:
            self._signals.wait(self._socket, timeout)
            data = self._socket.recv(65536)
            *lines, begun = (begun + data).split(b"\n")
            for line in lines:
                yield line + b"\n"
            if not data:
                if begun:
                    yield begun
                return

    def wait_for(self, descriptor: int) -> None:
        """Wait until there is something to read, for as long as it takes."""
        self._signals.wait(descriptor, None)

    def lost(self, what: str = "the connection ended") -> NoSupervisorError:
        """Return the error for an answer that broke off."""
        return NoSupervisorError(f"the supervisor (pid {self.pid}) at {self._path} went away while it answered: {what}")

    def _read(self, line: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not line.endswith(b"\n"):
            raise self.lost("the last line is broken")
        if answer.get("type") == "error":
            raise (BusyError if answer.get("busy") else RefusedError)(str(answer.get("error")))
        return answer


def fetch_status(path: Path) -> dict[str, Any]:
    """Return the status as the supervisor at ``path`` gave it. Raises `NoSupervisorError`, `RefusedError`."""
    with Connection(path) as connection:
        for answer in connection.ask("status", timeout=CONNECT_TIMEOUT):
            status = answer.get("status")
            if isinstance(status, dict):
                return status
        raise connection.lost()


def request_stop(path: Path) -> int:
    """Ask the supervisor at ``path`` to stop, wait until its process has gone, return its pid.

    Raises `NoSupervisorError`, `RefusedError`.
    """
    with Connection(path) as connection:
        try:  # opened before the question: afterwards the number could belong to somebody else
            process: int | None = os.pidfd_open(connection.pid) if connection.pid else None
        except OSError:
            process = None
        try:
            accepted = False
            try:
                for answer in connection.ask("stop"):
                    accepted = accepted or answer.get("type") == "accepted"
            except NoSupervisorError:
                if not accepted:  # once it is accepted, a connection that breaks is the end we wait for
                    raise
            if not accepted:
                raise connection.lost()
            if process is not None:
                connection.wait_for(process)
        finally:
            if process is not None:
                os.close(process)
        return connection.pid


def _connected(path: Path) -> socket.socket:
    """Connect. Raises `NoSupervisorError`; `BusyError` if a supervisor listens, and its queue stays full."""
    made = socket.socket(socket.AF_UNIX)
    try:
        # With a timeout of Python's, connect fails at once if the queue is full.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(CONNECT_TIMEOUT))
        made.connect(os.fsencode(path))
        made.settimeout(CONNECT_TIMEOUT)
    except BlockingIOError:
        made.close()
        raise BusyError(
            f"the supervisor at {path} is busy, hangs or is stopped: its queue has been full for {CONNECT_TIMEOUT:g} s"
        ) from None
    except OSError as error:
        made.close()
        absent = NoSupervisorError(_absence(path, error))
        if isinstance(error, PermissionError):
            absent.advice = "One may be running: ask it as the user that it runs as, or as root"
        raise absent from None
    return made


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))


def _not_believed(path: Path, problem: str) -> NoSupervisorError:
    error = NoSupervisorError(f"nobody is asked at {path}, for another user could answer there: {problem}")
    error.advice = "Remove what is not yours, or name another control.socket; a bot that runs is not affected"
    return error


def _absence(path: Path, error: OSError) -> str:
    match error:
        case FileNotFoundError():
            seen = "there is no such socket"
        case ConnectionRefusedError():
            seen = "the socket is left over from one that has ended"
        case _:
            seen = error.strerror or str(error)
    return f"no supervisor answers at {path}: {seen}"
