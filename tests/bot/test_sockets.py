"""What comes on a connection that should not, what does not come that should, and why a connection has ended."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from discord.gateway import DiscordWebSocket, ReconnectWebSocket

from bastion.bot.discordpy import sockets

pytestmark = pytest.mark.anyio


class Connection:
    """What discord.py uses of aiohttp's websocket: it brings these messages, and then nothing more."""

    def __init__(self, *brings: aiohttp.WSMessage) -> None:
        self.brings = list(brings)
        self.closed = False
        self.close_code: int | None = None
        self.sent: list[str] = []

    async def receive(self, timeout: float | None = None) -> aiohttp.WSMessage:
        if not self.brings:
            await asyncio.sleep(3600)
        return self.brings.pop(0)

    async def send_str(self, data: str) -> None:
        self.sent.append(data)

    async def close(self, *, code: int) -> None:
        self.closed, self.close_code = True, code


def text(data: str) -> aiohttp.WSMessage:
    return aiohttp.WSMessage(aiohttp.WSMsgType.TEXT, data, None)


def websocket(connection: Connection, **parsers: Any) -> Any:
    """A websocket of discord.py's, past its HELLO."""
    made: Any = DiscordWebSocket(connection, loop=asyncio.get_running_loop())  # type: ignore[arg-type]
    made.shard_id, made.gateway, made._discord_parsers = 3, "wss://gateway.invalid", parsers
    made._max_heartbeat_timeout = 60.0
    made.session_id, made.sequence = "abc", 7
    return made


@pytest.fixture
async def broke() -> list[str]:
    return []


def listening(connection: Connection, broke: list[str], **parsers: Any) -> Any:
    made = websocket(connection, **parsers)
    sockets.tap(made, lambda text: None)
    sockets.pace(made, lambda: False, broke.append)
    return made


@pytest.mark.parametrize("message", ["no payload {", "[1, 2]", "17", b"\xde\xad\xbe\xef"])
async def test_what_is_no_payload_breaks_the_connection_and_keeps_the_session(
    broke: list[str], message: str | bytes
) -> None:
    connection = Connection()
    made = listening(connection, broke)
    with pytest.raises(ReconnectWebSocket) as raised:
        await made.received_message(message)
    assert raised.value.resume
    assert (connection.close_code, made.session_id, made.sequence) == (4000, "abc", 7)
    assert broke[0].startswith("what came is no payload of Discord's: ")


async def test_an_event_that_cannot_be_parsed_is_logged_and_what_comes_next_is_heard(
    broke: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []

    def poison(data: Any) -> None:
        raise KeyError("id")

    made = listening(Connection(), broke, POISON=poison, GOOD=heard.append)
    await made.received_message('{"op":0,"t":"POISON","s":8,"d":{}}')
    await made.received_message('{"op":0,"t":"GOOD","s":9,"d":{"id":"1"}}')
    assert (heard, made.sequence, broke) == ([{"id": "1"}], 9, [])
    assert "an event of Discord's, POISON, cannot be read" in caplog.text


async def test_a_ready_that_cannot_be_parsed_is_no_session(broke: list[str]) -> None:
    made = listening(Connection(), broke)
    with pytest.raises(KeyError):
        await made.received_message('{"op":0,"t":"READY","s":1,"d":{}}')


@pytest.mark.parametrize(
    ("message", "resume", "why"),
    [
        ('{"op":7,"d":null,"s":null,"t":null}', True, "Discord asked for another connection (op 7)"),
        ('{"op":9,"d":true,"s":null,"t":null}', True, "Discord asked for another connection (op 9)"),
        ('{"op":9,"d":false,"s":null,"t":null}', False, "Discord has ended the session (op 9)"),
    ],
)
async def test_what_discord_asks_for_is_remembered(broke: list[str], message: str, resume: bool, why: str) -> None:
    made = listening(Connection(), broke)
    with pytest.raises(ReconnectWebSocket) as raised:
        await made.received_message(message)
    assert (raised.value.resume, broke) == (resume, [why])


@pytest.mark.parametrize(
    ("own", "code", "why"),
    [
        (None, 4009, "closed with 4009"),
        (None, 1006, "the connection broke (1006)"),
        (4000, 4000, "no answer to heartbeats"),
    ],
)
async def test_a_close_code_says_why_a_connection_has_ended(own: int | None, code: int, why: str) -> None:
    ended: Any = SimpleNamespace(_close_code=own, socket=SimpleNamespace(close_code=code))
    assert sockets.why_ended(ended) == why


@pytest.fixture
def expecting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiscordWebSocket, "__init__", DiscordWebSocket.__init__)
    sockets.expect_hello(0.05)


@pytest.mark.usefixtures("expecting")
@pytest.mark.parametrize(
    ("brings", "error"),
    [
        ((), TimeoutError),
        ((text("no payload {"),), ConnectionError),
        ((aiohttp.WSMessage(aiohttp.WSMsgType.CLOSED, None, None),), ConnectionError),
    ],
)
async def test_a_connection_without_a_hello_cannot_be_connected(
    brings: tuple[aiohttp.WSMessage, ...], error: type[Exception]
) -> None:
    connection = Connection(*brings)
    made = websocket(connection)
    with pytest.raises(error):
        await made.poll_event()
    assert connection.closed


@pytest.mark.usefixtures("expecting")
async def test_only_the_first_message_is_waited_for_no_longer_than_that() -> None:
    connection = Connection(text('{"op":11,"d":null,"s":null,"t":null}'))
    made = websocket(connection)
    await made.poll_event()
    assert "poll_event" not in vars(made)
    waiting = asyncio.ensure_future(made.poll_event())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    waiting.cancel()


async def test_the_kernel_asks_whether_the_other_end_is_there_still() -> None:
    server = await asyncio.start_server(lambda _, other: other.close(), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    sockets.notice_death(writer.transport)
    end = writer.get_extra_info("socket")
    assert end.getsockopt(sockets.socket.SOL_SOCKET, sockets.socket.SO_KEEPALIVE)
    idle, between, count = (
        end.getsockopt(sockets.socket.IPPROTO_TCP, option)
        for option in (sockets.socket.TCP_KEEPIDLE, sockets.socket.TCP_KEEPINTVL, sockets.socket.TCP_KEEPCNT)
    )
    assert idle + between * count == 20
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
