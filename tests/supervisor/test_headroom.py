"""How much memory is left is read from cgroup v1, v2 and /proc, here in trees of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bastion.supervisor import headroom

GIB = 1024**3
MIB = 1024**2
PID, SPARE = 4242, 4243


class Tree:
    """A file system with a machine of 16 GiB, 12 of them free, and a bot of 1 GiB."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.machine(total=16 * GIB, available=12 * GIB)
        self.process(PID, GIB)

    def write(self, path: str, text: str | int) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def machine(self, *, total: int, available: int) -> None:
        self.write("proc/meminfo", f"MemTotal: {total // 1024} kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB")

    def process(self, pid: int, size: int) -> None:
        self.write(f"proc/{pid}/statm", f"999999 {size // os.sysconf('SC_PAGE_SIZE')} 5 1 0 7 0")

    def v2(self, path: str, *, mounted: str = "/", at: str = "/sys/fs/cgroup") -> None:
        self.write("proc/self/cgroup", f"0::{path}")
        self.write(
            "proc/self/mountinfo",
            f"29 23 0:26 {mounted} {at} rw,nosuid shared:4 - cgroup2 cgroup2 rw\n30 23 8:1 / / rw - ext4 /dev/sda1 rw",
        )

    def v1(self, path: str, *, mounted: str = "/") -> None:
        self.write("proc/self/cgroup", f"9:cpu,cpuacct:/elsewhere\n4:memory:{path}\n0::/")
        self.write(
            "proc/self/mountinfo",
            "30 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
            f"35 31 0:32 {mounted} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
        )

    def v2_group(self, path: str, *, limit: int | str, used: int, cache: int = 0) -> None:
        self.write(f"sys/fs/cgroup{path}/memory.max", limit)
        self.write(f"sys/fs/cgroup{path}/memory.current", used)
        self.write(f"sys/fs/cgroup{path}/memory.stat", f"anon 5\ninactive_file {cache}\nactive_file 9")

    def v1_group(self, path: str, *, limit: int, used: int, cache: int = 0) -> None:
        self.write(f"sys/fs/cgroup/memory{path}/memory.limit_in_bytes", limit)
        self.write(f"sys/fs/cgroup/memory{path}/memory.usage_in_bytes", used)
        self.write(f"sys/fs/cgroup/memory{path}/memory.stat", f"inactive_file 1\ntotal_inactive_file {cache}")

    def tightest(self) -> tuple[int, int, str]:
        room = headroom.tightest(root=self.root)
        assert room is not None
        return room.limit, room.used, room.source

    def shortage(self, *, factor: float = 1.2, leaving: int | None = None) -> str | None:
        return headroom.shortage(pid=PID, factor=factor, leaving=leaving, root=self.root)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_without_cgroups_the_machine_is_the_limit(tree: Tree) -> None:
    assert tree.tightest() == (16 * GIB, 4 * GIB, "the machine's memory")
    assert tree.shortage() is None


def test_of_our_cgroup_and_those_above_it_the_one_with_the_least_room_counts(tree: Tree) -> None:
    tree.v2("/system.slice/bot.service")
    tree.v2_group("", limit="max", used=0)
    tree.v2_group("/system.slice", limit=3 * GIB, used=2 * GIB)
    tree.v2_group("/system.slice/bot.service", limit=4 * GIB, used=GIB)
    assert tree.tightest() == (3 * GIB, 2 * GIB, "/sys/fs/cgroup/system.slice/memory.max")
    tree.v2_group("/system.slice/bot.service", limit=2 * GIB, used=GIB + 1)
    assert tree.tightest()[2] == "/sys/fs/cgroup/system.slice/bot.service/memory.max"


def test_a_machine_that_is_fuller_than_the_cgroup_is_the_limit(tree: Tree) -> None:
    tree.v2("/bot")
    tree.v2_group("/bot", limit=8 * GIB, used=GIB)
    tree.machine(total=16 * GIB, available=GIB)
    assert tree.tightest()[2] == "the machine's memory"


def test_cache_that_is_not_used_counts_as_free(tree: Tree) -> None:
    tree.v2("/bot")
    tree.v2_group("/bot", limit=2 * GIB, used=2 * GIB, cache=GIB)
    assert tree.tightest()[1] == GIB


def test_in_a_container_our_cgroup_is_the_root_of_what_is_mounted(tree: Tree) -> None:
    tree.v2("/")
    tree.v2_group("", limit=GIB, used=5)
    assert tree.tightest() == (GIB, 5, "/sys/fs/cgroup/memory.max")


