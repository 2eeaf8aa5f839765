"""The child's end of the pipe, over real pipes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from bastion import wire
from bastion.bot.link import Link

pytestmark = pytest.mark.anyio


@dataclass
class Wired:
    """A link and the supervisor's ends of its two pipes."""

    to_child: int
    from_child: int
    child_reads: int
    child_writes: int
    heard: list[wire.ToChild] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    opened: bool = False

    def open(self) -> Link:
        loop, self.opened = asyncio.get_running_loop(), True

        def note(where: list[object], what: object) -> None:
            loop.call_soon_threadsafe(self._note, where, what)

        link = Link(
            self.child_reads,
            self.child_writes,
            on_message=lambda message: note(self.heard, message),
            on_lost=lambda reason: note(self.lost, reason),
        )
        link.open()
        return link

    def _note(self, where: list[object], what: object) -> None:
        where.append(what)
        self.changed.set()

    def say(self, data: bytes) -> None:
        os.write(self.to_child, data)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    def hang_up(self) -> None:
        os.close(self.to_child)
        self.to_child = -1

    async def read_messages(self, count: int) -> list[wire.FromChild]:
        """Read exactly so many messages without stopping the loop, as a supervisor does."""
        loop = asyncio.get_running_loop()
        data = bytearray()
        enough = loop.create_future()

        def readable() -> None:
            data.extend(os.read(self.from_child, 65536))
            if data.count(b"\n") >= count and not enough.done():
                enough.set_result(None)

        loop.add_reader(self.from_child, readable)
        await enough
        loop.remove_reader(self.from_child)
        return [wire.decode_from_child(line) for line in bytes(data).splitlines()]


@pytest.fixture
async def wired() -> AsyncIterator[Wired]:
    child_reads, to_child = os.pipe()
    from_child, child_writes = os.pipe()
    pair = Wired(to_child, from_child, child_reads, child_writes)
    yield pair
    if pair.opened:
        if pair.to_child >= 0:
            pair.hang_up()
        await pair.until(lambda: bool(pair.lost))  # its thread has ended, and does not read these any more
    for fd in (pair.to_child, pair.from_child, pair.child_reads, pair.child_writes):
        if fd >= 0:
            os.close(fd)


def ready(number: int) -> wire.Ready:
    return wire.Ready(shards=1, guilds=number)


def fill(link: Link) -> int:
    """Send more than a pipe takes (64 KiB by Linux' default); return how many messages that was."""
    count = 3000
    for number in range(count):
        link.send(ready(number))
    return count


def read_to_the_end(fd: int) -> list[wire.FromChild]:
    with os.fdopen(fd, "rb", closefd=False) as stream:
        return [wire.decode_from_child(line) for line in stream]


async def test_commands_arrive_in_order(wired: Wired) -> None:
    wired.open()
    commands = [wire.Ping(n=1), wire.Permit(shard=3), wire.Window(open=True), wire.Activate(), wire.Drain(limit=5.0)]
    for command in commands:
        wired.say(wire.encode(command))
    await wired.until(lambda: len(wired.heard) == len(commands))
    assert wired.heard == commands
    assert wired.lost == []


async def test_a_command_may_arrive_in_pieces(wired: Wired) -> None:
    wired.open()
    line = wire.encode(wire.Ping(n=1))
    wired.say(wire.encode(wire.Ping(n=0)) + line[:5])
    await wired.until(lambda: len(wired.heard) == 1)
    wired.say(line[5:])
    await wired.until(lambda: len(wired.heard) == 2)
    assert wired.heard[1] == wire.Ping(n=1)


async def test_messages_are_written_at_once_without_a_turn_of_the_loop(wired: Wired) -> None:
    link = wired.open()
    link.send(ready(1))
    assert wire.decode_from_child(os.read(wired.from_child, 1000)) == ready(1)


async def test_a_full_pipe_does_not_block_and_what_it_did_not_take_follows_in_order(wired: Wired) -> None:
    link = wired.open()
    count = fill(link)  # returns although nobody reads
    assert await wired.read_messages(count) == [ready(number) for number in range(count)]
    link.send(ready(count))
    assert await wired.read_messages(1) == [ready(count)]


