"""A cache written as payloads and read again by discord.py is the same cache, slot by slot, in each supported version.

A slot that a new discord.py adds fails here, unless a payload sets it: `PAYLOAD` holds everything that Discord sends.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import discord
import pytest

from bastion.bot.discordpy import payloads

pytestmark = pytest.mark.anyio

GUILD, BOT, OWNER, OTHER = "9000", "7000", "7001", "7002"
WHEN = ("2026-01-02T03:04:05.678000+00:00", "2026-05-06T07:08:09+00:00")


def user(number: str, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "username": f"name {number}",
        "discriminator": "0",
        "global_name": f"Global {number}",
        "avatar": "abc",
        "banner": "def",
        "accent_color": 123456,
        "public_flags": 64,
        "bot": number == BOT,
        "system": False,
        "avatar_decoration_data": {"asset": "a", "sku_id": "55"},
        "primary_guild": {"identity_guild_id": GUILD, "identity_enabled": True, "tag": "TAG", "badge": "b"},
        "collectibles": {"nameplate": {"sku_id": "5", "asset": "x/", "label": "L", "palette": "crimson"}},
    } | more


def member(number: str, **more: Any) -> dict[str, Any]:
    return {
        "user": user(number),
        "nick": f"nick {number}",
        "roles": ["9002", "9001"],
        "joined_at": WHEN[0],
        "premium_since": WHEN[1],
        "pending": number == OTHER,
        "avatar": "m",
        "banner": "mb",
        "flags": 3,
        "permissions": "2147483647",
        "communication_disabled_until": WHEN[1],
        "avatar_decoration_data": {"asset": "ma", "sku_id": "56"},
    } | more


EMOJI = {"id": "8100", "name": "party", "animated": True}
ACTIVITIES: list[dict[str, Any]] = [
    {"type": 0, "name": "Chess", "created_at": 1, "timestamps": {"start": 5, "end": 9}, "assets": {"large_text": "x"}},
    {"type": 0, "name": "Plain game", "created_at": 1},
    {
        "type": 0,
        "name": "Rich",
        "application_id": "77",
        "created_at": 2,
        "state": "In Game",
        "details": "Level 3",
        "timestamps": {"start": 5},
        "party": {"id": "p", "size": [1, 4]},
        "assets": {"large_image": "i"},
        "buttons": ["Join"],
        "flags": 2,
        "session_id": "s",
        "platform": "desktop",
        "state_url": "https://s",
        "details_url": "https://d",
        "status_display_type": 1,
    },
    {"type": 0, "name": "Application without an id", "application_id": None, "created_at": 2},
    {"type": 1, "name": "Twitch", "url": "https://twitch.tv/x", "details": "Live", "state": "Chess", "created_at": 3},
    {"type": 1, "name": "Twitch", "url": "https://twitch.tv/y", "created_at": 3},
    {
        "type": 2,
        "name": "Spotify",
        "sync_id": "sy",
        "session_id": "se",
        "details": "Song",
        "state": "Artist",
        "timestamps": {"start": 1, "end": 2},
        "assets": {"large_image": "spotify:x"},
        "party": {"id": "spotify:1"},
        "flags": 48,
        "created_at": 4,
    },
    {"type": 2, "name": "A radio", "created_at": 4},
    {"type": 3, "name": "A film", "created_at": 5},
    {"type": 4, "name": "Custom Status", "state": "busy", "emoji": EMOJI, "created_at": 6},
    {"type": 4, "name": "Custom Status", "state": None, "emoji": {"name": "🎉"}, "created_at": 6},
    {"type": 5, "name": "A match", "url": None, "created_at": 7},
]


def presence(number: str, status: str, activities: list[dict[str, Any]]) -> dict[str, Any]:
    devices = {"desktop": status, "mobile": "idle"} if status != "offline" else {}
    # discord.py takes the name out of a custom status while it reads it.
    copies = [dict(one) for one in activities]
    return {"user": {"id": number}, "status": status, "client_status": devices, "activities": copies, "guild_id": GUILD}


OVERWRITES = [
    {"id": OWNER, "type": 1, "allow": "1024", "deny": "2048"},
    {"id": GUILD, "type": 0, "allow": "0", "deny": "1024"},
    {"id": "9001", "type": 0, "allow": "8", "deny": "0"},
]


def channel(number: str, kind: int, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "type": kind,
        "name": f"channel {number}",
        "position": int(number) % 100,
        "parent_id": None if kind == 4 else "8000",
        "nsfw": True,
        "permission_overwrites": [dict(one) for one in OVERWRITES],
        "topic": f"about {number}",
        "rate_limit_per_user": 7,
        "last_message_id": "123",
        "default_auto_archive_duration": 60,
        "default_thread_rate_limit_per_user": 9,
        "flags": 16,
    } | more


def vocal(number: str, kind: int) -> dict[str, Any]:
    return channel(number, kind, bitrate=64000, user_limit=10, rtc_region="brazil", video_quality_mode=2)


def thread(number: str, **more: Any) -> dict[str, Any]:
    return {
        "id": number,
        "guild_id": GUILD,
        "parent_id": "8001",
        "owner_id": OWNER,
        "name": f"thread {number}",
        "type": 11,
        "last_message_id": "124",
        "rate_limit_per_user": 3,
        "message_count": 4,
        "member_count": 2,
        "total_message_sent": 9,
        "flags": 2,
        "applied_tags": ["8202", "8201"],
        "thread_metadata": {
            "archived": True,
            "archiver_id": OWNER,
            "auto_archive_duration": 60,
            "archive_timestamp": WHEN[0],
            "locked": True,
            "invitable": False,
            "create_timestamp": WHEN[1],
        },
        "member": {"id": number, "user_id": BOT, "join_timestamp": WHEN[0], "flags": 1},
    } | more


def guild_create() -> dict[str, Any]:
    tags = [
        {"id": "8201", "name": "help", "moderated": True, "emoji_id": "8100", "emoji_name": None},
        {"id": "8202", "name": "idea", "moderated": False, "emoji_id": None, "emoji_name": "🎉"},
        {"id": "8203", "name": "bare", "moderated": False, "emoji_id": None, "emoji_name": None},
    ]
    return {
        "id": GUILD,
        "name": "A guild",
        "unavailable": False,
        "large": False,
        "member_count": 3,
        "verification_level": 2,
        "default_message_notifications": 1,
        "explicit_content_filter": 2,
        "afk_timeout": 300,
        "afk_channel_id": "8002",
        "icon": "i",
        "banner": "b",
        "features": ["COMMUNITY", "NEWS"],
        "splash": "s",
        "discovery_splash": "d",
        "system_channel_id": "8001",
        "system_channel_flags": 5,
        "rules_channel_id": "8001",
        "public_updates_channel_id": "8001",
        "safety_alerts_channel_id": "8001",
        "widget_channel_id": "8001",
        "widget_enabled": True,
        "description": "text",
        "max_presences": 10,
        "max_members": 500000,
        "max_video_channel_users": 25,
        "max_stage_video_channel_users": 50,
        "premium_tier": 2,
        "premium_subscription_count": 9,
        "premium_progress_bar_enabled": True,
        "vanity_url_code": "vanity",
        "preferred_locale": "de",
        "nsfw_level": 1,
        "mfa_level": 1,
        "approximate_presence_count": 2,
        "approximate_member_count": 3,
        "owner_id": OWNER,
        "incidents_data": {"invites_disabled_until": WHEN[0], "dms_disabled_until": None},
        "roles": [
            {"id": GUILD, "name": "@everyone", "permissions": "1024", "position": 0, "color": 0, "hoist": False},
            {
                "id": "9001",
                "name": "boss",
                "permissions": "8",
                "position": 2,
                "color": 255,
                "colors": {"primary_color": 255, "secondary_color": 254, "tertiary_color": None},
                "hoist": True,
                "icon": "ri",
                "unicode_emoji": "🎉",
                "managed": True,
                "mentionable": True,
                "flags": 1,
                "tags": {
                    "bot_id": BOT,
                    "integration_id": "42",
                    "subscription_listing_id": "43",
                    "premium_subscriber": None,
                    "available_for_purchase": None,
                    "guild_connections": None,
                },
            },
            {"id": "9002", "name": "crew", "permissions": "0", "position": 1, "color": 3, "tags": {"bot_id": BOT}},
        ],
        "emojis": [
            EMOJI
            | {"roles": ["9001"], "user": user(OWNER), "require_colons": True, "managed": True, "available": False}
        ],
        "stickers": [
            {
                "id": "8110",
                "name": "wave",
                "description": "hello",
                "format_type": kind,
                "type": 2,
                "available": False,
                "guild_id": GUILD,
                "tags": "wave",
                "user": user(OWNER),
            }
            for kind in (1, 4)
        ],
        "channels": [
            channel("8000", 4),
            channel("8001", 0),
            vocal("8002", 2),
            channel("8003", 5),
            vocal("8004", 13),
            channel(
                "8005",
                15,
                available_tags=tags,
                default_reaction_emoji={"emoji_id": "8100", "emoji_name": None},
                default_forum_layout=2,
                default_sort_order=1,
            ),
            channel("8006", 16, available_tags=[], default_reaction_emoji={"emoji_id": None, "emoji_name": "🎉"}),
            channel("8007", 15, available_tags=[], default_reaction_emoji=None, default_sort_order=0),
        ],
        "voice_states": [
            {
                "user_id": OWNER,
                "channel_id": "8002",
                "session_id": "v",
                "self_mute": True,
                "self_deaf": True,
                "self_stream": True,
                "self_video": True,
                "mute": True,
                "deaf": True,
                "suppress": True,
                "request_to_speak_timestamp": WHEN[0],
            },
            {"user_id": OTHER, "channel_id": "8004", "session_id": "w"},
        ],
        "members": [member(BOT), member(OWNER), member(OTHER)],
        "presences": [presence(OWNER, "online", ACTIVITIES), presence(OTHER, "dnd", [])],
        "threads": [thread("8300"), thread("8301", type=12), {**thread("8302"), "parent_id": "8005"}],
        "stage_instances": [
            {
                "id": "8400",
                "guild_id": GUILD,
                "channel_id": "8004",
                "topic": "talk",
                "privacy_level": 2,
                "discoverable_disabled": True,
                "guild_scheduled_event_id": "8500",
            }
        ],
        "guild_scheduled_events": [
            {
                "id": "8500",
                "guild_id": GUILD,
                "name": "meeting",
                "description": "all",
                "entity_type": 3,
                "entity_id": "8400",
                "scheduled_start_time": WHEN[0],
                "scheduled_end_time": WHEN[1],
                "status": 2,
                "privacy_level": 2,
                "image": "img",
                "user_count": 4,
                "creator_id": OWNER,
                "creator": user(OWNER),
                "channel_id": None,
                "entity_metadata": {"location": "here"},
            }
        ],
        "soundboard_sounds": [
            {
                "sound_id": "8600",
                "guild_id": GUILD,
                "name": "honk",
                "volume": 0.5,
                "emoji_id": "8100",
                "emoji_name": None,
                "available": True,
                "user_id": OWNER,
                "user": user(OWNER),
            },
            {
                "sound_id": "8601",
                "guild_id": GUILD,
                "name": "beep",
                "volume": 1,
                "emoji_id": None,
                "emoji_name": None,
                "available": False,
            },
        ],
    }


READY = {
    "v": 10,
    "user": user(BOT, verified=True, locale="fr", flags=8, mfa_enabled=True),
    "application": {"id": "6000", "flags": 1 << 19},
    "guilds": [{"id": GUILD, "unavailable": True}, {"id": "9999", "unavailable": True}],
    "session_id": "session",
    "resume_gateway_url": "wss://resume",
    "shard": [0, 1],
    "private_channels": [],
}
LATER = [
    (
        "THREAD_MEMBERS_UPDATE",
        {
            "guild_id": GUILD,
            "id": "8300",
            "member_count": 3,
            "added_members": [{"id": "8300", "user_id": OWNER, "join_timestamp": WHEN[1], "flags": 4}],
        },
    ),
    ("GUILD_SCHEDULED_EVENT_USER_ADD", {"guild_id": GUILD, "guild_scheduled_event_id": "8500", "user_id": OTHER}),
    ("GUILD_MEMBER_ADD", member("7003", joined_at=WHEN[1], roles=[], premium_since=None) | {"guild_id": GUILD}),
    (
        "GUILD_ROLE_UPDATE",
        {"guild_id": GUILD, "role": {"id": "9002", "name": "team", "permissions": "1", "position": 1}},
    ),
    ("CHANNEL_UPDATE", channel("8001", 5, topic=None) | {"guild_id": GUILD}),
    ("PRESENCE_UPDATE", presence(OTHER, "offline", [])),
]
"""What happens after the guild came, so that the cache is not what a GUILD_CREATE made."""


def connected() -> tuple[discord.AutoShardedClient, Any]:
    client = discord.AutoShardedClient(
        intents=discord.Intents.all(), chunk_guilds_at_startup=False, shard_count=1, guild_ready_timeout=0
    )
    state: Any = client._connection
    state.dispatch = lambda *args: None
    return client, state


def holder() -> tuple[discord.AutoShardedClient, Any]:
    client, state = connected()
    state.parsers["READY"](json.loads(json.dumps(READY)))
    state.parsers["GUILD_CREATE"](guild_create())
    for name, data in LATER:
        state.parsers[name](json.loads(json.dumps(data)))
    return client, state


def moved(source: discord.Client) -> tuple[discord.AutoShardedClient, Any]:
    """Write one client's cache as payloads, and have another one read them, as over a wire."""
    state: Any = source._connection
    client, other = connected()

    def take(name: str, data: Any) -> Any:
        read = json.loads(json.dumps(data))
        other.parsers[name](read)
        return read

    session = {"session_id": "session", "resume_gateway_url": "wss://resume"}
    take("READY", payloads.ready(source, shard=(0, 1), guilds=[guild.id for guild in source.guilds], session=session))
    for guild in state.guilds:
        if guild.name:  # the other one never came
            created = take("GUILD_CREATE", payloads.guild_create(guild))
            payloads.after_parsing(other._get_guild(guild.id), created)
            for chunk in payloads.members(guild):
                payloads.add_members(other._get_guild(guild.id), json.loads(json.dumps(chunk)))
            for name, data in payloads.after_guild_create(guild):
                take(name, data)
    return client, other


