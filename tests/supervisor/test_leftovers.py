"""A child's processes end with the child; no other process does."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio.lowlevel
import pytest
from supervising import until
from test_child import Recorder, launch, release

from bastion.supervisor import leftovers
from bastion.supervisor.child import Child, spawn
from bastion.supervisor.descent import Leftover, Origin, look_at, marks
from bastion.supervisor.leftovers import end

pytestmark = pytest.mark.anyio

POPEN = "import os, subprocess, sys\np = subprocess.Popen(['sleep', '60']{more})\nprint('pid', p.pid, flush=True)\n"
"""A program that starts `sleep`, and prints the pid."""
DAEMON = """
import os, time
read, write = os.pipe()
if not os.fork():
    os.setsid()
    if not os.fork():
        print('pid', os.getpid(), flush=True)
        os.write(write, b'.')
        time.sleep(60)
    os._exit(0)
os.wait()
os.read(read, 1)
"""
POOL = """
import glob, multiprocessing, os, time
busy = "import os, time; print('pid', os.getpid(), flush=True); open(f'{{os.getpid()}}.busy', 'w'); time.sleep(60)"
pool = multiprocessing.get_context({way!r}).Pool(2, initializer=exec, initargs=(busy,))
while len(glob.glob('*.busy')) < 2:
    time.sleep(0.01)
"""
"""A pool whose workers are busy, and do not notice the end of the program."""
PERSISTENT = """
import os, time
{first}
if os.fork() == 0:
    while True:
        if os.fork(): os._exit(0)
        with open('hops', 'a') as hops: hops.write('.')
else:
    time.sleep(0.1)
"""
"""A process that forks, and ends as soon as it has: it hops from pid to pid."""


def alive(pid: int) -> bool:
    """Say whether a process runs. A dead process stays in /proc until its parent has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@dataclass
class Witness(Recorder):
    """A recorder that looks, in the moment when the child has left, which of the printed pids live."""

    survivors: list[int] = field(default_factory=list)

    @property
    def pids(self) -> list[int]:
        return [int(pid) for _, line in self.lines if line.startswith("pid ") for pid in line.split()[1:]]

    def left(self, child: Child, reason: str, *, retryable: bool) -> None:
        self.survivors = [pid for pid in self.pids if alive(pid)]
        super().left(child, reason, retryable=retryable)


@dataclass
class Family:
    """Spawns children, and ends those that a test leaves."""

    directory: Path
    members: list[tuple[Child, Witness]] = field(default_factory=list)

    def spawn(self, source: str, *, generation: int = 4) -> tuple[Child, Witness]:
        witness = Witness()
        child = spawn(
            release(self.directory),
            replace(launch(self.directory), generation=generation),
            witness,
            command=lambda _: (sys.executable, "-I", "-S", "-c", source),
        )
        self.members.append((child, witness))
        return child, witness


@pytest.fixture
async def family(tmp_path: Path) -> AsyncIterator[Family]:
    await anyio.lowlevel.checkpoint()
    family = Family(tmp_path)
    yield family
    for child, witness in family.members:
        child.signal("SIGKILL")
        await until(lambda witness=witness: witness.exits)  # type: ignore[misc]


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    """Take processes of the test's own, and end them."""
    with ExitStack() as stack:
        yield stack


