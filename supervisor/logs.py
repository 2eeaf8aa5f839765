"""Log lines: the supervisor's own and those of its children, in one stream.

Knows how a line looks; knows nothing of where it comes from. A child's line is marked with its generation. No text can
look like a line of somebody else's: what would end a line or steer a terminal is escaped, and each further line of a
record, such as a traceback's, begins like the first one, with a bar.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from bastion.supervisor.printable import line_of, wants_colour

_LEVEL = re.compile(r"\b(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
_LEVEL_WITHIN = 64
"""Characters at the beginning of a line in which a level is looked for: later it is a word of the message."""
_LONGEST = 8000
"""Characters of a line that are shown. The journal cuts at 48 KiB, and the rest would begin like a line of its own."""
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""Levels and journald's priorities, the worst first; what is below has 7 (debug)."""

_logger = logging.getLogger("supervisor")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line. ``at`` is in seconds since the epoch; ``generation`` None means the supervisor itself."""

    at: float
    generation: int | None
    text: str
    level: int = logging.INFO

    def __str__(self) -> str:
        """Give the line as an operator sees it: ``2026-01-01T12:00:00Z gen 3: text``."""
        return "\n".join(_lines(self.text, at=self.at, generation=self.generation, colour=False))


class Formatter(logging.Formatter):
    """Formats a record as `LogLine` shows itself; one without a generation is the supervisor's."""

    def __init__(self, *, colour: bool = False) -> None:
        """``colour``: keep the colours of a line, which else are left out."""
        super().__init__("%(message)s")
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Prefix each line of the record with the time and with who says it."""
        return "\n".join(self.lines(record))

    def lines(self, record: logging.LogRecord) -> list[str]:
        """Return the lines of the record and of its traceback."""
        generation = getattr(record, "generation", None)
        return _lines(super().format(record), at=record.created, generation=generation, colour=self._colour)


class JournalFormatter(Formatter):
    """The same for journald: each line begins with its priority (sd-daemon(3)).

    A child's line has the priority that it names: in the form of our runtime, of discord.py, or any other that has the
    level near its beginning.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Prefix every line of the record: journald cuts at newlines."""
        level = record.levelno
        if getattr(record, "generation", None) is not None:
            found = _LEVEL.search(record.getMessage(), 0, _LEVEL_WITHIN)
            level = logging.getLevelNamesMapping()[found[0]] if found else logging.INFO
        priority = next((number for least, number in _PRIORITIES if level >= least), 7)
        return "\n".join(f"<{priority}>{line}" for line in self.lines(record))


def is_journal(stream: TextIO, *, environ: Mapping[str, str]) -> bool:
    """Say whether a stream goes to systemd's journal: $JOURNAL_STREAM names its device and inode."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _lines(text: str, *, at: float, generation: int | None, colour: bool) -> list[str]:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    begin = f"{stamp} {'supervisor' if generation is None else f'gen {generation}'}:"
    first, *more = (line_of(_cut(line), colour=colour) for line in text.split("\n"))
    return [f"{begin} {first}", *(f"{begin} | {line}" for line in more)]


def _cut(line: str) -> str:
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ... (cut)"


def to_logging(line: LogLine) -> None:
    """Hand a line to the standard logging, where `configure` or the embedding program decides what becomes of it."""
    _logger.log(line.level, "%s", line.text, extra={"generation": line.generation})


def configure(stream: TextIO | None = None, *, environ: Mapping[str, str]) -> None:
    """Print what the logger ``supervisor`` and those below it get to ``stream`` (stderr by default), and asyncio's.

    ``environ`` says whether that is the journal, which is given priorities, or a terminal with colours.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    journal, colour = is_journal(stream, environ=environ), wants_colour(stream, environ=environ)
    handler.setFormatter(JournalFormatter() if journal else Formatter(colour=colour))
    _logger.handlers[:] = [handler]
    _logger.setLevel(logging.INFO)
    _logger.propagate = False
    logging.getLogger("asyncio").handlers[:] = [handler]


def remark(text: str) -> str:
    """Return a warning of the supervisor's in the form that `configure` has set, with its newline."""
    record = _logger.makeRecord(_logger.name, logging.WARNING, "", 0, "%s", (text,), None)
    return "".join(f"{handler.format(record)}\n" for handler in _logger.handlers[:1])