async def test_last_words_wait_for_the_pipe_to_take_all_that_is_left(wired: Wired) -> None:
    link = wired.open()
    count = fill(link)
    link.send(wire.Fatal(reason="last words", retryable=True))
    with ThreadPoolExecutor(1) as supervisor:
        reading = supervisor.submit(read_to_the_end, wired.from_child)
        try:
            link.flush_now()  # blocks until that thread has made room
        finally:
            os.close(wired.child_writes)
            wired.child_writes = -1
    messages = reading.result()
    assert messages[:-1] == [ready(number) for number in range(count)]
    assert messages[-1] == wire.Fatal(reason="last words", retryable=True)


async def test_the_end_of_the_command_pipe_is_told_once_and_after_the_last_command(wired: Wired) -> None:
    wired.open()
    wired.say(wire.encode(wire.Ping(n=1)))
    wired.hang_up()
    await wired.until(lambda: bool(wired.lost))
    assert wired.heard == [wire.Ping(n=1)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert wired.lost == ["the supervisor is gone"]


@pytest.mark.parametrize(
    "garbage",
    [b"what?\n", b"[]\n", b'{"type": "dance"}\n', b'{"type": "ping"}\n', b'{"type": "ready"}\n', b"\xff\xfe\n", b"\n"],
)
async def test_a_line_that_is_no_command_ends_the_link_and_says_why(wired: Wired, garbage: bytes) -> None:
    wired.open()
    wired.say(wire.encode(wire.Ping(n=1)) + garbage + wire.encode(wire.Ping(n=2)))
    await wired.until(lambda: bool(wired.lost))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(wired.lost) == 1
    assert wired.lost[0].startswith("the supervisor said what cannot be understood: ")
    assert wired.heard == [wire.Ping(n=1)], "nothing after the garbage is obeyed"


async def test_a_line_without_an_end_ends_the_link_and_is_not_kept_for_ever(wired: Wired) -> None:
    wired.open()
    os.set_blocking(wired.to_child, False)
    loop = asyncio.get_running_loop()

    def pour() -> None:
        wired.say(b"x" * 1024)

    loop.add_writer(wired.to_child, pour)
    try:
        await wired.until(lambda: bool(wired.lost))
    finally:
        loop.remove_writer(wired.to_child)
    assert f"a line longer than {wire.MAX_LINE} bytes" in wired.lost[0]


async def test_after_the_link_is_lost_messages_go_nowhere_and_hurt_nobody(wired: Wired) -> None:
    link = wired.open()
    wired.hang_up()
    await wired.until(lambda: bool(wired.lost))
    link.send(ready(1))
    link.flush_now()
    os.set_blocking(wired.from_child, False)
    with pytest.raises(BlockingIOError):
        os.read(wired.from_child, 1)


async def test_a_supervisor_that_no_longer_reads_is_no_error(wired: Wired) -> None:
    link = wired.open()
    fill(link)
    os.close(wired.from_child)
    wired.from_child = -1
    link.send(ready(1))
    link.flush_now()
    assert wired.lost == [], "the command pipe is what tells of its death"


async def test_neither_pipe_is_inherited_by_processes_that_the_app_starts(wired: Wired) -> None:
    for fd in (wired.child_reads, wired.child_writes):
        os.set_inheritable(fd, True)
    wired.open()
    assert not os.get_inheritable(wired.child_reads)
    assert not os.get_inheritable(wired.child_writes)


CHILD = """
import os, signal, sys
from bastion.bot.link import die_with_parent
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
print(die_with_parent(int(sys.argv[1]) or os.getppid()), os.getpid(), flush=True)
print(signal.Signals(signal.sigwait({signal.SIGTERM})).name, flush=True)
"""

PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], "0"])
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux'")
def test_a_child_whose_parent_is_killed_gets_sigterm() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        try:
            told, pid = parent.stdout.readline().split()
        finally:
            parent.kill()
        assert told == "True"
        try:
            assert parent.stdout.readline() == "SIGTERM\n"
        except BaseException:
            os.kill(int(pid), signal.SIGKILL)
            raise


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux'")
def test_a_child_whose_parent_is_gone_already_is_told_so() -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD, "1"], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline().split()[0] == "False"
        child.kill()
