"""`supervisor check --deploy`: what it finds before it goes wrong."""

from __future__ import annotations

import stat
from dataclasses import replace
from pathlib import Path

import anyio.to_thread
import msgspec
import pytest
from supervising import make_settings

from sandbox import Sandbox, SandboxSettings
from supervisor import deployment
from supervisor.deployment import findings
from supervisor.settings import LedgerSettings, Settings

pytestmark = pytest.mark.anyio

MEMBERS, MESSAGES = 1 << 1, 1 << 9
GIB = 1024 * 1024  # in the kB of /proc/meminfo


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return make_settings(tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with 8 GiB free and nothing else."""
    root = tmp_path / "root"
    (root / "proc" / "self").mkdir(parents=True)
    write_memory(root, free=8 * GIB)
    return root


def write_memory(root: Path, *, free: int) -> None:
    (root / "proc" / "meminfo").write_text(f"MemTotal: {16 * GIB} kB\nMemAvailable: {free} kB\n")


async def found(settings: Settings, root: Path, *, intents: int = MESSAGES) -> dict[str, tuple[bool, str]]:
    def look() -> dict[str, tuple[bool, str]]:
        looked = findings(settings, intents=intents, environ={"RUNTIME_DIRECTORY": str(root)}, root=root)
        return {finding.name: (finding.ok, finding.detail) for finding in looked}

    return await anyio.to_thread.run_sync(look)


def at(settings: Settings, sandbox: Sandbox, *, token: str | None = None) -> Settings:
    discord = msgspec.structs.replace(settings.discord, api_url=sandbox.api_url)
    return replace(settings, discord=discord, token=token or sandbox.token)


async def test_discord_is_asked_whether_it_takes_the_token_and_how_much_budget_is_left(
    settings: Settings, root: Path
) -> None:
    async with Sandbox(SandboxSettings(recommended_shards=4)) as sandbox:
        looked = await found(at(settings, sandbox), root)
    assert looked["discord"] == (True, "takes the token, and suggests 4 shards")
    assert looked["identifies"] == (True, "1000 of 1000 IDENTIFYs are left today; a reload takes 4 and keeps 4 back")


async def test_a_budget_that_is_too_small_for_a_reload_fails(settings: Settings, root: Path) -> None:
    async with Sandbox(SandboxSettings(recommended_shards=4, identifies_per_day=7)) as sandbox:
        assert not (await found(at(settings, sandbox), root))["identifies"][0]


async def test_a_token_that_is_refused_is_said_and_not_shown(settings: Settings, root: Path) -> None:
    async with Sandbox() as sandbox:
        looked = await found(at(settings, sandbox, token="wrong.secret.token"), root)
    assert looked["discord"] == (False, f"Discord refused the token (401) at {sandbox.api_url}")
    assert "wrong.secret.token" not in str(looked)
    assert "identifies" not in looked


async def test_a_discord_that_cannot_be_reached_is_said(settings: Settings, root: Path) -> None:
    ok, detail = (await found(settings, root))["discord"]
    assert (ok, detail[:40]) == (False, "cannot be reached at http://127.0.0.1:1/")


class TestIntents:
    @pytest.mark.parametrize(
        ("flags", "ok"), [(0, False), (1 << 14, True), (1 << 15, True), (1 << 12, False), (None, True)]
    )
    async def test_privileged_ones_must_be_enabled(
        self, settings: Settings, root: Path, monkeypatch: pytest.MonkeyPatch, flags: int | None, ok: bool
    ) -> None:
        limit = {"total": 1000, "remaining": 1000}
        answers = {"/gateway/bot": {"shards": 1, "session_start_limit": limit}, "/applications/@me": {}}
        if flags is not None:
            answers["/applications/@me"] = {"flags": flags}
        monkeypatch.setattr(deployment, "_get", lambda _, path: answers[path])
        looked = await found(settings, root, intents=MEMBERS | MESSAGES)
        assert looked["intents"][0] is ok
        assert "members" in looked["intents"][1]
        assert "intents" not in await found(settings, root, intents=MESSAGES)


class TestMemory:
    async def test_room_for_two_small_bots_is_enough(self, settings: Settings, root: Path) -> None:
        assert (await found(settings, root))["memory"][0]

    async def test_too_little_for_two_is_said(self, settings: Settings, root: Path) -> None:
        write_memory(root, free=64 * 1024)
        ok, detail = (await found(settings, root))["memory"]
        assert (ok, "64.0 MiB are free" in detail) == (False, True)


async def test_a_ledger_directory_that_is_not_there_is_said(settings: Settings, root: Path) -> None:
    assert (await found(settings, root))["ledger"][0]
    settings = replace(settings, ledger=LedgerSettings(path=Path("/nowhere/ledger")))
    assert (await found(settings, root))["ledger"] == (False, "there is no directory /nowhere")


class TestSurroundings:
    GOOD = "LoadState=loaded\nType=notify\nKillMode=mixed\nOOMPolicy=continue\n"
    REST = "ExecReload={ path=/opt/bastion/bin/supervisor ; }\nRestartPreventExitStatus=78\n"

    @pytest.fixture
    def systemd(self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A systemd that says of the unit what the file holds."""
        (root / "run" / "systemd" / "system").mkdir(parents=True)
        said = tmp_path / "said"
        command = tmp_path / "bin" / "systemctl"
        command.parent.mkdir()
        command.write_text(f"#!/bin/sh\ncat {said}\n")
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
        return said

    async def test_a_unit_as_it_ships_is_as_it_should_be(self, settings: Settings, root: Path, systemd: Path) -> None:
        systemd.write_text(self.GOOD + self.REST)
        assert (await found(settings, root))["systemd"] == (True, "bastion.service is as it should be")

    async def test_each_thing_that_a_unit_lacks_is_said(self, settings: Settings, root: Path, systemd: Path) -> None:
        systemd.write_text("LoadState=loaded\nType=simple\nKillMode=control-group\nOOMPolicy=stop\nExecReload=kill\n")
        ok, detail = (await found(settings, root))["systemd"]
        assert not ok
        for word in (
            "Type is simple, not notify",
            "KillMode is control-group",
            "OOMPolicy is stop",
            "78",
            "ExecReload",
        ):
            assert word in detail

    async def test_without_a_unit_there_is_nothing_to_say(self, settings: Settings, root: Path, systemd: Path) -> None:
        systemd.write_text("LoadState=not-found\n")
        assert (await found(settings, root))["systemd"][0]

    async def test_a_container_is_told_of_its_stop_timeout(self, settings: Settings, root: Path) -> None:
        (root / ".dockerenv").touch()
        looked = await found(settings, root)
        assert "stop timeout of 35 s" in looked["container"][1]
        assert "service" not in looked

    async def test_neither_is_said(self, settings: Settings, root: Path) -> None:
        assert "who restarts the supervisor?" in (await found(settings, root))["service"][1]
