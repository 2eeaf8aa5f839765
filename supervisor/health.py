"""`/livez`, `/readyz` and `/metrics` over HTTP, on TCP or on a Unix socket.

Knows sockets and HTTP (by h11, which does no I/O); what is said is the engine's and `metrics`'s. One request a
connection. Whatever a client sends, and however slowly, ends that client's connection and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import anyio
import anyio.abc
import h11
import msgspec

from bastion.counted import counted, verb
from bastion.supervisor import metrics, private
from bastion.supervisor.crowd import Crowd
from bastion.supervisor.location import HealthAddress, SettingsError, TcpAddress
from bastion.supervisor.observed import ActiveReadiness, Totals
from bastion.supervisor.ports import holder
from bastion.supervisor.status import Status

MAX_HEADER = 8 * 1024
"""Bytes of a request line with its headers; what a browser with many cookies sends does not fit, nor need it."""
REQUEST_TIMEOUT = 5.0
"""Seconds in which a client must have sent its request."""
SEND_TIMEOUT = 5.0
"""Seconds in which a client must have taken the answer."""
LINGER = 1.0
"""Seconds in which a client may go on sending after its answer; to reset it at once could lose the answer."""
MAX_CLIENTS = 32
"""Connections at a time. One that has not asked for anything makes room for the next."""
_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 21\r\n"
    b"Connection: close\r\n\r\ntoo many connections\n"
)

_logger = logging.getLogger("supervisor.health")


class HealthError(SettingsError):
    """Nothing can listen at ``health.listen``. The message says why and what to do."""


class Engine(Protocol):
    """What health asks of the engine."""

    def readiness(self) -> ActiveReadiness | None:
        """Return how ready the active child is, or one that can take over; None if there is neither."""

    def totals(self) -> Totals:
        """Return what was counted since the start."""

    async def status(self) -> Status:
        """Return what was observed last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: int
    reason: str
    body: bytes
    kind: str = _TEXT
    allow: str | None = None


@contextlib.asynccontextmanager
async def serve(address: HealthAddress, engine: Engine) -> AsyncIterator[str]:
    """Answer at ``address`` while the context is open; gives the address as an operator can use it.

    Raises `HealthError` before anything has begun when nothing can listen there.
    """
    with contextlib.ExitStack() as stack:
        server = _Server(engine)
        listener = await _listen(address, server)
        stack.callback(listener.close)
        if isinstance(address, Path):
            stack.callback(_remove, address)
            shown = f"unix:{address}"
        else:
            shown = str(TcpAddress(address.host, listener.sockets[0].getsockname()[1]))
        async with anyio.create_task_group() as tasks:
            try:
                server.begin(tasks)
                yield shown
            finally:
                listener.close()
                tasks.cancel_scope.cancel()


def _remove(path: Path) -> None:
    """Remove our socket. On a disk that has become read-only it stays, and the next start takes its place."""
    with contextlib.suppress(OSError):
        path.unlink()


async def _listen(address: HealthAddress, server: _Server) -> asyncio.Server:
    try:
        if not isinstance(address, Path):
            return await asyncio.start_server(server.connected, address.host, address.port, limit=MAX_HEADER)
        if problem := _socket_problem(address):
            raise HealthError(f"health.listen: {address} {problem}")
        return await asyncio.start_unix_server(server.connected, sock=_unix_socket(address), limit=MAX_HEADER)
    except OSError as error:
        shown = f"unix:{address}" if isinstance(address, Path) else str(address).removeprefix("http://")
        raise HealthError(f"health.listen: nothing can listen at {shown}: {_why(error, address)}") from None


def listen_problem(address: HealthAddress) -> str | None:
    """Say why nothing could listen there, None if something could. Who listens there already may be a supervisor."""
    try:
        if isinstance(address, Path):
            found = _socket_problem(address)
            return None if found is None or found.startswith("is taken") else f"{address} {found}"
        for family, kind, protocol, _, place in socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return f"nothing can listen at {address}: {_why(error, address)}"
    return None


def _why(error: OSError, address: HealthAddress) -> str:
    if error.errno == errno.EADDRINUSE:
        found = holder(address.port) if isinstance(address, TcpAddress) else None
        return f'{found or "another program"} listens there; choose another health.listen, or "" for none'
    if isinstance(error, socket.gaierror):
        return f"the host is not known ({error.strerror})"
    return os.strerror(error.errno) if error.errno else str(error)


def _socket_problem(path: Path) -> str | None:
    """Say why no socket may be made there; one that a dead supervisor has left is none. Raises `OSError`."""
    if not path.parent.is_dir():
        return f"cannot be made: there is no directory {path.parent}"
    if problem := private.danger(path.parent):
        return f"is not safe: {problem}; choose another health.listen"
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISSOCK(found.st_mode):
        return "exists and is not a socket: remove it or choose another health.listen"
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        if probe.connect_ex(str(path)) in (0, errno.EAGAIN):
            return "is taken, another program listens there: choose another health.listen"
    return None


def _unix_socket(path: Path) -> socket.socket:
    """Make the socket, for the same user and group, in the place of one that was left. Raises `OSError`."""
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    try:
        made.bind(str(path))
        path.chmod(0o660)
    except OSError:
        made.close()
        raise
    return made


