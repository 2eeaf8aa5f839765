"""File systems that are full or read-only under whatever the product writes: the bot serves on, and paths are named."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mounts import full, not_writable, small
from rig import Rig, active, rig

pytestmark = [pytest.mark.anyio, pytest.mark.wide]


def places(tmp_path: Path, stack: ExitStack, *, shared: bool) -> tuple[list[Path], dict[str, Any]]:
    """Small file systems for all that is written: ledger, session and state files, register; sockets."""
    found = [tmp_path / name for name in ("ledger", "sockets")]
    for place in found:
        place.mkdir()
        stack.enter_context(small(place, "20m"))
        place.chmod(0o700)  # of a file system's root everybody is the owner's guest
    options = {
        "ledger__path": f"{found[0]}/claims.sqlite3",
        "ledger__shared": shared,
        "control__socket": f"{found[1]}/s.sock",
        "health__listen": f"unix:{found[1]}/health.sock",
        "state__checkpoint": 0.2,
        "restart__backoff_first": 0.1,
        "discord__identify_window": 0.2,
    }
    return found, options


def nothing_raised(installation: Rig) -> None:
    """No line of the log is of a traceback, or of a task that failed unseen."""
    found = [line for line in installation.log if "Traceback" in line or "never retrieved" in line]
    assert not found, installation.tail(150)


async def answers(installation: Rig) -> None:
    """The bot handles a message that is sent now."""
    entry = installation.sandbox.emit_message(content="hello")
    await installation.sandbox.journal.wait_handled(entry, timeout=20)


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize("fault", [full, not_writable])
async def test_full_and_read_only_disks_cost_a_bot_that_runs_nothing(
    tmp_path: Path, fault: Callable[[Path], Any], shared: bool
) -> None:
    with ExitStack() as stack:
        disks, options = places(tmp_path, stack, shared=shared)
        async with rig(tmp_path, app="stateful:Stateful", **options) as installation:
            await installation.start()
            await answers(installation)
            with ExitStack() as faults:
                for disk in disks:
                    faults.enter_context(fault(disk))
                refused = await installation.command("reload", "--json")
                assert refused.code == 1, refused
                assert str(disks[0]) in refused.out, "the path is named"
                await answers(installation)
                forced = await installation.command("reload", "--force", "--json")
                assert forced.code == 0, f"{forced}\n{installation.tail()}"
                await answers(installation)
                old = active(await installation.status())
                assert old is not None
                os.kill(old["pid"], signal.SIGKILL)
                await installation.until(
                    lambda status: (
                        (active(status) or old)["pid"] != old["pid"] and status["supervisor"]["state"] == "serving"
                    )
                )
                await answers(installation)
                assert await installation.stop() == 0, installation.tail()
            nothing_raised(installation)


@pytest.mark.parametrize("fault", [full, not_writable])
async def test_disks_that_are_mended_let_the_next_reload_succeed(tmp_path: Path, fault: Callable[[Path], Any]) -> None:
    with ExitStack() as stack:
        disks, options = places(tmp_path, stack, shared=False)
        async with rig(tmp_path, app="stateful:Stateful", **options) as installation:
            await installation.start()
            with ExitStack() as faults:
                for disk in disks:
                    faults.enter_context(fault(disk))
                assert (await installation.reload())["result"] == "refused"
            outcome = await installation.reload()
            assert (outcome["result"], outcome["remarks"]) == ("succeeded", []), installation.tail()
            assert outcome["handoff"]["state"] == "carried"
            await answers(installation)
            nothing_raised(installation)


@pytest.mark.parametrize(
    ("fault", "shared", "which", "code"),
    [
        (full, False, 0, None),
        (not_writable, False, 0, 78),  # as `check` says
        (full, True, 0, 78),  # who shares a ledger must be known to the others
        (not_writable, True, 0, 78),
        (full, False, 1, None),
        (not_writable, False, 1, 1),  # nobody could ask it for anything
    ],
)
async def test_a_start_on_such_a_disk_goes_on_without_what_is_optional_or_ends_and_names_the_path(
    tmp_path: Path, fault: Callable[[Path], Any], shared: bool, which: int, code: int | None
) -> None:
    with ExitStack() as stack:
        disks, options = places(tmp_path, stack, shared=shared)
        for left in ("claims.sqlite3.checkpoint", "claims.sqlite3-1.checkpoint", "claims.sqlite3-sessions-7"):
            (disks[0] / left).touch()  # an earlier supervisor's
        async with rig(tmp_path, app="stateful:Stateful", **options) as installation:
            stack.enter_context(fault(disks[which]))
            await installation.start(serving=False)
            if code is None:
                await installation.logged("generation 1 is active")
                await answers(installation)
                assert await installation.stop() == 0
            else:
                assert await installation.stopped() == code, installation.tail()
                assert any("supervisor: " in line and str(disks[which]) in line for line in installation.log)
            nothing_raised(installation)


async def test_a_start_whose_private_directory_cannot_be_made_ends_with_78_and_names_it(tmp_path: Path) -> None:
    directory = tmp_path / "runtime"
    directory.mkdir()
    async with rig(tmp_path, app="stateful:Stateful") as installation:
        installation.environ["RUNTIME_DIRECTORY"] = str(directory)
        with not_writable(directory):
            await installation.start(serving=False)
            assert await installation.stopped() == 78
            assert any(f"{directory} is not writable" in line for line in installation.log), installation.tail()
        assert not list(directory.iterdir())
