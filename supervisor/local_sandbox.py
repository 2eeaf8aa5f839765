"""A sandbox in a process of its own, for `supervisor run --sandbox`.

`LocalSandbox` is the parent's side; run as ``python -m bastion.supervisor.local_sandbox`` this module is the
process itself. It lives as long as its standard input is open, so it ends with its parent however that one ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

from bastion.supervisor.adopted import Adopted, Process

if TYPE_CHECKING:
    from bastion.sandbox import Sandbox

START_TIMEOUT = 30.0
"""Seconds for the sandbox to listen: an interpreter, its imports and a small world."""
STOP_TIMEOUT = 5.0
EVENTS_PER_SECOND = 5.0
"""Light traffic: enough to see who answers."""
SHARDS = 4

ASKED = ("<ash lantern>", "<hollow ferryman>", "<marrow reed>", "is <the ninth bell> worth it?", "<ash lantern> <reed>")
"""Messages that ask for cards of the shipped bot."""
MIX: Mapping[str, float] = {"command_message": 8, "slash": 5, "autocomplete": 3, "button": 4, "delete": 1, "message": 4}
"""What the shipped bot answers, and some chatter that it does not."""


class SandboxError(Exception):
    """The sandbox did not start. The message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedSandbox:
    """A running sandbox, by its pid and our ends of its pipes: what a re-executed supervisor goes on with."""

    pid: int
    stdin: int
    stdout: int
    api_url: str
    token: str = field(repr=False)


class LocalSandbox:
    """A running sandbox with light traffic. Use as a context manager; raises `SandboxError` on entry."""

    api_url: str
    token: str

    def __init__(self, carried: CarriedSandbox | None = None) -> None:
        """``carried``: go on with one that runs already."""
        self._carried = carried
        self._process: Process
        self._pipes: tuple[IO[bytes], IO[bytes]]

    @property
    def pid(self) -> int:
        """Return the process id; it is waited for at the end of the context."""
        return self._process.pid

    def carry(self) -> CarriedSandbox:
        """Return what another `LocalSandbox` needs to go on with this one."""
        stdin, stdout = (pipe.fileno() for pipe in self._pipes)
        return CarriedSandbox(pid=self.pid, stdin=stdin, stdout=stdout, api_url=self.api_url, token=self.token)

    def __enter__(self) -> LocalSandbox:
        if self._carried is None:
            self._start()
        else:
            self._process = Adopted(self._carried.pid)
            self._pipes = open(self._carried.stdin, "wb"), open(self._carried.stdout, "rb")  # noqa: PTH123
            self.api_url, self.token = self._carried.api_url, self._carried.token
        return self

    def _start(self) -> None:
        # A session of its own: Ctrl-C is for the supervisor, whose bot needs its gateway until it has drained.
        process = self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bastion.supervisor.local_sandbox"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path("/"),
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._pipes = process.stdin, process.stdout
        try:
            self._read_address()
        except BaseException:
            self._end()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    def _read_address(self) -> None:
        _, output = self._pipes
        if not select.select([output], [], [], START_TIMEOUT)[0]:
            raise SandboxError(f"the sandbox said nothing for {START_TIMEOUT:g} s.")
        try:
            address = json.loads(output.readline())
            self.api_url, self.token = address["api_url"], address["token"]
        except (ValueError, LookupError):
            raise SandboxError("the sandbox could not start; its own message is above.") from None

    def _end(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()


def speak_to_the_shipped_bot(sandbox: Sandbox) -> None:
    """Let the traffic talk about what the shipped bot knows; expect an answer to all that it answers."""
    from bastion.sandbox import OBSERVED_KINDS

    sandbox.traffic.options.commands = ASKED
    sandbox.journal.expect(
        lambda entry: entry.kind in OBSERVED_KINDS or (entry.kind == "delete" and bool(entry.detail.get("replied")))
    )


async def _serve() -> None:
    """Be the sandbox until standard input ends."""
    from bastion.sandbox import Sandbox, SandboxSettings

    settings = SandboxSettings(max_concurrency=SHARDS, recommended_shards=SHARDS)
    async with Sandbox(settings) as sandbox:
        _tell({"api_url": sandbox.api_url, "token": sandbox.token})
        speak_to_the_shipped_bot(sandbox)
        sandbox.traffic.start(rate=EVENTS_PER_SECOND, mix=MIX)
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
        await ended.wait()
        await sandbox.traffic.stop()


def _tell(address: Mapping[str, str]) -> None:
    """Say where the sandbox is; a parent that has been stopped meanwhile does not want to know."""
    with suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), json.dumps(address).encode() + b"\n")


if __name__ == "__main__":
    asyncio.run(_serve())
