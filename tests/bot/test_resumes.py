"""When a session counts as dead: by Discord's final codes, and by the third refusal or silence."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from bastion.bot.session import resumes
from bastion.bot.session.resumes import FINAL, REFUSALS, Resumes

pytestmark = pytest.mark.anyio

RESUMED = '{"t":"RESUMED","s":9,"op":0,"d":{}}'
EVENT = '{"t":"TYPING_START","s":8,"op":0,"d":{}}'
ACK = '{"t":null,"s":null,"op":11,"d":null}'


class Connection:
    """What discord.py calls a websocket, as far as it is looked at: closed by Discord, by us, or not at all."""

    def __init__(self, by_discord: int | None = None, *, by_us: int | None = None) -> None:
        self._close_code = by_us
        self.socket: Any = self
        self.close_code = by_us if by_us is not None else by_discord
        self.closed_with: int | None = None

    async def close(self, *, code: int) -> None:
        self.closed_with = code


def refused(asked: Resumes, code: int | None, **by: int) -> str | None:
    asked.sent(0, Connection(code, **by))  # type: ignore[arg-type]
    return asked.dead(0)


@pytest.fixture
async def asked() -> Resumes:
    return Resumes()


@pytest.mark.parametrize("code", FINAL)
async def test_a_final_code_is_final(asked: Resumes, code: int) -> None:
    assert refused(asked, code) == f"closed with {code}"


async def test_the_third_refusal_is_one_too_many(asked: Resumes) -> None:
    assert [refused(asked, 1006) for _ in range(REFUSALS - 1)] == [None] * (REFUSALS - 1)
    assert refused(asked, 4000) == "closed with 4000, the 3rd refusal"
    assert asked.dead(0), "until a new session begins"
    asked.forget(0)
    assert asked.dead(0) is None


async def test_refusals_far_apart_are_none(asked: Resumes, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    for number in range(2 * REFUSALS):
        monkeypatch.setattr(time, "monotonic", lambda at=now + 6 * number: at)
        assert refused(asked, 1006) is None


async def test_what_we_have_closed_is_no_refusal(asked: Resumes) -> None:
    assert [refused(asked, None, by_us=4000) for _ in range(2 * REFUSALS)] == [None] * 2 * REFUSALS


async def test_what_was_accepted_is_forgotten(asked: Resumes) -> None:
    for _ in range(2 * REFUSALS):
        assert refused(asked, 1006) is None
        asked.sent(0, Connection())  # type: ignore[arg-type]
        assert not asked.heard(0, EVENT)
        assert asked.waits(0)
        assert asked.heard(0, RESUMED)
        assert not asked.waits(0)


@pytest.mark.parametrize(("brings", "closed_with"), [((), 4000), ((ACK,), 4000), ((EVENT,), None), ((RESUMED,), None)])
async def test_a_connection_on_which_nothing_comes_is_closed(
    asked: Resumes, monkeypatch: pytest.MonkeyPatch, brings: tuple[str, ...], closed_with: int | None
) -> None:
    monkeypatch.setattr(resumes, "SILENCE_SECONDS", 0.02)
    monkeypatch.setattr(resumes, "READ_SECONDS", 0.01)
    connection = Connection()
    asked.sent(0, connection)  # type: ignore[arg-type]
    for text in brings:
        asked.heard(0, text)
    await asyncio.sleep(0.1)
    assert connection.closed_with == closed_with


async def test_a_loop_that_was_blocked_reads_first(asked: Resumes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumes, "SILENCE_SECONDS", 0.02)
    connection = Connection()
    asked.sent(0, connection)  # type: ignore[arg-type]
    time.sleep(0.1)  # noqa: ASYNC251 - this is the block
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asked.heard(0, RESUMED)
    await asyncio.sleep(0.3)
    assert connection.closed_with is None


async def test_whoever_has_to_resume_again_and_again_waits_longer_each_time(
    asked: Resumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three are as fast as they can be: after those the session is dead, if they were refused."""
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pauses = []
    for _ in range(7):
        pauses.append(asked.pause(0))
        now += pauses[-1]
    assert pauses == [0.0, 0.0, 0.0, 0.25, 0.5, 1.0, 1.0]
    assert asked.pause(1) == 0.0, "each shard for itself"
    now += resumes.WITHIN_SECONDS + 1
    assert asked.pause(0) == 0.0


async def test_an_unanswered_resume_is_known_as_such(asked: Resumes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumes, "SILENCE_SECONDS", 0.02)
    monkeypatch.setattr(resumes, "READ_SECONDS", 0.01)
    asked.sent(0, Connection())  # type: ignore[arg-type]
    assert not asked.unanswered(0)
    await asyncio.sleep(0.1)
    assert asked.unanswered(0)
