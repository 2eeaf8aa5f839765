"""Which role this process has, for apps that want to know.

    from bastion import lifecycle

    if lifecycle.role() == "active": ...
    await lifecycle.wait_until_active()

And a mark for loops that must not have an extra turn in each new process:

    @in_step
    @tasks.loop(hours=1)
    async def remind() -> None: ...

A role belongs to the process, so there is one `Lifecycle` in it; without a supervisor nobody changes it, and it is
active. Knows nothing of discord.py, of events or of the supervisor.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal, TypeAlias, TypeVar

Role: TypeAlias = Literal["standby", "active", "draining"]
Marked = TypeVar("Marked")


class Lifecycle:
    """A role, and those who wait for the active one."""

    def __init__(self) -> None:
        self._role: Role = "active"
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def role(self) -> Role:
        """Return the role held now."""
        return self._role

    def enter(self, role: Role) -> None:
        """Note the role now held; an active one wakes all who wait for it."""
        self._role = role
        if role == "active":
            for waiting in self._waiting:
                if not waiting.done():
                    waiting.set_result(None)

    async def wait_until_active(self) -> None:
        """Return when the role is active: at once if it is."""
        while self._role != "active":
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.add(waiting)
            try:
                await waiting
            finally:
                self._waiting.discard(waiting)


PROCESS = Lifecycle()
"""This process'. The runtime moves it on, nobody else."""


def role() -> Role:
    """Return this process' role: "standby" and "draining" while another one handles events, else "active"."""
    return PROCESS.role


async def wait_until_active() -> None:
    """Return when this process handles events. It may be put into standby, or drained, later."""
    await PROCESS.wait_until_active()


def in_step(loop: Marked) -> Marked:
    """Mark a loop of `discord.ext.tasks`: its first turn in a process comes an interval after the last one of any.

    A decorator above or below ``@tasks.loop(...)``, or a call. It sets ``in_step`` of the loop's coroutine function,
    which an app may do itself. Without a supervisor it changes nothing.
    """
    function: Any = getattr(loop, "coro", loop)
    if not callable(function):
        raise TypeError(f"in_step marks a loop of discord.ext.tasks, not {type(loop).__name__}")
    getattr(function, "__func__", function).in_step = True  # A method has no attributes of its own.
    return loop
