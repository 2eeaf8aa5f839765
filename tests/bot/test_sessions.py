"""The session file: what a successor reads of a process that was killed at any moment."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mounts import small

from bastion.bot import sessions
from bastion.bot.sessions import ID, DeadSession, SessionFile, SessionFileError, keys_in_hand
from bastion.wire import FORMER, beside_former, sessions_path
from bastion.wire.private import is_held

TOKEN = "a-token-that-nobody-may-see"
PARENT = 77


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger-sessions-1"


@pytest.fixture
def living(path: Path) -> Iterator[SessionFile]:
    file = SessionFile.create(path, token=TOKEN, supervisor=PARENT)
    yield file
    file.close()


def successor(path: Path) -> SessionFile:
    return SessionFile.open(path, token=TOKEN, supervisor=PARENT)


def begin(file: SessionFile, shard: int = 0, session: str = "abc") -> None:
    file.session(shard=shard, shards=2, session=session, gateway="wss://resume.invalid", intents=1, began=7.5)


def test_a_successor_reads_each_session_and_the_last_sequence_handed_over(living: SessionFile, path: Path) -> None:
    begin(living)
    begin(living, shard=1, session="def")
    living.handed(0, 5)
    living.handed(1, 2**40)
    assert successor(path).sessions() == [
        DeadSession(shard=0, shards=2, session="abc", gateway="wss://resume.invalid", sequence=5, intents=1, began=7.5),
        DeadSession(
            shard=1, shards=2, session="def", gateway="wss://resume.invalid", sequence=2**40, intents=1, began=7.5
        ),
    ]


def test_a_successor_reads_under_which_number_the_child_claimed(path: Path) -> None:
    SessionFile.create(path, token=TOKEN, supervisor=PARENT, claimer=2**40 + 3).close()
    assert successor(path).claimer == 2**40 + 3


def test_a_successor_reads_when_the_child_was_last_seen_to_read(living: SessionFile, path: Path) -> None:
    assert 0 <= time.monotonic() - successor(path).reading_at < 60, "nothing could be unread"
    living.reading_at = 1234.5
    assert successor(path).reading_at == 1234.5


def test_a_session_of_which_nothing_was_handed_over_is_not_recovered(living: SessionFile, path: Path) -> None:
    begin(living)
    assert successor(path).sessions() == []


def test_a_new_session_of_a_shard_takes_the_place_of_the_old_one(living: SessionFile, path: Path) -> None:
    begin(living)
    living.handed(0, 900)
    begin(living, session="xyz")
    assert successor(path).sessions() == [], "the old sequence means nothing in the new session"
    living.handed(0, 1)
    assert [found.session for found in successor(path).sessions()] == ["xyz"]


def test_a_record_that_was_being_written_is_not_believed_and_hides_no_other(living: SessionFile, path: Path) -> None:
    begin(living)
    begin(living, shard=1, session="def")
    living.handed(0, 5)
    living.handed(1, 6)
    body = path.read_bytes().index(b'"abc"')
    with path.open("r+b") as file:
        file.seek(body + 1)
        file.write(b"?")
    assert [found.session for found in successor(path).sessions()] == ["def"]


def test_a_successor_carries_the_sequence_on_for_the_next_one(living: SessionFile, path: Path) -> None:
    begin(living)
    living.handed(0, 5)
    successor(path).handed(0, 9)
    assert [found.sequence for found in successor(path).sessions()] == [9]


def test_the_handlers_that_were_running_are_named(living: SessionFile, path: Path) -> None:
    first = living.began("discord.py: on_message (MESSAGE_CREATE 1)")
    living.began("discord.py: on_message (MESSAGE_CREATE 2)")
    living.ended(first)
    living.began("ü" * 200)
    names, more = successor(path).running()
    assert sorted(name[:45] for name in names) == ["discord.py: on_message (MESSAGE_CREATE 2)", "ü" * 45]
    assert more == 0


def test_a_handler_that_is_noted_by_kind_and_id_is_named_by_who_reads(living: SessionFile, path: Path) -> None:
    message, typing = living.kind(f"on_message (MESSAGE{ID})"), living.kind(f"on_typing (TYPING{ID})")
    assert living.kind(f"on_message (MESSAGE{ID})") == message != typing
    first = living.began_as(message, 2**64 - 1)
    second = living.began_as(typing, 0)
    third = living.began("in full")
    assert sorted(successor(path).running()[0]) == [
        "in full",
        "on_message (MESSAGE 18446744073709551615)",
        "on_typing (TYPING)",
    ]
    assert first is not None
    assert second is not None
    first()
    second()
    living.ended(third)
    assert successor(path).running() == ([], 0)
    with pytest.raises(ValueError, match="invalid value"):
        living.began_as(message, 2**64)


def test_a_successor_reads_the_key_that_was_in_hand(living: SessionFile, path: Path) -> None:
    assert successor(path).in_hand is None
    living.take_in_hand("MESSAGE_CREATE:1")
    living.take_in_hand("abc#7")
    assert successor(path).in_hand == "abc#7"
    living.let_go()
    assert successor(path).in_hand is None


def test_a_key_that_does_not_fit_is_in_nobodys_hand(living: SessionFile, path: Path) -> None:
    living.take_in_hand("k" * 128)
    assert successor(path).in_hand is None


def test_what_others_have_in_hand_is_read_from_beside_ones_own_file(living: SessionFile, path: Path) -> None:
    others = [
        SessionFile.create(path.with_name(f"ledger-sessions-{n}"), token=TOKEN, supervisor=PARENT) for n in (2, 34)
    ]
    for file, key in zip((living, *others), ("own", "abc#7", "MESSAGE_CREATE:1"), strict=True):
        file.take_in_hand(key)
    path.with_name("ledger-sessions-5").touch()
    path.with_name("ledger-sessions-6").mkdir()
    path.with_name("another-ledger-sessions-7").write_bytes(b"\x03key" * 200)
    assert keys_in_hand(path) == {"abc#7", "MESSAGE_CREATE:1"}
    others[0].let_go()
    assert keys_in_hand(path) == {"MESSAGE_CREATE:1"}
    assert keys_in_hand(path / "gone" / "ledger-sessions-1") == set()
    for file in others:
        file.close()


def test_places_for_handlers_are_used_again_and_there_is_an_end_to_them(living: SessionFile, path: Path) -> None:
    kind = living.kind(f"handler{ID}")
    for number in range(3 * sessions.MAX_RUNNING):
        over = living.began_as(kind, number + 1)
        assert over is not None
        assert successor(path).running() == ([f"handler {number + 1}"], 0)
        over()
    overs = [living.began_as(kind, number) for number in range(sessions.MAX_RUNNING + 1)]
    assert overs.count(None) == 1
    assert overs[-1] is None
    assert len(successor(path).running()[0]) == sessions.MAX_RUNNING


def test_there_is_room_for_so_many_kinds_and_for_names_of_ordinary_length(living: SessionFile) -> None:
    kinds = [living.kind(f"kind {number}") for number in range(sessions.MAX_KINDS + 1)]
    assert kinds == [*range(1, sessions.MAX_KINDS + 1), 0]
    assert living.kind("x" * 200) == 0


def test_more_handlers_than_there_is_room_for_are_counted(living: SessionFile, path: Path) -> None:
    slots = [living.began(f"handler {number}") for number in range(sessions.MAX_RUNNING + 3)]
    names, more = successor(path).running()
    assert (len(names), more) == (sessions.MAX_RUNNING, 3)
    for slot in slots:
        living.ended(slot)
    assert successor(path).running() == ([], 0)


def test_a_successor_writes_beside_the_names_that_it_found(living: SessionFile, path: Path) -> None:
    living.began("the dead one's")
    successor(path).began("the successor's")
    assert sorted(successor(path).running()[0]) == ["the dead one's", "the successor's"]


def test_more_shards_than_there_is_room_for_are_left_out(living: SessionFile, path: Path) -> None:
    for shard in range(sessions.MAX_SHARDS + 2):
        begin(living, shard=shard)
        living.handed(shard, 1)
    assert len(successor(path).sessions()) == sessions.MAX_SHARDS


def test_a_gateway_address_that_does_not_fit_is_left_out(living: SessionFile, path: Path) -> None:
    living.session(shard=0, shards=1, session="abc", gateway="wss://" + "x" * 600, intents=1)
    living.handed(0, 1)
    assert successor(path).sessions() == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"", "damaged"),
        (b"nonsense", "damaged"),
        (bytes(sessions._SIZE), "damaged"),
    ],
)
def test_a_file_that_is_none_says_so(path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SessionFileError, match=said):
        successor(path)


def test_a_file_of_another_token_or_another_supervisor_is_not_used(living: SessionFile, path: Path) -> None:
    with pytest.raises(SessionFileError, match="token"):
        SessionFile.open(path, token="other", supervisor=PARENT)
    with pytest.raises(SessionFileError, match="supervisor"):
        SessionFile.open(path, token=TOKEN, supervisor=PARENT + 1)


def test_the_file_is_private_small_and_does_not_contain_the_token(living: SessionFile, path: Path) -> None:
    begin(living)
    living.handed(0, 1)
    assert path.stat().st_mode & 0o777 == 0o600
    assert TOKEN.encode() not in path.read_bytes()
    assert path.stat().st_size <= path.stat().st_blocks * 512 <= 600 * 1024, "there is room for all that will be noted"


def test_a_file_for_which_there_is_no_room_is_not_made(path: Path, tmp_path: Path) -> None:
    """To find that out with the first store would end the process."""
    with small(tmp_path, "256k"), pytest.raises(OSError, match="No space left"):
        SessionFile.create(path, token=TOKEN, supervisor=PARENT)


def test_a_file_that_an_earlier_run_left_is_replaced(living: SessionFile, path: Path) -> None:
    begin(living)
    living.handed(0, 1)
    inode = path.stat().st_ino
    SessionFile.create(path, token=TOKEN, supervisor=PARENT).close()
    assert path.stat().st_ino != inode or successor(path).sessions() == []
    assert successor(path).sessions() == []


def test_what_is_noted_survives_a_kill(path: Path) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        file = SessionFile.create(path, token=TOKEN, supervisor=PARENT)
        begin(file)
        file.handed(0, 41)
        file.began("on_message")
        file.began_as(file.kind(f"on_edit (EDIT{ID})"), 9)
        os.write(writing, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(reading, 1)
    os.kill(child, 9)
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)
    assert [found.sequence for found in successor(path).sessions()] == [41]
    assert successor(path).running() == (["on_edit (EDIT 9)", "on_message"], 0)


def former(tmp_path: Path, *, read: float = 1.0) -> SessionFile:
    """Make the file of the bot of an earlier supervisor; it was last seen to read so many seconds ago."""
    made = SessionFile.create(Path(sessions_path(str(tmp_path / "ledger"), FORMER)), token=TOKEN, supervisor=PARENT)
    made.reading_at = time.monotonic() - read
    begin(made)
    begin(made, shard=1, session="def")
    made.handed(0, 5)
    made.handed(1, 7)
    return made


def test_what_a_killed_supervisors_bot_left_is_read_with_what_another_bot_had_taken_of_it(tmp_path: Path) -> None:
    former(tmp_path).close()
    other = SessionFile.create(Path(f"{beside_former(str(tmp_path / 'ledger'))}4"), token=TOKEN, supervisor=PARENT)
    begin(other)
    begin(other, shard=1, session="another")
    other.handed(0, 9)
    other.handed(1, 99)
    other.close()
    Path(f"{beside_former(str(tmp_path / 'ledger'))}5").write_text("damaged")
    found = sessions.former_file(str(tmp_path / "ledger"), token=TOKEN)
    assert [(one.session, one.sequence) for one in found.sessions()] == [("abc", 9), ("def", 7)]
    found.close()


@pytest.mark.parametrize("read", [sessions.RESUMABLE_SECONDS + 1, -60.0])
def test_sessions_that_nobody_has_read_for_long_or_of_another_boot_are_not_resumed(tmp_path: Path, read: float) -> None:
    former(tmp_path, read=read).close()
    with pytest.raises(SessionFileError, match="too long ago"):
        sessions.former_file(str(tmp_path / "ledger"), token=TOKEN)


def test_of_two_supervisors_one_goes_on_with_the_sessions_of_a_dead_bot(tmp_path: Path) -> None:
    SessionFile.create(tmp_path / "file", token=TOKEN, supervisor=1).close()
    first, second = (SessionFile.open(tmp_path / "file", token=TOKEN, supervisor=None) for _ in range(2))
    assert not first.taken
    assert first.take(1)
    assert second.taken
    assert not second.take(2)
    assert second.take(1), "the next bot of the same supervisor goes on"
    first.close()
    second.close()


HOLDER = """
import sys
from pathlib import Path
from bastion.bot.sessions import SessionFile
file = SessionFile.create(Path(sys.argv[1]), token="t" * 20, supervisor=1)
print("made", flush=True)
sys.stdin.read()
"""


def test_whoever_looks_knows_whether_the_bot_lives_whose_file_it_is(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert not is_held(path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as bot:
        assert bot.stdout is not None
        bot.stdout.readline()
        assert is_held(path)
        bot.kill()
    assert not is_held(path)
