"""Bad input, at the first start and on a reload: one clear message, the documented exit code, and nothing else happens.

Also what the commands do at odd moments: at once, during a start, during a handoff, when whoever asked is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
import venv
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from casualties import Reload
from rig import ALL_KINDS, APPS, Ended, Rig, active, rig

from bastion.sandbox import Sandbox, SandboxSettings

pytestmark = pytest.mark.anyio

TOKEN = "the-good.secret.token-of-the-sandbox"
WRONG_TOKEN = "a-wrong.secret.token-of-somebody"
SECRETS = (TOKEN, WRONG_TOKEN)
PRESENCES = 1 << 8
"""The intent that `broken_intents` asks for and the probes do not."""

WINDOW = 0.25
"""Seconds of the sandbox's IDENTIFY window in tests; Discord's is 5."""
AFTER_FAULT = 5.0
"""Seconds within which a reload ends once its new child has failed."""
READY_TIMEOUT = 2
"""handoff.ready_timeout of the releases that never get ready."""

QUICK = "import discord\nclient = discord.Client(intents=discord.Intents(guilds=True), guild_ready_timeout=0.3)\n"
"""A bot that is ready soon: discord.py waits 2 s for guilds unless told otherwise."""
HELD = f"import os\nopen(os.path.join(os.path.dirname(__file__), 'held')).read()\n{QUICK}"
"""A bot that is imported once somebody has opened and closed the pipe beside it."""
PROBE = "from sharded_bot import ShardedBot\nclient = ShardedBot()\n"
QUICK_PROBE = "from sharded_bot import ShardedBot\nclient = ShardedBot(guild_ready_timeout=0.5)\n"

CONFIGURATION = 78
FAILED = 1


def settings(**changes: Any) -> SandboxSettings:
    options = {
        "max_concurrency": 16,
        "identify_window": WINDOW,
        "member_request_window": 0.0,
        "recommended_shards": 2,
        "token": TOKEN,
    }
    return SandboxSettings(**(options | changes))


@asynccontextmanager
async def quick(directory: Path, *, source: str = QUICK, **options: Any) -> AsyncIterator[Rig]:
    """An installation whose bot is ready soon, and that leaves no process behind."""
    options = {"discord__identify_window": WINDOW} | options
    async with rig(directory, app="app:client", settings=settings(), handler_ms="0-100", **options) as installation:
        installation.configure(bot__directory=str(installation.release("app", source)))
        yield installation
        assert await installation.stop() == 0
        assert installation.processes() == []
        assert_no_secret("\n".join(installation.log))


def assert_no_secret(text: str) -> None:
    assert not [secret for secret in SECRETS if secret in text], text


# --- at the first start -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BadStart:
    """What is wrong, and what has to be said about it."""

    name: str
    says: str
    """A regular expression that the message matches."""
    options: Mapping[str, object] = field(default_factory=dict)
    environ: Mapping[str, str | None] = field(default_factory=dict)
    prepare: Callable[[Rig], None] = lambda installation: None
    disallowed_intents: int = 0
    raises: bool = False
    """Whether the app's own code raises: then its traceback, and nothing of ours, is in the log."""
    variant: bool = False
    """Whether another case is much like it; then it is one of the wider suite."""


def remove_config(installation: Rig) -> None:
    installation.config.unlink()


def write_no_toml(installation: Rig) -> None:
    installation.config.write_text("[bot\n")


def make_empty_venv(installation: Rig) -> None:
    release = installation.release("app", QUICK)
    venv.create(release / ".venv", symlinks=True, with_pip=False)
    installation.environ.pop("PYTHONPATH")
    installation.configure(bot__directory=str(release))


def break_venv(installation: Rig) -> None:
    """As it is when the Python that the venv was made with has been removed."""
    release = installation.release("app", QUICK)
    (release / ".venv" / "bin").mkdir(parents=True)
    (release / ".venv" / "bin" / "python").symlink_to(installation.directory / "removed")
    installation.configure(bot__directory=str(release))


