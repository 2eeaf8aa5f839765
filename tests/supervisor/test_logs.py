"""What a log line looks like, whoever wrote it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from supervisor import logs
from supervisor.logs import LogLine


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    logger = logging.getLogger("supervisor")
    before = (logger.handlers[:], logger.level, logger.propagate)
    stream = io.StringIO()
    logs.configure(stream)
    yield stream
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def test_a_line_says_when_and_who() -> None:
    assert str(LogLine(at=1767225600.9, generation=3, text="ready")) == "2026-01-01T00:00:00Z gen 3: ready"
    assert str(LogLine(at=1767225600.9, generation=None, text="ready")) == "2026-01-01T00:00:00Z supervisor: ready"


def test_lines_and_records_of_the_supervisors_modules_look_alike(stream: io.StringIO) -> None:
    logs.to_logging(LogLine(at=0, generation=3, text="100 %s"))
    logging.getLogger("supervisor.control").warning("a client %s", "left")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("Z gen 3: 100 %s")
    assert second.endswith("Z supervisor: a client left")
