"""The shipped bot's own decisions, without a Discord: names in messages, memory of replies, words and embeds, sync."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import discord
import pytest
from discord import app_commands
from hypothesis import given
from hypothesis import strategies as st

from bastion.bot.bastion import Bastion, create
from bastion.bot.bastion.cards import Card, Deck
from bastion.bot.bastion.commands import latency_text
from bastion.bot.bastion.messages import named_in
from bastion.bot.bastion.presentation import card_embed, card_view, clip, full_embed, list_embed, unknown_text
from bastion.bot.bastion.replies import REMEMBERED, Replies
from bastion.bot.bastion.sync import differs

HUGE = Card(id="huge", name="N" * 300, kind="Ally", cost=9, rarity="rare", text="t" * 9000, lore="l" * 9000)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# --- names in messages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("what does <Glass Heron> do?", ["Glass Heron"]),
        ("<Glass Heron><Snuff>", ["Glass Heron", "Snuff"]),
        ("<one1> <two2> <three3> <four4>", ["one1", "two2", "three3"]),
        ("<Snuff> and <snuff!> again, then <Marrow Reed>", ["Snuff", "Marrow Reed"]),
        ("nothing here", []),
        ("1 < 2 and 4 > 3", []),
        ("<ab> is too short, <> is nothing, <...> has no letter", []),
        ("<@1234567> <@!1234567> <@&1234567> <#1234567> </ping:1234567>", []),
        ("<:smile:1234567> <a:wave:1234567> <t:1700000000:R> <id:customize>", []),
        ("<https://example.org/x> <mailto:someone@example.org>", []),
        ("`vector<int> x;` and ``List<`Any`>`` and\n```\nMap<Key>\n```", []),
        ("`code` then <Snuff> then `more`", ["Snuff"]),
        ("<no\nnewlines in names>", []),
        ("<" + "x" * 65 + ">", []),
    ],
)
def test_a_message_names_cards_in_angle_brackets_and_nothing_else(content: str, names: list[str]) -> None:
    assert named_in(content) == names


@given(content=st.text(alphabet="<>@#:/!`abc \n", max_size=4000))
def test_no_message_breaks_the_search_for_names(content: str) -> None:
    names = named_in(content)
    assert len(names) <= 3
    assert all(name == name.strip() != "" and not set(name) & set("<>:\n") for name in names)


# --- the memory of replies ------------------------------------------------------------------------------------------


def test_a_reply_is_known_by_its_asking_message_once() -> None:
    replies = Replies(clock=Clock())
    replies.begin(1)
    assert not replies.sent(1, 11)
    assert replies.withdraw(1) == 11
    assert replies.withdraw(1) is None


def test_a_message_deleted_before_its_reply_was_sent_takes_the_reply_with_it() -> None:
    replies = Replies(clock=Clock())
    replies.begin(1)
    assert replies.withdraw(1) is None
    assert replies.sent(1, 11), "the reply must go"
    assert len(replies) == 0


def test_a_reply_that_failed_is_forgotten() -> None:
    replies = Replies(clock=Clock())
    replies.begin(1)
    replies.failed(1)
    assert not replies.expects(1)


def test_a_message_that_nothing_answers_is_known_as_such() -> None:
    replies = Replies(clock=Clock())
    replies.ignore(1)
    assert replies.expects(1)
    assert replies.withdraw(1) is None


def test_after_five_minutes_a_reply_is_forgotten() -> None:
    clock = Clock()
    replies = Replies(clock=clock)
    replies.begin(1)
    replies.sent(1, 11)
    clock.now += REMEMBERED - 1
    replies.begin(2)
    assert replies.expects(1)
    clock.now += 1
    assert replies.withdraw(1) is None
    assert len(replies) == 1


def test_past_its_capacity_the_oldest_replies_are_forgotten() -> None:
    replies = Replies(capacity=3, clock=Clock())
    for asked in range(10):
        replies.begin(asked)
        replies.sent(asked, asked + 100)
    assert [asked for asked in range(10) if replies.expects(asked)] == [7, 8, 9]


def test_the_memory_is_complete_when_it_reaches_back_five_minutes() -> None:
    clock = Clock()
    replies = Replies(clock=clock)
    assert not replies.complete()
    clock.now += REMEMBERED
    assert not replies.complete(), "in standby nothing was heard yet"
    replies.begin(1)
    clock.now += REMEMBERED
    assert replies.complete()


# --- words and embeds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [1, 2, 3])
def test_the_embeds_of_one_message_fit_discords_limit_together(share: int) -> None:
    embeds = [card_embed(HUGE, share=share) for _ in range(share)]
    assert sum(len(embed) for embed in embeds) <= 6000
    assert all(len(embed.title or "") <= 256 and len(embed.description or "") <= 4096 for embed in embeds)


def test_the_full_form_of_a_card_fits_too_and_says_more_than_the_short_one() -> None:
    assert len(full_embed(HUGE)) <= 6000
    card = Card(id="a", name="A", kind="Ally", cost=1, rarity="rare", text="Text.", lore="Lore.")
    assert full_embed(card).footer.text == "Lore."
    assert card_embed(card).footer.text is None
    assert len(list_embed([HUGE] * 25)) <= 6000


@pytest.mark.anyio
async def test_each_card_has_one_button_that_never_times_out_and_names_the_card() -> None:
    deck = Deck.shipped()
    cards = deck.search("", limit=3)
    view = card_view([*cards[:2], Card(id="x" * 64, name="N" * 300, kind="", cost=0, rarity="", text="", lore="")])
    assert view.timeout is None
    assert view.is_persistent()
    parts: list[Any] = [part for row in view.to_components() for part in row["components"]]
    assert [part["custom_id"] for part in parts] == [
        f"bastion:more:{id_}" for id_ in (cards[0].id, cards[1].id, "x" * 64)
    ]
    assert all(len(part["label"]) <= 80 and len(part["custom_id"]) <= 100 for part in parts)
    deck.close()


def test_an_unknown_name_is_said_back_without_its_markup_and_with_suggestions() -> None:
    cards = [Card(id=name, name=name, kind="", cost=0, rarity="", text="", lore="") for name in ("A", "B", "C")]
    assert unknown_text("zzz", []) == "There is no card called “zzz”."
    assert unknown_text("zzz", cards[:1]).endswith("Did you mean **A**?")
    assert unknown_text("zzz", cards).endswith("Did you mean **A**, **B** or **C**?")
    assert "**loud**" not in unknown_text("**loud**", [])
    assert len(unknown_text("x" * 5000, [])) < 200


@given(text=st.text(), limit=st.integers(min_value=1, max_value=50))
def test_a_clipped_text_is_never_longer_than_asked(text: str, limit: int) -> None:
    assert len(clip(text, limit)) == min(len(text), limit)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.0421, "42 ms"), (math.inf, "not measured yet"), (math.nan, "not measured yet")]
)
def test_a_latency_that_was_not_measured_yet_is_said_to_be_so(seconds: float, said: str) -> None:
    assert latency_text(seconds) == said


# --- the client and its commands ------------------------------------------------------------------------------------


def test_the_bot_asks_for_three_intents_and_mentions_nobody(bot: Bastion) -> None:
    assert dict(bot.intents) == dict(discord.Intents(guilds=True, guild_messages=True, message_content=True))
    assert bot.allowed_mentions is not None
    assert dict(bot.allowed_mentions.to_dict()) == {"parse": []}
    assert sorted(command.name for command in bot.tree.get_commands()) == ["ping", "search"]


@pytest.fixture
def bot() -> Iterator[Bastion]:
    bot = create()
    yield bot
    bot.deck.close()


def as_discord_has_them(bot: Bastion, **changes: Any) -> list[app_commands.AppCommand]:
    """The bot's commands the way Discord gives them back, the first one changed."""
    commands = []
    for number, command in enumerate(bot.tree.get_commands(), start=1):
        data: Any = {
            **command.to_dict(bot.tree),
            "id": str(number),
            "application_id": "9",
            "version": "1",
            "contexts": None,
            "integration_types": [0],
            "name_localizations": None,
            "description_localizations": None,
        }
        commands.append(app_commands.AppCommand(data=data | (changes if number == 1 else {}), state=bot._connection))
    return commands


