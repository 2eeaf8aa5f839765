"""The shipped bot on its own, without the runtime, against the sandbox: each of its features."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import discord
import pytest
import yarl
from discord.gateway import DiscordWebSocket
from discord.http import Route

from bastion.bot.bastion import Bastion, create
from bastion.sandbox import Entry, Sandbox, SandboxSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox(anyio_backend: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(guilds=2, skew=(0.0, 0.0), identify_window=0.0)) as sandbox:
        monkeypatch.setattr(Route, "BASE", sandbox.api_url)
        monkeypatch.setattr(DiscordWebSocket, "DEFAULT_GATEWAY", yarl.URL(sandbox.gateway_url))
        yield sandbox


@asynccontextmanager
async def running(sandbox: Sandbox) -> AsyncIterator[Bastion]:
    """The bot, connected and ready, as `Client.start` would run it."""
    bot = create()
    bot._connection.guild_ready_timeout = 0.1
    try:
        await bot.login(sandbox.token)
        connection = asyncio.create_task(bot.connect())
        try:
            with anyio.fail_after(15):
                await bot.wait_until_ready()
            yield bot
        finally:
            await bot.close()
            await connection
    finally:
        bot.deck.close()


async def eventually(condition: Callable[[], Any], *, timeout: float = 5.0) -> Any:
    """Return the condition's value as soon as it is true."""
    with anyio.fail_after(timeout):
        while not (value := condition()):  # noqa: ASYNC110 - the sandbox's world has no event for every change
            await anyio.sleep(0.01)
    return value


def replies_to(sandbox: Sandbox, asked: Entry) -> list[dict[str, Any]]:
    """The payloads of the messages that answer a message."""
    messages = sandbox.world.channels[asked.channel_id or 0].messages.values()
    return [message.body | {"id": message.id} for message in messages if message.reference_id == asked.message_id]


async def reply_to(sandbox: Sandbox, asked: Entry) -> dict[str, Any]:
    found = await eventually(lambda: replies_to(sandbox, asked))
    assert len(found) == 1
    return dict(found[0])


async def answer_to(sandbox: Sandbox, asked: Entry) -> dict[str, Any]:
    """The payload of the message that is the first answer to an interaction."""
    await sandbox.journal.wait_handled(asked)
    interaction = sandbox.world.interactions[asked.interaction_id or 0]
    return dict(sandbox.world.channels[asked.channel_id or 0].messages[interaction.original_id or 0].body)


def is_ephemeral(body: dict[str, Any]) -> bool:
    return bool(body["flags"] & 64)


def rest_count(sandbox: Sandbox, method: str, part: str) -> int:
    counts = sandbox.journal.rest_counts.items()
    return sum(count for (verb, route, _), count in counts if verb == method and part in route)


# --- cards in messages ----------------------------------------------------------------------------------------------


async def test_a_card_named_in_a_message_is_shown_in_a_reply_to_it(sandbox: Sandbox) -> None:
    async with running(sandbox):
        reply = await reply_to(sandbox, sandbox.emit_message(content="what does <glass heron> do?"))
    assert [embed["title"] for embed in reply["embeds"]] == ["Glass Heron"]
    assert reply["content"] == ""
    assert [part["label"] for row in reply["components"] for part in row["components"]] == ["Show more"]


async def test_three_cards_are_shown_at_most_each_with_its_button(sandbox: Sandbox) -> None:
    async with running(sandbox):
        asked = sandbox.emit_message(content="<Snuff> <Snuff> <Marrow Reed> <First Snow> <Saltmother>")
        reply = await reply_to(sandbox, asked)
    assert [embed["title"] for embed in reply["embeds"]] == ["Snuff", "Marrow Reed", "First Snow"]
    labels = [part["label"] for row in reply["components"] for part in row["components"]]
    assert labels == ["Show more: Snuff", "Show more: Marrow Reed", "Show more: First Snow"]


async def test_an_unknown_card_is_answered_with_what_comes_close(sandbox: Sandbox) -> None:
    async with running(sandbox):
        near = await reply_to(sandbox, sandbox.emit_message(content="<ember>"))
        far = await reply_to(sandbox, sandbox.emit_message(content="<qqqqzzzz @everyone>"))
        mixed = await reply_to(sandbox, sandbox.emit_message(content="<Snuff> and <qqqqzzzz>"))
    assert "Did you mean" in near["content"]
    assert "**Ember Warden**" in near["content"]
    assert far["content"].startswith("There is no card called “qqqqzzzz")
    assert not far["components"]
    assert (mixed["embeds"][0]["title"], mixed["content"]) == ("Snuff", "There is no card called “qqqqzzzz”.")


