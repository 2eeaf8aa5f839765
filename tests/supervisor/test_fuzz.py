"""Whatever comes in from outside is refused in words: pipes, control socket, settings, what is carried over.

Each test runs briefly in the fast suite and long in the wide one. No crash, no traceback, and nobody else is let in.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import anyio
import msgspec
import pytest
from anyio.from_thread import start_blocking_portal
from fake_engine import FakeEngine
from hypothesis import HealthCheck, given
from hypothesis import settings as options
from hypothesis import strategies as st
from supervising import TOKEN, Supervised, make_settings
from test_reexec import an_envelope
from test_wire import FROM_CHILD

from bastion import wire
from bastion.supervisor import control, slot
from bastion.supervisor.child import Launch, Listener
from bastion.supervisor.control_client import Connection, NoSupervisorError, fetch_status
from bastion.supervisor.engine import Engine
from bastion.supervisor.location import SettingsError, locate_socket
from bastion.supervisor.reexec import CarryError, Envelope, decode, encode
from bastion.supervisor.release import Release
from bastion.supervisor.settings import Settings, load
from bastion.wire import LineBuffer, ToChild, WireError

EXAMPLE = Path(__file__).resolve().parents[2] / "bastion.toml.example"


def briefly_and_long(brief: int, long: int) -> Any:
    return pytest.mark.parametrize(
        "examples", [brief, pytest.param(long, marks=[pytest.mark.wide, pytest.mark.timeout(600)])]
    )


def fuzz(examples: int, check: Callable[..., None], *strategies: st.SearchStrategy[Any]) -> None:
    """Run a check against many inputs."""
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    options(max_examples=examples, deadline=None, suppress_health_check=quiet)(given(*strategies)(check))()


def mutated(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Return honest bytes with some of them overwritten, left out, doubled, or cut off."""
    piece = st.one_of(
        st.binary(max_size=8),
        st.sampled_from(
            [b'"', b"\\", b"{", b"[" * 2000, b"\n", b"\x00", b"\xff", b"\\ud800", b"NaN", b"1e999", b"-1", b"9" * 400]
        ),
    )
    edit = st.tuples(st.integers(0, 2000), st.integers(0, 12), piece)

    def apply(seed: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
        for at, length, new in edits:
            at %= len(seed) + 1
            seed = seed[:at] + new + seed[at + length :]
        return seed

    return st.builds(apply, st.sampled_from(seeds), st.lists(edit, min_size=1, max_size=6))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)

# --- a child's pipe ---------------------------------------------------------------------------------------------

LINES = [wire.encode(message) for message in FROM_CHILD]


@briefly_and_long(300, 20_000)
def test_a_pipe_gives_messages_or_a_wire_error(examples: int) -> None:
    def check(pieces: list[bytes]) -> None:
        buffer = LineBuffer()
        with suppress(WireError):
            for piece in pieces:
                for line in buffer.feed(piece):
                    assert isinstance(wire.decode_from_child(line), msgspec.Struct)
        assert len(buffer.rest) <= sum(map(len, pieces))

    fuzz(examples, check, st.lists(mutated(LINES) | st.binary(max_size=200) | st.sampled_from(LINES), max_size=8))


INTS = st.one_of(st.integers(-3, 8), st.sampled_from([-(2**63), 2**63 - 1, 65535, 65536, 2**31]))
FLOATS = st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.0, -1.0, 1e308, -1e308]))
TEXTS = st.text(max_size=20)
SHARD_STATES = st.sampled_from(["waiting", "connecting", "ready", "resuming", "closed"])
MESSAGES: st.SearchStrategy[wire.FromChild] = st.one_of(
    st.builds(wire.Hello, pid=INTS, protocol=st.just(wire.PROTOCOL), versions=st.dictionaries(TEXTS, TEXTS)),
    st.builds(wire.Identify, shard=INTS),
    st.builds(wire.Limits, total=INTS, remaining=INTS, reset_after=FLOATS, max_concurrency=INTS, shards=INTS),
    st.builds(wire.Shard, id=INTS, state=SHARD_STATES, latency_ms=st.none() | FLOATS),
    st.builds(wire.Ready, shards=INTS, guilds=INTS),
    st.builds(wire.Role, role=st.sampled_from(["starting", "standby", "active", "draining"])),
    st.builds(
        wire.Beat, n=INTS, loop_lag_ms=FLOATS, in_flight=INTS, handled=INTS, heard=INTS, replayed=INTS,
        latencies=st.dictionaries(INTS, FLOATS, max_size=3),
    ),
    st.builds(wire.Lingering, views=INTS, conversations=INTS),
    st.builds(wire.Drained, finished=INTS, cut=st.lists(TEXTS, max_size=3)),
    st.builds(wire.Fatal, reason=TEXTS, retryable=st.booleans()),
)  # fmt: skip


