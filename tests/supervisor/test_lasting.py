"""The directory that outlives a supervisor: nobody else's, and nothing old."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bastion.supervisor.lasting import kept, lasting_place
from bastion.supervisor.ledgerdir import ledger_place
from bastion.supervisor.private import UnsafeError
from bastion.wire import saved_path, sessions_path


def test_one_supervisor_at_a_time_has_it(tmp_path: Path) -> None:
    with lasting_place(tmp_path) as left, pytest.raises(OSError, match="another supervisor's"), lasting_place(tmp_path):
        pass
    with lasting_place(tmp_path) as again:
        assert again == left


def test_a_directory_that_others_may_enter_gets_one_of_ours_within(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with lasting_place(tmp_path) as left:
        assert left.parent.parent == tmp_path
        assert left.parent.stat().st_mode & 0o777 == 0o700


def test_a_directory_in_which_others_may_replace_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    with pytest.raises(UnsafeError), lasting_place(tmp_path / "shared"):
        pass
    with pytest.raises(OSError, match="No such file"), lasting_place(tmp_path / "nowhere"):
        pass


def test_an_old_file_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "bot"
    said: list[str] = []
    assert kept(left, within=120, say=said.append) is None
    path = Path(saved_path(str(left)))
    path.write_bytes(b"x")
    assert kept(left, within=120, say=said.append) == path
    assert said == []
    os.utime(path, (time.time() - 121,) * 2)
    assert kept(left, within=120, say=said.append) is None
    assert not path.exists()
    assert "longer than restart.resume_within (120 s)" in said[0]


@pytest.mark.parametrize("configured", [True, False])
def test_what_is_left_there_outlives_the_ledger(tmp_path: Path, configured: bool) -> None:
    directory = tmp_path / "lasting"
    directory.mkdir(mode=0o700)
    ledger = tmp_path / "ledger.sqlite3" if configured else None
    environ = {"RUNTIME_DIRECTORY": str(tmp_path)}
    with (
        lasting_place(directory) as left,
        ledger_place(ledger, environ=environ, control=Path("control"), lasting=left) as place,
    ):
        assert (place.left, place.former) == (left, False)
        session, cache = Path(sessions_path(str(left), 1)), Path(saved_path(str(left)))
        session.write_bytes(b"")
        cache.write_bytes(b"")
    assert session.exists()
    session.unlink()
    with (
        lasting_place(directory) as left,
        ledger_place(ledger, environ=environ, control=Path("control"), lasting=left) as place,
    ):
        assert place.former, "the cache alone is enough"
        assert cache.exists()
