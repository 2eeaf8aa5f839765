"""Whether there is memory for a second bot beside the active one.

Knows the memory controllers of cgroup v1 and v2 and /proc, below a root that tests can replace. It looks and reckons;
what follows from it is the engine's. What cannot be read limits nothing: a guess must not stop a reload.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_FILES = {
    "cgroup2": ("memory.max", "memory.current", "inactive_file"),
    "cgroup": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By file system type: limit, use, and the line of memory.stat that names the page cache which goes first."""
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """One limit on memory and what is used of it, both in bytes. ``source`` says whose limit it is."""

    limit: int
    used: int
    source: str

    @property
    def free(self) -> int:
        """Return the bytes that are left."""
        return max(0, self.limit - self.used)


def shortage(*, pid: int, factor: float, leaving: int | None = None, root: Path = Path("/")) -> str | None:
    """Say why no second process like ``pid`` fits into memory, or None.

    ``factor`` is `handoff.headroom`. ``leaving`` is a process that will be gone by then.
    """
    size, room = resident(pid, root=root), tightest(root=root)
    if size is None or room is None:
        return None
    needed = int(size * factor)
    free = room.free + ((resident(leaving, root=root) or 0) if leaving is not None else 0)
    if needed <= free:
        return None
    return (
        f"too little memory for a second bot: it needs {human(needed)} (the active one's {human(size)} x "
        f"handoff.headroom {factor:g}), but {human(room.used)} of {human(room.limit)} are used ({room.source}). "
        "Raise the limit or free memory"
    )


def tightest(*, root: Path = Path("/")) -> Room | None:
    """Return the limit that leaves this process the least: of its cgroup, of one above it, or of the machine."""
    return min([*_cgroups(root), *_machine(root)], key=lambda room: room.free, default=None)


def resident(pid: int, *, root: Path = Path("/")) -> int | None:
    """Return a process's resident bytes, None if it is gone."""
    try:
        return int((root / "proc" / str(pid) / "statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def oom_kills(*, root: Path = Path("/")) -> int:
    """Return how many processes of our cgroup the kernel has killed for want of memory; 0 if that cannot be read."""
    return max((_table(file).get("oom_kill", 0) for file in _oom_files(root)), default=0)


def suspicion(before: int, *, root: Path = Path("/")) -> str:
    """Say what may be behind a SIGKILL that nobody here has sent; ``before`` is what `oom_kills` said earlier."""
    room = tightest(root=root)
    figures = f": {human(room.used)} of {human(room.limit)} are used ({room.source})" if room else ""
    if oom_kills(root=root) > before:
        return f", by the kernel for want of memory{figures}"
    return f", which nobody here has sent: perhaps the kernel, for want of memory{figures}"


def _oom_files(root: Path) -> Iterator[Path]:
    for kind, mount, top in _mounts(root):
        path = _our_cgroup(root, kind)
        if path is not None:
            here = _below(root / mount.lstrip("/"), path, top)
            yield here / ("memory.events" if kind == "cgroup2" else "memory.oom_control")


def human(size: int) -> str:
    """Return a number of bytes as people say it."""
    value, unit = float(size), _UNITS[0]
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"


def _machine(root: Path) -> Iterator[Room]:
    values = _table(root / "proc" / "meminfo")
    total, available = values.get("MemTotal"), values.get("MemAvailable")
    if total is not None and available is not None:
        yield Room(limit=total * 1024, used=(total - available) * 1024, source="the machine's memory")


def _cgroups(root: Path) -> Iterator[Room]:
    """Yield the limit of each cgroup from ours up to the highest that can be seen from here."""
    for kind, mount, top in _mounts(root):
        limit_name, used_name, cache_name = _FILES[kind]
        path = _our_cgroup(root, kind)
        if path is None:
            continue
        base = root / mount.lstrip("/")
        here = _below(base, path, top)
        while True:
            limit, used = _number(here / limit_name), _number(here / used_name)
            if limit is not None and used is not None:
                cache = _table(here / "memory.stat").get(cache_name, 0)
                name = f"/{here.relative_to(root)}/{limit_name}"
                yield Room(limit=limit, used=max(0, used - cache), source=name)
            if here == base:
                break
            here = here.parent


def _mounts(root: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (file system type, mount point, the cgroup that is mounted there) of each memory controller."""
    for line in _lines(root / "proc" / "self" / "mountinfo"):
        before, _, after = line.partition(" - ")
        fields, (kind, *rest) = before.split(), after.split() or [""]
        if kind not in _FILES or len(fields) < 5 or (kind == "cgroup" and "memory" not in rest[-1].split(",")):
            continue
        yield kind, _unescaped(fields[4]), _unescaped(fields[3])


def _our_cgroup(root: Path, kind: str) -> str | None:
    for line in _lines(root / "proc" / "self" / "cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (kind == "cgroup2" and number == "0") or (kind == "cgroup" and "memory" in controllers.split(",")):
            return path
    return None


def _below(base: Path, path: str, top: str) -> Path:
    """Return our cgroup's directory. In a container only the part below what is mounted can be seen."""
    try:
        relative = PurePosixPath(path).relative_to(top)
    except ValueError:
        return base
    found = base / relative
    return found if ".." not in relative.parts and found.is_dir() else base


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _number(path: Path) -> int | None:
    """Return the number in a file; None for "max", which is none."""
    try:
        return int(path.read_bytes())
    except (OSError, ValueError):
        return None


def _table(path: Path) -> dict[str, int]:
    """Return lines of a name and a number."""
    table = {}
    for line in _lines(path):
        name, *values = line.split()
        if values and values[0].isdigit():
            table[name.rstrip(":")] = int(values[0])
    return table


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_bytes().decode(errors="replace").splitlines() if line.strip()]
    except OSError:
        return []
