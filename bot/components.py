"""Which child answers a press of a button, a choice in a select, a submitted modal.

A timed view or a modal lives in the one process that sent it. While that process drains it goes on answering its own;
the active child answers what it knows. What nobody seems to know is held back a moment, so that the owner can be first;
what the draining child knows as well as any other, it leaves to the active one for a moment. Who gets it is still
decided by the claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import discord

from bastion.bot import internals

OWNER_FIRST = 1.0
"""Seconds that the active child leaves to a draining owner before it takes a component that it does not know.

More than the skew between two sessions, and little enough for an answer within Discord's 3 s."""

ACTIVE_FIRST = 0.5
"""Seconds that a draining child leaves to the active one before it takes a component that others can answer too.

Less than `OWNER_FIRST`: an active child that does not know the component after all waits for this one."""

_COMPONENT = 3
_MODAL_SUBMIT = 5


class Ownership(Enum):
    """What this child is to an interaction."""

    OWNER = "owner"
    """Only this process can answer it: a view bound to its message, a modal sent from here, a `wait_for` of it."""
    SHARED = "shared"
    """A view bound to its message here, but any child with the same app knows the component as well."""
    ABLE = "able"
    """Any child with the same app can: commands, persistent views, dynamic items."""
    STRANGER = "stranger"
    """A component or modal that nothing here answers, unless the app does it by hand in ``on_interaction``."""


def ownership(client: discord.Client, data: Mapping[str, Any]) -> Ownership:
    """Tell what this child is to a raw INTERACTION_CREATE."""
    kind = data["type"]
    if kind not in (_COMPONENT, _MODAL_SUBMIT):
        return Ownership.ABLE
    if _waited_for(client, data):
        return Ownership.OWNER
    if kind == _MODAL_SUBMIT:
        return Ownership.OWNER if internals.open_modal(client, data["data"]["custom_id"]) else Ownership.STRANGER
    bound, unbound = internals.views_of(client, data)
    lasting = internals.dynamic_item(client, data["data"]["custom_id"])
    if unbound is not None and not unbound.is_finished():
        if bound is None and not unbound.is_persistent():
            return Ownership.OWNER
        lasting = lasting or unbound.is_persistent()
    if bound is not None and not bound.is_finished():
        return Ownership.SHARED if lasting or bound.is_persistent() else Ownership.OWNER
    return Ownership.ABLE if lasting else Ownership.STRANGER


def _waited_for(client: discord.Client, data: Mapping[str, Any]) -> bool:
    if not internals.waits_for(client, "interaction"):
        return False
    return internals.would_wake(client, "interaction", internals.make_interaction(client, data))
