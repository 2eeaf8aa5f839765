"""Connections to the control socket on which nobody asks anything: commands do not notice them."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from ordeal import Following
from rig import Rig, rig
from test_handoff import settings

from bastion.supervisor.control_client import fetch_status

pytestmark = [pytest.mark.anyio, pytest.mark.wide]

MANY = 200


def connect(path: Path, stack: ExitStack) -> None:
    for _ in range(MANY):
        idle = stack.enter_context(socket.socket(socket.AF_UNIX))
        idle.connect(str(path))


async def seconds_of_a_status(installation: Rig) -> float:
    began = time.monotonic()
    await asyncio.to_thread(fetch_status, installation.directory / "s.sock")
    return time.monotonic() - began


async def test_two_hundred_idle_connections_hold_up_no_status_and_cut_no_reload(tmp_path: Path) -> None:
    async with rig(tmp_path, app="sharded_bot:client", settings=settings()) as installation:
        await installation.start()
        with ExitStack() as stack:
            connect(tmp_path / "s.sock", stack)
            assert await seconds_of_a_status(installation) < 1
            reloading = Following(installation)
            await reloading.until("connecting")
            connect(tmp_path / "s.sock", stack)
            assert await seconds_of_a_status(installation) < 1
            assert (await reloading.result())["result"] == "succeeded", installation.tail()
            assert (await installation.command("status")).code == 0
            assert await installation.stop() == 0, installation.tail()
