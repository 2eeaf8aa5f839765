"""What a sandbox can be told: sizes, limits and delays of the local Discord.

Knows the names, units, defaults and bounds of the settings, and nothing of what is built from them. Every field may be
changed while a sandbox runs; what is read only at the start says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

MAX_RATE = 10_000.0
"""Most events per second that traffic may be asked for."""

MAX_SECONDS = 86_400.0
"""Longest traffic run and longest process life, in seconds."""

_READ_AT_START = frozenset(
    {
        *("host", "port", "seed", "token", "guilds", "channels_per_guild", "members_per_guild"),
        *("clock_offset", "network_delay"),
    }
)

_BOUNDS: dict[str, tuple[float, float]] = {
    "port": (0, 65_535),
    "guilds": (1, 5_000),
    "channels_per_guild": (1, 500),
    "members_per_guild": (1, 10_000),
    "max_concurrency": (1, 1_024),
    "identify_window": (0, 3_600),
    "identifies_per_day": (0, 1_000_000),
    "recommended_shards": (1, 10_000),
    "session_resume_seconds": (0, 86_400),
    "replay_buffer": (0, 1_000_000),
    "heartbeat_interval": (0.05, 3_600),
    "hello_patience": (0.05, 3_600),
    "network_delay": (0, 10),
    "invalid_session_delay": (0, 60),
    "send_limit": (1, 1_000_000),
    "send_window": (0.1, 3_600),
    "member_request_window": (0, 3_600),
    "guilds_per_shard": (1, 1_000_000),
    "bucket_limit": (1, 1_000_000),
    "bucket_window": (0.01, 3_600),
    "global_limit": (0, 1_000_000),
    "first_answer_seconds": (0.01, 3_600),
    "interaction_token_seconds": (0.01, 86_400),
    "clock_offset": (-3_600, 3_600),
    "messages_per_channel": (10, 1_000_000),
}


class SettingsError(ValueError):
    """A setting has an unknown name or a value that is not allowed. The message names both and what is allowed."""


@dataclass(slots=True, kw_only=True)
class SandboxSettings:
    """Settings of one sandbox. Durations are seconds, counts are plain numbers.

    ``skew`` and ``rest_latency`` are (low, high) bounds of a uniform distribution.

    Raises:
        SettingsError: a value is of the wrong type or out of bounds.
    """

    host: str = "127.0.0.1"
    """Address to listen on. Loopback only. Read at the start."""
    port: int = 0
    """Port to listen on, 0 for any free one. Read at the start."""
    seed: int = 1
    """Seeds world, skew and traffic. Read at the start."""
    token: str = "sandbox-token"
    """The one token that is good. Any other is answered 401 or closed with 4004. Read at the start."""
    guilds: int = 8
    """Guilds of the seeded world. Read at the start."""
    channels_per_guild: int = 3
    """Text channels of each guild. Read at the start."""
    members_per_guild: int = 10
    """Human members of each guild; the bot comes on top. Read at the start."""
    clock_offset: float = 0.0
    """By how much the clock that ids are made by is ahead of the machine's; negative: behind it. Read at the start."""

    max_concurrency: int = 1
    """IDENTIFYs allowed per window. A shard's bucket is ``shard % max_concurrency``."""
    identify_window: float = 5.0
    """Length of the IDENTIFY window of one bucket."""
    identifies_per_day: int = 1000
    """session_start_limit.total, over all shards."""
    reset_token_past_limit: bool = False
    """Past the daily limit: end every session and refuse the token, as Discord does. Else: op 9, no more."""
    recommended_shards: int = 1
    """What GET /gateway/bot recommends."""
    guilds_per_shard: int = 2500
    """More guilds than this on one shard is close code 4011."""
    disallowed_intents: int = 0
    """Mask of privileged intents that this bot was not granted: asking for one is close code 4014."""

    skew: tuple[float, float] = (0.0, 0.3)
    """Delay of each event on its way to each session. The order within one session is kept."""
    session_resume_seconds: float = 90.0
    """How long a session without a socket can be resumed."""
    replay_buffer: int | None = None
    """Events a session keeps for RESUME. None: max(100, min(3500, guilds x 75)), seen on Discord in 2016."""
    heartbeat_interval: float = 41.25
    """Sent in HELLO. A connection silent for 1.5 intervals is closed; its session stays resumable."""
    hello_patience: float = 60.0
    """A connection that has sent neither IDENTIFY nor RESUME for that long after HELLO is closed with 4003."""
    network_delay: float = 0.0
    """Time from the bot to the gateway and back, as from a machine far away. Read at the start."""
    invalid_session_delay: float = 1.0
    """Pause before op 9 is sent. Discord takes a few seconds."""
    send_limit: int = 120
    """Gateway messages a client may send per window and connection; more is close code 4008."""
    send_window: float = 60.0
    """Window of ``send_limit``."""
    member_request_window: float = 30.0
    """A request for all members of a guild is answered once in this time, else by RATE_LIMITED. 0: always answered."""

    rest_latency: tuple[float, float] = (0.0, 0.0)
    """Extra time each REST call takes."""
    bucket_limit: int = 1000
    """Calls per bucket and ``bucket_window``. Generous, so that load tests are not throttled unless they ask for it."""
    bucket_window: float = 1.0
    """Window of a REST bucket."""
    global_limit: int = 0
    """Calls per second over all routes but interaction answers (Discord: 50). 0: off."""
    first_answer_seconds: float = 3.0
    """An interaction without a first answer for that long is unknown (10062)."""
    interaction_token_seconds: float = 900.0
    """Life of an interaction token after its first answer."""
    messages_per_channel: int = 2000
    """Messages each channel remembers; older ones are forgotten."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _check(field.name, getattr(self, field.name))

    @property
    def replay_size(self) -> int:
        """Events that a session's replay buffer holds."""
        if self.replay_buffer is not None:
            return self.replay_buffer
        return max(100, min(3500, self.guilds * 75))

    def change(self, values: Mapping[str, Any]) -> None:
        """Set several fields at run time: all of them, or none if one is refused.

        Raises:
            SettingsError: an unknown name, a bad value, or a setting that is read only at the start.
        """
        known = {field.name for field in fields(self)}
        checked: dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                raise SettingsError(f"unknown setting {name!r}; known are: {', '.join(sorted(known))}")
            if name in _READ_AT_START:
                raise SettingsError(f"setting {name!r} is read at the start and cannot be changed at run time")
            checked[name] = _check(name, tuple(value) if isinstance(value, list) else value)
        for name, value in checked.items():
            setattr(self, name, value)