def test_commands_that_discord_has_already_are_not_written_again(bot: Bastion) -> None:
    ours = [command.to_dict(bot.tree) for command in bot.tree.get_commands()]
    assert not differs(as_discord_has_them(bot), ours)
    assert not differs(list(reversed(as_discord_has_them(bot))), ours), "their order means nothing"


@pytest.mark.parametrize(
    "change", [{"description": "Another text"}, {"nsfw": True}, {"name": "pong"}, {"default_member_permissions": "8"}]
)
def test_commands_that_differ_are_written(bot: Bastion, change: dict[str, Any]) -> None:
    ours = [command.to_dict(bot.tree) for command in bot.tree.get_commands()]
    assert differs(as_discord_has_them(bot, **change), ours)
    assert differs(as_discord_has_them(bot)[:1], ours), "one is missing"
    assert differs(as_discord_has_them(bot), ours[:1]), "one is too many"


def test_a_changed_option_of_a_command_is_written(bot: Bastion) -> None:
    ours = [command.to_dict(bot.tree) for command in bot.tree.get_commands()]
    theirs = as_discord_has_them(bot)
    for command in ours:
        for option in command["options"]:
            option["autocomplete"] = False
    assert differs(theirs, ours)


def test_replies_go_over_to_another_process_with_the_time_that_they_have_left() -> None:
    now = 100.0
    old = Replies(clock=lambda: now)
    for asked in (1, 2, 3):
        old.begin(asked)
    old.sent(1, 11)
    old.ignore(2)
    now = 300.0
    exported = json.loads(json.dumps(old.exported()))
    now = 1000.0
    new = Replies(clock=lambda: now)
    new.take(exported)
    assert [new.expects(asked) for asked in (1, 2, 3)] == [True, True, False], "3 was still on its way"
    assert not new.complete(), "so it is looked for where Discord shows it"
    now = 1099.0
    assert (new.withdraw(1), new.withdraw(2)) == (11, None)
    now = 1101.0
    new.take(exported)
    now = 1301.0
    new.begin(9)
    assert len(new) == 1