def raising_release(installation: Rig) -> None:
    installation.configure(bot__directory=str(installation.release("app", "def create():\n    return 1 / 0\n")))


def release_with_a_typo(installation: Rig) -> None:
    installation.configure(bot__directory=str(installation.release("app", "import discord\nclient = = 3\n")))


BEFORE_ANY_BOT = [
    BadStart(
        name="unknown key",
        options={"bot__shard": 3},
        says=r"bastion\.toml: bot\.shard: unknown key; did you mean bot\.shards\? allowed are program, app, ",
    ),
    BadStart(
        name="unknown table",
        variant=True,
        options={"handof__settle": 3},
        says=r"bastion\.toml: handof: unknown table; did you mean handoff\?",
    ),
    BadStart(
        name="wrong type",
        options={"bot__shards": "four"},
        says=r"bastion\.toml: bot\.shards = 'four': allowed is \"auto\", or a whole number from 1 to 65536$",
    ),
    BadStart(
        name="token in the file",
        options={"discord__token": WRONG_TOKEN},
        says=r"bastion\.toml: discord\.token: unknown key; the token does not belong in this file: set DISCORD_TOKEN",
    ),
    BadStart(name="no TOML", prepare=write_no_toml, says=r"bastion\.toml: not valid TOML: .*\(at line 1, column 5\)"),
    BadStart(name="no such file", prepare=remove_config, says=r"bastion\.toml: no such file \(named by --config\)$"),
    BadStart(
        name="no token",
        environ={"DISCORD_TOKEN": None},
        says=r"^no Discord token: set DISCORD_TOKEN in the environment, or name a file .*discord\.token_file",
    ),
    BadStart(
        name="token file missing",
        variant=True,
        environ={"DISCORD_TOKEN": None},
        options={"discord__token_file": "gone"},
        says=r"discord\.token_file: .*gone.*: the token cannot be read: No such file or directory$",
    ),
    BadStart(
        name="directory missing",
        options={"bot__directory": "releases/43"},
        says=r"bot\.directory: .*/releases/43: No such file or directory$",
    ),
    BadStart(
        name="program missing",
        options={"bot__app": "", "bot__program": "gone.py"},
        says=r"bot\.program: .*/gone\.py: No such file or directory$",
    ),
    BadStart(
        name="program and app",
        variant=True,
        options={"bot__program": "main.py"},
        says=r"bastion\.toml: bot\.program = 'main\.py' and bot\.app = 'sharded_bot:client': allowed is one of",
    ),
    BadStart(
        name="environment file missing",
        variant=True,
        options={"bot__env_file": ".env"},
        says=r"^bot\.env_file: .*/\.env: cannot be read: No such file or directory$",
    ),
    BadStart(
        name="interpreter missing",
        options={"bot__python": "nowhere/python"},
        says=r"bot\.python: .*/nowhere/python: no such file$",
    ),
    BadStart(
        name="venv's interpreter missing",
        variant=True,
        prepare=break_venv,
        says=r"the release's \.venv: .*/\.venv/bin/python: no such file$",
    ),
]

