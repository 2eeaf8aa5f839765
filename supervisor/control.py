"""The control socket's server: who may ask, what was asked, and how the answer is carried.

A client sends one JSON line and reads JSON lines until the server closes the connection. This module knows sockets,
file modes and peer credentials; of the engine it knows only the `Engine` protocol. Whatever a client sends, and however
it leaves, ends that client's connection and nothing else: a reload goes on without the one who asked for it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec

from bastion.supervisor import private
from bastion.supervisor.door import BACKLOG, Door, Stream
from bastion.supervisor.status import Status
from bastion.wire.private import open_private

if TYPE_CHECKING:
    from anyio.streams.memory import MemoryObjectReceiveStream

    from bastion.supervisor.outcome import Outcome, Progress

MAX_REQUEST = 4096
"""Longest request in bytes. The longest honest one has fewer than 50."""
REQUEST_TIMEOUT = 5.0
"""Seconds in which a client must have sent its request."""
SEND_TIMEOUT = 5.0
"""Seconds in which a client must take a line; one that does not read is let go."""
QUIET_TIMEOUT = 2.0
"""Seconds in which clients must have their answers before the supervisor re-executes itself."""
PROGRESS_KEPT = 256
"""Progress lines kept for a client that reads slowly; further ones are dropped, the result never is."""

_logger = logging.getLogger("supervisor.control")


class ControlError(Exception):
    """The control socket cannot be opened. The message says why and what to do."""


class PlaceError(ControlError):
    """The socket's directory cannot be used, or another user could tamper with it: a matter of configuration."""


class Engine(Protocol):
    """What the server asks of the engine."""

    async def reload(self, *, force: bool = False, on_progress: Callable[[Progress], None] | None = None) -> Outcome:
        """Run, join or queue a reload; return how it ended."""

    async def rollback(self, *, force: bool = False, on_progress: Callable[[Progress], None] | None = None) -> Outcome:
        """Hand over to the release that served before this one; return how it ended."""

    async def stop(self) -> None:
        """Drain and stop; return when every child has left."""

    async def status(self) -> Status:
        """Return what was observed last."""


class Reload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="command", tag="reload"):
    """Reload; with ``wait`` progress lines and an outcome follow, without it only the acceptance.

    ``force``: though memory or today's IDENTIFYs may not suffice.
    """

    wait: bool = True
    force: bool = False


class Rollback(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="command", tag="rollback"):
    """Go back to the release before; progress lines and an outcome follow. ``force`` as for `Reload`."""

    force: bool = False


class GetStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="command", tag="status"):
    """Send the status."""


class Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="command", tag="stop"):
    """Drain and stop. The connection is held until the supervisor ends."""


