"""A bot that starts processes in every way, and ends none. Each leaves a file in $PROCESSES: GENERATION-PID."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import discord

BUSY = (
    "import os, pathlib, time\n"
    "pathlib.Path(os.environ['PROCESSES'], f\"{os.environ['BASTION_GENERATION']}-{os.getpid()}\").touch()\n"
    "time.sleep(600)\n"
)
DAEMON = f"import os\nif not os.fork():\n os.setsid()\n if not os.fork():\n  exec({BUSY!r})\n os._exit(0)\nos.wait()"
COUNT = 6


def start_them() -> Any:
    """Start a helper, one in another session, a daemon, an orphan and a pool of two; return the pool."""
    subprocess.Popen([sys.executable, "-c", BUSY])
    subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True)
    subprocess.Popen([sys.executable, "-c", DAEMON]).wait()
    subprocess.Popen(["/bin/sh", "-c", 'exec "$0" -c "$1" &', sys.executable, BUSY]).wait()
    pool = multiprocessing.get_context("spawn").Pool(2, initializer=exec, initargs=(BUSY,))
    directory, mine = Path(os.environ["PROCESSES"]), f"{os.environ['BASTION_GENERATION']}-*"
    while len(list(directory.glob(mine))) < COUNT:
        time.sleep(0.02)
    return pool


class WithProcesses(discord.Client):
    pool: Any = None

    async def setup_hook(self) -> None:
        self.pool = await asyncio.to_thread(start_them)


client = WithProcesses(intents=discord.Intents.default())
