"""`supervisor check --deploy`: what would go wrong in a deployment, before it does.

Looks, and changes nothing; asks Discord once whether it takes the token. Knows where a process may run (systemd, a
container) and which settings of theirs a reload and a stop rely on.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bastion.supervisor import __version__, headroom, limits
from bastion.supervisor.control_client import NoSupervisorError, RefusedError, fetch_status
from bastion.supervisor.ledgerdir import ledger_directory, place_problem
from bastion.supervisor.settings import Settings
from bastion.supervisor.systemd import MARGIN

REST_TIMEOUT = 10.0
"""Seconds for Discord to answer."""
UNIT = "bastion.service"
SMALLEST_BOT = 50 * 1024 * 1024
"""Bytes that a bot of discord.py takes with few guilds, where none runs that could be looked at."""
_PRIVILEGED = {
    "presences": (1 << 8, 0b11 << 12),
    "members": (1 << 1, 0b11 << 14),
    "message content": (1 << 15, 0b11 << 18),
}
"""By name: the bit of the intent, and the flags of an application that has it (the second for small bots)."""
_AGENT = f"DiscordBot (https://pypi.org/project/bastion-supervisor, {__version__})"
SMALLEST_LEDGER = 32 * 1024 * 1024
"""Bytes for the claims: 10 MB take those of 15 minutes with 100 events a second, which is as long as they are kept."""
FIRST_WORD = 10.0
"""Seconds within which a supervisor, also on a busy machine, asks systemd for as much time as its settings need."""
STOP_MARGIN = 12.0
"""Seconds that a stop may take beyond the supervisor's own limits, on a busy machine."""
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
_INITS = ("docker-init", "tini", "dumb-init", "catatonit", "s6-svscan", "runsvdir", "systemd", "init")
_SHELLS = ("sh", "bash", "dash", "ash", "busybox")
_ON_MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


def findings(
    settings: Settings, *, intents: int | None, environ: Mapping[str, str], root: Path = Path("/"), unit: str = UNIT
) -> Iterator[Finding]:
    """Yield what was found, the token's part first.

    ``intents`` are those of the app, None if they are not known. Without a token Discord is not asked. ``root`` is
    where /proc, /run and the like are.
    """
    if settings.token:
        yield from _discord(settings, intents=intents)
    yield _memory(settings, root=root)
    yield _ledger(settings, environ=environ, root=root)
    yield from _surroundings(settings, root=root, unit=unit)


def _discord(settings: Settings, *, intents: int | None) -> Iterator[Finding]:
    try:
        answer = _get(settings, "/gateway/bot")
        limit = answer["session_start_limit"]
        shards, remaining, total = int(answer["shards"]), int(limit["remaining"]), int(limit["total"])
    except urllib.error.HTTPError as error:
        error.close()
        reason = "Discord refused the token (401)" if error.code == 401 else f"Discord answered with {error.code}"
        yield Finding(name="discord", ok=False, detail=f"{reason} at {settings.discord.api_url}")
        return
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = str(getattr(error, "reason", error))
        yield Finding(name="discord", ok=False, detail=f"cannot be reached at {settings.discord.api_url}: {reason}")
        return
    yield Finding(name="discord", ok=True, detail=f"takes the token, and suggests {shards} shards")
    count = shards if settings.bot.shards == "auto" else settings.bot.shards
    enough = remaining >= 2 * count
    said = f"{remaining} of {total} IDENTIFYs are left today; a reload takes {count} and keeps {count} back"
    yield Finding(name="identifies", ok=enough, detail=said)
    if intents is None:
        said = "were not compared with the Developer Portal's, for nothing was imported: `check --deploy --import` does"
        yield Finding(name="intents", ok=True, detail=said)
    elif any(intents & bit for bit, _ in _PRIVILEGED.values()):
        yield _intents(settings, intents)


def _intents(settings: Settings, intents: int) -> Finding:
    """Compare the privileged intents that the app asks for with those that the Developer Portal has enabled."""
    asked = [name for name, (bit, _) in _PRIVILEGED.items() if intents & bit]
    try:
        flags = int(_get(settings, "/applications/@me")["flags"])
    except (OSError, ValueError, LookupError, TypeError):
        return Finding(name="intents", ok=True, detail=f"asks for {', '.join(asked)}; whether it may is not known")
    missing = [name for name in asked if not flags & _PRIVILEGED[name][1]]
    if missing:
        text = f"{', '.join(missing)}: asked for, and not enabled on the Bot page of the Developer Portal"
        return Finding(name="intents", ok=False, detail=text)
    return Finding(name="intents", ok=True, detail=f"{', '.join(asked)} are enabled")


def _get(settings: Settings, path: str) -> Any:
    request = urllib.request.Request(
        f"{settings.discord.api_url}{path}",
        headers={"Authorization": f"Bot {settings.token}", "User-Agent": _AGENT},
    )
    with urllib.request.urlopen(request, timeout=REST_TIMEOUT) as answer:
        return json.loads(answer.read(64 * 1024))


