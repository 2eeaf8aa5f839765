"""One event at a time: what a person on Discord could do, done to the world, recorded, and sent to the sessions.

Knows how each kind changes the world, its journal key and its dispatch. It knows no rate and no mix
(`sandbox.traffic`), and nothing of what the bot does in return (`sandbox.rest`).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

from . import payloads
from .events import Event
from .gateway import Gateway
from .journal import Entry, Journal
from .settings import SandboxSettings
from .world import (
    Channel,
    Component,
    Guild,
    Interaction,
    Member,
    Message,
    OpenModal,
    Payload,
    User,
    VoiceState,
    World,
)

EMOJIS = ("👍", "🎉", "❤️", "🔥", "👀")
"""Emojis that reactions use."""

_SLASH, _COMPONENT, _AUTOCOMPLETE, _MODAL = 2, 3, 4, 5
_ADMINISTRATOR = "8"


class EmitError(LookupError):
    """The event cannot be emitted: what it is about does not exist. The message says what."""


class Emitter:
    """Emits single events. Guilds, channels, authors and messages are named by id; left out, one is drawn by the seed.

    Every method returns the journal entry of what it emitted.

    Raises (every method):
        EmitError: the named guild, channel, member, message or command does not exist.
    """

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.world = World(settings)
        self.gateway = Gateway(settings, self.world)
        self.journal = Journal()
        self._nicks = 0
        self._threads = 0
        self._typing: dict[tuple[int, int], int] = {}

    # --- who and where ----------------------------------------------------------------------------------------------

    def _place(self, guild: int | None, channel: int | None) -> tuple[Guild, Channel]:
        world = self.world
        if channel is not None:
            found = world.channels.get(channel)
            home = world.guild_of(found) if found is not None else None
            if found is None or home is None:
                raise EmitError(f"no guild channel {channel}")
            return home, found
        home = self._guild(guild)
        channels = home.text_channels()
        if not channels:
            raise EmitError(f"guild {home.id} has no text channel")
        return home, world.random.choice(channels)

    def _guild(self, guild: int | None) -> Guild:
        guilds = self.world.guilds
        if guild is None:
            return self.world.random.choice(list(guilds.values()))
        if guild not in guilds:
            raise EmitError(f"no guild {guild}")
        return guilds[guild]

    def _member(self, guild: Guild, user: int | None) -> Member:
        if user is None:
            return self.world.random.choice(guild.people())
        if user not in guild.members:
            raise EmitError(f"no member {user} in guild {guild.id}")
        return guild.members[user]

    def _message(self, message: int, channel: int | None) -> tuple[Channel, Message]:
        places = [channel] if channel is not None else list(self.world.channels)
        for place in places:
            found = self.world.channels.get(place)
            if found is not None and message in found.messages:
                return found, found.messages[message]
        raise EmitError(f"no message {message}")

    def _record(self, kind: str, key: str, **ids: Any) -> Entry:
        return self.journal.emitted(Entry(kind=kind, key=key, at=time.monotonic(), **ids))

    def _send(self, name: str, data: Payload, entry: Entry, *, private_content: bool = False) -> Entry:
        event = Event(name, data, guild_id=entry.guild_id, entry=entry, private_content=private_content)
        self.gateway.publish(event)
        return entry

    # --- messages ---------------------------------------------------------------------------------------------------

    def emit_message(
        self,
        *,
        guild: int | None = None,
        channel: int | None = None,
        author: int | None = None,
        content: str = "hello",
        kind: str = "message",
        mention_bot: bool = False,
        reply_to: int | None = None,
    ) -> Entry:
        """A member writes a message. ``kind`` is "message" or "command_message" (one that asks the bot something)."""
        home, where = self._place(guild, channel)
        who = self._member(home, author)
        message = self._new_message(where, who.user, content, kind=kind, mention_bot=mention_bot, reply_to=reply_to)
        entry = self._record(
            kind,
            str(message.id),
            guild_id=home.id,
            channel_id=where.id,
            message_id=message.id,
            user_id=who.user.id,
            detail={"content": content},
        )
        data = payloads.message_event(message, self.world)
        return self._send("MESSAGE_CREATE", data, entry, private_content=not mention_bot)

    def emit_direct_message(self, *, author: int | None = None, content: str = "hello", kind: str = "message") -> Entry:
        """A user writes to the bot directly. Only shard 0 hears it."""
        who = self.world.users.get(author) if author is not None else self._member(self._guild(None), None).user
        if who is None or who.bot:
            raise EmitError(f"no user {author}")
        where = self.world.direct_channel(who)
        message = self._new_message(where, who, content, kind=kind)
        entry = self._record(
            kind,
            str(message.id),
            channel_id=where.id,
            message_id=message.id,
            user_id=who.id,
            detail={"content": content},
        )
        return self._send("MESSAGE_CREATE", payloads.message_event(message, self.world), entry)

    def _new_message(
        self,
        where: Channel,
        who: User,
        content: str,
        *,
        kind: str,
        mention_bot: bool = False,
        reply_to: int | None = None,
    ) -> Message:
        number = self.world.ids.next()
        extra: Payload = {"mentions": [payloads.user(self.world.bot)]} if mention_bot else {}
        if reply_to is not None:
            asked = self._message(reply_to, where.id)[1]
            extra["type"] = 19
            extra["message_reference"] = {"type": 0, "message_id": str(reply_to), "channel_id": str(where.id)}
            extra["referenced_message"] = payloads.message(asked)
        stamp = self.world.times.next()
        body = payloads.message_body(
            message_id=number, channel_id=where.id, author=who, content=content, timestamp=stamp, **extra
        )
        message = Message(id=number, channel_id=where.id, guild_id=where.guild_id, author=who, body=body, kind=kind)
        self.world.add_message(where, message)
        return message

    def emit_edit(self, *, message: int, channel: int | None = None, content: str | None = None) -> Entry:
        """A message's author edits it. Key: ``<message>:<edited_timestamp>``."""
        where, found = self._message(message, channel)
        edited = self.world.times.next()
        found.body = found.body | {
            "content": content if content is not None else f"{found.body['content']} (edited)",
            "edited_timestamp": edited,
        }
        entry = self._record(
            "edit",
            f"{message}:{edited}",
            guild_id=where.guild_id,
            channel_id=where.id,
            message_id=message,
            user_id=found.author.id,
        )
        data = payloads.message_event(found, self.world)
        return self._send("MESSAGE_UPDATE", data, entry, private_content=not found.author.bot)

    def emit_delete(self, *, message: int, channel: int | None = None) -> Entry:
        """A message is deleted. ``entry.detail["replied"]`` says whether the bot had answered it."""
        where, found = self._message(message, channel)
        replied = any(reply in where.messages for reply in found.replies)
        self.world.delete_message(where, message)
        entry = self._record(
            "delete",
            str(message),
            guild_id=where.guild_id,
            channel_id=where.id,
            message_id=message,
            user_id=found.author.id,
            detail={"replied": replied},
        )
        data = {"id": str(message), "channel_id": str(where.id)}
        if where.guild_id is not None:
            data["guild_id"] = str(where.guild_id)
        return self._send("MESSAGE_DELETE", data, entry)

    # --- reactions and typing ---------------------------------------------------------------------------------------

    def emit_reaction_add(
        self, *, message: int, channel: int | None = None, user: int | None = None, emoji: str | None = None
    ) -> Entry:
        """A member reacts. Key: ``<channel>:<message>:<user>:<emoji>``."""
        where, found, who, name = self._reactor(message, channel, user, emoji)
        found.reactions.setdefault(name, ({"id": None, "name": name}, {}))[1][who.user.id] = None
        data = {"message_author_id": str(found.author.id), "member": payloads.member(who)}
        return self._reaction("add", where, found, who.user, name, data)

    def emit_reaction_remove(
        self, *, message: int, channel: int | None = None, user: int | None = None, emoji: str | None = None
    ) -> Entry:
        """A member takes a reaction back. Key: ``<channel>:<message>:<user>:<emoji>``."""
        where, found, who, name = self._reactor(message, channel, user, emoji)
        if name in found.reactions:
            found.reactions[name][1].pop(who.user.id, None)
            if not found.reactions[name][1]:
                del found.reactions[name]
        return self._reaction("remove", where, found, who.user, name, {})

    def _reactor(
        self, message: int, channel: int | None, user: int | None, emoji: str | None
    ) -> tuple[Channel, Message, Member, str]:
        where, found = self._message(message, channel)
        home = self.world.guild_of(where)
        if home is None:
            raise EmitError(f"message {message} is in no guild")
        return where, found, self._member(home, user), emoji or self.world.random.choice(EMOJIS)

    def _reaction(self, way: str, where: Channel, found: Message, who: User, emoji: str, extra: Payload) -> Entry:
        entry = self._record(
            f"reaction_{way}",
            f"{where.id}:{found.id}:{who.id}:{emoji}",
            guild_id=where.guild_id,
            channel_id=where.id,
            message_id=found.id,
            user_id=who.id,
        )
        data = {
            "user_id": str(who.id),
            "channel_id": str(where.id),
            "message_id": str(found.id),
            "guild_id": str(where.guild_id),
            "emoji": {"id": None, "name": emoji},
            "burst": False,
            "type": 0,
        } | extra
        return self._send(f"MESSAGE_REACTION_{way.upper()}", data, entry)

    def emit_typing(self, *, guild: int | None = None, channel: int | None = None, user: int | None = None) -> Entry:
        """A member types. Key: ``<channel>:<user>:<unix seconds>``; no two share one."""
        home, where = self._place(guild, channel)
        who = self._member(home, user)
        second = max(int(time.time()), self._typing.get((where.id, who.user.id), 0) + 1)
        self._typing[(where.id, who.user.id)] = second
        entry = self._record(
            "typing",
            f"{where.id}:{who.user.id}:{second}",
            guild_id=home.id,
            channel_id=where.id,
            user_id=who.user.id,
        )
        data = {
            "channel_id": str(where.id),
            "guild_id": str(home.id),
            "user_id": str(who.user.id),
            "timestamp": second,
            "member": payloads.member(who),
        }
        return self._send("TYPING_START", data, entry)

    # --- members and guilds -----------------------------------------------------------------------------------------

    def emit_member_join(self, *, guild: int | None = None, user: int | None = None) -> Entry:
        """A user joins a guild: the given one, or somebody new. Key: ``<guild>:<user>:<joined_at>``."""
        home = self._guild(guild)
        who = self.world.users.get(user) if user is not None else None
        if user is not None and (who is None or user in home.members):
            raise EmitError(f"no user {user} who could join guild {home.id}")
        member = self.world.join_member(home, who)
        key = f"{home.id}:{member.user.id}:{member.joined_at}"
        entry = self._record("member_join", key, guild_id=home.id, user_id=member.user.id)
        return self._send("GUILD_MEMBER_ADD", payloads.member(member) | {"guild_id": str(home.id)}, entry)

    def emit_member_leave(self, *, guild: int | None = None, user: int | None = None) -> Entry:
        """A member leaves, and their voice channel before. Key: ``<guild>:<user>``. The owner and the bot stay."""
        home = self._guild(guild)
        candidates = [one.user.id for one in home.people() if one.user.id != home.owner_id]
        if not candidates or (user is not None and user not in candidates):
            raise EmitError(f"no member {user if user is not None else ''} who could leave guild {home.id}")
        who = user if user is not None else self.world.random.choice(candidates)
        if who in home.voice:
            self.emit_voice_leave(guild=home.id, user=who)
        member = self.world.leave_member(home, who)
        entry = self._record("member_leave", f"{home.id}:{member.user.id}", guild_id=home.id, user_id=member.user.id)
        data = {"guild_id": str(home.id), "user": payloads.user(member.user)}
        return self._send("GUILD_MEMBER_REMOVE", data, entry)

    def emit_member_update(
        self, *, guild: int | None = None, user: int | None = None, nick: str | None = None
    ) -> Entry:
        """A member takes a new nickname, by default one never used before. Key: ``<guild>:<user>:<nick>``."""
        home = self._guild(guild)
        member = self._member(home, user)
        self._nicks += 1
        member.nick = nick if nick is not None else f"nick-{self._nicks}"
        key = f"{home.id}:{member.user.id}:{member.nick}"
        entry = self._record("member_update", key, guild_id=home.id, user_id=member.user.id)
        return self._send("GUILD_MEMBER_UPDATE", payloads.member(member) | {"guild_id": str(home.id)}, entry)

    # --- voice and threads ------------------------------------------------------------------------------------------

    def emit_voice_join(self, *, guild: int | None = None, user: int | None = None) -> Entry:
        """A member enters the voice channel. Key of all voice kinds: ``<guild>:<user>:<session>``, `_voice`."""
        home = self._guild(guild)
        outside = [one.user.id for one in home.people() if one.user.id not in home.voice]
        who = user if user is not None else self.world.random.choice(outside or [0])
        if who not in outside:
            raise EmitError(f"no member {user if user is not None else ''} outside of the voice of guild {home.id}")
        state = VoiceState(user_id=who, channel_id=home.voice_channel().id, session_id=secrets.token_hex(16))
        home.voice[who] = state
        return self._voice("voice_join", home, state, connected=True)

    def emit_voice_mute(self, *, guild: int | None = None, user: int | None = None) -> Entry:
        """A member in the voice channel, who has not yet, switches their microphone off."""
        home, state = self._speaker(guild, user, lambda one: not one.self_mute)
        state.self_mute = True
        return self._voice("voice_mute", home, state, connected=True)

    def emit_voice_leave(self, *, guild: int | None = None, user: int | None = None) -> Entry:
        """A member leaves the voice channel."""
        home, state = self._speaker(guild, user, lambda one: True)
        del home.voice[state.user_id]
        return self._voice("voice_leave", home, state, connected=False)

    def _speaker(
        self, guild: int | None, user: int | None, fits: Callable[[VoiceState], bool]
    ) -> tuple[Guild, VoiceState]:
        home = self._guild(guild)
        found = [one for one in home.voice.values() if fits(one) and user in (None, one.user_id)]
        if not found:
            raise EmitError(f"nobody like that is in the voice channel of guild {home.id}")
        return home, self.world.random.choice(found)

    def _voice(self, kind: str, home: Guild, state: VoiceState, *, connected: bool) -> Entry:
        key = f"{home.id}:{state.user_id}:{state.session_id}"
        entry = self._record(kind, key, guild_id=home.id, channel_id=state.channel_id, user_id=state.user_id)
        data = payloads.voice_state(state, connected=connected)
        member = payloads.member(home.members[state.user_id])
        return self._send("VOICE_STATE_UPDATE", data | {"guild_id": str(home.id), "member": member}, entry)

    def emit_thread_create(self, *, guild: int | None = None, channel: int | None = None) -> Entry:
        """A member opens a public thread. Key: ``<thread>``."""
        home, where = self._place(guild, channel)
        self._threads += 1
        owner = self._member(home, None).user
        thread = self.world.add_thread(where, f"thread-{self._threads}", owner=owner)
        entry = self._record("thread_create", str(thread.id), guild_id=home.id, channel_id=where.id, user_id=owner.id)
        return self._send("THREAD_CREATE", payloads.channel(thread) | {"newly_created": True}, entry)

    def emit_thread_update(self, *, guild: int | None = None, thread: int | None = None) -> Entry:
        """A thread gets a name that it never had. Key: ``<thread>:<name>``."""
        found = self._thread(guild, thread)
        self._threads += 1
        found.name = f"thread-{self._threads}"
        key = f"{found.id}:{found.name}"
        entry = self._record("thread_update", key, guild_id=found.guild_id, channel_id=found.parent_id)
        return self._send("THREAD_UPDATE", payloads.channel(found), entry)

    def emit_thread_delete(self, *, guild: int | None = None, thread: int | None = None) -> Entry:
        """A thread is deleted, with its messages. Key: ``<thread>``."""
        found = self._thread(guild, thread)
        self.world.remove_channel(found)
        entry = self._record("thread_delete", str(found.id), guild_id=found.guild_id, channel_id=found.parent_id)
        data = {
            "id": str(found.id),
            "guild_id": str(found.guild_id),
            "parent_id": str(found.parent_id),
            "type": found.type,
        }
        return self._send("THREAD_DELETE", data, entry)

    def _thread(self, guild: int | None, thread: int | None) -> Channel:
        home = self._guild(guild)
        threads = [one for one in home.threads() if thread in (None, one.id)]
        if not threads:
            raise EmitError(f"no thread {thread if thread is not None else ''} in guild {home.id}")
        return self.world.random.choice(threads)

    def emit_guild_join(self, *, guild: int | None = None) -> Entry:
        """The bot is added to a guild: one it had left, or a new one. Key: ``<guild>``."""
        if guild is not None and guild not in self.world.left:
            raise EmitError(f"guild {guild} is none that the bot had left")
        home = self.world.rejoin_guild(guild) if guild is not None else self.world.add_guild()
        entry = self._record("guild_join", str(home.id), guild_id=home.id)
        self.gateway.publish_guild_create(home, entry)
        return entry

    def emit_guild_leave(self, *, guild: int | None = None) -> Entry:
        """The bot is removed from a guild; the last one stays. Key: ``<guild>``."""
        if len(self.world.guilds) < 2:
            raise EmitError("the last guild cannot be left")
        home = self.world.leave_guild(self._guild(guild).id)
        entry = self._record("guild_leave", str(home.id), guild_id=home.id)
        return self._send("GUILD_DELETE", {"id": str(home.id)}, entry)

    # --- interactions -----------------------------------------------------------------------------------------------

    def emit_slash(
        self,
        name: str,
        *,
        options: list[Payload] | None = None,
        guild: int | None = None,
        channel: int | None = None,
        user: int | None = None,
    ) -> Entry:
        """A member runs a slash command. Without ``options`` its required ones are filled in."""
        home, where = self._place(guild, channel)
        command = self.find_command(name, home.id)
        given = options if options is not None else self._fill(command.get("options") or [])
        data = self._command_data(command, given)
        return self._interact("slash", _SLASH, data, home, where, self._member(home, user))

    def emit_autocomplete(
        self,
        name: str,
        *,
        option: str | None = None,
        text: str = "a",
        guild: int | None = None,
        channel: int | None = None,
        user: int | None = None,
    ) -> Entry:
        """A member types into an option of a slash command: the first one with autocomplete, or the one named."""
        home, where = self._place(guild, channel)
        command = self.find_command(name, home.id)
        options = _focus(command.get("options") or [], option, text)
        if not options:
            raise EmitError(f"command {name!r} has no option {option or 'with autocomplete'}")
        data = self._command_data(command, options)
        return self._interact("autocomplete", _AUTOCOMPLETE, data, home, where, self._member(home, user))

    def find_command(self, name: str, guild_id: int | None) -> Payload:
        """A registered slash command by name: the guild's own, else a global one."""
        for scope in (guild_id, None):
            for command in self.world.commands.get(scope, {}).values():
                if command["name"] == name and command["type"] == 1:
                    return command
        raise EmitError(f"no slash command {name!r} is registered for guild {guild_id}")

    def _command_data(self, command: Payload, options: list[Payload]) -> Payload:
        data = {"id": command["id"], "name": command["name"], "type": 1, "options": options}
        if "guild_id" in command:
            data["guild_id"] = command["guild_id"]
        return data

    def _fill(self, options: list[Payload]) -> list[Payload]:
        """Values for the required options; of subcommands, one is drawn."""
        branches = [option for option in options if option["type"] in (1, 2)]
        if branches:
            branch = self.world.random.choice(branches)
            inner = self._fill(branch.get("options") or [])
            return [{"name": branch["name"], "type": branch["type"], "options": inner}]
        return [
            {"name": option["name"], "type": option["type"], "value": self._value(option)}
            for option in options
            if option.get("required")
        ]

    def _value(self, option: Payload) -> Any:
        choices = option.get("choices")
        if choices:
            return self.world.random.choice(choices)["value"]
        kind = option["type"]
        if kind in (4, 10):
            return option.get("min_value", 1)
        if kind == 5:
            return True
        if kind == 3:
            return "bolt".ljust(option.get("min_length") or 0, "!")[: option.get("max_length") or 100]
        raise EmitError(f"option {option['name']!r} of type {kind} cannot be filled in; give the options")

    def emit_component(
        self,
        component: Component | None = None,
        *,
        message: int | None = None,
        custom_id: str | None = None,
        values: list[str] | None = None,
        user: int | None = None,
    ) -> Entry:
        """A member presses a button or picks from a select on a message of the bot. Kind "button" or "select"."""
        found = component or self._component(message, custom_id)
        where, target = self._message(found.message_id, found.channel_id)
        home = self.world.guild_of(where)
        if home is None:
            raise EmitError(f"message {found.message_id} is in no guild")
        data: Payload = {"custom_id": found.custom_id, "component_type": found.type}
        member = self._member(home, user)
        if found.type != 2:
            data |= self._selection(found, values, home, where)
        kind = "button" if found.type == 2 else "select"
        return self._interact(kind, _COMPONENT, data, home, where, member, message=target)

    def emit_button(self, *, message: int, custom_id: str | None = None, user: int | None = None) -> Entry:
        """A member presses a button of the bot's message: the first one, or the one named."""
        return self.emit_component(self._component(message, custom_id, button=True), user=user)

    def emit_select(
        self, *, message: int, custom_id: str | None = None, values: list[str] | None = None, user: int | None = None
    ) -> Entry:
        """A member picks from a select of the bot's message: the first one, or the one named."""
        return self.emit_component(self._component(message, custom_id, button=False), values=values, user=user)

    def _component(self, message: int | None, custom_id: str | None, *, button: bool | None = None) -> Component:
        for component in self.world.components.values():
            fits = button is None or (component.type == 2) is button
            if component.message_id == message and custom_id in (None, component.custom_id) and fits:
                return component
        raise EmitError(f"message {message} has no component {custom_id if custom_id is not None else ''}")

    def _selection(self, component: Component, values: list[str] | None, home: Guild, where: Channel) -> Payload:
        if component.type == 3:
            return {"values": values or [self.world.random.choice(component.options)]}
        if component.type == 8:
            picked = values or [str(where.id)]
            channels = {one: payloads.channel(self.world.channels[int(one)]) | {"permissions": "8"} for one in picked}
            return {"values": picked, "resolved": {"channels": channels}}
        if component.type == 6:
            picked = values or [str(home.roles[1].id)]
            return {"values": picked, "resolved": {"roles": {str(one.id): payloads.role(one) for one in home.roles}}}
        picked = values or [str(self._member(home, None).user.id)]
        members = {one: home.members[int(one)] for one in picked}
        resolved = {
            "users": {one: payloads.user(who.user) for one, who in members.items()},
            "members": {
                one: payloads.member(who, with_user=False) | {"permissions": _ADMINISTRATOR}
                for one, who in members.items()
            },
        }
        return {"values": picked, "resolved": resolved}

    def emit_modal(
        self, modal: OpenModal | None = None, *, custom_id: str | None = None, values: dict[str, str] | None = None
    ) -> Entry:
        """A user submits a modal that the bot had opened: the given one, the one of that custom_id, or the oldest."""
        found = modal or next((one for one in self.world.modals if custom_id in (None, one.custom_id)), None)
        if found is None or found not in self.world.modals:
            raise EmitError(f"the bot has opened no modal {custom_id if custom_id is not None else ''}")
        self.world.modals.remove(found)
        where = self.world.channels.get(found.channel_id)
        home = self.world.guild_of(where) if where is not None else None
        if where is None or home is None or found.user.id not in home.members:
            raise EmitError(f"the user or the channel of modal {found.custom_id!r} is gone")
        data = {"custom_id": found.custom_id, "components": _submitted(found.components, values or {})}
        target = where.messages.get(found.message_id) if found.message_id is not None else None
        member = home.members[found.user.id]
        return self._interact("modal", _MODAL, data, home, where, member, message=target)

    def _interact(
        self,
        kind: str,
        number: int,
        data: Payload,
        home: Guild,
        where: Channel,
        who: Member,
        *,
        message: Message | None = None,
    ) -> Entry:
        world = self.world
        token = world.new_token()
        payload = self._interaction_payload(number, token, data, home, where, who)
        if message is not None:
            payload["message"] = payloads.message(message, viewer=world.bot)
        interaction_id = int(payload["id"])
        entry = self._record(
            kind,
            payload["id"],
            guild_id=home.id,
            channel_id=where.id,
            message_id=message.id if message is not None else None,
            user_id=who.user.id,
            interaction_id=interaction_id,
            detail={"token": token, "name": data.get("name") or data.get("custom_id")},
        )
        interaction = Interaction(
            id=interaction_id,
            token=token,
            kind=kind,
            created=entry.at,
            user=who.user,
            channel_id=where.id,
            guild_id=home.id,
            payload=payload,
            message_id=entry.message_id,
        )
        world.add_interaction(interaction)
        return self._send("INTERACTION_CREATE", payload, entry)

    def _interaction_payload(
        self, number: int, token: str, data: Payload, home: Guild, where: Channel, who: Member
    ) -> Payload:
        return {
            "id": str(self.world.ids.next()),
            "application_id": str(self.world.application_id),
            "type": number,
            "token": token,
            "version": 1,
            "data": data,
            "guild_id": str(home.id),
            "guild": {"id": str(home.id), "locale": "en-US", "features": []},
            "channel_id": str(where.id),
            "channel": payloads.channel(where) | {"permissions": _ADMINISTRATOR},
            "member": payloads.member(who) | {"permissions": _ADMINISTRATOR},
            "locale": "en-US",
            "guild_locale": "en-US",
            "app_permissions": _ADMINISTRATOR,
            "entitlements": [],
            "entitlement_sku_ids": [],
            "authorizing_integration_owners": {"0": str(home.id)},
            "context": 0,
            "attachment_size_limit": 10_485_760,
        }