async def test_what_names_no_card_and_what_bots_write_is_not_answered(sandbox: Sandbox) -> None:
    async with running(sandbox) as bot:
        silent = [sandbox.emit_message(content=text) for text in ("hello", "<@1> <:x:2>", "`<Snuff>`")]
        own = await reply_to(sandbox, sandbox.emit_message(content="<Snuff>"))
        message = sandbox.world.channels[int(own["channel_id"])].messages[int(own["id"])]
        message.body["content"] = "<Marrow Reed>"
        heard = bot.get_partial_messageable(int(own["channel_id"])).get_partial_message(int(own["id"]))
        await bot.on_message(await heard.fetch())
    assert not any(replies_to(sandbox, asked) for asked in silent)
    assert rest_count(sandbox, "POST", "/messages") == 1


async def test_a_reply_that_discord_refuses_stops_nothing(sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
    async with running(sandbox) as bot:
        gone = sandbox.emit_message(content="hello")
        channel = bot.get_partial_messageable(gone.channel_id or 0)
        message = await channel.fetch_message(gone.message_id or 0)
        sandbox.emit_delete(message=gone.message_id or 0)
        message.content = "<Snuff>"
        await bot.on_message(message)
        await reply_to(sandbox, sandbox.emit_message(content="<Snuff>"))
    assert "could not answer message" in caplog.text


# --- taking a reply back --------------------------------------------------------------------------------------------


async def test_deleting_the_asking_message_removes_the_reply(sandbox: Sandbox) -> None:
    async with running(sandbox):
        asked = sandbox.emit_message(content="<Snuff>")
        other = sandbox.emit_message(content="<Snuff>")
        await reply_to(sandbox, asked)
        await reply_to(sandbox, other)
        deleted = sandbox.emit_delete(message=asked.message_id or 0)
        await eventually(lambda: not replies_to(sandbox, asked))
        await sandbox.journal.wait_handled(deleted)
    assert len(replies_to(sandbox, other)) == 1
    assert rest_count(sandbox, "GET", "/messages") == 0, "the memory sufficed"


async def test_a_reply_that_is_still_on_its_way_is_removed_too(sandbox: Sandbox) -> None:
    async with running(sandbox) as bot:
        asked = sandbox.emit_message(content="hello")
        message = await bot.get_partial_messageable(asked.channel_id or 0).fetch_message(asked.message_id or 0)
        message.content = "<Snuff>"
        sandbox.settings.change({"rest_latency": [0.3, 0.3]})
        answering = asyncio.create_task(bot.on_message(message))
        await eventually(lambda: bot.answers._replies.expects(message.id))
        sandbox.settings.change({"rest_latency": [0.0, 0.0]})
        await bot.answers.withdraw(message.id, channel_id=message.channel.id, asked=None)
        await answering
    assert rest_count(sandbox, "POST", "/messages") == 1
    assert not replies_to(sandbox, asked)


@pytest.mark.parametrize("cached", [True, False], ids=["seen by the gateway", "found in the channel"])
async def test_the_reply_of_an_earlier_process_is_removed(sandbox: Sandbox, cached: bool) -> None:
    asked = None
    async with running(sandbox) as earlier:
        if not cached:
            asked = sandbox.emit_message(content="<Snuff>")
            await reply_to(sandbox, asked)
            await earlier.close()
        async with running(sandbox) as later:
            if asked is None:
                # The later one hears the message and the reply, but handles nothing: as in a handoff's standby.
                later.on_message = nothing  # type: ignore[method-assign]
                asked = sandbox.emit_message(content="<Snuff>")
                reply = await reply_to(sandbox, asked)
                await eventually(lambda: reply["id"] in [message.id for message in later.cached_messages])
                await earlier.close()
            sandbox.emit_delete(message=asked.message_id or 0)
            await eventually(lambda: not replies_to(sandbox, asked))
    assert rest_count(sandbox, "GET", "/messages") == (0 if cached else 1)


async def nothing(message: discord.Message) -> None:
    """Hear a message and leave it."""


async def test_deleting_other_messages_asks_discord_for_nothing(sandbox: Sandbox) -> None:
    async with running(sandbox) as bot:
        plain = sandbox.emit_message(content="hello")
        await eventually(lambda: plain.message_id in [message.id for message in bot.cached_messages])
        sandbox.emit_delete(message=plain.message_id or 0)
        await reply_to(sandbox, sandbox.emit_message(content="<Snuff>"))
        old = discord.utils.time_snowflake(discord.utils.utcnow()) - (6 * 60_000 << 22)
        await bot.answers.withdraw(old, channel_id=plain.channel_id or 0, asked=None)
    assert rest_count(sandbox, "GET", "/messages") == 0
    assert rest_count(sandbox, "DELETE", "/messages") == 0


# --- commands and buttons -------------------------------------------------------------------------------------------


async def test_ping_answers_with_the_shards_latency_to_the_asker_alone(sandbox: Sandbox) -> None:
    async with running(sandbox):
        answer = await answer_to(sandbox, sandbox.emit_slash("ping"))
    assert answer["content"].startswith("Pong! Gateway latency of shard 0: ")
    assert is_ephemeral(answer)


def query(text: str) -> list[dict[str, Any]]:
    return [{"name": "query", "type": 3, "value": text}]


async def test_search_shows_a_card_or_a_list_or_says_that_there_is_none(sandbox: Sandbox) -> None:
    async with running(sandbox):
        card = await answer_to(sandbox, sandbox.emit_slash("search", options=query("glass heron")))
        several = await answer_to(sandbox, sandbox.emit_slash("search", options=query("small god")))
        none = await answer_to(sandbox, sandbox.emit_slash("search", options=query("qqqqzzzz")))
    assert (card["embeds"][0]["title"], len(card["components"]), is_ephemeral(card)) == ("Glass Heron", 1, False)
    assert "Small God of Hinges" in several["embeds"][0]["description"]
    assert none["content"] == "There is no card called “qqqqzzzz”."
    assert is_ephemeral(none)


async def test_search_offers_names_while_one_is_typed(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[list[str]] = []
    answer = discord.InteractionResponse.autocomplete

    async def spy(self: Any, choices: Any) -> None:
        offered.append([choice.value for choice in choices])
        await answer(self, choices)

    monkeypatch.setattr(discord.InteractionResponse, "autocomplete", spy)
    async with running(sandbox):
        for text in ("ember", "", "qqqqzzzz", '"*('):
            await sandbox.journal.wait_handled(sandbox.emit_autocomplete("search", text=text))
    assert sorted(offered[0]) == ["Ember Almanac", "Ember Warden", "Emberwake"]
    assert [len(names) for names in offered[1:]] == [25, 0, 25]


async def test_the_button_shows_more_to_the_one_who_presses_it(sandbox: Sandbox) -> None:
    async with running(sandbox):
        reply = await reply_to(sandbox, sandbox.emit_message(content="<Snuff>"))
        more = await answer_to(sandbox, sandbox.emit_button(message=reply["id"]))
    assert more["embeds"][0]["footer"]["text"] == "Two fingers are enough."
    assert is_ephemeral(more)


async def test_another_process_of_the_bot_answers_the_button_as_well(sandbox: Sandbox) -> None:
    async with running(sandbox):
        reply = await reply_to(sandbox, sandbox.emit_message(content="<Snuff>"))
    async with running(sandbox):
        more = await answer_to(sandbox, sandbox.emit_button(message=reply["id"]))
    assert more["embeds"][0]["title"] == "Snuff"


async def test_the_button_of_a_card_that_is_gone_says_so(sandbox: Sandbox) -> None:
    async with running(sandbox) as bot:
        reply = await reply_to(sandbox, sandbox.emit_message(content="<Snuff>"))
        bot.deck._db.execute("DELETE FROM card WHERE id = 'snuff'")
        more = await answer_to(sandbox, sandbox.emit_button(message=reply["id"]))
    assert more["content"] == "This card is no longer in the deck."


async def test_an_error_in_a_command_or_a_button_is_answered_and_logged(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(sandbox) as bot:
        reply = await reply_to(sandbox, sandbox.emit_message(content="<Snuff>"))
        bot.deck.close()
        pressed = await answer_to(sandbox, sandbox.emit_button(message=reply["id"]))
        searched = await answer_to(sandbox, sandbox.emit_slash("search", options=query("small god")))
    for answer in (pressed, searched):
        assert "Something went wrong" in answer["content"]
        assert is_ephemeral(answer)
    assert "could not run /search" in caplog.text
    assert "could not show more of 'snuff'" in caplog.text


# --- commands are told to Discord once ------------------------------------------------------------------------------


async def test_the_commands_are_written_once_and_not_again_by_the_next_process(sandbox: Sandbox) -> None:
    async with running(sandbox):
        assert sorted(one["name"] for one in sandbox.world.commands[None].values()) == ["ping", "search"]
        assert rest_count(sandbox, "PUT", "/commands") == 1
        async with running(sandbox):
            assert rest_count(sandbox, "PUT", "/commands") == 1


async def test_commands_of_another_release_are_replaced(sandbox: Sandbox) -> None:
    sandbox.world.put_commands(None, [{"name": "old", "type": 1, "description": "Of another release"}])
    async with running(sandbox):
        assert sorted(one["name"] for one in sandbox.world.commands[None].values()) == ["ping", "search"]


async def test_a_sync_that_fails_is_logged_and_the_bot_serves(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.faults.rest_status(403, "*commands*", count=1)
    async with running(sandbox):
        assert "could not sync the commands" in caplog.text
        await reply_to(sandbox, sandbox.emit_message(content="<Snuff>"))


# --- guilds ---------------------------------------------------------------------------------------------------------


async def test_joining_and_leaving_a_guild_is_put_in_the_log(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="bastion.bot.bastion")
    async with running(sandbox):
        joined = sandbox.emit_guild_join()
        await eventually(lambda: "joined guild" in caplog.text)
        sandbox.emit_guild_leave(guild=joined.guild_id)
        await eventually(lambda: "left guild" in caplog.text)
    assert str(joined.guild_id) in caplog.text
    assert "now in 3" in caplog.text
