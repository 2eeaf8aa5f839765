"""`supervisor check --deploy`: what it finds before it goes wrong."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import anyio.to_thread
import msgspec
import pytest
from supervising import make_settings

from bastion.sandbox import Sandbox, SandboxSettings
from bastion.supervisor import deployment, durations, limits
from bastion.supervisor.deployment import findings
from bastion.supervisor.durations import Shards, too_impatient
from bastion.supervisor.settings import HandoffSettings, LedgerSettings, Settings

pytestmark = pytest.mark.anyio

REPOSITORY = Path(__file__).parents[2]
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


async def found(
    settings: Settings, root: Path, *, intents: int | None = MESSAGES, environ: Mapping[str, str] | None = None
) -> dict[str, tuple[bool, str]]:
    given = {**(environ or {}), "RUNTIME_DIRECTORY": str(root)}

    def look() -> dict[str, tuple[bool, str]]:
        looked = findings(settings, intents=intents, environ=given, root=root)
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


class TestProxies:
    """discord.py looks at no proxy variable, so what asks Discord for it must not either."""

    async def test_discord_is_asked_directly_and_the_variable_is_named_without_its_value(
        self, settings: Settings, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("http_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, "http://user:secret@127.0.0.1:1")
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("no_proxy", "")
        async with Sandbox() as sandbox:
            looked = await found(at(settings, sandbox), root, environ=os.environ)
        assert looked["discord"][0], looked
        ok, detail = looked["proxy"]
        assert ok
        assert detail.startswith("HTTPS_PROXY and http_proxy: discord.py does not look at it")
        assert "secret" not in str(looked)

    async def test_one_that_only_the_bot_is_given_is_named_and_an_empty_one_is_none(
        self, settings: Settings, root: Path
    ) -> None:
        settings = replace(settings, environment={"ALL_PROXY": "socks5://127.0.0.1:1", "HTTPS_PROXY": ""})
        assert (await found(settings, root))["proxy"][1].startswith("ALL_PROXY: ")
        assert "proxy" not in await found(replace(settings, environment={"NO_PROXY": "x"}), root)


class TestDurations:
    """Limits of tools, from the number of shards and from how many may IDENTIFY at once."""

    @pytest.mark.parametrize(
        ("count", "at_once", "ready_timeout", "ok", "said"),
        [
            (4, 1, 300, True, "take 20 s (1 at once)"),
            (48, 1, 300, True, "take 240 s (1 at once)"),
            (49, 1, 300, True, "ready_timeout = 305 is on the safe side"),
            (64, 1, 300, False, "so that no reload could succeed: write ready_timeout = 380"),
            (64, 16, 300, True, "take 20 s (16 at once)"),
            (65, 16, 300, True, "take 25 s (16 at once)"),
        ],
    )
    async def test_time_to_be_ready_is_compared_with_the_identifies(
        self, settings: Settings, root: Path, count: int, at_once: int, ready_timeout: float, ok: bool, said: str
    ) -> None:
        settings = with_times(settings, ready_timeout=ready_timeout)
        world = SandboxSettings(recommended_shards=count, max_concurrency=at_once)
        async with Sandbox(world) as sandbox:
            looked = await found(at(settings, sandbox), root)
        assert looked["ready time"][0] is ok
        assert said in looked["ready time"][1]

    @pytest.mark.parametrize(
        ("count", "shared", "said"),
        [
            (60, False, []),
            (61, False, ["the image's HEALTHCHECK waits 360 s: write start_period: 365s, --health-start-period 365s"]),
            (1, True, ["docker rollout waits 60 s: write --timeout 95"]),
            (
                120,
                True,
                [
                    "the image's HEALTHCHECK waits 360 s: write start_period: 690s, --health-start-period 690s",
                    "the unit bastion-container.service waits 420 s: write TimeoutStartSec=690",
                    "docker rollout waits 60 s: write --timeout 690",
                    "compose.sh waits 600 s: write PATIENCE=690",
                ],
            ),
        ],
    )
    def test_each_tool_that_is_too_impatient_is_named_with_the_value_to_write(
        self, settings: Settings, count: int, shared: bool, said: list[str]
    ) -> None:
        settings = replace(with_times(settings), ledger=LedgerSettings(path=Path("/ledger/l"), shared=shared))
        needed = durations.healthy_seconds(settings, Shards(count=count, at_once=1))
        assert list(too_impatient(durations.STARTS, needed, beside=shared)) == said

    @pytest.mark.parametrize(
        ("drain_timeout", "shared", "said"),
        [
            (30, False, []),
            (
                31,
                False,
                [
                    "compose.yaml waits 60 s: write stop_grace_period: 61s",
                    "the unit bastion-container.service waits 60 s: write docker stop --time 61 in ExecStop=",
                ],
            ),
            (45, True, ["stack.yaml waits 90 s: write stop_grace_period: 120s"]),
        ],
    )
    async def test_each_tool_that_stops_too_soon_is_named_too(
        self, settings: Settings, root: Path, drain_timeout: float, shared: bool, said: list[str]
    ) -> None:
        (root / ".dockerenv").touch()
        ledger = LedgerSettings(path=root / "ledger", shared=shared)
        settings = replace(settings, ledger=ledger, handoff=HandoffSettings(drain_timeout=drain_timeout))
        _, detail = (await found(replace(settings, token=""), root))["stop time"]
        assert "handlers are cut" in detail
        for tool in said:
            assert tool in detail
        assert ("; " in detail) is bool(said)

    async def test_a_container_is_told_of_them(self, settings: Settings, root: Path) -> None:
        (root / ".dockerenv").touch()
        settings = with_times(settings)
        async with Sandbox(SandboxSettings(recommended_shards=61)) as sandbox:
            ok, detail = (await found(at(settings, sandbox), root))["start time"]
        assert ok, "whether it has been raised cannot be seen"
        assert "61 shards (1 at once) may take 365 s; the image's HEALTHCHECK waits 360 s: write" in detail
        unasked = replace(settings, token="", bot=msgspec.structs.replace(settings.bot, shards=2))
        assert "2 shards (1 at once) may take 70 s" in (await found(unasked, root))["start time"][1]
        assert "is not known here" in (await found(replace(settings, token=""), root))["start time"][1]

    @pytest.mark.parametrize(
        ("name", "file", "text"),
        [
            ("the image's HEALTHCHECK", "Dockerfile", "--start-period={minutes:g}m "),
            (
                "the unit bastion-container.service",
                "systemd/bastion-container.service",
                "TimeoutStartSec={seconds:g}\n",
            ),
            ("compose.sh", "examples/deploy/compose.sh", "${{PATIENCE:-{seconds:g}}}"),
            ("compose.yaml", "compose.yaml", "stop_grace_period: {seconds:g}s"),
            ("examples/deploy/compose.yaml", "examples/deploy/compose.yaml", "stop_grace_period: {seconds:g}s"),
            ("examples/deploy/stack.yaml", "examples/deploy/stack.yaml", "stop_grace_period: {seconds:g}s"),
        ],
    )
    def test_the_limits_of_tools_that_ship_are_those_in_their_files(self, name: str, file: str, text: str) -> None:
        seconds = next(tool.seconds for tool in (*durations.STARTS, *durations.STOPS) if tool.name == name)
        assert text.format(seconds=seconds, minutes=seconds / 60) in (REPOSITORY / file).read_text()


def with_times(settings: Settings, *, ready_timeout: float = 300.0) -> Settings:
    """Give Discord's window, and the defaults of a handoff."""
    discord = msgspec.structs.replace(settings.discord, identify_window=5.0)
    return replace(settings, discord=discord, handoff=HandoffSettings(ready_timeout=ready_timeout))


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

    async def test_those_that_are_not_known_are_said_not_to_have_been_compared(
        self, settings: Settings, root: Path
    ) -> None:
        async with Sandbox() as sandbox:
            ok, detail = (await found(at(settings, sandbox), root, intents=None))["intents"]
        assert ok
        assert "were not compared" in detail
        assert "`check --deploy --import`" in detail


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


