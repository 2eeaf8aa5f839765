"""The holder's side of a handover: it gives its sessions to a mirror that has asked for them.

One shard goes first (the canary, with the fewest guilds); when Discord has accepted the mirror's RESUME of it, the
others follow together. Who has a shard is always known:

    until `Taken`    nobody has it. The holder takes it back if no shard at all was taken, TAKE_BACK_SECONDS after
                     `End` at the earliest; the mirror gives up before that (`taking.RESUME_SECONDS`)
    from `Taken` on  the mirror has all of them: those that are still to come are bound to it

Knows the order of a switch. What is done to a shard is `handover`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from bastion.bot.session import notes
from bastion.bot.session.taking import ACCEPT_SECONDS

if TYPE_CHECKING:
    from bastion.bot.session.handover import Handover
    from bastion.bot.session.peers import Peer

_log = logging.getLogger("bastion.session")

TAKE_BACK_SECONDS = 1.0
"""After which time a shard that nobody has taken is taken back: twice as long as the mirror tries."""
PONG_SECONDS = 0.1
"""How soon a mirror answers that does not hang, and has applied what was sent before."""
STEADY_SECONDS = 2.0
"""How long a mirror may need to answer so soon, and a shard to have a connection again, before a switch is tried."""
TRIES = 3
"""Switches that are tried, `PAUSE_SECONDS` apart, when one is taken back for time: the supervisor waits for 15 s."""
PAUSE_SECONDS = 1.0

TOGETHER = 8
"""Shards that are given at the same time. All of 64 at once would block both bots' loops for 0.1 s, and wait for each
other."""

_ENDED = "the stream between both bots has ended"


class Giving:
    """One switch."""

    def __init__(self, handover: Handover, peer: Peer) -> None:
        self._handover, self._peer = handover, peer
        self._pong = 0
        self._taken: set[int] = set()
        self._late: set[int] = set()
        self._resumed: set[int] = set()
        self._refused: dict[int, str] = {}
        self._lost = False
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Give the sessions, or tell the mirror why not."""
        try:
            why = await self._give()
        except Exception as error:
            _log.exception("the sessions could not be handed over")
            why = f"{type(error).__name__}: {error}"
        self._peer.giving = None
        if why is not None:
            _log.warning("the sessions stay here: %s", why)
            self._peer.note(notes.Failed(why=why))

    async def _give(self) -> str | None:
        why: str | None = None
        for number in range(TRIES):
            if number:
                await asyncio.sleep(PAUSE_SECONDS)
            why = await self._not_steady() or await self._try()
            if why is None or self._taken or self._refused or self._lost:
                break
        return why

    async def _try(self) -> str | None:
        self._handover.leave_all_but(self._peer)
        first, *others = self._in_order()
        if why := await self._give_first(first):
            return why
        together = asyncio.Semaphore(TOGETHER)
        await asyncio.gather(*(self._end(shard, together) for shard in others))
        self._handover.given()
        return None

    async def _end(self, shard: int, together: asyncio.Semaphore) -> None:
        async with together:
            await self._handover.end(shard, self._peer, binding=True)

    def _in_order(self) -> list[int]:
        return sorted(self._handover.own, key=lambda shard: (self._handover.guilds(shard), shard))

    async def _give_first(self, shard: int) -> str | None:
        await self._handover.end(shard, self._peer, binding=False)
        until = time.monotonic() + TAKE_BACK_SECONDS
        await self._until(lambda: shard in self._taken | self._late or shard in self._refused, until)
        self._peer.stream.read_rest()
        if self._lost and shard not in self._taken:
            return _ENDED  # whether the other one took it, only the supervisor knows, once that process is gone
        if shard not in self._taken and shard not in self._refused:
            self._late.discard(shard)
            self._handover.take_back(shard, self._peer)
            return "the new bot did not resume the first shard in time"
        until = time.monotonic() + ACCEPT_SECONDS + TAKE_BACK_SECONDS
        await self._until(lambda: shard in self._resumed or shard in self._refused, until)
        if shard in self._refused:
            self._handover.identify(shard, self._peer)
            return f"Discord does not resume the session of shard {shard}: {self._refused[shard]}"
        return None

    async def _not_steady(self) -> str | None:
        """Wait until the mirror keeps up, and no shard is between two connections: such a one would steal it back."""
        until = time.monotonic() + STEADY_SECONDS
        while time.monotonic() < until and not self._lost:
            if not self._handover.steady:
                await _within(until - time.monotonic(), self._handover.changed())
                continue
            asked_at, number = time.monotonic(), self._pong + 1
            self._peer.note(notes.Ping(number=number))
            await self._until(lambda number=number: self._pong >= number, until)  # type: ignore[misc]
            if self._pong >= number and time.monotonic() - asked_at <= PONG_SECONDS and self._handover.steady:
                return None
        if self._lost:
            return _ENDED
        return f"for {STEADY_SECONDS:g} s the new bot did not keep up, or a shard was between two connections"

    async def _until(self, condition: Callable[[], bool], until: float) -> None:
        while not condition() and not self._lost and (left := until - time.monotonic()) > 0:
            self._news.clear()
            await _within(left, self._news.wait())

    def noted(self, shard: int, note: notes.Note) -> None:
        """Take what the mirror says."""
        match note:
            case notes.Pong(number=number):
                self._pong = number
            case notes.Taken():
                self._taken.add(shard)
                _log.info("the session of shard %s is the other bot's", shard)
            case notes.Late():
                self._late.add(shard)
            case notes.Resumed():
                self._resumed.add(shard)
            case notes.Refused(why=why):
                self._refused[shard] = why
        self._news.set()

    def lost(self) -> None:
        """Learn that nothing more will come."""
        self._lost = True
        self._news.set()


async def _within(seconds: float, waiting: Awaitable[object]) -> None:
    """Wait for something, for so long at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await waiting
