"""One gateway socket: reads what the client sends, writes what its session is due.

Knows the websocket, opcodes, heartbeats, the send limit and compression. Everything about sessions it leaves to
`sandbox.gateway`. One task writes, one reads.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

import msgspec
from aiohttp import ClientConnectionResetError, WSMessage, WSMsgType, web

from .compression import CompressionUnavailableError, Compressor, make_compressor
from .events import encode
from .gateway import Gateway, GatewayCloseError
from .journal import generation_of
from .sessions import Session
from .settings import SandboxSettings
from .world import Payload

MAX_PAYLOAD = 4096
"""Largest message in bytes that a client may send."""

_CLIENT_ENDS = (1000, 1001)
_ZOMBIE_AFTER = 1.5
ACK_SECONDS = 0.01
"""Seconds from a heartbeat to its answer. One that comes before discord.py has noted when it sent the heartbeat, as it
can on loopback alone, is taken for an answer to the one before: "41 s behind"."""


@dataclass(frozen=True, slots=True)
class _Raw:
    """What is neither encoded nor compressed."""

    data: str | bytes


class Connection:
    """A socket from HELLO to its close."""

    def __init__(self, gateway: Gateway, request: web.Request, socket: web.WebSocketResponse) -> None:
        self._gateway = gateway
        self._settings: SandboxSettings = gateway.settings
        self._request = request
        self._socket = socket
        self._generation = generation_of(request.headers.get("User-Agent", ""))
        self._session: Session | None = None
        self._urgent: deque[bytes | _Raw] = deque()
        self._muted = False
        self._news = asyncio.Event()
        self._compress: Compressor | None = None
        self._close_code: int | None = None
        self._reader: asyncio.Task[None]
        self._aborted = False
        self._last_beat = time.monotonic()
        self._received: deque[float] = deque()
        self._interval = self._settings.heartbeat_interval

    async def run(self) -> None:
        """Serve the socket until it is closed by either side."""
        try:
            self._compress = _compressor(self._request)
        except (CompressionUnavailableError, ValueError) as error:
            await self._socket.close(code=4002, message=str(error).encode()[:120])
            return
        if self._request.query.get("v", "10") not in ("9", "10"):
            await self._socket.close(code=4012, message=b"Invalid API version")
            return
        if self._gateway.faults.strikes("withhold_hello"):
            await self._silence()
            return
        self.send_op(10, {"heartbeat_interval": round(1000 * self._interval)})
        self._reader = asyncio.create_task(self._read(), name="sandbox gateway reader")
        writer = asyncio.create_task(self._write(), name="sandbox gateway writer")
        watchdog = asyncio.create_task(self._watch(), name="sandbox gateway watchdog")
        try:
            await asyncio.wait([self._reader])
        finally:
            watchdog.cancel()
            self._reader.cancel()
            if self._close_code is None or self._aborted:
                writer.cancel()
            await asyncio.gather(self._reader, writer, watchdog, return_exceptions=True)
            if self._session is not None:
                self._gateway.detach(self._session, self)
        if not self._reader.cancelled():
            self._reader.result()

    async def _silence(self) -> None:
        """Let the socket be until the client leaves."""
        while (await self._socket.receive()).type in (WSMsgType.TEXT, WSMsgType.BINARY):
            pass

    # --- asked by the gateway ---------------------------------------------------------------------------------------

    def abort(self) -> None:
        """Cut the socket: the client sees a reset, no close frame."""
        self._aborted = True
        self._close_code = 1006
        transport = self._request.transport
        if transport is not None:
            transport.abort()

    def close(self, code: int) -> None:
        """Close with a code after what is urgent was written."""
        if self._close_code is None and not self._muted:
            self._close_code = code
            self._news.set()

    def send_raw(self, data: str | bytes) -> None:
        """Queue something ahead of all dispatches that is sent as it is."""
        self._urgent.append(_Raw(data))
        self._news.set()

    def mute(self) -> None:
        """Write nothing more, and answer nothing that is read."""
        self._muted, self._session = True, None

    def send_op(self, op: int, data: object = None) -> None:
        """Queue a message ahead of all dispatches."""
        self._urgent.append(encode({"op": op, "d": data, "s": None, "t": None}))
        self._news.set()

    # --- writing ----------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        with suppress(ClientConnectionResetError, ConnectionError):
            while True:
                self._news.clear()
                while self._urgent:
                    await self._send(self._urgent.popleft())
                if self._close_code is not None:
                    # With a reader at work aiohttp would not wait for the client's own close frame before it hangs up;
                    # a client whose answer fails on that may take the code for 1006.
                    self._reader.cancel()
                    await asyncio.wait([self._reader])
                    await self._socket.close(code=self._close_code)
                    return
                await self._write_due()

    async def _write_due(self) -> None:
        """Write frames whose time has come, then sleep until the next one's or until there is news."""
        session = self._session
        due = session.next_due() if session is not None else None
        now = time.monotonic()
        while session is not None and due is not None and due <= now and not self._urgent and self._close_code is None:
            await self._send(session.take(now))
            due = session.next_due()
        if self._urgent or self._close_code is not None or self._news.is_set():
            return
        if due is None:
            await self._news.wait()
        elif (pause := due - time.monotonic()) > 0:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(pause, self._news.set)
            try:
                await self._news.wait()
            finally:
                timer.cancel()

    async def _send(self, data: bytes | _Raw) -> None:
        if self._muted:
            return
        if isinstance(data, _Raw):
            if isinstance(data.data, str):
                await self._socket.send_str(data.data)
            else:
                await self._socket.send_bytes(data.data)
        elif self._compress is None:
            await self._socket.send_str(data.decode())
        else:
            await self._socket.send_bytes(self._compress(data))

    # --- reading ----------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            message: WSMessage = await self._socket.receive()
            if message.type is WSMsgType.CLOSE:
                if message.data in _CLIENT_ENDS and self._session is not None:
                    self._gateway.end(self._session)
                return
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            if self._muted:
                continue
            try:
                await self._received_one(message.data)
            except GatewayCloseError as error:
                self._fail(error.code)

    def _fail(self, code: int) -> None:
        session = self._session
        if session is None or not self._gateway.close(session, code):
            self.close(code)

    async def _received_one(self, raw: str | bytes) -> None:
        self._count_received()
        if len(raw) > MAX_PAYLOAD:
            raise GatewayCloseError(4002, "Payload too large")
        try:
            body = msgspec.json.decode(raw)
            op = body["op"]
            data = body.get("d")
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
            raise GatewayCloseError(4002, "Error while decoding payload") from None
        await self._handle(op, data)

    def _count_received(self) -> None:
        now = time.monotonic()
        self._received.append(now)
        while now - self._received[0] >= self._settings.send_window:
            self._received.popleft()
        if len(self._received) > self._settings.send_limit:
            raise GatewayCloseError(4008, "Rate limited")

    async def _handle(self, op: object, data: object) -> None:
        if op == 1:
            self._last_beat = time.monotonic()
            asyncio.get_running_loop().call_later(ACK_SECONDS, self.send_op, 11)
        elif op == 2:
            await self._identify(_mapping(data))
        elif op == 6:
            await self._resume(_mapping(data))
        elif op not in (3, 4, 8, 31):
            raise GatewayCloseError(4001, "Unknown opcode")
        elif self._session is None:
            raise GatewayCloseError(4003, "Not authenticated")
        elif op == 3:
            self._gateway.set_presence(self._session, _mapping(data))
        elif op == 8:
            self._gateway.request_members(self._session, _mapping(data))

    async def _identify(self, data: Payload) -> None:
        if self._session is not None and not self._session.ended:
            raise GatewayCloseError(4005, "Already authenticated")
        session = self._gateway.identify(data, generation=self._generation, link=self)
        if session is None:
            await self._invalid()
            return
        self._session = session
        session.attach(self._news.set)
        self._gateway.start(session)

    async def _resume(self, data: Payload) -> None:
        if self._session is not None and not self._session.ended:
            raise GatewayCloseError(4005, "Already authenticated")
        if self._gateway.faults.strikes("withhold_resume") or await self._refused(data):
            return
        session = self._gateway.resume(data, link=self)
        if session is None:
            await self._invalid()
            return
        self._session = session
        session.attach(self._news.set)
        session.replay(data["seq"], now=time.monotonic())
        self._gateway.changed()

    async def _refused(self, data: Payload) -> bool:
        """Refuse a RESUME, if a fault asks for it."""
        early = self._gateway.connected(data.get("session_id"))
        fault = self._gateway.faults.resume_refused(connected=early)
        if fault is None:
            return False
        await asyncio.sleep(fault.detail["after"])
        how = fault.detail["how"]
        if how == "cut":
            self.abort()
            return True
        if how in ("reconnect", "resumable"):
            self.send_op(*((7, None) if how == "reconnect" else (9, True)))
            return True
        if not fault.detail["early"]:
            self._gateway.forget(data.get("session_id"))
        if how == "invalid":
            self.send_op(9, False)
        else:
            self.close(how)
        return True

    async def _invalid(self) -> None:
        """Send op 9 false after Discord's pause; the client may IDENTIFY again on the same socket."""
        await asyncio.sleep(self._settings.invalid_session_delay)
        self.send_op(9, False)

    async def _watch(self) -> None:
        """Close a connection that asks for nothing, or stopped sending heartbeats. Its session stays resumable."""
        patience = asyncio.get_running_loop().call_later(self._settings.hello_patience, self._unasked)
        try:
            await self._watch_heartbeats()
        finally:
            patience.cancel()

    def _unasked(self) -> None:
        if self._session is None:
            self.close(4003)

    async def _watch_heartbeats(self) -> None:
        limit = _ZOMBIE_AFTER * self._interval
        while True:
            remaining = self._last_beat + limit - time.monotonic()
            if remaining <= 0:
                break
            await asyncio.sleep(remaining)
        self._fail(4000)


def _compressor(request: web.Request) -> Compressor | None:
    if request.query.get("encoding", "json") != "json":
        raise ValueError("only encoding=json is spoken here")
    return make_compressor(request.query.get("compress"))


def _mapping(data: object) -> Payload:
    if not isinstance(data, dict):
        raise GatewayCloseError(4002, "Error while decoding payload")
    return data
