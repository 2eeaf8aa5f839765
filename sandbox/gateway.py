"""The gateway's sessions as a whole: who may IDENTIFY, who receives an event, what the client sends back.

Knows sessions, IDENTIFY buckets and the fan-out. Sockets are `sandbox.connection`'s. Events come in through `publish`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from . import payloads
from .events import ALL_INTENTS, GUILDS, MEMBERS, PRESENCES, Event
from .faults import Faults
from .sessions import Session, SessionInfo
from .settings import SandboxSettings
from .snowflake import shard_of
from .world import Guild, Payload, World

if TYPE_CHECKING:
    from .journal import Entry

DAY = 86_400.0
_CHUNK = 1000
_NOT_RESUMABLE = frozenset({1000, 1001, 4004, 4007, 4009, 4010, 4011, 4012, 4013, 4014})
_RECORDS_KEPT = 100_000


class Link(Protocol):
    """What the gateway needs of a connection."""

    def abort(self) -> None:
        """Cut the socket."""

    def close(self, code: int) -> None:
        """Send a close frame."""

    def send_op(self, op: int, data: object = None) -> None:
        """Send a message that is no dispatch, at once."""

    def send_raw(self, data: str | bytes) -> None:
        """Send this as it is, at once."""

    def mute(self) -> None:
        """Neither read nor write any more."""


class GatewayCloseError(Exception):
    """The connection must be closed with this code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifyRecord:
    """One IDENTIFY. ``at`` is monotonic seconds; ``reason`` says why it was refused, empty when it was not."""

    at: float
    shard: int
    num_shards: int
    bucket: int
    violation: bool
    generation: int = 0
    reason: str = ""


