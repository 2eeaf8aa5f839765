"""discord.py's cache, written as the gateway payloads that it was made from.

A mirror gets READY, and a GUILD_CREATE for each guild, as if Discord had sent them. So the payloads are what discord.py
reads: whatever it keeps of a payload is put back under the key that it reads. An example: discord.py 2.6 reads
``Role._colour`` from ``role["colors"]["primary_color"]``, and 2.5 reads it from ``role["color"]``. So both are written.

Knows the slots of discord.py's models, and reads them only. Knows nothing of streams, sessions and messages. A new
version of discord.py with a new slot fails `tests/bot/test_payloads.py`, which compares all slots after a round trip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import discord
from discord import Guild, Member
from discord.activity import ActivityTypes, CustomActivity, Game, Spotify, Streaming
from discord.user import BaseUser

Payload: TypeAlias = dict[str, Any]
"""One object of Discord's, as `json` has it."""

OF_SNAPSHOT = "bastion_snapshot"
"""A key that only a payload of ours has: it is what the cache says, and no news."""

MEMBERS = 100
"""Members that one payload carries. Building as many, with their presences, takes about 1 ms."""


def ready(client: discord.Client, *, shard: tuple[int, int], guilds: Iterable[int], session: Payload) -> Payload:
    """Return READY for a shard. ``session``: ``session_id`` and ``resume_gateway_url`` of the session that moves."""
    state = client._connection
    assert state.user is not None
    own = _slots(state.user, verified="verified", locale="locale", flags="_flags", mfa_enabled="mfa_enabled")
    return {
        "v": 10,
        "user": _user(state.user) | own,
        "application": {
            "id": _text(state.application_id),
            "flags": state.application_flags.value if state.application_id is not None else 0,
        },
        "guilds": [{"id": str(guild), "unavailable": True} for guild in guilds],
        "private_channels": [],
        "shard": list(shard),
        **session,
    }


def guild_create(guild: Guild) -> Payload:
    """Return GUILD_CREATE of a guild without its members: those follow, see `members`.

    The bot's own member is there, for discord.py asks for it while it reads the rest.
    """
    return {
        "id": str(guild.id),
        **_slots(guild, **_GUILD),
        "unavailable": False,
        "large": guild._large,
        OF_SNAPSHOT: True,
        "roles": [_role(role) for role in guild._roles.values()],
        "emojis": [_emoji(emoji) for emoji in guild.emojis],
        "stickers": [_sticker(sticker) for sticker in guild.stickers],
        "channels": [_channel(channel) for channel in guild._channels.values()],
        "voice_states": [_voice_state(user, state) for user, state in guild._voice_states.items()],
        "members": [member(guild.me)] if guild.me is not None else [],
        "presences": list(_presences([guild.me])) if guild.me is not None else [],
        "threads": [_thread(thread) for thread in guild._threads.values()],
        "stage_instances": [_stage(stage) for stage in guild._stage_instances.values()],
        "guild_scheduled_events": [_scheduled_event(event) for event in guild._scheduled_events.values()],
        "soundboard_sounds": [_sound(sound) for sound in guild._soundboard_sounds.values()],
    }


def after_parsing(guild: Guild, created: Payload) -> None:
    """Finish a guild that was read from `guild_create`: discord.py computes ``large`` from the members of today."""
    guild._large = created["large"]


def members(guild: Guild) -> Iterator[Payload]:
    """Yield a guild's members in slices of `MEMBERS`, each built when it is asked for.

    A slice is what GUILD_MEMBERS_CHUNK has: ``members`` and ``presences``. A member who leaves meanwhile is left out.
    An event tells of a member who joins meanwhile.
    """
    known = list(guild._members)
    for start in range(0, len(known), MEMBERS):
        found = [guild._members[one] for one in known[start : start + MEMBERS] if one in guild._members]
        yield {
            "guild_id": str(guild.id),
            "members": [member(one) for one in found],
            "presences": list(_presences(found)),
        }


def add_members(guild: Guild, chunk: Payload) -> None:
    """Put a slice of members into a guild's cache. A slice is newer than any event before it on the stream."""
    for data in chunk["members"]:
        made = Member(data=data, guild=guild, state=guild._state)
        guild._members[made.id] = made
    for presence in chunk["presences"]:
        if (found := guild.get_member(int(presence["user"]["id"]))) is not None:
            found._presence_update(discord.RawPresenceUpdateEvent(data=presence, state=guild._state), ())  # type: ignore[arg-type]


