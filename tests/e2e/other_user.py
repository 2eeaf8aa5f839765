"""Another user of the machine, who tries things. Run as a program it does what it is told, and says what became of it.

A line of JSON comes in: a deed and its arguments. A line goes out: "done", or the name of the error. What is locked or
listened at stays so.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17
_ROOT = Path(__file__).resolve().parents[2]
_kept: list[Any] = []


def lock(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def read(path: str) -> None:
    with Path(path).open("rb") as file:
        file.read(1)


def enter(path: str) -> None:
    os.listdir(path)  # noqa: PTH208


def connect(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(path)


def signal(pid: int, number: int) -> None:
    os.kill(pid, number)


def trace(pid: int) -> None:
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    if ptrace(_PTRACE_ATTACH, pid, None, None):
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(pid, 0x40000000)  # __WALL
    ptrace(_PTRACE_DETACH, pid, None, None)


def rename(path: str) -> None:
    Path(path).rename(f"{path}.taken")


def link(path: str) -> None:
    Path(f"{path}.second").hardlink_to(path)


def symlink(path: str, target: str) -> None:
    Path(path).symlink_to(target)


def fifo(path: str) -> None:
    os.mkfifo(path, 0o666)
    Path(path).chmod(0o666)


def directory(path: str, mode: int) -> None:
    Path(path).mkdir()
    Path(path).chmod(mode)


def silence(path: str) -> None:
    """Prepare a ledger in which every claim seems to be another's."""
    from bastion.bot.ledger import SQLiteLedger

    ledger = SQLiteLedger(path, 1)
    ledger.claim("key", 0.0)
    ledger.close()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("CREATE TRIGGER silent BEFORE INSERT ON claims BEGIN SELECT RAISE(IGNORE); END")
    _kept.append(db)
    for suffix in ("", "-wal", "-shm"):
        Path(path + suffix).chmod(0o666)


def listen(path: str) -> None:
    """Pretend to be a supervisor."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    Path(path).chmod(0o777)
    listener.listen()
    Thread(target=_pretend, args=[listener], daemon=True).start()


def _pretend(listener: socket.socket) -> None:
    while True:
        peer, _ = listener.accept()
        with peer:
            peer.recv(4096)
            peer.sendall(b'{"type": "outcome", "outcome": {"result": "succeeded"}}\n{"type": "status", "status": {}}\n')


DEEDS: dict[str, Callable[..., None]] = {
    deed.__name__: deed
    for deed in (lock, read, enter, connect, signal, trace, rename, link, symlink, fifo, directory, silence, listen)
}


def main() -> None:
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            DEEDS[name](*arguments)
            said = "done"
        except OSError as error:
            said = errno.errorcode[error.errno or 0]
        print(said, flush=True)


class Other:
    """That process, as a test sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def tries(self, deed: str, *arguments: object) -> str:
        """Have it do something; return "done", or the name of the error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([deed, *map(_plain, arguments)]).encode() + b"\n")
        said = (await self._process.stdout.readline()).decode().strip()
        assert said, f"it has ended while it tried to {deed}"
        return said

    async def does(self, deed: str, *arguments: object) -> None:
        """Have it do something that works."""
        assert (said := await self.tries(deed, *arguments)) == "done", f"{deed}: {said}"


def _plain(argument: object) -> object:
    return str(argument) if isinstance(argument, Path) else argument


@asynccontextmanager
async def other_user(uid: int, *, python: str, environ: dict[str, str]) -> AsyncIterator[Other]:
    """Run that process as this user."""
    process = await asyncio.create_subprocess_exec(
        *(python, str(Path(__file__))),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ,
        cwd="/",
        user=uid,
        group=uid,
        extra_groups=[],
    )
    try:
        yield Other(process)
    finally:
        process.kill()
        await process.wait()


def python_for_all() -> tuple[str, dict[str, str]] | None:
    """Return an interpreter that every user may run, and the environment in which it finds the product; None: none."""
    paths = [str(_ROOT / "src"), *(path for path in sys.path if path.endswith("site-packages"))]
    environ = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]}
    own = f"/usr/bin/python3.{sys.version_info.minor}"
    command = ["-c", "import bastion.bot, bastion.supervisor, discord, msgspec, h11, click"]
    for python in (sys.executable, own):
        try:
            subprocess.run(
                [python, *command], env=environ, cwd="/", user=12345, group=12345, extra_groups=[], check=True
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return python, environ
    return None


if __name__ == "__main__":
    main()
