"""The demo judges truthfully, ends what it started, and leaves nothing behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bastion.sandbox import KindVerdict, LatencySummary, Second, Verdict
from bastion.supervisor.demo import Plan, _judge, _Reload, _Teller

TIMEOUT = 100.0


def a_verdict(*, refused: int = 0, strays: int = 0, lost: int = 0, duplicated: int = 0) -> Verdict:
    counts = KindVerdict(kind="slash", emitted=30, handled_once=30 - lost, lost=lost, duplicated=duplicated)
    return Verdict(
        started_at=100.0,
        kinds={"slash": counts},
        latency=LatencySummary(),
        spans={"before": LatencySummary(count=30, p50=0.1, p99=0.2, max=0.25)},
        by_generation={1: 30},
        timeline=[Second(at=100, emitted=20, handled={1: 20}), Second(at=102, emitted=10, handled={2: 10})],
        refused=refused,
        strays=strays,
        unheard=0,
    )


def a_reload(*, good: bool = True, code: int = 0) -> _Reload:
    return _Reload(number=1, good=good, start=100.5, end=101.5, code=code, last_line="as the command said")


def judged(verdict: Verdict, reloads: list[_Reload]) -> tuple[int, str]:
    stream = io.StringIO()
    return _judge(_Teller(stream, colour=False), verdict, reloads), stream.getvalue()


def test_it_succeeds_when_nothing_was_lost_and_each_reload_ended_as_its_release_deserves() -> None:
    code, text = judged(a_verdict(), [a_reload(), a_reload(good=False, code=1)])
    assert code == 0
    assert "emitted 30, handled once 30, lost 0, duplicated 0" in text
    assert "before                30     100     200     250" in text
    assert "not as it should be" not in text


@pytest.mark.parametrize("fault", ["refused", "strays", "lost", "duplicated"])
def test_it_fails_on_anything_that_was_lost_or_done_twice(fault: str) -> None:
    code, text = judged(a_verdict(**{fault: 1}), [a_reload()])
    assert code == 1
    assert "not as it should be: 1 " in text


@pytest.mark.parametrize(("good", "code"), [(True, 1), (False, 0), (True, 3), (False, 3)])
def test_it_fails_when_a_reload_ends_otherwise_than_its_release_deserves(good: bool, code: int) -> None:
    assert judged(a_verdict(), [a_reload(good=good, code=code)])[0] == 1


def test_it_fails_when_nothing_happened() -> None:
    nothing = Verdict(
        started_at=0.0,
        kinds={},
        latency=LatencySummary(),
        spans={},
        by_generation={},
        timeline=[],
        refused=0,
        strays=0,
        unheard=0,
    )
    code, text = judged(nothing, [a_reload()])
    assert code == 1
    assert "the bot answered nothing" in text


def start(plan: Plan, directory: Path) -> subprocess.Popen[str]:
    """A demo in a process of its own, with its temporary files in ``directory``."""
    code = f"import sys; from bastion.supervisor.demo import Plan, run_demo; sys.exit(run_demo({plan!r}))"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "TMPDIR": str(directory)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.wide  # .ci/run runs the whole one
def test_a_short_one_shows_three_reloads_and_ends_with_nothing_lost(tmp_path: Path) -> None:
    with start(Plan(rate=20, calm=1.0), tmp_path) as demo:
        out, err = demo.communicate(timeout=TIMEOUT)
    assert (demo.returncode, err) == (0, ""), out
    for words in ("reload 1", "reload 3", "generation 4", "lost 0, duplicated 0", "craete", "failed as it should"):
        assert words in out
    assert "\x1b" not in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_every_process_and_file(tmp_path: Path, number: signal.Signals) -> None:
    with start(Plan(rate=20, calm=60.0), tmp_path) as demo:
        assert demo.stdout is not None
        while "traffic begins" not in demo.stdout.readline():
            assert demo.poll() is None
        children = psutil.Process(demo.pid).children(recursive=True)
        assert len(children) >= 2  # the supervisor and its bot
        demo.send_signal(number)
        _, err = demo.communicate(timeout=TIMEOUT)
    assert demo.returncode == 128 + number
    assert err == "interrupted: everything that was started has been stopped\n"
    assert not any(child.is_running() for child in children)
    assert list(tmp_path.iterdir()) == []
