"""The unit on the real thing: systemd is PID 1 of a container that the product's image fills."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from docker_engine import REPOSITORY, Docker
from place import KINDS, PRODUCT, Place, failures, placed

from bastion.supervisor.unit import FIRST_WORD

pytestmark = [pytest.mark.anyio, pytest.mark.wide, pytest.mark.deploy, pytest.mark.timeout(900)]

UNITS = REPOSITORY / "systemd"
USER = 10001
"""The image's."""
INIT = "mount --make-rshared / && exec /sbin/init"
"""An engine's mounts are private, and then systemd cannot hand a credential into a unit."""
_BOOTED = ("running", "degraded")
BOOT = (
    *("--network", "host", "--cgroupns", "private", "--entrypoint", "/bin/sh", "--user", "0:0", "--no-healthcheck"),
    *("--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE", "--cap-add", "NET_ADMIN"),
    *("--security-opt", "seccomp=unconfined", "--tmpfs", "/run", "--tmpfs", "/run/lock", "--env", "container=docker"),
)


CLIENT = """#!/bin/bash
# The engine's paths are the host's, its only network too, and the bot's Discord is the sandbox.
verb=$1
shift
[ "$verb" = run ] && set -- --network host {environ} "$@"
words=("$verb" "${{@/#\\/srv\\/bastion:/{volume}:}}")
exec /engine/docker --host unix:///engine/socket "${{words[@]/#\\/etc\\/bastion\\//{settings}/}}"
"""
"""A machine's /usr/bin/docker: the unit that ships calls it word for word."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Machine:
    """A booted systemd, with the unit installed as docs/operating.md says."""

    def __init__(self, place: Place, unit: str = "bastion") -> None:
        self.place = place
        self.unit = unit

    async def booted(self) -> None:
        async with asyncio.timeout(60):
            while (await self.systemctl("is-system-running"))[1].strip() not in _BOOTED:  # noqa: ASYNC110
                await asyncio.sleep(0.2)

    async def systemctl(self, *words: str) -> tuple[int, str]:
        ended = await self.place.execute("systemctl", *words)
        return ended.code, ended.out

    async def must(self, *words: str) -> str:
        ended = await self.place.execute(*words)
        if ended.code:
            raise AssertionError(f"{words}: {ended.code}\n{ended.out}\n{await self.journal()}")
        return ended.out

    async def write(self, path: str, text: str) -> None:
        script = 'mkdir -p "$(dirname "$1")" && printf %s "$2" > "$1"'
        await self.must("sh", "-c", script, "sh", path, text)

    async def journal(self, *words: str) -> str:
        return (await self.place.execute("journalctl", "--no-pager", "-u", self.unit, "-n", "200", *words)).out

    async def shown(self, key: str) -> str:
        return (await self.must("systemctl", "show", "-P", key, self.unit)).strip()

    async def until(self, key: str, value: str, *, timeout: float = 60.0) -> None:
        """Wait until a property of the unit matches."""
        found = ""
        try:
            async with asyncio.timeout(timeout):
                while not re.search(value, found := await self.shown(key)):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{key} is {found!r}, not {value!r}\n{await self.journal()}") from None

    async def configure(self, **changes: object) -> None:
        settings = self.place.settings(**({"control__socket": "/run/bastion/supervisor.sock"} | changes))
        await self.write("/etc/bastion/bastion.toml", settings)


@asynccontextmanager
async def machine(docker: Docker, directory: Path, **settings: object) -> AsyncIterator[Machine]:
    async with placed(docker, directory, port=free_port()) as place:
        place.release()
        mounts = ("--volume", f"{place.volume}:/srv/bastion", "--volume", f"{UNITS}:/units:ro")
        await place.must("run", "--detach", "--name", place.name, *BOOT, *mounts, PRODUCT, "-c", INIT)
        it = Machine(place)
        await it.booted()
        for source, target in (
            ("bastion.service", "system"),
            ("sysusers.d/bastion.conf", "../sysusers.d"),
            ("tmpfiles.d/bastion.conf", "../tmpfiles.d"),
        ):
            await it.must("install", "-D", "-m644", "-t", f"/etc/systemd/{target}", f"/units/{source}")
        await it.must("systemd-sysusers")
        await it.write("/etc/bastion/token", f"{place.sandbox.token}\n")
        await it.must("systemd-tmpfiles", "--create", "bastion.conf")
        await it.configure(**settings)
        here = "".join(f"Environment={name}={value}\n" for name, value in place.environ.items())
        await it.write("/etc/systemd/system/bastion.service.d/sandbox.conf", f"[Service]\n{here}")
        await it.must("systemctl", "daemon-reload")
        yield it


async def test_start_reload_and_stop_lose_nothing_and_double_nothing(docker: Docker, tmp_path: Path) -> None:
    async with machine(docker, tmp_path) as it:
        await it.must("systemctl", "start", "bastion")
        status = await it.place.serving(1)
        assert len(status["children"][0]["shards"]) == 2
        assert re.fullmatch(r"generation 1, 2 of 2 shards ready, active since 20\S+Z", await it.shown("StatusText"))
        sandbox = it.place.sandbox
        sandbox.traffic.start(rate=40, mix=KINDS)
        for generation in (2, 3):
            it.place.release()
            await it.must("systemctl", "reload", "bastion")
            assert (await it.shown("StatusText")).startswith(f"generation {generation}, 2 of 2 shards ready")
            assert await it.shown("ActiveState") == "active"
        found = await it.place.verdict()
        assert found.clean, f"{found}\n{await it.journal()}"
        assert found.emitted > 50

        shown = await it.must("systemctl", "status", "bastion")
        assert 'Status: "generation 3' in shown
        assert sandbox.token not in shown + await it.journal()
        assert (await it.systemctl("stop", "bastion"))[0] == 0
        assert await it.shown("Result") == "success"
        assert "generation 3 has left: exited with status 0" in await it.journal()


async def test_a_restart_loses_no_message_and_begins_no_session(docker: Docker, tmp_path: Path) -> None:
    async with machine(docker, tmp_path) as it:
        await it.must("systemctl", "start", "bastion")
        await it.place.serving(1)
        sandbox = it.place.sandbox
        begun = len(sandbox.gateway.identifies)
        sandbox.traffic.start(rate=40, mix={"message": 1.0, "reaction_add": 1.0})
        await asyncio.sleep(1)
        await it.must("systemctl", "restart", "bastion")
        await it.place.serving(1)
        found = await it.place.verdict()
        assert found.clean, f"{found}\n{await it.journal()}"
        assert len(sandbox.gateway.identifies) == begun, await it.journal()


async def test_a_broken_release_fails_the_reload_and_the_old_bot_serves_on(docker: Docker, tmp_path: Path) -> None:
    async with machine(docker, tmp_path) as it:
        await it.must("systemctl", "start", "bastion")
        it.place.release("import no_such_module\n")
        code, said = await it.systemctl("reload", "bastion")
        assert code != 0, said
        await it.place.serving(1)
        assert await it.shown("ActiveState") == "active"
        assert await it.shown("NRestarts") == "0"
        journal = await it.journal()
        assert "No module named 'no_such_module'" in journal
        warnings = await it.journal("-p", "warning")
        assert "reload failed: " in warnings
        assert "spawned as" not in warnings


async def test_a_crash_of_the_bot_is_mended_inside_and_one_of_the_supervisor_by_systemd(
    docker: Docker, tmp_path: Path
) -> None:
    async with machine(docker, tmp_path) as it:
        await it.must("systemctl", "start", "bastion")
        bot = (await it.place.serving(1))["children"][0]["pid"]
        await it.must("kill", "-KILL", str(bot))
        await it.place.serving(2)
        assert await it.shown("NRestarts") == "0"

        await it.must("kill", "-KILL", await it.shown("MainPID"))
        await it.until("NRestarts", "1")
        await it.until("ActiveState", "^active$")
        await it.place.serving(1)
        assert (await it.systemctl("restart", "bastion"))[0] == 0
        await it.place.serving(1)


async def test_the_watchdog_bites_a_supervisor_that_hangs(docker: Docker, tmp_path: Path) -> None:
    async with machine(docker, tmp_path) as it:
        await it.write("/etc/systemd/system/bastion.service.d/dog.conf", "[Service]\nWatchdogSec=2\nRestartSec=0.2\n")
        await it.must("systemctl", "daemon-reload")
        await it.must("systemctl", "start", "bastion")
        before = await it.shown("MainPID")
        await asyncio.sleep(3)  # longer than the watchdog's time: a supervisor that is well is let live
        assert (await it.shown("MainPID"), await it.shown("NRestarts")) == (before, "0")
        await it.must("kill", "-STOP", before)
        await it.until("NRestarts", "1")
        await it.until("ActiveState", "^active$")
        assert "Watchdog timeout" in await it.journal()
        assert await it.shown("MainPID") != before
        await it.place.serving(1)


SLOW = """
import os, time
if "NOTIFY_SOCKET" in os.environ: time.sleep(2)
"""
"""A sitecustomize.py: the supervisor's interpreter, and nobody else's, takes its time before any of our code runs."""
HUPS = """
systemctl start --no-block bastion
until case $(readlink /proc/$(systemctl show -P MainPID bastion)/exe) in *python*) true;; *) false; esac; do :; done
pid=$(systemctl show -P MainPID bastion)
grep -E "^Sig(Ign|Cgt)" /proc/$pid/status
while [ "$(systemctl show -P ActiveState bastion)" = activating ]; do
    kill -HUP $pid
    hups=$((hups + 1))
