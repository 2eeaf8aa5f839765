"""What a handoff says while it runs and when it has ended.

Only data: the engine makes it, the control socket carries it, the CLI shows it. It knows nothing of any of them.
"""

from __future__ import annotations

import msgspec

from bastion.supervisor.status import HandoffResult, HandoffStatus


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What a waiting `reload` is told.

    ``phase``: "waiting" (another handoff is under way, the bot is starting, or nobody serves and the next try waits),
    "preparing" (settings and release are read), "clearing" (a child is still there that is to have left), "spawning"
    (until the new child's hello), "connecting" (until all its shards are ready), "activating" (until it says that it is
    active), "probation" (the new one is active, the old one stands by in case it fails), "draining" (until the old one
    has left). ``message`` says the same to people. ``generation`` is the new child's; ``shards_total`` is None until it
    has said how many shards it connects.
    """

    phase: str
    message: str
    generation: int | None = None
    shards_ready: int = 0
    shards_total: int | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a command. ``generation`` is the one that is active now; ``reason`` is None on success.

    ``lingering`` counts what people are in the middle of in the old child (views, modals, conversations): it answers
    them still. ``remarks``: what the operator should know about the new release, though it is no fault, and of this
    handoff what could not be claimed.
    """

    result: HandoffResult
    reason: str | None = None
    generation: int | None = None
    lingering: int = 0
    remarks: list[str] = []
    handoff: HandoffStatus | None = None
