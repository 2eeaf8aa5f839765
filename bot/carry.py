"""State that an app carries from one process to the next: `export_state` and `import_state` of its client.

The old child exports when it has taken its last event, and the state goes through the stream between both; the new one
imports before it handles its first event. An active child also exports every so often, into a private file beside its
session file: should the child crash, its successor imports that *checkpoint*, before it handles what the dead child has
missed. Each step has limits of time and size, and whatever goes wrong costs the state alone.

A state is one line that says what follows, and the rest: ``json`` and a JSON value, ``bytes`` and bytes, ``failed`` and
why there is none, ``none`` for an app that exports nothing. An example: ``json\n{"seen": 3}``.

Knows hooks, files and limits; knows nothing of roles, events or streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from bastion import wire
from bastion.counted import counted
from bastion.wire.private import open_private

_log = logging.getLogger("bastion.state")

MAX_BYTES = 16 * 1024 * 1024
"""Size of an exported state at most."""

MARGIN = 0.5
"""Seconds beyond the old child's limit for which a new child waits for the state."""

_BYTES, _JSON, _FAILED, _NONE = b"bytes\n", b"json\n", b"failed\n", b"none\n"

_T = TypeVar("_T")
Hook: TypeAlias = Callable[..., Any]
Source: TypeAlias = Literal["handoff", "checkpoint"]


class StateError(Exception):
    """State could not be exported or imported; the text says why in one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the supervisor's settings say, in seconds."""

    timeout: float = 2.0
    """For each, exporting and importing."""
    checkpoint: float = 60.0
    """Between two checkpoints; 0 for none."""


class Carry:
    """What one child exports and imports."""

    def __init__(self, checkpoint: Path, *, limits: Limits) -> None:
        self._checkpoint = checkpoint
        self._limits = limits
        self._export: Hook | None = None
        self._import: Hook | None = None
        self._state: bytes | None = None
        self._news = asyncio.Event()
        self._alone = asyncio.Lock()

    def attach(self, client: object) -> None:
        """Find the hooks of a client. A class that names one None has none."""
        self._export = getattr(client, "export_state", None)
        self._import = getattr(client, "import_state", None)

    @property
    def imports(self) -> bool:
        """Whether the app takes state."""
        return self._import is not None

    async def export(self) -> bytes:
        """Export for the successor; return the state. Never raises, and takes little longer than the limit."""
        if self._export is None:
            return _NONE
        try:
            return await self._exported(self._export)
        except StateError as error:
            _log.error("the state is not carried over: %s", error, exc_info=error.__cause__)
            return _FAILED + str(error).encode()

    async def leave(self) -> bytes:
        """Export for the next start, as a checkpoint too; return the state. Never raises.

        The checkpoint is for a start that cannot use the state's way, or dies of what comes with it.
        """
        state = await self.export()
        if not state.startswith((_NONE, _FAILED)):
            with contextlib.suppress(OSError):
                await _aside(partial(_replace, self._checkpoint, state))
        return state

    def inherit(self, left: Path) -> None:
        """Have the checkpoint that another supervisor's bot has left, if there is one."""
        with contextlib.suppress(OSError):
            left.replace(self._checkpoint)

    def forget_checkpoint(self) -> None:
        """Remove what a predecessor left: it is another bot's, or too old."""
        _remove(self._checkpoint)

    def arrived(self, state: bytes) -> None:
        """Take the old child's state."""
        self._state = state
        self._news.set()

    @property
    def has_come(self) -> bool:
        """Whether the old child's state is here."""
        return self._state is not None

    def comes_no_more(self) -> None:
        """Learn that the old child, which was asked for its state, can give none any more: it is dead."""
        self._news.set()

    async def take_over(self) -> wire.Imported | None:
        """Wait for the old child's state and import it; None: its app exports none. Never raises, and has an end."""
        patience = self._limits.timeout + MARGIN
        try:
            async with asyncio.timeout(patience):
                await self._news.wait()
        except TimeoutError:
            return self._failed("handoff", f"the old bot gave none within {patience:g} s")
        if self._state is None:
            return await self.take_checkpoint() or self._failed("handoff", "the old bot died before it gave any")
        if self._state.startswith(_NONE):
            return None
        if self._state.startswith(_FAILED):
            return self._failed("handoff", self._state.removeprefix(_FAILED).decode())
        return await self._take("handoff", self._state)

    async def take_checkpoint(self) -> wire.Imported | None:
        """Import what a predecessor left that crashed. None: it left nothing, or the app takes nothing.

        The file is put aside meanwhile: a state that kills one process must not kill each successor too.
        """
        if self._import is None or not self._checkpoint.exists():
            return None
        aside = self._checkpoint.with_name(f"{self._checkpoint.name}.taken")
        try:
            self._checkpoint.rename(aside)
            state = await _aside(partial(_contents, aside))
        except OSError as error:
            _remove(aside)
            return self._failed("checkpoint", str(error))
        imported = await self._take("checkpoint", state)
        if imported.reason is not None:
            _remove(aside)
        else:
            with contextlib.suppress(OSError):
                aside.rename(self._checkpoint)  # until this child writes its own: it may fail before it is active
        return imported

    async def _take(self, source: Source, state: bytes) -> wire.Imported:
        assert self._import is not None
        began = asyncio.get_running_loop().time()
        try:
            await _limited(self._import, _decode(state), limit=self._limits.timeout, name="import_state")
        except StateError as error:
            return self._failed(source, str(error), error.__cause__)
        _log.info("the state is carried over (%s, %s)", source, counted(len(state), "byte"))
        return wire.Imported(source=source, seconds=_since(began))

    async def keep_checkpoints(self) -> None:
        """Export every so often, at once for the first time. Runs until it is cancelled."""
        if self._export is None or not self._limits.checkpoint:
            _remove(self._checkpoint)  # a predecessor's: by now it is out of date
            return
        failed = False
        while True:
            try:
                await self._write_checkpoint(self._export)
                failed = False
            except StateError as error:
                if not failed:
                    _log.error("no checkpoint of the state: %s", error, exc_info=error.__cause__)
                failed = True
            await asyncio.sleep(self._limits.checkpoint)

    async def _exported(self, hook: Hook) -> bytes:
        """Have the app export; return the state. Raises `StateError`."""
        async with self._alone:
            return _encode(await _limited(hook, limit=self._limits.timeout, name="export_state"))

    async def _write_checkpoint(self, hook: Hook) -> None:
        """Raises `StateError`."""
        state = await self._exported(hook)
        try:
            await _aside(partial(_replace, self._checkpoint, state))
        except OSError as error:
            raise StateError(f"{self._checkpoint} cannot be written: {error.strerror or error}") from None

    def _failed(self, source: Source, reason: str, cause: BaseException | None = None) -> wire.Imported:
        _log.error("no state is carried over: %s", reason, exc_info=cause)
        return wire.Imported(source=source, reason=reason)


