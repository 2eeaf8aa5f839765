"""The probe apps that end-to-end tests use: each alone, as an ordinary process, handles every kind of event once.

What a handoff may not lose is measured with these, so first they must lose nothing themselves.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from bastion.sandbox import KINDS, Entry, Sandbox, SandboxSettings

pytestmark = pytest.mark.anyio

APPS = Path(__file__).parents[1] / "apps"
WIDE_PROBES = ("plain_client", "sharded_client", "prefix_bot")
PROBES = ("sharded_bot", *(pytest.param(name, marks=pytest.mark.wide) for name in WIDE_PROBES))
QUICK_COMMANDS = ("ping", "slow", "fruit", "panel", "lasting", "form")

RUN = """
import os, sys
import discord, yarl
discord.http.Route.BASE = os.environ["DISCORD_API_URL"]
discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(os.environ["SANDBOX_GATEWAY"])
__import__(sys.argv[1]).client.run(os.environ["DISCORD_TOKEN"])
"""


@pytest.fixture
async def sandbox(anyio_backend: str) -> AsyncIterator[Sandbox]:
    settings = SandboxSettings(
        guilds=3, skew=(0.0, 0.0), identify_window=0.0, member_request_window=0.0, recommended_shards=2
    )
    async with Sandbox(settings) as sandbox:
        yield sandbox


@asynccontextmanager
async def process(
    sandbox: Sandbox, module: str, *, handler_ms: str = "0-50"
) -> AsyncIterator[asyncio.subprocess.Process]:
    """One app as a process of its own. Ended by its pid."""
    environment = os.environ | {
        "DISCORD_API_URL": sandbox.api_url,
        "SANDBOX_GATEWAY": sandbox.gateway_url,
        "DISCORD_TOKEN": sandbox.token,
        "PROBE_HANDLER_MS": handler_ms,
        "PROBE_WAIT_S": "5",
        "BASTION_GENERATION": "7",
    }
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN, module, cwd=APPS, env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


@asynccontextmanager
async def serving(sandbox: Sandbox, module: str, *, handler_ms: str = "0-50") -> AsyncIterator[None]:
    """A probe that is ready: the members of all guilds are in its cache."""
    async with process(sandbox, module, handler_ms=handler_ms):
        await sandbox.journal.wait_handled(Entry(kind="ready", key="7", at=0.0), timeout=30)
        yield


@pytest.mark.wide
@pytest.mark.parametrize("module", PROBES)
async def test_a_probe_handles_every_kind_of_event_once(sandbox: Sandbox, module: str) -> None:
    sandbox.traffic.options.slash = QUICK_COMMANDS
    sandbox.traffic.options.commands = ("!ping", "!ping please")
    sandbox.journal.expect(KINDS)
    async with serving(sandbox, module):
        await sandbox.traffic.run(rate=60, seconds=5)
        verdict = await sandbox.settled(timeout=10)
    missing = {"guild_join", "guild_leave", "member_join", "member_leave", "member_update", "modal"} - set(
        verdict.kinds
    )
    assert set(verdict.kinds) | missing == set(KINDS)
    for kind in verdict.kinds.values():
        assert (kind.lost, kind.duplicated) == (0, 0), f"{kind.kind}: {kind}"
    assert verdict.by_generation.keys() <= {0, 7}


@pytest.mark.wide
@pytest.mark.parametrize("module", PROBES)
async def test_a_probe_handles_the_rare_kinds_too(sandbox: Sandbox, module: str) -> None:
    async with serving(sandbox, module):
        home = next(iter(sandbox.world.guilds))
        entries: list[Entry] = [
            sandbox.emit_member_join(guild=home),
            sandbox.emit_member_leave(guild=home),
            sandbox.emit_member_update(guild=home),
            sandbox.emit_slash("form", guild=home),
        ]
        for entry in entries:
            await sandbox.journal.wait_handled(entry)
        await sandbox.journal.wait_handled(sandbox.emit_modal())
        # A guild that is left before its members came is one that discord.py never reports as joined.
        joined = sandbox.emit_guild_join()
        await sandbox.journal.wait_handled(joined)
        await sandbox.journal.wait_handled(sandbox.emit_guild_leave(guild=joined.guild_id))


async def heard_in_conversation(sandbox: Sandbox, event: Entry) -> None:
    """Wait until a probe's wait_for has taken this event."""
    await sandbox.journal.wait_handled(Entry(kind="wait_for", key=event.key, at=event.at))


@pytest.mark.wide
@pytest.mark.parametrize("module", PROBES)
async def test_a_probe_converses(sandbox: Sandbox, module: str) -> None:
    async with serving(sandbox, module):
        beginnings = [sandbox.emit_slash("ask"), sandbox.emit_slash("confirm")]
        if module.endswith("bot"):
            beginnings += [sandbox.emit_message(content=text, kind="command_message") for text in ("!ask", "!confirm")]
        for beginning in beginnings:
            await sandbox.journal.wait_handled(beginning)
        for number, beginning in enumerate(beginnings):
            said = sandbox.emit_message(channel=beginning.channel_id, author=beginning.user_id, content="blue")
            if number % 2:
                said = sandbox.emit_reaction_add(message=int(said.key), user=beginning.user_id)
            await heard_in_conversation(sandbox, said)
            await sandbox.journal.wait_handled(said)


@pytest.mark.parametrize(
    ("module", "status", "said"),
    [
        ("broken_import", 1, "it raises on import"),
        ("broken_not_client", 1, "has no attribute 'run'"),
        ("broken_setup_hook", 1, "its setup_hook raises"),
        ("broken_intents", 1, "PrivilegedIntentsRequired"),
        ("broken_exit", 3, ""),
    ],
)
async def test_a_broken_app_breaks_as_it_says(sandbox: Sandbox, module: str, status: int, said: str) -> None:
    sandbox.settings.disallowed_intents = 1 << 1 | 1 << 8
    async with process(sandbox, module) as child:
        with anyio.fail_after(20):
            _, errors = await child.communicate()
    assert child.returncode == status
    assert said in errors.decode()


async def test_the_hanging_app_logs_in_and_never_connects(sandbox: Sandbox) -> None:
    async with process(sandbox, "broken_hang") as child:
        with anyio.fail_after(20):
            while not sandbox.journal.rest_counts:  # noqa: ASYNC110
                await anyio.sleep(0.02)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(child.wait(), 1.0)
        assert not sandbox.gateway.sessions
