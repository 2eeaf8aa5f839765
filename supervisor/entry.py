"""The ways to name a bot: script, module, or app; and their notation.

Knows texts, not files: `release` looks for a script, the child looks for a module.
"""

from __future__ import annotations

from dataclasses import dataclass

SHIPPED = "bastion.bot.bastion:create"
"""The bot that ships, as an app. Runs if the settings name neither a program nor an app."""
SHIPPED_BEFORE = "bot.bastion:create"
"""Name of the shipped bot in versions without the import root ``bastion``."""
PROGRAM_ALLOWED = 'a file such as "main.py", or a module such as "-m mybot"'
APP_ALLOWED = '"module:attribute", such as "mybot.main:bot"'
_MODULE = "-m "


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """Program and arguments on the command line. They win over the settings file, at the start and at each reload."""

    program: str = ""
    """As ``bot.program``; empty: the file decides."""
    args: tuple[str, ...] | None = None
    """As ``bot.args``; None: the file decides."""


def module_of(program: str) -> str:
    """Return the module that ``bot.program`` names, "" if it names a script."""
    return program.removeprefix(_MODULE) if program.startswith(_MODULE) else ""


def read_program(text: str) -> str:
    """Return ``bot.program`` with one space behind ``-m``. Raises `ValueError`, see `PROGRAM_ALLOWED`."""
    if not text.startswith("-"):
        return text
    flag, *names = text.split()
    if flag != _MODULE.strip() or len(names) != 1 or not _is_dotted(names[0]):
        raise ValueError(text)
    return f"{_MODULE}{names[0]}"


def read_app(text: str) -> str:
    """Return ``bot.app``. Raises `ValueError`, see `APP_ALLOWED`."""
    module, colon, attribute = text.partition(":")
    if text and not (colon and _is_dotted(module) and _is_dotted(attribute)):
        raise ValueError(text)
    return text


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))