class Puppet:
    """A child without a process: says what the test wants, and dies when it is killed."""

    def __init__(self, release: Release, launch: Launch, listener: Listener) -> None:
        self.release, self.generation, self.pid = release, launch.generation, os.getpid()
        self._listener: Any = listener
        self._dead = False

    def send(self, message: ToChild) -> None:
        wire.encode(message)

    def signal(self, name: str) -> None:
        if name in ("SIGKILL", "SIGTERM") and not self._dead:
            self._dead = True
            asyncio.get_running_loop().call_soon(self._leave)

    def _leave(self) -> None:
        self._listener.left(self, "killed", retryable=True)

    def set_expendable(self, expendable: bool) -> None: ...

    def sample(self) -> tuple[None, None]:
        return None, None


@briefly_and_long(40, 1000)
def test_no_message_however_absurd_ends_the_supervisor(examples: int, tmp_path: Path) -> None:
    """What has the shape of a message is believed as far as it concerns that child, and no further."""
    settings = make_settings(tmp_path)

    async def live(said: list[tuple[int, wire.FromChild | str]]) -> None:
        it = Supervised(settings)
        it.engine = Engine(settings, reread=it.reread, log=it.log)
        puppets: list[Puppet] = []

        def spawn(release: Release, launch: Launch, listener: Listener, **_: object) -> Puppet:
            puppets.append(Puppet(release, launch, listener))
            return puppets[-1]

        with mock.patch.object(slot, "spawn", spawn):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(it.engine.run)
                await anyio.wait_all_tasks_blocked()
                for who, message in said:
                    found = it.engine._slot
                    if found is None:
                        break
                    if message == "reload":
                        tasks.start_soon(it.engine.reload)
                        await anyio.wait_all_tasks_blocked()
                    elif not isinstance(message, str):
                        puppet = puppets[who % len(puppets)]
                        found.heard(puppet, message)  # type: ignore[arg-type]
                    msgspec.json.encode(await it.engine.status())
                    msgspec.json.encode(found.progress())
                tasks.start_soon(it.engine.stop)
                await anyio.wait_all_tasks_blocked()
                with anyio.fail_after(10):
                    await it.engine.stop()  # at once

    def check(said: list[tuple[int, wire.FromChild | str]]) -> None:
        anyio.run(live, said)

    ready: list[tuple[int, wire.FromChild | str]] = [
        (0, wire.Hello(pid=1, protocol=wire.PROTOCOL, versions={})),
        (0, wire.Ready(shards=1, guilds=1)),
        (0, wire.Role(role="active")),
        (0, "reload"),
    ]
    words = st.tuples(st.integers(0, 3), MESSAGES | st.just("reload"))
    beginnings = st.sampled_from([[], ready])
    fuzz(examples, check, st.builds(lambda first, more: [*first, *more], beginnings, st.lists(words, max_size=15)))


# --- the control socket -----------------------------------------------------------------------------------------

REQUESTS = [
    b'{"command":"status"}\n',
    b'{"command":"reload","wait":true,"force":false}\n',
    b'{"command":"reload","wait":false}\n',
    b'{"command":"rollback"}\n',
]


@contextmanager
def serving(path: Path) -> Iterator[tuple[Path, FakeEngine]]:
    with start_blocking_portal() as portal:
        engine = portal.call(FakeEngine)
        with portal.wrap_async_context_manager(control.serve(path, engine)):
            yield path, engine


