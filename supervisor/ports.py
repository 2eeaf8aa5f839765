"""The holder of a TCP port, for messages about a port that is taken.

Knows the kernel's list of sockets (by psutil) and the wording of web servers' errors. A look takes some 10 ms, so
callers look once per failure. Does not know children: callers pass their pids.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from types import MappingProxyType

import psutil

SOMEBODY = "a process that this user may not look at"
_TAKEN = re.compile(rf"address (is )?already in use|errno {errno.EADDRINUSE}\b|EADDRINUSE|port \d+ is in use", re.I)
_PORT = re.compile(r"\('[^']*', (\d{1,5})\b|\bport[ =:]{1,2}(\d{1,5})\b|:(\d{4,5}|80|443)\b", re.I)
_MAX_WORD = 60


def taken_port(reason: str) -> int | None:
    """Return the port of an "address already in use" error, None for any other error."""
    found = _PORT.search(reason) if _TAKEN.search(reason) else None
    return int(next(filter(None, found.groups()))) if found else None


def with_holder(reason: str, *, generations: Mapping[int, int]) -> str:
    """Append the port's holder to the reason of a failure, if the reason is a taken port. Arguments as for `holder`."""
    port = taken_port(reason)
    found = holder(port, generations=generations) if port else None
    return f"{reason}; port {port} is held by {found}" if found else reason


def holder(port: int, *, generations: Mapping[int, int] = MappingProxyType({})) -> str | None:
    """Return the name of the process that listens on a TCP port, at any address; None if there is no such process.

    ``generations``: number by pid of this supervisor's children. A child leads a session, and the processes that the
    child has started belong to that session. Also returns None where the kernel's list cannot be read.
    """
    try:
        pids = {
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        }
    except (psutil.Error, OSError):
        return None
    named = sorted({_named(pid, generations) if pid else SOMEBODY for pid in pids})
    return " and ".join(named) or None


def _named(pid: int, generations: Mapping[int, int]) -> str:
    if pid == os.getpid():
        return "this supervisor itself (health.listen)"
    try:
        generation = generations.get(os.getsid(pid))
    except OSError:
        generation = None
    process = f"pid {pid}{_command(pid)}"
    return process if generation is None else f"generation {generation}, {process}"


def _command(pid: int) -> str:
    """Return program and script of a process, in brackets. The arguments are left out: one may be a secret."""
    try:
        words = " ".join(_what_runs(psutil.Process(pid).cmdline()))
    except (psutil.Error, OSError):
        return ""
    return f" ({words})" if words.isprintable() and words else ""


def _what_runs(line: list[str]) -> Iterator[str]:
    for number, word in enumerate(line):
        if number == 0:
            yield PurePath(word).name[:_MAX_WORD]
        elif word == "-m" or not word.startswith("-"):
            yield word[:_MAX_WORD]
        if number and (word == "-c" or not word.startswith("-")):
            return
