"""Health over HTTP: what is said, on which sockets, and that no client can hurt it."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.abc
import pytest
from fake_engine import FakeEngine
from prometheus_client.parser import text_string_to_metric_families

from bastion.supervisor import health
from bastion.supervisor.health import HealthError
from bastion.supervisor.healthcheck import Health, NoAnswerError, ask
from bastion.supervisor.location import HealthAddress, TcpAddress, parse_listen
from bastion.supervisor.observed import ActiveReadiness, HandoffRecord, Totals
from bastion.wire import Beat, Claims

pytestmark = pytest.mark.anyio
TIMEOUT = 10.0
READY = ActiveReadiness(generation=3, shards=2, not_ready={})


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@asynccontextmanager
async def serving(engine: FakeEngine) -> AsyncIterator[TcpAddress]:
    with anyio.fail_after(TIMEOUT):
        async with health.serve(TcpAddress("127.0.0.1", 0), engine) as shown:
            address = parse_listen(shown.removeprefix("http://"))
            assert isinstance(address, TcpAddress)
            yield address


async def raw(address: HealthAddress, data: bytes, *, end: bool = True) -> bytes:
    """Send bytes, and perhaps the end of them; return all that comes back."""
    if isinstance(address, Path):
        stream: anyio.abc.SocketStream = await anyio.connect_unix(address)
    else:
        stream = await anyio.connect_tcp(address.host, address.port)
    answer = b""
    async with stream:
        try:
            await stream.send(data)
            if end:
                await stream.send_eof()
            while True:
                answer += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError, OSError):
            return answer


async def get(address: HealthAddress, path: str, *, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    answer = await raw(address, f"{method} {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode(), end=False)
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body


class TestAnswers:
    async def test_livez_is_200_though_no_bot_is_there(self, engine: FakeEngine) -> None:
        engine.active = None
        async with serving(engine) as address:
            assert (await get(address, "/livez"))[0] == 200

    async def test_readyz_is_200_when_every_shard_is_ready(self, engine: FakeEngine) -> None:
        engine.active = READY
        async with serving(engine) as address:
            status, headers, body = await get(address, "/readyz")
        assert (status, headers["content-type"]) == (200, "application/json")
        assert json.loads(body) == {
            "ready": True,
            "reason": None,
            "generation": 3,
            "not_ready": [],
            "role": "active",
        }

    async def test_a_bot_that_waits_to_take_over_is_ready_and_called_a_standby(self, engine: FakeEngine) -> None:
        engine.active = replace(READY, standby=True)
        async with serving(engine) as address:
            status, _, body = await get(address, "/readyz")
        said = json.loads(body)
        assert (status, said["ready"], said["role"]) == (200, True, "standby")

    async def test_readyz_is_503_and_names_the_shards_that_are_not_ready(self, engine: FakeEngine) -> None:
        async with serving(engine) as address:
            status, _, body = await get(address, "/readyz")
        assert status == 503
        assert json.loads(body) == {
            "ready": False,
            "reason": "1 of 2 shards is not ready",
            "generation": 2,
            "not_ready": [{"shard": 1, "state": "resuming"}],
            "role": "active",
        }

    async def test_readyz_is_503_when_nobody_is_active(self, engine: FakeEngine) -> None:
        engine.active = None
        async with serving(engine) as address:
            status, _, body = await get(address, "/readyz")
        assert status == 503
        assert json.loads(body) == {
            "ready": False,
            "reason": "no bot is active",
            "generation": None,
            "not_ready": [],
            "role": None,
        }

    @pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/nowhere"])
    async def test_head_has_the_headers_of_get_and_no_body(self, engine: FakeEngine, path: str) -> None:
        async with serving(engine) as address:
            with_body = await get(address, path)
            without = await get(address, path, method="HEAD")
        assert with_body[2]
        assert without[2] == b""
        assert without[0] == with_body[0]
        assert without[1].keys() == with_body[1].keys()

    async def test_a_query_is_not_looked_at(self, engine: FakeEngine) -> None:
        async with serving(engine) as address:
            assert (await get(address, "/livez?verbose=1"))[0] == 200

    async def test_other_paths_are_404_and_say_what_there_is(self, engine: FakeEngine) -> None:
        async with serving(engine) as address:
            status, _, body = await get(address, "/livez/more")
        assert (status, body) == (404, b"there are /livez, /readyz and /metrics\n")

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get"])
    async def test_other_methods_are_405(self, engine: FakeEngine, method: str) -> None:
        async with serving(engine) as address:
            status, headers, _ = await get(address, "/readyz", method=method)
        assert (status, headers["allow"]) == (405, "GET, HEAD")


class TestBounds:
    @pytest.mark.parametrize(
        "data",
        [
            b"\x00\xff\x16\x03\x01",
            b"nonsense\r\n\r\n",
            b"GET /livez\r\n\r\n",
            b"GET /livez HTTP/1.1\r\n\r\n",  # HTTP/1.1 asks for a Host
            b"GET /li\x00vez HTTP/1.1\r\nHost: here\r\n\r\n",
            b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET /livez HTTP/1.1\r\nHost: here\r\nContent-Length: -1\r\n\r\n",
            b"GET /livez HTTP/1.1\r\nHost: he",
        ],
    )
    async def test_a_broken_request_gets_400_and_no_traceback(
        self, engine: FakeEngine, data: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with serving(engine) as address:
            answer = await raw(address, data)
            assert (await get(address, "/livez"))[0] == 200
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert caplog.records == []

    async def test_headers_above_the_limit_get_431(self, engine: FakeEngine) -> None:
        filler = b"X-Filler: " + b"x" * 4 * health.MAX_HEADER + b"\r\n"
        async with serving(engine) as address:
            answer = await raw(address, b"GET /livez HTTP/1.1\r\nHost: here\r\n" + filler + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 431 ")

    async def test_a_client_that_asks_nothing_is_dropped(
        self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(health, "REQUEST_TIMEOUT", 0.1)
        async with serving(engine) as address:
            assert await raw(address, b"", end=False) == b""
            assert await raw(address, b"GET /livez HTTP/1.1\r\nHost: slo", end=False) == b""

    async def test_a_client_that_does_not_hang_up_is_dropped(
        self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(health, "LINGER", 0.1)
        monkeypatch.setattr(health, "MAX_CLIENTS", 1)
        async with serving(engine) as address, await anyio.connect_tcp(address.host, address.port) as stays:
            await stays.send(b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n")
            assert (await stays.receive()).startswith(b"HTTP/1.1 200")
            with pytest.raises(anyio.EndOfStream):
                await stays.receive()
            request = b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n"
            while not (await raw(address, request)).startswith(b"HTTP/1.1 200"):  # noqa: ASYNC110
                await anyio.sleep(0.01)

    async def test_who_asks_for_nothing_keeps_nobody_out_and_is_told_so(
        self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(health, "MAX_CLIENTS", 2)
        async with serving(engine) as address, AsyncExitStack() as stack:
            idle = [
                await stack.enter_async_context(await anyio.connect_tcp(address.host, address.port)) for _ in range(3)
            ]
            assert (await idle[0].receive()).startswith(b"HTTP/1.1 503")
            assert (await raw(address, b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert (await idle[1].receive()).startswith(b"HTTP/1.1 503")
            await idle[2].send(b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n")
            assert (await idle[2].receive()).startswith(b"HTTP/1.1 200"), "the last one was not sent away"

    async def test_who_finds_every_place_taken_is_told_so(
        self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(health, "MAX_CLIENTS", 1)
        async with serving(engine) as address, await anyio.connect_tcp(address.host, address.port) as stays:
            await stays.send(b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n")
            await stays.receive()
            answer = await raw(address, b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n")
            assert answer.endswith(b"\r\n\r\ntoo many connections\n")

    async def test_an_engine_that_fails_ends_one_connection_and_is_logged(
        self, engine: FakeEngine, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine.failure = RuntimeError("a defect")
        async with serving(engine) as address:
            assert await raw(address, b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n") == b""
            assert (await get(address, "/livez"))[0] == 200
        assert [record.message for record in caplog.records] == ["health: a request failed; the bot is not affected"]


class TestListening:
    async def test_it_answers_on_a_unix_socket_for_the_same_user_and_group(
        self, engine: FakeEngine, tmp_path: Path
    ) -> None:
        path = tmp_path / "health.sock"
        async with health.serve(path, engine) as shown:
            assert shown == f"unix:{path}"
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            assert (await get(path, "/livez"))[0] == 200
        assert not path.exists()

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
    async def test_a_socket_in_another_users_directory_is_neither_made_nor_asked(
        self, engine: FakeEngine, tmp_path: Path
    ) -> None:
        shared, theirs = tmp_path / "shared", tmp_path / "shared" / "run"
        theirs.mkdir(parents=True)
        shared.chmod(0o1777)
        os.chown(theirs, 65534, 65534)
        with pytest.raises(HealthError, match=f"{theirs} belongs to uid 65534"):
            async with health.serve(theirs / "s", engine):
                pass
        with socket.socket(socket.AF_UNIX) as fake:
            fake.bind(str(theirs / "s"))
            fake.listen()
            with pytest.raises(NoAnswerError, match=f"is not asked.*{theirs} belongs to uid 65534"):
                ask(theirs / "s", timeout=1)

    async def test_it_answers_on_ipv6(self, engine: FakeEngine) -> None:
        try:
            async with health.serve(TcpAddress("::1", 0), engine) as shown:
                address = parse_listen(shown.removeprefix("http://"))
                assert address is not None
                assert (await get(address, "/livez"))[0] == 200
        except HealthError as error:
            pytest.skip(f"no IPv6 here: {error}")

    async def test_a_port_that_is_taken_is_said_with_what_to_do(self, engine: FakeEngine) -> None:
        listen = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1]); input()"
        with subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-u", "-c", listen], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None
            port = int(other.stdout.readline())
            with pytest.raises(HealthError) as caught:
                async with health.serve(TcpAddress("127.0.0.1", port), engine):
                    pass
            other.kill()
        assert str(caught.value) == (
            f"health.listen: nothing can listen at 127.0.0.1:{port}: pid {other.pid} ({Path(sys.executable).name}) "
            'listens there; choose another health.listen, or "" for none'
        )

    async def test_a_live_socket_is_not_taken_away(self, engine: FakeEngine, tmp_path: Path) -> None:
        path = tmp_path / "health.sock"
        async with health.serve(path, engine):
            with pytest.raises(HealthError, match="is taken, another program listens there"):
                async with health.serve(path, engine):
                    pass
            assert (await get(path, "/livez"))[0] == 200

    async def test_the_socket_of_a_dead_supervisor_is_replaced(self, engine: FakeEngine, tmp_path: Path) -> None:
        path = tmp_path / "health.sock"
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        async with health.serve(path, engine):
            assert (await get(path, "/livez"))[0] == 200

    async def test_a_file_in_its_place_is_left_alone(self, engine: FakeEngine, tmp_path: Path) -> None:
        path = tmp_path / "health.sock"
        path.write_text("precious")
        with pytest.raises(HealthError, match="exists and is not a socket"):
            async with health.serve(path, engine):
                pass
        assert path.read_text() == "precious"

    @pytest.mark.parametrize(
        ("listen", "said"),
        [
            ("unix:/nowhere/at/all.sock", "there is no directory /nowhere/at"),
            ("192.0.2.1:80", os.strerror(errno.EADDRNOTAVAIL)),
            ("no.such.host.invalid:80", "the host is not known"),
        ],
    )
    async def test_where_nobody_can_listen_the_reason_is_said(self, engine: FakeEngine, listen: str, said: str) -> None:
        address = parse_listen(listen)
        assert address is not None
        with pytest.raises(HealthError, match=said):
            async with health.serve(address, engine):
                pass


class TestHealthcheck:
    async def ask(self, address: HealthAddress) -> Health:
        return await anyio.to_thread.run_sync(ask, address)

    async def test_it_says_what_readyz_says(self, engine: FakeEngine, tmp_path: Path) -> None:
        path = tmp_path / "health.sock"
        async with serving(engine) as tcp, health.serve(path, engine):
            assert await self.ask(tcp) == Health(False, "not ready: 1 of 2 shards is not ready")
            engine.active = READY
            assert await self.ask(tcp) == Health(True, "ready: every shard of generation 3")
            assert await self.ask(path) == Health(True, "ready: every shard of generation 3")

    async def test_who_listens_everywhere_is_asked_on_loopback(self, engine: FakeEngine) -> None:
        engine.active = READY
        async with health.serve(TcpAddress("0.0.0.0", 0), engine) as shown:
            address = parse_listen(shown.removeprefix("http://"))
            assert address is not None
            assert (await self.ask(address)).ready

    @pytest.fixture
    def silent(self) -> Iterator[socket.socket]:
        with socket.socket() as peer:
            peer.bind(("127.0.0.1", 0))
            yield peer

    async def test_nobody_there_is_said(self, silent: socket.socket) -> None:
        with pytest.raises(NoAnswerError, match=r"nothing answers at http://127.0.0.1:.*: Connection refused"):
            await self.ask(TcpAddress(*silent.getsockname()))

    async def test_a_supervisor_that_hangs_is_said(self, silent: socket.socket) -> None:
        silent.listen()
        with pytest.raises(NoAnswerError, match=r"does not answer within 0\.1 s: the supervisor hangs or is stopped"):
            ask(TcpAddress(*silent.getsockname()), timeout=0.1)

    async def test_another_server_is_not_taken_for_a_supervisor(self, silent: socket.socket) -> None:
        silent.listen()
        async with anyio.create_task_group() as tasks:

            async def answer() -> None:
                peer, _ = await anyio.to_thread.run_sync(silent.accept)
                with peer:
                    peer.recv(4096)
                    peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n<h1>It works!</h1>")

            tasks.start_soon(answer)
            found = await self.ask(TcpAddress(*silent.getsockname()))
        assert not found.ready
        assert "is no supervisor" in found.reason


async def scrape(engine: FakeEngine) -> dict[str, float]:
    """Return every sample by its name and labels."""
    async with serving(engine) as address:
        status, headers, body = await get(address, "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return {
        ",".join([sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


class TestMetrics:
    async def test_they_tell_of_children_shards_and_budget(self, engine: FakeEngine) -> None:
        found = await scrape(engine)
        expected = {
            "bastion_state,state=serving": 1,
            "bastion_state,state=starting": 0,
            "bastion_ready": 0,
            "bastion_children,role=active": 1,
            "bastion_children,role=standby": 0,
            "bastion_active_generation": 2,
            "bastion_guilds": 1200,
            "bastion_shards,role=active,state=ready": 1,
            "bastion_shards,role=active,state=resuming": 1,
            "bastion_shard_latency_seconds,shard=0": 0.0315,
            "bastion_child_resident_memory_bytes,role=active": 88 * 1024 * 1024,
            "bastion_child_loop_lag_seconds,role=active": 0.0004,
            "bastion_handlers_in_flight,role=active": 2,
            "bastion_restarts_total": 0,
            "bastion_session_start_limit": 1000,
            "bastion_session_start_remaining": 990,
            "bastion_session_start_concurrency": 1,
        }
        assert {name: found.get(name) for name in expected} == expected
        assert found["bastion_resident_memory_bytes"] > 2**20
        assert 1 < found["bastion_tasks"] < 50

    async def test_handoffs_are_counted_by_kind_and_result_and_there_from_the_start(self, engine: FakeEngine) -> None:
        name = "bastion_handoff_duration_seconds"
        before = await scrape(engine)
        assert before[f"{name}_count,kind=reload,result=succeeded"] == 0
        for seconds in (4.0, 7.0, 1000.0):
            record = HandoffRecord(began=0.0, kind="reload", origin=1, session="moved", pause_ms=31.0, identifies=2)
            engine.counted.ended(record, "succeeded", seconds=seconds)
        after = await scrape(engine)
        assert after[f"{name}_count,kind=reload,result=succeeded"] == 3
        assert after[f"{name}_sum,kind=reload,result=succeeded"] == 1011
        buckets = {
            bound: after[f"{name}_bucket,kind=reload,le={bound},result=succeeded"]
            for bound in ("2.5", "5.0", "10.0", "600.0", "+Inf")
        }
        assert buckets == {"2.5": 0, "5.0": 1, "10.0": 2, "600.0": 2, "+Inf": 3}
        assert before["bastion_handoff_sessions_total,session=overlap"] == 0
        assert after["bastion_handoff_sessions_total,session=moved"] == 3
        assert (after["bastion_handoff_pause_seconds"], after["bastion_handoff_identifies_total"]) == (0.031, 6)
        assert after[f"{name}_count,kind=reload,result=failed"] == 0

    async def test_counters_go_on_from_one_generation_to_the_next(self, engine: FakeEngine) -> None:
        engine.counted.add(_beat(1, handled=10, won=4), since=None)
        engine.counted.add(_beat(2, handled=25, won=4), since=_beat(1, handled=10, won=4))
        engine.counted.add(_beat(1, handled=3, won=2), since=None)  # the next generation begins at nothing
        found = await scrape(engine)
        assert found["bastion_events_handled_total"] == 28
        assert found["bastion_claims_total,result=won"] == 6

    def test_a_counter_that_a_child_sets_back_takes_nothing_away(self) -> None:
        totals = Totals()
        totals.add(_beat(1, handled=10), since=None)
        totals.add(_beat(2, handled=4), since=_beat(1, handled=10))
        assert totals.handled == 10


def _beat(n: int, *, handled: int, won: int = 0) -> Beat:
    return Beat(n=n, loop_lag_ms=0.1, in_flight=0, handled=handled, claims=Claims(won=won))
