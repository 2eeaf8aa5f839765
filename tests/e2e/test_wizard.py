"""Five steps that a person takes, with a reload between each two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rig import Rig, rig

from bastion.sandbox import Entry, SandboxSettings

pytestmark = pytest.mark.anyio

WINDOW = 0.25


async def by(installation: Rig, entry: Entry) -> int:
    return (await installation.sandbox.journal.wait_handled(entry)).by


@pytest.mark.wide
async def test_a_wizard_completes_with_reloads_between_its_steps(tmp_path: Path) -> None:
    settings = SandboxSettings(identify_window=WINDOW, member_request_window=0.0, identifies_per_day=100_000)
    options: dict[str, Any] = {"discord__identify_window": WINDOW, "handoff__probation": 0, "handoff__linger": 180}
    async with rig(tmp_path, app="wizard:client", settings=settings, **options) as installation:
        sandbox, world = installation.sandbox, installation.sandbox.world
        await installation.start()

        async def reload() -> None:
            outcome = await installation.reload()
            assert (outcome["result"], outcome["handoff"]["cut"]) == ("succeeded", []), outcome

        begun = sandbox.emit_slash("wizard")
        user = begun.user_id
        handled = [await by(installation, begun)]
        await reload()
        colours = next(one for one in world.components.values() if one.type == 3)
        handled.append(await by(installation, sandbox.emit_component(colours, values=["green"], user=user)))
        await reload()
        handled.append(await by(installation, sandbox.emit_modal(values={"name": "parrot"})))
        await reload()
        confirm = next(one for one in world.components.values() if one.custom_id.startswith("wizard:ok:"))
        handled.append(await by(installation, sandbox.emit_component(confirm, user=user)))
        await reload()
        sandbox.emit_message(guild=begun.guild_id, channel=begun.channel_id, author=user, content="hello")

        def told() -> list[str]:
            messages = world.channels[begun.channel_id or 0].messages.values()
            return [one.body["content"] for one in messages if "says" in one.body["content"]]

        await sandbox.journal.until(lambda: bool(told()))
        assert len(told()) == 1
        assert told()[0].endswith(" parrot says hello")
        assert told()[0].startswith("a green")
        # The modal is the opener's, so it is answered by the child that a newer one has replaced.
        assert handled == [1, 2, 2, 4]