async def test_without_a_token_discord_is_not_asked_and_all_else_is_looked_at(settings: Settings, root: Path) -> None:
    looked = await found(replace(settings, token=""), root)
    assert "discord" not in looked
    assert {"memory", "ledger", "service"} <= set(looked)


class TestLedger:
    MOUNTS = (
        "22 1 0:20 / / ro,relatime - overlay overlay rw,lowerdir=x\n"
        "23 22 0:21 / {directory} rw,nosuid - {kind} {kind} rw,size=65536k\n"
    )

    @pytest.mark.parametrize(
        ("kind", "said"), [("tmpfs", ", on memory"), ("ext4", ", on ext4: claims are quicker on memory")]
    )
    async def test_what_it_is_on_is_said(self, settings: Settings, root: Path, kind: str, said: str) -> None:
        (root / "proc/self/mountinfo").write_text(self.MOUNTS.format(directory=root, kind=kind))
        assert (await found(settings, root))["ledger"] == (True, f"{root} is writable{said}")

    async def test_too_little_room_is_said(
        self, settings: Settings, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (root / "proc/self/mountinfo").write_text(self.MOUNTS.format(directory=root, kind="tmpfs"))
        monkeypatch.setattr(deployment, "SMALLEST_LEDGER", 1 << 60)
        ok, detail = (await found(settings, root))["ledger"]
        assert (ok, ", on memory; only " in detail, "are free, give it" in detail) == (False, True, True)


class TestSurroundings:
    GOOD = "LoadState=loaded\nType=notify\nNotifyAccess=main\nKillMode=mixed\nOOMPolicy=continue\n"
    REST = (
        "ExecReload={ path=/opt/bastion/bin/supervisor ; }\nRestartPreventExitStatus=78\nRestartForceExitStatus=HUP\n"
        "TimeoutStartUSec=7min\nTimeoutStopUSec=1min\n"
    )

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
            "RestartForceExitStatus lacks SIGHUP",
        ):
            assert word in detail

    @pytest.mark.parametrize(
        ("access", "start", "stop", "problems"),
        [
            ("main", "7min", "1min", []),
            ("main", "10s", "10s", []),  # the supervisor asks for what it needs
            ("main", "infinity", "infinity", []),
            ("all", "9s", "1min", ["TimeoutStartSec is 9 s, in which the supervisor may not come to ask"]),
            ("main", "7min", "500ms", ["TimeoutStopSec is 0.5 s", "set TimeoutStopSec=60"]),
            ("none", "7min", "1min", []),
            ("none", "1min 30s", "30s", ["TimeoutStartSec is 90 s, a start or a reload may take 405 s"]),
            ("none", "7min", "59s", ["TimeoutStopSec is 59 s, a stop may take 60 s", "set TimeoutStopSec=60"]),
            ("none", "infinity", "infinity", []),
        ],
    )
    async def test_times_that_are_too_short_are_said_with_what_they_cost(
        self, settings: Settings, root: Path, systemd: Path, access: str, start: str, stop: str, problems: list[str]
    ) -> None:
        settings = replace(settings, handoff=HandoffSettings())
        times = f"TimeoutStartUSec={start}\nTimeoutStopUSec={stop}\n"
        systemd.write_text(self.GOOD.replace("NotifyAccess=main", f"NotifyAccess={access}") + self.REST + times)
        ok, detail = (await found(settings, root))["systemd"]
        assert ok is not bool(problems), detail
        for problem in problems:
            assert problem in detail

    async def test_beside_other_supervisors_a_stop_takes_longer(
        self, settings: Settings, root: Path, systemd: Path
    ) -> None:
        settings = replace(settings, handoff=HandoffSettings(), ledger=LedgerSettings(path=root / "l", shared=True))
        systemd.write_text(self.GOOD.replace("=main", "=none") + self.REST)
        assert "a stop may take 90 s" in (await found(settings, root))["systemd"][1]

    async def test_a_stop_includes_the_time_in_which_a_drained_program_may_clean_up(
        self, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = durations.stop_seconds(settings)
        monkeypatch.setattr(limits, "DRAIN_GRACE", limits.DRAIN_GRACE + 20)
        assert durations.stop_seconds(settings) == before + 20

    async def test_without_a_unit_there_is_nothing_to_say(self, settings: Settings, root: Path, systemd: Path) -> None:
        systemd.write_text("LoadState=not-found\n")
        assert (await found(settings, root))["systemd"][0]

    async def test_a_container_is_told_of_its_stop_timeout(self, settings: Settings, root: Path) -> None:
        (root / ".dockerenv").touch()
        looked = await found(settings, root)
        assert "give it 35 s (docker run --stop-timeout, docker stop --time, stop" in looked["stop time"][1]
        assert "service" not in looked

    @pytest.mark.parametrize(
        ("command", "ok", "said"),
        [
            (["/opt/bastion/bin/python", "/opt/bastion/bin/supervisor", "run"], True, "the supervisor is PID 1"),
            (["/sbin/docker-init", "--", "supervisor", "run"], True, "PID 1 is docker-init"),
            (["/bin/sh", "-c", "supervisor run; echo gone"], False, "PID 1 is sh, which passes no signals on"),
            (["node", "start.js"], True, "PID 1 is node; it must pass signals on"),
            ([], True, "PID 1 is not to be seen"),
        ],
    )
    @pytest.mark.parametrize(("options", "kind"), [("ro,relatime", "read-only"), ("rw", "writable")])
    async def test_who_is_the_first_process_of_a_container_is_said(
        self, settings: Settings, root: Path, command: list[str], ok: bool, said: str, options: str, kind: str
    ) -> None:
        (root / ".dockerenv").touch()
        (root / "proc/1").mkdir()
        (root / "proc/1/cmdline").write_text("".join(f"{word}\0" for word in command))
        (root / "proc/self/mountinfo").write_text(f"22 1 0:20 / / {options} - overlay overlay rw\n")
        found_ok, detail = (await found(settings, root))["container"]
        assert (found_ok, said in detail) == (ok, True), detail
        assert f"; root file system {kind}; as " in detail

    async def test_neither_is_said(self, settings: Settings, root: Path) -> None:
        assert "who restarts the supervisor?" in (await found(settings, root))["service"][1]
