"""What a child that is killed may take with it, and a reload that is followed line by line while that happens."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection
from itertools import pairwise
from typing import Any

from named import WITH_ID, Named
from rig import Rig

from bastion.sandbox import Entry, Sandbox

CUT_SECONDS = 0.5
"""Longest time from an event's arrival to its report with handlers of 50 ms: what is younger at a kill may be cut."""
SKEW = 0.3
"""Seconds between an event's arrivals in two sessions, at most."""
INTERACTIONS = ("slash", "autocomplete", "button", "select", "modal")
UNTOLD = ("member_update",)
"""What cannot be told without the cache as it was before: a successor that has to recover counts it as missed."""


class Reload:
    """A `supervisor reload` in a process of its own, followed line by line."""

    def __init__(self, installation: Rig) -> None:
        self.installation = installation
        self.lines: list[str] = []

    async def until(self, phase: str) -> None:
        """Start it and return when it enters the phase."""
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bastion.supervisor", "reload", "--config", str(self.installation.config)),
            env=self.installation.environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            async for line in self.process.stdout:
                self.lines.append(line.decode())
                if line.startswith(phase.encode()):
                    return
        raise AssertionError(f"never {phase}: {self.lines}")

    async def result(self) -> int:
        async with asyncio.timeout(60):
            out, _ = await self.process.communicate()
        self.lines += out.decode().splitlines()
        assert self.process.returncode is not None
        return self.process.returncode


def child(status: dict[str, Any], generation: int) -> dict[str, Any]:
    found: dict[str, Any] = next(child for child in status["children"] if child["generation"] == generation)
    return found


def tellable(entry: Entry, sandbox: Sandbox, *, but: Collection[int] = ()) -> bool:
    """Whether some session (``but`` these) received an event and could tell it: an update, only after the members.

    discord.py does not dispatch ``on_member_update`` for a member that it does not know.
    """
    if entry.kind not in UNTOLD:
        return bool(entry.delivered)
    sent, guild = sandbox.gateway.members_at, entry.guild_id or 0
    return any(sent.get((session, guild), entry.at) < entry.at for session, _ in entry.delivered if session not in but)


def missed(entry: Entry, sandbox: Sandbox) -> bool:
    """Whether a successor that has to recover an event counts it as missed: it makes no sense beside a newer cache.

    Of a guild that was left meanwhile nobody can be a member any more.
    """
    left = {other.guild_id for other in sandbox.journal.entries if other.kind == "guild_leave"}
    return entry.kind in UNTOLD or (entry.kind == "member_join" and entry.guild_id in left)


def unexplained(
    installation: Rig,
    killed: int,
    killed_at: float,
    served_at: float,
    *,
    unread: float = 0.0,
    resumed: bool = False,
) -> list[Entry]:
    """Expected events that some session received and nobody handled, but for those that a named handler had.

    What reached the sessions of the ``killed`` generation later, or ``unread`` seconds before, was read by nobody,
    unless they have been ``resumed`` by another one.
    Interactions that came to it while nobody served are not counted either: Discord takes no answer to them after 3 s.
    """
    journal, named = installation.sandbox.journal, Named(installation, killed)
    deaf = sessions_of(installation, killed)
    missing = [
        entry
        for entry in journal.entries
        if installation.expected(entry)
        and any(resumed or session not in deaf or at < killed_at - unread for session, at in entry.delivered)
        and not journal.handlings(entry.kind, entry.key)
        and not (entry.kind in INTERACTIONS and unserved(entry, deaf, killed_at - unread, served_at))
    ]
    received = {
        # A child that had taken the sessions over began none of its own.
        id(entry): max(
            (at for session, at in entry.delivered if (session in deaf or not deaf) and at < killed_at), default=0.0
        )
        for entry in missing
    }
    # A handler may take longer than these seconds where Discord is far away; its name says by the id whose it was.
    return [
        entry
        for entry in missing
        if (killed_at - received[id(entry)] > CUT_SECONDS and entry.kind not in WITH_ID) or not named.excuses(entry)
    ]


def sessions_of(installation: Rig, generation: int) -> set[int]:
    """Return the numbers of a child's sessions, also of those that have ended: they are counted as they identify."""
    identified = [one.generation for one in installation.sandbox.gateway.identifies if not one.reason]
    return {number for number, whose in enumerate(identified, start=1) if whose == generation}


def unserved(entry: Entry, deaf: set[int], killed_at: float, served_at: float) -> bool:
    """Say whether an event came to the killed child after its death, and to all others before one of them served."""
    return all((killed_at if session in deaf else killed_at - SKEW) < at < served_at for session, at in entry.delivered)


def longest_silence(installation: Rig, since: float, until: float) -> float:
    """Seconds between two reports that follow each other, at most, from one monotonic time to another."""
    journal = installation.sandbox.journal
    seen = {(entry.kind, entry.key) for entry in journal.entries}
    reports = sorted(one.at for name in seen for one in journal.handlings(*name) if since <= one.at <= until)
    return max(after - before for before, after in pairwise([since, *reports, until]))
