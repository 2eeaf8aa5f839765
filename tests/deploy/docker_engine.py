"""A Docker engine of the tests' own: its own socket, data and cgroup, and nothing left of it at the end.

It needs no network bridge and no overlay file system (host networking, the vfs driver), so it runs where a container
is all that there is. The base image is made of Debian's packages; Python's come from a directory of wheels.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
BASE = "bastion-test/base:latest"
PRODUCT = "bastion-test/bastion:latest"
SUITE = "bookworm"
PACKAGES = ("systemd-sysv", "dbus", "python3", "python3-venv", "procps")
PYTHON = "3.11"
"""Debian bookworm's, for which wheels are fetched."""
SOURCES = (
    "src",
    "wire",
    "bot",
    "supervisor",
    "sandbox",
    "docker",
    "Dockerfile",
    ".dockerignore",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
NEEDED = ("setpriv", "dockerd", "docker", "docker-compose", "debootstrap", "runc")
START_SECONDS = 60.0
STOP_SECONDS = 30.0
LIMITS = {"debootstrap": 600, "docker": 600, "pip": 300}
_UNNEEDED = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")


class NoEngineError(Exception):
    """There can be none here; the message says why."""


@dataclass(frozen=True)
class Ended:
    """A command that has ended; ``out`` is all that it said."""

    code: int
    out: str


class Docker:
    """The command line of one engine. ``restart`` stops and starts it, as a reboot does; None: it is not ours."""

    def __init__(self, socket: Path, *, restart: Callable[[], None] | None = None) -> None:
        self.host = f"unix://{socket}"
        self.restart = restart

    def run(self, *words: str, timeout: float = 120.0) -> Ended:
        """Run a command to its end."""
        done = subprocess.run(
            ["docker", "--host", self.host, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
            env={**os.environ, "DOCKER_BUILDKIT": "0", "HOME": "/nonexistent"},
        )
        return Ended(done.returncode, done.stdout.decode(errors="replace"))

    def must(self, *words: str, timeout: float = 120.0) -> str:
        """Run a command that succeeds; return what it said."""
        ended = self.run(*words, timeout=timeout)
        assert ended.code == 0, f"docker {' '.join(words)}: {ended.code}\n{ended.out}"
        return ended.out


def why_not() -> str | None:
    """Say why no engine can run here, or None."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        return "these tests share one engine: run them with -n0"
    if os.geteuid() != 0:
        return "it takes root to start one"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    return f"{', '.join(missing)} not installed (Debian: docker.io, docker-compose, debootstrap)" if missing else None


@contextmanager
def docker_engine() -> Iterator[Docker]:
    """Run an engine with the images `BASE` and `PRODUCT`. Raises `NoEngineError`.

    For work on these tests $BASTION_DEPLOY_SOCKET names an engine that runs already and has the images; it stays.
    """
    if there := os.environ.get("BASTION_DEPLOY_SOCKET"):
        yield Docker(Path(there))
        return
    if reason := why_not():
        raise NoEngineError(reason)
    directory = Path(tempfile.mkdtemp(prefix="bastion-engine-", dir="/var/tmp"))
    try:
        with _dockerd(directory) as docker, _cache() as cache:
            _import_base(docker, cache)
            _build_product(docker, cache, directory / "context")
            yield docker
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def _dockerd(directory: Path) -> Iterator[Docker]:
    group = f"bastion-test-{os.getpid()}"
    command = [
        "dockerd",
        "--storage-driver",
        "vfs",
        "--iptables=false",
        "--bridge=none",
        "--cgroup-parent",
        f"/{group}",
    ]
    for option, name in (("data-root", "data"), ("exec-root", "exec"), ("pidfile", "pid")):
        command += [f"--{option}", str(directory / name)]
    command += ["--host", f"unix://{directory}/socket"]
    daemon = _Daemon(command, directory)
    docker = Docker(directory / "socket", restart=daemon.restart)
    try:
        daemon.start()
        yield docker
    finally:
        if daemon.runs:
            with suppress(AssertionError, subprocess.TimeoutExpired):
                if there := docker.must("ps", "--all", "--quiet").split():
                    docker.must("rm", "--force", "--volumes", *there)
        daemon.stop()
        # The engine leaves the name of its network behind, as a mount.
        subprocess.run(["umount", str(directory / "exec" / "netns" / "default")], capture_output=True, check=False)
        _remove_cgroups(group)


class _Daemon:
    """The engine's process, which may be another one after a restart."""

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        self._command = command
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it answers. Raises `NoEngineError`."""
        log = self._directory / "log"
        with log.open("ab") as said:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
            )
        _await_start(Docker(self._directory / "socket"), self._process, log)

    def stop(self) -> None:
        """Stop it, its containerd as well. It stops its containers first."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """Stop and start it, as a reboot of the machine does."""
        self.stop()
        self.start()


def _await_start(docker: Docker, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while docker.run("version").code != 0:
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace").strip().splitlines()
            raise NoEngineError(f"dockerd does not start here: {said[-1] if said else 'it said nothing'}")
        time.sleep(0.1)


def _remove_cgroups(name: str) -> None:
    """Remove what containers left in every hierarchy, the innermost first; a group with processes stays."""
    for root in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*")):
        group = root / name
        if group.is_dir():
            inner = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
            for path in (*inner, group):
                with suppress(OSError):
                    path.rmdir()


@contextmanager
def _cache() -> Iterator[Path]:
    """Give the directory for what takes long to make: of $BASTION_DEPLOY_CACHE, which stays, or one that goes."""
    if kept := os.environ.get("BASTION_DEPLOY_CACHE"):
        Path(kept).mkdir(parents=True, exist_ok=True)
        yield Path(kept)
        return
    directory = Path(tempfile.mkdtemp(prefix="bastion-cache-", dir="/var/tmp"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _import_base(docker: Docker, cache: Path) -> None:
    archive = cache / "base.tar"
    if not archive.exists():
        root = cache / "root"
        shutil.rmtree(root, ignore_errors=True)
        _command("debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(root))
        for path in _UNNEEDED:
            shutil.rmtree(root / path, ignore_errors=True)
        part = archive.with_suffix(".part")
        with tarfile.open(part, "w") as tar:
            tar.add(root, arcname=".")
        shutil.rmtree(root)
        part.rename(archive)
    docker.must("import", str(archive), BASE)


def _build_product(docker: Docker, cache: Path, context: Path) -> None:
    """Build the image from the Dockerfile as a user does, but for where packages and base come from."""
    wheels = cache / "wheels"
    if not wheels.exists():
        _fetch_wheels(wheels)
    context.mkdir()
    for name in SOURCES:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, context / name)
    shutil.copytree(wheels, context / "docker" / "wheels")
    words = ["build", "--network", "host", "--tag", PRODUCT, "--build-arg", f"BASE={BASE}"]
    words += ["--build-arg", "PIP_NO_INDEX=1", "--build-arg", "PIP_FIND_LINKS=/src/docker/wheels"]
    docker.must(*words, str(context), timeout=LIMITS["docker"])


def _fetch_wheels(wheels: Path) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    part = wheels.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    words = ["-m", "pip", "download", "--quiet", "--dest", str(part), "--only-binary=:all:"]
    words += ["--python-version", PYTHON, "--implementation", "cp"]
    for libc in ("manylinux2014", "manylinux_2_17", "manylinux_2_28"):
        words += ["--platform", f"{libc}_{platform.machine()}"]
    _command("python3", *words, *project["project"]["dependencies"], *project["build-system"]["requires"], "wheel")
    part.rename(wheels)


def _command(name: str, *words: str) -> None:
    done = subprocess.run(
        [name, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LIMITS.get(name, LIMITS["pip"]),
        check=False,
    )
    if done.returncode:
        last = done.stdout.decode(errors="replace").strip().splitlines()[-3:]
        raise NoEngineError(f"{name} failed ({done.returncode}): {' / '.join(last)}")
