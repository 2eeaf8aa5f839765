"""Directories that are full or cannot be written to. What needs a mount is skipped where nothing can be mounted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def mounted(where: Path, *words: str) -> Iterator[None]:
    """Mount something; skip the test where that cannot be done."""
    if os.geteuid():
        pytest.skip("only root may mount a small file system, and this test needs one")
    done = subprocess.run(["mount", *words, str(where)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)  # files may still be open there


def small(where: Path, size: str, *, mode: str = "1777") -> AbstractContextManager[None]:
    """Put a file system on memory there that has no more room than ``size``, for instance "2m"."""
    return mounted(where, "-t", "tmpfs", "-o", f"size={size},mode={mode}", "none")


def grow(where: Path, size: str) -> None:
    """Give a small file system another size."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(where)], check=True)


@contextmanager
def full(directory: Path) -> Iterator[None]:
    """Leave no room in a directory, which should be a small file system's."""
    filler = directory / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    yield
    filler.unlink()


@contextmanager
def not_writable(directory: Path) -> Iterator[None]:
    """Keep everybody from writing to a directory: root, whom no mode keeps out, by a mount."""
    if os.geteuid():
        directory.chmod(0o500)
        try:
            yield
        finally:
            directory.chmod(0o700)
        return
    with mounted(directory, "--bind", str(directory)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(directory)], check=True)
        yield