def add_unknown_members(guild: Guild, chunk: Payload) -> None:
    """Put members of a GUILD_MEMBERS_CHUNK into a guild's cache, as discord.py does: whom it knows it keeps."""
    known = guild._members
    news = [
        one for one in chunk["members"] if (found := known.get(int(one["user"]["id"]))) is None or not found.joined_at
    ]
    ids = {one["user"]["id"] for one in news}
    presences = [one for one in chunk.get("presences", ()) if one["user"]["id"] in ids]
    add_members(guild, {"members": news, "presences": presences})


def after_guild_create(guild: Guild) -> Iterator[tuple[str, Payload]]:
    """Yield events that bring a guild's cache to what no GUILD_CREATE can say: members of threads, and of events."""
    for thread in guild._threads.values():
        if added := [_thread_member(one) for one in thread._members.values()]:
            yield (
                "THREAD_MEMBERS_UPDATE",
                {
                    "guild_id": str(guild.id),
                    "id": str(thread.id),
                    "member_count": thread.member_count,
                    "added_members": added,
                    OF_SNAPSHOT: True,
                },
            )
    for event in guild._scheduled_events.values():
        for user in event._users:
            yield (
                "GUILD_SCHEDULED_EVENT_USER_ADD",
                {
                    "guild_id": str(guild.id),
                    "guild_scheduled_event_id": str(event.id),
                    "user_id": str(user),
                },
            )
    if guild.unavailable:
        yield "GUILD_DELETE", {"id": str(guild.id), "unavailable": True, OF_SNAPSHOT: True}


_GUILD = {
    "name": "name",
    "member_count": "_member_count",
    "verification_level": "verification_level",
    "default_message_notifications": "default_notifications",
    "explicit_content_filter": "explicit_content_filter",
    "afk_timeout": "afk_timeout",
    "afk_channel_id": "_afk_channel_id",
    "icon": "_icon",
    "banner": "_banner",
    "features": "features",
    "splash": "_splash",
    "discovery_splash": "_discovery_splash",
    "system_channel_id": "_system_channel_id",
    "system_channel_flags": "_system_channel_flags",
    "rules_channel_id": "_rules_channel_id",
    "public_updates_channel_id": "_public_updates_channel_id",
    "safety_alerts_channel_id": "_safety_alerts_channel_id",
    "widget_channel_id": "_widget_channel_id",
    "widget_enabled": "widget_enabled",
    "description": "description",
    "max_presences": "max_presences",
    "max_members": "max_members",
    "max_video_channel_users": "max_video_channel_users",
    "max_stage_video_channel_users": "max_stage_video_users",
    "premium_tier": "premium_tier",
    "premium_subscription_count": "premium_subscription_count",
    "premium_progress_bar_enabled": "premium_progress_bar_enabled",
    "vanity_url_code": "vanity_url_code",
    "preferred_locale": "preferred_locale",
    "nsfw_level": "nsfw_level",
    "mfa_level": "mfa_level",
    "approximate_presence_count": "approximate_presence_count",
    "approximate_member_count": "approximate_member_count",
    "owner_id": "owner_id",
    "incidents_data": "_incidents_data",
}
"""Keys of GUILD_CREATE that discord.py keeps as they are, and the slots that it keeps them in."""


def _slots(thing: object, **slots: str) -> Payload:
    """Return what the slots of a thing hold, under the keys that they were read from; absent ones are left out."""
    return {key: _plain(getattr(thing, slot)) for key, slot in slots.items() if hasattr(thing, slot)}


