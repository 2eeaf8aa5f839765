"""What children note down for each other and that has times in it: by which clock these are told.

Children of one machine tell times by its monotonic clock, which begins anew with the machine. In a file that may
outlive that they are told in seconds since 1970. An example, of a machine that was started at 1,700,000,000: a loop's
last turn at 50.0 is kept as 1700000050.0.

Knows keys and numbers. Knows nothing of loops and of Discord's clock.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

LOOP = "loop:"
"""What the key of a loop's last turn begins with."""
DISCORD_CLOCK = "discord's clock"
"""The key of what is known of Discord's clock: times alone."""


def told_by_wall(notes: Mapping[str, str]) -> dict[str, str]:
    """Return notes with their times in seconds since 1970."""
    return _shifted(notes, time.time() - time.monotonic())


def told_by_machine(notes: Mapping[str, str]) -> dict[str, str]:
    """Return what `told_by_wall` made, by this machine's present monotonic clock."""
    return _shifted(notes, time.monotonic() - time.time())


def _shifted(notes: Mapping[str, str], seconds: float) -> dict[str, str]:
    return {key: _later(value, seconds) if _has_times(key) else value for key, value in notes.items()}


def _has_times(key: str) -> bool:
    return key.startswith(LOOP) or key == DISCORD_CLOCK


def _later(value: str, seconds: float) -> str:
    return " ".join(repr(float(word) + seconds) for word in value.split())