async def _limited(hook: Hook, *args: Any, limit: float, name: str) -> Any:
    """Run one of the app's hooks for at most ``limit`` seconds; raise `StateError` if it fails."""

    async def call() -> Any:
        result = hook(*args)
        return await result if inspect.isawaitable(result) else result

    task = asyncio.ensure_future(call())
    done, _ = await asyncio.wait([task], timeout=limit)
    if not done:
        task.cancel()  # and not waited for: it may not care
        raise StateError(f"{name} takes longer than {limit:g} s (state.timeout)")
    if task.cancelled():
        raise StateError(f"{name} was cancelled")
    if (error := task.exception()) is not None:
        text = str(error).strip().splitlines()
        raise StateError(f"{name} raised {type(error).__name__}{': ' + text[0] if text else ''}") from error
    return task.result()


def _encode(value: object) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        data = _BYTES + bytes(value)
    else:
        try:
            data = _JSON + msgspec.json.encode(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise StateError(f"export_state returned neither bytes nor a JSON value: {error}") from None
    if len(data) > MAX_BYTES:
        raise StateError(f"export_state returned {len(data)} bytes, more than the {MAX_BYTES} allowed")
    return data


def _decode(data: bytes) -> object:
    if data.startswith(_BYTES):
        return data[len(_BYTES) :]
    try:
        return msgspec.json.decode(data.removeprefix(_JSON))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise StateError("it is damaged") from None


def _contents(path: Path) -> bytes:
    with os.fdopen(open_private(path, os.O_RDONLY), "rb") as file:
        return file.read()


def _replace(path: Path, data: bytes) -> None:
    """Write a private file that is there whole or not at all."""
    fd, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except OSError:
        _remove(Path(name))
        raise


async def _aside(function: Callable[[], _T]) -> _T:
    """Read or write in a thread; in this one where the system has none left."""
    try:
        return await asyncio.to_thread(function)
    except RuntimeError:
        return function()


def _remove(path: Path) -> None:
    """Remove a file of ours, if it is there and its disk lets us."""
    with contextlib.suppress(OSError):
        path.unlink()


def _since(began: float) -> float:
    return round(asyncio.get_running_loop().time() - began, 3)
