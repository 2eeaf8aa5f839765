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
from bastion.bot.sessions import DeadSession, SessionFile, SessionFileError
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


def test_the_events_of_the_handlers_that_were_running_are_named(living: SessionFile, path: Path) -> None:
    over = living.began("MESSAGE_CREATE 1")
    living.began("MESSAGE_CREATE 2")
    living.began("MESSAGE_CREATE 2")
    over()
    assert successor(path).running() == (["MESSAGE_CREATE 2", "MESSAGE_CREATE 2"], 0)


def test_a_slot_that_is_used_again_has_nothing_of_the_longer_event_before(living: SessionFile, path: Path) -> None:
    living.began("GUILD_SCHEDULED_EVENT_USER_REMOVE 123")()
    living.began("TYPING_START")
    assert successor(path).running() == (["TYPING_START"], 0)


@pytest.mark.parametrize(("event", "kept"), [("x" * 200, "x" * 63), ("ü" * 200, "ü" * 31 + "\ufffd")])
def test_only_the_beginning_of_a_long_name_is_kept(living: SessionFile, path: Path, event: str, kept: str) -> None:
    living.began(event)
    living.began("TYPING_START")
    assert successor(path).running() == ([kept, "TYPING_START"], 0)


def test_more_handlers_than_there_is_room_for_are_counted(living: SessionFile, path: Path) -> None:
    for _ in range(2):  # places are used again
        overs = [living.began(f"MESSAGE_CREATE {number + 1}") for number in range(sessions.MAX_RUNNING + 3)]
        names, more = successor(path).running()
        assert (names, more) == ([f"MESSAGE_CREATE {number + 1}" for number in range(sessions.MAX_RUNNING)], 3)
        for over in reversed(overs):
            over()
        assert successor(path).running() == ([], 0)


def test_a_successor_writes_beside_the_names_that_it_found(living: SessionFile, path: Path) -> None:
    living.began("MESSAGE_CREATE 1")
    successor(path).began("MESSAGE_CREATE 2")
    assert sorted(successor(path).running()[0]) == ["MESSAGE_CREATE 1", "MESSAGE_CREATE 2"]


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
        file.began("MESSAGE_CREATE 9")
        os.write(writing, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(reading, 1)
    os.kill(child, 9)
    os.waitpid(child, 0)
    os.close(reading)
    os.close(writing)
    assert [found.sequence for found in successor(path).sessions()] == [41]
    assert successor(path).running() == (["MESSAGE_CREATE 9"], 0)


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
