"""What the kernel says of a process: proportional memory, CPU time, descriptors.

Knows /proc and psutil; knows nothing of what the processes are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

MIB = 1024 * 1024
_TICK = os.sysconf("SC_CLK_TCK")


def pss(pid: int) -> int:
    """Return the proportional set size in bytes, 0 when the process is gone: pages that n share count 1/n each.

    Where the kernel does not tell, the resident size, which counts shared pages in full.
    """
    return _rollup(pid, "Pss:")


def own(pid: int) -> int:
    """Return the bytes of what the process has written to and shares with nobody, 0 when it is gone.

    Unlike the proportional set size, this does not change when another process that maps the same libraries comes or
    goes. Where the kernel does not tell, the resident size.
    """
    return _rollup(pid, "Private_Dirty:")


def _rollup(pid: int, key: str) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def cpu_seconds(pid: int) -> float:
    """Return user and system time so far. Raises `OSError` when the process is gone."""
    with contextlib.suppress(OSError, ValueError):  # nanoseconds, where the kernel keeps them
        total = 0
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
        if total:
            return total / 1e9
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def descriptors(pid: int) -> int:
    """Return how many file descriptors are open. Raises `OSError` when the process is gone."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Peak:
    """The largest sum of memory seen so far, in bytes, and what was seen when."""

    def __init__(self) -> None:
        self.bytes = 0
        self.seen: list[tuple[float, int]] = []

    def note(self, total: int) -> None:
        """Take one look."""
        self.seen.append((time.monotonic(), total))
        self.bytes = max(self.bytes, total)


@asynccontextmanager
async def watching(pids: Callable[[], Iterable[int]], *, every: float = 0.1) -> AsyncIterator[Peak]:
    """Add up the memory of some processes every so often, in a thread, until the context ends."""
    peak = Peak()

    async def watch() -> None:
        while True:
            peak.note(await asyncio.to_thread(lambda: sum(pss(pid) for pid in pids())))
            await asyncio.sleep(every)

    task = asyncio.ensure_future(watch())
    try:
        yield peak
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def family(pid: int) -> list[int]:
    """Return a process and all its descendants; none when it is gone."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.Error:
        return []
