"""Finding and loading the app: ``module:attribute`` in a release's directory.

Knows import paths and the four client classes; knows nothing of pipes or gates.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import discord

_OURS = ("bot", "supervisor", "sandbox")


class AppError(Exception):
    """The app cannot be used. The text is one line that says why."""


def load(spec: str, *, directory: Path, args: Sequence[str] = ()) -> discord.Client:
    """Import ``module:attribute`` from the release and return the client that it is, or that it makes.

    Call it from within a running event loop: an app that runs its client when it is imported then fails instead.

    A callable that is not a client is called without arguments; a coroutine function is refused, as there is no loop
    that it could keep. The release's own modules come first, also where they are named like ours. Raises `AppError`.
    """
    return made(find(spec, directory=directory, args=args), spec)


def find(spec: str, *, directory: Path, args: Sequence[str] = ()) -> object:
    """Import ``module:attribute`` and return the attribute as it is. Raises `AppError`."""
    module_name, separator, attribute = spec.partition(":")
    if not separator or not module_name or not attribute:
        raise AppError(f'bot.app = "{spec}" is not of the form "module:attribute"')
    sys.argv = [module_name, *args]
    _make_first(directory)
    return _import(module_name, attribute, spec, directory)


def made(value: object, spec: str) -> discord.Client:
    """Return the client that an attribute is, or that it makes. Raises `AppError`."""
    if not isinstance(value, discord.Client) and callable(value):
        value = _call(value, spec)
    return checked(value, spec)


def checked(value: object, spec: str) -> discord.Client:
    """Return what is a client. Raises `AppError` for what is none."""
    if not isinstance(value, discord.Client):
        raise AppError(
            f'bot.app = "{spec}" is {_a(value)}, not a discord.py client: name a Client, AutoShardedClient, Bot or '
            "AutoShardedBot, or a callable that returns one"
        )
    return value


def _make_first(directory: Path) -> None:
    path = str(directory)
    sys.path[:] = [path, *(entry for entry in sys.path if entry != path)]
    for root in _OURS:
        candidates = (directory / f"{root}.py", directory / root / "__init__.py")
        loaded = getattr(sys.modules.get(root), "__file__", None)
        own = next((candidate for candidate in candidates if candidate.is_file()), None)
        if own is None or (loaded is not None and own.resolve() == Path(loaded).resolve()):
            continue
        # A bot.py of the release's own: this runtime is loaded by now and needs its names no more.
        for name in [name for name in sys.modules if name == root or name.startswith(f"{root}.")]:
            del sys.modules[name]
    importlib.invalidate_caches()


def _import(module_name: str, attribute: str, spec: str, directory: Path) -> object:
    try:
        value: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise AppError(f'bot.app = "{spec}": there is no module {error.name} in {directory}') from None
        raise AppError(f'bot.app = "{spec}" cannot be imported: {one_line(error)}') from error
    except (Exception, SystemExit) as error:
        if isinstance(error, RuntimeError) and "running event loop" in str(error):
            _close_unstarted(error.__traceback__)
            raise AppError(
                f'bot.app = "{spec}": {module_name} runs the bot when it is imported; move that under '
                '`if __name__ == "__main__":`'
            ) from error
        raise AppError(f'bot.app = "{spec}" cannot be imported: {one_line(error)}') from error
    try:
        for part in attribute.split("."):
            value = getattr(value, part)
    except AttributeError:
        raise AppError(f'bot.app = "{spec}": module {module_name} has no "{attribute}"') from None
    return value


def _close_unstarted(trace: TracebackType | None) -> None:
    """Close what the app would have run, or Python warns on stderr that it was never awaited."""
    for frame, _ in traceback.walk_tb(trace):
        for value in frame.f_locals.values():
            if inspect.iscoroutine(value) and inspect.getcoroutinestate(value) == inspect.CORO_CREATED:
                value.close()


def _call(value: object, spec: str) -> object:
    assert callable(value)
    if inspect.iscoroutinefunction(value):
        raise AppError(f'bot.app = "{spec}" is a coroutine function: make it a plain function that returns the client')
    try:
        made = value()
    except (Exception, SystemExit) as error:
        raise AppError(f'bot.app = "{spec}" raised when called: {one_line(error)}') from error
    if asyncio.iscoroutine(made):
        made.close()
        raise AppError(f'bot.app = "{spec}" returned a coroutine: it must return the client itself')
    return made


def one_line(error: BaseException) -> str:
    """Return an exception as one line: its type and the first line of what it says."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _a(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
