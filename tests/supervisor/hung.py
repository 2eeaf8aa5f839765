"""A directory on a disk that does not answer: whoever looks into it waits until the disk is mended."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

FUSE = Path("/dev/fuse")
_DETACH = 2


@dataclass
class Disk:
    """What hangs, and its end: all who wait are told an error."""

    path: Path
    _device: int

    def mend(self) -> None:
        """Take the disk away; what is below it is to be seen again."""
        if self._device >= 0:
            ctypes.CDLL(None).umount2(os.fsencode(self.path), _DETACH)
            os.close(self._device)
            self._device = -1


@contextmanager
def hung(path: Path) -> Iterator[Disk]:
    """Have everything below a directory hang; a file system in user space of which nobody is the server."""
    if not os.access(FUSE, os.R_OK | os.W_OK):
        pytest.skip(f"{FUSE} cannot be opened, and no other disk hangs when it is told to")
    disk = Disk(path, os.open(FUSE, os.O_RDWR | os.O_CLOEXEC))
    options = f"fd={disk._device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    try:
        if ctypes.CDLL(None, use_errno=True).mount(b"hung", os.fsencode(path), b"fuse", 0, options.encode()):
            pytest.skip(f"nothing can be mounted here: {os.strerror(ctypes.get_errno())}")
        yield disk
    finally:
        with suppress(OSError):
            disk.mend()
