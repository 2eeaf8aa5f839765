"""A process that the kernel hands orphans to, as it does to PID 1, with an engine in it. Run with a directory.

Its bot leaves orphans behind; it is killed, then reloaded. Prints what came of it as JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
from supervising import Supervised, fake_command, make_settings, until

from bastion.supervisor import orphans
from bastion.supervisor.engine import Engine

_PR_SET_CHILD_SUBREAPER = 36
ORPHANS = 3


def main(directory: Path) -> None:
    before = orphans.adopts()
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with subprocess.Popen(["/bin/sh", "-c", "exit 5"]) as ours:
        result = anyio.run(live, directory, ours.pid)
        result |= {"adopts": [before, orphans.adopts()], "ours": ours.wait(), "left": orphans.reap(())}
    print(json.dumps(result))


async def live(directory: Path, other: int) -> dict[str, object]:
    settings = make_settings(directory, f"orphans={ORPHANS}")
    it = Supervised(settings)
    it.engine = Engine(settings, reread=it.reread, log=it.log, command=fake_command, others=[other])
    with it.engine.handling_signals():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.engine.run)
            await it.serving(1)
            os.kill(it.pids[1], signal.SIGKILL)
            await it.serving(2)
            outcome = await it.engine.reload()
            await until(lambda: it.text.count("reaped orphan") == 3 * ORPHANS)
            await it.engine.stop()
    return {
        "outcome": outcome.result,
        "killed": "generation 1 has left: killed by SIGKILL" in it.text,
        "drained": "generation 2 has left: exited with status 0" in it.text,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
