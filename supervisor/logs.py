"""Log lines: the supervisor's own and those of its children, in one stream.

Knows how a line looks; knows nothing of where it comes from. A child's line is marked with its generation.
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

_LEVEL = re.compile(r"\b(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
_LEVEL_WITHIN = 64
"""Characters at the beginning of a line in which a level is looked for: later it is a word of the message."""
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
        return _shown(self.text, at=self.at, generation=self.generation)


class Formatter(logging.Formatter):
    """Formats a record as `LogLine` shows itself; one without a generation is the supervisor's."""

    def format(self, record: logging.LogRecord) -> str:
        """Prefix the record's text (and a traceback's) with the time and with who says it."""
        return _shown(super().format(record), at=record.created, generation=getattr(record, "generation", None))


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
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def is_journal(stream: TextIO, *, environ: Mapping[str, str]) -> bool:
    """Say whether a stream goes to systemd's journal: $JOURNAL_STREAM names its device and inode."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _shown(text: str, *, at: float, generation: int | None) -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    return f"{stamp} {'supervisor' if generation is None else f'gen {generation}'}: {text}"


def to_logging(line: LogLine) -> None:
    """Hand a line to the standard logging, where `configure` or the embedding program decides what becomes of it."""
    _logger.log(line.level, "%s", line.text, extra={"generation": line.generation})


def configure(stream: TextIO | None = None, *, journal: bool = False) -> None:
    """Print what the logger ``supervisor`` and those below it get to ``stream`` (stderr by default).

    ``journal``: with priorities for journald.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JournalFormatter("%(message)s") if journal else Formatter("%(message)s"))
    _logger.handlers[:] = [handler]
    _logger.setLevel(logging.INFO)
    _logger.propagate = False
