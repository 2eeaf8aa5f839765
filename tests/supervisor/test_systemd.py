"""What systemd is told, read at the other end of $NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import anyio
import pytest
from supervising import make_settings, supervised, until

from bastion.supervisor.observed import Summary
from bastion.supervisor.systemd import Service

pytestmark = pytest.mark.anyio

STARTING = Summary(
    state="starting",
    generation=None,
    shards=0,
    ready=0,
    since=None,
    message="generation 1: 0 of 2 shards ready",
    patience=330.0,
)
SERVING = replace(
    STARTING, state="serving", generation=1, shards=2, ready=2, since="2026-01-01T12:00:00.000Z", message="serving"
)
HANDING_OFF = replace(SERVING, state="handing-off", message="generation 2: 0 of 2 shards ready")
SERVES = "STATUS=generation 1, 2 of 2 shards ready, active since 2026-01-01T12:00:00.000Z"


class Systemd:
    """The end of the socket that systemd has."""

    def __init__(self, address: str) -> None:
        self.peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.peer.bind("\0" + address[1:] if address.startswith("@") else address)
        self.peer.setblocking(False)
        self.environ = {"NOTIFY_SOCKET": address}

    def heard(self) -> list[str]:
        """Return the datagrams since the last time."""
        found = []
        try:
            while True:
                found.append(self.peer.recv(65536).decode())
        except BlockingIOError:
            return found


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    found = Systemd(str(tmp_path / "notify") if request.param == "path" else f"@bastion-{uuid4()}")
    yield found
    found.peer.close()


def told(systemd: Systemd, *summaries: Summary) -> list[list[str]]:
    """Tell one after the other; return the lines of each datagram."""
    service = Service(systemd.environ)
    for summary in summaries:
        service.tell(summary)
    return [datagram.split("\n") for datagram in systemd.heard()]


def test_it_is_ready_when_the_first_bot_serves_and_not_before(systemd: Systemd) -> None:
    first, second = told(systemd, STARTING, SERVING)
    assert first == ["STATUS=starting: generation 1: 0 of 2 shards ready", "EXTEND_TIMEOUT_USEC=390000000"]
    assert second == ["READY=1", SERVES]


def test_it_is_ready_when_the_first_bot_serves_though_a_reload_begins_at_once(systemd: Systemd) -> None:
    """One SIGHUP after the other before that would else keep systemd waiting for ever."""
    _, ready, reloading, done = told(systemd, STARTING, HANDING_OFF, SERVING)
    assert ready == ["READY=1"]
    assert reloading[0] == "RELOADING=1"
    assert done[0] == "READY=1"


def test_each_shard_that_comes_ready_extends_the_time_and_nothing_else_does(systemd: Systemd) -> None:
    further = replace(STARTING, message="generation 1: 1 of 2 shards ready")
    heard = told(systemd, STARTING, STARTING, further, further)
    assert [datagram[1] for datagram in heard] == ["EXTEND_TIMEOUT_USEC=390000000"] * 2


@pytest.mark.parametrize("end", [SERVING, replace(STARTING, state="restarting", message="nobody serves")])
def test_a_handoff_is_a_reload_that_ends_however_it_went(systemd: Systemd, end: Summary) -> None:
    before = time.monotonic_ns() // 1000
    _, reloading, done = told(systemd, SERVING, HANDING_OFF, end)
    assert reloading[0] == "RELOADING=1"
    assert before <= int(reloading[1].removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    assert reloading[2] == f"{SERVES}; handing-off: generation 2: 0 of 2 shards ready"
    assert done[0] == "READY=1"


def test_a_stop_is_announced_with_the_time_that_handlers_have(systemd: Systemd) -> None:
    stopping = replace(SERVING, state="stopping", message="waiting for generation 1", patience=30.0)
    _, said = told(systemd, SERVING, stopping)
    assert said == ["STOPPING=1", "STATUS=stopping: waiting for generation 1", "EXTEND_TIMEOUT_USEC=90000000"]


def test_a_restart_before_the_first_service_is_not_ready(systemd: Systemd) -> None:
    assert not [
        line
        for datagram in told(systemd, STARTING, replace(STARTING, message="waits"))
        for line in datagram
        if line == "READY=1"
    ]


@pytest.mark.parametrize("address", ["", "relative", "vsock:2:1234", "/nowhere/at/all", "@nobody"])
def test_without_systemd_nothing_happens(address: str) -> None:
    Service({"NOTIFY_SOCKET": address}).tell(SERVING)


def test_a_systemd_that_does_not_read_never_blocks_us(systemd: Systemd) -> None:
    service = Service(systemd.environ)
    for number in range(5000):
        service.tell(replace(STARTING, message=str(number)))
    assert len(systemd.heard()) < 5000


class TestWatchdog:
    async def signs(self, systemd: Systemd, environ: dict[str, str]) -> list[str]:
        async with Service(systemd.environ | environ).watched():
            await anyio.sleep(0.25)
        return systemd.heard()

    async def test_signs_of_life_come_at_twice_the_rate_that_is_asked_for(self, systemd: Systemd) -> None:
        signs = await self.signs(systemd, {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": str(os.getpid())})
        assert set(signs) == {"WATCHDOG=1"}
        assert 3 <= len(signs) <= 6

    async def test_a_loop_that_is_stuck_gives_none(self, systemd: Systemd) -> None:
        async with Service(systemd.environ | {"WATCHDOG_USEC": "100000"}).watched():
            await anyio.sleep(0.01)
            systemd.heard()
            time.sleep(0.2)  # noqa: ASYNC251
            assert systemd.heard() == []

    @pytest.mark.parametrize(
        "environ",
        [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}],
    )
    async def test_who_is_not_watched_gives_none(self, systemd: Systemd, environ: dict[str, str]) -> None:
        assert await self.signs(systemd, environ) == []


async def test_an_engine_tells_of_its_start_a_reload_and_its_end(systemd: Systemd, tmp_path: Path) -> None:
    service = Service(systemd.environ)
    settings = make_settings(tmp_path)
    lines: list[str] = []

    def hear() -> list[str]:
        lines.extend(line for datagram in systemd.heard() for line in datagram.split("\n"))
        return [line for line in lines if not line.startswith(("STATUS", "EXTEND", "MONOTONIC"))]

    async with supervised(settings, on_move=service.tell) as it:
        await until(lambda: hear() == ["READY=1"])
        assert any(line.startswith("STATUS=generation 1, 1 of 1 shard ready, active since 2") for line in lines)
        # Read as it goes: a socket keeps 10 datagrams that nobody has read, and a reload sends more.
        assert (await it.engine.reload(on_progress=lambda _: hear())).result == "succeeded"
        await until(lambda: hear() == ["READY=1", "RELOADING=1", "READY=1"])
        it.release("exit=hello")
        assert (await it.engine.reload(on_progress=lambda _: hear())).result == "failed"
        await until(lambda: hear() == ["READY=1", *["RELOADING=1", "READY=1"] * 2])
    assert hear()[-1] == "STOPPING=1"
