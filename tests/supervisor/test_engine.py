"""The engine over real processes that speak the pipe's messages, without Discord."""

from __future__ import annotations

import itertools
import logging
import os
import re
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import anyio.lowlevel
import msgspec
import pytest
from supervising import (
    TOKEN,
    Supervised,
    fake_command,
    living,
    make_settings,
    open_fds,
    recorder,
    supervised,
    until,
    with_limits,
    with_restart,
    with_window,
)

from bastion.supervisor import diskroom, headroom, limits, machine
from bastion.supervisor.child import LAUNCHER
from bastion.supervisor.engine import Engine
from bastion.supervisor.outcome import Outcome, Progress
from bastion.supervisor.release import Release
from bastion.supervisor.settings import Settings, SettingsError, refreshed

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path)


@pytest.fixture(autouse=True)
def short_graces(monkeypatch: pytest.MonkeyPatch) -> None:
    graces = {"ACK_TIMEOUT": 1.0, "DRAIN_GRACE": 0.2, "TERM_GRACE": 0.3, "FATAL_GRACE": 0.5, "DUMP_GRACE": 0.2}
    for name, seconds in graces.items():
        monkeypatch.setattr(limits, name, seconds)


# --- a good day -------------------------------------------------------------------------------------------------


async def test_a_run_serves_and_a_stop_leaves_nothing_behind(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    async with supervised(settings) as it:
        assert len(list(tmp_path.iterdir())) == 1, "the ledger's directory"
    assert it.code == 0
    assert list(tmp_path.iterdir()) == []


async def test_a_reload_moves_the_active_role_to_a_new_process(settings: Settings) -> None:
    async with supervised(settings) as it:
        seen, on_progress = recorder()
        outcome = await it.engine.reload(on_progress=on_progress)
        assert (outcome.result, outcome.reason, outcome.generation) == ("succeeded", None, 2)
        await it.serving(2)
        assert living([it.pids[1]]) == []
        phases = list(dict.fromkeys(progress.phase for progress in seen))
        assert phases == ["preparing", "spawning", "connecting", "activating", "draining"]
        assert all(progress.generation == 2 for progress in seen if progress.phase in phases[1:])
        connecting = [progress for progress in seen if progress.phase == "connecting"]
        assert (connecting[-1].shards_ready, connecting[-1].shards_total, connecting[-1].generation) == (1, 1, 2)


async def test_status_shows_what_was_observed(settings: Settings) -> None:
    async with supervised(settings) as it:
        await it.engine.reload()
        await it.until_seen(lambda children: children[0].handled == 12)
        status = msgspec.to_builtins(await it.engine.status())
    (child,) = status["children"]
    assert status["supervisor"]["state"] == "serving"
    assert status["supervisor"]["pid"] == os.getpid()
    assert child["role"] == "active"
    assert child["guilds"] == 7
    assert child["shards"] == [{"id": 0, "state": "ready", "latency_ms": 4.5, "away": None, "why": ""}]
    assert child["rss_bytes"] > 1_000_000
    assert child["cpu_percent"] is not None
    assert child["handled"] == 12
    assert child["started_at"] < child["ready_at"] <= child["active_at"]
    assert child["started_at"].endswith("Z")
    handoff = status["last_handoff"]
    assert (handoff["kind"], handoff["from"], handoff["to"], handoff["result"]) == ("reload", 1, 2, "succeeded")
    assert set(handoff["phases"]) == {"preparing", "spawning", "connecting", "activating", "draining"}
    assert sum(handoff["phases"].values()) == pytest.approx(handoff["duration"], abs=0.01)
    assert (handoff["replayed"], handoff["expired"], handoff["cut"]) == (3, 1, ["on_message"])
    assert handoff["overflowed"] == 2
    limit = status["session_start_limit"]
    assert (limit["total"], limit["remaining"], limit["max_concurrency"]) == (1000, 899, 1)


async def test_reloads_asked_for_during_a_handoff_share_the_next_one(settings: Settings) -> None:
    async with supervised(settings) as it:
        outcomes: dict[str, Outcome] = {}
        seen, on_progress = recorder()

        async def reload(name: str) -> None:
            outcomes[name] = await it.engine.reload(on_progress=on_progress if name == "third" else None)

        async with anyio.create_task_group() as tasks:
            for name in ("first", "second", "third"):
                tasks.start_soon(reload, name)
        assert [outcomes[name].generation for name in ("first", "second", "third")] == [2, 3, 3]
        assert seen[0].phase == "waiting"
        await it.serving(3)


async def test_the_end_of_each_handoff_is_passed_on(settings: Settings) -> None:
    async with supervised(settings) as it:
        ended: list[str] = []
        it.engine._on_handoff = lambda: ended.append("handoff")
        await it.engine.reload()
        it.release("exit=start")
        assert (await it.engine.reload()).result == "failed"
        await anyio.lowlevel.checkpoint()
        assert ended == ["handoff"] * 2


async def test_a_caller_that_gives_up_does_not_end_the_handoff(settings: Settings) -> None:
    async with supervised(settings) as it:
        with anyio.move_on_after(0):
            await it.engine.reload()
        await it.serving(2)


async def test_a_watcher_that_fails_does_not_harm_the_handoff(settings: Settings) -> None:
    def fail(progress: Progress) -> None:
        raise RuntimeError("no screen")

    async with supervised(settings) as it:
        assert (await it.engine.reload(on_progress=fail)).result == "succeeded"


async def test_a_rollback_brings_the_release_before_back(settings: Settings, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    async with supervised(settings) as it:
        assert (await it.engine.rollback()).result == "refused"
        it.release(directory=new)
        await it.engine.reload()
        assert (await it.children())[0].release == str(new)
        assert (await it.engine.rollback()).result == "succeeded"
        assert (await it.children())[0].release == str(tmp_path)


async def test_signals_reload_and_stop(settings: Settings, own_signals: None) -> None:
    async with supervised(settings, signals=True) as it:
        os.kill(os.getpid(), signal.SIGHUP)
        await it.serving(2)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: it.code is not None)
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)  # what comes while the process exits does not end it otherwise
    assert it.code == 0
    assert "reload succeeded" in it.text


