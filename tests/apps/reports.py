"""Tells the sandbox's journal what an app handled.

Ordinary app code: knows an address in the environment and HTTP, nothing of the process that runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from typing import Final

import aiohttp
from yarl import URL

log = logging.getLogger(__name__)

ATTEMPTS: Final = 6
"""Tries for one report, in about 1.5 s: a report must survive a busy moment of the sandbox, not its end."""

FIRST_PAUSE: Final = 0.05
"""Seconds before the second try; doubled for each further one."""

CLOSE_SECONDS: Final = 0.5
"""Longest wait for the answers to reports when the session is closed."""


def handler_seconds() -> float:
    """How long this handler takes: random within PROBE_HANDLER_MS ("low-high" in milliseconds, default "0-300")."""
    low, _, high = os.environ.get("PROBE_HANDLER_MS", "0-300").partition("-")
    return random.uniform(float(low), float(high or low)) / 1000


class Reports:
    """Posts to the sandbox over one shared session, made at the first report."""

    def __init__(self) -> None:
        api = URL(os.environ.get("DISCORD_API_URL", "http://127.0.0.1:0"))
        self._url = api.origin() / "sandbox" / "handled"
        self.generation = int(os.environ.get("BASTION_GENERATION", "0"))
        self._session: aiohttp.ClientSession | None = None
        self._posting: set[asyncio.Future[None]] = set()

    async def handled(self, kind: str, key: object) -> None:
        """Report one handling. Returns when the sandbox has it; a report that it never took is logged as an error."""
        body: dict[str, str | int] = {"kind": kind, "key": str(key), "by": self.generation}
        pause = FIRST_PAUSE
        for attempt in range(1, ATTEMPTS + 1):
            reason = await self._post(body)
            if reason is None:
                return
            if attempt < ATTEMPTS:
                await asyncio.sleep(pause)
                pause *= 2
        log.error("REPORT LOST: %s %s by generation %d: %s", kind, key, self.generation, reason)

    async def _post(self, body: dict[str, str | int]) -> str | None:
        """Return why it failed, or None."""
        if self._session is None or self._session.closed:
            # A report that is given up may have been taken all the same, and be counted twice when it is made again.
            # After a crash on a busy machine a thousand of them wait for each other.
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._posting.add(answered)
        try:
            async with self._session.post(self._url, json=body) as answer:
                return None if answer.status < 300 else f"HTTP {answer.status}: {await answer.text()}"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return str(error) or type(error).__name__
        finally:
            self._posting.discard(answered)
            answered.cancel()

    async def close(self) -> None:
        """Close the session, once what was posted is answered: a report that is cut off is made, and counts, again."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while self._posting:  # handlers that end meanwhile post theirs
                    await asyncio.wait(self._posting)
        if self._session is not None:
            await self._session.close()
