"""The image from the Dockerfile in a real engine: the supervisor is PID 1, the bot's code comes by a volume."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
from docker_engine import LIMITS, REPOSITORY, Docker, Ended
from place import KINDS, PRODUCT, Place, failures, placed

pytestmark = [pytest.mark.anyio, pytest.mark.wide, pytest.mark.deploy, pytest.mark.timeout(900)]

READ_ONLY = (
    *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--tmpfs", "/run/bastion:uid=10001,gid=10001,mode=0700", "--tmpfs", "/tmp"),
)
PROBED = ("--health-interval", "1s", "--health-retries", "1", "--health-timeout", "5s", "--health-start-period", "0s")

COMPOSE_OVERRIDE = """
services:
  bot:
    container_name: {name}
    network_mode: host
    volumes: ["{settings}:/etc/bastion/bastion.toml:ro"]
    environment: {environ}
"""
"""What the tests' engine and sandbox need; all else is the file as it ships."""

ORPHANS = """
import os
for _ in range(3):
    if not os.fork():
        os.fork()
        os._exit(0)
    os.wait()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def container(
    docker: Docker, directory: Path, *options: str, serving: bool = True, **settings: object
) -> AsyncIterator[Place]:
    """Run the image with a release on the volume."""
    async with placed(docker, directory, port=free_port()) as place:
        place.release()
        config = directory / "bastion.toml"
        config.write_text(place.settings(**settings))
        words = ["run", "--detach", "--name", place.name, "--network", "host"]
        words += ["--volume", f"{place.volume}:/srv/bastion:ro", "--volume", f"{config}:/etc/bastion/bastion.toml:ro"]
        for name, value in (place.environ | {"DISCORD_TOKEN": place.sandbox.token}).items():
            words += ["--env", f"{name}={value}"]
        await place.must(*words, *options, PRODUCT)
        if serving:
            await place.serving(1)
        yield place


async def health(place: Place, wanted: str, *, timeout: float = 60.0) -> None:
    found = ""
    async with asyncio.timeout(timeout):
        while found != wanted:
            found = (await place.must("inspect", "--format", "{{.State.Health.Status}}", place.name)).strip()
            await asyncio.sleep(0.1)


async def stopped(place: Place) -> tuple[Ended, int]:
    """Stop as `docker stop` does; return what it said and the exit code of the container."""
    ended = await place.run("stop", "--time", "30", place.name)
    code = await place.must("inspect", "--format", "{{.State.ExitCode}}", place.name)
    return ended, int(code)


async def test_new_code_comes_by_the_volume_and_two_kinds_of_reload_lose_nothing(
    docker: Docker, tmp_path: Path
) -> None:
    async with container(docker, tmp_path, *READ_ONLY) as place:
        first = await place.status()
        assert first["supervisor"]["pid"] == 1
        place.sandbox.traffic.start(rate=40, mix=KINDS)
        second = place.release()
        ended = await place.execute("supervisor", "reload")
        assert ended.code == 0, ended
        status = await place.serving(2)
        assert status["children"][0]["release"] == f"/srv/bastion/releases/{second.name}"
        third = place.release()
        await place.must("kill", "--signal", "HUP", place.name)
        status = await place.serving(3)
        assert status["children"][0]["release"] == f"/srv/bastion/releases/{third.name}"
        found = await place.verdict()
        assert found.clean, f"{found}\n{await place.log()}"
        assert found.emitted > 50
        ended, code = await stopped(place)
        assert (ended.code, code) == (0, 0)
        log = await place.log()
        assert "generation 3 has left: exited with status 0" in log
        assert place.sandbox.token not in log


async def test_a_reload_to_a_broken_release_fails_and_says_why(docker: Docker, tmp_path: Path) -> None:
    async with container(docker, tmp_path, *READ_ONLY) as place:
        place.release("import no_such_module\n")
        ended = await place.execute("supervisor", "reload")
        assert ended.code == 1
        assert "No module named 'no_such_module'" in ended.out
        await place.serving(1)


HUPS = """
until pid=$(docker inspect --format '{{.State.Pid}}' "$1") && [ "$pid" -gt 0 ] 2>/dev/null; do :; done
until case $(readlink /proc/$pid/exe) in *python*) true;; *) false; esac; do :; done
grep -E '^Sig(Ign|Cgt)' /proc/$pid/status
until docker exec "$1" supervisor healthcheck >/dev/null 2>&1; do
    for _ in 1 2 3 4 5 6 7 8 9 10; do kill -HUP $pid || exit 1; hups=$((hups + 1)); done
