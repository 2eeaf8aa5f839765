"""State that an app carries from one process to the next: `export_state` and `import_state` of its client.

The old child exports when it has taken its last event, into a private file beside the ledger; the new one imports
before it handles its first. An active child also exports every so often: should it crash, that *checkpoint* is given to
its successor, before that handles what the dead one has missed. Each step has limits of time and size, and whatever
goes wrong costs the state alone.

Knows hooks, files and limits; knows nothing of roles, events or pipes.
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
from bastion.wire.private import open_private

_log = logging.getLogger("bastion.state")

MAX_BYTES = 16 * 1024 * 1024
"""Size of an exported state at most."""

MARGIN = 0.5
"""Seconds beyond the old child's limit for which a new child waits for the state."""

_BYTES, _JSON = b"bytes\n", b"json\n"

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
    """What one child exports and imports. ``base`` is the path that all the state's files begin with."""

    def __init__(self, base: str, *, generation: int, limits: Limits) -> None:
        self._handed_over = Path(f"{base}.state-{generation}")
        self._checkpoint = Path(f"{base}.checkpoint")
        self._limits = limits
        self._export: Hook | None = None
        self._import: Hook | None = None
        self._message: wire.Import | None = None
        self._came = asyncio.Event()
        self._alone = asyncio.Lock()
        self._over = False

    def attach(self, client: object) -> None:
        """Find the hooks of a client. A class that names one None has none."""
        self._export = getattr(client, "export_state", None)
        self._import = getattr(client, "import_state", None)

    @property
    def exports(self) -> bool:
        """Whether the app gives state."""
        return self._export is not None

    @property
    def imports(self) -> bool:
        """Whether the app takes state."""
        return self._import is not None

    async def export(self) -> wire.Exported:
        """Export for the successor. Never raises, and takes little longer than the limit."""
        began = asyncio.get_running_loop().time()
        size, reason = 0, None
        try:
            size = await self._write(self._handed_over)
        except StateError as error:
            reason = str(error)
            _log.error("the state is not carried over: %s", reason, exc_info=error.__cause__)
        return wire.Exported(
            file=None if reason else str(self._handed_over), reason=reason, seconds=_since(began), size=size
        )

    def arrived(self, message: wire.Import) -> None:
        """Take the supervisor's word that the old child's state is there, or that there is none."""
        if self._over and message.file is not None:
            _remove(Path(message.file))  # too late: events have been handled without it
        else:
            self._message = message
            self._came.set()

    async def take_over(self) -> wire.Imported:
        """Wait for the old child's state and import it. Never raises, and has an end."""
        patience = self._limits.timeout + MARGIN
        try:
            async with asyncio.timeout(patience):
                await self._came.wait()
        except TimeoutError:
            return self._failed("handoff", f"the old bot gave none within {patience:g} s")
        finally:
            self._over = True
        message = self._message
        assert message is not None
        if message.file is not None:
            return await self._read("handoff", Path(message.file))
        if message.crashed and self._checkpoint.exists():
            return await self._read("checkpoint", self._checkpoint)
        return self._failed("handoff", message.reason or "the old bot gave none")

    async def take_checkpoint(self) -> wire.Imported | None:
        """Import what a predecessor left that crashed. None: it left nothing, or the app takes nothing."""
        self._over = True
        if self._import is None or not self._checkpoint.exists():
            return None
        return await self._read("checkpoint", self._checkpoint)

    async def keep_checkpoints(self) -> None:
        """Export every so often, at once for the first time. Runs until it is cancelled."""
        if self._export is None or not self._limits.checkpoint:
            _remove(self._checkpoint)  # a predecessor's: by now it is out of date
            return
        failed = False
        while True:
            try:
                await self._write(self._checkpoint)
                failed = False
            except StateError as error:
                if not failed:
                    _log.error("no checkpoint of the state: %s", error, exc_info=error.__cause__)
                failed = True
            await asyncio.sleep(self._limits.checkpoint)

    async def _write(self, path: Path) -> int:
        """Export into a file. Returns its size; raises `StateError`."""
        assert self._export is not None
        async with self._alone:
            value = await _limited(self._export, limit=self._limits.timeout, name="export_state")
            data = _encode(value)
            try:
                await _aside(partial(_replace, path, data))
            except OSError as error:
                raise StateError(f"{path} cannot be written: {error.strerror or error}") from None
        return len(data)

    async def _read(self, source: Source, path: Path) -> wire.Imported:
        """Import a file. It is put aside meanwhile: state that kills one process must not kill each successor too."""
        assert self._import is not None
        began = asyncio.get_running_loop().time()
        aside = path.with_name(f"{path.name}.taken")
        try:
            path.rename(aside)
            data = await _aside(partial(_contents, aside))
            await _limited(self._import, _decode(data), limit=self._limits.timeout, name="import_state")
        except (OSError, StateError) as error:
            _remove(aside)
            return self._failed(source, str(error), error.__cause__)
        if source == "checkpoint":
            with contextlib.suppress(OSError):
                aside.rename(path)  # until this child writes its own: it may fail before it is active
        else:
            _remove(aside)
        _log.info("the state is carried over (%s, %d bytes)", source, len(data))
        return wire.Imported(source=source, seconds=_since(began))

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
        raise StateError("the file is damaged") from None


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
