"""A second Python for the programs: the newest of this machine, in a virtual environment with the product.

Places: BASTION_NEWEST_PYTHON, PATH, and pyenv's directory. All workers of a test run share one environment.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "build", "*.egg-info")
OPTIONAL = ("uvloop",)
"""Packages of some programs. Programs whose package cannot be installed are skipped."""


def newest() -> Path | None:
    """The newest Python of this machine, or None if the tests' own is the newest."""
    found = {version: python for python in _candidates() if (version := _version(python)) > sys.version_info[:3]}
    return found[max(found)] if found else None


def _candidates() -> list[Path]:
    if named := os.environ.get("BASTION_NEWEST_PYTHON"):
        return [Path(named)]
    on_path = [shutil.which(f"python3.{minor}") for minor in range(sys.version_info.minor + 1, 30)]
    of_pyenv = Path("~/.pyenv/versions").expanduser().glob("3.*/bin/python3")
    return [*of_pyenv, *(Path(python) for python in on_path if python)]


def _version(python: Path) -> tuple[int, ...]:
    """The version of an interpreter; empty for a pre-release, and for an interpreter that does not start."""
    asked = "import sys; print(*sys.version_info[:3], sys.version_info.releaselevel)"
    ran = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    *numbers, level = ran.stdout.split() or ["", ""]
    return tuple(int(number) for number in numbers) if ran.returncode == 0 and level == "final" else ()


def environment(python: Path, directory: Path) -> Path:
    """Make the environment, unless another worker has made the environment already; return the interpreter.

    Raises:
        subprocess.CalledProcessError: pip cannot install the product for this Python.
    """
    directory.mkdir(exist_ok=True)
    interpreter = directory / "venv" / "bin" / "python"
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = directory / "done"
        if not done.exists():
            _make(python, directory)
            done.touch()
    return interpreter


def _make(python: Path, directory: Path) -> None:
    venv = directory / "venv"
    shutil.copytree(REPOSITORY, directory / "product", ignore=NOT_COPIED, symlinks=True)
    subprocess.run([python, "-m", "venv", "--clear", "--without-pip", venv], check=True)
    pip = [str(python), "-m", "pip", "-q", "--python", str(venv / "bin" / "python"), "install"]
    subprocess.run([*pip, str(directory / "product")], check=True)
    for name in OPTIONAL:
        subprocess.run([*pip, name], check=False)
