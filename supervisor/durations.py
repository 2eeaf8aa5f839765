"""How long a start and a stop may take by the settings and by Discord's limits, and the limits of tools on them.

Pure. Knows the tools that this project ships files for, and their own limits; whether an operator has changed one
cannot be seen, at least not from inside a container.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bastion.supervisor import limits
from bastion.supervisor.neighbours import END_PATIENCE
from bastion.supervisor.settings import Settings
from bastion.supervisor.systemd import MARGIN

STOP_MARGIN = 12.0
"""Seconds that a stop may take beyond the supervisor's own limits, on a busy machine."""
ENGINES_STOP = 10.0
"""Seconds that an engine gives a container to stop, where nobody says more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shards:
    """How many shards connect, and how many of them Discord lets IDENTIFY at once (max_concurrency)."""

    count: int
    at_once: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool that waits for a container to start or to stop: so many ``seconds``, unless ``option`` says more."""

    name: str
    seconds: float
    option: str
    beside: bool = False
    """It replaces containers side by side."""


STARTS = (
    Tool(name="the image's HEALTHCHECK", seconds=360, option="start_period: {0}s, --health-start-period {0}s"),
    Tool(name="the unit bastion-container.service", seconds=420, option="TimeoutStartSec={0}"),
    Tool(name="docker rollout", seconds=60, option="--timeout {0}", beside=True),
    Tool(name="compose.sh", seconds=600, option="PATIENCE={0}", beside=True),
)
"""For so long they wait for a container to be healthy."""
STOPS = (
    Tool(name="compose.yaml", seconds=60, option="stop_grace_period: {0}s"),
    Tool(name="the unit bastion-container.service", seconds=60, option="docker stop --time {0} in ExecStop="),
    Tool(name="examples/deploy/compose.yaml", seconds=90, option="stop_grace_period: {0}s", beside=True),
    Tool(name="examples/deploy/stack.yaml", seconds=90, option="stop_grace_period: {0}s", beside=True),
)
"""For so long they wait for a container to stop."""


def identify_seconds(settings: Settings, shards: Shards) -> float:
    """Return how long the IDENTIFYs of all shards take, as far apart as Discord wants them."""
    return math.ceil(shards.count / shards.at_once) * settings.discord.identify_window


def ready_seconds(settings: Settings, shards: Shards) -> float:
    """Return how long a bot may take from its spawn until all shards are ready, with a margin for its guilds."""
    return identify_seconds(settings, shards) + MARGIN


def healthy_seconds(settings: Settings, shards: Shards) -> float:
    """Return how long a container may take to be healthy. Beside others it waits first until the dead have ended."""
    return ready_seconds(settings, shards) + (END_PATIENCE if settings.ledger.shared else 0.0)


def start_seconds(settings: Settings) -> float:
    """Return how long a start or a reload that goes well may take, with a margin."""
    times = settings.handoff
    return times.ready_timeout + times.probation + times.drain_timeout + MARGIN


def stop_seconds(settings: Settings) -> float:
    """Return how long a stop may take, with a margin; beside other supervisors it first waits for one of them."""
    drain = settings.handoff.drain_timeout
    waits = drain if settings.ledger.shared else 0.0
    return waits + drain + limits.DRAIN_GRACE + limits.TERM_GRACE + STOP_MARGIN


def too_impatient(tools: Iterable[Tool], needed: float, *, beside: bool) -> Iterator[str]:
    """Name each tool that does not wait for as long as is ``needed``, with what to write.

    ``beside``: containers are replaced side by side.
    """
    for tool in tools:
        if tool.seconds < needed and (beside or not tool.beside):
            yield f"{tool.name} waits {tool.seconds:g} s: write {tool.option.format(f'{needed:g}')}"
