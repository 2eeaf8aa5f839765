"""`supervisor check --deploy`: what would go wrong in a deployment, before it does.

Looks, and changes nothing; asks Discord once whether it takes the token. Knows where a process may run (systemd, a
container) and which settings of theirs a reload and a stop rely on.
"""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor import __version__, headroom
from supervisor.control_client import NoSupervisorError, RefusedError, fetch_status
from supervisor.ledgerdir import base_directory
from supervisor.settings import Settings

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
_UNIT_WANTS = {"Type": "notify", "KillMode": "mixed", "OOMPolicy": "continue"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


def findings(
    settings: Settings, *, intents: int, environ: Mapping[str, str], root: Path = Path("/"), unit: str = UNIT
) -> Iterator[Finding]:
    """Yield what was found, the token's part first.

    ``intents`` are those of the app, 0 if they are not known. ``root`` is where /proc, /run and the like are.
    """
    yield from _discord(settings, intents=intents)
    yield _memory(settings, root=root)
    yield _ledger(settings, environ=environ)
    yield from _surroundings(settings, root=root, unit=unit)


def _discord(settings: Settings, *, intents: int) -> Iterator[Finding]:
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
    if any(intents & bit for bit, _ in _PRIVILEGED.values()):
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


def _ledger(settings: Settings, *, environ: Mapping[str, str]) -> Finding:
    directory = settings.ledger.path.parent if settings.ledger.path else base_directory(environ)
    if not directory.is_dir():
        return Finding(name="ledger", ok=False, detail=f"there is no directory {directory}")
    usable = os.access(directory, os.W_OK | os.X_OK)
    return Finding(name="ledger", ok=usable, detail=f"{directory} is {'' if usable else 'not '}writable")


def _surroundings(settings: Settings, *, root: Path, unit: str) -> Iterator[Finding]:
    contained = (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()
    if (root / "run/systemd/system").is_dir():
        yield _systemd(settings, unit=unit)
    if contained:
        needed = settings.handoff.drain_timeout + 30
        yield Finding(
            name="container",
            ok=True,
            detail=f"give it a stop timeout of {needed:g} s (docker stop --time, stop_grace_period): the default is 10",
        )
    elif not (root / "run/systemd/system").is_dir():
        yield Finding(name="service", ok=True, detail="neither systemd nor a container: who restarts the supervisor?")


def _systemd(settings: Settings, *, unit: str) -> Finding:
    """Compare the unit, as systemd has loaded it, with what a reload and a stop rely on."""
    names = [*_UNIT_WANTS, "LoadState", "ExecReload", "TimeoutStopUSec", "TimeoutStartUSec", "RestartPreventExitStatus"]
    command = ["systemctl", "show", unit, *(f"--property={name}" for name in names)]
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
    said = f"{unit}: {'; '.join(problems)}" if problems else f"{unit} is as it should be"
    return Finding(name="systemd", ok=not problems, detail=said)
