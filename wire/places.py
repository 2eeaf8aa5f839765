"""Paths of the files that children leave for each other, and the numbers of claimers.

Supervisor and child compute both from the same values, so no message has to carry them.
"""

from __future__ import annotations

_GENERATION_BITS = 20

FORMER = 0
"""The generation of the bot that served when this supervisor's predecessor was killed or stopped."""


def claimer(supervisor: int, generation: int) -> int:
    """Return a number that no other child has which shares the ledger.

    ``supervisor`` is the number of its supervisor there, 0 for one that has the ledger to itself. A ``generation``
    that is such a number already, of another supervisor's child, stays what it is.
    """
    if supervisor_of(generation):
        return generation
    return supervisor << _GENERATION_BITS | generation


def supervisor_of(claimer: int) -> int:
    """Return the number of the claimer's supervisor."""
    return claimer >> _GENERATION_BITS


def checkpoint_path(ledger: str, supervisor: int) -> str:
    """Return where the active child of one supervisor leaves its app's state, should it crash."""
    return f"{ledger}-{supervisor}.checkpoint" if supervisor else f"{ledger}.checkpoint"


def saved_path(left: str) -> str:
    """Return where a bot that is stopped leaves its cache and its sessions for the next start."""
    return f"{left}.saved"


def sessions_path(ledger: str, claimer: int) -> str:
    """Return where a child leaves what its successor needs to resume its sessions: beside the ledger."""
    return f"{ledger}-sessions-{claimer}"


def stream_path(ledger: str, claimer: int) -> str:
    """Return where the holder of the sessions listens for this child: beside the ledger."""
    return f"{ledger}-stream-{claimer}"


def beside_former(ledger: str) -> str:
    """Return what the paths begin with of what other children had left when this supervisor's predecessor ended.

    One of them may have been taking sessions from the bot that served, and be further in those.
    """
    return f"{ledger}-former-"


def holder_path(ledger: str) -> str:
    """Return where a supervisor that has the ledger to itself writes down which child has the sessions."""
    return f"{ledger}-holder"
