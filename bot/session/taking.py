"""The mirror's side of a handover: it takes the sessions of the bot that feeds it.

It opens a connection for each shard first, so that a RESUME needs no further round trip. At each `End` the shard's
stand-in closes behind all that has come; discord.py resumes on the open connection.

The first RESUME has RESUME_SECONDS from when the holder stopped, by the machine's monotonic clock. The clock is read
before it is sent and after: if it was late the connection is closed unread, and the shard stays a mirror.

Knows the order of a switch. What is done to a shard is `handover`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from bastion.bot.session import notes

if TYPE_CHECKING:
    from bastion.bot.session.handover import Handover
    from bastion.bot.session.peers import Peer

_log = logging.getLogger("bastion.session")

RESUME_SECONDS = 0.5
"""How long after the holder has stopped the first RESUME may leave."""
OPEN_SECONDS = 5.0
"""How long the connections to Discord may take to open, before the switch."""
ACCEPT_SECONDS = 3.0
"""How long Discord's answer to the first RESUME is waited for."""
WORD_SECONDS = 5.0
"""How long the supervisor has to say that the other bot is dead, once the stream has ended. It knows in no time, but of
another supervisor's bot: that may take 2 s to end when its supervisor is killed."""
SILENT_SECONDS = 3.0
"""How long a bot that may stand still has to answer: its first ping comes in a millisecond, and in 2 s if a shard is
between two connections."""


class HandoverError(Exception):
    """The other bot keeps the sessions. The text says why."""


class RefusedError(HandoverError):
    """Discord does not resume the first session: no other one is tried."""


class SilentError(HandoverError):
    """The other bot stands still: its loop does not turn."""


class Taking:
    """One switch. ``shards`` are all that the other bot has; ``impatient``: it may stand still."""

    def __init__(self, handover: Handover, peer: Peer, shards: Iterable[int], *, impatient: bool = False) -> None:
        self._handover = handover
        self.peer = peer
        self._awaited = set(shards)
        """The shards that are not resumed."""
        self._ended: dict[int, notes.End] = {}
        self._taken: set[int] = set()
        self.pauses: dict[int, float] = {}
        """By shard, the seconds from when it was stopped until Discord accepted the RESUME."""
        self.identified = 0
        """Shards whose session Discord did not resume."""
        self._failed: str | None = None
        self._impatient, self._heard = impatient, False
        self.refused = False
        self._news = asyncio.Event()
        self._first: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Return when all sessions are this bot's. Raises `HandoverError` if they stay the other one's."""
        await self._open()
        self.peer.note(notes.Switch())
        if self.peer.stream.over:
            self.lost()
        if self._impatient:
            await self._any_sign()
        while self._awaited and self._failed is None:
            self._news.clear()
            await self._news.wait()
        if self._failed is not None:
            raise (RefusedError if self.refused else HandoverError)(self._failed)

    async def _any_sign(self) -> None:
        until = time.monotonic() + SILENT_SECONDS
        while not self._heard and self._failed is None:
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), until - time.monotonic())
            except TimeoutError:
                raise SilentError(f"the bot that has them does not answer for {SILENT_SECONDS:g} s") from None

    async def _open(self) -> None:
        opening = asyncio.gather(*(self._handover.open(shard) for shard in self._awaited), return_exceptions=True)
        try:
            results = await asyncio.wait_for(opening, OPEN_SECONDS)
        except TimeoutError:
            raise HandoverError(f"the connections to Discord did not open within {OPEN_SECONDS:g} s") from None
        for error in results:
            if isinstance(error, BaseException):
                text = f"a connection to Discord could not be opened: {type(error).__name__}: {error}"
                raise HandoverError(text) from error

    def noted(self, shard: int, note: notes.Note) -> None:
        """Take what the holder says."""
        self._heard = True
        if isinstance(note, notes.Failed):
            self._failed = note.why
        elif isinstance(note, notes.End):
            self._ended[shard] = note
            self._handover.resume(shard)
        self._news.set()

    def too_late(self, shard: int) -> bool:
        """Say whether a shard's RESUME, sent now, could meet the holder's own."""
        end = self._ended.get(shard)
        if end is None or end.binding or self._taken or self._failed is not None:
            return False
        return time.monotonic() - end.at - end.close_seconds > RESUME_SECONDS

    def resume_from(self, shard: int, sequence: int) -> int:
        """Return from which sequence a shard is to be resumed: not from before the one at which the holder stopped.

        ``sequence`` is of the last event that the mirror was sent: the same one, unless a copy is missing.
        """
        end = self._ended.get(shard)
        if end is None or sequence >= end.sequence:
            return sequence
        _log.error(
            "shard %d: events %d to %d were handled by the old bot and have not come here: the cache may lack them",
            shard,
            sequence + 1,
            end.sequence,
        )
        return end.sequence

    @property
    def took_some(self) -> bool:
        """Whether a RESUME has left in time."""
        return bool(self._taken)

    def took(self, shard: int) -> None:
        """RESUME has left in time."""
        if shard not in self._awaited:
            return
        first = not self._taken
        self._taken.add(shard)
        self.peer.note(notes.Taken(), shard=shard)
        self.peer.stream.flush()  # now: whether it has left decides who has the session
        if first:
            self.peer.copies.keep()
        self.peer.copies.begin(shard)
        if first and len(self._awaited) > 1:
            loop = asyncio.get_running_loop()
            why = f"no answer to RESUME for {ACCEPT_SECONDS:g} s"
            self._first = loop.call_later(ACCEPT_SECONDS, self._refuse, shard, why)

    def resumed(self, shard: int) -> None:
        """Discord has accepted a shard's RESUME."""
        if shard not in self._awaited:
            return
        if self._first is not None:
            self._first.cancel()
            self._first = None
        self._awaited.discard(shard)
        if (end := self._ended.get(shard)) is not None:
            self.pauses[shard] = time.monotonic() - end.at
            self._handover.ask_for_members(end.asking)
        self.peer.note(notes.Resumed(), shard=shard)
        self._news.set()

    def began_anew(self, shard: int) -> None:
        """A shard's session is dead, and IDENTIFY has left for a new one."""
        self.identified += shard in self._awaited
        self.resumed(shard)

    def refuses(self, shard: int, why: str) -> bool:
        """Say whether a shard must begin no session, though its own is dead: the holder begins the new one.

        Only the first of several shards: from then on every one is this bot's.
        """
        if self._first is None and not self.refused:
            return False
        self._refuse(shard, why)
        return True

    def _refuse(self, shard: int, why: str) -> None:
        if self.refused:
            return
        self.refused = True
        if self._first is not None:
            self._first.cancel()
        self.peer.copies.end(shard)
        self.peer.note(notes.Refused(why=why), shard=shard)
        _log.warning("Discord does not resume the session of shard %s: %s", shard, why)
        self._failed = f"Discord does not resume the session of shard {shard}: {why}"
        self._news.set()

    def lost(self) -> None:
        """The stream has ended: the holder has died, as the supervisor will say, or has given this mirror up."""
        asyncio.get_running_loop().call_later(WORD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self._awaited and not self._taken and self._handover.mirrored:
            self._failed = "the stream between both bots has ended"
            self._news.set()
