"""The world behind the sandbox: users, guilds, channels, messages, commands, interactions.

Knows what exists and changes it. It sends nothing, records nothing and knows no session: whoever changes the world
tells the gateway. Ids are ints here; payloads (see `sandbox.payloads`) carry them as strings.
"""

from __future__ import annotations

import random
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

from .settings import SandboxSettings
from .snowflake import Snowflakes

Payload: TypeAlias = dict[str, Any]

_FIRST = [
    "ada",
    "bix",
    "cleo",
    "dov",
    "esme",
    "finn",
    "gus",
    "hana",
    "ines",
    "jory",
    "kit",
    "lena",
    "milo",
    "nia",
    "otto",
]
_LAST = [
    "ash",
    "brook",
    "crane",
    "dale",
    "elm",
    "frost",
    "glen",
    "heath",
    "isle",
    "jay",
    "knoll",
    "lark",
    "moss",
    "north",
]
_PLACES = ["harbour", "tavern", "library", "workshop", "garden", "arena", "market", "tower", "cellar", "meadow"]
_TOPICS = ["general", "trading", "decks", "rules", "off-topic", "announcements", "help", "drafts"]

TEXT, DM, VOICE, THREAD = 0, 1, 2, 11
"""Channel types used here."""

_DELETED_KEPT = 50_000


def timestamp(unix: float | None = None) -> str:
    """An ISO 8601 UTC time as Discord writes it; its microseconds are never zero, so it reads back unchanged."""
    moment = datetime.fromtimestamp(time.time() if unix is None else unix, UTC)
    if not moment.microsecond:
        moment = moment.replace(microsecond=1)
    return moment.isoformat()


class UniqueTimes:
    """Gives out timestamps of which no two are the same."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> str:
        """The present moment, or one microsecond after the last one given out."""
        self._last = max(self._last + 1, time.time_ns() // 1000)
        if self._last % 1_000_000 == 0:
            self._last += 1
        seconds, micros = divmod(self._last, 1_000_000)
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros).isoformat()


@dataclass(slots=True, kw_only=True)
class User:
    """A person or the bot."""

    id: int
    name: str
    bot: bool = False
    dm_channel: int | None = None


@dataclass(slots=True, kw_only=True)
class Member:
    """A user in one guild."""

    user: User
    joined_at: str
    nick: str | None = None
    roles: list[int] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class VoiceState:
    """A member in a voice channel. ``session_id`` is another one each time they connect."""

    user_id: int
    channel_id: int
    session_id: str
    self_mute: bool = False


@dataclass(slots=True, kw_only=True)
class Role:
    """A role of a guild. The default role has the guild's id."""

    id: int
    name: str
    position: int
    permissions: int


@dataclass(slots=True, kw_only=True)
class Message:
    """A message as it stands. ``body`` is its payload without reactions, which live beside it."""

    id: int
    channel_id: int
    guild_id: int | None
    author: User
    body: Payload
    kind: str = "message"
    ephemeral: bool = False
    reactions: dict[str, tuple[Payload, dict[int, None]]] = field(default_factory=dict)
    replies: list[int] = field(default_factory=list)

    @property
    def reference_id(self) -> int | None:
        """The message that this one answers."""
        reference = self.body.get("message_reference")
        return int(reference["message_id"]) if reference and reference.get("message_id") else None


@dataclass(slots=True, kw_only=True)
class Channel:
    """A text or voice channel, thread or direct channel, with its newest messages."""

    id: int
    type: int
    name: str = ""
    guild_id: int | None = None
    position: int = 0
    parent_id: int | None = None
    owner_id: int | None = None
    recipient: User | None = None
    messages: OrderedDict[int, Message] = field(default_factory=OrderedDict)
    pins: dict[int, str] = field(default_factory=dict)
    created: str = field(default_factory=timestamp)


