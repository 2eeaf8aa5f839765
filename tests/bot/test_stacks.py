"""A process that hangs can be asked what it is doing."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

PROGRAM = """
import asyncio, sys, time
from bastion.bot import stacks

async def waiting_for_the_bell():
    await asyncio.sleep(600)

async def main():
    stacks.on_sigusr1(asyncio.get_running_loop)
    task = asyncio.create_task(waiting_for_the_bell(), name="bell")
    await asyncio.sleep(0)
    def blocked_in_a_handler():
        print("ready", flush=True)
        time.sleep(600)
    if sys.argv[1] == "blocked":
        blocked_in_a_handler()
    print("ready", flush=True)
    await task

asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["blocked", "waiting"])
def test_sigusr1_prints_every_thread_and_every_task_and_the_process_goes_on(how: str) -> None:
    arguments = [sys.executable, "-c", PROGRAM, how]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        guard = threading.Timer(20, process.kill)
        guard.start()
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == "ready\n"
            for _ in range(2):
                process.send_signal(signal.SIGUSR1)
                shown = ""
                while "in waiting_for_the_bell" not in shown or "in main" not in shown:
                    line = process.stderr.readline()
                    assert line, shown
                    shown += line
                assert "most recent call first" in shown, "the threads come first"
                assert ("blocked_in_a_handler" in shown) == (how == "blocked")
                assert "name='bell'" in shown
            assert process.poll() is None
        finally:
            guard.cancel()
            process.kill()