BY_THE_FIRST_BOT = [
    BadStart(
        name="wrong token",
        environ={"DISCORD_TOKEN": WRONG_TOKEN},
        says=r"^generation 1: Discord refused the token \(401\): check the program's own, DISCORD_TOKEN or ",
    ),
    BadStart(
        name="no such module",
        options={"bot__app": "nosuch:client"},
        says=rf'^generation 1: bot\.app = "nosuch:client": there is no module nosuch in {re.escape(str(APPS))}$',
    ),
    BadStart(
        name="no such attribute",
        variant=True,
        options={"bot__app": "plain_client:bot"},
        says=r'^generation 1: bot\.app = "plain_client:bot": module plain_client has no "bot"$',
    ),
    BadStart(
        name="syntax error",
        variant=True,
        options={"bot__app": "app:client"},
        prepare=release_with_a_typo,
        says=r'^generation 1: bot\.app = "app:client" cannot be imported: SyntaxError: invalid .*\(app\.py, line 2\)$',
        raises=True,
    ),
    BadStart(
        name="not a client",
        options={"bot__app": "broken_not_client:client"},
        says=r'^generation 1: bot\.app = "broken_not_client:client" is a str, not a discord\.py client: name a ',
    ),
    BadStart(
        name="venv without our package",
        options={"bot__app": "app:client"},
        prepare=make_empty_venv,
        says=r"^generation 1: .*/\.venv/bin/python has no bastion-supervisor: install it there$",
    ),
    BadStart(
        name="disallowed intents",
        options={"bot__app": "broken_intents:client"},
        disallowed_intents=PRESENCES,
        says=r"^generation 1: Discord refused the intents \(close code 4014\): the app asks for privileged ones",
    ),
    BadStart(
        name="four shards for a plain client",
        options={"bot__app": "plain_client:client", "bot__shards": 4},
        says=r"^generation 1: bot\.shards = 4, but the app is a PlainClient, which connects one shard: make it an Auto",
    ),
]


def case(bad: BadStart) -> Any:
    marks = [pytest.mark.wide] if bad.variant else []
    return pytest.param(bad, id=bad.name.replace(" ", "-"), marks=marks)


@pytest.mark.parametrize("bad", [case(bad) for bad in (*BEFORE_ANY_BOT, *BY_THE_FIRST_BOT)])
async def test_a_bad_start_says_once_what_is_wrong_and_exits_with_78(tmp_path: Path, bad: BadStart) -> None:
    sandbox_settings = settings(disallowed_intents=bad.disallowed_intents)
    async with rig(tmp_path, app="sharded_bot:client", settings=sandbox_settings, **bad.options) as installation:
        bad.prepare(installation)
        for name, value in bad.environ.items():
            installation.environ.pop(name, None)
            if value is not None:
                installation.environ[name] = value
        async with asyncio.timeout(20):
            ended = await installation.command("run")

        assert ended.code == CONFIGURATION, ended
        said, meaning = message_of(ended)
        assert re.search(bad.says, said), said
        assert meaning.startswith("No bot was started." if bad in SAID_BEFORE_STARTING else "No bot runs.")
        assert_no_traceback_of_ours(ended.err, of_the_app=bad.raises)
        assert_no_secret(ended.out + ended.err)
        assert installation.processes() == []
        assert not (tmp_path / "s.sock").exists()


SAID_BEFORE_STARTING = [bad for bad in BEFORE_ANY_BOT if not bad.says.startswith(("bot\\.", "the release"))]
"""The file and the token are looked at before anything else; the release when the supervisor runs."""


def message_of(ended: Ended) -> tuple[str, str]:
    """The message of a command that failed: what is wrong, and what it means. The log's lines begin with a time."""
    ours = [line.removeprefix("supervisor: ") for line in ended.err.splitlines() if line.startswith("supervisor: ")]
    assert len(ours) == 2, ended.err
    others = [line for line in ended.err.splitlines() if not line.startswith(("supervisor: ", "20"))]
    assert others == []
    return ours[0], ours[1]