done
echo $pid $hups
"""
"""From the interpreter's first moments until READY. First it says how SIGHUP, bit 0, was dealt with by then."""


async def test_hups_from_the_first_moment_on_until_it_is_ready_are_survived_by_the_same_process(
    docker: Docker, tmp_path: Path
) -> None:
    async with machine(docker, tmp_path) as it:
        await it.write("/etc/slow/sitecustomize.py", SLOW)
        await it.write(
            "/etc/systemd/system/bastion.service.d/slow.conf", "[Service]\nEnvironment=PYTHONPATH=/etc/slow\n"
        )
        await it.must("systemctl", "daemon-reload")
        said = (await it.must("sh", "-c", HUPS)).split()
        ignored, caught = int(said[1], 16), int(said[3], 16)
        assert (ignored & 1, caught & 1) == (1, 0), "the first one came before Python handles it"
        pid, hups = said[4:]
        assert int(hups) > 10
        assert await it.shown("ActiveState") in ("active", "reloading")
        assert (await it.shown("MainPID"), await it.shown("NRestarts")) == (pid, "0")
        # Those that came once it was handled have asked for a reload.
        assert "SIGHUP: reload" in await it.journal("--identifier", "supervisor")
        status = await it.place.until(lambda status: status["supervisor"]["state"] == "serving")
        assert status["supervisor"]["pid"] == int(pid)
        assert (await it.shown("MainPID"), await it.shown("NRestarts")) == (pid, "0")


