"""Processes that were left behind and handed to us by the kernel, as PID 1 or as a subreaper: their end.

Knows /proc, prctl and wait. It reaps strangers only: whoever started a process here waits for it by its own pid, and
must find its exit status.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37


def adopt() -> None:
    """Have the kernel hand us the orphans among our descendants, also after execve: else they would go to PID 1.

    It holds for the whole process, which must then `reap`. Where the kernel does not let us, nothing changes.
    """
    if os.getpid() != 1:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def adopts() -> bool:
    """Say whether orphans become our children: as PID 1, or as a subreaper (prctl(2))."""
    if os.getpid() == 1:
        return True
    found = ctypes.c_int(0)
    _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(found))
    return bool(found.value)


def reap(known: Collection[int]) -> list[int]:
    """Wait for every dead child of ours that is not ``known``; return their pids. Does not block."""
    reaped = []
    for pid in _children():
        if pid not in known:
            with suppress(ChildProcessError):
                reaped += [gone for gone in [os.waitpid(pid, os.WNOHANG)[0]] if gone]
    return reaped


def _prctl(option: int, value: object) -> None:
    with suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _children() -> list[int]:
    """Return our children. The kernel lists them by thread; one built without these lists has us look at everybody."""
    try:
        lists = [(thread / "children").read_bytes() for thread in Path("/proc/self/task").iterdir()]
    except OSError:
        return _dead_children()
    return [int(pid) for children in lists for pid in children.split()]


def _dead_children() -> list[int]:
    dead, us = [], str(os.getpid())
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has gone meanwhile
                # "pid (name) state ppid ...": the name may hold anything, also blanks and brackets.
                state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                if state == "Z" and parent == us:
                    dead.append(int(entry.name))
    return dead
