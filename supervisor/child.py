"""One bot process: its birth, its two pipes, its output, its death.

Knows processes and file descriptors and the framing of messages; what a message means it does not know, with one
exception: nothing is told to a process that has not answered our nonce, and then it must say `Hello`. It decides
nothing: it reports to whoever spawned it.

Everything here happens in callbacks of the running event loop; nothing blocks, and nothing that a child does (garbage,
silence, a flood, a pipe that it does not read) reaches further than its own `Child`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import msgspec
import psutil

from bastion.counted import counted
from bastion.supervisor import descent, headroom, leftovers
from bastion.supervisor.adopted import Adopted, Process
from bastion.supervisor.ceilings import with_ceiling
from bastion.supervisor.descent import Origin
from bastion.supervisor.leftovers import Remains
from bastion.supervisor.printable import escaped
from bastion.supervisor.release import Release
from bastion.supervisor.tokens import SHORTEST_MASKED
from bastion.wire import (
    PROTOCOL,
    Challenge,
    Environment,
    Fatal,
    FromChild,
    Hello,
    Launched,
    LineBuffer,
    LoggedIn,
    ToChild,
    WireError,
    decode_from_child,
    encode,
)

CLOSED_GRACE = 1.0
"""Seconds in which a child that closed its pipe exits, before it counts as one that lives on without."""
WRITE_PATIENCE = 10.0
"""Seconds for which a child may leave its pipe full. Its event loop answers heartbeats, so it should never."""
MAX_UNSENT = 256 * 1024
"""Bytes kept for a child beyond what its pipe holds (64 KiB on Linux)."""
MAX_LOG_LINE = 8 * 1024
"""Bytes of one line of a child's output that are kept; the rest of the line is dropped."""
LAST_LINES = 20
OUTPUT_SIZE = 1024 * 1024
"""Bytes that a child's standard output and error hold: Linux gives 64 KiB, and a user's pipes 64 MiB together."""
_READ = 64 * 1024
_READ_OUTPUT = 16 * 1024
"""Bytes of output that are read in one turn of the loop: 8,000 lines at most, which take a tenth of a second."""
_LAST_READS = OUTPUT_SIZE // _READ_OUTPUT
"""How often a dead child's pipe is read: it held no more, the rest can only come from a process that it left behind."""
_STRIPPED = (
    "DISCORD_TOKEN",  # told over the pipe, to a process that has shown that it is ours
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"),
    "JOURNAL_STREAM",  # a child's output comes to us
)
_EXPENDABLE = 300
"""What an expendable child has in oom_score_adj above ours: as if it used 30 % of the memory more than it does."""
_RETRYABLE = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)


Stream: TypeAlias = Literal["stdout", "stderr"]
CommandFactory: TypeAlias = Callable[[Release], Sequence[str]]


class SpawnError(Exception):
    """The process could not be started. ``retryable``: for want of a resource that may come back."""

    def __init__(self, reason: str, *, retryable: bool) -> None:
        self.retryable = retryable
        super().__init__(reason)


