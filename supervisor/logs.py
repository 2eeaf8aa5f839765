"""Log lines: the supervisor's own and those of its children, in one stream.

Knows how a line looks; knows nothing of where it comes from. A child's line is marked with its generation.
"""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from typing import TextIO

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


def _shown(text: str, *, at: float, generation: int | None) -> str:
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
    return f"{stamp} {'supervisor' if generation is None else f'gen {generation}'}: {text}"


def to_logging(line: LogLine) -> None:
    """Hand a line to the standard logging, where `configure` or the embedding program decides what becomes of it."""
    _logger.log(line.level, "%s", line.text, extra={"generation": line.generation})


def configure(stream: TextIO | None = None) -> None:
    """Print what the logger ``supervisor`` and those below it get to ``stream`` (stderr by default)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(Formatter("%(message)s"))
    _logger.handlers[:] = [handler]
    _logger.setLevel(logging.INFO)
    _logger.propagate = False
