"""Traffic: events of many kinds at a rate, by a seeded draw.

Knows rates, mixes and how to find something that a kind can happen to. What a kind does is `sandbox.emitter`'s.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from .emitter import EMOJIS, EmitError, Emitter
from .journal import Entry
from .settings import MAX_RATE, MAX_SECONDS
from .world import Channel, Component, Message, Payload

Spacing: TypeAlias = Literal["poisson", "even"]

DEFAULT_MIX: dict[str, float] = {
    "message": 20,
    "command_message": 20,
    "slash": 15,
    "autocomplete": 5,
    "button": 10,
    "select": 3,
    "modal": 2,
    "reaction_add": 8,
    "reaction_remove": 4,
    "toggle": 2,
    "edit": 4,
    "delete": 2,
    "typing": 3,
    "member_join": 0.5,
    "member_leave": 0.5,
    "member_update": 0.5,
    "guild_join": 0.1,
    "guild_leave": 0.1,
}
"""Weights when no mix is given: a lively bot."""

_LOOK_BACK = 200
_TOGGLE_GAP = 0.2
_CHANGE_GAP = 2.0
_MIN_PEOPLE = 3


class TrafficError(ValueError):
    """A rate, a duration, a mix or a spacing that is not allowed. The message says what is."""


@dataclass(slots=True, kw_only=True)
class TrafficOptions:
    """What traffic talks about. May be changed while it runs.

    ``commands`` are contents of command messages; ``slash`` and ``autocomplete`` limit the commands used (empty: all
    registered ones); ``components``, (message id, custom_id) pairs, and ``modals``, custom_ids, limit what is used of
    what the bot has on offer.
    """

    commands: Sequence[str] = ("<lightning bolt>", "<counterspell>")
    chatter: Sequence[str] = ("hello there", "good game", "anyone up for a draft?", "brb", "that was close")
    slash: Sequence[str] = ()
    autocomplete: Sequence[str] = ()
    texts: Sequence[str] = ("a", "li", "cou", "st")
    components: Sequence[tuple[int, str]] = ()
    modals: Sequence[str] = ()


@dataclass(slots=True)
class TrafficReport:
    """What a run has emitted, by kind, and how often a kind had nothing to happen to and another took its turn."""

    emitted: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """Events emitted; a toggle counts as three."""
        return self.emitted.total()


class Traffic:
    """Emits traffic. One run at a time."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter
        self._world = emitter.world
        self._random = random.Random(f"{emitter.settings.seed}/traffic")
        self.options = TrafficOptions()
        self._task: asyncio.Task[TrafficReport] | None = None
        self._toggles: set[asyncio.Task[None]] = set()
        self._toggling: set[str] = set()
        self._changed: dict[tuple[int, int], float] = {}
        self.report = TrafficReport()
        self._makers: dict[str, Callable[[], Entry | None]] = {
            "message": self._message,
            "command_message": self._command_message,
            "slash": self._slash,
            "autocomplete": self._autocomplete,
            "button": lambda: self._component(button=True),
            "select": lambda: self._component(button=False),
            "modal": self._modal,
            "reaction_add": self._reaction_add,
            "reaction_remove": self._reaction_remove,
            "toggle": self._toggle,
            "edit": self._edit,
            "delete": self._delete,
            "typing": lambda: self._emitter.emit_typing(),
            "member_join": self._member_join,
            "member_leave": self._member_leave,
            "member_update": self._member_update,
            "direct_message": lambda: self._emitter.emit_direct_message(content=self._chatter()),
            "voice": self._voice,
            "thread": self._thread,
            "guild_join": self._guild_join,
            "guild_leave": self._guild_leave,
        }

    @property
    def kinds(self) -> tuple[str, ...]:
        """What a mix may name."""
        return tuple(self._makers)

    @property
    def running(self) -> bool:
        """Whether traffic flows."""
        return self._task is not None and not self._task.done()

    # --- runs -------------------------------------------------------------------------------------------------------

    async def run(
        self,
        *,
        rate: float,
        seconds: float,
        mix: Mapping[str, float] | None = None,
        spacing: Spacing = "poisson",
    ) -> TrafficReport:
        """Emit ``rate`` events per second for ``seconds``; returns when the last one is out.

        Raises:
            TrafficError: a value out of bounds, an unknown kind, or traffic flows already.
        """
        self.start(rate=rate, seconds=seconds, mix=mix, spacing=spacing)
        return await self.finished()

    def start(
        self,
        *,
        rate: float,
        seconds: float = MAX_SECONDS,
        mix: Mapping[str, float] | None = None,
        spacing: Spacing = "poisson",
    ) -> None:
        """Begin to emit and return at once; end it with `stop`. Raises as `run` does."""
        if self.running:
            raise TrafficError("traffic flows already; stop it first")
        weights = self._check(rate, seconds, DEFAULT_MIX if mix is None else mix, spacing)
        self.report = TrafficReport()
        self._task = asyncio.create_task(self._flow(rate, seconds, weights, spacing), name="sandbox traffic")

    async def stop(self) -> TrafficReport:
        """End the traffic; returns what was emitted. Harmless when none flows."""
        task = self._task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task})
        await self._end_toggles()
        return self.report

    async def finished(self) -> TrafficReport:
        """Wait until the run that was started is over."""
        task = self._task
        if task is not None:
            try:
                await task
            except asyncio.CancelledError:
                if not task.cancelled():
                    task.cancel()
                    raise
            await self._end_toggles()
        return self.report

    async def _end_toggles(self) -> None:
        while self._toggles:
            await asyncio.wait(self._toggles)

    def _check(self, rate: float, seconds: float, mix: Mapping[str, float], spacing: str) -> dict[str, float]:
        if not 0 < rate <= MAX_RATE:
            raise TrafficError(f"rate must be above 0 and at most {MAX_RATE:.0f} events/s, not {rate!r}")
        if not 0 < seconds <= MAX_SECONDS:
            raise TrafficError(f"seconds must be above 0 and at most {MAX_SECONDS:.0f}, not {seconds!r}")
        if spacing not in ("poisson", "even"):
            raise TrafficError(f"spacing must be 'poisson' or 'even', not {spacing!r}")
        unknown = set(mix) - set(self._makers)
        if unknown:
            raise TrafficError(
                f"unknown kinds in mix: {', '.join(sorted(unknown))}; known are: {', '.join(self._makers)}"
            )
        weights = {kind: float(weight) for kind, weight in mix.items() if weight > 0}
        if not weights or any(weight < 0 for weight in mix.values()):
            raise TrafficError("a mix needs weights of 0 or more, and one above 0")
        return weights

    async def _flow(self, rate: float, seconds: float, weights: dict[str, float], spacing: Spacing) -> TrafficReport:
        kinds, shares = list(weights), list(weights.values())
        started = due = time.monotonic()
        end = started + seconds
        while True:
            due += self._random.expovariate(rate) if spacing == "poisson" else 1 / rate
            if due > end:
                break
            # Also when the rate is more than this machine can do: the sandbox must go on serving, and be stoppable.
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._emit(kinds, shares)
            self.report.seconds = time.monotonic() - started
        await asyncio.sleep(max(0.0, end - time.monotonic()))
        return self.report

    def _emit(self, kinds: list[str], shares: list[float]) -> None:
        """Emit one event. Where the drawn kind has nothing to happen to, another of the mix takes its turn."""
        kinds, shares = list(kinds), list(shares)
        while kinds:
            kind = self._random.choices(kinds, shares)[0]
            try:
                entry = self._makers[kind]()
            except EmitError:
                entry = None
            if entry is not None:
                self.report.emitted[kind] += 1
                return
            self.report.skipped[kind] += 1
            index = kinds.index(kind)
            del kinds[index], shares[index]

    # --- finding something to happen to -----------------------------------------------------------------------------

    def _message(self) -> Entry:
        return self._emitter.emit_message(content=self._chatter())

    def _chatter(self) -> str:
        return self._random.choice(self.options.chatter)

    def _command_message(self) -> Entry:
        return self._emitter.emit_message(content=self._random.choice(self.options.commands), kind="command_message")

    def _slash(self) -> Entry | None:
        found = self._command(self.options.slash, lambda command: True)
        return self._emitter.emit_slash(found[1], guild=found[0]) if found is not None else None

    def _autocomplete(self) -> Entry | None:
        found = self._command(self.options.autocomplete, _completes)
        if found is None:
            return None
        text = self._random.choice(self.options.texts)
        return self._emitter.emit_autocomplete(found[1], text=text, guild=found[0])

    def _command(self, wanted: Sequence[str], fits: Callable[[Payload], bool]) -> tuple[int, str] | None:
        """A guild drawn at random and a slash command that is registered for it, globally or there."""
        guild = self._random.choice(list(self._world.guilds))
        names = [
            command["name"]
            for scope in (None, guild)
            for command in self._world.commands.get(scope, {}).values()
            if command["type"] == 1 and (not wanted or command["name"] in wanted) and fits(command)
        ]
        return (guild, self._random.choice(names)) if names else None

    def _component(self, *, button: bool) -> Entry | None:
        pairs = set(self.options.components)
        found: list[Component] = []
        for key, component in reversed(self._world.components.items()):
            channel = self._world.channels.get(component.channel_id)
            there = channel is not None and channel.guild_id is not None and component.message_id in channel.messages
            if (component.type == 2) is button and there and (not pairs or key in pairs):
                found.append(component)
            if len(found) >= _LOOK_BACK:
                break
        return self._emitter.emit_component(self._random.choice(found)) if found else None

    def _modal(self) -> Entry | None:
        names = self.options.modals
        opened = [modal for modal in self._world.modals if not names or modal.custom_id in names]
        return self._emitter.emit_modal(opened[0]) if opened else None

    def _recent(self, fits: Callable[[Message], bool]) -> tuple[Channel, Message] | None:
        """A recent guild message that fits, in a channel drawn at random; another channel is tried if there is none."""
        channels = [one for one in self._world.channels.values() if one.guild_id is not None and one.messages]
        for channel in self._random.sample(channels, min(len(channels), 5)):
            recent: list[Message] = []
            for message in reversed(channel.messages.values()):
                if len(recent) >= _LOOK_BACK:
                    break
                if not message.ephemeral and fits(message):
                    recent.append(message)
            if recent:
                return channel, self._random.choice(recent)
        return None

    def _reaction_add(self) -> Entry | None:
        found = self._recent(lambda message: True)
        if found is None:
            return None
        channel, message = found
        emoji = self._random.choice(EMOJIS)
        home = self._world.guild_of(channel)
        users = message.reactions.get(emoji, ({}, {}))[1]
        busy = {key for key in self._toggling if key.startswith(f"{channel.id}:{message.id}:")}
        free = [
            one.user.id
            for one in (home.people() if home is not None else [])
            if one.user.id not in users and f"{channel.id}:{message.id}:{one.user.id}:{emoji}" not in busy
        ]
        if not free:
            return None
        return self._emitter.emit_reaction_add(
            message=message.id, channel=channel.id, user=self._random.choice(free), emoji=emoji
        )

    def _reaction_remove(self) -> Entry | None:
        found = self._recent(lambda message: bool(message.reactions))
        if found is None:
            return None
        channel, message = found
        home = self._world.guild_of(channel)
        emoji = self._random.choice(list(message.reactions))
        users = message.reactions[emoji][1]
        there = [
            one
            for one in users
            if home is not None
            and one in home.members
            and one != self._world.bot.id
            and f"{channel.id}:{message.id}:{one}:{emoji}" not in self._toggling
        ]
        if not there:
            return None
        return self._emitter.emit_reaction_remove(
            message=message.id, channel=channel.id, user=self._random.choice(there), emoji=emoji
        )

    def _toggle(self) -> Entry | None:
        """React, take it back, react again: the same user and emoji, with small gaps, often none."""
        entry = self._reaction_add()
        if entry is None or entry.message_id is None or entry.user_id is None:
            return None
        task = asyncio.create_task(self._finish_toggle(entry), name="sandbox toggle")
        self._toggles.add(task)
        self._toggling.add(entry.key)
        task.add_done_callback(self._toggles.discard)
        task.add_done_callback(lambda done: self._toggling.discard(entry.key))
        return entry

    async def _finish_toggle(self, entry: Entry) -> None:
        message, channel, user = entry.message_id or 0, entry.channel_id, entry.user_id
        emoji = entry.key.rsplit(":", 1)[1]
        for emit in (self._emitter.emit_reaction_remove, self._emitter.emit_reaction_add):
            gap = self._random.choice((0.0, self._random.uniform(0, _TOGGLE_GAP)))
            if gap:
                await asyncio.sleep(gap)
            try:
                emit(message=message, channel=channel, user=user, emoji=emoji)
            except EmitError:
                return
            self.report.emitted["toggle"] += 1

    def _edit(self) -> Entry | None:
        found = self._recent(lambda message: message.kind == "message" and not message.author.bot)
        return self._emitter.emit_edit(message=found[1].id, channel=found[0].id) if found is not None else None

    def _delete(self) -> Entry | None:
        """Delete a plain message, or a command message that the bot has answered (others may be about to be)."""
        found = self._recent(lambda one: not one.author.bot and (one.kind == "message" or bool(one.replies)))
        return self._emitter.emit_delete(message=found[1].id, channel=found[0].id) if found is not None else None

    def _member_join(self) -> Entry:
        """Somebody new, or one time in three somebody who had left."""
        home = self._random.choice(list(self._world.guilds.values()))
        former = [user for user in self._world.former.get(home.id, []) if user.id not in home.members]
        if former and self._random.random() < 1 / 3:
            return self._emitter.emit_member_join(guild=home.id, user=self._random.choice(former).id)
        return self._emitter.emit_member_join(guild=home.id)

    def _member_leave(self) -> Entry | None:
        homes = [home for home in self._world.guilds.values() if len(home.members) > _MIN_PEOPLE + 1]
        return self._emitter.emit_member_leave(guild=self._random.choice(homes).id) if homes else None

    def _member_update(self) -> Entry | None:
        """A member who had no new nickname just now.

        discord.py gives handlers the cached member itself: after a second update in the same moment both handlers
        would see the newer name.
        """
        home = self._random.choice(list(self._world.guilds.values()))
        who = self._random.choice(home.people()).user.id
        if not self._rarely(home.id, who):
            return None
        return self._emitter.emit_member_update(guild=home.id, user=who)

    def _rarely(self, guild: int, user: int) -> bool:
        """Say whether nothing has happened to a member for a while; from now on something has."""
        now = time.monotonic()
        if now - self._changed.get((guild, user), float("-inf")) < _CHANGE_GAP:
            return False
        self._changed[(guild, user)] = now
        return True

    def _voice(self) -> Entry | None:
        """Somebody enters the voice channel, is muted there, or leaves it; each person once in a while.

        discord.py gives handlers the cached state itself: after a second update in the same moment both handlers would
        see the newer one.
        """
        home = self._random.choice(list(self._world.guilds.values()))
        who = self._random.choice(home.people()).user.id
        if not self._rarely(home.id, who):
            return None
        state = home.voice.get(who)
        if state is None:
            return self._emitter.emit_voice_join(guild=home.id, user=who)
        if state.self_mute or self._random.random() < 0.5:
            return self._emitter.emit_voice_leave(guild=home.id, user=who)
        return self._emitter.emit_voice_mute(guild=home.id, user=who)

    def _thread(self) -> Entry:
        """A thread is opened, renamed or deleted."""
        home = self._random.choice(list(self._world.guilds.values()))
        if not home.threads():
            return self._emitter.emit_thread_create(guild=home.id)
        emitter = self._emitter
        emit = self._random.choice((emitter.emit_thread_create, emitter.emit_thread_update, emitter.emit_thread_delete))
        return emit(guild=home.id)

    def _guild_join(self) -> Entry:
        """A guild that was left before, if there is one, every other time."""
        left = list(self._world.left)
        if left and self._random.random() < 0.5:
            return self._emitter.emit_guild_join(guild=self._random.choice(left))
        return self._emitter.emit_guild_join()

    def _guild_leave(self) -> Entry | None:
        """Leave a guild, but never more than half of the seeded number."""
        if len(self._world.guilds) <= max(1, self._emitter.settings.guilds // 2):
            return None
        return self._emitter.emit_guild_leave()


def _completes(command: Payload) -> bool:
    def any_in(options: Sequence[Payload]) -> bool:
        return any(option.get("autocomplete") or any_in(option.get("options") or []) for option in options)

    return any_in(command.get("options") or [])
