"""The supervisor replaces its own program: same process, new code, a bot that serves meanwhile.

Knows what is carried over and in which form (JSON in an anonymous file whose descriptor survives), the trial that the
new code has to pass before the old one lets go, and the order of things around execve. What the parts mean is known to
those who made them: `engine`, `child`, `control`, `ledgerdir`, `local_sandbox`.

The environment variable `VARIABLE` names the descriptor to the new program; it is gone before anything is started.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import msgspec

from bastion.supervisor import __version__, control
from bastion.supervisor.engine import SIGNALS, Kept
from bastion.supervisor.local_sandbox import CarriedSandbox
from bastion.supervisor.writer import Writer
from bastion.wire import PROTOCOL

FORMAT = 2
"""Version of what is carried over. A field with a default may be added without a new one."""
VARIABLE = "BASTION_CARRIED"
TRIAL_OPTION = "--trial"
TRIAL_TIMEOUT = 10.0
"""Seconds in which the new code must have looked at everything: an interpreter, its imports, one file."""
_PASSED = {"trial": "passed"}


class CarryError(Exception):
    """What was carried over cannot be taken up. The message says why."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """All that is carried over. ``signals``: a pipe that holds the numbers of signals which came too late."""

    format: int = FORMAT
    protocol: int = PROTOCOL
    """What the bot speaks."""
    pid: int
    version: str
    kept: Kept
    control: control.Held
    sandbox: CarriedSandbox | None = None
    signals: int = -1
    log: bytes = b""
    """Lines that nobody has read yet."""

    @property
    def descriptors(self) -> list[int]:
        """Return every descriptor that must survive."""
        place = self.kept.place
        found = [self.control.listener, self.control.lock, self.signals, place.lock, *self.kept.bot.descriptors]
        if place.membership is not None:
            found.append(place.membership.lock)
        if self.sandbox is not None:
            found += [self.sandbox.stdin, self.sandbox.stdout]
        return [fd for fd in found if fd is not None and fd >= 0]


class _Header(msgspec.Struct):
    format: int
    protocol: int
    pid: int
    version: str


def encode(envelope: Envelope) -> bytes:
    """Write it as JSON. Raises `CarryError`."""
    try:
        return msgspec.json.encode(envelope, enc_hook=_written)
    except UnicodeEncodeError as error:  # half a character, from a path that is not UTF-8
        raise CarryError(f"what is known here cannot be written down: {error}") from None


def decode(data: bytes) -> Envelope:
    """Read what `encode` wrote, also an earlier version's. Raises `CarryError`."""
    try:
        header = msgspec.json.decode(data, type=_Header)
        if header.format != FORMAT:
            raise CarryError(
                f"supervisor {header.version} carries format {header.format} over, {__version__} knows {FORMAT}: "
                "restart once"
            )
        if header.protocol != PROTOCOL:
            raise CarryError(
                f"the bot speaks protocol {header.protocol}, supervisor {__version__} speaks {PROTOCOL}: restart once"
            )
        return msgspec.json.decode(data, type=Envelope, dec_hook=_read_as)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CarryError(f"what the running supervisor carries over cannot be read: {error}") from None


def _written(value: object) -> object:
    if isinstance(value, Path):
        return os.fsencode(value).decode("latin-1")  # a path may hold any bytes, JSON may not
    raise NotImplementedError(type(value))


def _read_as(kind: type[Any], value: Any) -> Any:
    if kind is Path:
        return Path(os.fsdecode(str(value).encode("latin-1")))
    raise NotImplementedError(kind)


# --- the old program ----------------------------------------------------------------------------------------------


