"""The shape of `status --json`: what an operator and their scripts may rely on.

Only data, no behaviour: times are UTC ISO 8601 with a trailing Z, sizes bytes, durations seconds. The engine fills it
with what was observed; the control socket carries it; the CLI prints it. None stands for "not observed yet".
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from bastion.wire import Claims, RoleName, ShardState

SupervisorState: TypeAlias = Literal["starting", "serving", "handing-off", "restarting", "stopping"]
HandoffKind: TypeAlias = Literal["reload", "rollback", "failover", "recovery", "takeover"]
HandoffResult: TypeAlias = Literal["succeeded", "failed", "refused", "rolled-back"]
SessionWay: TypeAlias = Literal["moved", "overlap", "identified"]


class SupervisorStatus(msgspec.Struct, kw_only=True):
    """The parent itself."""

    pid: int
    version: str
    started_at: str
    state: SupervisorState
    config: str | None
    beside: str = ""
    """Who else shares the ledger, and how these are; empty where nobody does."""


class ShardStatus(msgspec.Struct, kw_only=True):
    """One shard of one child."""

    id: int
    state: ShardState
    latency_ms: float | None
    away: float | None = None
    """For how many seconds it has had no session that brings events; None while it has one, or had none before."""
    why: str = ""
    """Why it is away, as far as that is known."""


class ChildStatus(msgspec.Struct, kw_only=True):
    """One bot process."""

    generation: int
    pid: int
    role: RoleName
    spare: bool = False
    """It is kept to take over from the active one, should that die."""
    release: str
    app: str
    """What runs: module:attribute, or what ``program`` holds."""
    program: str = ""
    started_at: str
    ready_at: str | None
    active_at: str | None
    shards: list[ShardStatus]
    guilds: int | None
    rss_bytes: int | None
    cpu_percent: float | None
    in_flight: int
    lingering: int = 0
    """What a draining child still waits for: live views, open modals, conversations."""
    handled: int
    claims: Claims
    last_beat_at: str | None
    loop_lag_ms: float | None


class RecoveryStatus(msgspec.Struct, kw_only=True):
    """What came of a dead child's gateway sessions."""

    sessions: int
    """How many it left."""
    lost: int
    """How many of them could not be resumed: what was sent on them meanwhile is lost, and nobody knows how much."""
    unheard_seconds: float = 0.0
    """For about how long nobody heard those: 0 if none was lost."""
    missed: int
    """Events that came and could not be handed to the app any more; what came to a lost session is not among them."""


class HandoffStatus(msgspec.Struct, kw_only=True):
    """The newest handoff that ended (or the one under way, with ``result`` None)."""

    kind: HandoffKind
    from_generation: int | None = msgspec.field(name="from")
    to_generation: int | None = msgspec.field(name="to")
    result: HandoffResult | None
    reason: str | None
    started_at: str
    duration: float
    phases: dict[str, float]
    replayed: int
    expired: int
    cut: list[str]
    overflowed: int = 0
    """Events that the new bot had to drop from what it held back: too many, or held for too long."""
    unclaimed: int = 0
    """How often the ledger failed meanwhile: at most so many events were handled by both bots."""
    recovered: RecoveryStatus | None = None
    session: SessionWay | None = None
    """How the new bot came by its sessions: the old one's, its own beside these, or its own after these."""
    why: str | None = None
    """Why the sessions did not move."""
    pause_ms: float = 0.0
    """The longest time that a shard received nothing while its session moved."""
    identifies: int = 0
    """How many sessions were begun."""
    state: str = "none"
    """What came of the app's state: none, carrying, carried, checkpoint (of a child that died), or failed: and why."""


class SessionStartLimit(msgspec.Struct, kw_only=True):
    """Discord's daily IDENTIFY budget as last heard. ``reset_after`` in seconds."""

    total: int
    remaining: int
    reset_after: float
    max_concurrency: int


class Status(msgspec.Struct, kw_only=True):
    """All of `status --json`."""

    supervisor: SupervisorStatus
    children: list[ChildStatus]
    last_handoff: HandoffStatus | None
    restarts: int
    session_start_limit: SessionStartLimit | None