class Listener(Protocol):
    """Who is told about a child. Called in the event loop; must not block."""

    def heard(self, child: Child, message: FromChild) -> None:
        """Take a message; the first is a `Hello`."""

    def broke(self, child: Child, reason: str, *, retryable: bool) -> None:
        """Learn, at most once, that the child cannot be talked to though its process lives."""

    def printed(self, child: Child, stream: Stream, line: str) -> None:
        """Take one line of its output."""

    def outlived(self, child: Child, remains: Remains) -> None:
        """Learn what the dead child had left running, if anything; it has ended, but for what ``remains`` says."""

    def left(self, child: Child, reason: str, *, retryable: bool) -> None:
        """Learn, exactly once and last of all, that the process is gone, and with it all that it had started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What a child is told at its start, besides its release. Times are in seconds."""

    generation: int
    standby: bool
    api_url: str
    ledger: Path
    left: Path
    """What the paths begin with of what it leaves for its successor."""
    supervisor: int = 0
    """Our number among those who share the ledger, 0 if nobody does."""
    expired_text: str = ""
    state_timeout: float = 2.0
    checkpoint: float = 60.0
    token: str = field(repr=False)
    """What the settings offer as DISCORD_TOKEN; "" if they have none."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What ``bot.env_file`` says."""

    @property
    def variables(self) -> dict[str, str]:
        """Return what the program finds in its environment beside what it has from us."""
        token = {"DISCORD_TOKEN": self.token} if self.token else {}
        return {**self.environment, **token}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldChild:
    """A process as it is held here: by its number, its pid and our ends of its pipes, -1 for a closed one."""

    generation: int
    release: Release
    pid: int
    read: int
    write: int
    stdout: int
    stderr: int
    parts: tuple[bytes, bytes] = (b"", b"")
    """What it has printed on either output that is no line yet."""
    secrets: tuple[str, ...] = field(repr=False)
    """What no line of its output may show."""

    @property
    def descriptors(self) -> list[int]:
        """Return the descriptors that are open."""
        return [fd for fd in (self.read, self.write, self.stdout, self.stderr) if fd >= 0]


LAUNCHER = Path(__file__).with_name("launcher.py")


def launcher(release: Release) -> Sequence[str]:
    """Return the start of the command line: our launcher, in the release's interpreter."""
    return (str(release.python), str(LAUNCHER))


def environment(base: Mapping[str, str], *, generation: int) -> dict[str, str]:
    """Return a child's environment: ours, without what systemd tells the supervisor alone, and without the token."""
    kept = {name: value for name, value in base.items() if name not in _STRIPPED}
    return {**kept, "PYTHONUNBUFFERED": "1", **descent.marks(generation)}


def spawn(release: Release, launch: Launch, listener: Listener, *, command: CommandFactory = launcher) -> Child:
    """Start a process. Needs a running event loop. Raises `SpawnError`; then nothing is left behind."""
    process, held = _start(release, launch, command)
    nonce = secrets.token_hex(16)
    child = Child(held, process, listener, nonce=nonce, variables=launch.variables)
    child.send(Challenge(nonce=nonce, protocol=PROTOCOL))
    return child


def adopt(held: HeldChild, listener: Listener) -> Child:
    """Go on with a process that was spawned before this supervisor re-executed itself, and is silent since."""
    return Child(held, Adopted(held.pid), listener)


