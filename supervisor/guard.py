"""A small program that runs a command and ends all its processes: ``python -I -S guard.py PIPE SECONDS COMMAND``.

The guard ends the command when the time is over, or when the supervisor's end of the pipe is closed, as by a SIGKILL.
Then, and after a command that ended by itself, the guard kills all processes of the command. A process that has left
group and session is found too: orphans become children of the guard (prctl(2), PR_SET_CHILD_SUBREAPER). Uses the
standard library alone; knows nothing of bots.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

TIMED_OUT = 124
"""Exit code at the time limit; otherwise the command's own, or 128 and the number of a signal."""
UNSTARTED = 127
"""Exit code when the command could not be started; the reason is on stderr."""
_PR_SET_CHILD_SUBREAPER = 36


def main(argv: Sequence[str]) -> int:
    """Run the command and return the exit code."""
    pipe, seconds, command = int(argv[0]), float(argv[1]), argv[2:]
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        process = subprocess.Popen(command, start_new_session=True)
    except OSError as error:
        print(error.strerror or error, file=sys.stderr)
        return UNSTARTED
    ended, tell = os.pipe()
    threading.Thread(target=_tell_end, args=(process.pid, tell), daemon=True).start()
    ready, _, _ = select.select([pipe, ended], [], [], seconds)
    code = process.wait() if ended in ready else TIMED_OUT
    end_all()
    return code if code >= 0 else 128 - code


def _tell_end(pid: int, tell: int) -> None:
    # Leaves it to be waited for: `end_all` must be the one that learns of each death, for a death brings new children.
    with suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    os.write(tell, b".")


def end_all() -> None:
    """Kill children until there are none. The children of a killed one become ours, and are next."""
    while True:
        for pid in _children():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> Iterator[int]:
    us = str(os.getpid())
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has gone meanwhile
                # "pid (name) state ppid ...": the name may hold anything, also blanks and brackets.
                if (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1] == us:
                    yield int(entry.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
