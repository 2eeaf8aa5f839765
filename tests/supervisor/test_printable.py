"""No text can end a line or steer a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion.supervisor.console import plain
from bastion.supervisor.printable import escaped, line_of

SEPARATORS = ("\n", "\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")
RED, RESET = "\x1b[1;31m", "\x1b[0m"


@pytest.mark.parametrize("steering", [*SEPARATORS, "\0", "\x1b", "\x07", "\x9b", "\u202e", "\udcff"])
def test_what_steers_is_written_out(steering: str) -> None:
    assert escaped(f"a{steering}b") == f"a{ascii(steering)[1:-1]}b".replace("\\0", "\\x00")


@pytest.mark.parametrize("text", ["", "a\tb", "Grüße, 世界 👩\u200d🚀", "שלום \u200f!", "back\\slash"])
def test_all_else_stays(text: str) -> None:
    assert escaped(text) == text


@given(st.text(st.characters(codec=None)))
def test_it_is_always_one_line_that_can_be_encoded(text: str) -> None:
    for shown in (escaped(text), plain(text), line_of(text, colour=False)):
        assert len(shown.splitlines()) <= 1
        assert "\x1b" not in shown
        shown.encode()


class TestColours:
    def test_are_kept_and_end_with_the_line(self) -> None:
        assert line_of(f"{RED}red", colour=True) == f"{RED}red{RESET}"

    def test_are_left_out_where_there_is_no_terminal(self) -> None:
        assert line_of(f"{RED}red{RESET} tape", colour=False) == "red tape"

    @pytest.mark.parametrize(
        "sequence", ["\x1b[2K", "\x1b[1A", "\x1b]0;title\x07", "\x1bc", "\x9b31m", "\x1b[31", "\x1b[?25l"]
    )
    @pytest.mark.parametrize("colour", [True, False])
    def test_no_other_sequence_is_one(self, sequence: str, colour: bool) -> None:
        assert line_of(f"a{sequence}b", colour=colour) == escaped(f"a{sequence}b")
        assert "\x1b" not in escaped(f"a{sequence}b")