def start(processes: ExitStack, **environment: str) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own."""
    process = subprocess.Popen(["sleep", "60"], start_new_session=True, env={**os.environ, **environment})
    processes.callback(process.wait)
    processes.callback(process.kill)
    return process


# --- what ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (POPEN.format(more=""), "sleep"),
        (POPEN.format(more=", process_group=0"), "sleep"),
        (POPEN.format(more=", start_new_session=True"), "sleep"),
        (DAEMON, "a fork of the bot"),
        (POOL.format(way="fork"), "a fork of the bot"),
        (POOL.format(way="spawn"), "multiprocessing.spawn"),
        (POOL.format(way="forkserver"), "multiprocessing.forkserver"),
    ],
    ids=["process", "group", "session", "daemon", "fork", "spawn", "forkserver"],
)
@pytest.mark.parametrize(
    ("way", "reason"),
    [("os._exit(0)", "exited with status 0"), ("os.kill(os.getpid(), 9)", "killed by SIGKILL")],
    ids=["exit", "SIGKILL"],
)
async def test_what_a_child_has_started_has_ended_when_it_has_left(
    family: Family, source: str, name: str, way: str, reason: str
) -> None:
    _, seen = family.spawn(source + way)
    await until(lambda: seen.exits)
    assert seen.pids
    assert seen.survivors == []
    ((told, retryable),) = seen.exits
    assert told.startswith(reason)
    assert retryable
    (remains,) = seen.remains
    assert name in str(remains)
    assert {left.pid for left in remains.ended} >= set(seen.pids)
    assert remains.stayed == ()


async def test_a_child_that_leaves_nothing_is_told_of_in_no_word(family: Family) -> None:
    _, seen = family.spawn("import subprocess; subprocess.run(['true'])")
    await until(lambda: seen.exits)
    assert seen.remains == []


@pytest.mark.parametrize("first", ["", "os.setsid() if os.fork() == 0 else (time.sleep(0.1), os._exit(0))"])
async def test_what_forks_without_end_ends(family: Family, first: str) -> None:
    child, seen = family.spawn(PERSISTENT.format(first=first))
    hops = family.directory / "hops"
    await until(lambda: hops.exists() and hops.stat().st_size > 10)
    await until(lambda: seen.exits)
    (remains,) = seen.remains
    assert remains.ended
    assert remains.stayed == ()
    size = hops.stat().st_size
    assert not end(Origin(pid=child.pid, generation=4))
    assert hops.stat().st_size == size, "it hops about every millisecond, and a look takes some"


async def test_the_shared_memory_of_a_killed_child_is_removed(family: Family) -> None:
    source = (
        "import os; from multiprocessing.shared_memory import SharedMemory\n"
        "memory = SharedMemory(create=True, size=1)\nprint(memory.name, flush=True)\nos.kill(os.getpid(), 9)"
    )
    _, seen = family.spawn(source)
    await until(lambda: seen.exits)
    assert not Path("/dev/shm", seen.lines[0][1]).exists()
    assert seen.remains == [], "Python's resource tracker did that, and ended by itself"


async def test_a_copy_of_itself_is_in_the_reason(family: Family) -> None:
    (family.directory / "app.py").write_text("import time; print('here', flush=True); time.sleep(60)")
    source = (
        "import os, subprocess, sys\np = subprocess.Popen([sys.executable, 'app.py'], stdout=subprocess.PIPE)\n"
        "print('pid', p.pid, flush=True)\np.stdout.readline()\nos._exit(0)"
    )
    _, seen = family.spawn(source)
    await until(lambda: seen.exits)
    name = f"{Path(sys.executable).name} app.py"
    assert seen.exits == [
        (f"exited with status 0, after it had started a copy of itself ({name}), which was ended", True)
    ]
    assert str(seen.remains[0]) == f"left 1 process behind, ended: {name} (pid {seen.pids[0]})"


# --- what does not ------------------------------------------------------------------------------------------------


async def test_another_generations_processes_live_on(family: Family) -> None:
    daemon = DAEMON + "time.sleep(60)"
    (old, seen_of_old), (_, seen_of_new) = family.spawn(daemon, generation=4), family.spawn(daemon, generation=5)
    await until(lambda: seen_of_old.pids and seen_of_new.pids)
    old.signal("SIGKILL")
    await until(lambda: seen_of_old.exits)
    assert not any(map(alive, seen_of_old.pids))
    assert all(map(alive, seen_of_new.pids))


def test_a_process_is_told_by_its_marks(processes: ExitStack) -> None:
    origin = Origin(pid=2**22 + 1, generation=4)
    strangers = [
        start(processes, BASTION_GENERATION="4", BASTION_SUPERVISOR_PID="1"),
        start(processes, **marks(5)),
        start(processes, **marks(44)),
        start(processes, BASTION_GENERATION="4"),
        start(processes),
    ]
    ours = start(processes, **marks(4))
    assert [left.pid for left in end(origin).ended] == [ours.pid]
    assert ours.wait() == -signal.SIGKILL
    assert all(alive(stranger.pid) for stranger in strangers)


def _namespaces() -> bool:
    command = ["unshare", "--pid", "--fork", "true"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not _namespaces(), reason="this machine gives us no PID namespace (unshare --pid)")
def test_marks_that_another_container_gave_are_not_ours(processes: ExitStack) -> None:
    """The number of a supervisor in another container may be ours."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "env", *(f"{k}={v}" for k, v in marks(4).items())]
    process = subprocess.Popen([*command, "sleep", "60"])
    processes.callback(process.wait)
    processes.callback(process.kill)
    inner = _inner(process.pid)
    assert end(Origin(pid=2**22 + 1, generation=4)).ended == ()
    assert alive(inner)


