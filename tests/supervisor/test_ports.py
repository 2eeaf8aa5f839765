"""Who holds a port, and in which reasons a port is found."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from bastion.supervisor import ports
from bastion.supervisor.ports import SOMEBODY, holder, taken_port, with_holder

LISTENER = """
import socket, sys
server = socket.create_server((sys.argv[1], 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""
OURS = "this supervisor itself (health.listen)"


@contextmanager
def listening(script: Path, *words: str) -> Iterator[tuple[int, int]]:
    """Have another process listen, in a session of its own as children are; gives its pid and the port."""
    script.write_text(LISTENER)
    with subprocess.Popen(
        [sys.executable, str(script), *(words or ("127.0.0.1",))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.kill()


def test_another_process_is_named_by_its_pid_and_what_it_runs(tmp_path: Path) -> None:
    script = tmp_path / "listens.py"
    with listening(script, "127.0.0.1", "--password=hunter2") as (pid, port):
        assert holder(port) == f"pid {pid} ({Path(sys.executable).name} {str(script)[:60]})"
    assert holder(port) is None


def test_a_bot_of_ours_is_named_by_its_generation_whatever_address_it_listens_at(tmp_path: Path) -> None:
    with listening(tmp_path / "main.py", "0.0.0.0") as (pid, port):
        found = holder(port, generations={pid: 3, 1: 2})
    assert found is not None
    assert found.startswith(f"generation 3, pid {pid} ({Path(sys.executable).name} ")


def test_we_ourselves_are_named_by_what_we_listen_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert holder(server.getsockname()[1]) == OURS
        assert holder(server.getsockname()[1], generations={1: 1}) == OURS


def test_a_port_that_is_only_connected_to_has_no_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert holder(client.getsockname()[1]) is None


def test_a_process_that_we_may_not_look_at_is_said_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        hidden = [found._replace(pid=None) for found in psutil.net_connections("tcp")]
        monkeypatch.setattr(psutil, "net_connections", lambda kind: hidden)
        assert holder(port) == SOMEBODY


@pytest.mark.parametrize("error", [psutil.AccessDenied(), OSError("no /proc")])
def test_where_the_kernel_tells_nothing_nobody_is_named(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(kind: str) -> None:
        raise error

    monkeypatch.setattr(psutil, "net_connections", refuse)
    assert holder(80) is None


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (["/usr/bin/python3", "-P", "main.py", "--token", "x"], "python3 main.py"),
        (["/usr/bin/python3", "-m", "http.server", "8080"], "python3 -m http.server"),
        (["python3", "-c", "print('secret')"], "python3"),
        (["/usr/sbin/nginx"], "nginx"),
        (["node", "--key=secret"], "node"),
        ([], ""),
    ],
)
def test_of_a_command_line_only_what_runs_is_shown(line: list[str], shown: str) -> None:
    assert " ".join(ports._what_runs(line)) == shown


@pytest.mark.parametrize(
    ("reason", "port"),
    [
        ("[Errno 98] error while attempting to bind on address ('0.0.0.0', 8080): address already in use", 8080),
        ("OSError: [Errno 98] error while attempting to bind on address ('::', 80, 0, 0): address already in use", 80),
        ("OSError: [Errno 98] Address already in use (port 8080)", 8080),
        ("Port 5000 is in use by another program. Either identify and stop that program", 5000),
        ("Error: listen EADDRINUSE: address already in use 127.0.0.1:3000", 3000),
        ("at 12:30:45: OSError: [Errno 98] Address already in use", None),
        ("OSError: [Errno 98] Address already in use", None),
        ("ConnectionRefusedError: [Errno 111] Connect call failed ('127.0.0.1', 5432)", None),
        ("Errno 980, port 80", None),
        ("", None),
    ],
)
def test_a_port_is_found_in_a_reason_that_says_it_is_taken(reason: str, port: int | None) -> None:
    assert taken_port(reason) == port


def test_a_reason_is_followed_by_the_holder_and_any_other_is_left_as_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        reason = f"OSError: [Errno 98] Address already in use (port {port})"
        assert with_holder(reason, generations={}) == f"{reason}; port {port} is held by {OURS}"
    assert with_holder(reason, generations={}) == reason
    assert with_holder("the token was refused", generations={}) == "the token was refused"
