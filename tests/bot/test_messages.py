"""The message cache of a mirror is its holder's: same messages, same order, with what has become of them since."""

from __future__ import annotations

import json
from typing import Any

import pytest
from test_payloads import (
    BOT,
    CACHES,
    EMOJI,
    GUILD,
    OTHER,
    OWNER,
    WHEN,
    connected,
    differences,
    holder,
    member,
    moved,
    user,
)

from bastion.bot.discordpy.messages import MESSAGES, Recent

pytestmark = pytest.mark.anyio

DM = "500"


def message(number: int, **more: Any) -> dict[str, Any]:
    partial = {key: value for key, value in member(OWNER).items() if key != "user"}
    return {
        "id": str(number),
        "channel_id": "8001",
        "guild_id": GUILD,
        "author": user(OWNER),
        "member": partial,
        "content": f"text {number}",
        "timestamp": WHEN[0],
        "edited_timestamp": None,
        "tts": False,
        "mention_everyone": False,
        "mentions": [user(OTHER) | {"member": {k: v for k, v in member(OTHER).items() if k != "user"}}],
        "mention_roles": ["9001"],
        "attachments": [
            {"id": "1", "filename": "a.png", "size": 3, "url": "https://u", "proxy_url": "https://p", "width": 1}
        ],
        "embeds": [{"type": "rich", "title": "t", "fields": [{"name": "n", "value": "v", "inline": True}]}],
        "pinned": False,
        "type": 0,
        "flags": 0,
        "components": [
            {"type": 1, "id": 1, "components": [{"type": 2, "id": 2, "style": 1, "label": "go", "custom_id": "go"}]}
        ],
        "sticker_items": [{"id": "8110", "name": "wave", "format_type": 1}],
        "nonce": "n",
    } | more


POLL = {
    "question": {"text": "which?"},
    "answers": [{"answer_id": 1, "poll_media": {"text": "this", "emoji": EMOJI}}],
    "allow_multiselect": True,
    "layout_type": 1,
    "expiry": WHEN[1],
}
REFERENCE = {"message_id": "101", "channel_id": "8001", "guild_id": GUILD, "type": 0}
TALK = [
    message(101),
    message(102, message_reference=REFERENCE, referenced_message=message(101), type=19),
    message(103, poll=POLL),
    message(104, webhook_id="600", application_id="6000", author=user("600")),
    message(105, author=user("7999"), member=member("7999", nick="is no member")),
    {
        **{key: value for key, value in message(106).items() if key not in ("guild_id", "member")},
        "channel_id": DM,
        "mentions": [],
        "mention_roles": [],
    },
    message(
        107, interaction_metadata={"id": "1", "type": 2, "user": user(OWNER), "authorizing_integration_owners": {}}
    ),
    message(108, channel_id="8300"),
]


def reaction(kind: str, who: str, emoji: dict[str, Any], number: int = 101) -> tuple[str, dict[str, Any]]:
    return kind, {
        "user_id": who,
        "channel_id": "8001",
        "message_id": str(number),
        "guild_id": GUILD,
        "emoji": emoji,
        "burst": False,
        "type": 0,
    }


PARTY = {"id": None, "name": "🎉"}
LATER = [
    ("MESSAGE_UPDATE", message(101, content="edited", edited_timestamp=WHEN[1])),
    ("MESSAGE_UPDATE", message(102, content="edited", pinned=True)),
    *(("MESSAGE_UPDATE", message(108, channel_id="8300", content=f"edit {number}")) for number in range(9)),
    reaction("MESSAGE_REACTION_ADD", OWNER, PARTY),
    reaction("MESSAGE_REACTION_ADD", BOT, PARTY),
    reaction("MESSAGE_REACTION_ADD", OTHER, EMOJI),
    reaction("MESSAGE_REACTION_ADD", OTHER, EMOJI, 102),
    reaction("MESSAGE_REACTION_REMOVE", OTHER, EMOJI, 102),
    (
        "MESSAGE_POLL_VOTE_ADD",
        {"user_id": OWNER, "channel_id": "8001", "message_id": "103", "guild_id": GUILD, "answer_id": 1},
    ),
    ("MESSAGE_DELETE", {"id": "104", "channel_id": "8001", "guild_id": GUILD}),
]


def hear(state: Any, recent: Recent, name: str, data: dict[str, Any]) -> None:
    text = json.dumps({"op": 0, "t": name, "s": 1, "d": data})
    read = json.loads(text)["d"]
    state.parsers[name](read)
    if name == "MESSAGE_CREATE":
        recent.created(text, read)
    elif name == "MESSAGE_UPDATE":
        recent.updated(text, read)


def talked() -> tuple[Any, Any, Recent]:
    client, state = holder()
    recent = Recent(client)
    for one in TALK:
        hear(state, recent, "MESSAGE_CREATE", one)
    for name, data in LATER:
        hear(state, recent, name, data)
    return client, state, recent


