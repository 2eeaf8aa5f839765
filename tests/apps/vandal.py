"""A sharded client that breaks its own process on order: its pipes to the supervisor, its event loop, its life.

The file that VANDAL names holds the order, ``GENERATION MOMENT DEED``, for instance ``2 ready garbage``. Each moment of
a child's life looks at it; the moment "now" is when SIGUSR2 arrives.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import discord
from probe import Probe

from bastion.bot.ledger import SQLiteLedger
from bastion.bot.link import Link

STALL_SECONDS = float(os.environ.get("VANDAL_STALL_S", "3"))
"""How long a stalled child's event loop stands still."""
BLOCK_SECONDS = 60.0
"""How long a blocked one's does: longer than anybody waits for it."""
HOLD_SECONDS = 15.0
"""How long the handler of a message "hold" goes on after it has reported: it keeps a child draining."""

MOMENTS = {"ready": "ready", "activate": "activating", "deactivate": "deactivating"}
"""Names of dispatched events, and of the moments at which they are dispatched; no handler has run then."""
CLAIMS = {"claim": "claimed", "claim_occurrence": "counted"}
"""How an event is claimed, and the moments right after it: nothing has been begun for the event."""


def pipes() -> tuple[int, int]:
    """Return the descriptors of this process that an app has no business with: commands, answers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--read", type=int)
    parser.add_argument("--write", type=int)
    words = Path("/proc/self/cmdline").read_text().split("\0")
    found, _ = parser.parse_known_args(words)
    return found.read, found.write


def put_nothing_in_place_of(fd: int) -> None:
    """Close a pipe and keep its number taken, so that no socket gets it."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, fd)
    os.close(nothing)


_unheard: list[Callable[[], None]] = []
"""What makes a deaf child read its pipe again."""


@cache
def the_link() -> Any:
    """Return the link to the supervisor. To find it takes a while, in which the link would be heard."""
    return next(found for found in gc.get_objects() if isinstance(found, Link))


def stop_reading() -> None:
    """Hold up the thread that reads the supervisor's commands; the event loop goes on."""
    link = the_link()
    read, go_on = link._readable, threading.Event()

    def held_up() -> None:
        go_on.wait()
        read()

    def hear() -> None:
        link._readable = read
        go_on.set()

    link._readable = held_up
    _unheard.append(hear)


def do(deed: str) -> None:
    """Break something."""
    _, write = pipes()
    match deed:
        case "garbage":
            os.write(write, b"\x1b[31mhello from a library that found an open descriptor\n")
        case "close":
            put_nothing_in_place_of(write)
        case "deaf":
            stop_reading()
        case "hear":
            _unheard.pop()()
        case "stall":
            time.sleep(STALL_SECONDS)
        case "block":
            time.sleep(BLOCK_SECONDS)
        case "stubborn":
            stop_reading()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case _:
            raise ValueError(deed)


def obey(moment: str) -> None:
    """Carry out the order if it is for this process and this moment."""
    try:
        generation, when, deed = Path(os.environ["VANDAL"]).read_text().split()
    except (FileNotFoundError, ValueError):
        return
    if (generation, when) == (os.environ["BASTION_GENERATION"], moment):
        print(f"vandal: {deed}", file=sys.stderr, flush=True)
        do(deed)


def after(claim: Callable[..., bool], moment: str) -> Callable[..., bool]:
    """Return a way to claim that lets a moment follow."""

    def claim_and_obey(*args: Any, **among: Any) -> bool:
        won = claim(*args, **among)
        if won:
            obey(moment)
        return won

    return claim_and_obey


class Vandal(Probe, discord.AutoShardedClient):
    """Handles everything that its class can hear, and obeys orders."""

    async def setup_hook(self) -> None:
        for name, moment in CLAIMS.items():
            setattr(SQLiteLedger, name, after(getattr(SQLiteLedger, name), moment))
        the_link()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, obey, "now")
        await super().setup_hook()
        obey("setup")

    def dispatch(self, event: str, /, *args: Any, **kwargs: Any) -> None:
        super().dispatch(event, *args, **kwargs)
        if event in MOMENTS:
            obey(MOMENTS[event])

    async def on_message(self, message: discord.Message, /) -> None:
        holds = message.content == "hold"  # somebody may edit it meanwhile
        await super().on_message(message)
        if holds:
            print("vandal: holds", file=sys.stderr, flush=True)
            await asyncio.sleep(HOLD_SECONDS)

    async def on_activate(self) -> None:
        obey("active")

    async def on_deactivate(self) -> None:
        obey("draining")


client = Vandal(guild_ready_timeout=0.3)
