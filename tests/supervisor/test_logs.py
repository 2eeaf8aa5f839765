"""What a log line looks like, whoever wrote it."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bastion.supervisor import logs
from bastion.supervisor.logs import LogLine


@pytest.fixture
def stream(restored: None) -> io.StringIO:
    stream = io.StringIO()
    logs.configure(stream, environ={})
    return stream


@pytest.fixture
def restored() -> Iterator[None]:
    """Afterwards the logger is as it was."""
    logger = logging.getLogger("supervisor")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])
    logging.getLogger("asyncio").handlers.clear()


def test_a_line_says_when_and_who() -> None:
    assert str(LogLine(at=1767225600.9, generation=3, text="ready")) == "2026-01-01T00:00:00Z gen 3: ready"
    assert str(LogLine(at=1767225600.9, generation=None, text="ready")) == "2026-01-01T00:00:00Z supervisor: ready"


@pytest.mark.parametrize(
    "separator", ["\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "\0", "\x1b[1G"]
)
def test_one_line_in_is_one_line_out(stream: io.StringIO, separator: str) -> None:
    logs.to_logging(LogLine(at=0, generation=3, text=f"a{separator}2026-01-01T00:00:00Z supervisor: b"))
    (line,) = stream.getvalue().splitlines()
    assert re.fullmatch(r"\S+Z gen 3: a\\\S+2026-01-01T00:00:00Z supervisor: b", line)


def test_what_an_exception_says_looks_like_no_line_of_the_supervisors(stream: io.StringIO) -> None:
    try:
        raise ValueError("x\ngeneration 9 is active")
    except ValueError:
        logging.getLogger("supervisor.control").exception("a request failed")
    first, *more = stream.getvalue().splitlines()
    assert first.endswith("Z supervisor: a request failed")
    assert all(re.match(r"\S+Z supervisor: \| ", line) for line in more)
    assert more[-1].endswith("Z supervisor: | generation 9 is active")


def test_what_asyncio_says_is_told_like_all_else(stream: io.StringIO) -> None:
    logging.getLogger("asyncio").error("Task exception was never retrieved\nValueError: x")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("Z supervisor: Task exception was never retrieved")
    assert second.endswith("Z supervisor: | ValueError: x")


def test_a_long_line_is_cut_so_that_the_journal_does_not_cut_it(stream: io.StringIO) -> None:
    logs.to_logging(LogLine(at=0, generation=3, text="\u2028" * 64_000))
    assert stream.getvalue().endswith(" ... (cut)\n")
    assert len(stream.getvalue().encode()) < 48 * 1024


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "environ", "shown"),
    [
        (Terminal(), {}, "\x1b[31mred\x1b[0m\\x1b[2K\x1b[0m"),
        (Terminal(), {"NO_COLOR": "1"}, "red\\x1b[2K"),
        (io.StringIO(), {}, "red\\x1b[2K"),
    ],
)
@pytest.mark.usefixtures("restored")
def test_colours_are_for_terminals(stream: io.StringIO, environ: dict[str, str], shown: str) -> None:
    logs.configure(stream, environ=environ)
    logs.to_logging(LogLine(at=0, generation=3, text="\x1b[31mred\x1b[0m\x1b[2K"))
    assert stream.getvalue().endswith(f" gen 3: {shown}\n")


def test_lines_and_records_of_the_supervisors_modules_look_alike(stream: io.StringIO) -> None:
    logs.to_logging(LogLine(at=0, generation=3, text="100 %s"))
    logging.getLogger("supervisor.control").warning("a client %s", "left")
    first, second = stream.getvalue().splitlines()
    assert first.endswith("Z gen 3: 100 %s")
    assert second.endswith("Z supervisor: a client left")


class TestJournal:
    def prefixed(self, text: str, *, generation: int | None = 1, level: int = logging.INFO) -> str:
        record = logging.LogRecord("supervisor", level, "", 0, text, (), None)
        record.generation = generation
        return logs.JournalFormatter().format(record)

    @pytest.mark.parametrize(
        ("level", "priority"),
        [
            (logging.DEBUG, 7),
            (logging.INFO, 6),
            (logging.WARNING, 4),
            (logging.ERROR, 3),
            (logging.CRITICAL, 2),
        ],
    )
    def test_the_supervisors_lines_have_the_priority_of_their_level(self, level: int, priority: int) -> None:
        assert self.prefixed("an ERROR", generation=None, level=level).startswith(f"<{priority}>20")

    @pytest.mark.parametrize(
        ("text", "priority"),
        [
            ("ERROR discord.client: broke", 3),
            ("WARNING discord.gateway: slow", 4),
            ("DEBUG x: y", 7),
            ("[2026-01-01 12:00:00] [CRITICAL] discord.client: gone", 2),
            ("12:00:00 | ERROR    | mybot.cogs:12 - broke", 3),
            ("handled 3 ERRORS", 6),
            ("no level here", 6),
            ("x" * 70 + " ERROR", 6),
        ],
    )
    def test_a_bots_line_has_the_priority_that_it_names(self, text: str, priority: int) -> None:
        assert self.prefixed(text).startswith(f"<{priority}>20")

    @pytest.mark.parametrize("text", ["<0>x", "x\r<0>x", "x\0<0>x", "x\x85<0>x", "x\u2028<0>x"])
    def test_a_bot_gives_no_line_another_one(self, text: str) -> None:
        (line,) = self.prefixed(text).splitlines()
        assert re.match(r"<6>\S+Z gen 1: (x\S+)?<0>x$", line)

    def test_each_line_of_a_traceback_has_one(self) -> None:
        assert [
            line[:3]
            for line in self.prefixed("broke\nTraceback\n  here", level=logging.ERROR, generation=None).splitlines()
        ] == ["<3>"] * 3

    def test_it_is_the_journal_only_if_device_and_inode_are_the_streams(self, tmp_path: Path) -> None:
        with (tmp_path / "log").open("w") as stream:
            found = os.fstat(stream.fileno())
            assert logs.is_journal(stream, environ={"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
            assert not logs.is_journal(stream, environ={"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
            assert not logs.is_journal(stream, environ={})
        assert not logs.is_journal(io.StringIO(), environ={"JOURNAL_STREAM": "1:1"})