@pytest.mark.parametrize("path", ["/docker/abc", "/../..", "/elsewhere"])
def test_without_a_namespace_of_its_own_a_container_sees_its_cgroup_at_the_mount_point(tree: Tree, path: str) -> None:
    tree.v2(path, mounted="/docker/abc")
    tree.v2_group("", limit=GIB, used=5)
    assert tree.tightest() == (GIB, 5, "/sys/fs/cgroup/memory.max")


def test_version_1_is_read_too_and_its_highest_number_limits_nothing(tree: Tree) -> None:
    tree.v1("/docker/abc")
    tree.v1_group("", limit=0x7FFFFFFFFFFFF000, used=9 * GIB)
    assert tree.tightest()[2] == "the machine's memory"
    tree.v1_group("/docker/abc", limit=2 * GIB, used=GIB, cache=GIB // 2)
    assert tree.tightest() == (2 * GIB, GIB // 2, "/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes")


def test_a_mount_point_with_a_space_is_found(tree: Tree) -> None:
    tree.v2("/", at="/my\\040cgroups")
    tree.write("my cgroups/memory.max", GIB)
    tree.write("my cgroups/memory.current", 7)
    assert tree.tightest()[:2] == (GIB, 7)


def test_too_little_names_the_three_numbers_and_what_to_do(tree: Tree) -> None:
    tree.v2("/bot")
    tree.v2_group("/bot", limit=2 * GIB, used=GIB + 100 * MIB)
    assert tree.shortage() == (
        "too little memory for a second bot: it needs 1.2 GiB (the active one's 1.0 GiB x handoff.headroom 1.2), but "
        "1.1 GiB of 2.0 GiB are used (/sys/fs/cgroup/bot/memory.max). Raise the limit or free memory"
    )
    tree.v2_group("/bot", limit=2 * GIB, used=GIB - 205 * MIB)
    assert tree.shortage() is None


def test_what_a_process_that_leaves_before_gives_back_counts(tree: Tree) -> None:
    tree.v2("/bot")
    tree.v2_group("/bot", limit=3 * GIB, used=2 * GIB)
    tree.process(SPARE, GIB)
    assert tree.shortage() is not None
    assert tree.shortage(leaving=SPARE) is None
    assert tree.shortage(leaving=77) is not None


@pytest.mark.parametrize("missing", ["proc/meminfo", f"proc/{PID}/statm"])
def test_what_cannot_be_read_stops_nothing(tree: Tree, missing: str) -> None:
    tree.machine(total=GIB, available=MIB)
    assert tree.shortage() is not None
    (tree.root / missing).write_text("nonsense")
    assert tree.shortage() is None
    (tree.root / missing).unlink()
    assert tree.shortage() is None


def test_the_machine_that_runs_this_is_read() -> None:
    room = headroom.tightest()
    assert room is not None
    assert 0 < room.used <= room.limit
    assert (headroom.resident(os.getpid()) or 0) > MIB


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (200 * MIB, "200 MiB"), (5 * 1024 * GIB, "5.0 TiB")],
)
def test_sizes_are_shown_as_people_say_them(size: int, text: str) -> None:
    assert headroom.human(size) == text


@pytest.mark.parametrize("version", [1, 2])
def test_a_sigkill_is_the_kernels_if_it_counts_one_more_of_its_own(tree: Tree, version: int) -> None:
    if version == 2:
        tree.v2("/bot")
        tree.v2_group("/bot", limit=GIB, used=GIB)
        events = "sys/fs/cgroup/bot/memory.events"
    else:
        tree.v1("/bot")
        tree.v1_group("/bot", limit=GIB, used=GIB)
        events = "sys/fs/cgroup/memory/bot/memory.oom_control"
    assert headroom.oom_kills(root=tree.root) == 0, "it cannot be read"
    tree.write(events, "low 0\noom 4\noom_kill 2")
    before = headroom.oom_kills(root=tree.root)
    assert before == 2
    assert headroom.suspicion(before, root=tree.root).startswith(", which nobody here has sent: perhaps the kernel")
    tree.write(events, "low 0\noom 5\noom_kill 3")
    found = headroom.suspicion(before, root=tree.root)
    assert found.startswith(", by the kernel for want of memory: 1.0 GiB of 1.0 GiB are used (/sys/fs/cgroup")
