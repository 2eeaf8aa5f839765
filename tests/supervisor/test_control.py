"""The control socket: requests are answered, and no client can hurt the server or the reload it asked for."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fake_engine import FakeEngine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bastion.supervisor import control, control_client, door
from bastion.supervisor.control_client import Connection, NoSupervisorError, RefusedError, fetch_status, request_stop

TIMEOUT = 10.0
STRANGER = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")


class Server:
    """A control server in a thread, with the engine behind it."""

    def __init__(self, path: Path, engine: FakeEngine, portal: BlockingPortal) -> None:
        self.path = path
        self.engine = engine
        self._portal = portal

    def do(self, action: Callable[[], object]) -> None:
        self._portal.call(action)

    def wait_for(self, event: anyio.Event) -> None:
        async def wait() -> None:
            with anyio.fail_after(TIMEOUT):
                await event.wait()

        self._portal.call(wait)

    def raw(self, data: bytes) -> bytes:
        """Send bytes, close our sending end, return all that comes back."""
        with self.connect() as peer:
            try:
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, OSError):
                pass  # the server had enough before we had said all
            answer = b""
            try:
                while part := peer.recv(65536):
                    answer += part
            except ConnectionResetError:
                pass  # closed with unread input
            return answer

    def connect(self) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(TIMEOUT)
        peer.connect(str(self.path))
        return peer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "supervisor.sock"


@pytest.fixture
def server(path: Path) -> Iterator[Server]:
    with start_blocking_portal() as portal, ExitStack() as stack:
        engine = portal.call(FakeEngine)
        stack.enter_context(portal.wrap_async_context_manager(control.serve(path, engine)))
        yield Server(path, engine, portal)


def serve_briefly(path: Path) -> None:
    async def main() -> None:
        async with control.serve(path, FakeEngine()):
            pass

    anyio.run(main)


def last(lines: list[dict[str, Any]]) -> dict[str, Any]:
    assert lines, "the server said nothing"
    return lines[-1]


def test_status_has_the_names_of_the_contract(server: Server) -> None:
    answer = fetch_status(server.path)
    assert set(answer) == {"supervisor", "children", "last_handoff", "restarts", "session_start_limit"}
    assert (answer["last_handoff"]["from"], answer["last_handoff"]["to"]) == (1, 2)
    assert answer["children"][0]["claims"] == {"won": 5, "lost": 4, "errors": 0}


def test_a_waiting_reload_streams_progress_and_ends_with_the_outcome(server: Server) -> None:
    with Connection(server.path) as connection:
        lines = list(connection.ask("reload", wait=True))
    assert [line["type"] for line in lines] == ["progress", "progress", "outcome"]
    assert lines[1]["progress"] == {
        "phase": "connecting",
        "message": "waits for shard 1",
        "generation": 2,
        "shards_ready": 1,
        "shards_total": 2,
    }
    assert lines[-1]["outcome"]["result"] == "succeeded"
    assert lines[-1]["outcome"]["handoff"]["to"] == 2


def test_a_rollback_streams_and_ends_as_a_reload_does(server: Server) -> None:
    with Connection(server.path) as connection:
        progress, outcome = connection.ask("rollback")
    assert progress["progress"]["phase"] == "preparing"
    assert outcome["outcome"]["generation"] == 3


@pytest.mark.parametrize(
    ("command", "arguments"), [("reload", {"wait": True}), ("reload", {"wait": False}), ("rollback", {})]
)
@pytest.mark.parametrize("force", [True, False])
def test_a_handoff_may_be_forced(server: Server, command: str, arguments: dict[str, bool], force: bool) -> None:
    with Connection(server.path) as connection:
        for _ in connection.ask(command, force=force, **arguments):
            pass
    assert server.engine.forced == [force]


def test_a_reload_that_nobody_waits_for_is_accepted_at_once_and_goes_on(server: Server) -> None:
    server.do(server.engine.hold)
    with Connection(server.path) as connection:
        assert list(connection.ask("reload", timeout=TIMEOUT, wait=False)) == [{"type": "accepted"}]
    server.wait_for(server.engine.reload_began)
    assert not server.engine.reload_ended.is_set()
    server.do(server.engine.may_finish.set)
    server.wait_for(server.engine.reload_ended)


def test_a_client_that_leaves_does_not_end_the_reload_it_asked_for(server: Server) -> None:
    server.do(server.engine.hold)
    with Connection(server.path) as connection:
        assert next(connection.ask("reload", wait=True))["type"] == "progress"
    assert fetch_status(server.path)["supervisor"]["state"] == "serving"
    server.do(server.engine.may_finish.set)
    server.wait_for(server.engine.reload_ended)


@pytest.mark.anyio
async def test_a_client_that_leaves_as_it_is_answered_has_nothing_printed(path: Path) -> None:
    engine = FakeEngine()
    loop = asyncio.get_running_loop()
    printed: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: printed.append(context))
    for turns in range(12):  # one of them is the turn of the loop in which the server lets go
        engine.hold()
        async with control.serve(path, engine):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b'{"command": "reload"}\n')
            await reader.readline()
            engine.may_finish.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            writer.transport.abort()
    loop.set_exception_handler(None)
    assert not printed


def test_a_client_that_does_not_read_does_not_hold_up_the_reload(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "SEND_TIMEOUT", 0.1)
    server.engine.progress_lines = 20_000  # more than the socket's buffer and the server's hold together
    with server.connect() as peer:
        peer.sendall(b'{"command": "reload"}\n')
        server.wait_for(server.engine.reload_ended)
        assert fetch_status(server.path)["restarts"] == 0


def test_stop_is_accepted_before_the_engine_stops_and_holds_the_connection(server: Server) -> None:
    with Connection(server.path) as connection:
        answers = connection.ask("stop")
        assert next(answers) == {"type": "accepted"}
        server.wait_for(server.engine.stopped)


def test_an_outcome_that_comes_with_the_end_of_the_engine_is_still_heard(path: Path) -> None:
    with start_blocking_portal() as portal:
        engine = portal.call(FakeEngine)
        portal.call(engine.hold)
        with portal.wrap_async_context_manager(control.serve(path, engine)):
            connection = Connection(path)
            answers = connection.ask("reload")
            next(answers)
            portal.call(engine.may_finish.set)
        with connection:
            assert last(list(answers))["type"] == "outcome"


def test_two_clients_may_wait_for_one_reload(server: Server) -> None:
    server.do(server.engine.hold)
    with Connection(server.path) as first, Connection(server.path) as second:
        answers = [first.ask("reload"), second.ask("reload")]
        for answer in answers:
            next(answer)
        server.do(server.engine.may_finish.set)
        assert [last(list(answer))["outcome"]["result"] for answer in answers] == ["succeeded", "succeeded"]


@pytest.mark.parametrize("command", ["status", "reload"])
def test_an_engine_that_raises_is_an_error_line_and_the_server_lives(server: Server, command: str) -> None:
    server.engine.failure = RuntimeError("a defect")
    with Connection(server.path) as connection, pytest.raises(RefusedError, match="a defect"):
        list(connection.ask(command))
    server.engine.failure = None
    assert fetch_status(server.path)["restarts"] == 0


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"GET / HTTP/1.1\r\n",
        b"\xff\xfe\n",
        b"null\n",
        b'{"command": "dance"}\n',
        b'{"command": "reload", "wait": 3}\n',
        b'{"command": "status", "more": 1}\n',
        b"[" * 4000 + b"\n",
        b"x" * 100_000,
    ],
)
def test_what_is_not_a_request_gets_an_error_line(server: Server, line: bytes) -> None:
    answer = json.loads(server.raw(line))
    assert answer["type"] == "error"
    assert "not a request" in answer["error"]
    assert fetch_status(server.path)["restarts"] == 0


def test_no_bytes_whatever_hurt_the_server(server: Server) -> None:
    words = st.sampled_from([b"{", b"}", b'"command"', b":", b'"reload"', b'"wait"', b"true", b"\n", b"\0", b"1e999"])
    noise = st.one_of(st.binary(max_size=200), st.lists(words, max_size=20).map(b"".join))

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(noise)
    def check(data: bytes) -> None:
        answer = server.raw(data)
        if answer:
            assert all(json.loads(line)["type"] for line in answer.splitlines())

    check()
    assert fetch_status(server.path)["restarts"] == 0


def test_a_client_that_says_nothing_is_let_go(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_TIMEOUT", 0.05)
    with server.connect() as silent:
        silent.sendall(b'{"command": ')
        assert "no request came within 0.05 s" in json.loads(until_closed(silent))["error"]


def until_closed(peer: socket.socket) -> bytes:
    return b"".join(iter(lambda: peer.recv(4096), b""))


def test_whoever_asks_for_nothing_makes_room_for_others_and_is_told_so(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "MAX_CLIENTS", 3)
    with ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(3)]
        idle[0].sendall(b'{"command": ')  # nor does half a request keep a place
        assert fetch_status(server.path)["restarts"] == 0
        assert "busy (3 connections are open)" in json.loads(until_closed(idle[0]))["error"]
        idle[2].sendall(b'{"command": "status"}\n')
        assert json.loads(until_closed(idle[2]))["type"] == "status", "only the idlest makes room"


def test_clients_that_wait_for_a_reload_are_not_cut_and_whoever_finds_no_room_is_told_so(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "MAX_CLIENTS", 2)
    server.do(server.engine.hold)
    with Connection(server.path) as first, Connection(server.path) as second:
        answers = [first.ask("reload"), second.ask("reload")]
        for answer in answers:
            next(answer)
        with pytest.raises(RefusedError, match="the supervisor is busy"):
            fetch_status(server.path)
        server.do(server.engine.may_finish.set)
        assert [last(list(answer))["outcome"]["result"] for answer in answers] == ["succeeded", "succeeded"]
    assert fetch_status(server.path)["restarts"] == 0


def test_two_hundred_idle_connections_do_not_hold_up_an_answer(server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(200):
            idle = stack.enter_context(socket.socket(socket.AF_UNIX))
            idle.connect(str(server.path))
        began = time.monotonic()
        assert fetch_status(server.path)["restarts"] == 0
        assert time.monotonic() - began < 1


def test_whoever_finds_no_descriptor_left_is_told_so_and_the_next_one_is_answered(path: Path) -> None:
    arguments = [sys.executable, str(Path(__file__).with_name("fake_engine.py")), str(path), "succeeded"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        open_now = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (open_now, before[1]))
        for _ in range(3):
            with pytest.raises(RefusedError, match=f"busy .it has no file descriptor left, of {open_now}"):
                fetch_status(path)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
        assert fetch_status(path)["restarts"] == 0
        request_stop(path)


def test_a_full_queue_is_not_taken_for_a_supervisor_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_client, "CONNECT_TIMEOUT", 0.1)
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(tmp_path / "s"))
        with pytest.raises(RefusedError, match="is busy, hangs or is stopped: its queue has been full"):
            fetch_status(tmp_path / "s")


def test_whoever_finds_the_queue_full_waits_for_room(tmp_path: Path) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(tmp_path / "s"))

        def make_room() -> None:
            for _ in range(2):
                peer, _ = listener.accept()
                stack.enter_context(peer)
            peer.recv(4096)
            peer.sendall(b'{"type": "status", "status": {"restarts": 0}}\n')

        takes = Timer(0.2, make_room)
        takes.start()
        stack.callback(takes.join)
        assert fetch_status(tmp_path / "s")["restarts"] == 0


@as_root
@pytest.mark.parametrize("mode", [0o1777, 0o777])
def test_a_socket_in_another_users_directory_is_not_asked(tmp_path: Path, mode: int) -> None:
    around = tmp_path / "around"
    around.mkdir()
    around.chmod(mode)
    with fake(around / "bastion-0" / "s", owner=STRANGER) as (path, asked):
        with pytest.raises(NoSupervisorError, match="another user could answer there"):
            fetch_status(path)
        assert not asked.is_set()


@as_root
def test_a_listener_that_is_not_the_sockets_owner_is_not_asked(tmp_path: Path) -> None:
    with fake(tmp_path / "run" / "s", listener=STRANGER) as (path, asked):
        with pytest.raises(NoSupervisorError, match=f"a process of uid {STRANGER} listens there"):
            fetch_status(path)
        assert not asked.is_set()


@as_root
def test_root_may_ask_another_users_supervisor_where_nobody_else_can_answer(tmp_path: Path) -> None:
    with fake(tmp_path / "run" / "s", owner=STRANGER, listener=STRANGER) as (path, asked):
        assert fetch_status(path) == {"restarts": 0}
        assert asked.is_set()


@contextmanager
def fake(path: Path, *, owner: int = 0, listener: int = 0) -> Iterator[tuple[Path, Event]]:
    """Listen at a socket, in a directory of ``owner``'s, as a process of ``listener``'s, and answer one question."""
    asked = Event()
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        for made in (path, path.parent):
            os.chown(made, owner, owner)
        os.seteuid(listener)
        server.listen()
        os.seteuid(0)

        def answer() -> None:
            with suppress(OSError):
                peer, _ = server.accept()
                with peer:
                    if peer.recv(4096):
                        asked.set()
                        peer.sendall(b'{"type": "status", "status": {"restarts": 0}}\n')

        answerer = Thread(target=answer)
        answerer.start()
        try:
            yield path, asked
        finally:
            server.shutdown(socket.SHUT_RDWR)
            answerer.join()


@pytest.mark.parametrize("wide", ["around", "run"])
def test_a_directory_around_which_others_may_replace_things_is_refused(tmp_path: Path, wide: str) -> None:
    directory = tmp_path / "around" / "run"
    directory.mkdir(parents=True, mode=0o700)
    (tmp_path / "around").chmod(0o777 if wide == "around" else 0o755)
    directory.chmod(0o700 if wide == "around" else 0o777)
    with pytest.raises(control.ControlError, match=rf"{directory} is (not safe|open)"):
        serve_briefly(directory / "s")


@as_root
def test_another_user_is_refused_even_where_the_modes_let_them_in(server: Server, tmp_path: Path) -> None:
    temporary = next(parent for parent in tmp_path.parents if parent.name.startswith("pytest-of-"))
    for directory in server.path.parents:
        if directory.is_relative_to(temporary):
            directory.chmod(0o755)
    server.path.chmod(0o666)
    os.seteuid(65534)
    try:
        peer = server.connect()
    finally:
        os.seteuid(0)
    with peer:
        answer = json.loads(peer.recv(4096))
    assert answer["type"] == "error"
    assert "uid 65534" in answer["error"]


def test_socket_and_directory_are_for_their_owner_alone(server: Server) -> None:
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.path.parent.stat().st_mode) == 0o700


def test_a_second_supervisor_is_told_who_answers_and_the_first_goes_on(server: Server) -> None:
    with pytest.raises(control.ControlError, match=rf"another supervisor \(pid {os.getpid()}\) answers at .*\.sock"):
        serve_briefly(server.path)
    assert fetch_status(server.path)["restarts"] == 0


def test_a_live_listener_without_the_lock_is_not_pushed_aside(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(control.ControlError, match="another supervisor"):
            serve_briefly(path)
    assert path.exists()


def test_a_socket_left_over_from_a_dead_supervisor_is_replaced(path: Path) -> None:
    arguments = [sys.executable, str(Path(__file__).with_name("fake_engine.py")), str(path), "succeeded"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as dead:
        assert dead.stdout is not None
        assert dead.stdout.readline() == "ready\n"
        dead.send_signal(signal.SIGKILL)
    assert path.exists()
    serve_briefly(path)


def test_nothing_is_left_when_the_server_ends(path: Path) -> None:
    serve_briefly(path)
    assert list(path.parent.iterdir()) == []
    serve_briefly(path)


def test_a_file_at_the_sockets_place_is_neither_removed_nor_used(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_text("mine")
    with pytest.raises(control.ControlError, match="not a socket"):
        serve_briefly(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(("mode", "around"), [(0o770, 0o755), (0o707, 0o755), (0o750, 0o1777), (0o755, 0o1777)])
def test_a_directory_open_to_others_is_refused(path: Path, mode: int, around: int) -> None:
    path.parent.mkdir()
    path.parent.chmod(mode)
    path.parent.parent.chmod(around)
    with pytest.raises(control.ControlError, match=f"open to other users \\(mode {mode:04o}\\)"):
        serve_briefly(path)


def test_a_runtime_directory_that_others_may_read_is_fine_outside_a_shared_one(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o755)
    serve_briefly(path)


def test_a_link_in_a_shared_directory_is_not_followed(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (tmp_path / "target").mkdir(mode=0o700)
    (shared / "mine").symlink_to(tmp_path / "target")
    with pytest.raises(control.ControlError, match="not a directory"):
        serve_briefly(shared / "mine" / "supervisor.sock")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    os.chown(path.parent, 65534, 65534)
    with pytest.raises(control.ControlError, match="belongs to uid 65534"):
        serve_briefly(path)


def test_asking_where_no_socket_is_says_so(path: Path) -> None:
    with pytest.raises(NoSupervisorError, match="no such socket"):
        fetch_status(path)


def test_asking_at_a_left_over_socket_says_so(tmp_path: Path) -> None:
    path = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(NoSupervisorError, match="left over"):
        fetch_status(path)


def test_a_supervisor_that_hangs_is_named_with_its_pid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_client, "CONNECT_TIMEOUT", 0.05)
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(tmp_path / "s"))
        hung.listen()
        with pytest.raises(NoSupervisorError, match=rf"pid {os.getpid()}.*hangs"):
            fetch_status(tmp_path / "s")


@pytest.mark.parametrize("answer", [b"", b"half a li", b"[]\n", b"\xff\n", b'{"type": "status"}\n'])
def test_an_answer_that_breaks_off_is_an_error_of_its_own(tmp_path: Path, answer: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()

        def reply() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(answer)

        replier = Thread(target=reply)
        replier.start()
        with pytest.raises(NoSupervisorError, match="went away"):
            fetch_status(tmp_path / "s")
        replier.join()


def test_request_stop_returns_when_the_process_has_gone(path: Path) -> None:
    arguments = [sys.executable, str(Path(__file__).with_name("fake_engine.py")), str(path), "succeeded"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert request_stop(path) == process.pid
        assert process.poll() == 0
    assert not path.exists()


class RangError(Exception):
    """What the handler of a signal raises, as that of Ctrl-C does."""


RINGER = """
import contextlib, os, signal, socket, sys, time
listener = socket.socket(fileno=0)
for turn in range(3000):
    peer, _ = listener.accept()
    peer.recv(4096)
    peer.sendall(b"{}\\n")
    at = time.perf_counter_ns() + 20 * turn
    while time.perf_counter_ns() < at:
        pass
    os.kill(int(sys.argv[1]), signal.SIGUSR1)
    with contextlib.suppress(ConnectionResetError):
        peer.recv(4096)  # until the client has gone
    peer.close()
"""


def test_a_signal_is_heard_whenever_it_comes_while_an_answer_is_waited_for(tmp_path: Path) -> None:
    """Also just before the system call that waits, which it does not interrupt: in 1 of 1,000 tries.

    A terminal's progress bar has a thread, which makes that time longer.
    """

    def ring(_number: int, _frame: object) -> None:
        raise RangError

    def draw() -> None:
        while not drawn.wait(20e-6):
            pass

    before = signal.signal(signal.SIGUSR1, ring)
    drawn = Event()
    bar = Thread(target=draw)
    with ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGUSR1, before)
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        command = [sys.executable, "-c", RINGER, str(os.getpid())]
        ringer = stack.enter_context(subprocess.Popen(command, stdin=listener.fileno()))
        stack.callback(ringer.kill)
        bar.start()
        stack.callback(bar.join)
        stack.callback(drawn.set)
        for _ in range(3000):
            with Connection(tmp_path / "s") as connection, pytest.raises(RangError):
                for _ in connection.ask("reload"):
                    pass
