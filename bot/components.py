"""Which child answers a press of a button, a choice in a select, a submitted modal.

A timed view or a modal lives in the one process that sent it. While that process drains it goes on answering its own;
the active child answers what it knows. Only what nobody seems to know is held back a moment, so that the owner can be
first. Who gets it is still decided by the claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import discord

from bot import internals

OWNER_FIRST = 1.0
"""Seconds that the active child leaves to a draining owner before it takes a component that it does not know.

More than the skew between two sessions, and little enough for an answer within Discord's 3 s."""

_COMPONENT = 3
_MODAL_SUBMIT = 5


class Ownership(Enum):
    """What this child is to an interaction."""

    OWNER = "owner"
    """Only this process can answer it: a view bound to its message, a modal sent from here, a `wait_for` of it."""
    ABLE = "able"
    """Any child with the same app can: commands, persistent views, dynamic items."""
    STRANGER = "stranger"
    """A component or modal that nothing here answers."""


def ownership(client: discord.Client, data: Mapping[str, Any]) -> Ownership:
    """Tell what this child is to a raw INTERACTION_CREATE."""
    kind = data["type"]
    if kind not in (_COMPONENT, _MODAL_SUBMIT):
        return Ownership.ABLE
    custom_id = data["data"]["custom_id"]
    if kind == _MODAL_SUBMIT:
        owned = internals.open_modal(client, custom_id)
        able = False
    else:
        component = (data["data"]["component_type"], custom_id)
        message = data.get("message")
        owned = internals.live_view(client, int(message["id"]) if message else None, component)
        able = internals.persistent_view(client, component)
    if owned or _waited_for(client, data):
        return Ownership.OWNER
    return Ownership.ABLE if able or internals.listens(client, "interaction") else Ownership.STRANGER


def _waited_for(client: discord.Client, data: Mapping[str, Any]) -> bool:
    if not internals.waits_for(client, "interaction"):
        return False
    return internals.would_wake(client, "interaction", internals.make_interaction(client, data))