class Child:
    """One process, from spawn (or adoption) to exit. When it is gone, all that it held here is released."""

    def __init__(
        self,
        held: HeldChild,
        process: Process,
        listener: Listener,
        *,
        nonce: str = "",
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Listen to a living process. Needs a running event loop.

        ``nonce`` is what it has to answer with before it is told anything, ``variables`` what it is told then. Without
        a nonce it has been told before.
        """
        self.release = held.release
        self.generation = held.generation
        self._listener = listener
        self._secrets = list(held.secrets)
        self._nonce, self._variables = nonce, variables or {}
        self._untold = bytearray()
        """What waits until the nonce has been answered."""
        self._loop = asyncio.get_running_loop()
        self._buffer = LineBuffer()
        self._unsent = bytearray()
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._greeted = not nonce
        self._broken = False
        self._gone = False
        self._sampled = False
        self._expendable = False
        self._killed = False
        """Whether SIGKILL was sent from here."""
        self._oom_kills = headroom.oom_kills()
        self._timers: list[asyncio.TimerHandle] = []
        self._stalled: asyncio.TimerHandle | None = None
        self._process, self._read, self._write = process, held.read, held.write
        self._psutil = _watched(process.pid)
        self._origin = _origin(process, held.generation)
        self._ending: asyncio.Task[None] | None = None
        """The end of what the child has left running: it is dead itself."""
        self._outputs: dict[Stream, _Output] = {
            "stdout": _Output(held.stdout, self._secrets, bytearray(held.parts[0])),
            "stderr": _Output(held.stderr, self._secrets, bytearray(held.parts[1])),
        }
        for stream, output in self._outputs.items():
            self._loop.add_reader(output.fd, self._on_output, stream)
        self._loop.add_reader(self._read, self._on_pipe)
        self._watch_exit()

    @property
    def held(self) -> HeldChild:
        """Return what `adopt` needs; this object must not be used any more if that happens."""
        out, err = self._outputs["stdout"], self._outputs["stderr"]
        return HeldChild(
            generation=self.generation,
            release=self.release,
            pid=self.pid,
            read=self._read,
            write=self._write,
            stdout=out.fd,
            stderr=err.fd,
            parts=(bytes(out.part), bytes(err.part)),
            secrets=tuple(self._secrets),
        )

    @property
    def born(self) -> float:
        """Return when the process was started, in unix seconds."""
        return psutil.Process(self.pid).create_time()

    @property
    def silent(self) -> bool:
        """Say whether nothing is half said, by it or to it."""
        return not (self._broken or self._unsent or self._buffer.rest)

    @property
    def pid(self) -> int:
        """Return the process id; it stays ours until the exit has been reported."""
        return self._process.pid

    def send(self, message: ToChild) -> None:
        """Put a message into the pipe; into none if the child has gone or broken."""
        if self._write < 0:
            return
        if self._nonce and not isinstance(message, Challenge):
            self._untold += encode(message)
            return
        waiting = bool(self._unsent)
        self._unsent += encode(message)
        if len(self._unsent) > MAX_UNSENT:
            self._break(f"has left {counted(len(self._unsent), 'byte')} in its pipe unread")
        elif not waiting:
            self._on_writable()

    def signal(self, name: Literal["SIGTERM", "SIGKILL", "SIGUSR1"]) -> None:
        """Signal the process if it lives. Until it has been waited for here, its pid cannot be another's."""
        if self._gone:
            return
        self._killed = self._killed or name == "SIGKILL"
        if self._pidfd < 0:
            self._process.send_signal(signal.Signals[name])
            return
        with contextlib.suppress(ProcessLookupError):  # waits for nobody, which `Popen.send_signal` would
            signal.pidfd_send_signal(self._pidfd, signal.Signals[name])

    def set_expendable(self, expendable: bool) -> None:
        """Have the kernel take this process before others when memory runs out, or take that back.

        Where the kernel does not let us, the order stays the kernel's own.
        """
        if self._gone or expendable == self._expendable:
            return
        self._expendable = expendable
        with contextlib.suppress(OSError, ValueError):
            ours = int(Path("/proc/self/oom_score_adj").read_bytes())
            wanted = min(1000, ours + _EXPENDABLE) if expendable else ours
            Path(f"/proc/{self.pid}/oom_score_adj").write_bytes(str(wanted).encode())

    def sample(self) -> tuple[int | None, float | None]:
        """Return resident bytes and CPU per cent since the sample before (None at first, or when it is gone)."""
        if self._psutil is None or self._gone:
            return None, None
        try:
            with self._psutil.oneshot():
                percent = self._psutil.cpu_percent(interval=None)
                rss = self._psutil.memory_info().rss
        except psutil.Error:
            return None, None
        first, self._sampled = not self._sampled, True
        return rss, None if first else percent

    # The pipe from the child.

    def _on_pipe(self) -> None:
        data = _read_some(self._read)
        if data is None:
            return
        if data:
            self._take(data)
            return
        self._loop.remove_reader(self._read)
        if self._ending is None:
            self._later(CLOSED_GRACE, lambda: self._break("closed its pipe and lives on"))

    def _take(self, data: bytes) -> None:
        try:
            for line in self._buffer.feed(data):
                if self._broken:
                    return
                self._hear(decode_from_child(line))
        except WireError as error:
            self._break(f"sent something that is not a message: {error}", retryable=False)

    def _hear(self, message: FromChild) -> None:
        if self._nonce:
            self._take_answer(message)
            return
        if isinstance(message, LoggedIn):
            self._keep_secret(message.token)
        if not self._greeted and not isinstance(message, Fatal):
            if not isinstance(message, Hello):
                raise WireError(f"{type(message).__name__} came before Hello")
            if message.protocol != PROTOCOL:
                self._break(
                    f"its runtime speaks protocol {message.protocol}, this supervisor {PROTOCOL}: "
                    "install the same version of bastion-supervisor in the release's environment",
                    retryable=False,
                )
                return
            self._greeted = True
        if isinstance(message, Fatal):
            message = msgspec.structs.replace(message, reason=with_ceiling(escaped(self._masked(message.reason))))
        self._listener.heard(self, message)

    def _take_answer(self, message: FromChild) -> None:
        """Take the answer to our nonce; tell its process all that it is to know then."""
        match message:
            case Launched(nonce=nonce) if secrets.compare_digest(nonce, self._nonce):
                variables, self._nonce, self._variables = self._variables, "", {}
                self.send(Environment(variables=dict(variables)))
                self._unsent += self._untold
                self._untold.clear()
                self._on_writable()
            case Fatal():
                self._listener.heard(self, message)
            case _:
                raise WireError(f"{type(message).__name__} is no answer to the nonce")

    def _keep_secret(self, token: str) -> None:
        if len(token) >= SHORTEST_MASKED and token not in self._secrets:
            self._secrets.append(token)

    def _break(self, reason: str, *, retryable: bool = True) -> None:
        """Stop talking to the child and say so, once."""
        if self._broken or self._gone:
            return
        self._broken = True
        self._loop.remove_reader(self._read)
        self._close_write()
        self._listener.broke(self, reason, retryable=retryable)

    # The pipe to the child.

    def _on_writable(self) -> None:
        try:
            written = os.write(self._write, self._unsent)
        except BlockingIOError:
            written = 0
        except OSError:  # the reading end is closed: the child is on its way out, and the other pipe will say so
            self._close_write()
            return
        del self._unsent[:written]
        if self._stalled is not None and (written or not self._unsent):
            self._stalled.cancel()
            self._stalled = None
        if self._unsent:
            self._loop.add_writer(self._write, self._on_writable)
            if self._stalled is None:
                reason = f"has not read its pipe for {WRITE_PATIENCE:g} s"
                self._stalled = self._loop.call_later(WRITE_PATIENCE, lambda: self._break(reason))
        else:
            self._loop.remove_writer(self._write)

    def _close_write(self) -> None:
        if self._write >= 0:
            self._loop.remove_writer(self._write)
            os.close(self._write)
            self._write = -1
        self._unsent.clear()
        if self._stalled is not None:
            self._stalled.cancel()

    # Output.

    def _on_output(self, stream: Stream) -> bool:
        """Read once; True if there may be more."""
        output = self._outputs[stream]
        data = _read_some(output.fd, _READ_OUTPUT)
        if data is None:
            return False
        if not data:
            self._loop.remove_reader(output.fd)
        for line in output.feed(data) if data else output.rest():
            self._print(stream, line)
        return bool(data)

    def _print(self, stream: Stream, line: str) -> None:
        line = self._masked(line)
        if stream == "stderr":
            self._last.append(line)
        self._listener.printed(self, stream, line)

    def _masked(self, text: str) -> str:
        """Hide tokens, which an app may print together with its environment."""
        for secret in self._secrets:
            text = text.replace(secret, "[token]")
        return text

    # Death.

    def _watch_exit(self) -> None:
        self._pidfd = -1
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):  # an old kernel, or no descriptor left
                self._pidfd = os.pidfd_open(self._process.pid)
        if self._pidfd >= 0:
            self._loop.add_reader(self._pidfd, self._on_exit)
        else:
            waiting = self._loop.run_in_executor(None, _await_end, self._process.pid)
            waiting.add_done_callback(lambda _: self._on_exit())

    def _on_exit(self) -> None:
        """End what the dead child has left running. It is waited for afterwards: its session's number stays its own."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
        for timer in self._timers:
            timer.cancel()
        self._close_write()
        self._ending = self._loop.create_task(self._end_leftovers())

    async def _end_leftovers(self) -> None:
        remains = Remains()
        try:
            remains = await leftovers.end_aside(self._origin)
            for _ in range(_LAST_READS):  # much may be left in the pipes: others have their turns in between
                await asyncio.sleep(0)
        finally:
            self._leave(remains)

    def _leave(self, remains: Remains) -> None:
        """Read what the dead child has said at last, release everything, report."""
        status = self._process.wait()  # does not wait: the process is known to be gone
        self._read_the_rest()
        self._gone = True
        for fd in (self._read, self._pidfd, *(output.fd for output in self._outputs.values())):
            if fd >= 0:
                self._loop.remove_reader(fd)
                os.close(fd)
        reason, retryable = _explain(status, list(self._last))
        if status == -signal.SIGKILL and not self._killed:
            reason += headroom.suspicion(self._oom_kills)
        if remains:
            self._listener.outlived(self, remains)
        copies = [left for left in remains.ended if left.copies(self.release.entry, self.release.directory)]
        if copies:
            reason += f", after it had started a copy of itself ({copies[0].name}), which was ended"
        self._listener.left(self, with_ceiling(reason), retryable=retryable)

    def _read_the_rest(self) -> None:
        for _ in range(_LAST_READS):
            data = None if self._broken else _read_some(self._read)
            if not data:
                break
            self._take(data)
        for stream, output in self._outputs.items():
            for _ in range(_LAST_READS):
                if not self._on_output(stream):
                    break
            for line in output.rest():
                self._print(stream, line)

    def _later(self, seconds: float, callback: Callable[[], None]) -> None:
        self._timers.append(self._loop.call_later(seconds, callback))


@dataclass(slots=True)
class _Output:
    """One output stream, cut into lines of bounded length."""

    fd: int
    secrets: list[str] = field(repr=False)
    part: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> list[str]:
        first, *others = data.split(b"\n")
        self._keep(first)
        lines = []
        for piece in others:
            lines.append(self._line())
            self._keep(piece)
        return lines

    def rest(self) -> list[str]:
        """Return the line that never ended, if there is one."""
        return [self._line()] if self.part else []

    def _keep(self, piece: bytes) -> None:
        self.part += piece[: max(0, MAX_LOG_LINE - len(self.part))]

    def _line(self) -> str:
        cut = len(self.part) >= MAX_LOG_LINE
        if cut:
            del self.part[len(self.part) - self._begun() :]
        text = self.part.decode("utf-8", "replace").rstrip("\r")
        self.part.clear()
        return text + " ... (cut)" if cut else text

    def _begun(self) -> int:
        """Return how much of a token the line ends with: what is cut in its middle could not be masked."""
        return max((_ends_with(self.part, secret.encode()) for secret in self.secrets), default=0)


def _ends_with(part: bytearray, secret: bytes) -> int:
    """Return how many bytes of the beginning of a secret are the end of a line."""
    lengths = range(min(len(secret), len(part)), 0, -1)
    return next((length for length in lengths if part.endswith(secret[:length])), 0)


def _start(release: Release, launch: Launch, command: CommandFactory) -> tuple[Process, HeldChild]:
    """Spawn; return the process, and our ends of its pipes."""
    ours: list[int] = []
    theirs: list[int] = []
    try:
        for way in ("read", "write", "read", "read"):
            read, write = os.pipe()
            ours.append(read if way == "read" else write)
            theirs.append(write if way == "read" else read)
            os.set_blocking(ours[-1], False)
        for fd in ours[2:]:
            _widen(fd)
        process = subprocess.Popen(
            [*command(release), *_arguments(release, launch, read=theirs[1], write=theirs[0])],
            cwd=release.directory,
            env=environment(os.environ, generation=launch.generation),
            stdin=subprocess.DEVNULL,
            stdout=theirs[2],
            stderr=theirs[3],
            pass_fds=theirs[:2],
            start_new_session=True,
        )
    except OSError as error:
        for fd in ours:
            os.close(fd)
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
        if not release.directory.is_dir():
            what = f"the release {release.directory} is no longer there; put it back, or reload to one that is"
        raise SpawnError(with_ceiling(f"cannot be started: {what}"), retryable=error.errno in _RETRYABLE) from None
    finally:
        for fd in theirs:
            os.close(fd)
    read, write, stdout, stderr = ours
    return process, HeldChild(
        generation=launch.generation,
        release=release,
        secrets=(launch.token,) if len(launch.token) >= SHORTEST_MASKED else (),
        pid=process.pid,
        read=read,
        write=write,
        stdout=stdout,
        stderr=stderr,
    )


def _arguments(release: Release, launch: Launch, *, read: int, write: int) -> list[str]:
    options: dict[str, object] = {
        "--read": read,
        "--write": write,
        "--generation": launch.generation,
        "--app": release.app,
        "--shards": release.shards,
        "--role": "standby" if launch.standby else "active",
        "--ledger": launch.ledger,
        "--left": launch.left,
        "--state-timeout": launch.state_timeout,
        "--checkpoint": launch.checkpoint,
        "--api-url": launch.api_url,
        "--directory": release.directory,
    }
    if launch.supervisor:  # an older release that shares nothing need not know the option
        options["--supervisor"] = launch.supervisor
    words = [str(word) for pair in options.items() for word in pair]
    # In one word each: they may begin with a hyphen.
    words += [f"--program={release.program}", f"--expired-text={launch.expired_text}"]
    return [*words, "--", *release.args]


def _widen(fd: int) -> None:
    """Let a pipe hold more, for times in which nobody reads: the supervisor is stopped, or re-executes itself."""
    with contextlib.suppress(OSError):  # where the user's pipes have no room left
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, OUTPUT_SIZE)


def _read_some(fd: int, size: int = _READ) -> bytes | None:
    """Read what is there: b"" at the end, None if there is nothing now."""
    try:
        return os.read(fd, size)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _origin(process: Process, generation: int) -> Origin:
    """Return by what the child's processes are told. The command line of one just spawned is not in /proc yet."""
    if isinstance(process, subprocess.Popen) and isinstance(process.args, list):
        words = tuple(map(str, process.args))
    else:
        words = descent.words_of(process.pid)
    return Origin(pid=process.pid, generation=generation, words=words)


def _await_end(pid: int) -> None:
    """Wait until a process has ended; whoever waits for it gets its status."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _watched(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.Error:
        return None


def _explain(status: int, last: Sequence[str]) -> tuple[str, bool]:
    """Say why a process ended that has not said so itself, and whether another try may help: it always may."""
    if status < 0:
        try:
            how = f"killed by {signal.Signals(-status).name}"
        except ValueError:
            how = f"killed by signal {-status}"
        crash = next((line for line in last if line.startswith("Fatal Python error")), None)
        return (f"{how}: {crash}" if crash else how), True
    how = f"exited with status {status}"
    error = _raised(last) if status else None
    return (f"{how}: {error}" if error else how), True


def _raised(last: Sequence[str]) -> str | None:
    """Return the exception behind the last traceback in the output; other lines may say anything."""
    begins = [number for number, line in enumerate(last) if line.startswith("Traceback (most recent call last)")]
    behind = last[begins[-1] + 1 :] if begins else []
    return next((line for line in behind if line.strip() and not line[0].isspace()), None)