async def test_shards_identify_one_window_apart_and_no_faster(settings: Settings) -> None:
    window = 0.1
    async with supervised(with_window(make_settings(settings.bot.directory, "shards=4"), window)) as it:
        pass
    times = [float(line.text.split()[1]) for line in it.lines if line.text.startswith("identified")]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(gaps) == 3
    assert min(gaps) >= window
    assert max(gaps) < window * 2


# --- a bad release ----------------------------------------------------------------------------------------------

BROKEN = {
    "exit=start": "exited with status 1: ModuleNotFoundError: No module named 'cards'",
    "exit=hello": "exited with status 1",
    "exit=ready": "exited with status 1",
    "kill=start": "killed by SIGKILL",
    "kill=connecting": "killed by SIGKILL",
    "kill=activate": "killed by SIGKILL",
    "fatal=hello": "the token was refused",
    "fatal=connecting": "the token was refused",
    "retryable=activate": "the token was refused",
    "garbage=start": "not a message",
    "garbage=connecting": "not a message",
    "protocol=99": "protocol 99",
    "close=connecting": "closed its pipe",
    "silent=start": "said nothing",
    "hang=hello": "not ready within",
    "silent=connecting": "not ready within",
    "hang=activate": "did not become active",
    "deaf=activate": "did not become active",
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_bad_release_fails_and_the_next_reload_works(settings: Settings, fault: str) -> None:
    async with supervised(settings) as it:
        limit = 1.2 if BROKEN[fault].startswith(("said nothing", "not ready")) else 20.0
        it.settings = with_limits(it.settings, ready_timeout=limit)
        it.release(fault)
        outcome = await it.engine.reload()
        assert outcome.result == "failed"
        assert BROKEN[fault] in (outcome.reason or "")
        assert outcome.generation == 1
        assert outcome.handoff is not None
        assert outcome.handoff.result == "failed"
        assert (await it.roles())[1] == "active"
        assert (await it.engine.status()).supervisor.state == "serving"
        it.settings = with_limits(it.settings, ready_timeout=20.0)
        it.release()
        assert (await it.engine.reload()).result == "succeeded"
        await it.serving(3)


async def test_a_fatal_fails_the_reload_within_a_second(settings: Settings) -> None:
    async with supervised(settings) as it:
        it.release("fatal=hello", "print=about to give up")
        assert (await it.engine.reload()).result == "failed"
        assert time.time() - it.lines[_index(it, "about to give up")].at < 1.0


async def test_a_missing_directory_or_interpreter_is_refused(settings: Settings, tmp_path: Path) -> None:
    async with supervised(settings) as it:
        it.release(directory=tmp_path / "gone")
        outcome = await it.engine.reload()
        assert outcome.result == "refused"
        assert str(tmp_path / "gone") in (outcome.reason or "")
        it.release(directory=tmp_path, python=str(tmp_path / "python"))
        assert (await it.engine.reload()).result == "refused"
        it.release(python="no-such-python")
        assert "not found on PATH" in ((await it.engine.reload()).reason or "")
        assert await it.roles() == {1: "active"}
        it.release(python="")
        assert (await it.engine.reload()).result == "succeeded"


async def test_a_program_that_is_not_there_is_refused(settings: Settings) -> None:
    async with supervised(settings) as it:
        it.release(program="gone.py")
        outcome = await it.engine.reload()
        assert (outcome.result, outcome.generation) == ("refused", 1)
        assert outcome.reason == f"bot.program: {settings.bot.directory}/gone.py: No such file or directory"
        assert await it.roles() == {1: "active"}


async def test_what_runs_is_shown_in_the_log_and_in_status(settings: Settings) -> None:
    async with supervised(settings) as it:
        it.release(program="-m mybot")
        await it.engine.reload()
        await it.serving(2)
        (child,) = await it.children()
    assert (child.app, child.program) == ("-m mybot", "-m mybot")
    assert f", -m mybot in {settings.bot.directory}" in it.text


async def test_a_port_that_an_older_bot_holds_is_said_with_its_generation(settings: Settings) -> None:
    taken = "OSError: [Errno 98] Address already in use (port {port})"
    async with supervised(make_settings(settings.bot.directory, "listen=1")) as it:
        port = int(it.lines[_index(it, "listens at ")].text.split()[-1])
        it.release("fatal=connecting", f"reason={taken.format(port=port)}")
        outcome = await it.engine.reload()
    assert outcome.result == "failed"
    held = f"{taken.format(port=port)}; port {port} is held by generation 1, pid {it.pids[1]} ("
    assert held in (outcome.reason or "")
    assert held in it.text


async def test_a_port_that_we_hold_ourselves_is_said_also_if_the_bot_says_it_only_as_it_exits(
    settings: Settings,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        async with supervised(settings) as it:
            it.release("fail=start", f"reason=address already in use, port {port}")
            outcome = await it.engine.reload()
    assert (outcome.reason or "").endswith(
        f"port {port}; port {port} is held by this supervisor itself (health.listen)"
    )


# --- what the bot is given --------------------------------------------------------------------------------------


def with_env_file(settings: Settings, path: Path, *args: str) -> Settings:
    bot = msgspec.structs.replace(settings.bot, env_file=path, args=args)
    return refreshed(replace(settings, bot=bot))


async def test_the_environment_file_is_read_again_when_a_bot_that_crashed_is_spawned_anew(
    settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / ".env"
    path.write_text("COLOUR=red\n")
    async with supervised(with_env_file(settings, path, "show=COLOUR")) as it:
        assert "COLOUR is red" in it.text
        path.write_text("COLOUR=green\n")
        os.kill(it.pids[1], signal.SIGKILL)
        await it.serving(2)
        assert "COLOUR is green" in it.text


async def test_one_that_has_become_unreadable_stops_no_restart_and_the_values_read_last_hold(
    settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / ".env"
    path.write_text("COLOUR=red\n")
    async with supervised(with_env_file(settings, path, "show=COLOUR")) as it:
        for generation, bad in ((2, "hunter2\n"), (3, None)):
            path.write_text(bad) if bad else path.unlink()
            os.kill(it.pids[generation - 1], signal.SIGKILL)
            await it.serving(generation)
    assert [line.text for line in it.lines].count("COLOUR is red") == 3
    warnings = [line.text for line in it.lines if line.level == logging.WARNING and "bot.env_file" in line.text]
    assert [text.partition(f"{path}: ")[2].split(":")[0] for text in warnings] == ["line 1", "cannot be read"]
    assert all(text.endswith("; the bot is given what was read before") for text in warnings)
    assert "hunter2" not in it.text


@pytest.mark.parametrize("error", [SettingsError("bastion.toml: bot.apq: unknown key"), OSError("stale file handle")])
async def test_settings_that_cannot_be_read_refuse_the_reload(settings: Settings, error: Exception) -> None:
    async with supervised(settings) as it:

        def fail(kept: Settings) -> Settings:
            raise error

        it.engine._reread = fail
        outcome = await it.engine.reload()
        assert outcome.result == "refused"
        assert str(error) in (outcome.reason or "")
        assert (outcome.handoff and outcome.handoff.result) == "refused"
        it.engine._reread = it.reread
        assert (await it.engine.reload()).result == "succeeded"


async def test_the_releases_own_symlink_is_resolved_once_and_kept_by_a_restart(
    settings: Settings, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    current = tmp_path / "current"
    current.symlink_to("one")
    async with supervised(make_settings(current)) as it:
        assert (await it.children())[0].release == str(tmp_path / "one")
        current.unlink()
        current.symlink_to("two")
        os.kill(it.pids[1], signal.SIGKILL)
        await it.serving(2)
        assert (await it.children())[0].release == str(tmp_path / "one")
        await it.engine.reload()
        assert (await it.children())[0].release == str(tmp_path / "two")


# --- memory and IDENTIFYs for two -------------------------------------------------------------------------------


def small_machine(root: Path, pid: int, *, available_mib: int) -> None:
    """A machine with so much memory left, on which this child has 100 MiB."""
    for path, text in {
        "meminfo": f"MemTotal: {1024 * 1024} kB\nMemAvailable: {available_mib * 1024} kB\n",
        f"{pid}/statm": f"0 {100 * 1024 * 1024 // os.sysconf('SC_PAGE_SIZE')} 0 0 0 0 0\n",
    }.items():
        (root / "proc" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "proc" / path).write_text(text)


async def test_a_second_bot_that_does_not_fit_into_memory_is_refused_unless_it_is_forced(
    settings: Settings, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    async with supervised(settings, root=root) as it:
        small_machine(root, it.pids[1], available_mib=119)
        outcome = await it.engine.reload()
        assert outcome.result == "refused"
        assert outcome.generation == 1
        assert "needs 120 MiB" in (outcome.reason or "")
        assert "905 MiB of 1.0 GiB are used" in (outcome.reason or "")
        assert await it.roles() == {1: "active"}
        assert (await it.engine.reload(force=True)).result == "succeeded"
        await it.serving(2)
        small_machine(root, it.pids[2], available_mib=121)
        assert (await it.engine.reload()).result == "succeeded"


async def test_a_second_bot_that_could_not_claim_is_refused_unless_it_is_forced_and_the_spare_waits(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diskroom, "shortage", lambda ledger: f"too little room in {ledger.parent}")
    async with supervised(with_restart(settings, spare=True)) as it:
        await until(lambda: "no spare for now: too little room in" in it.text)
        outcome = await it.engine.reload()
        assert (outcome.result, outcome.generation) == ("refused", 1)
        assert "too little room in" in (outcome.reason or "")
        assert "--force tries all the same" in (outcome.reason or "")
        assert await it.roles() == {1: "active"}
        assert (await it.engine.reload(force=True)).result == "succeeded"


async def test_a_ledger_on_a_disk_that_hangs_has_a_reload_refused_and_the_next_one_works(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()

    def shortage(_: Path) -> None:
        answers.wait(20)

    monkeypatch.setattr(diskroom, "PATIENCE", 0.2)
    monkeypatch.setattr(diskroom, "shortage", shortage)
    async with supervised(settings) as it:
        outcome = await it.engine.reload()
        assert outcome.result == "refused"
        assert "has not answered for 0.2 s" in (outcome.reason or "")
        answers.set()
        assert (await it.engine.reload()).result == "succeeded"


async def test_a_bot_that_has_died_is_restarted_whatever_memory_is_left(settings: Settings, tmp_path: Path) -> None:
    async with supervised(settings, root=tmp_path / "root") as it:
        small_machine(tmp_path / "root", it.pids[1], available_mib=1)
        os.kill(it.pids[1], signal.SIGKILL)
        await it.serving(2)


@pytest.mark.parametrize(("remaining", "enough"), [(6, True), (5, False)])
async def test_a_reload_needs_identifies_for_the_new_bot_and_a_reserve_for_the_old(
    tmp_path: Path, remaining: int, enough: bool
) -> None:
    # Two are used by the first bot; two for the second, two kept.
    async with supervised(make_settings(tmp_path, "shards=2", f"remaining={remaining}")) as it:
        outcome = await it.engine.reload()
        assert outcome.result == ("succeeded" if enough else "refused")
        if not enough:
            assert "needs 2, 2 are kept" in (outcome.reason or "")
            assert "3 of 1000 are left. It will be possible at " in (outcome.reason or "")
            assert re.search(r"at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", outcome.reason or "")
            assert (await it.engine.reload(force=True)).result == "succeeded"


async def test_the_settings_say_how_many_identifies_the_new_bot_needs(tmp_path: Path) -> None:
    async with supervised(make_settings(tmp_path, "remaining=8")) as it:
        it.release("remaining=8", shards=7)
        assert "needs 7, 1 are kept" in ((await it.engine.reload()).reason or "")
        it.release("remaining=8", shards=6)
        assert (await it.engine.reload()).result == "succeeded"


# --- the old child in a handoff ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["stay=1", "busy=1", "hang=drain", "deaf=drain"])
async def test_an_old_child_that_does_not_leave_is_ended_and_the_reload_succeeds(tmp_path: Path, fault: str) -> None:
    async with supervised(with_limits(make_settings(tmp_path, fault), drain_timeout=0.3)) as it:
        it.release()
        assert (await it.engine.reload()).result == "succeeded"
        assert await it.roles() == {2: "active"}
        assert (await it.engine.reload()).result == "succeeded"


@pytest.mark.parametrize("fault", ["kill=active", "garbage=active", "fatal=active", "close=active"])
async def test_a_new_child_that_dies_while_the_old_one_drains_is_rolled_back(tmp_path: Path, fault: str) -> None:
    async with supervised(make_settings(tmp_path, "busy=1")) as it:
        it.release(fault)
        outcome = await it.engine.reload()
        assert outcome.result == "rolled-back"
        assert outcome.generation == 1
        await it.serving(1)
        it.release()
        it.settings = with_limits(it.settings, drain_timeout=0.1)
        assert (await it.engine.reload()).result == "succeeded"
        await it.serving(3)


async def test_an_old_child_that_dies_while_the_new_one_connects_is_followed_by_it(settings: Settings) -> None:
    async with supervised(with_window(settings, 0.3)) as it:
        it.release("shards=3")
        outcomes: list[Outcome] = []

        async def reload() -> None:
            outcomes.append(await it.engine.reload())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reload)
            await it.until(lambda roles: set(roles) == {1, 2})
            os.kill(it.pids[1], signal.SIGKILL)
        assert outcomes[0].result == "succeeded"
        assert outcomes[0].handoff is not None
        assert outcomes[0].handoff.kind == "failover"
        await it.serving(2)


# --- the active child dies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGUSR2], ids=["killed", "garbage", "closed"])
async def test_a_lost_child_is_restarted_and_the_next_reload_works(settings: Settings, number: signal.Signals) -> None:
    async with supervised(settings) as it:
        os.kill(it.pids[1], number)
        await it.serving(2)
        status = await it.engine.status()
        assert status.restarts == 1
        assert status.last_handoff is not None
        assert (status.last_handoff.kind, status.last_handoff.result) == ("recovery", "succeeded")
        assert (await it.engine.reload()).result == "succeeded"


async def test_what_ran_in_a_child_that_died_is_told_by_its_successor(tmp_path: Path) -> None:
    async with supervised(make_settings(tmp_path, "left=on_message of the dead")) as it:
        os.kill(it.pids[1], signal.SIGKILL)
        await it.serving(2)
        await told(it, ["on_message of the dead"])
        assert "cut, for generation 1 died: on_message of the dead" in it.text
        assert it.engine.totals().cut == 1


@pytest.mark.parametrize("followed", [False, True])
async def test_the_outcome_of_a_reload_names_what_ran_in_the_child_that_died_over_it(
    tmp_path: Path, followed: bool
) -> None:
    """Also where the next reload begins at once."""
    async with supervised(make_settings(tmp_path, "kill=drain")) as it:
        it.release("left=on_message of the dead")
        outcomes: list[Outcome] = []

        async def reload() -> None:
            outcomes.append(await it.engine.reload())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reload)
            if followed:
                await it.until(lambda roles: 2 in roles)
                tasks.start_soon(reload)
        assert [one.result for one in outcomes] == ["succeeded"] * (1 + followed)
        first = outcomes[0].handoff
        assert first is not None
        assert (first.from_generation, first.to_generation) == (1, 2)
        assert first.cut == ["on_message of the dead"]


async def test_an_outcome_does_not_wait_for_long_until_somebody_tells_what_the_dead_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bastion.supervisor.slot.INQUEST_PATIENCE", 0.2)
    async with supervised(make_settings(tmp_path, "kill=drain")) as it:
        it.release("deaf=inquire")
        outcome = await it.engine.reload()
        assert outcome.result == "succeeded"
        assert outcome.handoff is not None
        assert outcome.handoff.cut == []


async def told(it: Supervised, cut: list[str]) -> None:
    """Wait until the last handoff names what was cut."""

    async def names() -> list[str] | None:
        last = (await it.engine.status()).last_handoff
        return last.cut if last is not None else None

    with anyio.fail_after(10):
        while await names() != cut:  # noqa: ASYNC110 - nothing tells of a change of the record
            await anyio.sleep(0.01)


async def test_a_reload_repairs_a_release_that_keeps_crashing(settings: Settings) -> None:
    async with supervised(make_settings(settings.bot.directory, "kill=active"), serving=False) as it:
        await it.until(lambda roles: max(roles, default=0) >= 3)
        it.release()
        outcome = await it.engine.reload()
        while outcome.result != "succeeded":  # one that joins the crashing child's handoff may fail with it
            outcome = await it.engine.reload()
        await it.serving(outcome.generation or 0)


# --- memory runs out --------------------------------------------------------------------------------------------


def oom_score_adj(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


async def test_the_kernel_would_take_the_standby_first_and_after_the_switch_the_old_one(tmp_path: Path) -> None:
    ours = oom_score_adj(os.getpid())
    async with supervised(make_settings(tmp_path, "busy=1")) as it, anyio.create_task_group() as tasks:
        assert oom_score_adj(it.pids[1]) == ours
        it.settings = with_window(it.settings, 0.3)
        it.release("shards=2")
        tasks.start_soon(it.engine.reload)
        await it.until(lambda roles: set(roles) == {1, 2})
        assert oom_score_adj(it.pids[2]) == ours + 300
        assert oom_score_adj(it.pids[1]) == ours
        await it.until(lambda roles: roles == {1: "draining", 2: "active"})
        assert oom_score_adj(it.pids[2]) == ours
        assert oom_score_adj(it.pids[1]) == ours + 300
        tasks.start_soon(it.engine.stop)


# --- children that hang -----------------------------------------------------------------------------------------


def quick_to_find_hangs(settings: Settings) -> Settings:
    return with_restart(settings, hang_timeout=0.6)


@pytest.mark.parametrize("how", ["blocked", "stopped"])
async def test_a_child_that_hangs_is_killed_and_followed_and_its_stacks_are_in_the_log(
    settings: Settings, how: str
) -> None:
    settings = quick_to_find_hangs(settings)
    if how == "blocked":
        settings = quick_to_find_hangs(make_settings(settings.bot.directory, "hang=active"))
    async with supervised(settings) as it:
        if how == "stopped":
            await it.until_seen(lambda children: children[0].last_beat_at is not None)
            os.kill(it.pids[1], signal.SIGSTOP)
        it.settings = quick_to_find_hangs(make_settings(settings.bot.directory))
        await until(lambda: "generation 1: hangs: no sign of life for 0.6 s" in it.text)
        await until(lambda: "generation 1 has left: killed by SIGKILL" in it.text)
        assert ("in sleep" in it.text) == (how == "blocked"), "a stopped process can print nothing"
        await until(lambda: "generation 2 spawned" in it.text)
        assert _index(it, "SIGUSR1") < _index(it, "SIGTERM") < _index(it, "SIGKILL") < _index(it, "2 spawned")
        if how == "stopped":
            await it.serving(2)
            assert (await it.engine.reload()).result == "succeeded"


async def test_a_child_that_is_stopped_for_a_moment_goes_on(settings: Settings) -> None:
    async with supervised(quick_to_find_hangs(settings)) as it:
        await it.until_seen(lambda children: children[0].last_beat_at is not None)
        os.kill(it.pids[1], signal.SIGSTOP)
        await until(lambda: "SIGUSR1 to generation 1" in it.text)
        os.kill(it.pids[1], signal.SIGCONT)
        await until(lambda: "beats again and goes on" in it.text)
        assert await it.roles() == {1: "active"}


async def test_a_new_child_that_is_stopped_fails_the_reload(settings: Settings) -> None:
    async with supervised(with_window(quick_to_find_hangs(settings), 0.5)) as it, anyio.create_task_group() as tasks:
        it.release("shards=3")
        outcomes: list[Outcome] = []

        async def reload() -> None:
            outcomes.append(await it.engine.reload())

        tasks.start_soon(reload)
        await it.until_seen(lambda children: len(children) == 2 and children[1].last_beat_at is not None)
        os.kill(it.pids[2], signal.SIGSTOP)
        await until(lambda: outcomes)
        assert outcomes[0].result == "failed"
        assert "hangs" in (outcomes[0].reason or "")
        await it.serving(1)
        it.release()
        assert (await it.engine.reload()).result == "succeeded"


async def test_an_old_child_that_is_stopped_while_it_drains_is_killed_and_the_reload_succeeds(tmp_path: Path) -> None:
    async with supervised(quick_to_find_hangs(make_settings(tmp_path, "busy=1"))) as it:
        it.settings = with_limits(it.settings, drain_timeout=60.0)
        it.release()
        outcomes: list[Outcome] = []

        async def reload() -> None:
            outcomes.append(await it.engine.reload())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reload)
            await it.until(lambda roles: roles == {1: "draining", 2: "active"})
            os.kill(it.pids[1], signal.SIGSTOP)
        assert outcomes[0].result == "succeeded"
        await it.serving(2)


# --- probation --------------------------------------------------------------------------------------------------


@asynccontextmanager
async def on_probation(settings: Settings, *args: str, seconds: float = 60.0) -> AsyncIterator[Probation]:
    """A reload has switched to generation 2, generation 1 stands by."""
    async with supervised(quick_to_find_hangs(with_limits(settings, probation=seconds))) as it:
        it.release(*args)
        probation = Probation(it)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(probation.reload)
            await it.until(lambda roles: roles == {1: "standby", 2: "active"})
            yield probation


@dataclass
class Probation:
    it: Supervised
    outcome: Outcome | None = None
    seen: list[Progress] = field(default_factory=list)

    async def reload(self) -> None:
        self.outcome = await self.it.engine.reload(on_progress=self.seen.append)

    async def ended(self) -> Outcome:
        await until(lambda: self.outcome)
        assert self.outcome is not None
        return self.outcome


async def test_a_new_child_that_is_ready_waits_for_a_sign_of_life_of_the_active_one_and_says_so(
    settings: Settings,
) -> None:
    seen, follow = recorder()
    async with supervised(with_window(settings, 1.0)) as it, anyio.create_task_group() as tasks:
        outcomes: list[Outcome] = []

        async def reload() -> None:
            outcomes.append(await it.engine.reload(on_progress=follow))

        tasks.start_soon(reload)
        await it.until(lambda roles: 2 in roles)  # it gets its permit a second after the first one got its own
        os.kill(it.pids[1], signal.SIGSTOP)
        waits = "generation 2: 1 of 1 shard ready; waiting for a sign of life of generation 1"
        await until(lambda: waits in [progress.message for progress in seen])
        assert not outcomes
        os.kill(it.pids[1], signal.SIGCONT)
        await until(lambda: outcomes)
        assert outcomes[0].result == "succeeded"
        await it.serving(2)


async def test_the_old_child_stands_by_until_the_probation_is_over(settings: Settings) -> None:
    began = time.monotonic()
    async with on_probation(settings, seconds=0.5) as probation:
        outcome = await probation.ended()
        assert time.monotonic() - began >= 0.5
        assert outcome.result == "succeeded"
        assert outcome.handoff is not None
        assert outcome.handoff.phases["probation"] >= 0.5
        message = "generation 2 is active, on probation, 1 s left; generation 1 stands by"
        assert message in [progress.message for progress in probation.seen]
        await probation.it.serving(2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGHUP, signal.SIGUSR2])
async def test_a_new_child_that_is_lost_on_probation_is_rolled_back_without_an_identify(
    settings: Settings, number: signal.Signals
) -> None:
    async with on_probation(make_settings(settings.bot.directory, "left=on_message")) as probation:
        it = probation.it
        before = (await it.engine.status()).session_start_limit
        os.kill(it.pids[2], number)
        outcome = await probation.ended()
        assert (outcome.result, outcome.generation) == ("rolled-back", 1)
        assert outcome.handoff is not None
        if number in (signal.SIGKILL, signal.SIGSTOP):  # else the role is back before the child is gone
            assert outcome.handoff.cut == ["on_message"]
        await told(it, ["on_message"])
        await it.serving(1)
        after = (await it.engine.status()).session_start_limit
        assert before is not None
        assert after is not None
        assert after.remaining == before.remaining
        assert (await it.engine.status()).restarts == 0
        it.settings = with_limits(it.settings, probation=0.1)
        it.release()
        assert (await it.engine.reload()).result == "succeeded"


async def test_a_rollback_on_probation_needs_no_new_child(settings: Settings) -> None:
    async with on_probation(settings) as probation:
        outcome = await probation.it.engine.rollback()
        assert (outcome.result, outcome.generation) == ("succeeded", 1)
        assert (await probation.ended()).result == "rolled-back"
        await probation.it.serving(1)
        assert outcome.handoff is not None
        assert (outcome.handoff.kind, outcome.handoff.from_generation, outcome.handoff.to_generation) == (
            "rollback",
            2,
            1,
        )


async def test_a_reload_counts_down_its_probation(settings: Settings) -> None:
    async with on_probation(settings, seconds=1.2) as probation:
        await probation.ended()
        seen = " ".join(progress.message for progress in probation.seen)
        assert seen.index("2 s left") < seen.index("1 s left")


async def test_an_old_child_that_dies_on_probation_takes_only_what_ran_in_it(settings: Settings) -> None:
    async with on_probation(settings, "left=on_message") as probation:
        os.kill(probation.it.pids[1], signal.SIGKILL)
        assert (await probation.ended()).result == "succeeded"
        await probation.it.serving(2)
        await told(probation.it, ["on_message"])


async def test_an_old_child_that_does_not_stand_by_drains(tmp_path: Path) -> None:
    async with supervised(with_limits(make_settings(tmp_path, "deaf=standby"), probation=60.0)) as it:
        it.release()
        assert (await it.engine.reload()).result == "succeeded"
        assert "does not stand by" in it.text


async def test_a_stop_on_probation_drains_both(settings: Settings) -> None:
    async with on_probation(settings) as probation:
        await probation.it.engine.stop()
        assert (await probation.ended()).result == "failed"
        assert probation.it.text.count("drained within 5") == 2


# --- a newer release --------------------------------------------------------------------------------------------


async def test_a_reload_while_the_old_child_drains_hurries_it(tmp_path: Path) -> None:
    async with supervised(with_limits(make_settings(tmp_path, "busy=1"), drain_timeout=600.0)) as it:
        it.release()
        outcomes: list[Outcome] = []

        async def reload() -> None:
            outcomes.append(await it.engine.reload())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reload)
            await it.until(lambda roles: roles == {1: "draining", 2: "active"})
            outcomes.append(await it.engine.reload())
        assert [(outcome.result, outcome.generation) for outcome in outcomes] == [("succeeded", 2), ("succeeded", 3)]
        assert f"drained within {limits.HURRY_LIMIT}" in it.text
        await it.serving(3)


# --- what people are in the middle of ---------------------------------------------------------------------------


@asynccontextmanager
async def lingering(tmp_path: Path, *, root: Path = Path("/")) -> AsyncIterator[Supervised]:
    """A reload has succeeded; in the old child three views are open."""
    async with supervised(with_limits(make_settings(tmp_path, "linger=3"), linger=180.0), root=root) as it:
        it.release()
        outcome = await it.engine.reload()
        assert (outcome.result, outcome.generation, outcome.lingering) == ("succeeded", 2, 3)
        assert await it.roles() == {1: "draining", 2: "active"}
        yield it


def identifies(it: Supervised) -> int:
    return sum(line.text.startswith("identified") for line in it.lines)


async def test_a_reload_does_not_wait_for_open_views_and_what_was_cut_is_named_later(tmp_path: Path) -> None:
    async with lingering(tmp_path) as it:
        status = await it.engine.status()
        assert status.supervisor.state == "serving"
        assert [child.lingering for child in status.children] == [3, 0]
        assert status.last_handoff is not None
        assert (status.last_handoff.result, status.last_handoff.cut) == ("succeeded", [])
        os.kill(it.pids[1], signal.SIGWINCH)
        await it.serving(2)
        status = await it.engine.status()
        assert status.last_handoff is not None
        assert status.last_handoff.cut == ["on_message"]


async def test_a_failed_reload_leaves_open_views_and_a_good_one_hurries_them(tmp_path: Path) -> None:
    async with lingering(tmp_path) as it:
        it.release("exit=connecting")
        assert (await it.engine.reload()).result == "failed"
        await it.until(lambda roles: roles == {1: "draining", 2: "active"})
        assert "drained within" not in it.text
        it.release()
        assert (await it.engine.reload()).result == "succeeded"
        await it.serving(4)
        assert _index(it, "identified") < _index(it, "drained within 5") < _index(it, "generation 4 is active")
        status = await it.engine.status()
        assert status.last_handoff is not None
        assert status.last_handoff.from_generation == 2, "and so what it cut is its own handlers, not generation 1's"


async def test_a_child_with_open_views_takes_over_from_one_that_dies_without_an_identify(tmp_path: Path) -> None:
    async with lingering(tmp_path) as it:
        before = identifies(it)
        os.kill(it.pids[2], signal.SIGKILL)
        await it.serving(1)
        await until(lambda: "failover 2 -> 1 succeeded" in it.text)
        assert identifies(it) == before
        assert (await it.engine.reload()).result == "succeeded"


async def test_open_views_give_their_memory_to_a_reload(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (tmp_path / "bot").mkdir()
    async with lingering(tmp_path / "bot", root=root) as it:
        small_machine(root, it.pids[2], available_mib=21)
        assert (await it.engine.reload()).result == "refused"
        assert await it.roles() == {1: "draining", 2: "active"}
        small_machine(root, it.pids[1], available_mib=21)
        assert (await it.engine.reload()).result == "succeeded"
        assert _index(it, "generation 1 has left") < _index(it, "generation 3 spawned")


async def test_a_lingering_child_that_hangs_is_ended_and_nobody_else_is_concerned(tmp_path: Path) -> None:
    settings = quick_to_find_hangs(with_limits(make_settings(tmp_path, "linger=3"), linger=180.0))
    async with supervised(settings) as it:
        it.release()
        assert (await it.engine.reload()).lingering == 3
        await it.roles()
        os.kill(it.pids[1], signal.SIGSTOP)
        await it.serving(2)
        assert "generation 1, lingering: hangs" in it.text


async def test_a_stop_does_not_wait_for_open_views(tmp_path: Path) -> None:
    async with lingering(tmp_path) as it:
        await it.engine.stop()
        assert it.text.count("drained within 5") == 2


# --- the spare --------------------------------------------------------------------------------------------------


async def test_a_spare_is_kept_and_takes_over_at_once(tmp_path: Path) -> None:
    spare = with_restart(make_settings(tmp_path, "left=on_message"), spare=True, backoff_first=0.1)
    async with supervised(spare, serving=False) as it:
        await it.until(lambda roles: roles == {1: "active", 2: "standby"})
        assert oom_score_adj(it.pids[2]) == oom_score_adj(os.getpid()) + 300
        os.kill(it.pids[1], signal.SIGKILL)
        await it.until(lambda roles: roles == {2: "active", 3: "standby"})
        status = await it.engine.status()
        assert status.restarts == 1
        assert status.last_handoff is not None
        assert (status.last_handoff.kind, status.last_handoff.result) == ("failover", "succeeded")
        assert status.last_handoff.duration < 1.0
        assert status.last_handoff.cut == ["on_message"]


async def test_a_reload_replaces_the_spare(settings: Settings, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    async with supervised(with_restart(settings, spare=True), serving=False) as it:
        await it.until(lambda roles: roles == {1: "active", 2: "standby"})
        it.release(directory=new)
        assert (await it.engine.reload()).result == "succeeded"
        await it.until(lambda roles: roles == {3: "active", 4: "standby"})
        assert {child.release for child in await it.children()} == {str(new)}
        gone, spawned = _index(it, "generation 2 has left"), _index(it, "generation 3 spawned")
        assert gone < spawned, "memory need not suffice for three"


async def test_a_spare_takes_over_while_a_reload_reads_the_settings_and_the_reload_follows(
    settings: Settings, tmp_path: Path
) -> None:
    async with supervised(with_restart(settings, spare=True), serving=False) as it, anyio.create_task_group() as tasks:
        await it.until(lambda roles: roles == {1: "active", 2: "standby"})
        may_go_on = threading.Event()
        read = threading.Event()

        def slowly(kept: Settings) -> Settings:
            read.set()
            may_go_on.wait(20)
            return it.settings

        it.engine._reread = slowly
        outcomes: list[Outcome] = []

        async def reload() -> None:
            outcomes.append(await it.engine.reload())

        tasks.start_soon(reload)
        await until(read.is_set)
        os.kill(it.pids[1], signal.SIGKILL)
        await it.until(lambda roles: roles == {2: "active"})
        assert outcomes == []
        may_go_on.set()
        await until(lambda: outcomes)
        assert (outcomes[0].result, outcomes[0].generation) == ("succeeded", 3)
        await it.until(lambda roles: roles == {3: "active", 4: "standby"})


async def test_a_spare_gives_its_memory_to_a_reload(settings: Settings, tmp_path: Path) -> None:
    root = tmp_path / "root"
    async with supervised(with_restart(settings, spare=True), serving=False, root=root) as it:
        await it.until(lambda roles: roles == {1: "active", 2: "standby"})
        small_machine(root, it.pids[1], available_mib=21)
        assert (await it.engine.reload()).result == "refused"
        small_machine(root, it.pids[2], available_mib=21)
        assert (await it.engine.reload()).result == "succeeded"


async def test_a_spare_waits_for_memory(settings: Settings, tmp_path: Path) -> None:
    root = tmp_path / "root"
    async with supervised(with_restart(settings, spare=True), serving=False, root=root) as it:
        await it.until(lambda roles: roles == {1: "active", 2: "standby"})
        small_machine(root, it.pids[1], available_mib=119)
        os.kill(it.pids[2], signal.SIGKILL)
        await until(lambda: "no spare for now: too little memory for a second bot: it needs 120 MiB" in it.text)
        small_machine(root, it.pids[1], available_mib=121)
        await it.until(lambda roles: roles == {1: "active", 3: "standby"})
        assert it.text.count("no spare for now") == 1
        assert [child.spare for child in await it.children()] == [False, True]


async def test_a_machine_that_does_not_tell_its_memory_costs_the_spare_and_nothing_else(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shortage(**_: object) -> str:
        raise ValueError("/proc/meminfo: no MemAvailable")

    monkeypatch.setattr(headroom, "shortage", shortage)
    async with supervised(with_restart(settings, spare=True)) as it:
        await until(lambda: "no spare for now: it is not known whether there is room for it" in it.text)
        assert [child.role for child in await it.children()] == ["active"]


async def test_a_spare_waits_for_identifies(tmp_path: Path) -> None:
    settings = with_restart(make_settings(tmp_path, "remaining=1"), spare=True)
    async with supervised(settings) as it:
        await until(lambda: "no spare for now: too few IDENTIFYs are left today" in it.text)
        assert "--force" not in it.text


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGHUP, signal.SIGUSR2])
async def test_a_spare_that_is_lost_is_replaced_and_the_active_child_serves_on(
    settings: Settings, number: signal.Signals
) -> None:
    async with supervised(with_restart(quick_to_find_hangs(settings), spare=True), serving=False) as it:
        await it.until(lambda roles: roles == {1: "active", 2: "standby"})
        os.kill(it.pids[2], number)
        await it.until(lambda roles: roles == {1: "active", 3: "standby"})
        assert (await it.engine.status()).last_handoff is None
        assert (await it.engine.status()).restarts == 0


# --- the first start --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["fatal=start", "fatal=hello", "fatal=connecting", "protocol=9"])
async def test_a_first_start_that_can_never_work_exits_78(tmp_path: Path, fault: str) -> None:
    engine = Engine(make_settings(tmp_path, fault), command=fake_command, log=lambda _: None)
    before = open_fds()
    assert await engine.run() == 78
    assert engine.failure is not None
    assert open_fds() <= before
    assert (await engine.reload()).result == "refused"


async def test_a_first_start_without_a_directory_exits_78(tmp_path: Path) -> None:
    engine = Engine(make_settings(tmp_path / "gone"), log=lambda _: None)
    assert await engine.run() == 78
    assert str(tmp_path / "gone") in (engine.failure or "")


async def test_a_venv_without_our_package_is_named_as_what_it_is(tmp_path: Path) -> None:
    def bare(release: Release) -> list[str]:
        return [str(release.python), "-I", "-S", str(LAUNCHER)]

    engine = Engine(make_settings(tmp_path), command=bare, log=lambda _: None)
    assert await engine.run() == 78
    assert "has no bastion-supervisor: install it there" in (engine.failure or "")


async def test_a_first_start_that_may_work_later_is_tried_again(tmp_path: Path) -> None:
    async with supervised(make_settings(tmp_path, "retryable=hello"), serving=False) as it:
        await it.until(lambda roles: max(roles, default=0) >= 3)
        assert (await it.engine.status()).supervisor.state == "starting"
        assert (await it.engine.status()).restarts == 0


# --- stopping ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["start", "connecting", "ready"])
async def test_a_stop_in_the_middle_of_a_handoff_ends_both(settings: Settings, place: str) -> None:
    async with supervised(settings) as it:
        it.release(f"silent={place}")
        outcomes: list[Outcome] = []

        async def reload() -> None:
            outcomes.append(await it.engine.reload())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reload)
            await it.until(lambda roles: set(roles) == {1, 2})
            await it.engine.stop()
        assert outcomes[0].result == "failed"
    assert it.code == 0


async def test_a_second_stop_does_not_wait(tmp_path: Path) -> None:
    async with supervised(make_settings(tmp_path, "busy=1")) as it, anyio.create_task_group() as tasks:
        tasks.start_soon(it.engine.stop)
        await it.until(lambda roles: roles == {1: "draining"})
        began = time.monotonic()
        await it.engine.stop()
        assert time.monotonic() - began < 1.0


async def test_a_cancelled_run_kills_every_child(settings: Settings) -> None:
    it = Supervised(settings)
    it.engine = Engine(settings, command=fake_command, log=it.log)
    before = open_fds()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(it.engine.run)
        await until(lambda: "spawned" in it.text)
        pids = [child.pid for child in (await it.engine.status()).children]
        tasks.cancel_scope.cancel()
    assert living(pids) == []
    assert open_fds() <= before


async def test_a_fault_of_the_supervisor_itself_ends_the_children_and_is_raised(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = Supervised(settings)
    it.engine = Engine(settings, command=fake_command, log=it.log)
    failed: list[Exception] = []

    async def run() -> None:
        try:
            await it.engine.run()
        except RuntimeError as error:
            failed.append(error)

    def fail(*_: object) -> None:
        raise RuntimeError("a cell is wrong")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await it.serving(1)
        monkeypatch.setattr(machine, "step", fail)
        assert (await it.engine.reload()).result == "refused"
    assert [str(error) for error in failed] == ["a cell is wrong"]
    assert living(list(it.pids.values())) == []


# --- logs and secrets -------------------------------------------------------------------------------------------


async def test_output_is_carried_on_with_its_generation_and_without_the_token(tmp_path: Path) -> None:
    async with supervised(make_settings(tmp_path, "print=hello from TOKEN")) as it:
        it.release("print=RuntimeError: TOKEN", "exit=start")
        await it.engine.reload()
        it.release("fatal=start", "print=x")
        await it.engine.reload()
    assert ("hello from [token]", 1) in [(line.text, line.generation) for line in it.lines]
    assert TOKEN not in repr(it.settings)
    assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ gen 1: hello from", str(it.lines[_index(it, "hello from")]))


def _index(it: Supervised, text: str) -> int:
    return next(index for index, line in enumerate(it.lines) if text in line.text)


async def test_twenty_reloads_leave_no_descriptor_and_no_process(settings: Settings) -> None:
    async with supervised(settings) as it:
        await it.engine.reload()
        before = len(open_fds())
        for _ in range(20):
            assert (await it.engine.reload()).result == "succeeded"
        assert len(open_fds()) == before
        await it.serving(22)


# --- health -----------------------------------------------------------------------------------------------------


async def test_it_is_ready_while_its_active_child_is_and_no_longer_once_it_stops(
    settings: Settings, tmp_path: Path
) -> None:
    settings = with_limits(make_settings(tmp_path, "shards=3", "busy=1"), drain_timeout=1.0)
    async with supervised(settings) as it:
        readiness = it.engine.readiness()
        assert readiness is not None
        assert (readiness.generation, readiness.shards, readiness.ready) == (1, 3, True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(it.engine.stop)
            await it.until(lambda roles: roles == {1: "draining"})
            assert it.engine.readiness() is None


async def test_a_failed_reload_leaves_it_ready_with_the_old_child(settings: Settings) -> None:
    async with supervised(settings) as it:
        it.release("exit=hello")
        assert (await it.engine.reload()).result == "failed"
        readiness = it.engine.readiness()
        assert readiness is not None
        assert (readiness.generation, readiness.ready) == (1, True)
        assert it.engine.totals().handoffs["reload", "failed"].count == 1


async def test_a_release_that_was_removed_under_its_bot_is_said_when_it_is_needed(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "release").mkdir()
    settings = replace(settings, bot=msgspec.structs.replace(settings.bot, directory=tmp_path / "release"))
    async with supervised(settings) as it:
        (tmp_path / "release").rmdir()
        os.kill(it.pids[1], signal.SIGKILL)
        said = f"the release {tmp_path / 'release'} is no longer there; put it back, or reload to one that is"
        await until(lambda: said in it.text)
        it.release(directory=tmp_path)
        assert (await it.engine.reload()).result == "succeeded"
