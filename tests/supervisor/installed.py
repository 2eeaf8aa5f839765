"""A supervisor in a process of its own over fake bots, with a copy of its code that a test may change."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from supervising import FAKE, TOKEN

import bastion
from bastion.supervisor.control_client import Connection, NoSupervisorError, RefusedError, fetch_status

CODE = Path(bastion.__file__).parent
PATIENCE = 30.0


@dataclass
class Installed:
    """The running supervisor, what it logged, and its files."""

    directory: Path
    options: dict[str, Any]
    process: subprocess.Popen[str] | None = None
    lines: list[str] = field(default_factory=list)
    wrapped: bool = False
    _reader: threading.Thread | None = None

    @property
    def code(self) -> Path:
        """The package that the supervisor runs."""
        return self.directory / "lib" / "bastion" / "supervisor"

    @property
    def config(self) -> Path:
        return self.directory / "bastion.toml"

    @property
    def socket(self) -> Path:
        return Path(self.options["control__socket"])

    @property
    def pid(self) -> int:
        """The supervisor's pid, as seen from here."""
        assert self.process is not None
        if self.wrapped:
            (inner,) = psutil.Process(self.process.pid).children()
            return inner.pid
        return self.process.pid

    def children(self) -> list[psutil.Process]:
        """The supervisor's own children."""
        return psutil.Process(self.pid).children()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def configure(self, **changes: Any) -> None:
        """Write bastion.toml; keys are ``section__key``."""
        self.options.update(changes)
        sections: dict[str, list[str]] = {}
        for name, value in self.options.items():
            section, key = name.split("__")
            sections.setdefault(section, []).append(f"{key} = {json.dumps(value)}")
        self.config.write_text("\n".join(f"[{name}]\n" + "\n".join(lines) for name, lines in sections.items()) + "\n")

    def start(
        self,
        *,
        wrap: Sequence[str] = (),
        words: Sequence[str] = (),
        config: Path | None = None,
        output: int = subprocess.PIPE,
        redirected: str = "",
        **variables: str,
    ) -> None:
        """Start it; ``config`` as the command line names it. ``output`` is where both its streams go, for a reader
        other than this one; ``redirected`` is what a shell would be told of them.
        """
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("BASTION_", "DISCORD_"))}
        environ |= {
            "DISCORD_TOKEN": TOKEN,
            "PYTHONPATH": str(self.directory / "lib"),
            "RUNTIME_DIRECTORY": str(self.directory / "run"),
            "NOTIFY_SOCKET": "@nobody",
            **variables,
        }
        self.wrapped = bool(wrap)
        shell = ["sh", "-c", f'exec "$@" {redirected}', "sh"] if redirected else []
        self.process = subprocess.Popen(
            [
                *wrap,
                *shell,
                *(sys.executable, "-m", "bastion.supervisor", "run"),
                *("--config", str(config or self.config), *words),
            ],
            cwd=self.directory,
            env=environ,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if output == subprocess.PIPE:
            self._reader = threading.Thread(target=self._read, args=(self.process,))
            self._reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self.lines.append(line.rstrip())

    def status(self) -> dict[str, Any]:
        return fetch_status(self.socket)

    def child(self) -> dict[str, Any]:
        """The only child."""
        (child,) = self.status()["children"]
        return dict(child)

    def until(self, condition: Callable[[], object], *, seconds: float = PATIENCE) -> None:
        """Wait until something holds that no event tells of."""
        end = time.monotonic() + seconds
        while True:
            with suppress(NoSupervisorError, RefusedError, ValueError, LookupError):
                if condition():
                    return
            assert self.process is not None
            assert self.process.poll() is None, f"the supervisor ended with {self.process.returncode}\n{self.text}"
            assert time.monotonic() < end, self.text
            time.sleep(0.01)

    def serving(self, generation: int) -> None:
        self.until(lambda: (self.child()["generation"], self.child()["role"]) == (generation, "active"))

    def logged(self, text: str, *, times: int = 1) -> None:
        self.until(lambda: self.text.count(text) >= times)

    def signal(self, *numbers: signal.Signals) -> None:
        for number in numbers:
            os.kill(self.pid, number)

    def reexecute(self) -> None:
        """Send SIGUSR2 and wait until a bot of the new program's has taken over, and the old one has left."""
        before = self.text.count("re-execution's reload succeeded")
        self.signal(signal.SIGUSR2)
        self.logged("re-execution's reload succeeded", times=before + 1)

    def reload(self) -> dict[str, Any]:
        with Connection(self.socket) as connection:
            for answer in connection.ask("reload"):
                if answer["type"] == "outcome":
                    return dict(answer["outcome"])
        raise AssertionError(self.text)

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end; nothing may be left."""
        assert self.process is not None
        code = self.process.wait(PATIENCE)
        if self._reader is not None:
            self._reader.join(PATIENCE)
        assert "Traceback" not in self.text, self.text
        assert TOKEN not in self.text
        assert not self.socket.exists()
        assert list((self.directory / "run").iterdir()) == []
        return code

    def destroy(self) -> None:
        if self.process is not None and self.process.poll() is None:
            for process in psutil.Process(self.process.pid).children(recursive=True):
                process.kill()
            self.process.kill()
            self.process.wait()
        if self._reader is not None:
            self._reader.join()
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def installed(directory: Path, *args: str, start: bool = True, **options: Any) -> Iterator[Installed]:
    """Copy the supervisor's code and start it over a fake bot with these arguments."""
    for name in ("lib", "run", "release"):
        (directory / name).mkdir()
    (directory / "run").chmod(0o700)
    shutil.copytree(CODE, directory / "lib" / "bastion")
    python = directory / "python"
    python.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} -I -S {FAKE} "$@"\n')  # not our launcher
    python.chmod(0o755)
    it = Installed(directory, {})
    it.configure(
        **{
            "bot__directory": "release",
            "bot__python": str(python),
            "bot__args": list(args),
            "discord__api_url": "http://127.0.0.1:1/api",
            "discord__identify_window": 0.02,
            "handoff__drain_timeout": 5,
            "handoff__probation": 0,
            "restart__backoff_first": 0.05,
            "control__socket": str(directory / "s.sock"),
            "health__listen": "",
        }
        | options
    )
    try:
        if start:
            it.start()
            it.serving(1)
        yield it
    finally:
        it.destroy()


def command(directory: Path, *words: str, **environ: str) -> tuple[int, str]:
    """Run a command line; return its exit code and what it said."""
    ended = subprocess.run(
        [sys.executable, "-m", "bastion.supervisor", *words],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "DISCORD_TOKEN": "a.b.c", "RUNTIME_DIRECTORY": str(directory)} | environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stdout + ended.stderr
