"""The answer for a control that nothing knows any more: once, in time, and only if the app does not answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import discord
import pytest

from bastion.bot.expired import ExpiredControls
from bastion.bot.inflight import InFlight, current

pytestmark = pytest.mark.anyio

TEXT = "Please run the command again."


class Event:
    """What a handler descends from."""

    decision: bool | None = True

    def describe(self) -> str:
        return "INTERACTION_CREATE 1"


class Interaction:
    """Notes its answers; ``fails`` is raised in place of one."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.answers: list[tuple[str, bool]] = []
        self.fails = fails
        self.response = self

    def is_done(self) -> bool:
        return bool(self.answers)

    async def send_message(self, text: str, *, ephemeral: bool = False) -> None:
        if self.fails is not None:
            raise self.fails
        self.answers.append((text, ephemeral))


def http_error(kind: type[discord.HTTPException], status: int, code: int) -> discord.HTTPException:
    answer: Any = SimpleNamespace(status=status, reason="no")
    return kind(answer, {"code": code, "message": "no"})


class Child:
    """Takes strangers as a gate does."""

    def __init__(self, text: str = TEXT) -> None:
        self.inflight = InFlight()
        self.inflight.install(asyncio.get_running_loop())
        self.expired = ExpiredControls(text, self.inflight)

    async def take(self, interaction: Interaction, *handlers: Callable[[], Awaitable[Any]], left: float = 3.0) -> None:
        """Take an interaction that these handlers hear, and wait until all is done."""
        event = Event()
        token = current.set(event)
        try:
            for handler in handlers:
                asyncio.create_task(handler(), name="discord.py: on_interaction")  # type: ignore[arg-type]  # noqa: RUF006
            self.expired.take(event, interaction, left)  # type: ignore[arg-type]
        finally:
            current.reset(token)
        await asyncio.wait([task for task in self.inflight.beside() if "expired" in task.get_name()] or [_nothing()])


def _nothing() -> asyncio.Task[None]:
    return asyncio.create_task(asyncio.sleep(0))


async def test_it_is_answered_once_for_its_user_alone() -> None:
    child, interaction = Child(), Interaction()
    await child.take(interaction)
    assert interaction.answers == [(TEXT, True)]
    assert child.expired.answered == 1


async def test_without_a_text_it_is_left_to_discord() -> None:
    child, interaction = Child(""), Interaction()
    await child.take(interaction)
    assert interaction.answers == []


async def test_an_app_that_answers_it_itself_goes_first() -> None:
    child, interaction = Child(), Interaction()

    async def slow_answer() -> None:
        await asyncio.sleep(0.1)
        await interaction.send_message("mine")

    await child.take(interaction, slow_answer)
    assert interaction.answers == [("mine", False)]
    assert child.expired.answered == 0


async def test_an_app_that_hears_it_and_does_not_answer_is_answered_for_when_all_its_handlers_have_ended() -> None:
    child, interaction = Child(), Interaction()
    order: list[int] = []

    async def logs() -> None:
        await asyncio.sleep(0.05)
        order.append(len(interaction.answers))

    async def begins_another() -> None:
        asyncio.create_task(logs())  # noqa: RUF006

    await child.take(interaction, logs, begins_another)
    assert order == [0, 0]
    assert interaction.answers == [(TEXT, True)]


async def test_an_app_that_takes_longer_than_discord_waits_is_left_alone() -> None:
    child, interaction = Child(), Interaction()
    thinking = asyncio.Event()
    await child.take(interaction, thinking.wait, left=0.35)
    assert interaction.answers == []
    thinking.set()


@pytest.mark.parametrize(
    "error",
    [
        http_error(discord.HTTPException, 400, 40060),
        http_error(discord.NotFound, 404, 10062),
        http_error(discord.DiscordServerError, 500, 0),
        discord.InteractionResponded(SimpleNamespace(type=None)),  # type: ignore[arg-type]
        aiohttp.ClientConnectionError("gone"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_an_answer_that_discord_refuses_is_no_more_than_a_debug_line(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    child = Child()
    await child.take(Interaction(error))
    records = [record for record in caplog.records if record.name == "bastion"]
    assert [record.levelno for record in records] == [logging.DEBUG]
    assert not records[0].exc_info
    assert child.expired.answered == 0
