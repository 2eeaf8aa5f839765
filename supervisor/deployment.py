"""`supervisor check --deploy`: what would go wrong in a deployment, before it does.

Looks, and changes nothing; asks Discord once whether it takes the token. Knows where a process may run (systemd, a
container) and which settings of theirs a reload and a stop rely on.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bastion.counted import counted, verb
from bastion.supervisor import __version__, durations, headroom
from bastion.supervisor import unit as systemd_unit
from bastion.supervisor.control_client import NoSupervisorError, RefusedError, fetch_status
from bastion.supervisor.durations import Shards
from bastion.supervisor.ledgerdir import ledger_directory, place_problem
from bastion.supervisor.settings import Settings
from bastion.wire import proxies

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
    shards = None if settings.bot.shards == "auto" else Shards(count=settings.bot.shards, at_once=1)
    yield from _proxies({**environ, **settings.environment})
    if settings.token:
        shards = (yield from _discord(settings, intents=intents)) or shards
    if shards is not None:
        yield _ready_time(settings, shards)
    yield _memory(settings, root=root)
    yield _ledger(settings, environ=environ, root=root)
    yield from _surroundings(settings, shards, root=root, unit=unit)


def _proxies(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Say that a proxy in the bot's environment is nobody's way to Discord. Its value may hold a password."""
    if names := proxies(environ):
        said = (
            f"{' and '.join(names)}: discord.py does not look at it, so this check asks Discord directly, as "
            "the bot will. A client that is given `proxy=` goes another way, which this check does not try"
        )
        yield Finding(name="proxy", ok=True, detail=said)


def _ready_time(settings: Settings, shards: Shards) -> Finding:
    given = settings.handoff.ready_timeout
    least, needed = durations.identify_seconds(settings, shards), durations.ready_seconds(settings, shards)
    text = (
        f"handoff.ready_timeout is {given:g} s; the IDENTIFYs of {counted(shards.count, 'shard')} take {least:g} s "
        f"({shards.at_once} at once)"
    )
    if given <= least:
        text += f", so that no reload could succeed: write ready_timeout = {needed:g}"
    elif given < needed:
        text += f", and their guilds come after that: ready_timeout = {needed:g} is on the safe side"
    return Finding(name="ready time", ok=given > least, detail=text)


def _discord(settings: Settings, *, intents: int | None) -> Generator[Finding, None, Shards | None]:
    """Yield what Discord says; return how the shards will connect, None if it does not say."""
    try:
        answer = _get(settings, "/gateway/bot")
        limit = answer["session_start_limit"]
        shards, remaining, total = int(answer["shards"]), int(limit["remaining"]), int(limit["total"])
        at_once = max(1, int(limit.get("max_concurrency", 1)))
    except urllib.error.HTTPError as error:
        error.close()
        reason = "Discord refused the token (401)" if error.code == 401 else f"Discord answered with {error.code}"
        yield Finding(name="discord", ok=False, detail=f"{reason} at {settings.discord.api_url}")
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = str(getattr(error, "reason", error))
        yield Finding(name="discord", ok=False, detail=f"cannot be reached at {settings.discord.api_url}: {reason}")
        return None
    yield Finding(name="discord", ok=True, detail=f"takes the token, and suggests {counted(shards, 'shard')}")
    count = shards if settings.bot.shards == "auto" else settings.bot.shards
    enough = remaining >= 2 * count
    said = (
        f"{remaining} of {total} IDENTIFYs {verb(remaining)} left today; a reload takes {count} and keeps {count} back"
    )
    yield Finding(name="identifies", ok=enough, detail=said)
    if intents is None:
        said = "were not compared with the Developer Portal's, for nothing was imported: `check --deploy --import` does"
        yield Finding(name="intents", ok=True, detail=said)
    elif any(intents & bit for bit, _ in _PRIVILEGED.values()):
        yield _intents(settings, intents)
    return Shards(count=count, at_once=at_once)


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
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # as discord.py connects
    with directly.open(request, timeout=REST_TIMEOUT) as answer:
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


def _surroundings(settings: Settings, shards: Shards | None, *, root: Path, unit: str) -> Iterator[Finding]:
    contained = (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()
    booted = (root / "run/systemd/system").is_dir()
    if booted:
        ok, said = systemd_unit.look(settings, unit=unit)
        yield Finding(name="systemd", ok=ok, detail=said)
    if contained:
        yield _container(root=root)
        if not booted:
            yield from _engine(settings, shards)
    elif not booted:
        yield Finding(name="service", ok=True, detail="neither systemd nor a container: who restarts the supervisor?")


def _engine(settings: Settings, shards: Shards | None) -> Iterator[Finding]:
    """Name what an engine and the tools before it must be told, for it cannot be seen from inside."""
    needed, beside = durations.stop_seconds(settings), settings.ledger.shared
    text = (
        f"cannot be seen from in here: give it {needed:g} s (docker run --stop-timeout, docker stop --time, "
        f"stop_grace_period). With Docker's own {durations.ENGINES_STOP:g} s handlers are cut"
    )
    text += "".join(f"; {tool}" for tool in durations.too_impatient(durations.STOPS, needed, beside=beside))
    yield Finding(name="stop time", ok=True, detail=text)
    if shards is None:
        text = "how many shards connect is not known here, so a health check's start period cannot be compared"
    else:
        healthy = durations.healthy_seconds(settings, shards)
        count = counted(shards.count, "shard")
        text = f"cannot be seen from in here: {count} ({shards.at_once} at once) may take {healthy:g} s"
        text += "".join(f"; {tool}" for tool in durations.too_impatient(durations.STARTS, healthy, beside=beside))
    yield Finding(name="start time", ok=True, detail=text)


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