def _memory(settings: Settings, *, root: Path) -> Finding:
    room = headroom.tightest(root=root)
    if room is None:
        return Finding(name="memory", ok=True, detail="no limit can be read here")
    try:
        children = fetch_status(settings.control.socket)["children"]
        size = next((child["rss_bytes"] for child in children if child["role"] == "active"), None)
    except (NoSupervisorError, RefusedError, LookupError):
        size = None
    free = f"{headroom.human(room.free)} are free ({room.source})"
    if size is not None:
        needed = int(size * settings.handoff.headroom)
        text = f"{free}; a second bot needs {headroom.human(needed)}"
        return Finding(name="memory", ok=needed <= room.free, detail=text)
    each = int(room.free / (1 + settings.handoff.headroom))
    text = f"{free}: room for two bots of {headroom.human(each)} each"
    return Finding(name="memory", ok=each >= SMALLEST_BOT, detail=text)


def _ledger(settings: Settings, *, environ: Mapping[str, str], root: Path) -> Finding:
    if problem := place_problem(settings.ledger.path, environ=environ):
        return Finding(name="ledger", ok=False, detail=problem)
    home = ledger_directory(settings.ledger.path, environ=environ)
    directory = home if home.exists() else home.parent
    kind = _file_system(directory, root=root)[0]
    where = {"": "", **dict.fromkeys(_ON_MEMORY, ", on memory")}.get(kind, f", on {kind}: claims are quicker on memory")
    found = os.statvfs(directory)
    free = found.f_bavail * found.f_frsize
    if found.f_blocks and free < SMALLEST_LEDGER:
        text = f"{directory}{where}; only {headroom.human(free)} are free, give it {headroom.human(SMALLEST_LEDGER)}"
        return Finding(name="ledger", ok=False, detail=text)
    made = "" if home == directory else f"; the claims go to {home}, which nobody else may enter"
    return Finding(name="ledger", ok=True, detail=f"{directory} is writable{where}{made}")


def _file_system(path: Path, *, root: Path) -> tuple[str, bool]:
    """Return the type of the file system that a path is on ("" if that cannot be read), and whether it is read-only."""
    best, kind, read_only = -1, "", False
    try:
        lines = (root / "proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    wanted = path.resolve()
    for line in lines:
        mounted, _, system = line.partition(" - ")
        try:
            point, options = mounted.split()[4:6]
            name, _, more = system.split()[:3]
        except ValueError:
            continue
        depth = len(Path(point).parts)
        if wanted.is_relative_to(point) and depth >= best:  # a later mount hides an earlier one
            best, kind, read_only = depth, name, "ro" in (*options.split(","), *more.split(","))
    return kind, read_only


def _surroundings(settings: Settings, *, root: Path, unit: str) -> Iterator[Finding]:
    contained = (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()
    booted = (root / "run/systemd/system").is_dir()
    if booted:
        yield _systemd(settings, unit=unit)
    if contained:
        yield _container(root=root)
        if not booted:
            needed = stop_seconds(settings)
            text = (
                f"cannot be seen from in here: give it {needed:g} s (docker stop --time, stop_grace_period). With "
                "Docker's own 10 s handlers are cut"
            )
            yield Finding(name="stop time", ok=True, detail=text)
    elif not booted:
        yield Finding(name="service", ok=True, detail="neither systemd nor a container: who restarts the supervisor?")


def start_seconds(settings: Settings) -> float:
    """Return how long a start or a reload that goes well may take, with a margin."""
    times = settings.handoff
    return times.ready_timeout + times.probation + times.drain_timeout + MARGIN


def stop_seconds(settings: Settings) -> float:
    """Return how long a stop may take, with a margin; beside other supervisors it first waits for one of them."""
    drain = settings.handoff.drain_timeout
    waits = drain if settings.ledger.shared else 0.0
    return waits + drain + limits.DRAIN_GRACE + limits.TERM_GRACE + STOP_MARGIN


def _container(*, root: Path) -> Finding:
    """Say what of a container can be seen from inside, where nobody tells its options."""
    try:
        words = (root / "proc/1/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        words = []
    name = Path(words[0]).name if words else ""
    ok = True
    if name in _SHELLS:
        ok = False
        said = (
            f"PID 1 is {name}, which passes no signals on: `docker stop` would cut handlers, SIGHUP would not reload. "
            "Begin its command with `exec`"
        )
    elif name in _INITS:
        said = f"PID 1 is {name}; the supervisor needs no init, and gets its signals from this one"
    elif any(Path(word).name == "supervisor" for word in words[:3]):
        said = "the supervisor is PID 1, and reaps orphans"
    else:
        said = f"PID 1 is {name or 'not to be seen'}; it must pass signals on to the supervisor"
    _, read_only = _file_system(Path("/"), root=root)
    user = "root, which it need not be" if os.getuid() == 0 else f"uid {os.getuid()}"
    return Finding(
        name="container",
        ok=ok,
        detail=f"{said}; root file system {'read-only' if read_only else 'writable'}; as {user}",
    )


def _systemd(settings: Settings, *, unit: str) -> Finding:
    """Compare the unit, as systemd has loaded it, with what a reload and a stop rely on."""
    command = ["systemctl", "show", unit, *(f"--property={name}" for name in (*_UNIT_WANTS, *_UNIT_SHOWN))]
    try:
        done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return Finding(name="systemd", ok=True, detail="is there, and systemctl says nothing")
    found = dict(line.partition("=")[::2] for line in done.stdout.decode(errors="replace").splitlines())
    if found.get("LoadState") != "loaded":
        return Finding(name="systemd", ok=True, detail=f"is there, without a unit {unit}: see docs/operating.md")
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
    said = f"{unit}: {'; '.join(problems)}" if problems else f"{unit} is as it should be"
    return Finding(name="systemd", ok=not problems, detail=said)


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
