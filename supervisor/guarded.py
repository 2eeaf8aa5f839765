"""Running a command within a time limit, and ending every process that the command has started.

Knows the guard's command line and exit codes. Knows nothing about the command.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bastion.supervisor import guard

LAST_BYTES = 8 * 1024
"""Bytes of stderr that are kept: imported code may print without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a guarded command ended."""

    code: int
    """Its exit code, 128 and more for a signal, or one of the guard's."""
    out: str
    last: str
    """The last bytes of stderr."""

    @property
    def timed_out(self) -> bool:
        """Whether the guard ended the command at the time limit."""
        return self.code == guard.TIMED_OUT

    @property
    def unstarted(self) -> bool:
        """Whether the command could not be started; ``last`` has the reason."""
        return self.code == guard.UNSTARTED


def run(command: Sequence[str], *, timeout: float, environ: Mapping[str, str], directory: Path) -> Done:
    """Run a command for at most ``timeout`` seconds, without input, in a session of its own.

    The command and every process of the command end, also if this process is killed meanwhile.
    """
    theirs, ours = os.pipe()
    guarded = [sys.executable, "-I", "-S", guard.__file__, str(theirs), str(timeout), *command]
    with (
        os.fdopen(theirs, "rb"),
        subprocess.Popen(
            guarded,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environ),
            cwd=directory,
            pass_fds=[theirs],
            start_new_session=True,
        ) as process,
        os.fdopen(ours, "wb"),  # closed first: the guard then ends a command that still runs
    ):
        return _followed(process)


def _followed(process: subprocess.Popen[bytes]) -> Done:
    assert process.stdout is not None
    assert process.stderr is not None
    last: list[bytes] = [b""]
    reader = threading.Thread(target=_keep_last, args=(process.stderr, last), daemon=True)
    reader.start()
    out = process.stdout.read()
    code = process.wait()
    reader.join()
    return Done(code=code, out=out.decode(errors="replace"), last=last[0].decode(errors="replace").strip())


def _keep_last(stream: IO[bytes], last: list[bytes]) -> None:
    while chunk := os.read(stream.fileno(), 64 * 1024):
        last[0] = (last[0] + chunk)[-LAST_BYTES:]