def assert_no_traceback_of_ours(log: str, *, of_the_app: bool) -> None:
    """None at all, or one of the child's that begins in the app."""
    assert log.count("Traceback") <= of_the_app, log
    files = re.findall(r'File "([^"]+)"', log)
    assert bool(files) is of_the_app, log
    assert all("/apps/" in file or "/release/" in file for file in files), files


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("broken_import:client", r'bot\.app = "broken_import:client" cannot be imported: RuntimeError: this release'),
        (
            "broken_setup_hook:client",
            r"setup_hook raised RuntimeError: this release is broken: its setup_hook raises \(",
        ),
        pytest.param(
            "app:create",
            r'bot\.app = "app:create" raised when called: ZeroDivisionError: division by zero$',
            marks=pytest.mark.wide,
        ),
    ],
)
async def test_a_first_start_that_raises_is_tried_again_and_shows_its_author_where(
    tmp_path: Path, app: str, said: str
) -> None:
    """It may be that what the app needs is down: see the documented backoff."""
    async with rig(tmp_path, app=app, settings=settings(), restart__backoff_first=0.1) as installation:
        if app == "app:create":
            raising_release(installation)
        await installation.start(serving=False)
        await installation.logged("generation 2 spawned")
        assert await installation.stop() == 0
    log = "\n".join(installation.log)
    assert re.search(rf"generation 1: {said}", log, re.MULTILINE), log
    assert_no_secret(log)
    first = log[: log.index("generation 1 has left")]
    assert_no_traceback_of_ours(first, of_the_app=True)


async def test_a_supervisor_that_runs_already_is_named_and_left_alone(tmp_path: Path) -> None:
    async with quick(tmp_path) as installation:
        await installation.start()
        before = await installation.status()
        ended = await installation.command("run")

        pid = before["supervisor"]["pid"]
        assert (ended.code, ended.out) == (FAILED, "")
        assert len(ended.err.splitlines()) == 1
        assert ended.err.startswith(f"supervisor: another supervisor (pid {pid}) answers at {tmp_path}/s.sock. ")
        assert "supervisor reload" in ended.err
        assert ended.err.endswith("No bot was started.\n")
        after = await installation.status()
        assert [(child["generation"], child["pid"], child["role"]) for child in after["children"]] == [
            (child["generation"], child["pid"], child["role"]) for child in before["children"]
        ]
        assert len(installation.processes()) == 2


async def test_a_killed_supervisor_takes_its_children_with_it_and_does_not_stop_the_next(tmp_path: Path) -> None:
    async with quick(tmp_path) as installation:
        await installation.start()
        old = installation.process
        assert old is not None
        bots = [process for process in installation.processes() if process.pid != old.pid]
        assert len(bots) == 1
        old.kill()
        began = time.monotonic()
        while any(alive(bot) for bot in bots):
            await asyncio.sleep(0.01)
            assert time.monotonic() - began < 2.0, "a child outlived its supervisor"
        await old.wait()
        assert (tmp_path / "s.sock").exists()
        ended = await installation.command("status")
        assert (ended.code, ended.out) == (3, "")
        assert "the socket is left over from one that has ended" in ended.err

        await installation.start()
        serving = active(await installation.status())
        assert serving is not None
        assert serving["generation"] == 1


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def test_a_shard_cut_off_before_it_is_ready_identifies_anew(tmp_path: Path) -> None:
    """discord.py would ask to resume a session that it never had, over and over."""
    async with quick(tmp_path) as installation:
        sandbox = installation.sandbox
        sandbox.faults.withhold_ready(count=1)
        await installation.start(serving=False)
        async with asyncio.timeout(15):
            while not sandbox.gateway.sessions:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        sandbox.faults.drop_shard(0)
        await installation.until(lambda status: active(status) is not None, timeout=15)
        assert len(sandbox.gateway.identifies) == 2
        assert not sandbox.gateway.violations


# --- on a reload ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BadRelease:
    """A change that breaks the next generation, and what `reload` has to say about it."""

    name: str
    says: str
    options: Mapping[str, object] = field(default_factory=dict)
    token: str = TOKEN
    fault: Callable[[Sandbox], AbstractAsyncContextManager[object]] | None = None
    allowed: float = AFTER_FAULT
    """Seconds from the command to its end."""


@asynccontextmanager
async def ready_withheld(sandbox: Sandbox) -> AsyncIterator[None]:
    with sandbox.faults.withhold_ready():
        yield


