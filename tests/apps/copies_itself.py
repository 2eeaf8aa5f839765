"""A bot that restarts itself as many do: it starts itself once more, and is gone. It does so once, in generation 1."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import discord

COPY = Path(os.environ["COPY"])
"""Where a copy writes its pid."""


def restart() -> None:
    subprocess.Popen([sys.executable, __file__])
    while not COPY.exists():
        time.sleep(0.01)
    os._exit(0)


class CopiesItself(discord.Client):
    async def on_ready(self) -> None:
        if os.environ["BASTION_GENERATION"] == "1":
            restart()


client = CopiesItself(intents=discord.Intents.default())

if __name__ == "__main__":
    COPY.with_suffix(".new").write_text(str(os.getpid()))
    COPY.with_suffix(".new").rename(COPY)
    time.sleep(600)
