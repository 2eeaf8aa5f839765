"""A thread for what may never end: a file on a disk that does not answer.

Knows threads and nothing of what they do. Unlike a worker of a pool, such a thread is not waited for by anybody who has
given up, and not by the end of the program either.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

_T = TypeVar("_T")


async def aside(function: Callable[[], _T]) -> _T:
    """Call ``function`` in a thread of its own; return or raise what it does.

    If the caller is cancelled, what the thread comes to is dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def returned(result: _T) -> None:
        if not future.done():
            future.set_result(result)

    def raised(error: BaseException) -> None:
        if not future.done():
            future.set_exception(error)

    def work() -> None:
        try:
            tell: Callable[[], None] = partial(returned, function())
        except BaseException as error:
            tell = partial(raised, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know any more
            loop.call_soon_threadsafe(tell)

    threading.Thread(target=work, name="aside", daemon=True).start()
    return await future