class Gateway:
    """All sessions of one sandbox."""

    def __init__(self, settings: SandboxSettings, world: World) -> None:
        self.settings = settings
        self.world = world
        self.faults = Faults(self)
        self.resume_url = ""
        self.identifies: deque[IdentifyRecord] = deque(maxlen=_RECORDS_KEPT)
        self._sessions: dict[str, Session] = {}
        self._links: dict[str, Link] = {}
        self._expiry: dict[str, asyncio.TimerHandle] = {}
        self._routes: dict[int | None, list[Session]] = {}
        self._last_in_bucket: dict[int, float] = {}
        self._day: deque[float] = deque()
        self._member_requests: dict[int, float] = {}
        self.members_at: dict[tuple[int, int], float] = {}
        """When all members of a guild were queued for a session, by its number: it knows none of them before."""
        self._numbers = 0
        self._changed = asyncio.Event()
        self.token_reset = False
        self.published = 0

    # --- asked from outside -----------------------------------------------------------------------------------------

    @property
    def sessions(self) -> list[Session]:
        """Living sessions, oldest first, those without a socket included."""
        return list(self._sessions.values())

    @property
    def violations(self) -> list[IdentifyRecord]:
        """IDENTIFYs that broke a limit."""
        return [record for record in self.identifies if record.violation]

    @property
    def presence(self) -> Payload | None:
        """What people see of the bot: status and activities as a living session set them last. None: offline.

        A session lives on while Discord would still take its RESUME, and so does its presence.
        """
        newest = max(self._sessions.values(), key=lambda session: session.presence_at, default=None)
        return None if newest is None else newest.presence

    def set_presence(self, session: Session, data: Payload) -> None:
        """Op 3: the bot shows itself otherwise from now on."""
        session.set_presence(data)
        self.changed()

    def session_start_limit(self) -> Payload:
        """What GET /gateway/bot says about IDENTIFYs: ``reset_after`` in milliseconds."""
        now = time.monotonic()
        self._forget_yesterday(now)
        reset = DAY - (now - self._day[0]) if self._day else 0.0
        return {
            "total": self.settings.identifies_per_day,
            "remaining": max(0, self.settings.identifies_per_day - len(self._day)),
            "reset_after": round(1000 * reset),
            "max_concurrency": self.settings.max_concurrency,
        }

    async def wait_for(self, condition: Callable[[], bool], *, timeout: float = 10.0) -> None:
        """Wait until a condition over the sessions holds; it is tried after each change of a session.

        Raises:
            TimeoutError: it does not hold after ``timeout`` seconds.
        """
        async with asyncio.timeout(timeout):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def wait_ready(self, sessions: int, *, timeout: float = 10.0) -> None:
        """Wait until that many sessions are ready and connected."""

        def enough() -> bool:
            return sum(1 for session in self._sessions.values() if session.subscribed and session.connected) >= sessions

        await self.wait_for(enough, timeout=timeout)

    def changed(self) -> None:
        """Wake those who wait for a change of a session."""
        self._changed.set()

    # --- fan-out ----------------------------------------------------------------------------------------------------

    def publish(self, event: Event) -> int:
        """Queue an event for every session that is due it. Returns how many those are."""
        self.published += 1
        route = self._routes.get(event.guild_id)
        if route is None:
            route = [one for one in self._sessions.values() if one.subscribed and one.covers(event.guild_id)]
            self._routes[event.guild_id] = route
        now = time.monotonic()
        audience = sum(session.queue(event, now=now) for session in route)
        if event.entry is not None:
            event.entry.audience += audience
        return audience

    def publish_guild_create(self, guild: Guild, entry: Entry | None = None) -> int:
        """GUILD_CREATE for a guild that was joined: without the key ``unavailable``, or discord.py sees no join."""
        now = time.monotonic()
        self.published += 1
        audience = 0
        for session in self._sessions.values():
            if session.subscribed and session.covers(guild.id):
                data = payloads.guild_create(guild, bot=self.world.bot, all_members=_sees_members(session, guild))
                audience += session.queue(Event("GUILD_CREATE", data, guild_id=guild.id, entry=entry), now=now)
        if entry is not None:
            entry.audience += audience
        return audience

    # --- IDENTIFY ---------------------------------------------------------------------------------------------------

    def identify(self, data: Payload, *, generation: int, link: Link) -> Session | None:
        """Start a session, READY and backfill queued. None: refused, op 9 is due.

        Raises:
            GatewayCloseError: the IDENTIFY is wrong in a way that ends the connection.
        """
        self.check_token(data.get("token"))
        shard, num_shards = _shard(data.get("shard", [0, 1]))
        intents = self._intents(data.get("intents"))
        if (
            sum(1 for guild in self.world.guilds if shard_of(guild, num_shards) == shard)
            > self.settings.guilds_per_shard
        ):
            raise GatewayCloseError(4011, "Sharding required")
        if not self._admit(shard, num_shards, generation):
            return None
        self._numbers += 1
        info = SessionInfo(
            number=self._numbers,
            shard=shard,
            num_shards=num_shards,
            intents=intents,
            generation=generation,
            resume_url=self.resume_url,
        )
        session = Session(info, self.settings, random.Random(f"{self.settings.seed}/{self._numbers}"))
        if isinstance(presence := data.get("presence"), dict):
            session.set_presence(presence)
        self._sessions[session.id] = session
        self._links[session.id] = link
        if self.faults.strikes("kick_old_sessions"):
            self._kick_older(session)
        return session

    def start(self, session: Session) -> None:
        """Queue READY and the guilds; from here on the session receives events. Withheld READYs do nothing."""
        if self.faults.ready_withheld(session.shard):
            self.changed()
            return
        session.deaf = self.faults.strikes("deaf_sessions")
        now = time.monotonic()
        mine = [guild for guild in self.world.guilds.values() if session.covers(guild.id)]
        session.queue_own("READY", self._ready(session, mine), now=now)
        if session.intents & GUILDS:
            for guild in mine:
                data = payloads.guild_create(guild, bot=self.world.bot, all_members=_sees_members(session, guild))
                session.queue_own("GUILD_CREATE", data | {"unavailable": False}, now=now)
        session.subscribed = True
        session.ready_at = now
        self._routes.clear()
        self.changed()

    def _ready(self, session: Session, guilds: list[Guild]) -> Payload:
        return {
            "v": 10,
            "user": payloads.user(self.world.bot) | {"verified": True, "mfa_enabled": True, "email": None, "flags": 0},
            "guilds": [{"id": str(guild.id), "unavailable": True} for guild in guilds],
            "session_id": session.id,
            "resume_gateway_url": session.info.resume_url,
            "shard": [session.shard, session.num_shards],
            "application": {"id": str(self.world.application_id), "flags": 1 << 19},
            "private_channels": [],
            "relationships": [],
            "user_settings": {},
            "session_type": "normal",
        }

    def check_token(self, token: object) -> None:
        """Let the good token pass.

        Raises:
            GatewayCloseError: 4004.
        """
        if token != self.settings.token or self.token_bad:
            raise GatewayCloseError(4004, "Authentication failed")

    @property
    def token_bad(self) -> bool:
        """Whether the good token is refused: revoked by a fault, or reset past the daily limit."""
        return self.token_reset or self.faults.token_revoked

    def _intents(self, intents: object) -> int:
        if not isinstance(intents, int) or isinstance(intents, bool) or intents & ~ALL_INTENTS or intents < 0:
            raise GatewayCloseError(4013, "Invalid intent(s)")
        if intents & self.settings.disallowed_intents:
            raise GatewayCloseError(4014, "Disallowed intent(s)")
        return intents

    def _admit(self, shard: int, num_shards: int, generation: int) -> bool:
        """Count an IDENTIFY against its bucket and the day."""
        now = time.monotonic()
        bucket = shard % self.settings.max_concurrency
        self._forget_yesterday(now)
        reason = ""
        if len(self._day) >= self.settings.identifies_per_day:
            reason = "daily limit"
        elif now - self._last_in_bucket.get(bucket, float("-inf")) < self.settings.identify_window:
            reason = "max_concurrency"
        violation = bool(reason)
        if violation:
            self._past_limit(reason)
        else:
            self._last_in_bucket[bucket] = now
            self._day.append(now)
            reason = "refused on demand" if self.faults.strikes("refuse_identify") else ""
        record = IdentifyRecord(
            at=now,
            shard=shard,
            num_shards=num_shards,
            bucket=bucket,
            violation=violation,
            generation=generation,
            reason=reason,
        )
        self.identifies.append(record)
        self.changed()
        return not reason

    def _past_limit(self, reason: str) -> None:
        if reason == "daily limit" and self.settings.reset_token_past_limit:
            self.token_reset = True
            for session in self.sessions:
                self.close(session, 4004)

    def _forget_yesterday(self, now: float) -> None:
        while self._day and now - self._day[0] >= DAY:
            self._day.popleft()

    def _kick_older(self, session: Session) -> None:
        for other in self.sessions:
            same = (other.shard, other.num_shards) == (session.shard, session.num_shards)
            if same and other is not session:
                self.invalidate(other, resumable=False)

    # --- RESUME and the end of sessions -----------------------------------------------------------------------------

    def resume(self, data: Payload, *, link: Link) -> Session | None:
        """Find the session to resume and check its sequence. None: op 9 false is due.

        Raises:
            GatewayCloseError: a bad token (4004), a sequence from the future (4007), a payload that is none (4002).
        """
        self.check_token(data.get("token"))
        seq = data.get("seq")
        if not isinstance(seq, int) or isinstance(seq, bool) or not isinstance(data.get("session_id"), str):
            raise GatewayCloseError(4002, "Error while decoding payload")
        session = self._sessions.get(data["session_id"])
        if session is None:
            return None
        if seq > session.seq or seq < 0:
            raise GatewayCloseError(4007, "Invalid seq")
        if not session.can_replay(seq):
            self.end(session)
            return None
        old = self._links.get(session.id)
        if old is not None and old is not link:
            self.detach(session, old)
            old.close(4006)
        self._links[session.id] = link
        timer = self._expiry.pop(session.id, None)
        if timer is not None:
            timer.cancel()
        return session

    def connected(self, session_id: object) -> bool:
        """Whether a connection has the session of this id now."""
        return isinstance(session_id, str) and session_id in self._links

    def forget(self, session_id: object) -> None:
        """End the session of this id, if there is one."""
        if isinstance(session_id, str) and (session := self._sessions.get(session_id)) is not None:
            self.end(session)

    def detach(self, session: Session, link: Link) -> None:
        """A connection is gone; its session waits for RESUME, unless another connection has it already."""
        if self._links.get(session.id) is not link:
            return
        del self._links[session.id]
        session.detach()
        if session.id in self._sessions:
            loop = asyncio.get_running_loop()
            self._expiry[session.id] = loop.call_later(self.settings.session_resume_seconds, self.end, session)
        self.changed()

    def end(self, session: Session) -> None:
        """A session is over and cannot be resumed."""
        if self._sessions.pop(session.id, None) is None:
            return
        session.ended = True
        session.subscribed = False
        self._links.pop(session.id, None)
        session.detach()
        timer = self._expiry.pop(session.id, None)
        if timer is not None:
            timer.cancel()
        self._routes.clear()
        self.changed()

    def shut_down(self) -> None:
        """End everything; the sockets are closed with 1001."""
        for session in self.sessions:
            link = self._links.get(session.id)
            self.end(session)
            if link is not None:
                link.close(1001)

    # --- faults on connections; each returns whether there was one to break -----------------------------------------

    def drop(self, session: Session) -> bool:
        """Cut a session's socket."""
        link = self._links.get(session.id)
        if link is None:
            return False
        self.detach(session, link)
        link.abort()
        return True

    def close(self, session: Session, code: int) -> bool:
        """Close a session's socket; some codes end the session too."""
        link = self._links.get(session.id)
        if code in _NOT_RESUMABLE:
            self.end(session)
        if link is None:
            return False
        self.detach(session, link)
        link.close(code)
        return True

    def ask_reconnect(self, session: Session) -> bool:
        """Send op 7."""
        link = self._links.get(session.id)
        if link is not None:
            link.send_op(7)
        return link is not None

    def send_raw(self, session: Session, data: str | bytes) -> bool:
        """Send what is no payload."""
        link = self._links.get(session.id)
        if link is not None:
            link.send_raw(data)
        return link is not None

    def mute(self, session: Session) -> bool:
        """Leave the socket open and silent; the session waits for a RESUME."""
        link = self._links.get(session.id)
        if link is None:
            return False
        self.detach(session, link)
        link.mute()
        return True

    def invalidate(self, session: Session, *, resumable: bool) -> bool:
        """Send op 9; not resumable ends the session."""
        link = self._links.get(session.id)
        if not resumable:
            self.end(session)
        if link is not None:
            link.send_op(9, resumable)
        return link is not None

    # --- what a client asks for -------------------------------------------------------------------------------------

    def request_members(self, session: Session, data: Payload) -> None:
        """Answer op 8 by GUILD_MEMBERS_CHUNK, or by RATE_LIMITED when all members were asked for too soon again."""
        try:
            guild_id = int(data["guild_id"])
        except (KeyError, TypeError, ValueError):
            raise GatewayCloseError(4002, "Error while decoding payload") from None
        guild = self.world.guilds.get(guild_id)
        if guild is None or not session.covers(guild_id):
            return
        now = time.monotonic()
        wanted = data.get("user_ids")
        query, limit = data.get("query") or "", int(data.get("limit") or 0)
        if wanted is None and not query and not limit:
            wait = self._member_requests.get(guild_id, float("-inf")) + self.settings.member_request_window - now
            if wait > 0:
                meta = {"guild_id": str(guild_id), "nonce": data.get("nonce")}
                session.queue_own("RATE_LIMITED", {"opcode": 8, "retry_after": wait, "meta": meta}, now=now)
                return
            self._member_requests[guild_id] = now
            self.members_at[session.info.number, guild_id] = now
        for chunk in _member_chunks(guild, wanted=wanted, query=query, limit=limit, nonce=data.get("nonce")):
            session.queue_own("GUILD_MEMBERS_CHUNK", chunk, now=now)


