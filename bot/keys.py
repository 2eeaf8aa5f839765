"""What an event is called when two children claim it: the same in every session that brings it.

An event that carries an id of its own happens once: its key is that id. Any other one (a reaction, an edit, typing) is
known by a digest of what it says, and may happen again: react, unreact, react. Claims of such are paired (`ledger`).

This module is pure. It knows payloads; it knows nothing of discord.py, roles, clocks or where claims are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

_LOCAL = frozenset(
    {"READY", "RESUMED", "GUILD_MEMBERS_CHUNK", "RATE_LIMITED", "VOICE_SERVER_UPDATE", "VOICE_CHANNEL_STATUS_UPDATE"}
)
"""Events of one session alone: never held back, never claimed."""

Path: TypeAlias = str | tuple[str, ...]
"""Where something is in a payload."""

_UNIQUE: Mapping[str, Path] = {
    "INTERACTION_CREATE": "id",
    "MESSAGE_CREATE": "id",
    "MESSAGE_DELETE": "id",
    "GUILD_AUDIT_LOG_ENTRY_CREATE": "id",
    "CHANNEL_CREATE": "id",
    "CHANNEL_DELETE": "id",
    "THREAD_DELETE": "id",
    "GUILD_ROLE_CREATE": ("role", "id"),
    "GUILD_ROLE_DELETE": "role_id",
    "GUILD_SCHEDULED_EVENT_CREATE": "id",
    "GUILD_SCHEDULED_EVENT_DELETE": "id",
    "STAGE_INSTANCE_CREATE": "id",
    "STAGE_INSTANCE_DELETE": "id",
    "AUTO_MODERATION_RULE_CREATE": "id",
    "AUTO_MODERATION_RULE_DELETE": "id",
    "ENTITLEMENT_CREATE": "id",
    "ENTITLEMENT_DELETE": "id",
}
"""Events that happen once for the id that is there: creation and deletion of an object."""

_REACTION: tuple[Path, ...] = ("channel_id", "message_id", "user_id", ("emoji", "id"), ("emoji", "name"), "burst")
_SAYS: Mapping[str, tuple[Path, ...]] = {
    "MESSAGE_REACTION_ADD": _REACTION,
    "MESSAGE_REACTION_REMOVE": _REACTION,
    "MESSAGE_REACTION_REMOVE_ALL": ("channel_id", "message_id"),
    "MESSAGE_REACTION_REMOVE_EMOJI": ("channel_id", "message_id", ("emoji", "id"), ("emoji", "name")),
    # Not the content: two releases with and without the message content intent see different ones.
    "MESSAGE_UPDATE": ("id", "edited_timestamp", "pinned", "flags"),
    "MESSAGE_DELETE_BULK": ("channel_id", "ids"),
    "TYPING_START": ("channel_id", "user_id", "timestamp"),
    "GUILD_MEMBER_ADD": (("user", "id"), "joined_at"),
    "GUILD_MEMBER_REMOVE": (("user", "id"),),
    "GUILD_CREATE": ("id", "joined_at"),
    "GUILD_DELETE": ("id", "unavailable"),
    "CHANNEL_PINS_UPDATE": ("channel_id", "last_pin_timestamp"),
    "THREAD_CREATE": ("id", "newly_created"),
}
"""What tells one kind of occurrence from another, where that is less than the whole payload."""

_DATED = frozenset({"GUILD_MEMBER_ADD", "GUILD_CREATE"})
"""Events whose ``joined_at``, to the microsecond, no later occurrence has: their digest is as good as an id."""

_encoder = msgspec.json.Encoder(order="deterministic")


class Identity(msgspec.Struct, frozen=True):
    """What an event is. A struct, for each event of a window is given one."""

    text: str
    """The key if it happens once, else the digest."""
    unique: bool
    """Whether it happens once."""


def identify(name: str, data: Mapping[str, Any]) -> Identity | None:
    """Identify a gateway event from its raw payload. None: local to its session, never claimed."""
    if name in _LOCAL or (name == "GUILD_CREATE" and data.get("unavailable") is not None):
        return None
    ident = _UNIQUE.get(name)
    if ident is not None:
        return Identity(f"{name}:{_pick(data, ident)}", unique=True)
    said = _SAYS.get(name)
    body = data if said is None else [_pick(data, path) for path in said]
    digest = hashlib.blake2b(_encoder.encode((name, _place(name, data), body)), digest_size=12).hexdigest()
    return Identity(digest, unique=name in _DATED and data.get("joined_at") is not None)


def _place(name: str, data: Mapping[str, Any]) -> str:
    """Return the guild in which an event happens, or the direct messages."""
    guild = data["id"] if name in ("GUILD_CREATE", "GUILD_DELETE", "GUILD_UPDATE") else data.get("guild_id")
    return str(guild) if guild is not None else f"dm:{data.get('channel_id', '')}"


def _pick(data: Mapping[str, Any], path: Path) -> Any:
    if isinstance(path, str):
        return data.get(path)
    value: Any = data
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value
