"""An error that a limit of the system is behind names that limit."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest

from bastion.supervisor.ceilings import with_ceiling


def test_an_error_without_a_limit_behind_it_stays_as_it_is() -> None:
    assert with_ceiling("no such file") == "no such file"


def test_too_many_open_files_name_how_many_there_may_be() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"x.toml: {os.strerror(errno.EMFILE)}"
    assert (
        with_ceiling(text) == f"{text} (a process may have {soft} files open: RLIMIT_NOFILE, LimitNOFILE=, ulimit -n)"
    )


def test_the_machines_limit_of_open_files_is_told_from_a_processs(tmp_path: Path) -> None:
    (tmp_path / "proc/sys/fs").mkdir(parents=True)
    (tmp_path / "proc/sys/fs/file-max").write_text("900\n")
    assert "(the machine may have 900 files open: fs.file-max)" in with_ceiling(
        os.strerror(errno.ENFILE), root=tmp_path
    )


@pytest.mark.parametrize("text", [os.strerror(errno.EAGAIN), "RuntimeError: can't start new thread"])
@pytest.mark.parametrize(("version", "line", "below"), [(2, "0::/a/b", ""), (1, "7:pids:/a/b", "pids")])
def test_processes_name_the_limits_of_the_user_and_of_each_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, version: int, line: str, below: str
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (40, 80))
    group = tmp_path / "sys/fs/cgroup" / below / "a"
    (group / "b").mkdir(parents=True)
    (group / "b" / "pids.max").write_text("max\n")
    (group / "pids.max").write_text("50\n")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"4:memory:/a\n{line}\n")
    shown = f"40 for uid {os.getuid()}, RLIMIT_NPROC; 50 in the cgroup, {group}/pids.max"
    assert with_ceiling(text, root=tmp_path) == f"{text} (the limit of processes and threads is reached: {shown})"
