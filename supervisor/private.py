"""Directories in which nobody else can put, replace or lock anything, and who is at the other end of a socket.

Knows owners, modes, symlinks and peer credentials. Imports the standard library only: every command needs it.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_MOST_LINKS = 40
"""As many symlinks as the kernel follows on the way to a file."""


class UnsafeError(OSError):
    """Another user could tamper with a directory. The text names the directory, and says what to do."""


def danger(path: Path, *, believed: frozenset[int] = frozenset()) -> str | None:
    """Say how a stranger could replace ``path``, None if no stranger can. Raises OSError.

    Strangers are all users but root, our own user and ``believed``. In a directory where every user may make files, the
    ``believed`` are strangers too.
    """
    shared, trusted = False, {0, os.getuid()} | _outsiders()
    for step, found in _steps(path):
        if found.st_uid not in trusted and (shared or found.st_uid not in believed):
            return f"{step} belongs to uid {found.st_uid}"
        if not stat.S_ISDIR(found.st_mode):
            continue
        shared = others_write(found)
        if shared and not found.st_mode & stat.S_ISVTX:
            return f"other users can replace what is in {step} (mode {stat.S_IMODE(found.st_mode):04o})"
    return None


def fake(path: Path) -> str | None:
    """Say why a stranger may answer at the socket ``path``, None if only the directory's owner, root or we can.

    None also if the path cannot be looked at: connecting then fails with the reason.
    """
    with suppress(OSError):
        return danger(path, believed=frozenset({path.parent.stat().st_uid}))
    return None


def impostor(peer: socket.socket, path: Path) -> str | None:
    """Say why the process that listens at the socket ``path`` is a stranger's, None if it is the socket owner's."""
    _, uid, _ = credentials(peer)
    with suppress(OSError):
        owner = path.stat().st_uid
        if uid not in (0, os.getuid(), owner):
            return f"a process of uid {uid} listens there, and the socket belongs to uid {owner}"
    return None


def credentials(peer: socket.socket) -> tuple[int, int, int]:
    """Return (pid, uid, gid) of the process at the other end of a Unix socket, as the kernel noted them."""
    pid, uid, gid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return pid, uid, gid


def own_directory(directory: Path) -> Path:
    """Return ``directory`` if no other user may enter it, else the path of our subdirectory, which may not exist yet.

    All supervisors of this user find the same path. Makes nothing. Raises `UnsafeError`, other OSErrors.
    """
    if problem := danger(directory):
        raise UnsafeError(f"{problem}: choose a directory in which only you and root can replace files")
    real = directory.resolve(strict=True)
    found = real.stat()
    if found.st_uid == os.getuid() and not found.st_mode & 0o077:
        return real
    own = real / f"bastion-{os.getuid()}"
    if problem := _not_ours(own):
        raise UnsafeError(problem)
    return own


def make(own: Path) -> None:
    """Make the directory that `own_directory` has returned, unless it exists. Raises OSError."""
    try:
        own.mkdir(mode=0o700)
    except FileExistsError:
        if problem := _not_ours(own):
            raise UnsafeError(problem) from None


def others_write(found: os.stat_result) -> bool:
    """Say whether the mode lets others write than the owner. Root's group, and the owner's own one, are no others."""
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and found.st_gid != 0 and not _is_own_group(found.st_gid, found.st_uid)


def _not_ours(directory: Path) -> str | None:
    try:
        found = directory.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISDIR(found.st_mode):
        return f"{directory} is not a directory: remove it"
    if found.st_uid != os.getuid():
        return f"{directory} belongs to uid {found.st_uid}: remove it, or choose another place"
    if found.st_mode & 0o077:
        return f"{directory} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}): chmod 700 it"
    return None


def _steps(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield every directory and every symlink on the way to a path, as the kernel goes it."""
    here, rest, links = Path("/"), list(path.parts), 0
    while rest:
        part = rest.pop(0)
        step = here.parent if part == ".." else here / part  # "/" begins anew
        found = step.lstat()
        yield step, found
        if not stat.S_ISLNK(found.st_mode):
            here = step
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        rest = [*step.readlink().parts, *rest]


def _is_own_group(gid: int, uid: int) -> bool:
    """Say whether a user is alone in a group: the group bears the user's name, and has no other member."""
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    return (user.pw_gid, user.pw_name) == (gid, group.gr_name) and {*group.gr_mem} <= {user.pw_name}


def _outsiders() -> frozenset[int]:
    """Return the uid that stands for the machine's root in a user namespace without root (a rootless container)."""
    try:
        mapped = [line.split() for line in Path("/proc/self/uid_map").read_text().splitlines()]
        overflow = int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return frozenset()
    return frozenset() if any(outside == "0" for _, outside, _ in mapped) else frozenset({overflow})
