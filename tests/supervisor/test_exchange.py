"""What two supervisors tell each other of their bots' sessions, in files."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from bastion.supervisor.exchange import Exchange, forget, leave, wants_in
from bastion.wire import Mirror, Overlap, Wants, claimer

OLD, NEW = 1, 2
BOT = claimer(NEW, 1)
WANTS = Wants(
    application=1,
    account="a",
    api_url="http://127.0.0.1",
    intents=1,
    shards=2,
    ids=[0, 1],
    any_count=True,
    library="2.7",
    stream=1,
    members=0,
    messages=True,
    chunks=False,
)
MIRROR = Mirror(path="/ledger/stream", shows="aa", expects="bb", shards=2, ids=[0, 1])


@pytest.fixture
def old(tmp_path: Path) -> Exchange:
    return Exchange(tmp_path, OLD)


@pytest.fixture
def new(tmp_path: Path) -> Exchange:
    return Exchange(tmp_path, NEW)


def test_a_question_is_read_by_others_and_answered_once(old: Exchange, new: Exchange) -> None:
    new.ask(BOT, WANTS)
    assert new.questions() == {}
    (file,) = old.questions().values()
    assert wants_in(file) == WANTS
    assert new.answer_to(BOT) is None
    old.answer(BOT, MIRROR)
    assert new.answer_to(BOT) == MIRROR
    assert new.answer_to(BOT) is None


def test_what_has_secrets_is_for_our_user_alone(tmp_path: Path, old: Exchange) -> None:
    old.answer(BOT, MIRROR)
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_bot_that_is_gone_leaves_nothing(tmp_path: Path, old: Exchange, new: Exchange) -> None:
    new.ask(BOT, WANTS)
    old.answer(BOT, Overlap(why="other intents"))
    new.withdraw(BOT)
    assert list(tmp_path.iterdir()) == []
    new.withdraw(BOT)


@pytest.mark.parametrize("data", [b"", b"{", b'{"type":"wants","intents":"many"}', b"\xff" * 100])
def test_garbage_asks_for_nothing_and_answers_nothing(
    tmp_path: Path, old: Exchange, new: Exchange, data: bytes
) -> None:
    (tmp_path / f"{BOT}.wants").write_bytes(data)
    (file,) = old.questions().values()
    assert wants_in(file) is None
    (tmp_path / f"{BOT}.answer").write_bytes(data)
    with pytest.raises(ValueError):
        new.answer_to(BOT)


def test_a_link_is_not_followed(tmp_path: Path, new: Exchange) -> None:
    (tmp_path / f"{BOT}.answer").symlink_to("/etc/passwd")
    assert new.answer_to(BOT) is None


def test_what_the_dead_have_asked_is_forgotten_and_who_leaves_takes_its_own_away(
    tmp_path: Path, old: Exchange, new: Exchange
) -> None:
    new.ask(BOT, WANTS)
    old.ask(claimer(OLD, 3), WANTS)
    forget(tmp_path, living={OLD})
    assert [file.name for file in tmp_path.iterdir()] == [f"{claimer(OLD, 3)}.wants"]
    leave(tmp_path, OLD)
    assert list(tmp_path.iterdir()) == []