def _plain(value: object) -> Any:
    """Return a value of discord.py's as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    return getattr(value, "value", value)  # of an enumeration; discord.py's are no classes that isinstance knows


def _text(snowflake: int | None) -> str | None:
    return None if snowflake is None else str(snowflake)


def _user(user: BaseUser) -> Payload:
    return {
        "id": str(user.id),
        **_slots(
            user,
            username="name",
            discriminator="discriminator",
            global_name="global_name",
            avatar="_avatar",
            banner="_banner",
            accent_color="_accent_colour",
            public_flags="_public_flags",
            bot="bot",
            system="system",
            avatar_decoration_data="_avatar_decoration_data",
            primary_guild="_primary_guild",
            collectibles="_collectibles",
        ),
    }


def member(who: Member) -> Payload:
    """Return a member, with the user."""
    found = {
        "user": _user(who._user),
        "roles": [str(role) for role in who._roles],
        **_slots(
            who,
            nick="nick",
            joined_at="joined_at",
            premium_since="premium_since",
            pending="pending",
            avatar="_avatar",
            banner="_banner",
            flags="_flags",
            avatar_decoration_data="_avatar_decoration_data",
            communication_disabled_until="timed_out_until",
        ),
    }
    if who._permissions is not None:
        found["permissions"] = str(who._permissions)
    return found


def _presences(of: Sequence[Member]) -> Iterator[Payload]:
    """Yield the presences of those members who are known to be anything but offline."""
    for who in of:
        status = who.client_status
        per_device = _slots(status, desktop="desktop", mobile="mobile", web="web")
        if status.raw_status != "offline" or who.activities or any(per_device.values()):
            yield {
                "user": {"id": str(who.id)},
                "guild_id": str(who.guild.id),
                "status": status.raw_status,
                "client_status": {device: one for device, one in per_device.items() if one is not None},
                "activities": [_activity(one) for one in who.activities],
            }


def _activity(activity: ActivityTypes) -> Payload:
    created = {"created_at": activity._created_at} if activity._created_at is not None else {}
    return _own_activity(activity) | created


def _own_activity(activity: ActivityTypes) -> Payload:
    if isinstance(activity, Game):
        times = {"start": activity._start, "end": activity._end}
        return {
            "type": 0,
            "timestamps": {key: one for key, one in times.items() if one},
            **_slots(activity, name="name", platform="platform", assets="assets"),
        }
    if isinstance(activity, Streaming):
        # discord.py calls the text `state` a game, and the text `details` a name.
        return {
            "type": 1,
            **_slots(activity, name="platform", state="game", url="url", details="details", assets="assets"),
        }
    if isinstance(activity, Spotify):
        return {
            "type": 2,
            **_slots(
                activity,
                state="_state",
                details="_details",
                timestamps="_timestamps",
                assets="_assets",
                party="_party",
                sync_id="_sync_id",
                session_id="_session_id",
            ),
        }
    if isinstance(activity, CustomActivity):
        emoji = activity.emoji.to_dict() if activity.emoji is not None else None
        return {"type": 4, "emoji": emoji, **_slots(activity, name="name", state="state")}
    # The key application_id tells discord.py an `Activity` from a `Game`.
    return activity.to_dict() | {"application_id": activity.application_id}


def _role(role: discord.Role) -> Payload:
    found = {
        "id": str(role.id),
        "permissions": str(role._permissions),
        "color": role._colour,
        "colors": {"primary_color": role._colour}
        | _slots(role, secondary_color="_secondary_colour", tertiary_color="_tertiary_colour"),
        **_slots(
            role,
            name="name",
            position="position",
            hoist="hoist",
            icon="_icon",
            unicode_emoji="unicode_emoji",
            managed="managed",
            mentionable="mentionable",
            flags="_flags",
        ),
    }
    if role.tags is not None:
        found["tags"] = _role_tags(role.tags)
    return found


def _role_tags(tags: discord.RoleTags) -> Payload:
    flags = {
        "premium_subscriber": tags._premium_subscriber,
        "available_for_purchase": tags._available_for_purchase,
        "guild_connections": tags._guild_connections,
    }
    named = _slots(
        tags, bot_id="bot_id", integration_id="integration_id", subscription_listing_id="subscription_listing_id"
    )
    return named | {key: None for key, is_set in flags.items() if is_set}  # null means that it is set


def _emoji(emoji: discord.Emoji) -> Payload:
    return {
        "id": str(emoji.id),
        "roles": [str(role) for role in emoji._roles],
        "user": _user(emoji.user) if emoji.user is not None else None,
        **_slots(
            emoji,
            name="name",
            require_colons="require_colons",
            managed="managed",
            animated="animated",
            available="available",
        ),
    }


def _sticker(sticker: discord.GuildSticker) -> Payload:
    return {
        "id": str(sticker.id),
        "guild_id": str(sticker.guild_id),
        "type": 2,
        "user": _user(sticker.user) if sticker.user is not None else None,
        **_slots(
            sticker, name="name", description="description", format_type="format", available="available", tags="emoji"
        ),
    }


_CHANNEL = {
    "name": "name",
    "parent_id": "category_id",
    "topic": "topic",
    "position": "position",
    "nsfw": "nsfw",
    "rate_limit_per_user": "slowmode_delay",
    "last_message_id": "last_message_id",
    "default_auto_archive_duration": "default_auto_archive_duration",
    "default_thread_rate_limit_per_user": "default_thread_slowmode_delay",
    "rtc_region": "rtc_region",
    "video_quality_mode": "video_quality_mode",
    "bitrate": "bitrate",
    "user_limit": "user_limit",
    "default_forum_layout": "default_layout",
    "default_sort_order": "default_sort_order",
    "flags": "_flags",
}
"""Keys of channels of all kinds, and their slots: a kind that has no such slot has no such key."""


def _channel(channel: discord.abc.GuildChannel) -> Payload:
    found = {
        "id": str(channel.id),
        "type": channel.type.value,
        "permission_overwrites": [
            {"id": str(one.id), "type": one.type, "allow": str(one.allow), "deny": str(one.deny)}
            for one in channel._overwrites
        ],
        **_slots(channel, **_CHANNEL),
    }
    if isinstance(channel, discord.ForumChannel):
        emoji = channel.default_reaction_emoji
        found["available_tags"] = [_forum_tag(tag) for tag in channel._available_tags.values()]
        found["default_reaction_emoji"] = None if emoji is None else _named(emoji)
    return found


def _forum_tag(tag: discord.ForumTag) -> Payload:
    return {"id": str(tag.id), "name": tag.name, "moderated": tag.moderated, **_named(tag.emoji)}


def _named(emoji: discord.PartialEmoji | None) -> Payload:
    """Return an emoji where Discord writes two keys instead of an object."""
    if emoji is None:
        return {"emoji_id": None, "emoji_name": None}
    return {"emoji_id": _text(emoji.id), "emoji_name": emoji.name}


def _thread(thread: discord.Thread) -> Payload:
    found = {
        "id": str(thread.id),
        "guild_id": str(thread.guild.id),
        "type": thread._type.value,
        "applied_tags": [str(tag) for tag in thread._applied_tags],
        "thread_metadata": _slots(
            thread,
            archived="archived",
            archiver_id="archiver_id",
            auto_archive_duration="auto_archive_duration",
            archive_timestamp="archive_timestamp",
            locked="locked",
            invitable="invitable",
            create_timestamp="_created_at",
        ),
        **_slots(
            thread,
            name="name",
            parent_id="parent_id",
            owner_id="owner_id",
            last_message_id="last_message_id",
            rate_limit_per_user="slowmode_delay",
            message_count="message_count",
            member_count="member_count",
            total_message_sent="total_message_sent",
            flags="_flags",
        ),
    }
    if thread.me is not None:
        found["member"] = _thread_member(thread.me)
    return found


def _thread_member(who: discord.ThreadMember) -> Payload:
    return _slots(who, user_id="id", id="thread_id", join_timestamp="joined_at", flags="flags")


def _voice_state(user_id: int, state: discord.VoiceState) -> Payload:
    return {
        "user_id": str(user_id),
        "channel_id": str(state.channel.id) if state.channel is not None else "0",
        **_slots(
            state,
            session_id="session_id",
            self_mute="self_mute",
            self_deaf="self_deaf",
            self_stream="self_stream",
            self_video="self_video",
            mute="mute",
            deaf="deaf",
            suppress="suppress",
            request_to_speak_timestamp="requested_to_speak_at",
        ),
    }


def _stage(stage: discord.StageInstance) -> Payload:
    return {
        "guild_id": str(stage.guild.id),
        **_slots(
            stage,
            id="id",
            channel_id="channel_id",
            topic="topic",
            privacy_level="privacy_level",
            discoverable_disabled="discoverable_disabled",
            guild_scheduled_event_id="scheduled_event_id",
        ),
    }


def _scheduled_event(event: discord.ScheduledEvent) -> Payload:
    return {
        "entity_metadata": {"location": event.location},
        "creator": _user(event.creator) if event.creator is not None else None,
        **_slots(
            event,
            id="id",
            guild_id="guild_id",
            name="name",
            description="description",
            entity_type="entity_type",
            entity_id="entity_id",
            scheduled_start_time="start_time",
            scheduled_end_time="end_time",
            status="status",
            privacy_level="privacy_level",
            image="_cover_image",
            user_count="user_count",
            creator_id="creator_id",
            channel_id="channel_id",
        ),
    }


def _sound(sound: discord.SoundboardSound) -> Payload:
    return {
        "sound_id": str(sound.id),
        "guild_id": str(sound.guild.id),
        **_named(sound.emoji),
        **_slots(sound, volume="volume", name="name", available="available", user_id="_user_id", user="_user"),
    }
