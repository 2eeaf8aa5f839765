"""The presence that people see: the app's own, also when another process has set it.

What an app sets with `change_presence` for all shards is written down. A child whose app gives no presence to its
client's constructor identifies with the last one that is written down, and has it from then on. One that is not active
sets none: what its app asks for meanwhile waits for the active role.

Knows presences and the role; knows nothing of events or pipes. A presence of single shards is the app's own affair.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import discord
import msgspec

from bastion.bot import internals
from bastion.bot.lifecycle import Lifecycle

_log = logging.getLogger("bastion.presence")

_NOTE = "presence"


class Notes(Protocol):
    """What children write down for each other."""

    def note(self, key: str, value: str) -> None:
        """Write something down."""

    def noted(self, key: str) -> str | None:
        """Return what was written down last."""


class Presence:
    """The presence of one client."""

    def __init__(self, *, lifecycle: Lifecycle, notes: Notes) -> None:
        self._lifecycle = lifecycle
        self._notes = notes
        self._client: discord.Client
        self._set: Callable[..., Awaitable[None]]
        self._waiting: dict[str, Any] | None = None
        self._own = False
        """Whether the app has set one in this process."""
        self._given = False
        """Whether the app has given one to the client's constructor, which travels with IDENTIFY."""
        self._inherited: str | None = None

    def install(self, client: discord.Client) -> None:
        """Come between the app and `change_presence`."""
        self._client = client
        self._own = self._given = internals.has_presence(client)
        self._set = client.change_presence
        client.change_presence = self._change  # type: ignore[method-assign]

    def inherit(self) -> None:
        """Identify with the presence of the process before, if the app brings none. Call it before the connection."""
        if not self._own and (noted := self._notes.noted(_NOTE)) is not None:
            self._inherited = noted
            presence = msgspec.json.decode(noted)
            internals.identify_with(self._client, activity=presence["activity"], status=presence["status"])

    async def activated(self, *, moved: bool = False) -> None:
        """Set what had to wait; or what the process before has set since this one identified.

        ``moved``: it has not identified, for its sessions were the other one's.
        """
        waiting, self._waiting = self._waiting, None
        noted = self._notes.noted(_NOTE)
        try:
            if waiting is not None:
                await self._change(**waiting)
            elif self._given and moved:
                await self._set(activity=self._client.activity, status=self._client.status)
            elif not self._own and noted is not None and noted != self._inherited:
                self._inherited = noted
                presence = msgspec.json.decode(noted)
                status = presence["status"]
                await self._set(
                    activity=internals.make_activity(self._client, presence["activity"]),
                    status=None if status is None else discord.Status(status),
                )
        except Exception as error:
            _log.warning("the bot's presence could not be set: %s: %s", type(error).__name__, error)

    async def _change(self, **presence: Any) -> None:
        for_all = presence.get("shard_id") is None
        self._own = self._own or for_all
        if self._lifecycle.role != "active" and for_all:
            self._waiting = presence
            return
        await self._set(**presence)
        if for_all:
            activity, status = presence.get("activity"), presence.get("status")
            note = {"activity": activity and activity.to_dict(), "status": None if status is None else str(status)}
            self._notes.note(_NOTE, msgspec.json.encode(note).decode())
