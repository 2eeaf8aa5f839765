"""Which limit of the system stands behind an error: files that may be open, processes, threads.

Knows how errors are worded and where Linux keeps its limits, below a root that tests can replace. It decides nothing.
"""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

_NO_THREAD = "can't start new thread"
"""What Python says where the system refuses a thread."""


def with_ceiling(text: str, *, root: Path = Path("/")) -> str:
    """Return the text of an error, and behind it the limit that has been reached, if it tells of one.

    It may be a child's: what limits it is inherited from us.
    """
    if os.strerror(errno.ENFILE) in text:
        return f"{text} (the machine may have {_said(root / 'proc/sys/fs/file-max')} files open: fs.file-max)"
    if os.strerror(errno.EMFILE) in text:
        return f"{text} ({_open_files()})"
    if os.strerror(errno.EAGAIN) in text or _NO_THREAD in text:
        return f"{text} ({_processes(root)})"
    return text


def _open_files() -> str:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return f"a process may have {soft} files open: RLIMIT_NOFILE, LimitNOFILE=, ulimit -n"


def _processes(root: Path) -> str:
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    limits = [] if soft == resource.RLIM_INFINITY else [f"{soft} for uid {os.getuid()}, RLIMIT_NPROC"]
    limits += [f"{allowed} in the cgroup, {file}" for file in _pids_files(root) if (allowed := _said(file)).isdigit()]
    return (
        f"the limit of processes and threads is reached: {'; '.join(limits) or 'kernel.pid_max or kernel.threads-max'}"
    )


def _pids_files(root: Path) -> list[Path]:
    """Return where the limits of our cgroup and those above it may be, in cgroup v1 and v2."""
    found = []
    for line in _said(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "pids"):
            base = root / "sys/fs/cgroup" / controllers
            here = base / path.lstrip("/")
            found += [each / "pids.max" for each in (here, *here.parents) if each.is_relative_to(base)]
    return found


def _said(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return "?"
