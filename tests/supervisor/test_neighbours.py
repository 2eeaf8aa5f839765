"""Supervisors that share a ledger know each other by locks, which nothing that is left behind can hold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from test_machine import (
    World,
    called,
    joined_by_another,
    serving,
    stopping,
    waiting_to_be_called,
    waiting_to_try_again,
    yielding,
)

from bastion.supervisor import neighbours, sessionfiles
from bastion.supervisor.ledgerdir import Place, ledger_place
from bastion.supervisor.neighbours import (
    Neighbour,
    Register,
    Stage,
    join,
    leave,
    must_wait,
    register_of,
    report,
    stage_of,
    verdict,
)
from bastion.supervisor.state import Relief
from bastion.wire import checkpoint_path, claimer, sessions_path, supervisor_of

MEMBER = """
import sys, time
from pathlib import Path
from bastion.supervisor.neighbours import Register, Stage, join
register = Register(join(Path(sys.argv[1])))
register.tell(Stage[sys.argv[2]])
print(register.number, flush=True)
sys.stdin.read()
"""


def other(number: int, stage: Stage, *, alive: bool = True, still: bool = False) -> Neighbour:
    return Neighbour(number=number, stage=stage, alive=alive, still=still, bot_gone=not alive)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "claims.sqlite3"


@contextmanager
def member(ledger: Path, stage: str) -> Iterator[subprocess.Popen[str]]:
    """Another supervisor, in a process of its own; gives it once it is in the register."""
    words = [sys.executable, "-c", MEMBER, str(ledger), stage]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip().isdigit()
            yield process
        finally:
            process.kill()


# --- what follows from who is there -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("others", "company", "relief", "free"),
    [
        ([], False, Relief.NONE, True),
        ([other(1, Stage.ACTIVE)], True, Relief.THERE, False),
        ([other(1, Stage.STARTING)], True, Relief.COMING, False),
        ([other(1, Stage.YIELDING)], True, Relief.NONE, True),
        ([other(1, Stage.LEAVING)], True, Relief.NONE, True),
        ([other(9, Stage.ARRIVING)], True, Relief.COMING, True),
        ([other(9, Stage.READY)], True, Relief.COMING, True),
        ([other(1, Stage.READY)], True, Relief.COMING, False),
        ([other(1, Stage.ARRIVING)], True, Relief.COMING, True),
        ([other(1, Stage.YIELDING), other(3, Stage.READY)], True, Relief.COMING, False),
        ([other(1, Stage.LEAVING), other(9, Stage.ACTIVE)], True, Relief.THERE, False),
        ([other(1, Stage.ACTIVE, alive=False)], False, Relief.COMING, True),
        ([other(1, Stage.LEAVING, alive=False)], False, Relief.NONE, True),
        ([other(1, Stage.ACTIVE, still=True)], True, Relief.COMING, True),
        ([other(1, Stage.STARTING, still=True)], True, Relief.COMING, True),
        ([other(1, Stage.READY, still=True)], True, Relief.COMING, True),
        ([other(1, Stage.LEAVING, still=True)], True, Relief.NONE, True),
        ([other(1, Stage.ACTIVE, still=True), other(3, Stage.READY)], True, Relief.COMING, False),
        ([other(1, Stage.ACTIVE, still=True), other(9, Stage.READY)], True, Relief.COMING, True),
        ([other(1, Stage.ACTIVE, still=True), other(3, Stage.ACTIVE)], True, Relief.THERE, False),
    ],
)
def test_what_the_others_mean_for_number_five(
    others: list[Neighbour], company: bool, relief: Relief, free: bool
) -> None:
    found = verdict(5, others)
    assert (found.company, found.relief, found.free) == (company, relief, free)


def test_the_sessions_of_one_that_died_are_named_once_its_bot_is_gone() -> None:
    died = replace(other(1, Stage.ACTIVE, alive=False), holder=4)
    ends = replace(died, bot_gone=False)
    assert (verdict(5, [died]).dead, verdict(5, [died]).free) == (claimer(1, 4), True)
    assert (verdict(5, [ends]).dead, verdict(5, [ends]).free) == (0, False)


def test_the_sessions_of_a_bot_that_died_are_named_though_its_supervisor_lives() -> None:
    waits = replace(other(1, Stage.ARRIVING), holder=4, bot_gone=True)
    assert (verdict(5, [waits]).dead, verdict(5, [waits]).free) == (claimer(1, 4), True)


def test_of_two_that_died_the_one_that_served_has_the_sessions() -> None:
    served, came, left = other(1, Stage.ACTIVE), other(2, Stage.READY), other(3, Stage.LEAVING)
    dead = [replace(one, alive=False, bot_gone=True, holder=1) for one in (served, came, left)]
    assert verdict(5, dead).dead == claimer(1, 1)


def test_one_that_stands_still_is_named_and_so_is_one_that_came_later() -> None:
    still = replace(other(1, Stage.ACTIVE, still=True), holder=4)
    assert verdict(5, [still]).still == claimer(1, 4)
    assert verdict(5, [other(7, Stage.ACTIVE)]).younger
    assert not verdict(5, [other(1, Stage.ACTIVE)]).younger


@pytest.mark.parametrize(
    ("others", "waits"),
    [
        ([other(1, Stage.ACTIVE)], True),
        ([other(1, Stage.ARRIVING)], True),
        ([other(1, Stage.ACTIVE, still=True)], True),
        ([], False),
        ([other(1, Stage.ACTIVE, alive=False)], False),
        ([other(7, Stage.ARRIVING)], False),
    ],
)
def test_the_first_bot_waits_where_a_supervisor_that_came_earlier_is_there(
    others: list[Neighbour], waits: bool
) -> None:
    assert must_wait(5, others) is waits


def test_of_two_that_start_at_once_one_does_not_wait() -> None:
    both = [other(1, Stage.ARRIVING), other(2, Stage.ARRIVING)]
    assert [must_wait(own, [one for one in both if one.number != own]) for own in (1, 2)] == [False, True]


@pytest.mark.parametrize("name", ["5000000000000000000000", "00000000000012345678901234567890", "\u0663", "-3", "1e3"])
def test_a_file_whose_name_is_no_number_that_was_ever_given_means_nothing(ledger: Path, name: str) -> None:
    register_of(ledger).mkdir(mode=0o700)
    (register_of(ledger) / name).write_bytes(b"rubbish")
    register = Register(join(ledger))
    assert (register.number, register.look()) == (1, [])
    leave(register.membership)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/etc/passwd")])
def test_what_is_no_file_of_ours_is_nobody(ledger: Path, make: Callable[[Path], object]) -> None:
    register_of(ledger).mkdir(mode=0o700)
    make(register_of(ledger) / "7")
    register = Register(join(ledger))
    assert register.look() == []
    leave(register.membership)


def test_one_whose_file_is_removed_knows(ledger: Path) -> None:
    register = Register(join(ledger))
    assert not register.is_lost()
    (register_of(ledger) / "1").unlink()
    assert register.is_lost()
    leave(register.membership)


@pytest.mark.parametrize(
    ("world", "stage"),
    [
        (World.begun, Stage.STARTING),
        (serving, Stage.ACTIVE),
        (joined_by_another, Stage.ACTIVE),
        (waiting_to_be_called, Stage.READY),
        (waiting_to_try_again, Stage.ARRIVING),
        (lambda: called(waiting_to_be_called()), Stage.STARTING),
        (yielding, Stage.YIELDING),
        (stopping, Stage.LEAVING),
    ],
)
def test_what_the_others_are_told(world: object, stage: Stage) -> None:
    assert callable(world)
    state = world().state
    assert stage_of(state) is stage


def test_claimers_of_two_supervisors_differ_though_their_generations_do_not() -> None:
    assert claimer(0, 3) == 3
    assert claimer(1, 3) != claimer(2, 3)
    assert supervisor_of(claimer(2, 3)) == 2
    assert claimer(2**40, 2**20 - 1) < 2**63, "an integer of SQLite's"


# --- the register ---------------------------------------------------------------------------------------------------


def test_members_see_each_other_until_they_leave(ledger: Path) -> None:
    first, second = Register(join(ledger)), Register(join(ledger))
    second.tell(Stage.READY)
    assert first.look() == [other(second.number, Stage.READY)]
    assert second.look() == [other(first.number, Stage.ARRIVING)]
    leave(second.membership)
    assert first.look() == []
    leave(first.membership)
    assert [file.name for file in register_of(ledger).iterdir()] == ["counter"]


def test_a_member_that_is_killed_is_dead_at_once_and_forgotten_after_a_while(ledger: Path) -> None:
    register = Register(join(ledger))
    with member(ledger, "ACTIVE") as process:
        assert register.look() == [other(2, Stage.ACTIVE)]
        process.send_signal(signal.SIGKILL)
        process.wait()
        dead = other(2, Stage.ACTIVE, alive=False)
        assert looks(register, neighbours.STILL_LOOKS - 1) == [dead], "it may be started again"
        assert register.look(keep_dead=True) == [dead]
        assert register.look() == [dead]
        assert register.look() == []
    leave(register.membership)


def test_a_member_that_stands_still_is_not_dead_and_known_by_the_looks_that_it_does_not_take(ledger: Path) -> None:
    register = Register(join(ledger))
    with member(ledger, "ACTIVE") as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert [(one.alive, one.still) for one in looks(register, neighbours.STILL_LOOKS)] == [(True, False)]
        assert [(one.alive, one.still) for one in register.look()] == [(True, True)]
        process.kill()
        process.wait()
        assert [(one.alive, one.still) for one in register.look()] == [(False, False)]
    leave(register.membership)


def looks(register: Register, times: int) -> list[Neighbour]:
    """Look so often; return what the last look found."""
    for _ in range(times - 1):
        register.look()
    return register.look()


def test_a_member_that_looks_once_in_a_while_is_not_still_and_one_that_wakes_up_is_not_any_more(ledger: Path) -> None:
    first, second = Register(join(ledger)), Register(join(ledger))
    for _ in range(3):
        assert [one.still for one in looks(first, neighbours.STILL_LOOKS)] == [False]
        second.look()
    assert [one.still for one in looks(first, neighbours.STILL_LOOKS + 1)] == [True]
    second.tell(Stage.ACTIVE)
    assert [one.still for one in first.look()] == [True], "a word in its file is not a look"
    # It has not looked while it slept, so it does not take the other for still.
    assert [one.still for one in second.look()] == [False]
    assert [one.still for one in first.look()] == [False]
    leave(first.membership)
    leave(second.membership)


def test_an_earlier_versions_member_which_counts_no_looks_is_never_still(ledger: Path) -> None:
    first, second = join(ledger), join(ledger)
    os.ftruncate(second.lock, neighbours._SIZE)
    register = Register(first)
    assert looks(register, neighbours.STILL_LOOKS * 2) == [other(2, Stage.ARRIVING)]
    leave(first)
    leave(second)


def test_one_whose_file_cannot_be_opened_holds_up_nobody_for_ever(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register, second = Register(join(ledger)), join(ledger)
    usual = os.open

    def refused(path: object, flags: int, *rest: int, **more: object) -> int:
        if str(path).endswith("/2"):
            raise PermissionError(path)
        return usual(path, flags, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refused)
    (found,) = looks(register, neighbours.STILL_LOOKS)
    assert not verdict(1, [found]).free
    (found,) = register.look()
    assert verdict(1, [found]).free
    assert verdict(1, [found]).company
    monkeypatch.undo()
    leave(register.membership)
    leave(second)


def test_numbers_are_never_given_twice(ledger: Path) -> None:
    numbers = []
    for _ in range(3):
        membership = join(ledger)
        numbers.append(membership.number)
        leave(membership)
    assert numbers == [1, 2, 3]
    (register_of(ledger) / "counter").write_text("nonsense")
    held = join(ledger)
    (register_of(ledger) / "counter").unlink()
    following = join(ledger)
    assert following.number > held.number
    leave(held)
    leave(following)


def test_joining_removes_the_dead_and_their_session_files(ledger: Path) -> None:
    with member(ledger, "READY") as process:
        process.kill()
    mine, dead, alive = 3, 1, 2
    with member(ledger, "ACTIVE"):
        files = {number: Path(sessions_path(str(ledger), claimer(number, 1))) for number in (dead, alive)}
        states = {number: Path(checkpoint_path(str(ledger), number)) for number in (dead, alive)}
        for file in (*files.values(), *states.values()):
            file.write_text("")
        with ledger_place(ledger, environ={}, control=Path("control.sock"), shared=True) as place:
            assert place.supervisor == mine
            assert not files[dead].exists()
            assert files[alive].exists()
            assert not states[dead].exists()
            assert states[alive].exists()
            own = Path(sessions_path(str(ledger), claimer(mine, 1)))
            own.write_text("")
            sessionfiles.keep(place.path, place.supervisor, {1})
            assert own.exists()
            sessionfiles.keep(place.path, place.supervisor, set())
            assert not own.exists()
        assert files[alive].exists(), "a supervisor that leaves removes nobody else's"
    assert Place(path=ledger).supervisor == 0


@pytest.mark.parametrize("content", [b"", b"garbage", b"BSN9" + bytes(13), b"x" * 4096])
def test_a_living_member_whose_words_cannot_be_read_counts_as_active(ledger: Path, content: bytes) -> None:
    first, second = join(ledger), join(ledger)
    os.ftruncate(second.lock, 0)
    os.pwrite(second.lock, content, 0)
    assert Register(first).look() == [other(2, Stage.ACTIVE)]
    leave(first)
    leave(second)


def test_what_else_lies_in_the_register_means_nothing(ledger: Path) -> None:
    register = Register(join(ledger))
    directory = register.membership.directory
    (directory / "77").write_bytes(b"left behind")
    (directory / "78.new").write_bytes(b"")
    (directory / "notes").mkdir()
    assert [one.alive for one in looks(register, neighbours.STILL_LOOKS + 1)] == [False]
    assert register.look() == []
    leave(register.membership)


def test_a_register_whose_directory_is_gone_has_nobody_in_it(ledger: Path) -> None:
    membership = join(ledger)
    for file in membership.directory.iterdir():
        file.unlink()
    membership.directory.rmdir()
    assert neighbours.living(membership) == set()
    Register(membership).tell(Stage.ACTIVE)
    leave(membership)


def test_a_register_that_cannot_be_used_is_said_with_what_to_do(ledger: Path) -> None:
    register_of(ledger).write_text("a file")
    with pytest.raises(OSError, match=r"-supervisors: .*; all who share a ledger run as the same user"):
        ledger_place(ledger, environ={}, control=Path("control.sock"), shared=True).__enter__()


# --- why a bot does not get ready ---------------------------------------------------------------------------------


class TestLastWords:
    """A tool removes the container that failed, with its log; the one that serves on has the reason."""

    def test_a_word_is_news_once_outlives_its_speaker_and_goes_with_the_next_one(self, ledger: Path) -> None:
        old, new = Register(join(ledger)), Register(join(ledger))
        new.words.leave("generation 1: No module named 'x'\nand more")
        assert old.words.news() == [(2, "generation 1: No module named 'x' and more")]
        assert old.words.news() == []
        assert new.words.news() == [], "nobody hears of itself"
        leave(new.membership)
        assert old.words.news() == []
        register = register_of(ledger)
        assert (register / "2.why").stat().st_mode & 0o777 == 0o600
        third = Register(join(ledger))
        assert not (register / "2.why").exists()
        for one in (old, third):
            leave(one.membership)

    def test_another_reason_is_news_and_none_takes_it_back(self, ledger: Path) -> None:
        old, new = Register(join(ledger)), Register(join(ledger))
        for why in ("one", "two"):
            new.words.leave(why)
            assert old.words.news() == [(2, why)]
        new.words.leave("")
        assert old.words.news() == []
        assert not list(register_of(ledger).glob("*.why"))
        for one in (old, new):
            leave(one.membership)

    def test_who_never_enters_the_register_is_heard_as_well_and_leaves_one_word_at_most(self, ledger: Path) -> None:
        old = Register(join(ledger))
        for number in (2, 3):
            report(ledger, "discord.token_file: cannot be read")
            assert old.words.news() == [(number, "discord.token_file: cannot be read")]
        assert [file.name for file in register_of(ledger).glob("*.why")] == ["3.why"]
        assert old.look() == []
        leave(old.membership)

    def test_without_a_register_nobody_is_told(self, ledger: Path) -> None:
        with pytest.raises(OSError, match="No such file"):
            report(ledger, "why")

    def test_what_is_no_word_is_not_read(self, ledger: Path, tmp_path: Path) -> None:
        old = Register(join(ledger))
        register = register_of(ledger)
        os.mkfifo(register / "7.why")
        (tmp_path / "secret").write_text("secret")
        (register / "8.why").symlink_to(tmp_path / "secret")
        (register / "9.why").write_bytes(b"\xff" * 5000)
        assert [(number, len(why)) for number, why in old.words.news() if why] == [(9, 2000)]
        leave(old.membership)