@briefly_and_long(60, 5000)
def test_the_control_socket_answers_the_next_one_whatever_was_said_before(
    examples: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(tmp_path / "run" / "s.sock") as (path, engine):

        def check(said: list[bytes], polite: list[bool]) -> None:
            peers = []
            for data in said:
                peer = socket.socket(socket.AF_UNIX)
                peer.settimeout(10)
                peer.connect(str(path))
                peers.append(peer)
                with suppress(OSError):  # the server had enough before we had said all
                    peer.sendall(data)
            for peer, stays in zip(peers, [*polite, *[False] * len(peers)], strict=False):
                with suppress(OSError), peer:
                    if stays:
                        peer.shutdown(socket.SHUT_WR)
                        while part := peer.recv(65536):
                            assert part
            assert fetch_status(path)["restarts"] == 0

        said = mutated(REQUESTS) | st.binary(max_size=6000) | JSON.map(lambda value: json.dumps(value).encode() + b"\n")
        fuzz(examples, check, st.lists(said, max_size=6), st.lists(st.booleans(), max_size=6))
        assert not engine.stopped.is_set()
        with Connection(path) as connection:
            assert list(connection.ask("reload"))[-1]["type"] == "outcome"
    assert [record for record in caplog.records if record.exc_info or record.levelname in ("ERROR", "CRITICAL")] == []


INTRUDER = """
import json, os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
answers = []
for line in sys.argv[2:]:
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(10)
    try:
        peer.connect(sys.argv[1])
        try:
            peer.sendall(line.encode() + bytes([10]))
        except BrokenPipeError:  # the answer is there already
            pass
        answers.append(json.loads(peer.makefile().readline())["error"])
    except OSError as error:
        answers.append(type(error).__name__)
print(json.dumps(answers))
"""


def intrude(path: Path, *lines: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", INTRUDER, str(path), *lines], capture_output=True, check=True, timeout=30
    )
    return list(json.loads(done.stdout))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_nobody_else_is_let_in() -> None:
    commands = [f'{{"command": "{name}"}}' for name in ("status", "reload", "rollback", "stop", "nonsense")]
    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        Path(base).chmod(0o755)  # all the way down to the socket's own directory others may go
        with serving(Path(base) / "run" / "s.sock") as (path, engine):
            assert intrude(path, *commands) == ["PermissionError"] * 5
            path.parent.chmod(0o777)
            assert intrude(path, *commands) == ["PermissionError"] * 5, "the socket itself is ours alone"
            path.chmod(0o777)
            assert set(intrude(path, *commands)) == {
                "this supervisor belongs to uid 0; uid 65534 may not ask it anything"
            }
            assert engine.forced == []
            assert not engine.stopped.is_set()
            with pytest.raises(NoSupervisorError, match="another user could answer there"):
                fetch_status(path)
            path.parent.chmod(0o755)
            assert fetch_status(path)["restarts"] == 0


# --- settings ---------------------------------------------------------------------------------------------------


@briefly_and_long(300, 20_000)
def test_any_file_and_any_environment_give_settings_or_words(examples: int, tmp_path: Path) -> None:
    path = tmp_path / "bastion.toml"
    # Every key of the example, with the comment signs in front of the keys taken away.
    example = EXAMPLE.read_bytes().replace(b"\n# ", b"\n").replace(b"\n#", b"\n")
    sections = [b"[" + section for section in EXAMPLE.read_bytes().replace(b"\n#", b"\n").split(b"\n[")[1:]]
    names = st.sampled_from(["DISCORD_TOKEN", "DISCORD_API_URL", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "TMPDIR"])
    values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)

    def check(content: bytes, environ: dict[str, str]) -> None:
        path.write_bytes(content)
        for read in (load, locate_socket):
            problems: tuple[str, ...] = ("none",)
            try:
                assert isinstance(read(path, environ=environ), Settings | Path)
            except SettingsError as error:
                problems = error.problems
            assert problems
            assert all(problem.strip() and "\n" not in problem for problem in problems)

    fuzz(
        examples,
        check,
        mutated([example, EXAMPLE.read_bytes(), *sections]) | st.binary(max_size=300),
        st.dictionaries(names, values, max_size=4),
    )


# --- what is carried over ---------------------------------------------------------------------------------------


@briefly_and_long(200, 10_000)
def test_what_is_carried_over_is_taken_up_or_refused_in_words(examples: int) -> None:
    whole = [encode(an_envelope(Path("/releases")))]

    def check(data: bytes) -> None:
        said = ""
        try:
            assert isinstance(decode(data), Envelope)
        except CarryError as error:
            said = str(error)
        assert TOKEN not in said

    fuzz(examples, check, mutated(whole) | JSON.map(lambda value: json.dumps(value).encode()))
