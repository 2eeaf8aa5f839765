"""A reload is not noticed: real supervisor, real bots, real websockets; the sandbox's journal is the judge."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from rig import ALL_KINDS, Rig, active, rig

from bastion.sandbox import Sandbox, SandboxSettings, Verdict
from bastion.sandbox.world import Component

pytestmark = pytest.mark.anyio

WINDOW = 0.25
"""Seconds of the sandbox's IDENTIFY window in tests; Discord's is 5."""


def settings(**changes: object) -> SandboxSettings:
    options = {
        "max_concurrency": 16,
        "identify_window": WINDOW,
        "recommended_shards": 4,
        "member_request_window": 0.0,
        "identifies_per_day": 100_000,
    }
    return SandboxSettings(**(options | changes))  # type: ignore[arg-type]


async def verdict(installation: Rig, *, at_least: int = 0) -> Verdict:
    """Stop the traffic, when there was ``at_least`` so much, and judge all of it."""
    journal = installation.sandbox.journal
    await journal.until(lambda: journal.verdict().emitted >= at_least, timeout=30)
    await installation.sandbox.traffic.stop()
    return await installation.sandbox.settled(timeout=15, quiet=3)


def assert_clean(found: Verdict, installation: Rig, *, at_least: int) -> None:
    assert found.clean, f"{found}\n{installation.tail()}"
    assert found.emitted >= at_least
    assert not installation.sandbox.gateway.violations


def handlers(cut: list[str]) -> list[str]:
    """What was cut, but for forms that nobody had submitted when the next reload needed their owner's place."""
    return [name for name in cut if not name.startswith("modal ")]


async def reload_by_hup(installation: Rig) -> None:
    status = await installation.status()
    before = active(status)
    assert before is not None
    installation.hup()
    await installation.until(
        lambda status: (
            status["supervisor"]["state"] == "serving"
            and (serving := active(status)) is not None
            and serving["generation"] > before["generation"]
        ),
        timeout=100,
    )


async def reload_by_command(installation: Rig) -> None:
    outcome = await installation.reload()
    assert outcome["result"] == "succeeded", outcome
    assert outcome["handoff"]["cut"] == []


@pytest.mark.parametrize(
    ("reload", "times"),
    [
        pytest.param(reload_by_command, 3, id="command-3"),
        pytest.param(reload_by_hup, 2, id="hup-2", marks=pytest.mark.wide),
        pytest.param(reload_by_command, 20, id="command-20", marks=[pytest.mark.wide, pytest.mark.timeout(600)]),
        pytest.param(reload_by_hup, 20, id="hup-20", marks=[pytest.mark.wide, pytest.mark.timeout(600)]),
    ],
)
async def test_reloads_in_a_row_lose_nothing_double_nothing_and_cut_nothing(
    tmp_path: Path, reload: object, times: int
) -> None:
    assert callable(reload)
    async with rig(
        tmp_path,
        app="sharded_bot:client",
        settings=settings(),
        discord__identify_window=WINDOW,
        handoff__linger=10,
    ) as installation:
        await installation.start()
        installation.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        for _ in range(times):
            await reload(installation)
        assert_clean(await verdict(installation, at_least=times * 100), installation, at_least=times * 100)
        last = (await installation.status())["last_handoff"]
        assert (last["kind"], last["result"], last["to"]) == ("reload", "succeeded", times + 1)
        assert handlers(last["cut"]) == []
        assert await installation.stop() == 0


@pytest.mark.wide
async def test_a_handoff_reshards_by_settings_and_by_what_discord_recommends(tmp_path: Path) -> None:
    async with rig(
        tmp_path, app="sharded_client:client", settings=settings(), discord__identify_window=WINDOW
    ) as installation:
        await installation.start()
        installation.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
        seen = []
        for shards, recommended in ((8, 4), (4, 4), ("auto", 8), ("auto", 4)):
            installation.configure(bot__shards=shards)
            installation.sandbox.settings.recommended_shards = recommended
            await reload_by_command(installation)
            serving = active(await installation.status())
            assert serving is not None
            seen.append(len(serving["shards"]))
        assert seen == [8, 4, 8, 8], "a smaller recommendation is no reason for new sessions"
        assert "Discord recommends 4 shards" in installation.tail()
        assert_clean(await verdict(installation, at_least=300), installation, at_least=300)


