"""What the deploy scripts keep, and when they stop. No supervisor runs, as before a bot's first start."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "examples" / "deploy"
SUPERVISOR = """#!/bin/sh
[ "$1" = check ] && exec echo looked at
exec {} -m bastion.supervisor "$@"
"""
STUB = """#!/bin/sh
case $1 in
status) echo {status} ;;
reload) ln -sfn "$3" "$BASTION_ROOT/current" ;;
esac
"""
DOCKER = """#!/bin/sh
here=${0%/*}
case "$*" in
"ps "*bastion-green*) [ -e "$here/down" ] || echo old ;;
"ps "*bastion-blue*) [ ! -e "$here/up" ] || echo new ;;
diff*) printf 'C /srv/bastion/current\\nA /srv/bastion/current/bot.db\\nA /srv/bastion/current/__pycache__/a.pyc\\n' ;;
inspect*) echo healthy ;;
*" up "*) touch "$here/up" ;;
*" down") touch "$here/down" ;;
esac
"""


class Machine:
    """A machine with nothing deployed yet, in a directory with a space in its name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "a machine"
        self.root = self.directory / "srv"
        self.source = self.directory / "source"
        self.source.mkdir(parents=True)
        wrapper = self.directory / "supervisor"
        wrapper.write_text(SUPERVISOR.format(shlex.quote(sys.executable)))
        wrapper.chmod(0o755)
        config = self.directory / "bastion.toml"
        config.write_text(f'[bot]\ndirectory = "{self.root}/current"\n[control]\nsocket = "{directory}/s.sock"\n')
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("BASTION_", "DISCORD_"))}
        self.environ = kept | {
            "BASTION_ROOT": str(self.root),
            "BASTION_CONFIG": str(config),
            "SUPERVISOR": str(wrapper),
            "PYTHON": sys.executable,
            "KEEP": "2",
        }

    @property
    def current(self) -> Path:
        return (self.root / "current").resolve()

    @property
    def shared(self) -> Path:
        path = self.root / "shared"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def releases(self) -> set[str]:
        return {path.name for path in (self.root / "releases").iterdir()}

    def deploy(self, code: int = 0, **variables: str) -> str:
        """Deploy what is in the source, with a change. Returns what the script said."""
        (self.source / "changed").write_text(os.urandom(8).hex())
        archive = self.directory / "my bot.tar"
        subprocess.run(["tar", "-cf", archive, "-C", self.source, "."], check=True)
        return self.run("ci.sh", str(archive), code=code, **variables)

    def run(self, script: str, *words: str, code: int = 0, **variables: str) -> str:
        done = subprocess.run(
            [SCRIPTS / script, *words], env=self.environ | variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done
        return done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    if shutil.which("flock") is None:
        pytest.skip("flock is not installed here")
    return Machine(tmp_path)


def test_the_first_deploy_names_the_release_and_says_what_starts_it(machine: Machine) -> None:
    said = machine.deploy(SHARED=".env 'my data/' var/bot.db")
    assert machine.releases() == {machine.current.name}
    assert (machine.root / "current").readlink() == Path("releases") / machine.current.name
    assert "No supervisor runs: start" in said
    assert f"{machine.shared}/.env is not there yet" in said
    (machine.shared / ".env").write_text("here")
    (machine.current / "my data" / "picture").write_text("there")
    (machine.current / "var" / "bot.db").write_text("rows")  # through the link, as SQLite makes it
    assert (machine.current / ".env").read_text() == "here"
    assert (machine.shared / "my data" / "picture").read_text() == "there"
    assert (machine.shared / "var" / "bot.db").read_text() == "rows"


def test_files_that_no_deploy_brought_stop_the_next_one_until_its_advice_is_taken(machine: Machine) -> None:
    machine.deploy()
    before = machine.current
    (before / "bot.db").write_text("rows")
    (before / "bot.db-wal").write_text("more")
    (before / "my data").mkdir()
    (before / "my data" / "picture").write_text("there")

    said = machine.deploy(code=1)
    assert "(3): bot.db bot.db-wal my data/picture" in said
    assert machine.current == before
    assert machine.releases() == {before.name}
    assert (before / "bot.db").read_text() == "rows"

    commands = "\n".join(line for line in said.splitlines() if line.startswith("    "))
    subprocess.run(["bash", "-euc", commands], check=True)
    assert (machine.root / "deploy.conf").read_text() == "SHARED='bot.db \"my data/\"'\n"
    for _ in range(3):
        machine.deploy()
        assert (machine.current / "bot.db").read_text() == "rows"
        assert (machine.current / "my data" / "picture").read_text() == "there"
    assert (machine.shared / "bot.db-wal").read_text() == "more"
    assert len(machine.releases()) == 2


def test_a_file_of_the_release_that_the_bot_has_changed_stops_the_next_deploy(machine: Machine) -> None:
    (machine.source / "prefixes.json").write_text("{}")
    machine.deploy()
    (machine.current / "prefixes.json").write_text('{"1": "?"}')
    assert "(1): prefixes.json" in machine.deploy(code=1)


def test_what_is_disposable_stops_nothing(machine: Machine) -> None:
    machine.deploy()
    for name in ("__pycache__/app.pyc", "cogs/__pycache__/cog.pyc", ".venv/pip.log", "logs/today.log", "cache/a/b"):
        path = machine.current / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert "(2): cache/a/b logs/today.log" in machine.deploy(code=1)
    machine.deploy(BASTION_DISPOSABLE="*.log cache")


def test_what_a_release_brings_at_a_shared_place_is_the_first_content_and_then_left_out(machine: Machine) -> None:
    (machine.source / "prefixes.json").write_text("{}")
    assert "what the release brings is now" in machine.deploy(SHARED="prefixes.json")
    (machine.current / "prefixes.json").write_text('{"1": "?"}')
    assert "what the release brings is left out" in machine.deploy(SHARED="prefixes.json")
    assert (machine.current / "prefixes.json").read_text() == '{"1": "?"}'


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_makes_in_shared_belongs_to_the_owner_of_shared(machine: Machine) -> None:
    os.chown(machine.shared, 12345, 12345)
    (machine.source / "prefixes.json").write_text("{}")
    machine.deploy(SHARED="data/ prefixes.json")
    assert {path.stat().st_uid for path in machine.shared.iterdir()} == {12345}


def test_shared_may_be_elsewhere_by_a_link(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    machine.root.mkdir()
    (machine.root / "shared").symlink_to(tmp_path / "state")
    machine.deploy(SHARED="data/")
    machine.deploy(SHARED="data/")
    (machine.current / "data" / "picture").write_text("there")
    assert (tmp_path / "state" / "data" / "picture").read_text() == "there"


def test_a_link_that_the_bot_has_replaced_by_a_file_stops_the_next_deploy(machine: Machine) -> None:
    machine.deploy(SHARED="levels.json")
    new = machine.current / "levels.json.new"
    new.write_text("{}")
    new.replace(machine.current / "levels.json")
    assert "renames a new file into that place" in machine.deploy(code=1, SHARED="levels.json")
    assert (machine.current / "levels.json").read_text() == "{}"


def test_a_shared_path_that_is_no_longer_named_stops_the_deploy(machine: Machine) -> None:
    machine.deploy(SHARED="bot.db")
    before = machine.current
    assert "bot.db is shared by the current release, but not in SHARED" in machine.deploy(code=1)
    assert machine.current == before


def test_a_release_from_before_a_path_was_shared_gets_the_link_for_a_rollback(machine: Machine) -> None:
    machine.deploy()
    before = machine.current
    machine.deploy(SHARED="bot.db")
    (machine.shared / "bot.db").write_text("rows")
    assert (before / "bot.db").read_text() == "rows"


def test_an_old_release_with_files_of_its_own_is_not_removed(machine: Machine) -> None:
    machine.deploy()
    old = machine.current
    machine.deploy()
    (old / "bot.db").write_text("rows")
    said = machine.deploy(code=1)
    assert f"{old} holds files" in said
    assert (old / "bot.db").exists()
    (old / "bot.db").unlink()
    machine.deploy()
    assert not old.exists()


def test_a_release_in_which_a_bot_runs_is_looked_at_and_not_removed(machine: Machine) -> None:
    machine.deploy()
    old = machine.current
    machine.deploy()
    stub = machine.directory / "stub"
    stub.write_text(STUB.format(status=shlex.quote(json.dumps({"children": [{"release": str(old)}]}))))
    stub.chmod(0o755)
    (old / "bot.db").touch()  # as after a rollback: `current` does not name what serves
    said = machine.deploy(code=1, SUPERVISOR=str(stub))
    assert str(machine.shared / "bot.db").replace(" ", "\\ ") in said
    (old / "bot.db").unlink()
    machine.deploy(SUPERVISOR=str(stub))
    assert old.exists()
    machine.deploy()
    assert not old.exists()


def test_a_release_that_was_deployed_by_hand_is_compared_with_the_new_one(machine: Machine) -> None:
    by_hand = machine.root / "releases" / "by hand"
    by_hand.mkdir(parents=True)
    (machine.root / "current").symlink_to("releases/by hand")
    (machine.source / "app.py").touch()
    (by_hand / "app.py").touch()
    (by_hand / "bot.db").touch()
    assert "(1): bot.db" in machine.deploy(code=1)
    (by_hand / "bot.db").unlink()
    machine.deploy()
    assert machine.current != by_hand


def test_a_build_that_fails_leaves_everything_as_it_was(machine: Machine) -> None:
    machine.deploy()
    before = machine.current
    (machine.source / "requirements.txt").touch()
    assert "the new release was removed again" in machine.deploy(code=1, PYTHON="false")
    assert machine.current == before
    assert machine.releases() == {before.name}


@pytest.mark.parametrize("path", ["/etc/passwd", "../secrets", "a/../../b", ".venv/bin"])
def test_a_path_outside_of_the_release_is_refused(machine: Machine, path: str) -> None:
    assert "write paths inside the release" in machine.deploy(code=1, SHARED=path)


@pytest.mark.parametrize("words", [("ci.sh",), ("ci.sh", "not-there.tar"), ("pip.sh",), ("rsync.sh",), ("git.sh",)])
def test_a_deploy_of_nothing_changes_nothing(machine: Machine, words: tuple[str, ...]) -> None:
    done = subprocess.run([SCRIPTS / words[0], *words[1:]], env=machine.environ, capture_output=True, check=False)
    assert done.returncode != 0
    assert done.stderr
    assert not list(machine.root.glob("releases/*"))
    assert not (machine.root / "current").exists()


def test_a_second_deploy_at_the_same_time_is_refused(machine: Machine) -> None:
    machine.root.mkdir()
    lock = machine.root / "deploy.lock"
    command = ["flock", str(lock), "sh", "-c", "echo locked; exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        assert "another deploy is under way" in machine.deploy(code=1)
    machine.deploy()


def test_rsync_to_a_host_runs_the_same_steps_there(machine: Machine, tmp_path: Path) -> None:
    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed here")
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text('#!/bin/sh\necho "$@" >> "${0%/*}/asked"\nshift\nexec env -u SHARED sh -c "$*"\n')
    ssh.chmod(0o755)
    (machine.source / "app.py").touch()
    path = f"{ssh.parent}:{os.environ['PATH']}"
    said = machine.run("rsync.sh", str(machine.source), "example.org", PATH=path, SHARED="bot.db 'my data/'")
    assert "No supervisor runs: start" in said
    assert (ssh.parent / "asked").read_text().count("example.org bash -s") == 2
    assert (machine.current / "app.py").exists()
    assert (machine.current / "my data").readlink() == Path("../../shared/my data")


def test_compose_does_not_remove_a_container_with_files_of_the_bot(machine: Machine, tmp_path: Path) -> None:
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    path = f"{docker.parent}:{os.environ['PATH']}"
    said = machine.run("compose.sh", code=1, PATH=path)
    assert "gone with it: current/bot.db\n" in said
    assert not (docker.parent / "up").exists()
    machine.run("compose.sh", PATH=path, BASTION_DISPOSABLE="*.db")
    assert (docker.parent / "up").exists()
    assert (docker.parent / "down").exists()


@pytest.mark.wide
def test_the_environment_of_a_release_has_the_product(machine: Machine) -> None:
    (machine.source / "requirements.txt").write_text("# nothing but the product\n")
    machine.deploy(BASTION_PACKAGE=str(REPOSITORY))
    python = machine.current / ".venv" / "bin" / "python"
    subprocess.run([python, "-I", "-c", "import bastion.bot"], check=True)
