"""A reader of the log that stands still, under traffic: no event is late, and the operator is answered."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from ordeal import ask_status, settings
from rig import ALL_KINDS, Rig, rig

pytestmark = pytest.mark.anyio

SECONDS = float(os.environ.get("BASTION_STILL_S", "8"))
"""How long nobody reads."""
RATE = 100.0
"""Events a second."""
MIX = {kind: often for kind, often in ALL_KINDS.items() if kind not in ("button", "select", "modal")}
"""Without what a new bot leaves to the old one for a second."""
BYTES_A_SECOND = 10_000
MOMENT = 1.0
"""How late an event or an answer may be."""
STOP = 10.0
"""Seconds for a stop: the bot closes its sessions, and a slow reader has one."""
CHATTY = f"""
import asyncio, sys
from sharded_client import ShardedClient

async def chat():
    while True:
        print("x" * 999, file=sys.stderr, flush=True)
        await asyncio.sleep({1000 / BYTES_A_SECOND})

class Chatty(ShardedClient):
    async def setup_hook(self):
        await super().setup_hook()
        self.chat = asyncio.create_task(chat())

client = Chatty()
"""
"""A bot whose event loop writes 10 KB a second: into 64 KiB of a pipe for six seconds, if nobody reads."""


async def answered(installation: Rig, seconds: float) -> None:
    """Ask for the status again and again: each answer comes at once."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        await ask_status(installation)
        assert time.monotonic() - began < MOMENT
        await asyncio.sleep(0.2)


@pytest.mark.wide
@pytest.mark.timeout(SECONDS + 100)
async def test_a_reader_that_stands_still_makes_no_event_late_and_no_answer(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    options = {"settings": settings(), "handler_ms": "50-50", "discord__identify_window": 0.25}
    async with rig(tmp_path, app="chatty:client", **options) as it:
        it.configure(bot__directory=str(it.release("chatty", CHATTY)))
        await it.start(output=writer)
        it.sandbox.traffic.start(rate=RATE, mix=MIX)
        began = time.monotonic()
        await answered(it, SECONDS / 2)
        assert (await it.reload())["result"] == "succeeded"
        await answered(it, began + SECONDS - time.monotonic())
        await it.sandbox.traffic.stop()
        await it.sandbox.settled(timeout=15, quiet=1)
        found = it.sandbox.journal.verdict(late=MOMENT)
        began = time.monotonic()
        assert await it.stop() == 0
        stopped = time.monotonic() - began
    os.close(writer)
    os.close(reader)
    print(found, f"stopped within {stopped:.1f} s", sep="\n")
    assert found.emitted > RATE * SECONDS / 2, found
    assert (found.lost, found.duplicated, found.late) == (0, 0, 0), found
    assert stopped < STOP, stopped