@asynccontextmanager
async def login_fails(sandbox: Sandbox) -> AsyncIterator[None]:
    with sandbox.faults.rest_status(401, "/users/@me"):
        yield


TOO_SLOW = {"handoff__ready_timeout": READY_TIMEOUT}
BAD_RELEASES = [
    BadRelease(
        name="import raises",
        options={"bot__app": "broken_import:client"},
        says=r'bot\.app = "broken_import:client" cannot be imported: RuntimeError: this release is broken',
    ),
    BadRelease(
        name="not a client",
        options={"bot__app": "broken_not_client:client"},
        says=r"is a str, not a discord\.py client",
    ),
    BadRelease(
        name="setup_hook raises",
        options={"bot__app": "broken_setup_hook:client"},
        says=r"setup_hook raised RuntimeError: this release is broken",
    ),
    BadRelease(
        name="setup_hook hangs",
        options={"bot__app": "broken_hang:client", **TOO_SLOW},
        says=rf"not ready within {READY_TIMEOUT} s \(handoff\.ready_timeout\)",
        allowed=READY_TIMEOUT + AFTER_FAULT,
    ),
    BadRelease(name="exits in on_connect", options={"bot__app": "broken_exit:client"}, says=r"exited with status 3\. "),
    BadRelease(
        name="disallowed intents",
        options={"bot__app": "broken_intents:client"},
        says=r"Discord refused the intents \(close code 4014\)",
    ),
    BadRelease(name="wrong token", token=WRONG_TOKEN, says=r"Discord refused the token \(401\)"),
    BadRelease(name="token revoked at login", fault=login_fails, says=r"Discord refused the token \(401\)"),
    BadRelease(name="no token", token="", says=r"discord\.token_file: .*: the file is empty"),
    BadRelease(
        name="directory gone", options={"bot__directory": "releases/43"}, says=r"bot\.directory: .*/releases/43: "
    ),
    BadRelease(name="unknown key", options={"bot__shard": 3}, says=r"bastion\.toml: bot\.shard: unknown key"),
    BadRelease(name="wrong type", options={"handoff__settle": "soon"}, says=r"handoff\.settle = 'soon': allowed is a "),
    BadRelease(
        name="READY withheld",
        options={"handoff__session": "overlap", **TOO_SLOW},
        fault=ready_withheld,
        says=rf"not ready within {READY_TIMEOUT} s \(handoff\.ready_timeout\)",
        allowed=READY_TIMEOUT + AFTER_FAULT,
    ),
]


@pytest.mark.parametrize(
    "good_after_each",
    [
        pytest.param(False, id="one-good-release-after-all"),
        pytest.param(True, id="a-good-release-after-each", marks=[pytest.mark.wide, pytest.mark.timeout(300)]),
    ],
)
async def test_bad_releases_change_nothing_for_the_bot_that_serves(tmp_path: Path, good_after_each: bool) -> None:
    async with serving_under_traffic(tmp_path) as installation:
        generation = 1
        for bad in BAD_RELEASES:
            await reload_badly(installation, bad, generation)
            if good_after_each:
                generation = await reload_well(installation)
        assert await reload_well(installation) > generation

        assert_no_secret(json.dumps(await installation.status()))
        arguments = [word for process in installation.processes() for word in process.cmdline()]
        assert_no_secret(" ".join(arguments))
        await installation.sandbox.traffic.stop()
        verdict = await installation.sandbox.settled(timeout=15)
        assert verdict.clean, f"{verdict}\n{installation.tail()}"
        assert verdict.emitted > 300
        assert not installation.sandbox.gateway.violations


@asynccontextmanager
async def serving_under_traffic(directory: Path) -> AsyncIterator[Rig]:
    """A bot that takes its token from a file, with about 50 events a second of all kinds."""
    async with quick(directory, source=PROBE, discord__token_file="token") as installation:
        installation.sandbox.settings.disallowed_intents = PRESENCES
        del installation.environ["DISCORD_TOKEN"]
        (directory / "token").write_text(TOKEN)
        await installation.start()
        installation.sandbox.traffic.start(rate=50, mix=ALL_KINDS)
        yield installation


