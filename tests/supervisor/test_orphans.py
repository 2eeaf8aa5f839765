"""As PID 1 the supervisor reaps what was left behind, and nothing that somebody waits for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bastion.supervisor import orphans

HERE = Path(__file__).parent


def test_a_process_that_is_not_pid_1_adopts_nobody() -> None:
    assert not orphans.adopts()


def test_orphans_are_reaped_and_every_child_keeps_its_exit_status(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "subreaper.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=HERE.parent.parent,
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent)},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "adopts": [False, True],
        "outcome": "succeeded",
        "killed": True,
        "drained": True,
        "ours": 5,
        "left": [],
    }


def test_orphans_are_ours_also_after_execve() -> None:
    adopts = "from bastion.supervisor import orphans; print(orphans.adopts())"
    source = (
        f"import os, sys; from bastion.supervisor import orphans; orphans.adopt(); "
        f"os.execv(sys.executable, [sys.executable, '-c', {adopts!r}])"
    )
    words = [sys.executable, "-c", source]
    assert subprocess.run(words, capture_output=True, text=True, timeout=50, check=True).stdout == "True\n"


@pytest.mark.parametrize("lists", [True, False], ids=["with", "without"])
def test_only_dead_strangers_are_reaped(monkeypatch: pytest.MonkeyPatch, *, lists: bool) -> None:
    """With and without the kernel's lists of a thread's children."""
    if not lists:
        monkeypatch.setattr(orphans, "_children", orphans._dead_children)
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as living, subprocess.Popen(["/bin/true"]) as known:
        os.waitid(os.P_PID, known.pid, os.WEXITED | os.WNOWAIT)
        assert orphans.reap({known.pid}) == []
        assert orphans.reap({living.pid}) == [known.pid]
        assert living.poll() is None
