"""The ledger's private directory: made, removed, and swept when its owner was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.ledgerdir import ledger_path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"RUNTIME_DIRECTORY": f"{tmp_path}:/another"}


def test_the_directory_is_private_and_gone_at_the_end(environ: dict[str, str], tmp_path: Path) -> None:
    with ledger_path(None, environ=environ) as path:
        assert path.parent.parent == tmp_path
        assert path.parent.stat().st_mode & 0o777 == 0o700
        path.write_text("claims")
    assert list(tmp_path.iterdir()) == []


def test_two_supervisors_keep_out_of_each_others_way(environ: dict[str, str]) -> None:
    with ledger_path(None, environ=environ) as first:
        first.write_text("claims")
        with ledger_path(None, environ=environ) as second:
            assert first != second
        assert first.read_text() == "claims"


def test_what_a_killed_supervisor_left_is_removed(environ: dict[str, str], tmp_path: Path) -> None:
    source = (
        "import os, sys; from pathlib import Path; from supervisor.ledgerdir import ledger_path\n"
        "with ledger_path(None, environ={'RUNTIME_DIRECTORY': sys.argv[1]}) as path:\n"
        "    path.write_text('claims'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", source, str(tmp_path)], check=False)
    (left,) = tmp_path.iterdir()
    with ledger_path(None, environ=environ):
        assert not left.exists()


def test_what_is_not_ours_to_judge_is_left_alone(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bastion-ledger-nolock").mkdir()
    (tmp_path / "bastion-ledger-link").symlink_to(tmp_path / "bastion-ledger-nolock")
    with ledger_path(None, environ=environ):
        pass
    assert len(list(tmp_path.iterdir())) == 2


def test_a_path_of_the_operators_is_used_as_it_is(tmp_path: Path) -> None:
    with ledger_path(tmp_path / "ledger", environ={}) as path:
        assert path == tmp_path / "ledger"
    with pytest.raises(FileNotFoundError, match=r"ledger\.path"), ledger_path(tmp_path / "gone" / "x", environ={}):
        pass
