"""What Discord refuses because it came too late: one quiet line in the place of a traceback.

A recovered interaction is tried where it is not known to be too old, and one that has waited while this process stood
still is run as discord.py does; Discord is the judge (10062). Its refusal is then no error of the app's. Knows how
discord.py logs what a handler raises.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import discord

from bastion.bot.gate import Event
from bastion.bot.inflight import current

_log = logging.getLogger("bastion")

UNKNOWN_INTERACTION = 10062
_LOGGERS = ("app_commands.tree", "ui.view", "ui.modal", "client", "ext.commands.bot")


class TooLate(logging.Filter):
    """Replaces what discord.py says of interactions that came too late for Discord to take an answer."""

    def __init__(self, came_late: Callable[[Event], bool], expired: Callable[[], None]) -> None:
        """``came_late`` says whether one that is not recovered was old when it came; ``expired`` is called for each."""
        super().__init__()
        self._came_late = came_late
        self._expired = expired

    def install(self) -> None:
        """Look at all that discord.py says of handlers that have raised."""
        for name in _LOGGERS:
            logging.getLogger(f"discord.{name}").addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep a record back if it is of that kind, and say the same in a line of our own."""
        event = current.get()
        if not (isinstance(event, Event) and record.exc_info and is_too_late(record.exc_info[1])):
            return True
        if not (event.recovered or self._came_late(event)):
            return True
        self._expired()
        _log.info("%s came too late for Discord to take an answer", event.describe())
        return False


def is_too_late(error: BaseException | None) -> bool:
    """Say whether Discord's word that an interaction is too old is behind an error."""
    while error is not None:
        if isinstance(error, discord.NotFound) and error.code == UNKNOWN_INTERACTION:
            return True
        error = getattr(error, "original", None) or error.__cause__ or error.__context__
    return False