async def test_a_hup_before_systemd_has_come_to_its_command_costs_another_start_at_most(
    docker: Docker, tmp_path: Path
) -> None:
    async with machine(docker, tmp_path) as it:
        await it.must("sh", "-c", "systemctl start --no-block bastion; systemctl kill --kill-who=main -s HUP bastion")
        await it.until("ActiveState", "^active$")
        status = await it.place.until(lambda status: status["supervisor"]["state"] == "serving")
        assert status["children"]
        assert await it.shown("NRestarts") in ("0", "1")


async def test_a_supervisor_that_replaces_its_own_program_is_the_same_service(docker: Docker, tmp_path: Path) -> None:
    async with machine(docker, tmp_path) as it:
        await it.must("systemctl", "start", "bastion")
        bot = (await it.place.serving(1))["children"][0]["pid"]
        ignored = (await it.must("grep", "SigIgn", f"/proc/{bot}/status")).split()[1]
        assert not int(ignored, 16) & 1, "what the shell had ignored is no matter of the bot's"
        it.place.sandbox.traffic.start(rate=40, mix=KINDS)
        before = await it.shown("MainPID")
        await it.must("systemctl", "kill", "--kill-who=main", "-s", "USR2", "bastion")
        async with asyncio.timeout(60):
            while "re-execution's reload succeeded" not in await it.journal():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        # The new program is told of, and answers to, systemd as the old one: status, signals, watchdog, reload.
        await it.place.serving(2)
        it.place.release()
        await it.must("systemctl", "reload", "bastion")
        assert (await it.shown("StatusText")).startswith("generation 3, 2 of 2 shards ready")
        await it.must("systemctl", "kill", "--kill-who=main", "-s", "HUP", "bastion")
        await it.place.serving(4)
        assert (await it.shown("MainPID"), await it.shown("NRestarts")) == (before, "0")
        found = await it.place.verdict()
        assert found.clean, f"{found}\n{await it.journal()}"
        assert (await it.systemctl("stop", "bastion"))[0] == 0
        assert await it.shown("Result") == "success"


