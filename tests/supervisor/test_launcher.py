"""The first file of a child: what it takes for ours, and what it says of an environment without us."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import bastion
from bastion import wire
from bastion.supervisor.child import LAUNCHER

OURS = Path(bastion.__file__).parents[1]


def launch(*path: Path, protocol: int = wire.PROTOCOL) -> list[wire.FromChild]:
    """Start the launcher with this import path, without site-packages; return all that it says to a supervisor."""
    child_reads, to_child = os.pipe()
    from_child, child_writes = os.pipe()
    command = [sys.executable, "-S", str(LAUNCHER)]
    command += ["--read", str(child_reads), "--write", str(child_writes), "--app", "no:app"]
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(map(str, path))}
    with subprocess.Popen(
        command, env=environ, pass_fds=(child_reads, child_writes), stderr=subprocess.PIPE
    ) as process:
        os.close(child_reads)
        os.close(child_writes)
        os.write(to_child, wire.encode(wire.Challenge(nonce="7", protocol=protocol)))
        os.close(to_child)
        with os.fdopen(from_child, "rb") as messages:
            said = [wire.decode_from_child(line) for line in messages]
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    return said


def package(directory: Path, *files: str) -> Path:
    for file in ("__init__.py", *files):
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_text("raise AssertionError('nobody may execute this')\n")
    return directory.parent


def site() -> Path:
    """Return where msgspec is."""
    import msgspec

    return Path(msgspec.__file__).parents[1]


def test_it_answers_the_nonce_where_our_package_is() -> None:
    assert launch(OURS, site())[:1] == [wire.Launched(nonce="7")]


def test_a_package_of_somebody_elses_with_our_name_is_passed_over(tmp_path: Path) -> None:
    foreign = package(tmp_path / "bastion")
    assert launch(foreign, OURS, site())[:1] == [wire.Launched(nonce="7")]


def refused(said: list[wire.FromChild]) -> str:
    (fatal,) = said
    assert isinstance(fatal, wire.Fatal)
    assert not fatal.retryable
    return fatal.reason


def test_an_environment_without_us_is_told_so(tmp_path: Path) -> None:
    assert refused(launch(tmp_path)) == (
        f"the environment of {sys.executable} has no bastion-supervisor: install it there"
    )


def test_an_environment_with_another_bastion_is_told_so(tmp_path: Path) -> None:
    reason = refused(launch(package(tmp_path / "bastion")))
    assert f"only another package named bastion ({tmp_path}/bastion/__init__.py): install it there" in reason


def test_an_environment_with_an_older_release_of_ours_is_told_so(tmp_path: Path) -> None:
    reason = refused(launch(package(tmp_path / "supervisor", "machine.py")))
    assert reason.endswith("has an older bastion-supervisor: install the supervisor's version there")


def test_supervisord_is_not_taken_for_an_older_release_of_ours(tmp_path: Path) -> None:
    assert "has no bastion-supervisor" in refused(launch(package(tmp_path / "supervisor", "supervisord.py")))


def test_an_environment_that_speaks_another_protocol_is_told_so() -> None:
    reason = refused(launch(OURS, site(), protocol=99))
    assert f"speaks protocol {wire.PROTOCOL}, this supervisor 99" in reason


def test_an_environment_without_our_libraries_is_told_so() -> None:
    reason = refused(launch(OURS))
    assert "lacks what bastion-supervisor needs (No module named 'msgspec'): install it there anew" in reason


@pytest.mark.parametrize("words", [[], ["--read", "3"], ["reload"]])
def test_started_by_hand_it_says_what_to_use(words: list[str]) -> None:
    ended = subprocess.run([sys.executable, str(LAUNCHER), *words], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (2, "this file is started by the supervisor: use `supervisor run`\n")