@dataclass(frozen=True, slots=True, eq=False)
class _Guest:
    """A connection."""

    writer: asyncio.StreamWriter

    def send_away(self) -> None:
        """Say that there are too many connections, and end this one."""
        self.writer.write(_BUSY)
        self.writer.close()


class _Server:
    """Connections and their answers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._crowd = Crowd()
        self._tasks: anyio.abc.TaskGroup | None = None

    def begin(self, tasks: anyio.abc.TaskGroup) -> None:
        """Answer in tasks of this group from now on."""
        self._tasks = tasks

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take a connection."""
        guest = _Guest(writer)
        if self._tasks is None or not self._crowd.enter(guest, most=MAX_CLIENTS):
            guest.send_away()
            return
        writer.transport.set_write_buffer_limits(0)  # so that what has been drained has reached the kernel
        self._tasks.start_soon(self._connection, reader, guest)

    async def _connection(self, reader: asyncio.StreamReader, guest: _Guest) -> None:
        try:
            await self._talk(reader, guest)
        except (EOFError, TimeoutError, OSError):
            _logger.debug("health: a client left early or was too slow")
        except Exception:
            _logger.exception("health: a request failed; the bot is not affected")
        finally:
            self._crowd.left(guest)
            guest.writer.transport.abort()

    async def _talk(self, reader: asyncio.StreamReader, guest: _Guest) -> None:
        writer = guest.writer
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER)
        request: h11.Request | None = None
        try:
            with anyio.fail_after(REQUEST_TIMEOUT):
                request = await _request(reader, connection)
            if not self._crowd.heard(guest):  # it has made room
                return
            answer = await self._answer(request)
        except h11.RemoteProtocolError as error:
            answer = _refusal(error)
        head_only = request is not None and request.method == b"HEAD"
        with anyio.fail_after(SEND_TIMEOUT):
            writer.write(_encoded(connection, answer, head_only=head_only))
            await writer.drain()
        writer.write_eof()
        with anyio.move_on_after(LINGER):
            while await reader.read(MAX_HEADER):
                pass

    async def _answer(self, request: h11.Request) -> _Answer:
        if request.method not in (b"GET", b"HEAD"):
            return _Answer(status=405, reason="Method Not Allowed", body=b"only GET and HEAD\n", allow="GET, HEAD")
        match request.target.partition(b"?")[0]:
            case b"/livez":
                return _Answer(status=200, reason="OK", body=b'{"live": true}\n', kind=_JSON)
            case b"/readyz":
                return _readyz(self._engine.readiness())
            case b"/metrics":
                status, totals, readiness = await self._engine.status(), self._engine.totals(), self._engine.readiness()
                body = metrics.render(status, totals, readiness, tasks=len(asyncio.all_tasks()))
                return _Answer(status=200, reason="OK", body=body, kind=metrics.CONTENT_TYPE)
            case _:
                return _Answer(status=404, reason="Not Found", body=b"there are /livez, /readyz and /metrics\n")


async def _request(reader: asyncio.StreamReader, connection: h11.Connection) -> h11.Request:
    """Read one request's head; a body is not waited for. Raises `h11.RemoteProtocolError`, `EOFError`, `OSError`."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:  # the client closed before it asked
            raise EOFError
        connection.receive_data(await reader.read(MAX_HEADER))


def _readyz(readiness: ActiveReadiness | None) -> _Answer:
    if readiness is None:
        said: dict[str, object] = {"ready": False, "reason": "no bot is active"}
        said |= {"generation": None, "not_ready": [], "role": None}
    else:
        waiting = [{"shard": id, "state": state} for id, state in sorted(readiness.not_ready.items())]
        total = counted(readiness.shards, "shard")
        reason = f"{len(waiting)} of {total} {verb(len(waiting))} not ready" if not readiness.ready else None
        said = {"ready": readiness.ready, "reason": reason}
        said |= {"generation": readiness.generation, "not_ready": waiting}
        said["role"] = "standby" if readiness.standby else "active"
    body = msgspec.json.encode(said) + b"\n"
    if said["ready"]:
        return _Answer(status=200, reason="OK", body=body, kind=_JSON)
    return _Answer(status=503, reason="Service Unavailable", body=body, kind=_JSON)


def _refusal(error: h11.RemoteProtocolError) -> _Answer:
    """Say that this was no request; the parser's words may hold what was sent, so they are not repeated."""
    if error.error_status_hint == 431:
        return _Answer(status=431, reason="Request Header Fields Too Large", body=b"the request is too large\n")
    return _Answer(status=400, reason="Bad Request", body=b"not an HTTP request\n")


def _encoded(connection: h11.Connection, answer: _Answer, *, head_only: bool) -> bytes:
    headers = [("Content-Type", answer.kind), ("Content-Length", str(len(answer.body)))]
    headers += [("Connection", "close"), ("Cache-Control", "no-store")]
    if answer.allow:
        headers.append(("Allow", answer.allow))
    events: list[h11.Event] = [h11.Response(status_code=answer.status, reason=answer.reason, headers=headers)]
    events += [h11.EndOfMessage()] if head_only else [h11.Data(data=answer.body), h11.EndOfMessage()]
    return b"".join(connection.send(event) or b"" for event in events)
