"""Twenty reloads in a row: every kind of event once, every cached object the same, every conversation ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from ordeal import WINDOW, of_moving
from rig import ALL_KINDS, Rig, active, rig

from bastion.sandbox import Entry

pytestmark = [pytest.mark.anyio, pytest.mark.wide, pytest.mark.timeout(400)]

RATE = 300
RELOADS = 20
GUILDS = 8
EVERY_KIND = ALL_KINDS | {"direct_message": 1.0, "voice": 1.0, "thread": 0.5, "guild_leave": 0.0}
"""No guild is left but between the reloads: somebody is in the middle of a conversation there."""
KEPT_IN_A_CHANNEL = 30
"""So few that each message that the traffic edits is among those that the bot keeps."""
MESSAGES = ("message", "command_message")
NO_ZSTD = "raise ImportError('this test is about zlib')"


async def listing(installation: Rig, generation: int) -> list[str]:
    """Return all that a generation has cached, a line for each field."""
    reader, writer = await asyncio.open_unix_connection(str(installation.directory / f"{generation}"))
    lines = (await reader.read()).decode().split("\n")
    writer.close()
    assert len(lines) > 1000
    return lines


async def asked(installation: Rig) -> Entry:
    """Begin a conversation: the bot waits for its user's next message. An owner never leaves their guild."""
    world = installation.sandbox.world
    home = world.random.choice(list(world.guilds.values()))
    entry = installation.sandbox.emit_slash("ask", guild=home.id, user=home.owner_id)
    await installation.sandbox.journal.wait_handled(entry, timeout=20)
    return entry


async def answered(installation: Rig, about: Entry, by: int) -> None:
    """The user says something, if the traffic has not let them; the generation that asked hears what came first."""
    sandbox = installation.sandbox

    def said() -> Entry | None:
        later = sandbox.journal.entries[sandbox.journal.entries.index(about) + 1 :]
        place = (about.channel_id, about.user_id)
        return next((one for one in later if one.kind in MESSAGES and (one.channel_id, one.user_id) == place), None)

    first = said() or sandbox.emit_message(
        guild=about.guild_id, channel=about.channel_id, author=about.user_id, content="me"
    )
    try:
        await sandbox.journal.until(lambda: sandbox.journal.handlings("wait_for", first.key) != [])
    except TimeoutError:
        raise AssertionError(f"{about}: {first} was heard by nobody\n{installation.tail()}") from None
    assert [one.by for one in sandbox.journal.handlings("wait_for", first.key)] == [by], installation.tail()


async def same_caches(installation: Rig, old: int, new: int) -> None:
    """Wait until nothing is on its way any more; then both bots have the same cache."""
    found = await installation.sandbox.settled(timeout=10, quiet=1)
    assert found.clean, f"{found}\n{installation.tail()}"
    theirs, ours = await listing(installation, old), await listing(installation, new)
    differ = sorted(set(theirs) ^ set(ours))
    sides = [f"{'old' if line in set(theirs) else 'new'} only: {line[:300]}" for line in differ[:20]]
    assert not differ, f"{len(differ)} lines of {len(ours)} differ:\n" + "\n".join(sides) + installation.tail()
    assert theirs == ours


@pytest.mark.parametrize(
    ("app", "shards", "compression"),
    [
        ("PlainWitness", 1, "zstd"),
        ("BotWitness", 1, "zlib"),
        ("ShardedWitness", 4, "zlib"),
        ("ShardedBotWitness", 16, "zstd"),
        ("ShardedWitness", 1, "zstd"),
    ],
)
@pytest.mark.matrix
async def test_twenty_reloads_of_a_busy_bot_lose_nothing_that_was_heard_cached_or_begun(
    tmp_path: Path, app: str, shards: int, compression: str
) -> None:
    async with rig(
        tmp_path,
        app="witness:client",
        settings=of_moving(shards, guilds=GUILDS, messages_per_channel=KEPT_IN_A_CHANNEL),
        handler_ms="5-5",
        discord__identify_window=WINDOW,
        handoff__linger=600,
        handoff__probation=0,
    ) as installation:
        installation.environ |= {"WITNESS": app, "WITNESS_SOCKETS": str(tmp_path), "PROBE_WAIT_S": "600"}
        if compression == "zlib":
            without = tmp_path / "without"
            without.mkdir()
            (without / "zstandard.py").write_text(NO_ZSTD)
            installation.environ["PYTHONPATH"] = str(without)
        await installation.start()
        sandbox = installation.sandbox
        for generation in range(1, RELOADS + 1):
            await sandbox.settled(timeout=10, quiet=0.3)
            while len(sandbox.world.guilds) > GUILDS:
                sandbox.emit_guild_leave()
            # Nobody comes back to a guild: discord.py has forgotten its messages, and the traffic would edit them.
            sandbox.world.left.clear()
            sandbox.traffic.start(rate=RATE, mix=EVERY_KIND)
            about = await asked(installation)
            # A view that lives for minutes keeps the old bot, so that it can be asked for its cache.
            await sandbox.journal.wait_handled(sandbox.emit_slash("panel"), timeout=20)
            outcome = await installation.reload()
            assert outcome["result"] == "succeeded", f"{outcome}\n{installation.tail()}"
            handoff = (await installation.status())["last_handoff"]
            assert (handoff["session"], handoff["identifies"], handoff["cut"]) == ("moved", 0, [])
            await sandbox.traffic.stop()
            if generation % 5 == 0:
                await same_caches(installation, generation, generation + 1)
            await answered(installation, about, by=generation)
        await installation.until(lambda status: (active(status) or {}).get("generation") == RELOADS + 1)
        found = await sandbox.settled(timeout=10, quiet=2)
        assert found.clean, f"{found}\n{installation.tail()}"
        assert len(sandbox.gateway.identifies) == shards
        assert {one.by for one in sandbox.journal.refused} == set()
        assert [line for line in installation.log if f"compression: {compression}" in line]
        assert not [line for line in installation.log if "an edit without its before" in line]
