"""The app: ``module:attribute`` in a release's directory, and the small program that starts it.

Knows import paths and the four client classes; knows nothing of pipes or gates.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import discord

from bastion.bot import survey


class AppError(Exception):
    """The app cannot be used. The text is one line that says why."""


def run(spec: str, *, directory: Path, args: Sequence[str] = (), remark: Callable[[str], None]) -> None:
    """Be the program that an app does without: load it and start its client, with the token of the environment.

    ``remark`` is told what a program of the app's own would have done beside that. It runs until the client is closed.
    Raises `AppError`, and whatever the client raises.
    """

    async def main() -> None:
        client = await load(spec, directory=directory, args=args)
        _log_by_default()
        if skipped := survey.told_so(directory, spec):
            remark(skipped)
        async with client:
            await client.start(os.environ.get("DISCORD_TOKEN", ""))

    asyncio.run(main())


def _log_by_default() -> None:
    """Write the log to stderr, unless the app has set up logging by itself."""
    if not logging.getLogger("discord").handlers:  # of the root logger, basicConfig looks itself
        logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)


async def load(spec: str, *, directory: Path, args: Sequence[str] = ()) -> discord.Client:
    """Import ``module:attribute`` from the release and return the client that it is, or that it makes.

    A callable that is not a client is called without arguments, and awaited if it is a coroutine function. An app that
    runs its client when it is imported fails, for an event loop runs already. The release's folder must be on the path
    (`program.go_first_on_path`). Raises `AppError`.
    """
    return await made(find(spec, directory=directory, args=args), spec)


def find(spec: str, *, directory: Path, args: Sequence[str] = ()) -> object:
    """Import ``module:attribute`` and return the attribute as it is. Raises `AppError`."""
    module_name, separator, attribute = spec.partition(":")
    if not separator or not module_name or not attribute:
        raise AppError(f'bot.app = "{spec}" is not of the form "module:attribute"')
    sys.argv = [module_name, *args]
    return _import(module_name, attribute, spec, directory)


async def made(value: object, spec: str) -> discord.Client:
    """Return a client: the attribute itself, or the result of calling it. Raises `AppError`."""
    if not isinstance(value, discord.Client) and callable(value):
        value = await _call(value, spec)
    if not isinstance(value, discord.Client):
        raise AppError(
            f'bot.app = "{spec}" is {_a(value)}, not a discord.py client: name a Client, AutoShardedClient, Bot or '
            "AutoShardedBot, or a callable that returns one"
        )
    return value


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
            file = f"{module_name.replace('.', '/')}.py"
            raise AppError(
                f'bot.app = "{spec}": {module_name} runs the bot when it is imported; write bot.program = "{file}" '
                'instead, or move that under `if __name__ == "__main__":`'
            ) from None
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


async def _call(value: object, spec: str) -> object:
    assert callable(value)
    try:
        made = value()
        return await made if inspect.isawaitable(made) else made
    except (Exception, SystemExit) as error:
        raise AppError(f'bot.app = "{spec}" raised when called: {one_line(error)}') from error


def one_line(error: BaseException) -> str:
    """Return an exception as one line: its type and the first line of what it says."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def _a(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
