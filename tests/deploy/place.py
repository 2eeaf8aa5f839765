"""A container with the product in it, a sandbox on the host, and a release on a volume."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from docker_engine import PRODUCT, Docker, Ended

from bastion.sandbox import Entry, Sandbox, SandboxSettings, Verdict

APPS = Path(__file__).resolve().parent.parent / "apps"
KINDS = {"command_message": 2.0, "slash": 2.0, "button": 1.0, "message": 2.0, "reaction_add": 1.0, "edit": 1.0}
WINDOW = 0.25
"""Seconds of the sandbox's IDENTIFY window in tests; Discord's is 5."""
SUPERVISOR = "/opt/bastion/bin/supervisor"


@dataclass
class Place:
    """Where the bot runs."""

    docker: Docker
    sandbox: Sandbox
    name: str
    volume: Path
    port: int
    releases: int = field(default=0)

    async def run(self, *words: str, timeout: float = 120.0) -> Ended:
        """Run a docker command without holding up the sandbox."""
        return await asyncio.to_thread(partial(self.docker.run, *words, timeout=timeout))

    async def must(self, *words: str, timeout: float = 120.0) -> str:
        return await asyncio.to_thread(partial(self.docker.must, *words, timeout=timeout))

    async def execute(self, *words: str) -> Ended:
        """Run a command in the container."""
        return await self.run("exec", self.name, *words)

    async def supervisor(self, *words: str) -> Ended:
        return await self.execute(SUPERVISOR, *words)

    async def status(self) -> dict[str, Any]:
        ended = await self.supervisor("status", "--json")
        assert ended.code == 0, ended
        found: dict[str, Any] = json.loads(ended.out)
        return found

    async def until(self, holds: Callable[[dict[str, Any]], bool], *, timeout: float = 60.0) -> dict[str, Any]:
        """Ask for the status until something holds."""
        newest = "nothing"
        try:
            async with asyncio.timeout(timeout):
                while True:
                    ended = await self.supervisor("status", "--json")
                    newest = ended.out
                    if ended.code == 0 and holds(status := json.loads(ended.out)):
                        return dict(status)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"not within {timeout} s: {newest}\n{await self.log()}") from None

    async def serving(self, generation: int) -> dict[str, Any]:
        """Wait until that generation serves, alone."""
        return await self.until(
            lambda status: (
                status["supervisor"]["state"] == "serving"
                and [child["generation"] for child in status["children"]] == [generation]
            )
        )

    async def log(self) -> str:
        return (await self.run("logs", "--tail", "60", self.name)).out

    def release(self, source: str = "from sharded_bot import client\n") -> Path:
        """Write a release and have `current` name it; what the test apps share is in it."""
        self.releases += 1
        directory = self.volume / "releases" / str(self.releases)
        shutil.copytree(APPS, directory, ignore=shutil.ignore_patterns("__pycache__"))
        (directory / "app.py").write_text(source)
        following = self.volume / "current.new"
        following.symlink_to(f"releases/{self.releases}")
        following.rename(self.volume / "current")
        return directory

    def settings(self, **changes: object) -> str:
        """Return the text of a settings file; keys are ``section__key``."""
        values: dict[str, object] = {
            "bot__app": "app:client",
            "bot__directory": "/srv/bastion/current",
            "discord__identify_window": WINDOW,
            "handoff__probation": 1,
            "handoff__linger": 3,
            "restart__backoff_first": 0.2,
            "health__listen": f"127.0.0.1:{self.port}",
        }
        sections: dict[str, list[str]] = {}
        for key, value in (values | changes).items():
            section, name = key.split("__")
            sections.setdefault(section, []).append(f"{name} = {json.dumps(value)}")
        return "".join(f"[{section}]\n" + "\n".join(lines) + "\n" for section, lines in sections.items())

    @property
    def environ(self) -> dict[str, str]:
        return {"DISCORD_API_URL": self.sandbox.api_url, "PROBE_HANDLER_MS": "0-100"}

    async def verdict(self) -> Verdict:
        await self.sandbox.traffic.stop()
        return await self.sandbox.settled(timeout=15, quiet=3)


def expected(entry: Entry) -> bool:
    return entry.kind in ("message", "slash", "button", "reaction_add", "edit")


def failures(said: str) -> list[str]:
    """Return the names of what `supervisor check` found wrong; the sandbox's application has no intents enabled."""
    return [line.split()[1] for line in said.splitlines() if line.startswith("FAIL")]


@asynccontextmanager
async def placed(docker: Docker, directory: Path, *, port: int) -> AsyncIterator[Place]:
    """Give a place without a container; one that is made under its name is removed at the end."""
    directory.chmod(0o755)
    for parent in directory.parents[:2]:  # pytest makes them private; the bot's user must come through
        parent.chmod(0o755)
    volume = directory / "srv"
    (volume / "releases").mkdir(parents=True)
    settings = SandboxSettings(
        max_concurrency=16,
        identify_window=WINDOW,
        recommended_shards=2,
        member_request_window=0.0,
        identifies_per_day=100_000,
    )
    async with Sandbox(settings) as sandbox:
        sandbox.traffic.options.slash = ("ping", "slow", "fruit", "lasting", "form")  # no conversation of a minute
        sandbox.journal.expect(expected)
        place = Place(docker, sandbox, f"bastion-{time.monotonic_ns()}", volume, port)
        try:
            yield place
        finally:
            await place.run("rm", "--force", "--volumes", place.name)


__all__ = ["KINDS", "PRODUCT", "Place", "failures", "placed"]
