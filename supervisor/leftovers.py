"""The processes that a dead child has left running, and their end.

Knows signals and process groups; which processes are a child's is told by `descent`. The module knows nothing of pipes,
and not what a child is for.

No stranger is hit, though numbers of processes are given again. The child's own number is not free until the child has
been waited for, which happens afterwards. Every other process is opened first (pidfd_open), then looked at once more,
and killed through its descriptor if the second look finds the same process as the first.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from bastion.counted import counted
from bastion.supervisor.aside import aside
from bastion.supervisor.descent import Leftover, Origin, everybody, find, look_at, newest

PATIENCE = 3.0
"""Seconds in which all processes must have ended. SIGKILL takes milliseconds, unless a disk does not answer."""
TIDYING = 0.5
"""Seconds in which multiprocessing's resource tracker must have ended by itself, as the last process. It removes the
shared memory of the dead program."""
_AWAITED = 64
"""Descriptors of dying processes that are held at a time. The supervisor needs some of its own."""
_NAMED = 8

_Key: TypeAlias = tuple[int, int]
"""Number and start of a process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """The processes that a child has left: those that were ended, and those that could not be."""

    ended: tuple[Leftover, ...] = ()
    stayed: tuple[Leftover, ...] = ()

    def __bool__(self) -> bool:
        """Say whether there was anything."""
        return bool(self.ended or self.stayed)

    def __str__(self) -> str:
        """Return the end of a sentence that begins with the child's name."""
        count = len(self.ended) + len(self.stayed)
        text = f"left {counted(count, 'process', many='processes')} behind"
        if self.ended:
            text += f", ended: {_listed(self.ended)}"
        if self.stayed:
            text += f", not to be ended, and perhaps in the next bot's way: {_listed(self.stayed)}"
        return text


async def end_aside(origin: Origin) -> Remains:
    """Do as `end` does, in a thread: a look at 1,000 processes takes 43 ms.

    Without a descriptor nobody can look; what is in the child's own group is killed all the same.
    """
    try:
        try:
            return await aside(partial(end, origin))
        except RuntimeError:  # no thread can be had: a fork bomb may have used them up
            return end(origin)
    except OSError:
        _kill_group(origin.pid)
        return Remains()


def end(origin: Origin, *, patience: float = PATIENCE) -> Remains:
    """Kill the processes of a dead child until a look finds none. Blocks, for about ``patience`` seconds at most."""
    hunt = _Hunt(origin, deadline=time.monotonic() + patience)
    trackers = hunt.run(spare=True)
    if trackers:
        ends = [end for left in trackers if (end := _opened(left.pid)) is not None]
        _await(ends, min(hunt.deadline, time.monotonic() + TIDYING))
        hunt.run(spare=False)
    return hunt.remains()


@dataclass(slots=True)
class _Hunt:
    """The end of one child's processes."""

    origin: Origin
    deadline: float
    killed: dict[_Key, Leftover] = field(default_factory=dict)
    refused: set[_Key] = field(default_factory=set)
    """Processes that the kernel protects from us: programs that run as another user."""

    def run(self, *, spare: bool) -> list[Leftover]:
        """Look and kill until there is nothing to kill. ``spare`` resource trackers, and return them.

        A look takes time, so the processes that were forked meanwhile are looked at too, until none are. Process groups
        are killed as a whole, each in one step: a group that keeps forking ends only so. In the first look the child's
        own group is not, for the resource tracker is in it.
        """
        last, pids = newest(), everybody()
        spared: dict[_Key, Leftover] = {}
        apart = self.origin.pid
        while True:
            seen = self._look(pids, spared if spare else None, apart=apart)
            before, last = last, newest()
            if (last == before and not seen) or (time.monotonic() > self.deadline and not apart):
                return list(spared.values())
            pids = list(range(before + 1, last + 1)) if last > before and not seen else everybody()
            apart = 0

    def remains(self) -> Remains:
        """Return which processes were ended. A last look tells which were not, if there are any."""
        in_time = time.monotonic() <= self.deadline and not self.refused
        stayed = {} if in_time else {_key(left): left for left in find(self.origin, everybody())}
        ended = tuple(left for key, left in self.killed.items() if key not in stayed)
        return Remains(ended=ended, stayed=tuple(stayed.values()))

    def _look(self, pids: Iterable[int], spared: dict[_Key, Leftover] | None, *, apart: int) -> bool:
        """Kill the child's among these processes, and wait for their end. Say whether there was any to kill.

        ``apart`` is a group that is not killed as a whole.
        """
        seen, ends, groups = False, list[int](), {0, 1, os.getpgrp(), apart}
        for left in find(self.origin, pids):
            if spared is not None and left.tidies:
                spared[_key(left)] = left
            elif _key(left) not in self.refused:
                seen = True
                self._kill(left, ends)
                if left.group not in groups and _key(left) in self.killed:
                    groups.add(left.group)
                    _kill_group(left.group)
        _await(ends, self.deadline)
        return seen

    def _kill(self, left: Leftover, ends: list[int]) -> None:
        """Kill a process, unless another one has its number by now. ``ends`` gets the descriptor to wait for."""
        end = _opened(left.pid)
        try:
            again = look_at(left.pid, self.origin)
            if again is None or _key(again) != _key(left):
                return
            _send(left.pid, end)
            self.killed[_key(left)] = left
            if end is not None and len(ends) < _AWAITED:
                ends.append(os.dup(end))
        except PermissionError:
            self.refused.add(_key(left))
        except OSError:  # gone
            pass
        finally:
            if end is not None:
                os.close(end)


def _key(left: Leftover) -> _Key:
    return left.pid, left.started


def _opened(pid: int) -> int | None:
    """Return a descriptor of a process; None if it has gone, or if none can be had: an old kernel, too many open."""
    try:
        return os.pidfd_open(pid)
    except (OSError, AttributeError):
        return None


def _send(pid: int, descriptor: int | None) -> None:
    if descriptor is None:
        os.kill(pid, signal.SIGKILL)
    else:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def _kill_group(group: int) -> None:
    with suppress(OSError):  # it has ended
        os.killpg(group, signal.SIGKILL)


def _await(ends: Sequence[int], deadline: float) -> None:
    """Wait until all these processes have ended, and close their descriptors."""
    poll, waiting = select.poll(), set(ends)
    for end in ends:
        poll.register(end, select.POLLIN)
    while waiting and (seconds := deadline - time.monotonic()) > 0:
        for end, _ in poll.poll(seconds * 1000):
            poll.unregister(end)
            waiting.discard(end)
    for end in ends:
        os.close(end)


def _listed(leftovers: Sequence[Leftover]) -> str:
    more = len(leftovers) - _NAMED
    shown = [f"{left.name} (pid {left.pid})" for left in leftovers[:_NAMED]]
    return ", ".join([*shown, f"and {more} more"] if more > 0 else shown)