def slots(thing: object) -> list[str]:
    found: list[str] = []
    for kind in type(thing).__mro__:
        own = kind.__dict__.get("__slots__", ())
        found += [own] if isinstance(own, str) else own
    found += vars(thing) if hasattr(thing, "__dict__") else ()
    return sorted(set(found) - {"_state", "_http", "__weakref__"})


def differences(one: Any, other: Any, where: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Yield the places where two object trees differ, slot by slot."""
    if type(one) is not type(other):
        yield f"{where}: {one!r} is not {other!r}"
    elif one is None or isinstance(one, (str, int, float, bool, bytes, datetime, timedelta, array)):
        if one != other:
            yield f"{where}: {one!r} is not {other!r}"
    elif (id(one), id(other)) in seen:
        return
    elif isinstance(one, Mapping):
        seen.add((id(one), id(other)))
        if list(one) != list(other) and not isinstance(one, dict):
            yield f"{where}: keys {list(one)} are not {list(other)}"
        for key in one.keys() | other.keys():
            if key not in one or key not in other:
                yield f"{where}[{key!r}] is in one only"
            else:
                yield from differences(one[key], other[key], f"{where}[{key!r}]", seen)
    elif isinstance(one, (list, tuple)):
        if len(one) != len(other):
            yield f"{where}: {one!r} is not {other!r}"
        for index, (a, b) in enumerate(zip(one, other, strict=False)):
            yield from differences(a, b, f"{where}[{index}]", seen)
    else:
        seen.add((id(one), id(other)))
        assert slots(one), f"{where}: {one!r} has no slots to compare"
        for name in slots(one):
            both = hasattr(one, name), hasattr(other, name)
            if both == (True, True):
                yield from differences(getattr(one, name), getattr(other, name), f"{where}.{name}", seen)
            elif both[0] != both[1]:
                yield f"{where}.{name} is set in one only"


CACHES = ("_guilds", "_emojis", "_stickers", "user", "application_id")


def compare(state: Any, other: Any) -> list[str]:
    seen: set[tuple[int, int]] = set()
    found = [line for name in CACHES for line in differences(getattr(state, name), getattr(other, name), name, seen)]
    users, others = dict(state._users), dict(other._users)
    return found + list(differences(users, others, "_users", seen))


async def test_a_cache_is_the_same_after_it_went_through_payloads() -> None:
    client, state = holder()
    copy, other = moved(client)
    assert compare(state, other) == []
    assert copy.get_guild(int(GUILD)) is not client.get_guild(int(GUILD))


async def test_everything_that_discord_sends_is_in_the_cache_that_is_compared() -> None:
    """A kind of object that the example lacks would be compared with nothing."""
    _, state = holder()
    guild = state._get_guild(int(GUILD))
    for name in slots(guild):
        assert getattr(guild, name, None) not in (None, (), [], {}), name


async def test_a_guild_that_is_unavailable_now_is_that_in_the_copy_too() -> None:
    client, state = holder()
    state.parsers["GUILD_DELETE"]({"id": GUILD, "unavailable": True})
    _, other = moved(client)
    assert other._get_guild(int(GUILD)).unavailable
    assert compare(state, other) == []


async def test_what_discord_py_computed_from_the_members_of_another_day_is_kept() -> None:
    client, state = holder()
    state._get_guild(int(GUILD))._member_count = 1000
    _, other = moved(client)
    assert (other._get_guild(int(GUILD)).large, compare(state, other)) == (False, [])


async def test_members_go_in_slices_and_who_has_left_meanwhile_is_left_out() -> None:
    _, state = holder()
    for number in range(20_000, 20_000 + 2 * payloads.MEMBERS):
        state.parsers["GUILD_MEMBER_ADD"](member(str(number), roles=[]) | {"guild_id": GUILD})
    guild = state._get_guild(int(GUILD))
    slices = payloads.members(guild)
    first = next(slices)
    last = list(guild._members)[-1]
    state.parsers["GUILD_MEMBER_REMOVE"]({"guild_id": GUILD, "user": user(str(last))})
    rest = list(slices)
    assert [len(one["members"]) for one in (first, *rest)] == [payloads.MEMBERS, payloads.MEMBERS, 3]
    assert str(last) not in {one["user"]["id"] for chunk in rest for one in chunk["members"]}


async def test_a_slice_replaces_what_an_event_before_it_said_of_a_member() -> None:
    client, state = holder()
    guild = state._get_guild(int(GUILD))
    chunk = json.loads(json.dumps(next(payloads.members(guild))))
    _, other = moved(client)
    copy = other._get_guild(int(GUILD))
    copy.get_member(int(OWNER)).nick = "older"
    payloads.add_members(copy, chunk)
    assert copy.get_member(int(OWNER)).nick == f"nick {OWNER}"


# --- it can fail ----------------------------------------------------------------------------------------------------


async def test_a_difference_in_any_slot_is_seen() -> None:
    client, state = holder()
    _, other = moved(client)
    guild = other._get_guild(int(GUILD))
    guild.get_role(9001).unicode_emoji = "x"
    guild.get_member(int(OWNER)).activities[0]._start = 6
    guild.get_thread(8300)._members.clear()
    assert [line.partition(":")[0] for line in compare(state, other)] == [
        f"_guilds[{GUILD}]._members[{OWNER}].activities[0]._start",
        f"_guilds[{GUILD}]._roles[9001].unicode_emoji",
        f"_guilds[{GUILD}]._threads[8300]._members[{OWNER}] is in one only",
    ]
