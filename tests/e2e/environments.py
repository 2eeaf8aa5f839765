"""Virtual environments as users have them: with a wheel of this checkout, and packages of their own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKED = ("src", "bot", "wire", "supervisor", "sandbox", "pyproject.toml", "setup.py", "README.md", "LICENSE")
"""What a wheel is made of."""
DEPENDENCIES = sysconfig.get_path("purelib")
BASE = Path(sys.base_prefix) / "bin" / "python3"
"""The Python that has pip: environments are made without."""


def run(*words: str | Path, cwd: Path, environ: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with an environment of few words."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    own = {name: value for name, value in os.environ.items() if name in kept or name.startswith("PIP_")}
    return subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=own | dict(environ or {}),
        capture_output=True,
        text=True,
        check=False,
    )


def must(*words: str | Path, cwd: Path, environ: Mapping[str, str] | None = None) -> str:
    """Run a command that has to succeed; return its standard output."""
    done = run(*words, cwd=cwd, environ=environ)
    assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def sources(directory: Path) -> Path:
    """Copy what a wheel is made of; links stay links."""
    directory.mkdir(parents=True)
    left_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in PACKED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, directory / name, symlinks=True, ignore=left_out)
        else:
            shutil.copy(ROOT / name, directory)
    return directory


def wheel_of(source: Path, directory: Path) -> Path:
    """Build a wheel from a directory or an sdist, as pip does when it installs that."""
    must(BASE, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", directory, source, cwd=source.parent)
    (wheel,) = directory.glob("*.whl")
    return wheel


def fingerprints(folder: Path) -> dict[str, str]:
    """Return a digest of each file, to tell whether somebody has touched one."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix != ".pyc")
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    directory: Path

    @property
    def bin(self) -> Path:
        return self.directory / "bin"

    @property
    def python(self) -> Path:
        return self.bin / "python"

    @property
    def packages(self) -> Path:
        """Where its packages are."""
        (found,) = self.directory.glob("lib/python3.*/site-packages")
        return found

    def install(self, *what: str | Path) -> None:
        """Install what pip understands, without dependencies."""
        self.pip("install", "--no-deps", *what)

    def pip(self, *words: str | Path) -> None:
        must(BASE, "-m", "pip", "--python", self.python, *words[:1], "-q", *words[1:], cwd=self.directory)

    def run(self, program: str) -> subprocess.CompletedProcess[str]:
        """Run a program of one string."""
        return run(self.python, "-c", program, cwd=self.directory)


def environment(directory: Path, packages: Sequence[str | Path] = ()) -> Environment:
    """Make an environment that finds the dependencies where these tests have theirs; install packages in this order."""
    must(BASE, "-m", "venv", "--without-pip", directory, cwd=directory.parent)
    made = Environment(directory)
    (made.packages / "zz_dependencies.pth").write_text(f"{DEPENDENCIES}\n")
    for package in packages:
        made.install(package)
    return made