async def reload_badly(installation: Rig, bad: BadRelease, generation: int) -> None:
    """Reload with something broken, check what is said and that the old generation serves, and mend it."""
    good = dict(installation.options)
    installation.configure(**bad.options)
    (installation.directory / "token").write_text(bad.token)
    fault = bad.fault(installation.sandbox) if bad.fault else contextlib.nullcontext()
    async with fault:
        began = time.monotonic()
        ended = await installation.command("reload")
        took = time.monotonic() - began
    installation.options = good
    installation.configure()
    (installation.directory / "token").write_text(TOKEN)

    assert ended.code == FAILED, f"{bad.name}: {ended}\n{installation.tail()}"
    assert took < bad.allowed, f"{bad.name}: {took:.1f} s"
    assert re.match(rf"reload (failed|refused) after .* s: .*{bad.says}", ended.err), ended.err
    assert ended.err.endswith(f" Generation {generation} goes on serving.\n")
    assert len(ended.err.splitlines()) == 1
    assert_no_secret(ended.out + ended.err)
    status = await installation.status()
    serving = active(status)
    assert serving is not None
    assert serving["generation"] == generation
    assert status["supervisor"]["state"] == "serving"
    assert status["last_handoff"]["result"] in ("failed", "refused")
    assert re.search(bad.says.removesuffix(r"\. "), status["last_handoff"]["reason"])


async def reload_well(installation: Rig) -> int:
    """Reload with the good release and return its generation."""
    outcome = await installation.reload()
    assert outcome["result"] == "succeeded", f"{outcome}\n{installation.tail()}"
    assert isinstance(outcome["generation"], int)
    return outcome["generation"]


async def test_a_file_that_cannot_be_read_at_all_stops_the_command_and_refuses_the_signal(tmp_path: Path) -> None:
    """The command cannot even find the socket: exit code 78. The supervisor reads the file itself on SIGHUP."""
    async with quick(tmp_path) as installation:
        await installation.start()
        good = installation.config.read_text()
        installation.config.write_text("[bot\n")
        ended = await installation.command("reload")
        assert (ended.code, ended.out) == (CONFIGURATION, "")
        said, meaning = message_of(ended)
        assert said.startswith(f"{installation.config}: not valid TOML: ")
        assert meaning.startswith("No supervisor was asked; a bot that runs is not affected. ")

        installation.hup()
        line = await installation.logged("reload refused")
        assert f"reload refused: {installation.config}: not valid TOML: " in line
        installation.config.write_text(good)
        assert await reload_well(installation) == 2


def lose_config(installation: Rig) -> None:
    installation.config.write_text("")


def pipe_for_config(installation: Rig) -> None:
    installation.config.unlink()
    os.mkfifo(installation.config)


def config_without_a_bot(installation: Rig) -> None:
    text = installation.config.read_text()
    installation.config.write_text("".join(line for line in text.splitlines(keepends=True) if "app =" not in line))


def commands_of(installation: Rig) -> list[str]:
    return sorted(command["name"] for command in installation.sandbox.world.commands[None].values())


