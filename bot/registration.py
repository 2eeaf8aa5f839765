"""Application commands, told to Discord once a release and by one process at a time.

A child that is not active tells Discord nothing: its `CommandTree.sync` is answered with what is registered now, and
made up for when the child is active. Nor is told again what this supervisor's children have told last.

Knows the two calls that replace commands, the role and the notes; knows nothing of trees, events or pipes.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import discord

from bastion.bot import internals
from bastion.bot.lifecycle import Lifecycle
from bastion.bot.presence import Notes
from bastion.wire.private import open_private

_log = logging.getLogger("bastion.commands")

LOCK_SECONDS = 15.0
"""How long one process waits for another one's change of commands to end; then it goes on all the same."""
_TRY_AGAIN = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Whose commands: all, or one guild's."""

    application: int
    guild: int | None

    def __str__(self) -> str:
        return "the global commands" if self.guild is None else f"the commands of guild {self.guild}"


class Registration:
    """The commands of one client. ``lock`` is the path of a file that all processes share."""

    def __init__(
        self, *, lifecycle: Lifecycle, notes: Notes, lock: str, remark: Callable[[str], None] = _log.warning
    ) -> None:
        """``remark`` is told what the operator should know about a change."""
        self._remark = remark
        self._lifecycle = lifecycle
        self._notes = notes
        self._lock = lock
        self._calls: internals.CommandCalls
        self._wanted: dict[Scope, Sequence[Mapping[str, Any]]] = {}

    def install(self, client: discord.Client) -> None:
        """Come between the app and the calls that replace commands."""
        self._calls = internals.replace_command_sync(client, self._sync)

    @property
    def wanted(self) -> Mapping[Scope, Sequence[Mapping[str, Any]]]:
        """Return the commands that the app has asked for, by scope."""
        return self._wanted

    async def catch_up(self) -> None:
        """Tell Discord what the app has asked for, where it knows something else. What fails is logged."""
        for scope, commands in list(self._wanted.items()):
            try:
                async with self._alone():
                    if self._lifecycle.role == "active" and not self._is_known(scope, commands):
                        await self.tell(scope, commands)
                        _log.info("told Discord %s of this release", scope)
            except (discord.DiscordException, OSError, TimeoutError) as error:
                _log.error("Discord did not take %s, so users see those of the last release: %s", scope, error)

    async def tell(self, scope: Scope, commands: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Replace commands, and write down that it was done. Raises what discord.py raises.

        A program that has not loaded its extensions would empty what is registered, so commands that vanish are named.
        """
        before = await self._calls.get(scope.application, scope.guild)
        registered = await self._calls.put(scope.application, scope.guild, commands)
        self._notes.note(_key(scope), _digest(commands))
        gone = sorted({str(one["name"]) for one in before} - {str(one["name"]) for one in commands})
        if gone:
            self._remark(f"{scope} no longer have {len(gone)} that were registered before: {', '.join(gone)}")
        return registered

    async def _sync(self, application: int, guild: int | None, commands: Sequence[Mapping[str, Any]]) -> list[Any]:
        scope = Scope(application=application, guild=guild)
        self._wanted[scope] = commands
        if self._lifecycle.role == "active":
            async with self._alone():
                if not self._is_known(scope, commands):
                    return await self.tell(scope, commands)
        else:
            _log.info("%s stay as they are until this process is active", scope)
        return await self._calls.get(application, guild)

    def _is_known(self, scope: Scope, commands: Sequence[Mapping[str, Any]]) -> bool:
        return self._notes.noted(_key(scope)) == _digest(commands)

    @contextlib.asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Keep all other processes from changing commands. The kernel lets go of the lock of one that dies."""
        try:
            lock = open_private(self._lock, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            _log.warning("commands are changed without a lock: %s", error)
            yield
            return
        try:
            give_up = asyncio.get_running_loop().time() + LOCK_SECONDS
            # The kernel tells nobody but a thread that waits, and such a thread would hold up the exit.
            while not _locked(lock) and asyncio.get_running_loop().time() < give_up:  # noqa: ASYNC110
                await asyncio.sleep(_TRY_AGAIN)
            yield
        finally:
            os.close(lock)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _key(scope: Scope) -> str:
    return f"commands {scope.application} {scope.guild or 'global'}"


def _digest(commands: Sequence[Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(commands, sort_keys=True, default=str).encode()).hexdigest()
