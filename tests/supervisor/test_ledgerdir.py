"""The ledger's private directory: made, removed, and swept when its owner was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bastion.supervisor.ledgerdir import ledger_place, place_problem
from bastion.wire import sessions_path

CONTROL = Path("/run/nowhere/control.sock")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"RUNTIME_DIRECTORY": f"{tmp_path}:/another"}


def test_the_directory_is_private_and_gone_at_the_end(environ: dict[str, str], tmp_path: Path) -> None:
    with ledger_place(None, environ=environ, control=CONTROL) as place:
        assert place.path.parent.parent == tmp_path
        assert place.path.parent.stat().st_mode & 0o777 == 0o700
        place.path.write_text("claims")
    assert list(tmp_path.iterdir()) == []


def test_two_supervisors_keep_out_of_each_others_way(environ: dict[str, str]) -> None:
    with ledger_place(None, environ=environ, control=CONTROL) as first:
        first.path.write_text("claims")
        with ledger_place(None, environ=environ, control=CONTROL) as second:
            assert first.path != second.path
        assert first.path.read_text() == "claims"


def test_what_a_killed_supervisor_left_is_removed(environ: dict[str, str], tmp_path: Path) -> None:
    source = (
        "import os, sys; from pathlib import Path; from bastion.supervisor.ledgerdir import ledger_place\n"
        "with ledger_place(None, environ={'RUNTIME_DIRECTORY': sys.argv[1]}, control=Path(sys.argv[2])) as place:\n"
        "    place.path.write_text('claims'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", source, str(tmp_path), str(CONTROL)], check=False)
    (left,) = tmp_path.iterdir()
    with ledger_place(None, environ=environ, control=CONTROL):
        assert not left.exists()


def test_what_is_not_ours_to_judge_is_left_alone(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bastion-ledger-nolock").mkdir()
    (tmp_path / "bastion-ledger-link").symlink_to(tmp_path / "bastion-ledger-nolock")
    with ledger_place(None, environ=environ, control=CONTROL):
        pass
    assert len(list(tmp_path.iterdir())) == 2


def test_a_path_of_the_operators_is_used_as_it_is(tmp_path: Path) -> None:
    with ledger_place(tmp_path / "ledger", environ={}, control=CONTROL) as place:
        assert (place.path, place.lock) == (tmp_path / "ledger", None)
    refused = pytest.raises(OSError, match=r"ledger\.path: there is no directory")
    with refused, ledger_place(tmp_path / "gone" / "x", environ={}, control=CONTROL):
        pass


def test_a_path_in_a_directory_that_others_may_enter_leads_into_one_that_they_may_not(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    own = shared / f"bastion-{os.getuid()}"
    with ledger_place(shared / "ledger", environ={}, control=CONTROL) as place:
        assert (place.path, own.stat().st_mode & 0o777) == (own / "ledger", 0o700)
    with ledger_place(shared / "ledger", environ={}, control=CONTROL) as again:
        assert again.path == place.path


@pytest.mark.parametrize("configured", [True, False])
def test_a_directory_in_which_others_may_replace_what_is_there_is_refused(tmp_path: Path, configured: bool) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    path = shared / "ledger" if configured else None
    refused = pytest.raises(OSError, match=f"the ledger: .*{shared}|ledger.path: .*{shared}")
    with refused, ledger_place(path, environ={"RUNTIME_DIRECTORY": str(shared)}, control=CONTROL):
        pass
    assert list(shared.iterdir()) == []
    assert place_problem(path, environ={"RUNTIME_DIRECTORY": str(shared)}), "and `check` says so too"


as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


def anothers(path: Path) -> None:
    path.touch()
    os.chown(path, 65534, 65534)


def a_link(path: Path) -> None:
    path.symlink_to("/etc/hostname")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_second_name(path: Path) -> None:
    path.touch()
    path.with_name("other").hardlink_to(path)


@pytest.mark.parametrize("beside", ["", "-wal", "-shm", "-journal", "-supervisors", "-sessions-1", ".commands"])
@pytest.mark.parametrize("prepare", [a_link, a_pipe, a_second_name, pytest.param(anothers, marks=as_root)])
def test_what_lies_in_the_ledgers_place_and_is_none_is_refused(
    tmp_path: Path, beside: str, prepare: Callable[[Path], None]
) -> None:
    prepare(file := tmp_path / f"ledger{beside}")
    with pytest.raises(OSError, match=f"{file} "), ledger_place(tmp_path / "ledger", environ={}, control=CONTROL):
        pass
    assert file.is_symlink() or file.exists()


def test_a_configured_ledger_has_no_session_files_of_an_earlier_run_and_leaves_none(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    stale = Path(sessions_path(str(ledger), 1))
    stale.touch()
    with ledger_place(ledger, environ={}, control=CONTROL):
        assert not stale.exists()
        stale.touch()
    assert not stale.exists()