@pytest.mark.wide
async def test_a_settings_file_that_is_lost_costs_no_event_no_command_and_no_later_reload(tmp_path: Path) -> None:
    """Never the bot that ships in the place of the user's: it would handle the events and sync its own commands."""
    async with quick(tmp_path, source=PROBE) as installation:
        await installation.start()
        installation.sandbox.traffic.start(rate=50, mix=ALL_KINDS)
        registered = commands_of(installation)
        good = installation.config.read_text()
        for damage in (lose_config, remove_config, pipe_for_config, config_without_a_bot):
            damage(installation)
            installation.log.clear()
            installation.hup()
            await installation.logged(f"reload refused: {installation.config}: ")
            installation.config.unlink(missing_ok=True)
            installation.config.write_text(good)
            serving = active(await installation.status())
            assert serving is not None
            assert serving["generation"] == 1
        assert await reload_well(installation) == 2
        assert commands_of(installation) == registered
        await installation.sandbox.traffic.stop()
        verdict = await installation.sandbox.settled(timeout=15)
        assert verdict.clean, f"{verdict}\n{installation.tail()}"


async def test_after_a_reload_with_a_wrong_token_a_crash_is_mended_with_the_good_one(tmp_path: Path) -> None:
    async with quick(tmp_path, discord__token_file="token", restart__backoff_first=0.1) as installation:
        del installation.environ["DISCORD_TOKEN"]
        (tmp_path / "token").write_text(TOKEN)
        await installation.start()
        (tmp_path / "token").write_text(WRONG_TOKEN)
        ended = await installation.command("reload")
        assert (ended.code, "Discord refused the token" in ended.err) == (FAILED, True)

        serving = active(await installation.status())
        assert serving is not None
        os.kill(serving["pid"], signal.SIGKILL)
        status = await installation.until(
            lambda status: (
                [child["role"] for child in status["children"]] == ["active"]
                and status["children"][0]["generation"] > serving["generation"]
            )
        )
        assert status["children"][0]["generation"] == 3
        assert status["last_handoff"]["kind"] == "recovery"


# --- commands at odd moments ------------------------------------------------------------------------------------------


async def test_sighup_does_what_reload_does_and_the_log_has_the_result(tmp_path: Path) -> None:
    async with quick(tmp_path) as installation:
        await installation.start()
        installation.hup()
        await installation.logged("reload succeeded")
        serving = active(await installation.status())
        assert serving is not None
        assert serving["generation"] == 2

        installation.configure(bot__app="broken_import:client")
        installation.hup()
        line = await installation.logged("reload failed")
        assert 'reload failed: generation 3: bot.app = "broken_import:client" cannot be imported' in line
        serving = active(await installation.status())
        assert serving is not None
        assert serving["generation"] == 2


async def test_a_reload_that_is_not_waited_for_goes_on_in_the_background(tmp_path: Path) -> None:
    async with quick(tmp_path) as installation:
        await installation.start()
        ended = await installation.command("reload", "--no-wait")
        assert (ended.code, ended.err) == (0, "")
        assert ended.out == "reload accepted: `supervisor status` shows its result\n"
        status = await installation.until(lambda status: bool((status["last_handoff"] or {}).get("result")))
        assert (status["last_handoff"]["result"], status["last_handoff"]["to"]) == ("succeeded", 2)


async def test_reloads_asked_for_during_a_handoff_share_the_one_that_comes_after_it(tmp_path: Path) -> None:
    async with quick(tmp_path) as installation:
        await installation.start()
        installation.release("app", HELD)
        pipe = installation.directory / "release" / "held"
        os.mkfifo(pipe)
        first = Reload(installation)
        await first.until("connecting")
        for _ in range(2):
            assert (await installation.command("reload", "--no-wait")).code == 0
        with await asyncio.to_thread(pipe.open, "wb"):
            installation.release("app", QUICK)
        assert await first.result() == 0
        assert "generation 2 is active" in first.lines[-1]
        status = await installation.until(
            lambda status: (status["last_handoff"]["to"], status["last_handoff"]["result"]) == (3, "succeeded")
        )
        assert [child["generation"] for child in status["children"]] == [3]
        assert status["supervisor"]["state"] == "serving", "nothing waits any more"


