"""The session files beside a ledger, and what the successor of a killed supervisor finds there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bastion.bot.ledger import SQLiteLedger
from bastion.supervisor import sessionfiles
from bastion.supervisor.ledgerdir import ledger_place
from bastion.wire import FORMER, beside_former, checkpoint_path, holder_path, sessions_path

CONTROL = Path("/run/bastion/control.sock")


def leave(ledger: Path, *generations: int, holder: int, control: Path = CONTROL, claims: Path | None = None) -> None:
    """Leave what a killed supervisor's children leave."""
    for generation in generations:
        Path(sessions_path(str(ledger), generation)).write_text(f"of {generation}")
    sessionfiles.note_holder(ledger, control=control, generation=holder, claims=claims or ledger)


def names(directory: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in directory.iterdir()}


def test_files_are_kept_for_those_who_are_named_and_nobody_elses_file_is_touched(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger[1]"
    files = {number: Path(sessions_path(str(ledger), number)) for number in (1, 2, 11)}
    others = [ledger, tmp_path / "ledger1-sessions-1", tmp_path / "ledger[1]-wal"]
    for file in (*files.values(), *others):
        file.touch()
    sessionfiles.keep(ledger, 0, {2})
    assert sorted(tmp_path.iterdir()) == sorted([files[2], *others])


@pytest.mark.parametrize("control", [CONTROL, None])
def test_a_successor_finds_the_file_of_who_served_and_those_of_the_others_beside(
    tmp_path: Path, control: Path | None
) -> None:
    left, ledger = tmp_path / "left" / "ledger", tmp_path / "new" / "ledger"
    for path in (left, ledger):
        path.parent.mkdir()
    leave(left, 3, 4, holder=3)
    Path(checkpoint_path(str(left), 0)).write_text("state")
    assert not sessionfiles.inherit(left, ledger, control=Path("/elsewhere"), claims=ledger)
    assert sessionfiles.inherit(left, ledger, control=control, claims=ledger)
    state = Path(checkpoint_path(str(ledger), 0))
    assert state.read_text() == "state"
    state.unlink()
    assert names(ledger.parent) == {"ledger-sessions-0": "of 3", "ledger-former-4": "of 4"}
    sessionfiles.keep(ledger, 0, {FORMER, 1})
    assert len(names(ledger.parent)) == 2
    sessionfiles.keep(ledger, 0, {1})
    assert names(ledger.parent) == {}


def test_of_two_starts_that_were_killed_the_first_bots_file_is_kept_until_another_has_served(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    for holder, found in (
        (FORMER, {"ledger-sessions-0": "of 0", "ledger-former-1": "of 1"}),
        (1, {"ledger-sessions-0": "of 1"}),
    ):
        for file in tmp_path.iterdir():
            file.unlink()
        leave(ledger, FORMER, 1, holder=holder)
        assert sessionfiles.inherit(ledger, ledger, control=CONTROL, claims=ledger)
        left = names(tmp_path)
        del left["ledger-holder"]
        assert left == found


@pytest.mark.parametrize(
    ("content", "control"),
    [
        (None, CONTROL),
        (b"", CONTROL),
        (b"{", CONTROL),
        (b"[3]", CONTROL),
        (b"\xff" * 100, CONTROL),
        (b"x" * 200_000, CONTROL),
        (b'{"control": 7, "generation": 3}', CONTROL),
        (b'{"control": "/run/bastion/control.sock", "generation": "3"}', CONTROL),
        (b'{"control": "/run/bastion/control.sock", "generation": 3}', Path("/run/another/control.sock")),
    ],
)
def test_what_is_no_word_of_a_supervisor_at_this_socket_leaves_nothing(
    tmp_path: Path, content: bytes | None, control: Path
) -> None:
    ledger = tmp_path / "ledger"
    leave(ledger, 3, holder=3)
    holder = Path(holder_path(str(ledger)))
    holder.unlink()
    if content is not None:
        holder.write_bytes(content)
    assert not sessionfiles.inherit(ledger, ledger, control=control, claims=ledger)
    assert Path(sessions_path(str(ledger), 3)).exists()


def test_a_link_in_the_place_of_the_word_is_not_followed(tmp_path: Path) -> None:
    ledger, elsewhere = tmp_path / "ledger", tmp_path / "elsewhere"
    leave(ledger, 3, holder=3)
    holder = Path(holder_path(str(ledger)))
    holder.rename(elsewhere)
    holder.symlink_to(elsewhere)
    assert not sessionfiles.inherit(ledger, ledger, control=CONTROL, claims=ledger)


def test_the_newest_word_counts_also_after_one_that_was_not_finished(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    leave(ledger, 3, 4, holder=3)
    Path(f"{holder_path(str(ledger))}.new").write_text("half")
    leave(ledger, holder=4)
    assert sessionfiles.inherit(ledger, ledger, control=CONTROL, claims=ledger)
    assert names(tmp_path)["ledger-sessions-0"] == "of 4"
    assert Path(f"{beside_former(str(ledger))}3").exists()


def test_what_the_dead_children_have_claimed_stays_claimed_wherever_the_next_ledger_is(tmp_path: Path) -> None:
    """Two children of an overlap died. One had handled what the other had yet to be told of."""
    old, left, new = (tmp_path / name / "ledger" for name in ("memory", "disk", "anew"))
    for path in (old, left, new):
        path.parent.mkdir()
    claims = SQLiteLedger(str(old), 1)
    assert claims.claim("MESSAGE_CREATE:7", 1.0)
    assert Path(f"{old}-wal").exists(), "nobody has closed it"
    leave(left, 1, 2, holder=2, claims=old)
    assert sessionfiles.inherit(left, left, control=None, claims=new)
    assert not SQLiteLedger(str(new), FORMER).claim("MESSAGE_CREATE:7", 2.0)
    assert not old.exists()


@pytest.mark.parametrize("configured", [True, False])
def test_a_supervisor_that_is_killed_leaves_the_sessions_and_one_that_ends_does_not(
    tmp_path: Path, configured: bool
) -> None:
    source = (
        "import os, sys; from pathlib import Path; from bastion.supervisor import sessionfiles\n"
        "from bastion.supervisor.ledgerdir import ledger_place; from bastion.wire import sessions_path\n"
        "configured = Path(sys.argv[3]) if sys.argv[3] else None; control = Path(sys.argv[2])\n"
        "with ledger_place(configured, environ={'RUNTIME_DIRECTORY': sys.argv[1]}, control=control) as place:\n"
        "    Path(sessions_path(str(place.path), 2)).write_text('of 2')\n"
        "    sessionfiles.note_holder(place.left, control=control, generation=2, claims=place.path)\n"
        "    if sys.argv[4] == 'kill': os.kill(os.getpid(), 9)"
    )
    ledger = tmp_path / "ledger" if configured else None
    environ = {"RUNTIME_DIRECTORY": str(tmp_path)}
    for how in ("kill", "end"):
        words = [sys.executable, "-c", source, str(tmp_path), str(CONTROL), str(ledger or ""), how]
        subprocess.run(words, check=False)
        with ledger_place(ledger, environ=environ, control=CONTROL) as place:
            assert place.former == (how == "kill")
            assert Path(sessions_path(str(place.path), FORMER)).exists() == place.former
        assert list(tmp_path.iterdir()) == []
        assert os.access(tmp_path, os.W_OK)


@pytest.mark.parametrize("ledger", ["ledger", "ledger[1]"])
def test_a_new_start_finds_no_state_of_an_earlier_one(tmp_path: Path, ledger: str) -> None:
    for name in (f"{ledger}.checkpoint", f"{ledger}.checkpoint.taken", ledger, "ledger1.checkpoint"):
        (tmp_path / name).write_bytes(b"")
    sessionfiles.forget_checkpoint(tmp_path / ledger, 0)
    assert {path.name for path in tmp_path.iterdir()} == {ledger, "ledger1.checkpoint"}