Request: TypeAlias = Reload | Rollback | GetStatus | Stop
_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An open control socket, by its descriptors: what is carried over a re-execution."""

    path: Path
    listener: int
    lock: int


@asynccontextmanager
async def serve(path: Path, engine: Engine, *, held: Held | None = None) -> AsyncIterator[Server]:
    """Answer clients at ``path`` while the context is open; the socket is removed at its end.

    ``held`` is a socket that is open already. If its path is another one, it is closed as soon as the one at ``path``
    is open; if that cannot be opened, the old one goes on. Raises `ControlError` before anything has begun when the
    directory is not safe or another supervisor answers there.
    """
    with ExitStack() as stack:
        opened = _kept_or_opened(path, held, stack)
        with socket.socket(fileno=opened.listener) as listener:
            async with anyio.create_task_group() as tasks:
                server = Server(engine, opened, listener, tasks)
                server.resume()
                try:
                    yield server
                    await server.farewell()
                finally:
                    await server.pause(timeout=0.0)
                    tasks.cancel_scope.cancel()


def try_out(path: Path, *, held: Held) -> None:
    """See whether `serve` could open ``path`` beside ``held``. Leaves nothing. Raises `ControlError`."""
    if path != held.path:
        _prepare_directory(path.parent)
        with _only_one(path), _left_behind_removed(path):
            pass


def _kept_or_opened(path: Path, held: Held | None, stack: ExitStack) -> Held:
    """Open the socket, or go on with the one that is open; ``stack`` removes it."""
    if held is None or held.path != path:
        try:
            opened = stack.enter_context(_opened(path))
        except ControlError as error:
            if held is None:
                raise
            _logger.warning("%s; the control socket stays at %s", error, held.path)
        else:
            if held is not None:
                with _closed_after(held):
                    os.close(held.listener)
            return opened
    stack.enter_context(_closed_after(held))
    return held


@contextmanager
def _opened(path: Path) -> Iterator[Held]:
    _prepare_directory(path.parent)
    with _only_one(path) as lock, _left_behind_removed(path):
        with ExitStack() as undo:
            listener = undo.enter_context(socket.socket(socket.AF_UNIX))
            try:
                listener.bind(str(path))
                path.chmod(0o600)  # nobody can connect before it listens
                listener.listen(BACKLOG)
            except OSError as error:
                raise ControlError(f"the control socket {path} cannot be opened: {error.strerror or error}") from None
            undo.pop_all()
        yield Held(path=path, listener=listener.detach(), lock=lock)


@contextmanager
def _closed_after(held: Held) -> Iterator[None]:
    """Remove at the end what was carried over."""
    try:
        yield
    finally:
        _remove(held.path, _lock_path(held.path))
        os.close(held.lock)


class Server:
    """Connections and what they asked for."""

    def __init__(self, engine: Engine, held: Held, listener: socket.socket, tasks: anyio.abc.TaskGroup) -> None:
        self.held = held
        self._engine = engine
        self._tasks = tasks
        self._door = Door(listener, self._welcome)
        self._gone = anyio.Event()
        """Set, and renewed, when a client has left."""
        self._waiting: set[anyio.Event] = set()
        """One event for each client that waits for an outcome, set when it has been sent or the client has left."""

    async def farewell(self) -> None:
        """Let the outcomes of an engine that has ended reach those who wait for them."""
        with anyio.move_on_after(SEND_TIMEOUT):
            while self._waiting:
                await next(iter(self._waiting)).wait()

    def resume(self) -> None:
        """Take connections."""
        self._door.open()

    async def pause(self, *, timeout: float = QUIET_TIMEOUT) -> None:
        """Leave new clients in the socket's queue; wait until those who are here have left, ``timeout`` seconds."""
        self._door.close()
        with anyio.move_on_after(timeout):
            while len(self._door.crowd) and timeout:
                self._gone = anyio.Event()
                await self._gone.wait()

    def _welcome(self, stream: Stream) -> None:
        self._tasks.start_soon(self._connection, stream, self._tasks)

    async def _connection(self, stream: Stream, tasks: anyio.abc.TaskGroup) -> None:
        try:
            with stream.peer:
                await self._talk(stream, tasks)
        except (anyio.EndOfStream, OSError):  # TimeoutError is one
            _logger.debug("control socket: a client left early")
        except Exception:
            _logger.exception("control socket: a request failed; the bot is not affected")
        finally:
            self._door.crowd.left(stream)
            self._gone.set()

    async def _talk(self, stream: Stream, tasks: anyio.abc.TaskGroup) -> None:
        if problem := _stranger(stream.peer):
            return await _send(stream, {"type": "error", "error": problem})
        try:
            with anyio.fail_after(REQUEST_TIMEOUT):
                line = await _read_line(stream)
        except TimeoutError:
            return await _send(stream, {"type": "error", "error": f"no request came within {REQUEST_TIMEOUT:g} s"})
        if not self._door.crowd.heard(stream):  # it has made room
            return None
        try:
            request = _requests.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return await _send(stream, {"type": "error", "error": f"not a request: {error}"})
        try:
            await self._answer(stream, request, tasks)
        except _EngineFailedError as failure:
            await _send(stream, {"type": "error", "error": str(failure)})

    async def _answer(self, stream: Stream, request: Request, tasks: anyio.abc.TaskGroup) -> None:
        match request:
            case GetStatus():
                await _send(stream, {"type": "status", "status": await _asked(self._engine.status)})
            case Reload(wait=True, force=force):
                await self._handoff(stream, tasks, partial(self._engine.reload, force=force))
            case Rollback(force=force):
                await self._handoff(stream, tasks, partial(self._engine.rollback, force=force))
            case Reload(force=force):
                tasks.start_soon(_unheard, partial(self._engine.reload, force=force))
                await _send(stream, {"type": "accepted"})
            case Stop():
                # Answered first: the end of the engine ends this server, and with it this connection.
                await _send(stream, {"type": "accepted"})
                tasks.start_soon(_unheard, self._engine.stop)
                await _until_closed(stream)

    async def _handoff(
        self, stream: Stream, tasks: anyio.abc.TaskGroup, begin: Callable[..., Awaitable[Outcome]]
    ) -> None:
        """Stream progress and the outcome, for as long as the client is there."""
        send, receive = anyio.create_memory_object_stream[dict[str, object]](PROGRESS_KEPT)

        def on_progress(progress: Progress) -> None:
            with suppress(anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
                send.send_nowait({"type": "progress", "progress": progress})

        async def run() -> None:
            with send:
                try:
                    outcome = await _asked(partial(begin, on_progress=on_progress))
                    last: dict[str, object] = {"type": "outcome", "outcome": outcome}
                except _EngineFailedError as failure:
                    last = {"type": "error", "error": str(failure)}
                with suppress(anyio.BrokenResourceError):  # the client has left
                    await send.send(last)

        tasks.start_soon(run)
        gone = anyio.Event()
        self._waiting.add(gone)
        try:
            with receive:
                async with anyio.create_task_group() as here:
                    here.start_soon(_forward, receive, stream, here.cancel_scope)
                    await _until_closed(stream)
                    here.cancel_scope.cancel()
        finally:
            self._waiting.discard(gone)
            gone.set()


async def _forward(
    lines: MemoryObjectReceiveStream[dict[str, object]],
    stream: Stream,
    done: anyio.CancelScope,
) -> None:
    with suppress(OSError):  # it left, or does not read: TimeoutError is one
        async for line in lines:
            await _send(stream, line)
    done.cancel()


class _EngineFailedError(Exception):
    """The engine raised: a defect, already logged with its traceback."""


async def _asked(call: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await call()
    except Exception as error:
        _logger.exception("control socket: the engine could not answer")
        raise _EngineFailedError(f"the supervisor failed on this request: {type(error).__name__}: {error}") from None


async def _unheard(call: Callable[[], Awaitable[Any]]) -> None:
    """Run for a client that does not wait for the result."""
    with suppress(_EngineFailedError):
        await _asked(call)


async def _send(stream: Stream, line: dict[str, object]) -> None:
    with anyio.fail_after(SEND_TIMEOUT):
        await stream.send(msgspec.json.encode(line) + b"\n")


async def _read_line(stream: Stream) -> bytes:
    buffer = b""
    while b"\n" not in buffer:
        if len(buffer) > MAX_REQUEST:
            return b""  # no JSON: refused like any other garbage
        buffer += await stream.receive(MAX_REQUEST)
    return buffer.split(b"\n", 1)[0]


async def _until_closed(stream: Stream) -> None:
    """Return when the client has closed its end; what else it says is not listened to."""
    with suppress(anyio.EndOfStream, OSError):
        while True:
            await stream.receive(MAX_REQUEST)


def _stranger(peer: socket.socket) -> str | None:
    """Say why this peer may not ask, or None: the same user and root may."""
    _, uid, _ = private.credentials(peer)
    if uid in (os.getuid(), 0):
        return None
    return f"this supervisor belongs to uid {os.getuid()}; uid {uid} may not ask it anything"


def directory_problem(directory: Path) -> str | None:
    """Say why the control socket may not be put into an existing ``directory``, or None. Changes nothing.

    Nobody else may be able to put something there, and below a directory that all may write to (a temp dir) nobody else
    may even look in. Raises `OSError` if it cannot be looked at.
    """
    found = directory.lstat()
    around = directory.parent.stat()
    if stat.S_ISLNK(found.st_mode) and not around.st_mode & stat.S_IWOTH:
        found = directory.stat()  # a link that only we or root can have made
    if not stat.S_ISDIR(found.st_mode):
        return "is not a directory: remove it or choose another control.socket."
    if found.st_uid != os.getuid():
        return f"belongs to uid {found.st_uid}: choose another control.socket."
    if found.st_mode & (0o077 if around.st_mode & stat.S_IWOTH else 0o022):
        mode = stat.S_IMODE(found.st_mode)
        return f"is open to other users (mode {mode:04o}): chmod 700 it or choose another control.socket."
    problem = private.danger(directory)
    return f"is not safe: {problem}. Choose another control.socket." if problem else None


def _prepare_directory(directory: Path) -> None:
    """Make the socket's directory, or see that the one that is there is safe."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        problem = directory_problem(directory)
    except OSError as error:
        problem = f"cannot be used: {error.strerror or error}"
    if problem:
        raise PlaceError(f"the control socket's directory {directory} {problem}")


@contextmanager
def _only_one(path: Path) -> Iterator[int]:
    """Hold the lock that says: this process is the supervisor at ``path``. The kernel frees it with the process."""
    lock_path = _lock_path(path)
    while True:
        try:
            lock = open_private(lock_path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise ControlError(f"{lock_path} cannot be opened: {error.strerror or error}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise ControlError(_taken(path)) from None
        with suppress(FileNotFoundError):
            if os.fstat(lock).st_ino == lock_path.stat().st_ino:
                break
        os.close(lock)  # its holder removed the file between our open and our lock: that lock guards nothing
    try:
        yield lock
    finally:
        _remove(lock_path)
        os.close(lock)


def _remove(*paths: Path) -> None:
    """Remove what is ours. On a disk that has become read-only it stays, and is removed by the next start."""
    for path in paths:
        with suppress(OSError):
            path.unlink()


def _lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


@contextmanager
def _left_behind_removed(path: Path) -> Iterator[None]:
    """Remove a dead supervisor's socket before, and ours after."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        found = None
    if found is not None:
        if not stat.S_ISSOCK(found.st_mode):
            raise ControlError(f"{path} exists and is not a socket: remove it or choose another control.socket.")
        if _listener_pid(path) is not None:
            raise ControlError(_taken(path))
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ControlError(f"{path}, which a dead supervisor left, cannot be removed: {error.strerror}") from None
    try:
        yield
    finally:
        _remove(path)


def _taken(path: Path) -> str:
    pid = _listener_pid(path)
    who = "another supervisor" if pid is None else f"another supervisor (pid {pid})"
    return (
        f"{who} answers at {path}. It goes on as before. To deploy use `supervisor reload`; to start a second one give "
        f"it its own control.socket."
    )


def _listener_pid(path: Path) -> int | None:
    """Return the pid of the process that listens at ``path``, None if none does (0: one of another pid namespace)."""
    probe: AbstractContextManager[socket.socket] = socket.socket(socket.AF_UNIX)
    with probe as peer:
        peer.setblocking(False)
        try:
            peer.connect(str(path))
        except BlockingIOError:
            return 0  # its queue is full, so there is one
        except OSError:
            return None
        return private.credentials(peer)[0]
