"""The unit of systemd that runs the supervisor, compared with what a reload and a stop rely on.

Knows `systemctl show` and the unit's keys. Looks, and changes nothing.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping

from bastion.supervisor.durations import start_seconds, stop_seconds
from bastion.supervisor.settings import Settings

FIRST_WORD = 10.0
"""Seconds within which a supervisor, also on a busy machine, asks systemd for as much time as its settings need."""
_UNIT_WANTS = {"Type": "notify", "KillMode": "mixed", "OOMPolicy": "continue"}
_UNIT_SHOWN = (
    *("LoadState", "NotifyAccess", "ExecReload", "TimeoutStopUSec", "TimeoutStartUSec"),
    *("RestartPreventExitStatus", "RestartForceExitStatus"),
)
_SECONDS = {
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "min": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
    "month": 2629800.0,
    "y": 31557600.0,
}
"""How systemd writes durations."""


def look(settings: Settings, *, unit: str) -> tuple[bool, str]:
    """Compare the unit, as systemd has loaded it, with what is relied on: whether it suffices, and what was seen."""
    command = ["systemctl", "show", unit, *(f"--property={name}" for name in (*_UNIT_WANTS, *_UNIT_SHOWN))]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return True, "is there, and systemctl says nothing"
    found = dict(line.partition("=")[::2] for line in done.stdout.decode(errors="replace").splitlines())
    if found.get("LoadState") != "loaded":
        return True, f"is there, without a unit {unit}: see docs/operating.md"
    problems = [
        f"{name} is {found.get(name)}, not {value}" for name, value in _UNIT_WANTS.items() if found.get(name) != value
    ]
    if "supervisor" not in found.get("ExecReload", ""):
        problems.append("ExecReload is not `supervisor reload`, so that a reload cannot fail")
    if "78" not in found.get("RestartPreventExitStatus", "").split():
        problems.append("RestartPreventExitStatus lacks 78: a configuration that cannot work is tried again and again")
    if not {"HUP", "SIGHUP"} & set(found.get("RestartForceExitStatus", "").split()):
        problems.append("RestartForceExitStatus lacks SIGHUP: one that comes too early ends the service for good")
    problems += _too_short(settings, found)
    return not problems, f"{unit}: {'; '.join(problems)}" if problems else f"{unit} is as it should be"


def _too_short(settings: Settings, unit: Mapping[str, str]) -> Iterator[str]:
    """Compare the unit's times with those of the settings.

    A supervisor that systemd listens to asks for what it needs (EXTEND_TIMEOUT_USEC), if it is given the time to.
    """
    heard = unit.get("NotifyAccess") in ("main", "exec", "all")
    for name, what, needed, cost in (
        ("TimeoutStart", "a start or a reload", start_seconds(settings), "ends one that goes well"),
        ("TimeoutStop", "a stop", stop_seconds(settings), "kills handlers that are about to end"),
    ):
        given = _duration(unit.get(f"{name}USec", ""))
        if given is None:
            continue
        if heard and given < FIRST_WORD:
            yield (
                f"{name}Sec is {given:g} s, in which the supervisor may not come to ask for the time that it needs: "
                f"set {name}Sec={needed:g}"
            )
        elif not heard and given < needed:
            yield (
                f"{name}Sec is {given:g} s, {what} may take {needed:g} s, and systemd, which does not listen to the "
                f"supervisor (NotifyAccess), {cost}: set {name}Sec={needed:g}"
            )


def _duration(text: str) -> float | None:
    """Read a duration as `systemctl show` prints it: "1min 30s". None if there is none."""
    if text == "infinity":
        return float("inf")
    parts = re.findall(r"([\d.]+)(us|ms|s|min|h|d|w|month|y)\b", text)
    return sum(float(number) * _SECONDS[unit] for number, unit in parts) if parts else None
