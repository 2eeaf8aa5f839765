"""Which living processes are a child's.

A process is a child's if it belongs to the child's session, or if its environment has the `marks` that the child was
spawned with. The module knows /proc, and touches no process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bastion.supervisor.commandline import named, runs

_TRACKER = "multiprocessing.resource_tracker"
_EXEC_LOOKS, _EXEC_PAUSE = 20, 0.001
"""Looks at a process in the middle of execve(2), and the seconds between them."""
_GENERATION, _SUPERVISOR = "BASTION_GENERATION", "BASTION_SUPERVISOR_PID"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A child: process id and session, number, command line; and the supervisor that spawned the child."""

    pid: int
    generation: int
    words: tuple[str, ...] = ()
    supervisor: int = field(default_factory=os.getpid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """A living process. Its pid and ``started``, in ticks since the machine's start, tell it from all others."""

    pid: int
    started: int
    group: int
    words: tuple[str, ...]
    """Its command line."""
    directory: str
    """Its working directory; empty if /proc does not tell."""
    fork: bool
    """Whether the child made this process by fork alone, as a pool does."""

    @property
    def name(self) -> str:
        """Return a name for the log. Arguments are left out, for they may be secret."""
        return "a fork of the bot" if self.fork else named(self.words)

    @property
    def tidies(self) -> bool:
        """Say whether the process is multiprocessing's resource tracker."""
        return any(_TRACKER in word for word in self.words)

    def copies(self, entry: str, directory: os.PathLike[str]) -> bool:
        """Say whether the bot has started itself once more: ``entry`` of the release in ``directory``."""
        return not self.fork and runs(self.words, self.directory, entry=entry, directory=directory)


def marks(generation: int) -> dict[str, str]:
    """Return the part of a child's environment that its processes are told by."""
    return {_GENERATION: str(generation), _SUPERVISOR: str(os.getpid())}


def words_of(pid: int) -> tuple[str, ...]:
    """Return the command line of a living process; nothing if /proc does not tell."""
    try:
        return tuple(_read(pid, "cmdline").decode(errors="replace").rstrip("\0").split("\0"))
    except OSError:
        return ()


def find(origin: Origin, pids: Iterable[int]) -> Iterator[Leftover]:
    """Yield the child's among these processes, each at the moment when it is seen."""
    return (left for pid in pids if (left := look_at(pid, origin)))


def everybody() -> list[int]:
    """Return the numbers of all processes."""
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in entries if entry.name.isdigit()]


def newest() -> int:
    """Return the number that was given last. Numbers go up to the highest, and then begin anew."""
    try:
        return int(Path("/proc/loadavg").read_bytes().split()[-1])
    except (OSError, ValueError, IndexError):
        return 0


def look_at(pid: int, origin: Origin) -> Leftover | None:
    """Return a process if it lives and is the child's."""
    if pid in (origin.pid, origin.supervisor):
        return None
    try:
        before, _, after = _read(pid, "stat").decode(errors="replace").rpartition(")")
        state, _, group, session, *rest = after.split()  # proc(5), from the third field on
        threads, started, memory, thread = int(rest[13]), int(rest[15]), int(rest[16]), int(rest[31]) < 0
    except (OSError, ValueError, IndexError):
        return None
    # A process has no memory when it is nearly gone, and no thread of the kernel's has. Other threads outlive the main
    # one.
    dead = (state in "ZX" or not memory) and threads < 2
    if thread or dead or not (int(session) == origin.pid or _marked(pid, origin)):
        return None
    words = words_of(pid)
    return Leftover(
        pid=pid,
        started=started,
        group=int(group),
        words=words if any(words) else (before.partition("(")[2],),
        directory=_link(pid, "cwd"),
        fork=bool(origin.words) and words == origin.words,
    )


def _marked(pid: int, origin: Origin) -> bool:
    """Say whether a process has the child's marks. Those in another PID namespace were put there by somebody else."""
    try:
        environment = b"\0" + _environment(pid)
    except OSError:
        return False
    wanted = {_GENERATION: origin.generation, _SUPERVISOR: origin.supervisor}
    return all(f"\0{name}={value}\0".encode() in environment for name, value in wanted.items()) and (
        _link(pid, "ns/pid") == _link(os.getpid(), "ns/pid")
    )


def _environment(pid: int) -> bytes:
    """Return a living process's environment. For a moment within execve(2) it is not there yet."""
    for _ in range(_EXEC_LOOKS):
        environment = _read(pid, "environ")
        if environment or _read(pid, "cmdline"):
            return environment
        time.sleep(_EXEC_PAUSE)
    return b""


def _read(pid: int, name: str) -> bytes:
    return Path(f"/proc/{pid}/{name}").read_bytes()


def _link(pid: int, name: str) -> str:
    try:
        return str(Path(f"/proc/{pid}/{name}").readlink())
    except OSError:
        return ""