class Reexec:
    """This process's way to its next program."""

    def __init__(
        self,
        server: control.Server,
        *,
        sandbox: CarriedSandbox | None,
        log: Writer,
        command: Sequence[str] | None = None,
    ) -> None:
        """``log`` is behind standard error. ``command`` is the command line of this process, interpreter first."""
        self.pids: set[int] = set()
        self._server = server
        self._sandbox = sandbox
        self._log = log
        self._command = list(command or own_command())
        self._signals = -1

    async def try_out(self, kept: Kept) -> str | None:
        """Run the new code beside us, with a copy of what it would go on with; return why it would not do."""
        try:
            process = self._start_trial(kept)
        except (OSError, CarryError) as error:
            return f"the new code cannot be tried: {error}"
        self.pids.add(process.pid)
        try:
            wait = partial(process.communicate, timeout=TRIAL_TIMEOUT)
            out, err = await anyio.to_thread.run_sync(wait, abandon_on_cancel=True)
        except subprocess.TimeoutExpired:
            return f"the new code has not started within {TRIAL_TIMEOUT:g} s"
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
            for pipe in (process.stdout, process.stderr):
                assert pipe is not None
                pipe.close()
            self.pids.discard(process.pid)
        return _verdict(out, err, process.returncode)

    def _start_trial(self, kept: Kept) -> subprocess.Popen[bytes]:
        fd = _memory(encode(self._envelope(kept)))
        try:
            return subprocess.Popen(
                trial_command(self._command, fd),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[fd],
            )
        finally:
            os.close(fd)

    @contextlib.asynccontextmanager
    async def quiet(self) -> AsyncIterator[None]:
        """Let the control socket's clients wait for the new program, and those have their answers who are here."""
        try:
            await self._server.pause()
            yield
        finally:
            self._server.resume()

    @contextlib.contextmanager
    def holding_signals(self) -> Iterator[None]:
        """Keep signals: pending, or, where another thread took one, in a pipe. Both survive execve."""
        self._signals, write = os.pipe()
        os.set_blocking(self._signals, False)
        os.set_blocking(write, False)
        usual = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.set_wakeup_fd(usual)
            _send_again(self._signals)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(self._signals)
            os.close(write)
            self._signals = -1

    def take_over(self, kept: Kept) -> str:
        """Become the new program. Returns only if that failed: why."""
        envelope = self._envelope(kept, log=self._log.hold())
        memory: int | None = None
        try:
            memory = _memory(encode(envelope))
            for fd in (memory, *envelope.descriptors):
                os.set_inheritable(fd, True)
            os.execve(self._command[0], self._command, {**os.environ, VARIABLE: str(memory)})
        except (OSError, CarryError) as error:
            self._log.release()
            for fd in envelope.descriptors:
                os.set_inheritable(fd, False)
            if memory is not None:
                os.close(memory)
            return f"{self._command[0]}: {error.strerror}" if isinstance(error, OSError) else str(error)

    def _envelope(self, kept: Kept, *, log: bytes = b"") -> Envelope:
        return Envelope(
            pid=os.getpid(),
            version=__version__,
            kept=kept,
            control=self._server.held,
            sandbox=self._sandbox,
            signals=self._signals,
            log=log,
        )


def own_command() -> list[str]:
    """Return the command line of this process. An environment that was upgraded in place is found by the same path."""
    return [sys.executable, *sys.orig_argv[1:]]


def trial_command(command: Sequence[str], fd: int) -> list[str]:
    """Return the command line of a trial: what is behind ``--`` is the bot's."""
    end = command.index("--") if "--" in command else len(command)
    return [*command[:end], TRIAL_OPTION, str(fd), *command[end:]]


def _memory(data: bytes) -> int:
    """Return the descriptor of an anonymous file with ``data``, which the caller closes."""
    fd = os.memfd_create("bastion-carried")
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
    except OSError:
        os.close(fd)
        raise
    return fd


def _verdict(out: bytes, err: bytes, status: int) -> str | None:
    """Read what the trial said; it may have printed other things before."""
    with contextlib.suppress(ValueError, IndexError):
        said = json.loads(out.decode(errors="replace").strip().splitlines()[-1])
        if said == _PASSED:
            return None
        if isinstance(said, dict) and isinstance(said.get("problem"), str):
            return str(said["problem"])
    words = [line for line in err.decode(errors="replace").splitlines() if line.strip()]
    how = f"exited with status {status}" if status >= 0 else f"was killed by signal {-status}"
    return f"the new code {how}" + (f": {words[-1].strip()}" if words else "")


def _send_again(pipe: int) -> None:
    """Send ourselves the signals whose numbers wait in the pipe."""
    with contextlib.suppress(BlockingIOError):
        for number in os.read(pipe, 4096):
            if number in SIGNALS:
                os.kill(os.getpid(), number)


# --- the new program ----------------------------------------------------------------------------------------------


def received() -> Envelope | None:
    """Return what an earlier program of this process carried over, None if there was none. Raises `CarryError`.

    The signals in `engine.SIGNALS` are blocked then, until the engine handles them.
    """
    value = os.environ.pop(VARIABLE, None)
    if value is None:
        return None
    envelope = read(value)
    if envelope.pid != os.getpid():
        raise CarryError(f"{VARIABLE} is set, but process {envelope.pid} has set it: unset it")
    for fd in envelope.descriptors:
        os.set_inheritable(fd, False)
    os.close(int(value))
    _send_again(envelope.signals)
    os.close(envelope.signals)
    return envelope


def read(descriptor: str) -> Envelope:
    """Read what is carried over. Raises `CarryError`."""
    try:
        fd = int(descriptor)
        data, size = b"", os.fstat(fd).st_size
        while len(data) < size and (part := os.pread(fd, size - len(data), len(data))):
            data += part
    except (ValueError, OverflowError, OSError):
        raise CarryError(f"{VARIABLE} or {TRIAL_OPTION} names no file: {descriptor!r}") from None
    return decode(data)


def passed() -> str:
    """Return what a trial prints that found nothing wrong."""
    return json.dumps(_PASSED)


def failed(problem: str) -> str:
    """Return what a trial prints that found something wrong."""
    return json.dumps({"problem": problem})
