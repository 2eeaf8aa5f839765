"""Discord's JSON shapes of what is in the world.

Knows field names and which of them discord.py 2.7 insists on. It reads the world's objects and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .world import DM, THREAD, VOICE, Channel, Guild, Member, Message, Payload, Role, User, VoiceState, World


def user(who: User) -> Payload:
    """A user object."""
    return {
        "id": str(who.id),
        "username": who.name,
        "global_name": who.name.split(".")[0].title(),
        "discriminator": "0",
        "avatar": None,
        "bot": who.bot,
        "public_flags": 0,
    }


def member(who: Member, *, with_user: bool = True) -> Payload:
    """A member object, without its user where Discord leaves it out (in messages)."""
    body: Payload = {
        "nick": who.nick,
        "avatar": None,
        "roles": [str(role) for role in who.roles],
        "joined_at": who.joined_at,
        "premium_since": None,
        "deaf": False,
        "mute": False,
        "flags": 0,
        "pending": False,
        "communication_disabled_until": None,
    }
    if with_user:
        body["user"] = user(who.user)
    return body


def role(what: Role) -> Payload:
    """A role object."""
    return {
        "id": str(what.id),
        "name": what.name,
        "color": 0,
        "colors": {"primary_color": 0, "secondary_color": None, "tertiary_color": None},
        "hoist": False,
        "icon": None,
        "unicode_emoji": None,
        "position": what.position,
        "permissions": str(what.permissions),
        "managed": what.name == "bastion",
        "mentionable": False,
        "flags": 0,
    }


def channel(what: Channel, *, self_user: User | None = None) -> Payload:
    """A channel object: text, voice, thread or direct."""
    last = next(reversed(what.messages), None)
    body: Payload = {
        "id": str(what.id),
        "type": what.type,
        "last_message_id": str(last) if last is not None else None,
        "flags": 0,
    }
    if what.type == DM:
        body["recipients"] = [user(what.recipient)] if what.recipient is not None else []
        return body
    body |= {"guild_id": str(what.guild_id), "name": what.name, "parent_id": None, "rate_limit_per_user": 0}
    if what.type == THREAD:
        body |= _thread_fields(what)
        if self_user is not None:
            body["member"] = {
                "id": str(what.id),
                "user_id": str(self_user.id),
                "join_timestamp": what.created,
                "flags": 1,
            }
        return body
    body |= {"position": what.position, "permission_overwrites": [], "nsfw": False}
    if what.type == VOICE:
        return body | {"bitrate": 64_000, "user_limit": 0, "rtc_region": None, "video_quality_mode": 1}
    return body | {"topic": None}


def _thread_fields(what: Channel) -> Payload:
    return {
        "parent_id": str(what.parent_id),
        "owner_id": str(what.owner_id),
        "member_count": 1,
        "message_count": len(what.messages),
        "total_message_sent": len(what.messages),
        "thread_metadata": {
            "archived": False,
            "auto_archive_duration": 1440,
            "archive_timestamp": what.created,
            "locked": False,
            "create_timestamp": what.created,
        },
    }


def guild(what: Guild) -> Payload:
    """A guild object as REST gives it."""
    return {
        "id": str(what.id),
        "name": what.name,
        "icon": None,
        "splash": None,
        "discovery_splash": None,
        "owner_id": str(what.owner_id),
        "region": "local",
        "afk_channel_id": None,
        "afk_timeout": 300,
        "verification_level": 0,
        "default_message_notifications": 0,
        "explicit_content_filter": 0,
        "roles": [role(item) for item in what.roles],
        "emojis": [],
        "stickers": [],
        "features": [],
        "mfa_level": 0,
        "nsfw_level": 0,
        "application_id": None,
        "system_channel_id": None,
        "system_channel_flags": 0,
        "rules_channel_id": None,
        "public_updates_channel_id": None,
        "vanity_url_code": None,
        "description": None,
        "banner": None,
        "premium_tier": 0,
        "preferred_locale": "en-US",
        "incidents_data": None,
    }


def guild_create(what: Guild, *, bot: User, all_members: bool) -> Payload:
    """The dispatch's extra fields. Members: everybody, or the bot alone when the session lacks the presences intent."""
    body = guild(what)
    members: Iterable[Member] = what.members.values() if all_members else [what.members[bot.id]]
    body |= {
        "joined_at": what.joined_at,
        "large": len(what.members) >= 250,
        "member_count": len(what.members),
        "voice_states": [voice_state(one) for one in what.voice.values()],
        "members": [member(who) for who in members],
        "channels": [channel(item) for item in what.channels.values() if item.type != THREAD],
        "threads": [channel(item, self_user=bot) for item in what.channels.values() if item.type == THREAD],
        "presences": [],
        "stage_instances": [],
        "guild_scheduled_events": [],
        "soundboard_sounds": [],
    }
    return body


def voice_state(what: VoiceState, *, connected: bool = True) -> Payload:
    """A voice state object; ``connected``: whether the member is in the channel still."""
    return {
        "channel_id": str(what.channel_id) if connected else None,
        "user_id": str(what.user_id),
        "session_id": what.session_id,
        "deaf": False,
        "mute": False,
        "self_deaf": False,
        "self_mute": what.self_mute,
        "self_video": False,
        "suppress": False,
        "request_to_speak_timestamp": None,
    }


def message(what: Message, *, viewer: User | None = None) -> Payload:
    """A message object with its reactions. ``viewer`` decides each reaction's ``me``."""
    if not what.reactions:
        return what.body
    me = viewer.id if viewer is not None else 0
    return what.body | {
        "reactions": [
            {
                "emoji": emoji,
                "count": len(users),
                "count_details": {"burst": 0, "normal": len(users)},
                "me": me in users,
                "me_burst": False,
                "burst_colors": [],
            }
            for emoji, users in what.reactions.values()
        ]
    }


def message_event(what: Message, world: World) -> Payload:
    """MESSAGE_CREATE and MESSAGE_UPDATE: the message plus guild and member, which REST leaves out."""
    body = dict(message(what, viewer=world.bot))
    if what.guild_id is not None:
        body["guild_id"] = str(what.guild_id)
        home = world.guilds.get(what.guild_id)
        author = home.members.get(what.author.id) if home is not None else None
        if author is not None:
            body["member"] = member(author, with_user=False)
    return body


def message_body(
    *,
    message_id: int,
    channel_id: int,
    author: User,
    content: str,
    timestamp: str,
    **extra: Any,
) -> Payload:
    """A new message's payload; ``extra`` overrides the empty defaults."""
    return {
        "id": str(message_id),
        "channel_id": str(channel_id),
        "author": user(author),
        "content": content,
        "timestamp": timestamp,
        "edited_timestamp": None,
        "tts": False,
        "mention_everyone": False,
        "mentions": [],
        "mention_roles": [],
        "attachments": [],
        "embeds": [],
        "components": [],
        "pinned": False,
        "flags": 0,
        "type": 0,
    } | extra


def application(world: World) -> Payload:
    """What GET /oauth2/applications/@me answers."""
    return {
        "id": str(world.application_id),
        "name": world.bot.name,
        "icon": None,
        "description": "the sandbox's bot",
        "bot_public": False,
        "bot_require_code_grant": False,
        "owner": user(world.owner),
        "team": None,
        "verify_key": "0" * 64,
        "flags": 1 << 19,
        "approximate_guild_count": len(world.guilds),
    }
