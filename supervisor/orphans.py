"""As PID 1 of a container: the end of processes that were left behind and handed to us by the kernel.

Knows /proc and wait. It reaps strangers only: whoever started a process here waits for it by its own pid, and must find
its exit status.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

_PR_GET_CHILD_SUBREAPER = 37


def adopts() -> bool:
    """Say whether orphans become our children: as PID 1, or as a subreaper (prctl(2))."""
    if os.getpid() == 1:
        return True
    found = ctypes.c_int(0)
    with suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0)
    return bool(found.value)


def reap(known: Collection[int]) -> list[int]:
    """Wait for every dead child of ours that is not ``known``; return their pids. Does not block."""
    reaped = []
    for pid in _dead_children():
        if pid not in known:
            with suppress(ChildProcessError):
                reaped += [gone for gone in [os.waitpid(pid, os.WNOHANG)[0]] if gone]
    return reaped


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