async def test_a_configuration_that_cannot_work_is_not_tried_again(docker: Docker, tmp_path: Path) -> None:
    async with machine(docker, tmp_path) as it:
        await it.configure(bot__shards="many")
        assert (await it.systemctl("start", "bastion"))[0] != 0
        await it.until("ActiveState", "^failed$")
        assert (await it.shown("ExecMainStatus"), await it.shown("NRestarts")) == ("78", "0")
        assert "bot.shards = 'many': allowed is" in await it.journal()


CHECK = """
export DISCORD_TOKEN=$(cat /etc/bastion/token) DISCORD_API_URL=$1
exec runuser -u bastion -- /opt/bastion/bin/supervisor check --deploy --import --config /etc/bastion/bastion.toml
"""


async def test_check_tells_of_the_unit_what_would_go_wrong(docker: Docker, tmp_path: Path) -> None:
    async with machine(docker, tmp_path) as it:
        await it.must("systemctl", "start", "bastion")
        words = ("sh", "-c", CHECK, "sh", it.place.sandbox.api_url)
        said = (await it.place.execute(*words)).out
        assert "OK    systemd      bastion.service is as it should be" in said
        assert "OK    container    PID 1 is init" in said
        assert "OK    ledger       /run/bastion is writable, on memory" in said
        assert "stop time" not in said
        assert failures(said) == ["intents"], said

        drop_in = "[Service]\nType=exec\nNotifyAccess=none\nWatchdogSec=0\nTimeoutStartSec=90\nTimeoutStopSec=30\n"
        drop_in += "RestartForceExitStatus=\n"
        await it.write("/etc/systemd/system/bastion.service.d/worse.conf", drop_in)
        await it.must("systemctl", "daemon-reload")
        ended = await it.place.execute(*words)
        assert ended.code == 78
        assert failures(ended.out) == ["intents", "systemd"]
        (line,) = [line for line in ended.out.splitlines() if "bastion.service: " in line]
        for problem in (
            "Type is exec, not notify",
            "TimeoutStartSec is 90 s, a start or a reload may take",
            "TimeoutStopSec is 30 s, a stop may take 60 s",
            "RestartForceExitStatus lacks SIGHUP",
        ):
            assert problem in line
        await it.place.serving(1)


async def test_the_supervisor_asks_for_the_time_that_its_settings_need(docker: Docker, tmp_path: Path) -> None:
    """The shortest times that `check --deploy` lets pass; start, reload and stop each take longer."""
    async with machine(docker, tmp_path, handoff__probation=14) as it:
        times = (
            f"TimeoutStartSec={FIRST_WORD:g}\nTimeoutStopSec={FIRST_WORD:g}\nEnvironment=PROBE_HANDLER_MS=14000-14000\n"
        )
        await it.write("/etc/systemd/system/bastion.service.d/zz.conf", f"[Service]\n{times}")
        await it.must("systemctl", "daemon-reload")
        it.place.sandbox.faults.withhold_ready([1])
        starting = asyncio.create_task(it.must("systemctl", "start", "bastion"))
        await asyncio.sleep(FIRST_WORD + 4)
        it.place.sandbox.faults.clear()
        it.place.sandbox.faults.drop_shard(1)
        await starting
        began = time.monotonic()
        await it.must("systemctl", "reload", "bastion")
        assert time.monotonic() - began > FIRST_WORD
        await it.place.serving(2)
        await it.place.sandbox.traffic.run(rate=10, mix={"message": 1.0}, seconds=1)
        emitted = it.place.sandbox.journal.verdict().emitted
        await it.place.until(lambda status: status["children"][0]["in_flight"] == emitted)
        began = time.monotonic()
        assert (await it.systemctl("stop", "bastion"))[0] == 0
        assert time.monotonic() - began > FIRST_WORD
        assert (await it.shown("Result"), await it.shown("NRestarts")) == ("success", "0")
        found = await it.place.verdict()
        assert found.clean, f"{found}\n{await it.journal()}"


async def test_the_hardening_is_rated_ok_and_the_units_are_well_formed(docker: Docker, tmp_path: Path) -> None:
    async with machine(docker, tmp_path) as it:
        said = await it.must("systemd-analyze", "security", "--no-pager", "bastion.service")
        rating = re.search(r"Overall exposure level for bastion.service: ([\d.]+) (\w+)", said)
        assert rating is not None, said
        assert float(rating[1]) <= 2.0, said
        assert (await it.must("systemd-analyze", "verify", "bastion.service")).strip() == ""
        security = await it.must("systemd-analyze", "security", "--json=short", "bastion.service")
        assert json.loads(security)