def _focus(options: list[Payload], name: str | None, text: str) -> list[Payload]:
    """The options of an autocomplete: the wanted one focused, inside its subcommands."""
    for option in options:
        if option["type"] in (1, 2):
            inner = _focus(option.get("options") or [], name, text)
            if inner:
                return [{"name": option["name"], "type": option["type"], "options": inner}]
        elif option.get("autocomplete") and name in (None, option["name"]):
            return [{"name": option["name"], "type": option["type"], "value": text, "focused": True}]
    return []


def _submitted(components: tuple[Payload, ...], values: dict[str, str]) -> list[Payload]:
    """A modal's components as they come back: every field with a value."""
    result: list[Payload] = []
    for component in components:
        kind = component["type"]
        if kind == 1:
            result.append({"type": 1, "components": _submitted(tuple(component["components"]), values)})
        elif kind == 18:
            result.append({"type": 18, "component": _submitted((component["component"],), values)[0]})
        elif kind == 4:
            custom_id = component["custom_id"]
            text = values.get(custom_id, component.get("value") or "text")
            result.append({"type": 4, "custom_id": custom_id, "value": text})
        elif kind == 3:
            chosen = values.get(component["custom_id"], component["options"][0]["value"])
            result.append({"type": 3, "custom_id": component["custom_id"], "values": [chosen]})
    return result
