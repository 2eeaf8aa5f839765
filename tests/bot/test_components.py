"""Which child answers a component or a modal: the one that owns it, any that is able, or one that does not know it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import discord
import pytest

from bastion.bot.components import Ownership, ownership

pytestmark = pytest.mark.anyio

MESSAGE = 55
BUTTON = discord.ComponentType.button.value
SELECT = discord.ComponentType.string_select.value


class Hearing(discord.Client):
    """An app that answers interactions by hand."""

    async def on_interaction(self, interaction: discord.Interaction[Any]) -> None: ...


class Counter(discord.ui.DynamicItem[discord.ui.Button[Any]], template=r"counter:(?P<count>[0-9]+)"):
    """Its custom id carries its state."""

    def __init__(self, count: int) -> None:
        super().__init__(discord.ui.Button(custom_id=f"counter:{count}"))


@pytest.fixture
async def client() -> discord.Client:
    return await started(discord.Client)


async def started(kind: type[discord.Client]) -> discord.Client:
    client = kind(intents=discord.Intents.none())
    await client._async_setup_hook()
    return client


def view(custom_id: str, *, timeout: float | None = None) -> discord.ui.View:
    made = discord.ui.View(timeout=timeout)
    made.add_item(discord.ui.Button(custom_id=custom_id))
    return made


def interaction(kind: int, data: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": "3",
        "application_id": "7",
        "type": kind,
        "token": "t",
        "version": 1,
        "channel_id": "5",
        "entitlements": [],
        "authorizing_integration_owners": {},
        "attachment_size_limit": 1,
        "user": {"id": "9", "username": "ann", "discriminator": "0", "avatar": None},
        "data": data,
        **more,
    }


def press(custom_id: str, *, message: int = MESSAGE, component: int = BUTTON) -> dict[str, Any]:
    sent = {
        "id": str(message),
        "channel_id": "5",
        "author": {"id": "7", "username": "bot", "discriminator": "0", "avatar": None},
        "content": "",
        "timestamp": "2026-01-01T00:00:00+00:00",
        "edited_timestamp": None,
        "tts": False,
        "mention_everyone": False,
        "mentions": [],
        "mention_roles": [],
        "attachments": [],
        "embeds": [],
        "pinned": False,
        "type": 0,
    }
    return interaction(3, {"custom_id": custom_id, "component_type": component}, message=sent)


def submit(custom_id: str) -> dict[str, Any]:
    return interaction(5, {"custom_id": custom_id, "components": []})


@pytest.mark.parametrize("kind", [2, 4])
async def test_commands_and_autocomplete_can_be_answered_by_any_child(client: discord.Client, kind: int) -> None:
    data = interaction(kind, {"id": "3", "name": "ping", "type": 1})
    assert ownership(client, data) is Ownership.ABLE


async def test_a_timed_view_is_owned_by_the_child_that_sent_its_message(client: discord.Client) -> None:
    timed = view("more", timeout=180)
    client._connection.store_view(timed, MESSAGE)
    assert ownership(client, press("more")) is Ownership.OWNER
    timed.stop()


async def test_a_timed_view_owns_its_own_message_and_its_own_components_alone(client: discord.Client) -> None:
    timed = view("more", timeout=180)
    client._connection.store_view(timed, MESSAGE)
    assert ownership(client, press("more", message=MESSAGE + 1)) is Ownership.STRANGER
    assert ownership(client, press("less")) is Ownership.STRANGER
    assert ownership(client, press("more", component=SELECT)) is Ownership.STRANGER
    timed.stop()


async def test_a_view_that_is_finished_owns_nothing_any_more(client: discord.Client) -> None:
    timed = view("more", timeout=180)
    client._connection.store_view(timed, MESSAGE)
    timed.stop()
    assert ownership(client, press("more")) is Ownership.STRANGER


async def test_a_persistent_view_can_be_answered_by_any_child_that_registered_it(client: discord.Client) -> None:
    client.add_view(view("role"))
    assert ownership(client, press("role")) is Ownership.ABLE
    assert ownership(client, press("role", message=MESSAGE + 1)) is Ownership.ABLE
    assert ownership(client, press("other")) is Ownership.STRANGER


async def test_a_dynamic_item_can_be_answered_by_any_child_where_its_whole_custom_id_matches(
    client: discord.Client,
) -> None:
    client.add_dynamic_items(Counter)
    assert ownership(client, press("counter:12")) is Ownership.ABLE
    assert ownership(client, press("counter:12 and more")) is Ownership.STRANGER
    assert ownership(client, press("counter:x")) is Ownership.STRANGER


async def test_a_modal_is_owned_by_the_child_that_opened_it(client: discord.Client) -> None:
    client._connection.store_view(discord.ui.Modal(title="Report", custom_id="report"))
    assert ownership(client, submit("report")) is Ownership.OWNER
    assert ownership(client, submit("another")) is Ownership.STRANGER


async def test_a_modal_is_not_taken_for_a_component_of_the_same_name(client: discord.Client) -> None:
    client.add_view(view("report"))
    assert ownership(client, submit("report")) is Ownership.STRANGER


async def waiting(client: discord.Client, check: Callable[[discord.Interaction[Any]], bool]) -> asyncio.Task[Any]:
    task = asyncio.ensure_future(client.wait_for("interaction", check=check))
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("make", [press, submit])
async def test_what_a_conversation_waits_for_is_owned_by_the_child_that_holds_it(
    client: discord.Client, make: Callable[[str], dict[str, Any]]
) -> None:
    task = await waiting(client, lambda i: i.data is not None and i.data.get("custom_id") == "yes")
    assert ownership(client, make("yes")) is Ownership.OWNER
    assert ownership(client, make("no")) is Ownership.STRANGER
    assert not task.done(), "asking does not wake it"
    task.cancel()


async def test_a_conversation_that_waits_makes_a_persistent_view_that_it_does_not_wait_for_no_stranger(
    client: discord.Client,
) -> None:
    client.add_view(view("role"))
    task = await waiting(client, lambda _: False)
    assert ownership(client, press("role")) is Ownership.ABLE
    task.cancel()


async def test_a_conversation_whose_check_raises_is_the_owner_so_that_it_hears_of_it(client: discord.Client) -> None:
    task = await waiting(client, lambda _: 1 / 0 > 0)
    assert ownership(client, press("yes")) is Ownership.OWNER
    task.cancel()


async def test_an_app_that_hears_all_interactions_is_a_stranger_all_the_same_for_the_owner_goes_first() -> None:
    client = await started(Hearing)
    assert ownership(client, press("whatever")) is Ownership.STRANGER
    assert ownership(client, submit("whatever")) is Ownership.STRANGER


async def test_a_bound_view_whose_component_others_registered_too_is_shared(client: discord.Client) -> None:
    sent = view("role", timeout=180)
    client._connection.store_view(sent, MESSAGE)
    assert ownership(client, press("role")) is Ownership.OWNER
    client.add_view(view("role"))
    assert ownership(client, press("role")) is Ownership.SHARED
    assert ownership(client, press("role", message=MESSAGE + 1)) is Ownership.ABLE
    sent.stop()
    assert ownership(client, press("role")) is Ownership.ABLE


async def test_a_bound_view_whose_component_is_a_dynamic_item_elsewhere_is_shared(client: discord.Client) -> None:
    sent = view("counter:1", timeout=180)
    client._connection.store_view(sent, MESSAGE)
    client.add_dynamic_items(Counter)
    assert ownership(client, press("counter:1")) is Ownership.SHARED
    sent.stop()


async def test_a_persistent_view_registered_for_one_message_is_shared(client: discord.Client) -> None:
    client.add_view(view("role"), message_id=MESSAGE)
    assert ownership(client, press("role")) is Ownership.SHARED
    assert ownership(client, press("role", message=MESSAGE + 1)) is Ownership.STRANGER


async def test_a_view_filed_under_the_interaction_that_its_message_answers_is_owned(client: discord.Client) -> None:
    """discord.py 2.5 and 2.6 file the answer to a command so: they do not know its message yet."""
    timed = view("more", timeout=180)
    client._connection.store_view(timed, 321)
    data = press("more")
    assert ownership(client, data) is Ownership.STRANGER
    data["message"]["interaction_metadata"] = {"id": "321"}
    assert ownership(client, data) is Ownership.OWNER
    timed.stop()


async def test_a_timed_view_filed_under_no_message_is_owned(client: discord.Client) -> None:
    """discord.py 2.5 and 2.6 file the answer to a component so."""
    timed = view("more", timeout=180)
    client._connection.store_view(timed)
    assert ownership(client, press("more")) is Ownership.OWNER
    timed.stop()
    assert ownership(client, press("more")) is Ownership.STRANGER


async def test_a_component_that_nothing_here_knows_is_a_stranger(client: discord.Client) -> None:
    assert ownership(client, press("whatever")) is Ownership.STRANGER
    assert ownership(client, submit("whatever")) is Ownership.STRANGER


async def test_a_component_on_a_message_without_an_id_of_its_own_is_judged_by_its_name(client: discord.Client) -> None:
    client.add_view(view("role"))
    data = press("role")
    del data["message"]
    assert ownership(client, data) is Ownership.ABLE
