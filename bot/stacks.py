"""What this process is doing, on stderr, when SIGUSR1 asks for it.

Every thread's stack is written by `faulthandler`, also while the interpreter is stuck in C code; the asyncio tasks
follow as soon as the main thread runs Python code. Knows nothing of bots.
"""

from __future__ import annotations

import asyncio
import faulthandler
import io
import os
import signal
from collections.abc import Callable

_DEPTH = 8
"""Frames shown of each task."""
_STDERR = 2


def on_sigusr1(loop: Callable[[], asyncio.AbstractEventLoop | None]) -> None:
    """Print the stacks of all threads and of the tasks of ``loop`` whenever SIGUSR1 arrives. Main thread only."""
    signal.signal(signal.SIGUSR1, lambda *_: _print_tasks(loop()))
    faulthandler.register(signal.SIGUSR1, file=_STDERR, all_threads=True, chain=True)


def _print_tasks(loop: asyncio.AbstractEventLoop | None) -> None:
    if loop is None:
        return
    shown = io.StringIO()
    for task in asyncio.all_tasks(loop):
        task.print_stack(limit=_DEPTH, file=shown)
    # Past sys.stderr: the app may have been interrupted in the middle of a write to it.
    os.write(_STDERR, shown.getvalue().encode("utf-8", "replace"))
