"""Containers side by side, each with the whole product in it: they share a directory on memory and nothing else.

Each of three tools replaces the container three times under traffic; none of them knows of the bot inside.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from docker_engine import REPOSITORY, Docker, Ended
from place import KINDS, PRODUCT, Place, placed

pytestmark = [pytest.mark.anyio, pytest.mark.wide, pytest.mark.deploy, pytest.mark.timeout(900)]

EXAMPLES = REPOSITORY / "examples" / "deploy"
USER = 10001
COMPOSE_OVERRIDE = """
services:
  bot:
    network_mode: host
    volumes: ["{volume}:/srv/bastion:ro"]
    environment: {environ}
"""
STACK_OVERRIDE = """
version: "3.8"
services:
  bot:
    networks: [host]
    volumes: ["{volume}:/srv/bastion:ro"]
    environment: {environ}
networks:
  host: {{external: true, name: host}}
"""


@dataclass
class Deployment:
    """What a tool deploys, and where."""

    place: Place
    directory: Path
    ledger: Path

    def environ(self) -> dict[str, str]:
        """Everything that the examples take from the environment, as of now."""
        return os.environ | {
            "BASTION_IMAGE": PRODUCT,
            "BASTION_LEDGER": str(self.ledger),
            "BASTION_SETTINGS": str(self.directory / "bastion.toml"),
            "BASTION_SINCE": str(int(time.time())),
            "DISCORD_TOKEN": self.place.sandbox.token,
            "DOCKER_HOST": self.place.docker.host,
            "HOME": "/nonexistent",
            "COMPOSE_FILE": f"{EXAMPLES / 'compose.yaml'}:{self.directory / 'override.yaml'}",
            "COMPOSE": "docker-compose",
            "PATIENCE": "30",
        }

    async def must(self, *words: str, timeout: float = 240.0) -> str:
        """Run a tool's command, which succeeds."""
        run = partial(
            subprocess.run,
            words,
            env=self.environ(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
        done: subprocess.CompletedProcess[bytes] = await asyncio.to_thread(run)
        out = done.stdout.decode(errors="replace")
        assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{out}\n{await self.log()}"
        return out

    async def containers(self, *, dead: bool = False) -> list[str]:
        """The bot's containers, the oldest first."""
        words = ["ps", "--quiet", "--no-trunc", "--filter", f"volume={self.ledger}", *(["--all"] if dead else [])]
        return (await self.place.must(*words)).split()[::-1]

    async def status(self, container: str) -> dict[str, Any] | None:
        """What the supervisor in a container says, None if it cannot yet or any more."""
        ended: Ended = await self.place.run("exec", container, "supervisor", "status", "--json")
        return dict(json.loads(ended.out)) if ended.code == 0 else None

    async def alone(self, *, other_than: str | None = None, timeout: float = 120.0) -> str:
        """Wait until one container is left and its bot is active; return which."""
        found: list[str] = []
        try:
            async with asyncio.timeout(timeout):
                while True:
                    found = await self.containers()
                    if len(found) == 1 and found[0] != other_than:
                        status = await self.status(found[0])
                        if status and [child["role"] for child in status["children"]] == ["active"]:
                            return found[0]
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise AssertionError(f"not within {timeout} s: {found}\n{await self.log()}") from None

    async def health(self, container: str) -> str:
        ended = await self.place.run("inspect", "--format", "{{.State.Health.Status}}", container)
        return ended.out.strip()

    async def healthy(self, container: str) -> None:
        async with asyncio.timeout(60):
            while await self.health(container) != "healthy":  # noqa: ASYNC110
                await asyncio.sleep(0.2)

    async def pid(self, container: str) -> int:
        return int(await self.place.must("inspect", "--format", "{{.State.Pid}}", container))

    async def newcomer(self, old: str) -> str:
        """Wait for another container, whose bot could take over."""
        async with asyncio.timeout(120):
            while not (new := [container for container in await self.containers() if container != old]):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await self.logged(new[0], "is ready to take over from another supervisor's bot")
        return new[0]

    async def logged(self, container: str, text: str) -> None:
        async with asyncio.timeout(60):
            while text not in (await self.place.run("logs", container)).out:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def log(self) -> str:
        there = await self.containers(dead=True)
        logs = [(await self.place.run("logs", "--tail", "40", container)).out for container in there]
        return "\n".join(f"--- {container[:12]}\n{log}" for container, log in zip(there, logs, strict=True))

    async def assert_clean(self) -> None:
        found = await self.place.verdict()
        assert found.clean, f"{found}\n{await self.log()}"
        assert found.emitted > 100

    # The three tools.

    async def compose(self) -> None:
        """Deploy under the other project name, by the script that ships."""
        await self.must(str(EXAMPLES / "compose.sh"))

    async def rollout(self) -> None:
        """Deploy as docker rollout does: scale to two, wait until the new one is healthy, stop and remove the old."""
        old = await self.containers()
        words = ("docker-compose", "--project-name", "bastion-rollout", "up", "--detach", "--no-recreate")
        await self.must(*words, "--scale", f"bot={len(old) + 1}", "bot")
        (new,) = [container for container in await self.containers() if container not in old]
        await self.healthy(new)
        for container in old:
            await self.must("docker", "stop", container)
            await self.must("docker", "rm", container)

    async def swarm(self) -> None:
        """Deploy the stack, which starts the new task first."""
        files = ["--compose-file", str(EXAMPLES / "stack.yaml"), "--compose-file", str(self.directory / "stack.yaml")]
        await self.must("docker", "stack", "deploy", *files, "--resolve-image", "never", "bastion")


@asynccontextmanager
async def deployment(docker: Docker, directory: Path, **settings: object) -> AsyncIterator[Deployment]:
    """Give all that a deployment needs, and no container."""
    ledger = Path(tempfile.mkdtemp(prefix="bastion-test-", dir="/dev/shm"))
    os.chown(ledger, USER, USER)
    try:
        async with placed(docker, directory, port=0) as place:
            place.release()
            shared: dict[str, object] = {
                "ledger__path": "/ledger/claims.sqlite3",
                "ledger__shared": True,
                "health__listen": "unix:/run/bastion/health.sock",
            }
            (directory / "bastion.toml").write_text(place.settings(**shared | settings))
            for name, text in (("override.yaml", COMPOSE_OVERRIDE), ("stack.yaml", STACK_OVERRIDE)):
                said = text.format(volume=place.volume, environ=json.dumps(place.environ))
                (directory / name).write_text(said)
            here = Deployment(place, directory, ledger)
            try:
                yield here
            finally:
                await place.run("stack", "rm", "bastion")
                if left := await here.containers(dead=True):
                    await place.run("rm", "--force", *left)
    finally:
        shutil.rmtree(ledger, ignore_errors=True)


@pytest.fixture
async def swarm(docker: Docker) -> AsyncIterator[None]:
    """The engine is a swarm of its own meanwhile."""
    mine = docker.run("info", "--format", "{{.Swarm.LocalNodeState}}").out.strip() != "active"
    if mine:
        docker.must("swarm", "init", "--advertise-addr", "127.0.0.1", "--listen-addr", "127.0.0.1:2377")
    yield
    if mine:
        docker.must("swarm", "leave", "--force")


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Say whether a process has been sent a signal that it has not got yet."""
    fields = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    return bool(int(fields["ShdPnd"], 16) >> (number - 1) & 1)


async def three_times(here: Deployment, deploy: Callable[[], Awaitable[None]]) -> None:
    """Deploy once, and thrice more under traffic. Only the first bot sends an IDENTIFY, one for each shard."""
    await deploy()
    container = await here.alone()
    here.place.sandbox.traffic.start(rate=40, mix=KINDS)
    identifies = len(here.place.sandbox.gateway.identifies)
    for _ in range(3):
        await deploy()
        container = await here.alone(other_than=container)
    await here.assert_clean()
    assert len(here.place.sandbox.gateway.identifies) == identifies, await here.log()


async def test_compose_under_alternating_project_names_loses_nothing_and_doubles_nothing(
    docker: Docker, tmp_path: Path
) -> None:
    async with deployment(docker, tmp_path) as here:
        await three_times(here, here.compose)


async def test_docker_rollouts_sequence_loses_nothing_and_doubles_nothing(docker: Docker, tmp_path: Path) -> None:
    """Fourteen shards, which would need more than its 60 s to IDENTIFY one after the other."""
    async with deployment(docker, tmp_path, bot__shards=14) as here:
        await three_times(here, here.rollout)


@pytest.mark.usefixtures("swarm")
async def test_swarm_start_first_loses_nothing_and_doubles_nothing(docker: Docker, tmp_path: Path) -> None:
    async with deployment(docker, tmp_path) as here:
        await three_times(here, here.swarm)


async def test_a_new_container_that_crashes_in_the_middle_is_restarted_and_serves_with_nothing_lost(
    docker: Docker, tmp_path: Path
) -> None:
    async with deployment(docker, tmp_path) as here:
        await here.rollout()
        old = await here.alone()
        here.place.sandbox.traffic.start(rate=40, mix=KINDS)
        words = ("docker-compose", "--project-name", "bastion-rollout", "up", "--detach", "--no-recreate")
        await here.must(*words, "--scale", "bot=2", "bot")
        (new,) = [container for container in await here.containers() if container != old]
        await here.healthy(new)
        pid = await here.pid(new)
        os.kill(pid, signal.SIGSTOP)  # so that it dies in the very middle
        stopping = asyncio.create_task(here.must("docker", "stop", old))
        await here.logged(old, "serves until another supervisor's bot does")
        os.kill(pid, signal.SIGKILL)
        await stopping
        assert await here.alone(other_than=old) == new
        await here.logged(new, "beside us: nobody")
        await here.assert_clean()


@pytest.mark.usefixtures("swarm")
async def test_a_new_task_that_crashes_in_the_middle_is_replaced_and_serves_with_nothing_lost(
    docker: Docker, tmp_path: Path
) -> None:
    """It dies in the moment in which Swarm tells the old one to stop: before that one has heard of it."""
    async with deployment(docker, tmp_path) as here:
        await here.swarm()
        old = await here.alone()
        here.place.sandbox.traffic.start(rate=40, mix=KINDS)
        await here.swarm()
        new = await here.newcomer(old)
        pids = [await here.pid(container) for container in (old, new)]
        os.kill(pids[0], signal.SIGSTOP)  # the supervisor; its bot goes on
        async with asyncio.timeout(60):
            while not is_pending(pids[0], signal.SIGTERM):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        os.kill(pids[1], signal.SIGKILL)
        os.kill(pids[0], signal.SIGCONT)
        await here.logged(old, "serves until another supervisor's bot does")
        # Swarm makes another task, of this deployment or, rolling back, of the one before.
        third = await here.alone(other_than=old)
        assert third != new
        await here.logged(third, "beside us: nobody")
        await here.assert_clean()


@pytest.mark.usefixtures("swarm")
async def test_a_task_that_crashes_after_its_deployment_is_replaced_by_one_that_serves(
    docker: Docker, tmp_path: Path
) -> None:
    """Its command still says that it was deployed beside another one, a minute ago; nobody is there to call it."""
    async with deployment(docker, tmp_path) as here:
        await here.swarm()
        first = await here.alone()
        os.kill(await here.pid(first), signal.SIGKILL)
        await here.alone(other_than=first)


async def test_a_new_container_that_never_gets_ready_is_removed_and_the_old_one_serves_on(
    docker: Docker, tmp_path: Path
) -> None:
    async with deployment(docker, tmp_path) as here:
        await here.compose()
        old = await here.alone()
        here.place.sandbox.traffic.start(rate=40, mix=KINDS)
        here.place.release("import no_such_module\n")
        with pytest.raises(AssertionError, match="serves on"):
            await here.compose()
        assert await here.alone() == old
        log = (await here.place.run("logs", old)).out
        assert "supervisor 2 has no bot that could take over: generation 1: " in log
        assert "No module named 'no_such_module'" in log
        await here.assert_clean()
