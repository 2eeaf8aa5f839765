"""What the operator sees: tables, progress and the timeline, from plain data."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from fake_engine import a_status

from bastion.supervisor import console
from bastion.supervisor.console import Mark, outcome_text, reload_view, status_text, timeline_text

NOW = datetime(2026, 1, 1, 12, 0, 10, tzinfo=UTC)


def a_status_object() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(msgspec.json.encode(a_status()))
    return found


def test_the_table_shows_each_childs_state() -> None:
    text = status_text(a_status_object(), now=NOW)
    header, row = (line.split("  ") for line in text.splitlines()[2:4])
    cells = dict(zip(filter(None, map(str.strip, header)), filter(None, map(str.strip, row)), strict=True))
    assert cells == {
        "gen": "2",
        "role": "active",
        "pid": "4242",
        "shards": "1/2",
        "guilds": "1,200",
        "memory": "88 MB",
        "cpu": "3%",
        "in flight": "2",
        "handled": "10,234",
        "beat": "1.0 s",
        "up": "10.0 s",
        "release": "/srv/bot/releases/42",
    }
    assert "shards not ready: resuming: 1" in text


def test_the_table_says_for_how_long_a_shard_has_been_away_and_why() -> None:
    status = a_status_object()
    shards = status["children"][0]["shards"]
    shards[1] |= {"away": 34.04, "why": "closed with 4009"}
    line = "generation 2, shards not ready: resuming: 1; away for 34.0 s: closed with 4009"
    assert line in status_text(status, now=NOW)
    shards[0] |= {"state": "waiting", "away": 90.0, "why": "the connection broke (1006)"}
    line = "waiting: 0; resuming: 1; 0 the longest, away for 1 min 30 s: the connection broke (1006)"
    assert line in status_text(status, now=NOW)


def test_the_table_tells_a_spare_from_a_new_bot() -> None:
    status = a_status_object()
    status["children"][0] |= {"role": "standby", "spare": True}
    assert "standby, spare" in status_text(status, now=NOW)


def test_the_table_says_that_an_old_child_stays_for_what_people_have_open() -> None:
    status = a_status_object()
    status["children"][0] |= {"role": "draining", "lingering": 3}
    assert "draining, lingers (3 left)" in status_text(status, now=NOW)
    assert "\x1b[33mdraining, lingers" in status_text(status, now=NOW, colour=True)


def test_the_table_says_what_had_to_be_dropped() -> None:
    status = a_status_object()
    status["last_handoff"] |= {"overflowed": 1200}
    assert "replayed 7, expired 0, dropped 1,200\n" in status_text(status, now=NOW)


def test_the_table_says_how_the_last_handoff_ended() -> None:
    text = status_text(a_status_object(), now=NOW)
    assert "last handoff: reload 1 -> 2 succeeded after 4.2 s, begun 10.0 s ago" in text
    assert "connecting 3.0 s, draining 1.2 s" in text
    assert "replayed 7, expired 0\n" in text
    assert "cut before it was done: discord.py: on_message" in text
    assert "IDENTIFYs left: 990 of 1,000, reset in 2 h 0 min, max_concurrency 1" in text


def test_the_table_says_what_became_of_a_dead_bot_s_sessions() -> None:
    status = a_status_object()
    assert "sessions" not in status_text(status, now=NOW)
    status["last_handoff"]["recovered"] = {"sessions": 4, "lost": 0, "unheard_seconds": 0.0, "missed": 12}
    assert "sessions of the dead bot: 4, lost 0; events missed: 12" in status_text(status, now=NOW)
    status["last_handoff"]["recovered"] = {"sessions": 4, "lost": 1, "unheard_seconds": 7.25, "missed": 0}
    assert "lost 1; events missed: unknown, for about 7.2 s" in status_text(status, now=NOW)


def test_what_was_not_observed_yet_is_a_dash() -> None:
    status = a_status_object()
    for name in ("guilds", "rss_bytes", "cpu_percent", "last_beat_at"):
        status["children"][0][name] = None
    status["children"][0]["shards"] = []
    status["last_handoff"] = status["session_start_limit"] = None
    text = status_text(status, now=NOW)
    assert text.splitlines()[3].split().count("-") == 5
    assert "last handoff: none yet" in text


def test_a_supervisor_without_children_says_so() -> None:
    assert "no child runs" in status_text(a_status_object() | {"children": []}, now=NOW)


def test_a_status_of_another_version_is_still_shown() -> None:
    assert "no child runs" in status_text({})
    assert "1" in status_text({"children": [{"generation": 1}], "last_handoff": {"kind": "reload"}})


def test_nothing_that_a_bot_names_moves_the_cursor() -> None:
    status = a_status_object()
    status["children"][0]["release"] = "/srv/\x1b[2J\n\x07evil"
    status["last_handoff"]["reason"] = "\x1b]0;title\x07"
    assert console._UNPRINTABLE.sub("", status_text(status, now=NOW).replace("\n", "")).isprintable()
    assert "\x1b" not in status_text(status, now=NOW)


def test_colours_come_only_when_asked_for_and_leave_columns_aligned() -> None:
    status = a_status_object()
    coloured = status_text(status, now=NOW, colour=True)
    assert "\x1b[32mactive\x1b[0m" in coloured
    for code in ("\x1b[0m", "\x1b[1m", "\x1b[32m"):
        coloured = coloured.replace(code, "")
    assert coloured == status_text(status, now=NOW)


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        ({"result": "succeeded", "generation": 4}, "reload succeeded after 1.5 s: generation 4 is active"),
        (
            {
                "result": "succeeded",
                "generation": 4,
                "handoff": {"session": "moved", "pause_ms": 30.7, "identifies": 0},
            },
            "reload succeeded after 1.5 s: generation 4 is active, with the old one's sessions "
            "(longest pause 31 ms, 0 IDENTIFYs)",
        ),
        (
            {"result": "succeeded", "generation": 4, "handoff": {"session": "overlap", "why": "w", "identifies": 3}},
            "reload succeeded after 1.5 s: generation 4 is active, with sessions of its own (w; 3 IDENTIFYs)",
        ),
        (
            {"result": "succeeded", "generation": 4, "lingering": 3},
            "reload succeeded after 1.5 s: generation 4 is active; "
            "the old one stays for 3 views and conversations that are open",
        ),
        (
            {"result": "succeeded", "generation": 4, "remarks": ["two commands are gone"]},
            "reload succeeded after 1.5 s: generation 4 is active\nnote: two commands are gone",
        ),
        (
            {"result": "failed", "reason": "no such module.", "generation": 3},
            "reload failed after 1.5 s: no such module. Generation 3 goes on serving.",
        ),
        (
            {"result": "refused", "reason": "the supervisor stops", "generation": None},
            "reload refused after 1.5 s: the supervisor stops. No generation is active.",
        ),
    ],
)
def test_an_outcome_is_one_line_with_result_reason_and_meaning_and_one_for_each_remark(
    outcome: dict[str, Any], text: str
) -> None:
    assert outcome_text(outcome, command="reload", seconds=1.5) == text


def progress(ready: int) -> dict[str, Any]:
    return {"phase": "connecting", "message": "waits for a permit", "shards_ready": ready, "shards_total": 4}


def test_progress_that_is_not_on_a_terminal_is_a_line_for_each_change() -> None:
    stream = io.StringIO()
    with reload_view(stream) as view:
        for ready in (0, 0, 3):
            view.show(progress(ready))
    assert stream.getvalue().splitlines() == [
        "connecting: waits for a permit (0/4 shards ready)",
        "connecting: waits for a permit (3/4 shards ready)",
    ]


def test_progress_on_a_terminal_is_a_bar_with_phase_shards_and_what_it_waits_for() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with reload_view(stream) as view:
        view.show(progress(3) | {"message": "waits for [shard] 3"})
    shown = stream.getvalue()
    for word in ("connecting", "3/4 shards", "waits for [shard] 3"):
        assert word in shown


SECONDS = [{1: 80}, {1: 80}, {1: 40, 2: 40}, {2: 80}, {}, {2: 8}]


class TestTheTimeline:
    def test_each_generation_has_a_row_of_blocks_scaled_to_its_counts(self) -> None:
        rows = timeline_text(SECONDS, []).splitlines()
        assert rows[1] == "generation 1  ██▄"
        assert rows[2] == "generation 2    ▄█ ▁"
        assert rows[3].strip() == "one column is 1 s, the tallest block 80 answers"

    def test_reloads_are_drawn_where_they_happened_with_how_they_ended(self) -> None:
        marks = [
            Mark(label="reload 1", start=1.0, end=3.5, good=True),
            Mark(label="reload 2", start=4.2, end=4.9, good=False),
        ]
        rows = timeline_text(SECONDS, marks).splitlines()
        assert rows[3] == "reload 1       ──✔"
        assert rows[4] == "reload 2          ✘"

    def test_it_can_do_without_unicode(self) -> None:
        assert timeline_text(SECONDS, [Mark(label="r", start=0, end=1, good=False)], unicode=False).isascii()

    @pytest.mark.parametrize("length", [0, 1, 61, 90, 1000])
    def test_it_fits_a_hundred_columns(self, length: int) -> None:
        seconds = [{1: number + 1, 12: 1} for number in range(length)]
        marks = [Mark(label="reload 1", start=0, end=length + 5, good=True)]
        assert max(map(len, timeline_text(seconds, marks).splitlines())) <= 100

    def test_not_one_answer_is_lost_to_rounding(self) -> None:
        assert "▁" in timeline_text([{1: 100_000}, {1: 1}], []).splitlines()[1]