def _inner(pid: int) -> int:
    """Return the only child of a process, when it is what `unshare` was to start."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if (inner := children.read_text()) and "sleep" in Path(f"/proc/{inner.strip()}/cmdline").read_text():
            return int(inner)
    raise TimeoutError


@pytest.mark.parametrize("reused", [True, False])
def test_a_process_that_has_got_the_number_meanwhile_is_not_touched(
    processes: ExitStack, monkeypatch: pytest.MonkeyPatch, *, reused: bool
) -> None:
    process = start(processes, **marks(4))
    origin = Origin(pid=2**22 + 1, generation=4)
    seen = look_at(process.pid, origin)
    assert seen is not None
    looks = iter([[replace(seen, started=seen.started - reused)], []])
    monkeypatch.setattr(leftovers, "find", lambda *_: iter(next(looks, [])))
    assert bool(end(origin).ended) is not reused
    assert alive(process.pid) is reused


def test_a_process_that_has_got_the_number_and_none_of_the_marks_is_not_touched(
    processes: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(processes)
    seen = Leftover(pid=process.pid, started=1, group=process.pid, words=("ffmpeg",), directory="", fork=False)
    looks = iter([[seen], []])
    monkeypatch.setattr(leftovers, "find", lambda *_: iter(next(looks, [])))
    assert not end(Origin(pid=2**22 + 1, generation=4))
    assert alive(process.pid)


# --- what cannot be ended -----------------------------------------------------------------------------------------


def test_what_the_kernel_protects_is_named(processes: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    process = start(processes, **marks(4))
    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    began = time.monotonic()
    remains = end(Origin(pid=2**22 + 1, generation=4))
    assert time.monotonic() - began < leftovers.PATIENCE
    assert [left.pid for left in remains.stayed] == [process.pid]
    assert str(remains) == (
        f"left 1 process behind, not to be ended, and perhaps in the next bot's way: sleep (pid {process.pid})"
    )


def test_what_does_not_end_in_time_is_named(processes: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(processes, **marks(4))
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: None)
    monkeypatch.setattr(os, "killpg", lambda *_: None)
    remains = end(Origin(pid=2**22 + 1, generation=4), patience=0.1)
    assert [left.pid for left in remains.stayed] == [process.pid]
    assert remains.ended == ()


async def test_the_event_loop_goes_on_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "end", lambda _: time.sleep(0.2))
    turns = 0
    async with anyio.create_task_group() as tasks:

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.sleep(0.001)

        tasks.start_soon(turn)
        await leftovers.end_aside(Origin(pid=2**22 + 1, generation=4))
        tasks.cancel_scope.cancel()
    assert turns > 5


async def test_without_a_thread_it_is_done_all_the_same(processes: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(leftovers, "aside", no_thread)
    process = start(processes, **marks(4))
    assert (await leftovers.end_aside(Origin(pid=2**22 + 1, generation=4))).ended
    assert process.wait() == -signal.SIGKILL


def test_a_hundred_leftovers_are_counted_and_some_are_named() -> None:
    ended = [
        Leftover(pid=pid, started=1, group=1, words=("/usr/bin/ffmpeg", "-i", "secret"), directory="", fork=False)
        for pid in range(100)
    ]
    text = str(leftovers.Remains(ended=tuple(ended)))
    assert text.startswith("left 100 processes behind, ended: ffmpeg (pid 0), ffmpeg (pid 1), ")
    assert text.endswith(", and 92 more")
    assert "secret" not in text
