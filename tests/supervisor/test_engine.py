"""The engine over real processes that speak the pipe's messages, without Discord."""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
from pathlib import Path

import anyio
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
    with_window,
)

from supervisor import machine
from supervisor.engine import Engine
from supervisor.outcome import Outcome, Progress
from supervisor.release import Release
from supervisor.settings import Settings, SettingsError

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path)


@pytest.fixture(autouse=True)
def short_graces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"ACK_TIMEOUT": 1.0, "DRAIN_GRACE": 0.2, "TERM_GRACE": 0.3, "FATAL_GRACE": 0.5}.items():
        monkeypatch.setattr(machine, name, seconds)


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
        assert phases == ["preparing", "window", "spawning", "connecting", "activating", "draining"]
        assert all(progress.generation == 2 for progress in seen if progress.phase in phases[2:])
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
    assert child["shards"] == [{"id": 0, "state": "ready", "latency_ms": 4.5}]
    assert child["rss_bytes"] > 1_000_000
    assert child["cpu_percent"] is not None
    assert child["handled"] == 12
    assert child["started_at"] < child["ready_at"] <= child["active_at"]
    assert child["started_at"].endswith("Z")
    handoff = status["last_handoff"]
    assert (handoff["kind"], handoff["from"], handoff["to"], handoff["result"]) == ("reload", 1, 2, "succeeded")
    assert set(handoff["phases"]) == {"preparing", "window", "spawning", "connecting", "activating", "draining"}
    assert sum(handoff["phases"].values()) == pytest.approx(handoff["duration"], abs=0.01)
    assert (handoff["replayed"], handoff["expired"], handoff["cut"]) == (3, 1, ["on_message"])
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


async def test_signals_reload_and_stop(settings: Settings) -> None:
    async with supervised(settings, signals=True) as it:
        os.kill(os.getpid(), signal.SIGHUP)
        await it.serving(2)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(lambda: it.code is not None)
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


@pytest.mark.parametrize("error", [SettingsError("bastion.toml: bot.apq: unknown key"), OSError("stale file handle")])
async def test_settings_that_cannot_be_read_refuse_the_reload(settings: Settings, error: Exception) -> None:
    async with supervised(settings) as it:

        def fail() -> Settings:
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


# --- the old child in a handoff ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["window=refused", "deaf=window"])
async def test_an_old_child_that_does_not_claim_fails_the_reload(tmp_path: Path, fault: str) -> None:
    async with supervised(make_settings(tmp_path, fault)) as it:
        it.release()
        outcome = await it.engine.reload()
        assert outcome.result == "failed"
        assert await it.roles() == {1: "active"}


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


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGUSR1, signal.SIGUSR2], ids=["killed", "garbage", "closed"]
)
async def test_a_lost_child_is_restarted_and_the_next_reload_works(settings: Settings, number: signal.Signals) -> None:
    async with supervised(settings) as it:
        os.kill(it.pids[1], number)
        await it.serving(2)
        status = await it.engine.status()
        assert status.restarts == 1
        assert status.last_handoff is not None
        assert (status.last_handoff.kind, status.last_handoff.result) == ("recovery", "succeeded")
        assert (await it.engine.reload()).result == "succeeded"


async def test_a_reload_repairs_a_release_that_keeps_crashing(settings: Settings) -> None:
    async with supervised(make_settings(settings.bot.directory, "kill=active"), serving=False) as it:
        await it.until(lambda roles: max(roles, default=0) >= 3)
        it.release()
        outcome = await it.engine.reload()
        while outcome.result != "succeeded":  # one that joins the crashing child's handoff may fail with it
            outcome = await it.engine.reload()
        await it.serving(outcome.generation or 0)


# --- the first start --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["fatal=start", "fatal=hello", "fatal=connecting", "protocol=7"])
async def test_a_first_start_that_can_never_work_exits_78(tmp_path: Path, fault: str) -> None:
    engine = Engine(make_settings(tmp_path, fault), command=fake_command, log=lambda _: None, signals=False)
    before = open_fds()
    assert await engine.run() == 78
    assert engine.failure is not None
    assert open_fds() <= before
    assert (await engine.reload()).result == "refused"


async def test_a_first_start_without_a_directory_exits_78(tmp_path: Path) -> None:
    engine = Engine(make_settings(tmp_path / "gone"), log=lambda _: None, signals=False)
    assert await engine.run() == 78
    assert str(tmp_path / "gone") in (engine.failure or "")


async def test_a_venv_without_our_package_is_named_as_what_it_is(tmp_path: Path) -> None:
    def bare(release: Release) -> list[str]:
        return [str(release.python), "-I", "-S", "-m", "bot"]

    engine = Engine(make_settings(tmp_path), command=bare, log=lambda _: None, signals=False)
    assert await engine.run() == 78
    assert "has no bastion-supervisor installed" in (engine.failure or "")


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
    it.engine = Engine(settings, command=fake_command, log=it.log, signals=False)
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
    it.engine = Engine(settings, command=fake_command, log=it.log, signals=False)
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
