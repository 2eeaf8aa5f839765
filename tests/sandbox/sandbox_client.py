"""A raw gateway client for the sandbox's tests: every frame is visible, nothing is automatic."""

from __future__ import annotations

import asyncio
import json
import zlib
from types import TracebackType
from typing import Any

import aiohttp
import zstandard

from bastion.sandbox import Sandbox

ALL = 0x3_FFFF & ~(1 << 17)
"""All intents of the low bits, message content included."""

MEMBERS, CONTENT = 1 << 1, 1 << 15


class Gateway:
    """One websocket. ``closed`` is its close code once the sandbox has ended it."""

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        compress: str | None = None,
        generation: int = 0,
        v: str = "10",
        url: str | None = None,
    ) -> None:
        self.sandbox = sandbox
        self.url = url or sandbox.gateway_url
        self.query = {"v": v, "encoding": "json"} | ({"compress": compress} if compress else {})
        self.agent = f"raw client generation/{generation}" if generation else "raw client"
        self.closed: int | None = None
        self.session_id = ""
        self.seq = 0
        self._inflate = zlib.decompressobj()
        self._unzstd = zstandard.ZstdDecompressor().decompressobj()

    async def __aenter__(self) -> Gateway:
        self.http = aiohttp.ClientSession(headers={"User-Agent": self.agent})
        try:
            self.socket = await self.http.ws_connect(self.url, params=self.query, autoclose=False)
        except BaseException:
            await self.http.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave(4000)

    async def leave(self, code: int) -> None:
        await self.socket.close(code=code)
        await self.http.close()

    async def send(self, op: int, d: Any = None) -> None:
        await self.socket.send_str(json.dumps({"op": op, "d": d}))

    async def receive(self, timeout: float = 5.0) -> dict[str, Any] | None:
        """The next message; None when the sandbox has closed, with the code in ``closed``."""
        message = await self.socket.receive(timeout=timeout)
        if message.type is aiohttp.WSMsgType.TEXT:
            raw = message.data
        elif message.type is aiohttp.WSMsgType.BINARY:
            raw = self._unpack(message.data)
        else:
            self.closed = message.data if message.type is aiohttp.WSMsgType.CLOSE else (self.socket.close_code or 1006)
            return None
        body: dict[str, Any] = json.loads(raw)
        if body["s"] is not None:
            self.seq = body["s"]
        return body

    def _unpack(self, data: bytes) -> bytes:
        if self.query.get("compress") == "zlib-stream":
            assert data.endswith(b"\x00\x00\xff\xff")
            return self._inflate.decompress(data)
        return self._unzstd.decompress(data)

    async def expect(self, *, op: int | None = None, t: str | None = None, timeout: float = 5.0) -> dict[str, Any]:
        """Skip to the next message with that opcode or event name."""
        async with asyncio.timeout(timeout):
            while True:
                body = await self.receive()
                assert body is not None, f"closed with {self.closed} while waiting for op {op} or {t}"
                if body["op"] == op or (t is not None and body["t"] == t):
                    return body

    async def close_code(self, timeout: float = 5.0) -> int:
        async with asyncio.timeout(timeout):
            while self.closed is None:
                await self.receive()
        return self.closed

    async def ask_identify(
        self, *, shard: int = 0, shards: int = 1, intents: Any = ALL, token: str | None = None
    ) -> None:
        await self.expect(op=10)
        await self.send_identify(shard=shard, shards=shards, intents=intents, token=token)

    async def send_identify(
        self, *, shard: int = 0, shards: int = 1, intents: Any = ALL, token: str | None = None
    ) -> None:
        secret = self.sandbox.token if token is None else token
        await self.send(2, {"token": secret, "intents": intents, "shard": [shard, shards], "properties": {}})

    async def identify(self, *, shard: int = 0, shards: int = 1, intents: int = ALL) -> dict[str, Any]:
        """IDENTIFY and read READY and the guilds of the shard. Returns READY's data."""
        await self.ask_identify(shard=shard, shards=shards, intents=intents)
        ready: dict[str, Any] = (await self.expect(t="READY"))["d"]
        self.session_id = ready["session_id"]
        if intents & 1:
            for _ in ready["guilds"]:
                await self.expect(t="GUILD_CREATE")
        return ready

    async def resume(self, other: Gateway, *, seq: int | None = None) -> None:
        await self.expect(op=10)
        last = other.seq if seq is None else seq
        await self.send(6, {"token": self.sandbox.token, "session_id": other.session_id, "seq": last})

    async def silent(self, seconds: float) -> bool:
        """Whether no dispatch comes for that long."""
        try:
            async with asyncio.timeout(seconds):
                while (body := await self.receive(timeout=60)) is not None:
                    if body["op"] == 0:
                        return False
        except TimeoutError:
            return True
        return True