def loaded(client: Any, recent: Recent) -> tuple[Any, Any, Recent]:
    copy, other = moved(client)
    there = Recent(copy)
    there.begin_loading()
    for messages in recent.payloads(0, 1):
        for data in json.loads(json.dumps(messages)):
            there.load(data)
    there.end_loading(recent.oldest)
    return copy, other, there


def compare(state: Any, other: Any) -> list[str]:
    seen: set[tuple[int, int]] = set()
    # Each shard's messages are in order; how those of several shards mix is nobody's promise.
    one, two = (sorted(cache, key=lambda message: message.id) for cache in (state._messages, other._messages))
    found = list(differences(one, two, "messages", seen))
    return found + [
        line for name in CACHES for line in differences(getattr(state, name), getattr(other, name), name, seen)
    ]


async def test_the_message_cache_is_the_same_and_nothing_else_changes_by_it() -> None:
    client, state, recent = talked()
    _, other, _ = loaded(client, recent)
    assert [one.id for one in other._messages] == [101, 102, 103, 105, 106, 107, 108]
    assert compare(state, other) == []


async def test_an_author_who_changed_since_is_who_is_known_now() -> None:
    client, state, recent = talked()
    state.parsers["GUILD_MEMBER_UPDATE"](member(OWNER, nick="newer") | {"guild_id": GUILD})
    _, other, _ = loaded(client, recent)
    assert other._get_guild(int(GUILD)).get_member(int(OWNER)).nick == "newer"
    assert compare(state, other) == []


async def test_what_was_loaded_can_be_handed_on() -> None:
    client, state, recent = talked()
    copy, _, there = loaded(client, recent)
    _, third, _ = loaded(copy, there)
    assert compare(state, third) == []


async def test_no_more_texts_are_kept_than_discord_py_keeps_messages() -> None:
    client, state = holder()
    recent = Recent(client)
    for number in range(1, 1102):  # as many are deleted, and their texts are of no use
        hear(state, recent, "MESSAGE_CREATE", message(100_000 + number))
        hear(state, recent, "MESSAGE_DELETE", {"id": str(100_000 + number), "channel_id": "8001", "guild_id": GUILD})
        hear(state, recent, "MESSAGE_CREATE", message(number))
    assert len(state._messages) == 1000
    assert len(recent._texts) <= 1200
    slices = list(recent.payloads(0, 1))
    assert [one["id"] for messages in slices for one in messages] == [str(one) for one in range(102, 1102)]
    assert {len(messages) for messages in slices} == {MESSAGES}


async def test_a_message_that_comes_or_goes_while_others_are_loaded_is_as_it_is() -> None:
    client, state = holder()
    recent = Recent(client)
    for number in range(1, 1001):
        hear(state, recent, "MESSAGE_CREATE", message(number))
    copy, other = moved(client)
    there = Recent(copy)
    there.begin_loading()
    slices = recent.payloads(0, 1)
    for number, messages in enumerate(slices):
        for data in json.loads(json.dumps(messages)):
            there.load(data)
        if number == 0:
            happened = [("MESSAGE_CREATE", message(2000)), ("MESSAGE_UPDATE", message(3, content="live"))]
            gone = [("MESSAGE_DELETE", {"id": one, "channel_id": "8001", "guild_id": GUILD}) for one in ("5", "900")]
            for name, data in happened + gone:
                hear(state, recent, name, data)
                hear(other, there, name, data)
            there.load(message(2000))  # behind the news of it
    there.end_loading(recent.oldest)
    assert len(other._messages) == 998
    assert compare(state, other) == []


async def test_messages_of_no_guild_are_the_first_shards() -> None:
    _, _, recent = talked()
    of_first = [one["id"] for messages in recent.payloads(0, 2) for one in messages]
    of_second = [one["id"] for messages in recent.payloads(1, 2) for one in messages]
    assert "106" in of_first
    assert sorted(of_first + of_second) == ["101", "102", "103", "105", "106", "107", "108"]


async def test_a_client_without_a_message_cache_keeps_nothing() -> None:
    client, state = connected()
    state._messages = None
    recent = Recent(client)
    recent.created("{}", {"id": "1"})
    recent.begin_loading()
    recent.load(message(1))
    recent.end_loading(0)
    assert list(recent.payloads(0, 1)) == []


# --- it can fail ----------------------------------------------------------------------------------------------------


async def test_a_difference_in_a_message_is_seen() -> None:
    client, state, recent = talked()
    _, other, _ = loaded(client, recent)
    other._messages[0].reactions[0].count += 1
    other._messages[2].poll.answers[0]._vote_count += 1
    assert [line.partition(":")[0] for line in compare(state, other)] == [
        "messages[0].reactions[0].count",
        "messages[2].poll._answers[1]._vote_count",
    ]
