"""One real process at a time: birth, pipes, output, death."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio.lowlevel
import pytest
from supervising import FAKE, TOKEN, fake_command, living, open_fds, until

from bastion.supervisor import child as child_module
from bastion.supervisor.child import MAX_LOG_LINE, Child, Launch, SpawnError, Stream, environment, launcher, spawn
from bastion.supervisor.leftovers import Remains
from bastion.supervisor.release import Release
from bastion.wire import PROTOCOL, Activate, FromChild, Hello, Permit, Ready, Role, Window

pytestmark = pytest.mark.anyio


@dataclass
class Recorder:
    """Keeps what a child did."""

    messages: list[FromChild] = field(default_factory=list)
    broken: list[tuple[str, bool]] = field(default_factory=list)
    lines: list[tuple[Stream, str]] = field(default_factory=list)
    remains: list[Remains] = field(default_factory=list)
    exits: list[tuple[str, bool]] = field(default_factory=list)

    def heard(self, child: Child, message: FromChild) -> None:
        self.messages.append(message)

    def broke(self, child: Child, reason: str, *, retryable: bool) -> None:
        self.broken.append((reason, retryable))

    def printed(self, child: Child, stream: Stream, line: str) -> None:
        self.lines.append((stream, line))

    def outlived(self, child: Child, remains: Remains) -> None:
        self.remains.append(remains)

    def left(self, child: Child, reason: str, *, retryable: bool) -> None:
        self.exits.append((reason, retryable))


def release(tmp_path: Path, *args: str, python: str = sys.executable) -> Release:
    return Release(directory=tmp_path, python=Path(python), app="app:bot", shards="auto", args=args)


def launch(tmp_path: Path, *, standby: bool = False) -> Launch:
    return Launch(
        generation=4,
        standby=standby,
        api_url="http://127.0.0.1:1",
        ledger=tmp_path / "ledger",
        left=tmp_path / "left",
        expired_text="-- gone",
        token=TOKEN,
    )


@dataclass
class Nursery:
    """Spawns children and ends those that a test leaves."""

    tmp_path: Path
    children: list[tuple[Child, Recorder]] = field(default_factory=list)

    def fake(self, *args: str) -> tuple[Child, Recorder]:
        return self.spawn(fake_command, *args)

    def script(self, source: str) -> tuple[Child, Recorder]:
        """Run Python behind what our launcher does; ``rest`` is what has come through the pipe by then."""
        begun = f"import sys; sys.path.insert(0, {str(FAKE.parent)!r}); import handshake; rest = handshake.take()"
        return self.spawn(lambda _: (sys.executable, "-I", "-S", "-c", f"{begun}\n{source}"))

    def stranger(self, source: str) -> tuple[Child, Recorder]:
        """Run Python that is not our launcher."""
        return self.spawn(lambda _: (sys.executable, "-I", "-S", "-c", source))

    def spawn(self, command: Callable[[Release], Sequence[str]], *args: str) -> tuple[Child, Recorder]:
        recorder = Recorder()
        child = spawn(release(self.tmp_path, *args), launch(self.tmp_path), recorder, command=command)
        self.children.append((child, recorder))
        return child, recorder


@pytest.fixture
async def nursery(tmp_path: Path) -> AsyncIterator[Nursery]:
    await anyio.lowlevel.checkpoint()
    before, nursery = open_fds(), Nursery(tmp_path)
    yield nursery
    for child, recorder in nursery.children:
        child.signal("SIGKILL")
        await until(lambda recorder=recorder: recorder.exits)  # type: ignore[misc]
        assert len(recorder.exits) == 1
        assert len(recorder.broken) <= 1
    assert living([child.pid for child, _ in nursery.children]) == []
    assert open_fds() <= before


async def test_messages_go_both_ways(nursery: Nursery) -> None:
    child, seen = nursery.fake()
    await until(lambda: len(seen.messages) == 3)
    assert isinstance(seen.messages[0], Hello)
    assert seen.messages[0].pid == child.pid
    child.send(Permit(shard=0))
    await until(lambda: any(isinstance(message, Ready) for message in seen.messages))
    child.send(Activate())
    await until(lambda: seen.messages[-1] == Role(role="active"))


async def test_the_command_line_says_everything_but_the_token(nursery: Nursery, tmp_path: Path) -> None:
    child, seen = nursery.fake("one", "--two")
    await until(lambda: seen.messages)
    words = Path(f"/proc/{child.pid}/cmdline").read_text().split("\0")
    assert TOKEN not in words
    for option, value in {
        "--generation": "4",
        "--app": "app:bot",
        "--shards": "auto",
        "--role": "active",
        "--ledger": str(tmp_path / "ledger"),
        "--directory": str(tmp_path),
    }.items():
        assert words[words.index(option) + 1] == value
    assert "--expired-text=-- gone" in words
    assert words[words.index("--") :] == ["--", "one", "--two", ""]
    assert Path(f"/proc/{child.pid}/cwd").resolve() == tmp_path
    assert os.getsid(child.pid) == child.pid


def test_a_childs_environment_has_no_token_and_nothing_of_systemd() -> None:
    base = {
        "PATH": "/bin",
        "DISCORD_TOKEN": TOKEN,
        "NOTIFY_SOCKET": "x",
        "WATCHDOG_USEC": "1",
        "WATCHDOG_PID": "1",
        "LISTEN_FDS": "3",
    }
    base |= {"LISTEN_PID": "1", "LISTEN_FDNAMES": "x", "JOURNAL_STREAM": "8:1234"}
    ours = {"PATH": "/bin", "PYTHONUNBUFFERED": "1", "BASTION_SUPERVISOR_PID": str(os.getpid())}
    assert environment(base, generation=4) == ours | {"BASTION_GENERATION": "4"}


def test_what_the_program_is_told_has_the_token_of_the_settings_and_not_another_one(tmp_path: Path) -> None:
    told = replace(launch(tmp_path), environment={"DATABASE": "x", "DISCORD_TOKEN": "another"})
    assert told.variables == {"DATABASE": "x", "DISCORD_TOKEN": TOKEN}
    assert replace(told, token="", environment={}).variables == {}


def test_the_first_file_that_a_child_runs_is_ours(tmp_path: Path) -> None:
    python, file = launcher(release(tmp_path))
    assert python == sys.executable
    assert "class LaunchError" in Path(file).read_text()


async def test_the_token_is_told_over_the_pipe_to_whoever_answers_the_nonce(nursery: Nursery) -> None:
    child, seen = nursery.script("import os, time; print(len(os.environ['DISCORD_TOKEN']), flush=True); time.sleep(60)")
    await until(lambda: seen.lines)
    assert seen.lines == [("stdout", str(len(TOKEN)))]
    assert TOKEN not in Path(f"/proc/{child.pid}/environ").read_text()


@pytest.mark.parametrize(
    "answer", ['{"type":"launched","nonce":"1234"}', '{"type":"hello","pid":1,"protocol":4,"versions":{}}']
)
async def test_who_does_not_know_the_nonce_is_told_nothing(nursery: Nursery, answer: str) -> None:
    _, seen = nursery.stranger(
        "import os, sys; a = sys.argv; read, write = (int(a[a.index(n) + 1]) for n in ('--read', '--write'))\n"
        f"os.write(write, {answer!r}.encode() + b'\\n')\n"
        "while data := os.read(read, 65536): print(data.decode(), end='', flush=True)"
    )
    await until(lambda: seen.broken)
    assert "no answer to the nonce" in seen.broken[0][0]
    await until(lambda: seen.exits)
    (said,) = seen.lines
    assert "challenge" in said[1]
    assert TOKEN not in said[1]


def test_the_token_is_in_no_repr(tmp_path: Path) -> None:
    assert TOKEN not in repr(launch(tmp_path))


async def test_output_comes_line_by_line_with_the_token_masked(nursery: Nursery) -> None:
    _, seen = nursery.script(
        "import os, sys; print('one\\ntwo'); print(os.environ['DISCORD_TOKEN'], file=sys.stderr)\n"
        "print('no end', end='')"
    )
    await until(lambda: seen.exits)
    assert [line for stream, line in seen.lines if stream == "stdout"] == ["one", "two", "no end"]
    assert [line for stream, line in seen.lines if stream == "stderr"] == ["[token]"]


@pytest.mark.parametrize(("length", "shown"), [(1, "hello"), (15, "hello"), (16, "h[token]llo")])
async def test_a_token_of_a_few_letters_is_not_masked(
    nursery: Nursery, tmp_path: Path, length: int, shown: str
) -> None:
    token, heard = "e" * length, tmp_path / "heard"
    words = "hello" if length < 16 else f"h{token}llo"
    _, seen = nursery.script(
        "import json, os, pathlib, sys, time; fd = int(sys.argv[sys.argv.index('--write') + 1])\n"
        f"for said in (dict(type='hello', pid=os.getpid(), protocol={PROTOCOL}, versions={{}}),\n"
        f"             dict(type='logged-in', token={token!r})):\n"
        "    os.write(fd, json.dumps(said).encode() + b'\\n')\n"
        f"while not pathlib.Path({str(heard)!r}).exists(): time.sleep(0.01)\n"
        f"print({words!r})"
    )
    await until(lambda: len(seen.messages) == 2)
    heard.touch()
    await until(lambda: seen.lines)
    assert seen.lines == [("stdout", shown)]


async def test_nobody_needs_to_read_for_a_child_to_go_on(nursery: Nursery, tmp_path: Path) -> None:
    begun, done = tmp_path / "begun", tmp_path / "done"
    _, seen = nursery.script(
        "import pathlib, time; print('here', flush=True)\n"
        f"while not pathlib.Path({str(begun)!r}).exists(): time.sleep(0.01)\n"
        f"print(('x' * 99 + '\\n') * 9_000, end='', flush=True); pathlib.Path({str(done)!r}).touch()"
    )
    await until(lambda: seen.lines)
    begun.touch()
    deadline = time.monotonic() + 10
    while not done.exists():  # in this time our event loop stands still, as a stopped supervisor's does
        assert time.monotonic() < deadline
        time.sleep(0.01)  # noqa: ASYNC251
    await until(lambda: seen.exits)
    assert len(seen.lines) == 9_001


async def test_an_endless_line_of_output_is_cut_and_the_next_is_whole(nursery: Nursery) -> None:
    _, seen = nursery.script("print('x' * 1_000_000); print('next')")
    await until(lambda: seen.exits)
    assert len(seen.lines[0][1]) < MAX_LOG_LINE + 20
    assert seen.lines[0][1].endswith("(cut)")
    assert seen.lines[1] == ("stdout", "next")


@pytest.mark.parametrize("shown", [1, 8, len(TOKEN) - 1, len(TOKEN)])
async def test_a_line_that_is_cut_within_the_token_shows_nothing_of_it(nursery: Nursery, shown: int) -> None:
    before = MAX_LOG_LINE - shown
    _, seen = nursery.script(f"import os; print('x' * {before} + os.environ['DISCORD_TOKEN'] + 'y' * 100)")
    await until(lambda: seen.exits)
    assert seen.lines == [("stdout", "x" * before + " ... (cut)")]


async def test_everything_a_child_said_is_heard_before_its_exit(nursery: Nursery) -> None:
    _, seen = nursery.fake("fatal=hello", "print=last words")
    await until(lambda: seen.exits)
    assert [type(message).__name__ for message in seen.messages] == ["Hello", "Fatal"]
    assert ("stderr", "last words") in seen.lines


@pytest.mark.parametrize(
    ("source", "reason", "retryable"),
    [
        ("pass", "exited with status 0", True),
        ("raise SystemExit(3)", "exited with status 3", True),
        ("raise SystemExit(78)", "exited with status 78", True),
        ("raise ValueError('bad card')", "exited with status 1: ValueError: bad card", True),
        ("import os; os.abort()", "killed by SIGABRT", True),
    ],
)
async def test_the_reason_of_an_exit_is_told_in_words(
    nursery: Nursery, source: str, reason: str, retryable: bool
) -> None:
    _, seen = nursery.script(source)
    await until(lambda: seen.exits)
    assert seen.exits == [(reason, retryable)]


async def test_a_sigkill_is_told_to_be_the_kernels_perhaps_if_it_was_not_sent_from_here(nursery: Nursery) -> None:
    _, seen = nursery.script("import os; os.kill(os.getpid(), 9)")
    await until(lambda: seen.exits)
    (reason, retryable) = seen.exits[0]
    assert reason.startswith("killed by SIGKILL, which nobody here has sent: perhaps the kernel, for want of memory: ")
    assert retryable
    child, seen = nursery.script("import time; time.sleep(60)")
    child.signal("SIGKILL")
    await until(lambda: seen.exits)
    assert seen.exits == [("killed by SIGKILL", True)]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("garbage=start", "not a message"),
        ("garbage=hello", "not a message"),
        ("protocol=9", "protocol 9"),
    ],
)
async def test_a_child_that_speaks_another_language_is_reported_once(nursery: Nursery, fault: str, reason: str) -> None:
    _, seen = nursery.fake(fault)
    await until(lambda: seen.broken)
    assert reason in seen.broken[0][0]
    assert seen.broken[0][1] is False


async def test_a_message_before_hello_is_not_accepted(nursery: Nursery) -> None:
    _, seen = nursery.script(
        "import sys, os; a = sys.argv; fd = int(a[a.index('--write') + 1])\n"
        'os.write(fd, b\'{"type":"identify","shard":0}\\n\')'
    )
    await until(lambda: seen.broken)
    assert "before Hello" in seen.broken[0][0]
    assert seen.messages == []


async def test_a_child_that_closes_its_pipe_and_lives_on_is_reported(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "CLOSED_GRACE", 0.05)
    child, seen = nursery.fake("close=hello")
    await until(lambda: seen.broken)
    assert seen.broken == [("closed its pipe and lives on", True)]
    assert seen.exits == []
    child.send(Activate())  # goes nowhere


async def test_a_child_that_exits_has_closed_its_pipe_in_order(nursery: Nursery) -> None:
    _, seen = nursery.fake("exit=hello")
    await until(lambda: seen.exits)
    assert seen.broken == []


async def test_a_child_that_does_not_read_is_reported_and_never_blocks(
    nursery: Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "WRITE_PATIENCE", 0.1)
    child, seen = nursery.fake("silent=hello")
    await until(lambda: seen.messages)
    began = time.monotonic()
    for _ in range(3000):  # more than a pipe holds, less than is kept
        child.send(Window(open=True))
    assert time.monotonic() - began < 1.0
    assert seen.broken == []
    await until(lambda: seen.broken)
    assert "has not read its pipe" in seen.broken[0][0]


async def test_what_a_child_leaves_unread_is_bounded(nursery: Nursery) -> None:
    child, seen = nursery.fake("silent=hello")
    await until(lambda: seen.messages)
    for _ in range(20_000):
        child.send(Window(open=True))
    assert len(seen.broken) == 1


async def test_a_child_that_reads_late_gets_everything_in_order(nursery: Nursery) -> None:
    source = (
        "import sys, os, time; a = sys.argv; fd = int(a[a.index('--read') + 1]); data = rest\n"
        "sys.stdin = None; time.sleep(0.2)\n"
        "while data.count(b'\\n') < 5000: data += os.read(fd, 65536)\n"
        "print([line for line in data.split(b'\\n') if line] == "
        '[b\'{"type":"permit","shard":%d}\' % n for n in range(5000)])'
    )
    child, seen = nursery.script(source)
    for shard in range(5000):
        child.send(Permit(shard=shard))
    await until(lambda: seen.exits)
    assert seen.lines == [("stdout", "True")]


async def test_the_exit_is_seen_although_a_grandchild_holds_the_output(nursery: Nursery) -> None:
    source = "import subprocess, sys; p = subprocess.Popen(['sleep', '30']); print(p.pid, flush=True)"
    _, seen = nursery.script(source)
    await until(lambda: seen.exits)
    assert str(seen.remains[0]) == f"left 1 process behind, ended: sleep (pid {seen.lines[0][1]})"


async def test_sizes_are_sampled_while_the_child_lives(nursery: Nursery) -> None:
    child, seen = nursery.fake("silent=hello")
    await until(lambda: seen.messages)
    rss, cpu = child.sample()
    assert rss is not None
    assert rss > 1_000_000
    assert cpu is None
    assert child.sample()[1] is not None
    child.signal("SIGKILL")
    await until(lambda: seen.exits)
    assert child.sample() == (None, None)


@pytest.mark.parametrize("missing", ["python", "directory"])
async def test_what_cannot_be_started_leaves_nothing_behind(tmp_path: Path, missing: str) -> None:
    await anyio.lowlevel.checkpoint()
    before = open_fds()
    directory = tmp_path / "gone" if missing == "directory" else tmp_path
    broken = release(directory, python="/no/such/python" if missing == "python" else sys.executable)
    said = "is no longer there" if missing == "directory" else "No such file"
    with pytest.raises(SpawnError, match=said) as caught:
        spawn(broken, launch(tmp_path), Recorder())
    assert caught.value.retryable is False
    assert open_fds() == before


async def test_a_system_without_pidfd_sees_exits_too(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    _, seen = nursery.fake("exit=hello")
    await until(lambda: seen.exits)


async def test_twenty_children_leave_no_descriptor(nursery: Nursery) -> None:
    await anyio.lowlevel.checkpoint()
    before = open_fds()
    seen = [nursery.fake(fault)[1] for fault in ("exit=start", "kill=hello", "fatal=hello", "garbage=start") * 5]
    for child, _ in nursery.children:
        child.signal("SIGTERM")
    for recorder in seen:
        await until(lambda recorder=recorder: recorder.exits)  # type: ignore[misc]
    assert open_fds() == before
