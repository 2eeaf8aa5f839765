"""The bot's presence over processes: written down, inherited, set when it is this child's to set."""

from __future__ import annotations

from typing import Any

import discord
import pytest

from bastion.bot import internals
from bastion.bot.lifecycle import Lifecycle
from bastion.bot.presence import Presence

pytestmark = pytest.mark.anyio


class Notes:
    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    def note(self, key: str, value: str) -> None:
        self.kept[key] = value

    def noted(self, key: str) -> str | None:
        return self.kept.get(key)


class Client(discord.AutoShardedClient):
    """Notes what would be sent."""

    def __init__(self, **options: Any) -> None:
        super().__init__(intents=discord.Intents.none(), **options)
        self.sent: list[dict[str, Any]] = []

    async def change_presence(self, **presence: Any) -> None:
        self.sent.append(presence)


class Child:
    def __init__(self, notes: Notes, *, role: Any, **options: Any) -> None:
        self.client = Client(**options)
        self.lifecycle = Lifecycle()
        self.lifecycle.enter(role)
        self.presence = Presence(lifecycle=self.lifecycle, notes=notes)
        self.presence.install(self.client)
        self.presence.inherit()

    async def activate(self) -> None:
        self.lifecycle.enter("active")
        await self.presence.activated()

    def identifies_with(self) -> tuple[Any, Any]:
        state = self.client._connection
        return (state._activity or {}).get("name"), state._status


CHESS = discord.Game("chess")


async def test_a_presence_that_was_set_is_the_next_childs_from_its_first_moment() -> None:
    notes = Notes()
    old = Child(notes, role="active")
    await old.client.change_presence(status=discord.Status.dnd, activity=CHESS)
    new = Child(notes, role="standby")
    assert new.identifies_with() == ("chess", "dnd")
    await new.activate()
    assert new.client.sent == [], "nothing is left to do"


async def test_a_presence_set_after_the_new_child_identified_is_taken_over_at_the_switch() -> None:
    notes = Notes()
    old, new = Child(notes, role="active"), Child(notes, role="standby")
    await old.client.change_presence(status=discord.Status.idle, activity=discord.Streaming(name="it", url="https://x"))
    await new.activate()
    (sent,) = new.client.sent
    assert (sent["status"], sent["activity"].name) == (discord.Status.idle, "it")


async def test_an_app_that_brings_its_own_keeps_it() -> None:
    notes = Notes()
    old = Child(notes, role="active")
    await old.client.change_presence(activity=CHESS)
    new = Child(notes, role="standby", activity=discord.Game("go"))
    assert new.identifies_with() == ("go", None)
    await new.activate()
    assert new.client.sent == []


async def test_what_an_app_asks_for_before_it_is_active_waits_and_only_the_newest_counts() -> None:
    notes = Notes()
    new = Child(notes, role="standby")
    await new.client.change_presence(activity=CHESS)
    await new.client.change_presence(activity=None, status=discord.Status.offline)
    assert (new.client.sent, notes.kept) == ([], {})
    await new.activate()
    assert new.client.sent == [{"activity": None, "status": discord.Status.offline}]
    later = Child(notes, role="standby")
    assert later.identifies_with() == (None, "invisible")


async def test_a_presence_of_one_shard_is_left_alone() -> None:
    notes = Notes()
    child = Child(notes, role="standby")
    await child.client.change_presence(activity=CHESS, shard_id=1)
    assert (len(child.client.sent), notes.kept) == (1, {})


async def test_a_presence_that_cannot_be_set_is_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    new = Child(Notes(), role="standby")
    await new.client.change_presence(activity=object())
    await new.activate()
    assert "could not be set" in caplog.text


@pytest.mark.parametrize(
    "activity",
    [
        None,
        CHESS,
        discord.Streaming(name="it", url="https://x"),
        discord.Activity(type=discord.ActivityType.watching, name="you", state="now"),
        discord.CustomActivity("thinking"),
    ],
)
def test_each_kind_of_activity_comes_back_as_it_was(activity: Any) -> None:
    data = activity and activity.to_dict()
    made = internals.make_activity(Client(), data)
    assert (made and made.to_dict()) == data
