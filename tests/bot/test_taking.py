"""Where the mirror goes on with a session, whatever the stream has brought."""

from __future__ import annotations

from typing import Any

import pytest

from bastion.bot.session.notes import End
from bastion.bot.session.taking import Taking


class Nothing:
    """A handover and a peer, of whom nothing is wanted."""

    def resume(self, shard: int) -> None:
        """A stand-in closes."""


@pytest.fixture
def taking() -> Taking:
    nothing: Any = Nothing()
    made = Taking(nothing, nothing, [0, 1])
    made.noted(0, End(sequence=10, at=0.0))
    return made


def test_a_session_goes_on_where_the_holder_stopped(taking: Taking, caplog: pytest.LogCaptureFixture) -> None:
    assert taking.resume_from(0, 10) == 10
    assert taking.resume_from(0, 12) == 12, "its connection was cut again after that"
    assert taking.resume_from(1, 5) == 5, "it has not been stopped"
    assert caplog.text == ""


def test_a_copy_that_is_missing_is_said_and_its_event_is_not_handled_twice(
    taking: Taking, caplog: pytest.LogCaptureFixture
) -> None:
    assert taking.resume_from(0, 8) == 10
    assert "shard 0: events 9 to 10 were handled by the old bot and have not come here" in caplog.text
