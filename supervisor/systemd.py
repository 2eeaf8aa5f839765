"""What systemd is told: readiness, reloads, the end, one line of status, and signs of life.

Knows the protocol of sd_notify(3): datagrams to $NOTIFY_SOCKET, which are lost without harm if nobody reads them. Knows
the engine only by its `Summary`; without $NOTIFY_SOCKET nothing here does anything. Children never see these variables:
`child.environment` takes them out.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Mapping

import anyio

from bastion.counted import counted
from bastion.supervisor.observed import Summary
from bastion.supervisor.printable import escaped

MARGIN = 60.0
"""Seconds that systemd waits beyond the supervisor's own limits: those come first, and say why."""


class Service:
    """The supervisor as a unit of systemd: tells what has changed since it last told."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Take the address and the watchdog's interval from the environment as systemd sets it."""
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._watchdog = _watchdog(environ) if self._address else None
        self._state: str = ""
        self._status = ""
        self._ready = False

    def tell(self, summary: Summary) -> None:
        """Report changes. Called often; says nothing if nothing has changed."""
        if self._address is None:
            return
        lines = self._changes(summary)
        if (status := _line(summary)) != self._status:
            self._status = status
            lines.append(f"STATUS={escaped(status)}")
            if summary.state != "serving":
                lines.append(f"EXTEND_TIMEOUT_USEC={round((summary.patience + MARGIN) * 1e6)}")
        self._send(lines)

    def _changes(self, summary: Summary) -> list[str]:
        before, self._state = self._state, summary.state
        if before == summary.state:
            return []
        match summary.state:
            case "stopping":
                return ["STOPPING=1"]
            case "handing-off":
                if not self._ready:  # a bot serves; a reload that was asked for before it did has begun at once
                    self._ready = True
                    self._send(["READY=1"])
                return ["RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"]
            case "serving":
                self._ready = True
                return ["READY=1"]
            case "restarting" if before == "handing-off":
                return ["READY=1"]  # the reload is over, however it went; that nobody serves is in STATUS
            case _:
                return []

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Give signs of life from the running event loop while the context is open, if systemd wants them."""
        if self._watchdog is None:
            yield
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._live, self._watchdog / 2)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()

    async def _live(self, interval: float) -> None:
        while True:
            self._send(["WATCHDOG=1"])
            await anyio.sleep(interval)

    def _send(self, lines: list[str]) -> None:
        if not lines or self._address is None:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.setblocking(False)
            peer.sendto("\n".join(lines).encode(), self._address)


def _address(value: str) -> str | None:
    """Return a path, or a name in the abstract namespace (which begins with NUL)."""
    if value.startswith("@"):
        return "\0" + value[1:]
    return value if value.startswith("/") else None


def _watchdog(environ: Mapping[str, str]) -> float | None:
    """Return the seconds after which systemd takes this process for hung, None if it does not look."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    value = environ.get("WATCHDOG_USEC", "")
    return int(value) / 1e6 if value.isascii() and value.isdigit() and int(value) > 0 else None


def _line(summary: Summary) -> str:
    """Say on one line what runs: generation, shards, since when; and what is under way."""
    if summary.generation is None or summary.state == "stopping":
        return f"{summary.state}: {summary.message}"
    serving = f"generation {summary.generation}, {summary.ready} of {counted(summary.shards, 'shard')} ready"
    if summary.since is not None:
        serving += f", active since {summary.since}"
    return serving if summary.state == "serving" else f"{serving}; {summary.state}: {summary.message}"
