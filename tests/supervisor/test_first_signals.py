"""Signals in the first moments of a start do what they do later.

Python's own start, before the first line of ours, is nobody's: each test waits until the process has taken its signals.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from installed import Installed, installed

STOPS = (signal.SIGTERM, signal.SIGINT)
OTHERS = (signal.SIGHUP, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)
AT_ONCE = [0.0]
STEPS = [step * 0.02 for step in range(16)]
"""Seconds from that moment on: through imports, settings, control socket and the first spawn."""
MOMENTS = [*AT_ONCE, *(pytest.param(moment, marks=pytest.mark.wide) for moment in STEPS[1:])]


def signals(pid: int, kind: str) -> set[signal.Signals]:
    """What a process catches ("SigCgt"), blocks ("SigBlk") or ignores ("SigIgn")."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, mask = line.partition(":")
        if name == kind:
            return {number for number in (*STOPS, *OTHERS) if int(mask, 16) >> (number - 1) & 1}
    raise LookupError(kind)


def begin(it: Installed) -> None:
    """Start, and return as soon as the supervisor has taken its signals."""
    it.start()
    it.until(lambda: set(OTHERS) <= signals(it.pid, "SigCgt"))


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stop_ends_it_as_later_and_leaves_nothing(tmp_path: Path, number: signal.Signals, moment: float) -> None:
    with installed(tmp_path, start=False) as it:
        begin(it)
        time.sleep(moment)
        it.signal(number)
        assert it.ended() == 0
        if not moment:
            assert "spawned" not in it.text


@pytest.mark.wide
@pytest.mark.parametrize("number", STOPS)
def test_a_stop_while_the_local_sandbox_starts_leaves_none(tmp_path: Path, number: signal.Signals) -> None:
    with installed(tmp_path, start=False) as it:
        it.start(words=["--sandbox"])
        it.until(it.children)
        (sandbox,) = it.children()
        it.signal(number)
        assert it.ended() == 0
        assert sandbox.wait(5) in (0, None)


@pytest.mark.parametrize("number", OTHERS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_what_is_no_stop_does_not_keep_the_bot_from_serving(
    tmp_path: Path, number: signal.Signals, moment: float
) -> None:
    with installed(tmp_path, start=False) as it:
        begin(it)
        time.sleep(moment)
        it.signal(number)
        it.until(lambda: it.child()["role"] == "active" and it.status()["supervisor"]["state"] == "serving")
        if number is signal.SIGUSR2:
            it.until(lambda: "SIGUSR2" not in it.text or "re-executed: supervisor" in it.text)
        assert it.stop() == 0


def test_a_reload_that_is_asked_for_once_the_settings_are_read_follows_the_start(tmp_path: Path) -> None:
    """The newest settings are served, whether the start has read them or the reload has."""
    with installed(tmp_path, start=False) as it:
        it.start()
        # Alone: while a thread is made, the C library holds back all of them for a moment.
        it.until(lambda: signals(it.pid, "SigBlk") == {signal.SIGHUP})
        it.signal(signal.SIGHUP)
        it.serving(2)
        assert it.text.count("SIGHUP: reload") == 1
        assert it.stop() == 0


def test_a_child_inherits_no_blocked_and_no_ignored_signal(tmp_path: Path) -> None:
    with installed(tmp_path) as it:
        pid = it.child()["pid"]
        assert (signals(pid, "SigBlk"), signals(pid, "SigIgn")) == (set(), set())
        it.signal(signal.SIGHUP)
        it.serving(2)
        pid = it.child()["pid"]
        assert (signals(pid, "SigBlk"), signals(pid, "SigIgn")) == (set(), set())
        assert it.stop() == 0
