"""As PID 1 the supervisor reaps what was left behind, and nothing that somebody waits for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_only_dead_strangers_are_reaped() -> None:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as living, subprocess.Popen(["/bin/true"]) as known:
        os.waitid(os.P_PID, known.pid, os.WEXITED | os.WNOWAIT)
        assert orphans.reap({known.pid}) == []
        assert orphans.reap({living.pid}) == [known.pid]
        assert living.poll() is None
