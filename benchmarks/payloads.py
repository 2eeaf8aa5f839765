"""Gateway messages as JSON text, made by the sandbox, for benchmarks that need no socket."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from typing import Any

from bastion.sandbox import SandboxSettings
from bastion.sandbox.emitter import Emitter
from bastion.sandbox.events import Event
from bastion.sandbox.payloads import guild_create, user

KINDS = ("message", "reaction", "edit", "delete", "typing", "member update", "slash command")


class Source:
    """Makes as many events of a kind as are asked for, no two alike."""

    def __init__(self) -> None:
        self._emitter = Emitter(SandboxSettings(guilds=4, messages_per_channel=100_000))
        self._caught: list[Event] = []
        self._sequence = count(1)
        self._emitter.gateway.publish = self._catch  # type: ignore[method-assign]
        self._emitter.world.commands[None] = {
            1: {"id": "1", "name": "ping", "type": 1, "options": [], "description": "Answers at once"}
        }
        self._makers: dict[str, Callable[[], object]] = {
            "message": self._emitter.emit_message,
            "reaction": self._react,
            "edit": lambda: self._emitter.emit_edit(**self._fresh()),
            "delete": lambda: self._emitter.emit_delete(**self._fresh()),
            "typing": self._emitter.emit_typing,
            "member update": self._emitter.emit_member_update,
            "slash command": lambda: self._emitter.emit_slash("ping"),
        }

    def start(self) -> list[str]:
        """Return what a session begins with: READY and all guilds."""
        world = self._emitter.world
        ready = {
            "v": 10,
            "user": user(world.bot),
            "guilds": [{"id": str(guild), "unavailable": True} for guild in world.guilds],
            "session_id": "0",
            "resume_gateway_url": "",
            "shard": [0, 1],
            "application": {"id": str(world.application_id), "flags": 0},
        }
        guilds = [
            guild_create(guild, bot=world.bot, all_members=True) | {"unavailable": False}
            for guild in world.guilds.values()
        ]
        return [self._message("READY", ready), *(self._message("GUILD_CREATE", guild) for guild in guilds)]

    def events(self, kind: str, number: int) -> list[str]:
        """Return new events of one of `KINDS`."""
        found = []
        for _ in range(number):
            self._makers[kind]()
            event = self._caught[-1]
            found.append(self._message(event.name, event.data))
            self._caught.clear()
        self._emitter.journal.clear()
        return found

    def _message(self, name: str, data: object) -> str:
        return json.dumps({"op": 0, "s": next(self._sequence), "t": name, "d": data})

    def _catch(self, event: Event) -> int:
        self._caught.append(event)
        return 1

    def _fresh(self) -> dict[str, Any]:
        entry = self._emitter.emit_message()
        return {"message": entry.message_id, "channel": entry.channel_id}

    def _react(self) -> None:
        self._emitter.emit_reaction_add(**self._fresh())
