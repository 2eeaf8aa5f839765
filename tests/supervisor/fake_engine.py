"""An engine without children, for tests of the control socket and of the command line.

Run as ``python fake_engine.py SOCKET RESULT`` it is a process that looks like a supervisor: it prints "ready" when its
socket is open, answers, and ends on `stop`. RESULT is that of each reload, or "held" (none ends), or
"guarded" (refused unless forced).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import anyio

from bastion.supervisor import control
from bastion.supervisor.observed import ActiveReadiness, Totals
from bastion.supervisor.outcome import Outcome, Progress
from bastion.supervisor.status import (
    ChildStatus,
    HandoffResult,
    HandoffStatus,
    SessionStartLimit,
    ShardStatus,
    Status,
    SupervisorStatus,
)
from bastion.wire import Claims

HANDOFF = HandoffStatus(
    kind="reload",
    from_generation=1,
    to_generation=2,
    result="succeeded",
    reason=None,
    started_at="2026-01-01T12:00:00Z",
    duration=4.25,
    phases={"connecting": 3.0, "draining": 1.25},
    replayed=7,
    expired=0,
    cut=["discord.py: on_message"],
)


def a_child(generation: int = 2) -> ChildStatus:
    """A child of which everything has been observed; one of its two shards is not ready."""
    return ChildStatus(
        generation=generation,
        pid=4242,
        role="active",
        release="/srv/bot/releases/42",
        app="mybot:bot",
        started_at="2026-01-01T12:00:00Z",
        ready_at="2026-01-01T12:00:03Z",
        active_at="2026-01-01T12:00:03Z",
        shards=[
            ShardStatus(id=0, state="ready", latency_ms=31.5),
            ShardStatus(id=1, state="resuming", latency_ms=None),
        ],
        guilds=1200,
        rss_bytes=88 * 1024 * 1024,
        cpu_percent=3.4,
        in_flight=2,
        handled=10_234,
        claims=Claims(won=5, lost=4),
        last_beat_at="2026-01-01T12:00:09Z",
        loop_lag_ms=0.4,
    )


def a_status() -> Status:
    """A status in which nothing is missing."""
    return Status(
        supervisor=SupervisorStatus(
            pid=os.getpid(), version="0.1.0", started_at="2026-01-01T11:00:00Z", state="serving", config="/etc/b.toml"
        ),
        children=[a_child()],
        last_handoff=HANDOFF,
        restarts=0,
        session_start_limit=SessionStartLimit(total=1000, remaining=990, reset_after=7200.0, max_concurrency=1),
    )


class FakeEngine:
    """Answers at once, unless told to wait."""

    def __init__(self, *, result: str = "succeeded") -> None:
        self.result = cast(HandoffResult, result)
        self.may_finish = anyio.Event()
        self.may_finish.set()
        self.reload_began = anyio.Event()
        self.reload_ended = anyio.Event()
        self.stopped = anyio.Event()
        self.progress_lines = 2
        self.failure: Exception | None = None
        self.forced: list[bool] = []
        self.guarded = False
        """Refuses what is not forced."""
        self.active: ActiveReadiness | None = ActiveReadiness(generation=2, shards=2, not_ready={1: "resuming"})
        self.counted = Totals()

    def hold(self) -> None:
        """Let reloads wait until `may_finish` is set."""
        self.may_finish = anyio.Event()

    async def reload(self, *, force: bool = False, on_progress: Callable[[Progress], None] | None = None) -> Outcome:
        self.forced.append(force)
        self.reload_began.set()
        if self.failure:
            raise self.failure
        for ready in range(self.progress_lines):
            if on_progress:
                message = f"waits for shard {ready}"
                on_progress(
                    Progress(phase="connecting", message=message, generation=2, shards_ready=ready, shards_total=2)
                )
        await self.may_finish.wait()
        self.reload_ended.set()
        if self.result == "succeeded" or (self.guarded and force):
            return Outcome(result="succeeded", reason=None, generation=2, handoff=HANDOFF)
        return Outcome(result=self.result, reason="the app could not be imported", generation=1, handoff=None)

    async def rollback(self, *, force: bool = False, on_progress: Callable[[Progress], None] | None = None) -> Outcome:
        self.forced.append(force)
        if on_progress:
            on_progress(Progress(phase="preparing", message="looks at the release before", generation=3))
        if self.guarded and not force:
            return Outcome(result="refused", reason="too little memory", generation=2)
        return Outcome(result="succeeded", generation=3, handoff=HANDOFF)

    async def stop(self) -> None:
        self.stopped.set()

    async def status(self) -> Status:
        if self.failure:
            raise self.failure
        return a_status()

    def readiness(self) -> ActiveReadiness | None:
        return self.active

    def totals(self) -> Totals:
        return self.counted


async def _main(path: Path, result: str) -> None:
    engine = FakeEngine(result={"held": "succeeded", "guarded": "refused"}.get(result, result))
    engine.guarded = result == "guarded"
    if result == "held":
        engine.hold()
    async with control.serve(path, engine):
        print("ready", flush=True)
        await engine.stopped.wait()


if __name__ == "__main__":
    anyio.run(_main, Path(sys.argv[1]), sys.argv[2])
