"""Which role a process has, for apps that ask."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from discord.ext import tasks

from bastion.bot.lifecycle import Lifecycle, in_step

pytestmark = pytest.mark.anyio


def test_without_a_supervisor_a_process_is_active() -> None:
    code = (
        "import asyncio; from bastion import lifecycle; asyncio.run(lifecycle.wait_until_active()); "
        "print(lifecycle.role())"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (ended.stdout, ended.returncode) == ("active\n", 0), ended.stderr


def test_it_can_be_imported_without_discord_py() -> None:
    code = "import sys; import bastion.lifecycle; print('discord' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30).stdout == "False\n"


async def test_all_who_wait_go_on_when_the_role_is_active_and_not_before() -> None:
    lifecycle = Lifecycle()
    lifecycle.enter("standby")
    waiting = [asyncio.ensure_future(lifecycle.wait_until_active()) for _ in range(3)]
    await asyncio.sleep(0)
    lifecycle.enter("draining")
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    lifecycle.enter("active")
    await asyncio.gather(*waiting)
    await lifecycle.wait_until_active()
    assert lifecycle.role == "active"


async def test_who_gives_up_waiting_is_not_woken() -> None:
    lifecycle = Lifecycle()
    lifecycle.enter("standby")
    waiting = asyncio.ensure_future(lifecycle.wait_until_active())
    await asyncio.sleep(0)
    waiting.cancel()
    lifecycle.enter("active")
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_role_that_was_lost_again_meanwhile_is_waited_for_anew() -> None:
    lifecycle = Lifecycle()
    lifecycle.enter("standby")
    waiting = asyncio.ensure_future(lifecycle.wait_until_active())
    await asyncio.sleep(0)
    lifecycle.enter("active")
    lifecycle.enter("draining")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    lifecycle.enter("active")
    await waiting


async def test_a_mark_is_seen_on_each_loop_of_a_cog_and_changes_nothing_without_a_supervisor() -> None:
    ran = asyncio.Event()

    class Cog:
        @in_step
        @tasks.loop(hours=1)
        async def above(self) -> None:
            ran.set()

        @tasks.loop(hours=1)
        @in_step
        async def below(self) -> None: ...

        async def bound(self) -> None: ...

    cog = Cog()
    called = in_step(tasks.loop(hours=1)(cog.bound))
    for loop in (cog.above, cog.below, called):
        assert isinstance(loop, tasks.Loop)
        assert loop.coro.in_step
    cog.above.start()
    await asyncio.wait_for(ran.wait(), 5)
    cog.above.cancel()


def test_what_is_no_loop_cannot_be_marked() -> None:
    with pytest.raises(TypeError, match="not int"):
        in_step(1)