done
echo $pid $hups
"""
"""From the interpreter's first moments until the bot serves. First it says how SIGHUP, bit 0, was dealt with then."""
SLOW = """
import os, time
if os.getpid() == 1: time.sleep(3)
"""
"""A sitecustomize.py: the supervisor's interpreter takes its time before any of our code runs."""


async def test_hups_from_the_first_moment_on_until_it_is_ready_are_survived(docker: Docker, tmp_path: Path) -> None:
    """The first process of a container gets no signal that it does not handle."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(SLOW)
    slow = ("--volume", f"{tmp_path / 'slow'}:/slow:ro", "--env", "PYTHONPATH=/slow")
    async with container(docker, tmp_path, *READ_ONLY, *slow, serving=False) as place:
        run = partial(subprocess.run, ("sh", "-c", HUPS, "sh", place.name), stdin=subprocess.DEVNULL, check=False)
        environ = os.environ | {"DOCKER_HOST": docker.host, "HOME": "/nonexistent"}
        done = await asyncio.to_thread(run, env=environ, capture_output=True, timeout=120)
        said = done.stdout.decode().split()
        assert done.returncode == 0, f"{said} {done.stderr.decode()}\n{await place.log()}"
        assert not int(said[3], 16) & 1, "the first one came before Python handles it"
        pid, hups = said[4:]
        assert int(hups) > 10
        status = await place.until(lambda status: status["supervisor"]["state"] == "serving")
        assert status["supervisor"]["pid"] == 1
        found = await place.must("inspect", "--format", "{{.State.Pid}} {{.RestartCount}}", place.name)
        assert found.split() == [pid, "0"]


async def test_check_tells_what_can_be_seen_from_inside(docker: Docker, tmp_path: Path) -> None:
    async with container(docker, tmp_path, *READ_ONLY) as place:
        ended = await place.supervisor("check", "--deploy", "--import")
        assert failures(ended.out) == ["intents"], ended.out
        for line in (
            "OK    container    the supervisor is PID 1, and reaps orphans; root file system read-only; as uid 10001",
            "OK    stop time    cannot be seen from in here: give it 60 s (docker run --stop-timeout, docker stop",
            "OK    ledger       /run/bastion is writable, on memory",
            "OK    socket       /run/bastion is usable",
        ):
            assert line in ended.out


async def test_check_tells_of_a_container_what_would_go_wrong(docker: Docker, tmp_path: Path) -> None:
    async with placed(docker, tmp_path, port=free_port()) as place:
        place.release()
        config = tmp_path / "bastion.toml"
        config.write_text(place.settings())
        volumes = ("--volume", f"{place.volume}:/srv/bastion:ro", "--volume", f"{config}:/etc/bastion/bastion.toml:ro")
        environ = [f"{name}={value}" for name, value in (place.environ | {"DISCORD_TOKEN": "x.y.z"}).items()]
        words = ["run", "--rm", "--network", "host", *volumes, *(word for one in environ for word in ("--env", one))]
        # A shell that stays, a root file system that nobody can write to, and nothing on memory for socket and ledger.
        command = ("--entrypoint", "/bin/sh", PRODUCT, "-c", "supervisor check --deploy; exit $?")
        ended = await place.run(*words, "--read-only", *command)
        assert ended.code == 78, ended.out
        assert sorted(failures(ended.out)) == ["container", "discord", "ledger", "socket"]
        for line in (
            "FAIL  container    PID 1 is sh, which passes no signals on",
            "FAIL  ledger       /run/bastion is not writable",
            "FAIL  socket       /run/bastion is not writable",
            "FAIL  discord      Discord refused the token (401)",
        ):
            assert line in ended.out
        # An init, the usual size of /dev/shm, and 16 MB of it.
        for size, said in (
            ("64m", "/dev/shm is writable, on memory"),
            ("16m", "/dev/shm, on memory; only 16.0 MiB are"),
        ):
            options = ("--init", "--shm-size", size, "--env", "RUNTIME_DIRECTORY=", "--entrypoint", "supervisor")
            ended = await place.run(*words, *options, PRODUCT, "check", "--deploy")
            assert said in ended.out
            assert "OK    container    PID 1 is docker-init" in ended.out


async def test_health_is_healthy_unhealthy_and_healthy_again(docker: Docker, tmp_path: Path) -> None:
    async with container(docker, tmp_path, *PROBED) as place:
        await health(place, "healthy")
        place.sandbox.faults.withhold_ready([1])
        place.sandbox.faults.invalidate(1, resumable=False)
        await health(place, "unhealthy")
        said = json.loads(await place.must("inspect", "--format", "{{json .State.Health.Log}}", place.name))
        assert said[-1]["Output"] == "supervisor: not ready: 1 of 2 shards is not ready\n"
        place.sandbox.faults.clear()
        place.sandbox.faults.drop_shard(1)
        await health(place, "healthy")


async def test_orphans_are_reaped(docker: Docker, tmp_path: Path) -> None:
    async with container(docker, tmp_path, *READ_ONLY, serving=False) as place:
        await place.serving(1)
        place.release(f"{ORPHANS}from sharded_bot import client\n")
        assert (await place.execute("supervisor", "reload")).code == 0
        async with asyncio.timeout(20):
            while " Z" in (found := (await place.execute("ps", "-eo", "pid=,ppid=,stat=")).out):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert re.search(r"^ *1 +0 ", found, re.MULTILINE), found


async def test_a_stop_lets_a_handler_finish(docker: Docker, tmp_path: Path) -> None:
    async with container(docker, tmp_path, "--env", "PROBE_HANDLER_MS=9000-9000") as place:
        await place.sandbox.traffic.run(rate=10, mix={"message": 1.0}, seconds=1)
        emitted = place.sandbox.journal.verdict().emitted
        assert emitted
        await place.until(lambda status: status["children"][0]["in_flight"] == emitted)
        ended, code = await stopped(place)
        assert (ended.code, code) == (0, 0)
        found = await place.verdict()
        assert found.clean, f"{found}\n{await place.log()}"


async def test_it_runs_the_shipped_bot_without_a_volume_as_nobody_in_particular(docker: Docker, tmp_path: Path) -> None:
    async with placed(docker, tmp_path, port=free_port()) as place:
        config = tmp_path / "bastion.toml"
        config.write_text(place.settings(bot__app="bastion.bot.bastion:create"))
        words = ["run", "--detach", "--name", place.name, "--network", "host", *READ_ONLY]
        words += ["--volume", f"{config}:/etc/bastion/bastion.toml:ro", "--env", f"DISCORD_TOKEN={place.sandbox.token}"]
        await place.must(*words, "--env", f"DISCORD_API_URL={place.sandbox.api_url}", PRODUCT)
        await place.serving(1)
        assert (await place.execute("id", "-u")).out.strip() == "10001"


async def compose(place: Place, directory: Path, *words: str) -> str:
    """Run a command of compose on the file that ships; it succeeds."""
    environ = os.environ | {
        "BASTION_IMAGE": PRODUCT,
        "BASTION_RELEASES": str(place.volume),
        "DISCORD_TOKEN": place.sandbox.token,
        "DOCKER_HOST": place.docker.host,
        "HOME": "/nonexistent",
        "COMPOSE_FILE": f"{REPOSITORY / 'compose.yaml'}:{directory / 'override.yaml'}",
        "COMPOSE_PROJECT_NAME": place.name,
    }
    run = partial(subprocess.run, ("docker-compose", *words), env=environ, stdin=subprocess.DEVNULL)
    done = await asyncio.to_thread(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False)
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, f"docker-compose {' '.join(words)}: {done.returncode}\n{said}\n{await place.log()}"
    return said


async def test_the_compose_file_that_ships_runs_and_reloads_and_loses_nothing(docker: Docker, tmp_path: Path) -> None:
    async with placed(docker, tmp_path, port=free_port()) as place:
        place.release()
        config = tmp_path / "bastion.toml"
        config.write_text(place.settings())
        override = COMPOSE_OVERRIDE.format(name=place.name, settings=config, environ=json.dumps(place.environ))
        (tmp_path / "override.yaml").write_text(override)
        await compose(place, tmp_path, "up", "--detach", "--no-build")
        await place.serving(1)
        place.sandbox.traffic.start(rate=40, mix=KINDS)
        second = place.release()
        await compose(place, tmp_path, "exec", "-T", "bot", "supervisor", "reload")
        status = await place.serving(2)
        assert status["children"][0]["release"] == f"/srv/bastion/releases/{second.name}"
        found = await place.verdict()
        assert found.clean, f"{found}\n{await place.log()}"
        assert found.emitted > 20
        begun = len(place.sandbox.gateway.identifies)
        place.sandbox.traffic.start(rate=40, mix={"message": 1.0, "reaction_add": 1.0})
        await compose(place, tmp_path, "up", "--detach", "--no-build", "--force-recreate")
        await place.serving(1)
        found = await place.verdict()
        assert found.clean, f"{found}\n{await place.log()}"
        assert len(place.sandbox.gateway.identifies) == begun, await place.log()
        await compose(place, tmp_path, "stop")
        assert (await place.must("inspect", "--format", "{{.State.ExitCode}}", place.name)).strip() == "0"
        await compose(place, tmp_path, "down")


async def test_after_a_restart_of_the_engine_who_served_is_back_and_who_was_stopped_by_hand_is_not(
    docker: Docker, tmp_path: Path
) -> None:
    """By the compose file that ships; for the bot it is a stop and a start, as with a reboot."""
    if docker.restart is None:
        pytest.skip("this engine is not the tests' own")
    async with placed(docker, tmp_path, port=free_port()) as place:
        place.release()
        config = tmp_path / "bastion.toml"
        config.write_text(place.settings())
        override = COMPOSE_OVERRIDE.format(name=place.name, settings=config, environ=json.dumps(place.environ))
        (tmp_path / "override.yaml").write_text(override)
        await compose(place, tmp_path, "up", "--detach", "--no-build")
        before = await place.serving(1)
        await asyncio.to_thread(docker.restart)
        after = await place.serving(1)
        assert after["supervisor"]["started_at"] > before["supervisor"]["started_at"]
        assert "has left: exited with status 0" in await place.log(), "it was not given the time to drain"
        await compose(place, tmp_path, "stop")
        await asyncio.to_thread(docker.restart)
        assert (await place.must("inspect", "--format", "{{.State.Status}}", place.name)).strip() == "exited"
        await compose(place, tmp_path, "down")


async def test_without_a_token_it_says_what_is_missing_and_is_tried_three_times_a_minute_at_most(
    docker: Docker, tmp_path: Path
) -> None:
    async with placed(docker, tmp_path, port=free_port()) as place:
        words = ("--detach", "--restart", "unless-stopped", "--network", "host", "--name", place.name)
        await place.must("run", *words, PRODUCT)
        began = await started_at(place, other_than="")
        again = await started_at(place, other_than=began)
        assert (again - began).total_seconds() > 20
        said: list[str] = []
        async with asyncio.timeout(20):  # a stop in the first moments, with nothing started, would end with 0
            while sum("waits 20 s" in line for line in said) < 2:
                said = (await place.must("logs", place.name)).splitlines()
        assert "discord.token_file: /run/secrets/discord_token: the token cannot be read" in said[0]
        assert "waits 20 s, then exits with 78" in "".join(said)
        _, code = await stopped(place)
        assert code == 78


async def started_at(place: Place, *, other_than: datetime | str) -> datetime:
    """Wait until the container has been started another time; return when."""
    async with asyncio.timeout(60):
        while True:
            said = await place.must("inspect", "--format", "{{.State.StartedAt}}", place.name)
            found = datetime.fromisoformat(said.strip()[:26])
            if found != other_than:
                return found
            await asyncio.sleep(0.5)


WHEEL = {
    "aid.py": "def answer():\n    return 42\n",
    "aid-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: aid\nVersion: 1.0\n",
    "aid-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "aid-1.0.dist-info/RECORD": "aid.py,,\naid-1.0.dist-info/METADATA,,\naid-1.0.dist-info/WHEEL,,\n",
}


def build(docker: Docker, directory: Path, name: str, files: Mapping[str, str]) -> str:
    """Build an image of these files."""
    directory.mkdir(exist_ok=True)
    for path, text in files.items():
        (directory / path).write_text(text)
    return docker.must("build", "--network", "host", "--tag", name, str(directory), timeout=LIMITS["docker"])


async def test_an_image_from_this_one_in_four_lines_has_what_pip_installed_and_runs_its_own_bot(
    docker: Docker, tmp_path: Path
) -> None:
    """The example as it ships, but for a package that only this machine has, which the program needs."""
    (tmp_path / "base").mkdir()
    with zipfile.ZipFile(tmp_path / "base" / "aid-1.0-py3-none-any.whl", "w") as wheel:
        for path, text in WHEEL.items():
            wheel.writestr(path, text)
    here = f"FROM {PRODUCT}\nCOPY *.whl /wheels/\nENV PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels\n"
    await asyncio.to_thread(build, docker, tmp_path / "base", "bastion", {"Dockerfile": here})
    example = shutil.copytree(REPOSITORY / "examples" / "image", tmp_path / "image")
    assert len((example / "Dockerfile").read_text().splitlines()) == 4
    needs = {"requirements.txt": "aid==1.0\n", "main.py": "import aid\nassert aid.answer() == 42\n"}
    files = {name: (example / name).read_text() + text for name, text in needs.items()}
    files["main.py"] = needs["main.py"] + (example / "main.py").read_text()
    said = await asyncio.to_thread(build, docker, example, "bastion-test/mybot", files)
    assert "Successfully installed aid-1.0" in said
    async with placed(docker, tmp_path, port=free_port()) as place:
        config = tmp_path / "bastion.toml"
        config.write_text(place.settings(bot__app=""))
        words = ["run", "--detach", "--name", place.name, "--network", "host", *READ_ONLY]
        words += ["--volume", f"{config}:/etc/bastion/bastion.toml:ro", "--env", f"DISCORD_TOKEN={place.sandbox.token}"]
        words += ["--env", f"DISCORD_API_URL={place.sandbox.api_url}", "bastion-test/mybot"]
        await place.must(*words, "run", "main.py")
        status = await place.serving(1)
        assert status["children"][0]["release"] == "/srv/bastion"
        assert (await place.execute("supervisor", "reload")).code == 0
        assert (await stopped(place))[1] == 0
    await asyncio.to_thread(docker.must, "image", "rm", "bastion-test/mybot", "bastion")


def test_the_image_is_small(docker: Docker) -> None:
    sizes = [
        int(docker.must("image", "inspect", "--format", "{{.Size}}", name)) for name in ("bastion-test/base", PRODUCT)
    ]
    assert sizes[1] - sizes[0] < 70e6


def test_the_context_has_nothing_that_the_image_does_not_need() -> None:
    ignored = (REPOSITORY / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert not {".git", "tests", ".venv"} & {line.removeprefix("!") for line in ignored if line.startswith("!")}
