"""Discord's word that a recovered interaction is too old is no error of the app's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import discord
import pytest
from discord import app_commands

from bastion.bot.gate import Event
from bastion.bot.inflight import current
from bastion.bot.late import TooLate

LOGGER = logging.getLogger("discord.app_commands.tree")


def refused(code: int) -> discord.NotFound:
    response = SimpleNamespace(status=404, reason="Not Found")
    return discord.NotFound(cast(Any, response), {"code": code, "message": "Unknown interaction"})


@pytest.fixture
def counted() -> Iterator[list[None]]:
    found: list[None] = []
    late = TooLate(lambda event: event.at > 50, lambda: found.append(None))
    late.install()
    yield found
    for name in ("app_commands.tree", "ui.view", "ui.modal", "client", "ext.commands.bot"):
        logging.getLogger(f"discord.{name}").removeFilter(late)


def told(caplog: pytest.LogCaptureFixture, error: Exception, *, recovered: bool, at: float = 0.0) -> logging.LogRecord:
    """Log as discord.py does of a handler of an interaction that raised."""
    token = current.set(Event("INTERACTION_CREATE", {"id": "77"}, at, recovered=recovered))
    try:
        with caplog.at_level(logging.INFO):
            LOGGER.error("Ignoring exception in command %r", "ping", exc_info=error)
    finally:
        current.reset(token)
    return caplog.records[-1]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_recovered_interaction_that_came_too_late_is_counted_and_told_in_one_line(
    caplog: pytest.LogCaptureFixture, counted: list[None], wrapped: bool
) -> None:
    error: Exception = refused(10062)
    if wrapped:
        error = app_commands.CommandInvokeError(cast(Any, SimpleNamespace(name="ping")), error)
    record = told(caplog, error, recovered=True)
    assert record.getMessage() == "INTERACTION_CREATE 77 came too late for Discord to take an answer"
    assert (record.levelname, record.name, record.exc_info) == ("INFO", "bastion", None)
    assert len(caplog.records) == 1
    assert len(counted) == 1


def test_so_is_one_that_was_old_when_this_process_read_it(
    caplog: pytest.LogCaptureFixture, counted: list[None]
) -> None:
    record = told(caplog, refused(10062), recovered=False, at=60.0)
    assert record.exc_info is None
    assert len(counted) == 1


@pytest.mark.parametrize(
    ("error", "recovered"), [(refused(10062), False), (refused(10008), True), (ValueError("x"), True)]
)
def test_every_other_error_keeps_its_traceback(
    caplog: pytest.LogCaptureFixture, counted: list[None], error: Exception, recovered: bool
) -> None:
    record = told(caplog, error, recovered=recovered)
    assert record.getMessage() == "Ignoring exception in command 'ping'"
    assert record.exc_info is not None
    assert not counted
