"""A thread that nobody has to wait for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from bastion.supervisor.aside import aside

pytestmark = pytest.mark.anyio


async def test_it_returns_what_the_function_does() -> None:
    assert await aside(threading.get_ident) != threading.get_ident()


async def test_it_raises_what_the_function_does() -> None:
    with pytest.raises(ZeroDivisionError):
        await aside(lambda: 1 / 0)


async def test_a_caller_that_gives_up_is_not_held_up() -> None:
    may_end, ended = threading.Event(), threading.Event()

    def work() -> None:
        may_end.wait()
        ended.set()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await aside(work)
    may_end.set()
    assert await asyncio.to_thread(ended.wait, 10)


def test_the_program_ends_though_the_function_does_not() -> None:
    program = """
import asyncio, threading
from bastion.supervisor.aside import aside

async def main():
    try:
        async with asyncio.timeout(0.01):
            await aside(threading.Event().wait)
    except TimeoutError:
        print("given up")

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert (ended.stdout, ended.stderr) == ("given up\n", "")