@asynccontextmanager
async def machine_with_docker(docker: Docker, directory: Path) -> AsyncIterator[tuple[Machine, Place]]:
    """Give a machine whose docker.service is the tests' engine, and the place in the container that its unit runs."""
    settings = directory / "etc"
    settings.mkdir()
    async with placed(docker, directory, port=free_port()) as place:
        place.release()
        (settings / "bastion.toml").write_text(place.settings(discord__token_file="/run/secrets/discord_token"))
        (settings / "token").write_text(place.sandbox.token)
        os.chown(settings / "token", USER, USER)
        (settings / "token").chmod(0o400)
        inside = replace(place, name="bastion")
        client, socket_path = str(shutil.which("docker")), docker.host.removeprefix("unix://")
        mounts = ("--volume", f"{UNITS}:/units:ro", "--volume", f"{client}:/engine/docker:ro")
        mounts += ("--volume", f"{socket_path}:/engine/socket")
        await place.must("run", "--detach", "--name", place.name, *BOOT, *mounts, PRODUCT, "-c", INIT)
        it = Machine(place, "bastion-container")
        await it.booted()
        environ = " ".join(f"--env {name}={value}" for name, value in place.environ.items())
        paths = {
            name: str(path).replace("/", "\\/") for name, path in (("volume", place.volume), ("settings", settings))
        }
        await it.write("/usr/bin/docker", CLIENT.format(environ=environ, **paths))
        await it.must("chmod", "755", "/usr/bin/docker")
        await it.write(
            "/etc/systemd/system/docker.service", "[Service]\nType=oneshot\nExecStart=/bin/true\nRemainAfterExit=yes\n"
        )
        await it.must("install", "-D", "-m644", "-t", "/etc/systemd/system", "/units/bastion-container.service")
        drop_in = f"[Service]\nEnvironment=BASTION_IMAGE={PRODUCT}\nRestartSec=0.2\n"
        await it.write("/etc/systemd/system/bastion-container.service.d/image.conf", drop_in)
        await it.must("systemctl", "daemon-reload")
        try:
            yield it, inside
        finally:
            await inside.run("rm", "--force", "--volumes", inside.name)


async def test_the_unit_for_the_container_fails_at_once_where_its_settings_cannot_work(
    docker: Docker, tmp_path: Path
) -> None:
    async with machine_with_docker(docker, tmp_path) as (it, bot):
        (tmp_path / "etc" / "bastion.toml").write_text(bot.settings(bot__shards="many"))
        assert (await it.systemctl("start", it.unit))[0] != 0
        await it.until("ActiveState", "^failed$")
        assert (await it.shown("ExecMainStatus"), await it.shown("NRestarts")) == ("78", "0")
        assert "bot.shards = 'many': allowed is" in await it.journal()


async def test_the_unit_for_the_container_starts_reloads_crashes_and_stops(docker: Docker, tmp_path: Path) -> None:
    async with machine_with_docker(docker, tmp_path) as (it, bot):
        await it.must("systemctl", "start", it.unit)
        await bot.serving(1)  # started means ready
        bot.sandbox.traffic.start(rate=40, mix=KINDS)
        it.place.release()
        await it.must("systemctl", "reload", it.unit)
        await bot.serving(2)
        it.place.release("import no_such_module\n")
        assert (await it.systemctl("reload", it.unit))[0] != 0
        assert await it.shown("ActiveState") == "active"
        assert "No module named 'no_such_module'" in await it.journal()
        await bot.serving(2)
        it.place.release()
        await it.must("systemctl", "kill", "--kill-who=main", "-s", "HUP", it.unit)  # the client passes it on
        await bot.serving(4)
        assert (await it.shown("ActiveState"), await it.shown("NRestarts")) == ("active", "0")
        found = await bot.verdict()
        assert found.clean, f"{found}\n{await it.journal()}"
        assert found.emitted > 20

        await bot.must("kill", "--signal", "KILL", bot.name)
        await it.until("NRestarts", "1")
        await it.until("ActiveState", "^active$")
        await bot.serving(1)
        assert (await it.systemctl("stop", it.unit))[0] == 0
        assert await it.shown("Result") == "success"
        assert bot.sandbox.token not in await it.journal()
