"""The ledger is removed, or overwritten, under the children that use it: events and reload go on, and it is told."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from mounts import full, grow, not_writable, small
from ordeal import Following, Judgement, judge, reload, seen, under_traffic
from rig import ALL_KINDS, Rig

pytestmark = [pytest.mark.anyio, pytest.mark.wide]

RATE = 100
FILES = ("", "-wal", "-shm")

HEARD_SECONDS = 4.0
"""For so long both children hear what comes, until the new one is active: it handles what had been claimed, too, if the
claims are gone."""
LOOK_SECONDS = 1.5
"""By then both have found out, and claim in one file again."""


def remove(ledger: Path) -> None:
    for suffix in FILES:
        ledger.with_name(ledger.name + suffix).unlink()


def overwrite(ledger: Path) -> None:
    with ExitStack() as stack:  # all are opened first: the bots are quick to put them aside
        for file in [stack.enter_context(ledger.with_name(ledger.name + suffix).open("r+b")) for suffix in FILES]:
            file.write(os.urandom(os.fstat(file.fileno()).st_size))


def errors(status: dict[str, Any]) -> int:
    return sum(child["claims"]["errors"] for child in status["children"] if child["claims"])


def told(installation: Rig) -> Counter[str]:
    """Count the lines about the ledger, by generation."""
    found = (re.search(r"gen (\d+): ERROR bastion\.ledger: ", line) for line in installation.log)
    return Counter(one[1] for one in found if one)


def doubled(installation: Rig) -> list[float]:
    """Return when the events came that were handled twice; of equal ones, the newest that had come by then."""
    journal = installation.sandbox.journal
    emitted: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for entry in journal.entries:
        emitted[entry.kind, entry.key].append(entry.at)
    found: list[float] = []
    for (kind, key), times in emitted.items():
        once = 0
        for handling in journal.handlings(kind, key):
            came = [at for at in times if at <= handling.at]
            if once < len(came):
                once += 1
            else:
                found.append(came[-1])
    return found


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("deed", "phase", "most"),
    [
        *((deed, phase, 0) for deed in (remove, overwrite) for phase in ("before", "spawning")),
        *(
            (deed, phase, RATE * (HEARD_SECONDS + LOOK_SECONDS))
            for deed in (remove, overwrite)
            for phase in ("connecting", "activating", "probation")
        ),
    ],
)
async def test_a_ledger_that_is_removed_or_overwritten_costs_no_event_and_no_reload(
    tmp_path: Path, deed: Callable[[Path], None], phase: str, most: float
) -> None:
    ledger = tmp_path / "ledger.sqlite3"
    async with under_traffic(tmp_path, rate=RATE, ledger__path=str(ledger), handoff__probation=3) as installation:
        if phase == "before":
            deed(ledger)
        reloading = Following(installation)
        if phase != "before":
            await reloading.until(phase)
            deed(ledger)
        done_at = time.monotonic()
        status = await seen(installation, lambda status: errors(status) > 0)
        assert errors(status) < 2 * LOOK_SECONDS * RATE, "it is made anew, so claims go on"
        outcome = await reloading.result()
        assert outcome["result"] == "succeeded", f"{outcome}\n{installation.tail()}"
        assert max(told(installation).values()) == 1, installation.tail()
        before = told(installation)
        again = await reload(installation)
        assert again["result"] == "succeeded", f"{again}\n{installation.tail()}"
        assert told(installation) == before, f"nothing is wrong any more\n{installation.tail()}"
        await judge(installation, doubled=int(most))
        times = [at - done_at for at in doubled(installation)]
        assert all(-HEARD_SECONDS < at < HEARD_SECONDS + LOOK_SECONDS for at in times), times


async def test_a_reload_that_would_run_without_claims_is_refused_with_the_figures_before_anything_is_spawned(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "ledger"
    directory.mkdir()
    with small(directory, "1m", mode="700"):
        async with under_traffic(tmp_path, rate=RATE, ledger__path=f"{directory}/ledger.sqlite3") as installation:
            outcome = await reload(installation)
            assert outcome["result"] == "refused", outcome
            needed = (
                rf"{directory} for the ledger and the session files: they need [78]\.. MiB, and .* of 1\.0 MiB are free"
            )
            assert re.search(needed, outcome["reason"]), outcome
            assert not any("generation 2 spawned" in line for line in installation.log), installation.tail()
            grow(directory, "16m")
            again = await reload(installation)
            assert (again["result"], again["remarks"]) == ("succeeded", []), f"{again}\n{installation.tail()}"
            await judge(installation)


async def test_a_ledger_whose_disk_is_filled_in_the_middle_of_a_reload_is_told_of_in_its_outcome(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "ledger"
    directory.mkdir()
    with small(directory, "16m", mode="700"):
        async with under_traffic(tmp_path, rate=RATE, ledger__path=f"{directory}/ledger.sqlite3") as installation:
            reloading = Following(installation)
            await reloading.until("spawning")
            with full(directory):
                ended = await reloading.result()
            assert ended["result"] == "succeeded", f"{ended}\n{installation.tail()}"
            assert any("events were handled by both bots" in remark for remark in ended["remarks"]), ended
            await judge(installation, doubled=ended["handoff"]["unclaimed"])


@contextmanager
def removed(directory: Path) -> Iterator[None]:
    shutil.rmtree(directory)
    yield
    directory.mkdir(mode=0o700)


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (removed, "there is no directory {}"),
        (not_writable, "{} is not writable ("),
        (full, "too little room in {} for the ledger and the session files"),
    ],
)
async def test_a_ledger_that_cannot_be_written_has_a_reload_refused_and_costs_a_forced_one_no_event(
    tmp_path: Path, fault: Callable[[Path], Any], why: str
) -> None:
    directory = tmp_path / "ledger"
    directory.mkdir(mode=0o700)
    path = str(directory / "ledger.sqlite3")
    with small(directory, "20m", mode="700") if fault is full else nullcontext():
        async with under_traffic(tmp_path, rate=RATE, ledger__path=path, handoff__probation=3) as installation:
            sandbox = installation.sandbox
            with fault(directory):
                refused = await reload(installation)
                assert refused["result"] == "refused"
                assert "a second bot could not claim events" in refused["reason"]
                assert why.format(directory) in refused["reason"]
                assert not told(installation), f"nothing was begun\n{installation.tail()}"
                reloading = Following(installation, force=True)
                await seen(installation, lambda status: errors(status) > 0)
                outcome = await reloading.result()
                assert outcome["result"] == "succeeded", installation.tail()
                assert outcome["handoff"]["unclaimed"] > RATE
                assert any(f"the ledger {path} failed " in remark for remark in outcome["remarks"]), outcome
                assert max(told(installation).values()) == 1, installation.tail()
                first = told(installation)
                await sandbox.traffic.stop()
                await sandbox.settled(timeout=15, quiet=2)
                assert not any(Judgement(installation).unhandled().values()), installation.tail()
            sandbox.journal.clear()
            sandbox.traffic.start(rate=RATE, mix=ALL_KINDS)
            again = await reload(installation)
            assert again["result"] == "succeeded", f"{again}\n{installation.tail()}"
            assert sum((told(installation) - first).values()) <= 1, installation.tail()
            await judge(installation)