@pytest.mark.parametrize(
    ("app", "shards"),
    [
        ("plain_client", 1),
        ("prefix_bot", 1),
        pytest.param("sharded_client", 2, marks=pytest.mark.wide),
        pytest.param("sharded_bot", 2, marks=pytest.mark.wide),
    ],
)
async def test_each_client_class_is_handed_over_unmodified(tmp_path: Path, app: str, shards: int) -> None:
    async with rig(
        tmp_path,
        app=f"{app}:client",
        settings=settings(recommended_shards=shards),
        discord__identify_window=WINDOW,
    ) as installation:
        sandbox = installation.sandbox
        await installation.start()
        sandbox.traffic.start(rate=60, mix=ALL_KINDS)
        await reload_by_command(installation)
        await reload_by_command(installation)
        assert_clean(await verdict(installation, at_least=100), installation, at_least=100)
        serving = active(await installation.status())
        assert serving is not None
        assert serving["guilds"] == len(sandbox.world.guilds)


async def test_what_people_are_in_the_middle_of_goes_on_in_the_child_that_began_it(tmp_path: Path) -> None:
    """A conversation keeps the old child draining; meanwhile its timed view and its modal are still its own."""
    async with rig(
        tmp_path, app="sharded_client:client", settings=settings(), handler_ms="0-0", discord__identify_window=WINDOW
    ) as installation:
        sandbox = installation.sandbox
        journal = sandbox.journal
        await installation.start()
        for name in ("panel", "lasting", "form"):
            await journal.wait_handled(sandbox.emit_slash(name))
        timed, lasting = button(sandbox, lasting=False), button(sandbox, lasting=True)
        asked = sandbox.emit_slash("ask")
        await journal.wait_handled(asked)

        reload = asyncio.ensure_future(installation.reload())
        await installation.until(lambda status: any(child["role"] == "draining" for child in status["children"]))
        pressed_timed = sandbox.emit_component(timed)
        pressed_lasting = sandbox.emit_component(lasting)
        submitted = sandbox.emit_modal()
        new = sandbox.emit_slash("ping")
        by = [(await journal.wait_handled(entry)).by for entry in (pressed_timed, pressed_lasting, submitted, new)]
        said = sandbox.emit_message(
            guild=asked.guild_id, channel=asked.channel_id, author=asked.user_id, content="here I am"
        )
        outcome = await reload

        assert by == [1, 2, 1, 2]
        assert (outcome["result"], outcome["handoff"]["cut"]) == ("succeeded", [])
        assert [handled.by for handled in journal.handlings("wait_for", said.key)] == [1]
        assert_clean(await verdict(installation, at_least=9), installation, at_least=9)


def button(sandbox: Sandbox, *, lasting: bool) -> Component:
    """The button of the lasting panel, or the one of the timed panel."""
    buttons = [one for one in sandbox.world.components.values() if one.type == 2]
    return next(one for one in buttons if one.custom_id.startswith("probe:lasting") is lasting)


@pytest.mark.wide
class TestTheCheckerCanFail:
    """Without claims there are duplicates, without replay there are losses: the journal sees both."""

    async def check(self, tmp_path: Path, app: str) -> Verdict:
        async with rig(
            tmp_path,
            app=f"{app}:client",
            settings=settings(),
            handler_ms="0-50",
            discord__identify_window=WINDOW,
            handoff__session="overlap",
        ) as installation:
            await installation.start()
            installation.sandbox.traffic.start(rate=100, mix=ALL_KINDS)
            for _ in range(3):  # what is lost needs a new session that is ahead of the old one at a switch
                await reload_by_command(installation)
            return await verdict(installation)

    async def test_without_claims_events_are_doubled(self, tmp_path: Path) -> None:
        found = await self.check(tmp_path, "without_claims")
        assert found.duplicated > 0

    async def test_without_replay_events_are_lost(self, tmp_path: Path) -> None:
        found = await self.check(tmp_path, "without_replay")
        assert found.lost > 0
