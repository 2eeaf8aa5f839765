"""Whether Discord still resumes a shard's session, or that session is dead and a new one has to begin.

discord.py asks again without end, and without a pause, whatever Discord answers but op 9. An example of a session that
Discord does not know any more, and says so by close code 4009:

    RESUME                       closed with 4009      dead at once: by Discord's documentation these codes are final
    RESUME                       cut                   the first refusal
    RESUME                       nothing for 2 s       the second
    RESUME                       cut                   the third within 10 s: dead

A connection that does not come to RESUME refuses nothing, nor does one that this side has closed.

Knows connections and what comes on them. What is done about a dead session is `shards`' and `taking`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field

import msgspec
from discord.gateway import DiscordWebSocket

from bastion.bot.discordpy import sockets

_log = logging.getLogger("bastion.session")

FINAL = (4007, 4009)
"""Close codes for "this sequence is none of the session's" and "this session is over"."""
REFUSALS = 3
"""After so many a session is dead: Discord resumes at once, or never."""
WITHIN_SECONDS = 10.0
"""How far apart they may be: three of silence, and their connections."""
SILENCE_SECONDS = 2.0
"""How long after a RESUME nothing at all may come. Discord answers in one round trip, if it answers."""
READ_SECONDS = 0.25
"""How long a loop that was blocked needs to read what has come."""


class _Head(msgspec.Struct):
    t: str | None = None


_head = msgspec.json.Decoder(_Head)


@dataclass(slots=True)
class _Asked:
    """A RESUME that Discord has not accepted yet, and the refusals before it."""

    websocket: DiscordWebSocket | None = None
    refused_at: list[float] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None
    why: str = ""
    """Why the session is dead."""

    def refuse(self, why: str) -> None:
        now = time.monotonic()
        self.refused_at = [at for at in self.refused_at if now - at < WITHIN_SECONDS] + [now]
        if len(self.refused_at) >= REFUSALS:
            self.why = f"{why}, the {REFUSALS}rd refusal"

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Resumes:
    """The RESUMEs of one client's shards."""

    def __init__(self) -> None:
        self._asked: dict[int, _Asked] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def dead(self, shard: int) -> str | None:
        """Return why a shard's session cannot be resumed any more; None if it is worth to be tried (again)."""
        asked = self._asked.get(shard)
        if asked is None:
            return None
        if asked.websocket is not None:
            code = sockets.closed_by_discord(asked.websocket)
            asked.websocket = None
            asked.stop()
            if code in FINAL:
                asked.why = f"closed with {code}"
            elif code is not None:
                asked.refuse(f"closed with {code}")
        return asked.why or None

    def sent(self, shard: int, websocket: DiscordWebSocket) -> None:
        """Note that a RESUME has left on a connection."""
        asked = self._asked.setdefault(shard, _Asked())
        asked.stop()
        asked.websocket = websocket
        loop = asyncio.get_running_loop()
        asked.timer = loop.call_later(SILENCE_SECONDS, self._suspect, asked, websocket)

    def waits(self, shard: int) -> bool:
        """Whether a shard's RESUME has not been accepted yet."""
        return shard in self._asked

    def heard(self, shard: int, text: str) -> bool:
        """Take what has come on a shard's connection; return whether that accepts its RESUME."""
        asked = self._asked.get(shard)
        if asked is None:
            return False
        name = _head.decode(text).t
        if name is not None:
            asked.stop()
        if name not in ("RESUMED", "READY"):
            return False
        del self._asked[shard]
        return True

    def forget(self, shard: int) -> None:
        """Learn that a shard's session is another bot's now, or that a new one begins."""
        if (asked := self._asked.pop(shard, None)) is not None:
            asked.stop()

    def _suspect(self, asked: _Asked, websocket: DiscordWebSocket) -> None:
        """Let the loop read what has come meanwhile, if it was blocked until now."""
        asked.timer = asyncio.get_running_loop().call_later(READ_SECONDS, self._silent, asked, websocket)

    def _silent(self, asked: _Asked, websocket: DiscordWebSocket) -> None:
        asked.websocket = None
        asked.refuse(f"no answer for {SILENCE_SECONDS:g} s")
        task = asyncio.ensure_future(_close(websocket))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _close(websocket: DiscordWebSocket) -> None:
    with contextlib.suppress(Exception):
        await websocket.socket.close(code=4000)  # discord.py reads the end, and resumes once more