@dataclass(slots=True, kw_only=True)
class Guild:
    """A guild with everything in it."""

    id: int
    name: str
    owner_id: int
    joined_at: str
    roles: list[Role] = field(default_factory=list)
    channels: dict[int, Channel] = field(default_factory=dict)
    members: dict[int, Member] = field(default_factory=dict)
    voice: dict[int, VoiceState] = field(default_factory=dict)

    def people(self) -> list[Member]:
        """The members that are no bots."""
        return [member for member in self.members.values() if not member.user.bot]

    def text_channels(self) -> list[Channel]:
        """Text channels, threads left out."""
        return [channel for channel in self.channels.values() if channel.type == TEXT]

    def threads(self) -> list[Channel]:
        """The threads of all text channels."""
        return [channel for channel in self.channels.values() if channel.type == THREAD]

    def voice_channel(self) -> Channel:
        """Its one voice channel."""
        return next(channel for channel in self.channels.values() if channel.type == VOICE)


@dataclass(slots=True, kw_only=True)
class Interaction:
    """An interaction that was sent to the bot, and how far it was answered. Times are monotonic seconds."""

    id: int
    token: str
    kind: str
    created: float
    user: User
    channel_id: int
    guild_id: int | None
    payload: Payload
    message_id: int | None = None
    answered: float | None = None
    answer_type: int | None = None
    answered_by: int = 0
    original_id: int | None = None
    loading: bool = False
    ephemeral: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A button or select on a message of the bot that a user could press."""

    message_id: int
    channel_id: int
    type: int
    custom_id: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenModal:
    """A modal that the bot opened for a user and that was not submitted yet."""

    custom_id: str
    components: tuple[Payload, ...]
    user: User
    channel_id: int
    guild_id: int | None
    message_id: int | None = None


class World:
    """All that exists. Seeded: the same settings give the same guilds, channels, members and ids."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.settings = settings
        self.ids = Snowflakes(settings.clock_offset)
        self.times = UniqueTimes()
        self.random = random.Random(settings.seed)
        self.users: dict[int, User] = {}
        self.guilds: dict[int, Guild] = {}
        self.left: dict[int, Guild] = {}
        self.channels: dict[int, Channel] = {}
        self.former: dict[int, list[User]] = {}
        self.deleted: OrderedDict[int, None] = OrderedDict()
        self.components: OrderedDict[tuple[int, str], Component] = OrderedDict()
        self.modals: list[OpenModal] = []
        self.interactions: OrderedDict[int, Interaction] = OrderedDict()
        self.tokens: dict[str, Interaction] = {}
        self.commands: dict[int | None, dict[int, Payload]] = {None: {}}
        self._names = 0
        self.owner = self._user("owner", seeded=True)
        self.bot = self._user("bastion", bot=True, seeded=True)
        self.application_id = self.bot.id
        for _ in range(settings.guilds):
            self.add_guild(seeded=True)

    # --- users and guilds -------------------------------------------------------------------------------------------

    def _user(self, name: str, *, bot: bool = False, seeded: bool = False) -> User:
        user = User(id=self.ids.seeded() if seeded else self.ids.next(), name=name, bot=bot)
        self.users[user.id] = user
        return user

    def new_person(self, *, seeded: bool = False) -> User:
        """A user that was never seen before."""
        self._names += 1
        name = f"{self.random.choice(_FIRST)}.{self.random.choice(_LAST)}{self._names}"
        return self._user(name, seeded=seeded)

    def add_guild(self, *, seeded: bool = False) -> Guild:
        """A new guild with roles, channels and members, the bot among them."""
        make = self.ids.seeded if seeded else self.ids.next
        joined = self.times.next
        people = [self.new_person(seeded=seeded) for _ in range(self.settings.members_per_guild)]
        name = f"{self.random.choice(_PLACES)} {len(self.guilds) + len(self.left) + 1}"
        number = self.ids.seeded_guild() if seeded else self.ids.next()
        guild = Guild(id=number, name=name, owner_id=people[0].id, joined_at=joined())
        guild.roles = [
            Role(id=guild.id, name="@everyone", position=0, permissions=0x0006_4C40),
            Role(id=make(), name="helpers", position=1, permissions=0x0006_6C40),
            Role(id=make(), name=self.bot.name, position=2, permissions=0x8),
        ]
        for position in range(self.settings.channels_per_guild):
            topic = _TOPICS[position % len(_TOPICS)] + (f"-{position}" if position >= len(_TOPICS) else "")
            self._add_channel(guild, Channel(id=make(), type=TEXT, name=topic, guild_id=guild.id, position=position))
        self._add_channel(guild, Channel(id=make(), type=VOICE, name="lounge", guild_id=guild.id))
        for index, person in enumerate(people):
            roles = [guild.roles[1].id] if index % 5 == 0 else []
            guild.members[person.id] = Member(user=person, joined_at=joined(), roles=roles)
        guild.members[self.bot.id] = Member(user=self.bot, joined_at=joined(), roles=[guild.roles[2].id])
        self.guilds[guild.id] = guild
        return guild

    def _add_channel(self, guild: Guild, channel: Channel) -> None:
        guild.channels[channel.id] = channel
        self.channels[channel.id] = channel

    def leave_guild(self, guild_id: int) -> Guild:
        """The bot is no longer in a guild. Its channels cannot be reached until it is back."""
        guild = self.guilds.pop(guild_id)
        self.left[guild_id] = guild
        for channel_id in guild.channels:
            self.channels.pop(channel_id, None)
        return guild

    def rejoin_guild(self, guild_id: int) -> Guild:
        """The bot is back in a guild it had left."""
        guild = self.left.pop(guild_id)
        guild.joined_at = self.times.next()
        self.guilds[guild_id] = guild
        self.channels.update(guild.channels)
        return guild

    def in_left_guild(self, channel_id: int) -> bool:
        """Whether a channel belongs to a guild that the bot has left."""
        return any(channel_id in guild.channels for guild in self.left.values())

    def join_member(self, guild: Guild, user: User | None = None) -> Member:
        """A user enters a guild: the given one, or somebody new."""
        member = Member(user=user or self.new_person(), joined_at=self.times.next())
        guild.members[member.user.id] = member
        return member

    def leave_member(self, guild: Guild, user_id: int) -> Member:
        """A user leaves a guild and may come back later."""
        member = guild.members.pop(user_id)
        guild.voice.pop(user_id, None)
        self.former.setdefault(guild.id, []).append(member.user)
        return member

    def direct_channel(self, user: User) -> Channel:
        """The direct channel between the bot and a user, made on first use."""
        if user.dm_channel is None:
            channel = Channel(id=self.ids.next(), type=DM, recipient=user)
            self.channels[channel.id] = channel
            user.dm_channel = channel.id
        return self.channels[user.dm_channel]

    def add_thread(self, parent: Channel, name: str, *, owner: User | None = None) -> Channel:
        """A public thread of a text channel, opened by ``owner`` (None: the bot)."""
        thread = Channel(
            id=self.ids.next(),
            type=THREAD,
            name=name,
            guild_id=parent.guild_id,
            parent_id=parent.id,
            owner_id=(owner or self.bot).id,
        )
        guild = self.guild_of(parent)
        if guild is not None:
            guild.channels[thread.id] = thread
        self.channels[thread.id] = thread
        return thread

    def remove_channel(self, channel: Channel) -> None:
        """A channel or thread is deleted, with its messages."""
        self.channels.pop(channel.id, None)
        guild = self.guild_of(channel)
        if guild is not None:
            guild.channels.pop(channel.id, None)
        for message in channel.messages:
            self._forget_components(message)

    def guild_of(self, channel: Channel) -> Guild | None:
        """The guild of a channel, None for a direct channel or a guild that was left."""
        return self.guilds.get(channel.guild_id) if channel.guild_id is not None else None

    # --- messages ---------------------------------------------------------------------------------------------------

    def add_message(self, channel: Channel, message: Message) -> None:
        """Keep a message; the channel's oldest is forgotten when there are too many."""
        channel.messages[message.id] = message
        for row in message.body.get("components") or []:
            self._note_components(message, row)
        reference = message.reference_id
        if reference is not None and reference in channel.messages:
            channel.messages[reference].replies.append(message.id)
        while len(channel.messages) > self.settings.messages_per_channel:
            channel.messages.popitem(last=False)

    def refresh_components(self, message: Message) -> None:
        """Note anew what can be pressed on a message that was edited."""
        self._forget_components(message.id)
        for row in message.body.get("components") or []:
            self._note_components(message, row)

    def _note_components(self, message: Message, part: Payload) -> None:
        for child in [*part.get("components", []), *([part["accessory"]] if "accessory" in part else [])]:
            self._note_components(message, child)
        custom_id = part.get("custom_id")
        if custom_id is None or part.get("disabled") or not message.author.bot:
            return
        options = tuple(option["value"] for option in part.get("options") or [])
        component = Component(
            message_id=message.id,
            channel_id=message.channel_id,
            type=part["type"],
            custom_id=custom_id,
            options=options,
        )
        self.components[(message.id, custom_id)] = component
        while len(self.components) > self.settings.messages_per_channel:
            self.components.popitem(last=False)

    def _forget_components(self, message_id: int) -> None:
        for key in [key for key in self.components if key[0] == message_id]:
            del self.components[key]

    def delete_message(self, channel: Channel, message_id: int) -> Message:
        """Forget a message and remember that it was deleted."""
        message = channel.messages.pop(message_id)
        channel.pins.pop(message_id, None)
        if message.body.get("components"):
            self._forget_components(message_id)
        self.deleted[message_id] = None
        while len(self.deleted) > _DELETED_KEPT:
            self.deleted.popitem(last=False)
        return message

    # --- interactions -----------------------------------------------------------------------------------------------

    def add_interaction(self, interaction: Interaction) -> None:
        """Remember an interaction by id and token, until its token is long dead."""
        self.interactions[interaction.id] = interaction
        self.tokens[interaction.token] = interaction
        horizon = (
            interaction.created - self.settings.interaction_token_seconds - self.settings.first_answer_seconds - 60
        )
        while self.interactions:
            oldest = next(iter(self.interactions.values()))
            if oldest.created > horizon:
                break
            del self.interactions[oldest.id]
            self.tokens.pop(oldest.token, None)

    def new_token(self) -> str:
        """An interaction token that nobody guesses."""
        return secrets.token_urlsafe(48)

    # --- commands ---------------------------------------------------------------------------------------------------

    def put_commands(self, guild_id: int | None, bodies: list[Payload]) -> list[Payload]:
        """Replace all commands of a scope (None: global). A command that keeps its name and type keeps its id."""
        before = {(command["name"], command["type"]): command for command in self.commands.get(guild_id, {}).values()}
        made = [self.make_command(guild_id, body, before) for body in bodies]
        self.commands[guild_id] = {int(command["id"]): command for command in made}
        return made

    def upsert_command(self, guild_id: int | None, body: Payload) -> Payload:
        """Add one command to a scope, or replace the one of that name and type."""
        scope = self.commands.setdefault(guild_id, {})
        before = {(command["name"], command["type"]): command for command in scope.values()}
        command = self.make_command(guild_id, body, before)
        scope[int(command["id"])] = command
        return command

    def make_command(self, guild_id: int | None, body: Payload, before: dict[tuple[str, int], Payload]) -> Payload:
        """A command as Discord would answer it."""
        kind = body.get("type", 1)
        known = before.get((body["name"], kind))
        command: Payload = {
            "description": "",
            "options": [],
            "contexts": None,
            "integration_types": [0],
            "default_member_permissions": None,
            "dm_permission": True,
            "nsfw": False,
            **{key: value for key, value in body.items() if value is not None},
            "type": kind,
            "id": known["id"] if known else str(self.ids.next()),
            "application_id": str(self.application_id),
            "version": str(self.ids.next()),
        }
        if guild_id is not None:
            command["guild_id"] = str(guild_id)
        return command