def _member_chunks(guild: Guild, *, wanted: object, query: str, limit: int, nonce: object) -> list[Payload]:
    members = list(guild.members.values())
    missing: list[str] = []
    if wanted is not None:
        asked = [int(str(one)) for one in (wanted if isinstance(wanted, list) else [wanted])]
        missing = [str(one) for one in asked if one not in guild.members]
        members = [guild.members[one] for one in asked if one in guild.members]
    elif query:
        members = [who for who in members if (who.nick or who.user.name).lower().startswith(query.lower())]
    if limit:
        members = members[:limit]
    parts = [members[start : start + _CHUNK] for start in range(0, len(members), _CHUNK)] or [[]]
    return [
        {
            "guild_id": str(guild.id),
            "members": [payloads.member(who) for who in part],
            "chunk_index": index,
            "chunk_count": len(parts),
            "not_found": missing,
            "nonce": nonce,
        }
        for index, part in enumerate(parts)
    ]


def _sees_members(session: Session, guild: Guild) -> bool:
    """Whether GUILD_CREATE carries all members: with the presences intent, and only for small guilds."""
    return bool(session.intents & PRESENCES) and bool(session.intents & MEMBERS) and len(guild.members) < 250


def _shard(value: object) -> tuple[int, int]:
    pair = value if isinstance(value, list) and len(value) == 2 else None
    if pair is None or not all(isinstance(part, int) and not isinstance(part, bool) for part in pair):
        raise GatewayCloseError(4010, "Invalid shard")
    shard, num_shards = pair
    if not 0 <= shard < num_shards:
        raise GatewayCloseError(4010, "Invalid shard")
    return shard, num_shards