def _check(name: str, value: Any) -> Any:
    if name in ("skew", "rest_latency"):
        return _check_span(name, value)
    if name == "host":
        if value not in ("127.0.0.1", "::1", "localhost"):
            raise SettingsError(f"host must be a loopback address (127.0.0.1, ::1 or localhost), not {value!r}")
        return value
    if name == "reset_token_past_limit" and not isinstance(value, bool):
        raise SettingsError(f"reset_token_past_limit must be true or false, not {value!r}")
    if name == "replay_buffer" and value is None:
        return value
    bounds = _BOUNDS.get(name)
    if bounds is not None:
        whole = SandboxSettings.__annotations__[name].startswith("int")
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            raise SettingsError(f"{name} must be {'a whole number' if whole else 'a number'}, not {value!r}")
        if not bounds[0] <= value <= bounds[1]:
            raise SettingsError(f"{name} must be between {bounds[0]} and {bounds[1]}, not {value!r}")
    return value


def _check_span(name: str, value: Any) -> tuple[float, float]:
    numbers = isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, (int, float)) for part in value)
    if not numbers or not 0 <= value[0] <= value[1] <= 60:
        raise SettingsError(f"{name} must be two seconds (low, high) with 0 <= low <= high <= 60, not {value!r}")
    return (float(value[0]), float(value[1]))
