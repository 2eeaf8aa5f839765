"""The import of a program or an app for `supervisor check --import`.

Executes the release's code as an import does. A program gets the name ``__mp_main__``, as in the children of
multiprocessing, so Python does not enter the main guard. No client connects: a login raises.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import sys
import threading
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass
from importlib.abc import InspectLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import discord

from bastion.bot import apps, internals, program, survey
from bastion.counted import counted

if TYPE_CHECKING:
    from bastion.bot.checking import Asked

PATIENCE = 3.0
"""Seconds for a program to clean up after a refused login."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of an import."""

    problem: str = ""
    note: str = ""
    kind: str = ""
    intents: int | None = None


class LoginRefused(BaseException):
    """A client wanted to log in. Like KeyboardInterrupt it passes an `except Exception` of the program's."""


def imported(asked: Asked, *, hurried: Callable[[Outcome], NoReturn]) -> Outcome:
    """Import the program or app and describe the client.

    If the program goes on for `PATIENCE` seconds after a refused login, another thread calls ``hurried``.
    """
    refused: list[discord.Client] = []
    _refuse_logins(refused, hurried)
    if asked.path:
        os.environ["PYTHONPATH"] = os.pathsep.join(asked.path)
    try:
        found = [asyncio.run(_app(asked))] if asked.app else _program(asked)
    except BaseException as error:
        return _described(refused[:1]) if refused else _failed(error, asked)
    return _described(refused[:1] or found)


def _refuse_logins(refused: list[discord.Client], hurried: Callable[[Outcome], NoReturn]) -> None:
    async def refuse(client: discord.Client, *_: Any, **__: Any) -> None:
        if not refused:
            timer = threading.Timer(PATIENCE, lambda: hurried(_described(refused[:1])))
            timer.daemon = True
            timer.start()
        refused.append(client)
        raise LoginRefused("`supervisor check` lets no client log in")

    for kind in (discord.Client, discord.AutoShardedClient):
        for name in ("login", "connect"):
            setattr(kind, name, refuse)


async def _app(asked: Asked) -> discord.Client:
    sys.path[:0] = asked.path
    program.go_first_on_path("", asked.directory)
    program.give_way()
    return await apps.load(asked.app, directory=asked.directory, args=asked.args)


def _program(asked: Asked) -> list[discord.Client]:
    """Execute the program without its main guard; return the clients among the module's globals."""
    module = types.ModuleType("__mp_main__")
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    code = _module_code(asked, module) if asked.program.startswith("-m") else _file_code(asked, module)
    sys.argv = [str(module.__file__) if asked.program.startswith("-m") else asked.program, *asked.args]
    exec(code, module.__dict__)
    return list(dict.fromkeys(value for value in vars(module).values() if isinstance(value, discord.Client)))


def _file_code(asked: Asked, module: types.ModuleType) -> types.CodeType:
    file = asked.directory / asked.program
    sys.path[:0] = [str(file.resolve().parent), *asked.path]
    module.__file__ = str(file)
    return compile(file.read_bytes(), str(file), "exec", dont_inherit=True)


def _module_code(asked: Asked, module: types.ModuleType) -> types.CodeType:
    name = asked.program.partition("-m")[2].strip()
    sys.path[:0] = [str(asked.directory), *asked.path]
    importlib.invalidate_caches()
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"{name}.__main__")
    loader = spec.loader if spec else None
    code = loader.get_code(spec.name) if spec and isinstance(loader, InspectLoader) else None
    if spec is None or code is None:
        raise ImportError(f"No code object available for {name}")
    module.__file__, module.__spec__, module.__package__ = spec.origin, spec, spec.parent
    module.__loader__ = spec.loader
    return code


def _described(clients: list[discord.Client]) -> Outcome:
    if not clients:
        return Outcome(note="no client was made while it was imported, so class and intents are not known")
    kinds = [
        next(base.__name__ for base in type(one).__mro__ if base.__module__.startswith("discord.")) for one in clients
    ]
    if len(clients) > 1:
        return Outcome(note=f"has {counted(len(clients), 'client')} ({', '.join(kinds)}), so the intents are not known")
    return Outcome(kind=kinds[0], intents=internals.intents(clients[0]).value)


def _failed(error: BaseException, asked: Asked) -> Outcome:
    """Quote the exception of an import, with a line of the release."""
    cause = error.__cause__ if isinstance(error, apps.AppError) and error.__cause__ else error
    place = _place(cause, asked.directory)
    where = f" ({place})" if place else ""
    missing = next((name for name in asked.withheld if name in str(cause)), None)
    if missing is None:
        text = str(error) if isinstance(error, apps.AppError) else f"{asked.program}: {apps.one_line(error)}"
        return Outcome(problem=text + where)
    found = _described(_seen_from(cause))
    note = f"asks for {missing}, which a check does not give, so the rest is not known: {apps.one_line(cause)}{where}"
    return found if found.kind else Outcome(note=note)


def _seen_from(error: BaseException) -> list[discord.Client]:
    """Return the clients that the program had made before an exception."""
    values = [value for frame, _ in traceback.walk_tb(error.__traceback__) for value in frame.f_locals.values()]
    return list(dict.fromkeys(value for value in values if isinstance(value, discord.Client)))


def _place(error: BaseException, directory: Path) -> str:
    """Return the innermost line of the release in a traceback, as file:line."""
    if isinstance(error, SyntaxError):
        return ""  # it names its own
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_relative_to(directory) and survey.is_looked_at(file, directory):
            return f"{file.relative_to(directory)}:{frame.lineno}"
    return ""