async def test_a_reload_asked_for_during_the_start_comes_after_it(tmp_path: Path) -> None:
    async with quick(tmp_path, source=HELD) as installation:
        pipe = installation.directory / "release" / "held"
        os.mkfifo(pipe)
        await installation.start(serving=False)
        with await asyncio.to_thread(pipe.open, "wb"):
            installation.release("app", QUICK)
            assert (await installation.command("reload", "--no-wait")).code == 0
            assert (await installation.status())["supervisor"]["state"] == "starting"
        status = await installation.until(lambda status: status["last_handoff"] is not None)
        assert (status["last_handoff"]["from"], status["last_handoff"]["to"]) == (1, 2)
        assert status["last_handoff"]["result"] in {None, "succeeded"}
        await installation.logged("generation 1 is active")
        await installation.logged("generation 2 is active")


async def test_a_reload_goes_on_when_the_one_who_asked_is_killed(tmp_path: Path) -> None:
    async with quick(tmp_path) as installation:
        await installation.start()
        client = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bastion.supervisor", "reload", "--config", str(installation.config)),
            env=installation.environ,
            stdout=asyncio.subprocess.PIPE,
        )
        assert client.stdout is not None
        while not (line := await client.stdout.readline()).startswith((b"spawning", b"connecting")):
            assert line, "the reload ended before it could be killed"
        client.kill()
        await client.communicate()
        assert client.returncode == -signal.SIGKILL
        await installation.logged("reload succeeded")
        serving = active(await installation.status())
        assert serving is not None
        assert serving["generation"] == 2


async def test_stop_during_a_handoff_ends_both_children_and_the_reload_says_so(tmp_path: Path) -> None:
    async with quick(tmp_path) as installation:
        await installation.start()
        installation.configure(bot__app="broken_hang:client")
        reload = asyncio.ensure_future(installation.command("reload"))
        await installation.until(lambda status: len(status["children"]) == 2)
        stopped = await installation.command("stop")
        assert installation.process is not None
        assert (stopped.code, stopped.err) == (0, "")
        assert stopped.out == f"the supervisor (pid {installation.process.pid}) has stopped\n"
        ended = await reload
        assert ended.code == FAILED
        assert "the supervisor is stopping" in ended.err
        assert [process for process in installation.processes() if process.pid != installation.process.pid] == []


async def test_an_app_is_told_when_it_becomes_active_and_when_it_no_longer_is(tmp_path: Path) -> None:
    source = "from hooks import Hooked\nclient = Hooked(guild_ready_timeout=0.5)\n"
    async with quick(tmp_path, source=source) as installation:
        journal = installation.sandbox.journal

        def called() -> dict[str, int]:
            keys = [f"{what}:{generation}" for generation in (1, 2) for what in ("activate", "deactivate")]
            return {key: len(journal.handlings("hook", key)) for key in keys}

        await installation.start()
        await journal.until(lambda: called()["activate:1"] > 0)
        assert called() == {"activate:1": 1, "deactivate:1": 0, "activate:2": 0, "deactivate:2": 0}
        await reload_well(installation)
        await journal.until(lambda: called()["activate:2"] > 0)
        assert called() == {"activate:1": 1, "deactivate:1": 1, "activate:2": 1, "deactivate:2": 0}
        assert await installation.stop() == 0
        assert called() == {"activate:1": 1, "deactivate:1": 1, "activate:2": 1, "deactivate:2": 1}


@pytest.mark.wide
@pytest.mark.timeout(180)
async def test_an_app_that_is_ready_sooner_than_most_is_handed_over_as_exactly(tmp_path: Path) -> None:
    """Its activation may come while events from around the birth of its sessions are still on their way."""
    async with quick(tmp_path, source=QUICK_PROBE) as installation:
        await installation.start()
        installation.sandbox.traffic.start(rate=50, mix=ALL_KINDS)
        for _ in range(20):
            await reload_well(installation)
        await installation.sandbox.traffic.stop()
        verdict = await installation.sandbox.settled(timeout=15)
        assert verdict.clean, f"{verdict}\n{installation.tail()}"
