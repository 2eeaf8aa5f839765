"""The part of `supervisor check` about a program or an app: asks ``bastion.bot.checking`` in the release's interpreter.

The checking process sees no token, starts without the release on the import path, and ends with all its children. This
module knows the process's command line and answer, and nothing of discord.py.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bastion.supervisor import guarded
from bastion.supervisor.child import LAUNCHER
from bastion.supervisor.printable import escaped
from bastion.supervisor.release import Release

APP_TIMEOUT = 60.0
"""Seconds that a look at an app may take, with its import. A start allows handoff.ready_timeout for everything."""

PLACES = 3
"""How many places of one use are named."""
SKIPPED_PLACES = 8
"""How many skipped places are named."""
_TOKEN = re.compile(r"[\w-]{23,28}\.[\w-]{6}\.[\w-]{27,}")
"""The shape of Discord's tokens: a program may keep its own token in any variable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    intents: int | None = None
    """Of the client, if they are known."""

    def __str__(self) -> str:
        return f"{'OK' if self.ok else 'FAIL':<4}  {self.name:<11}  {escaped(self.detail)}"


def look(
    release: Release, *, environ: Mapping[str, str], token: str, imported: bool = False, timeout: float = APP_TIMEOUT
) -> list[Check]:
    """Look at the release's program or app; import it if ``imported``. ``timeout`` is in seconds.

    The first result is about the program or app itself, the others about the uses that the source shows.
    """
    withheld = sorted({"DISCORD_TOKEN"} | {name for name, value in environ.items() if _is_token(value, token)})
    path, ours = _python_path(environ.get("PYTHONPATH", ""), release.directory)
    given = {name: value for name, value in environ.items() if name not in (*withheld, "PYTHONPATH")}
    done = guarded.run(
        _command(release, imported=imported, withheld=withheld, path=path),
        timeout=timeout,
        environ=given | ({"PYTHONPATH": ours} if ours else {}),
        directory=release.directory,
    )
    try:
        return list(_told(release, json.loads(done.out), imported=imported))
    except (ValueError, LookupError, TypeError, AttributeError):
        return [_entry(release, ok=False, detail=_unanswered(release, done, timeout))]


def _is_token(value: str, token: str) -> bool:
    return bool(token and value.strip() == token) or _TOKEN.fullmatch(value.strip()) is not None


def _command(release: Release, *, imported: bool, withheld: Sequence[str], path: Sequence[str]) -> list[str]:
    what = f"--program={release.program}" if release.program else f"--app={release.app}"
    options = ["--directory", str(release.directory), what, f"--withheld={','.join(withheld)}"]
    options += [f"--path={os.pathsep.join(path)}"] if path else []
    options += ["--import"] if imported else []
    return [str(release.python), str(LAUNCHER), "check", *options, "--", *release.args]


def _python_path(text: str, directory: Path) -> tuple[list[str], str]:
    """Return the entries of PYTHONPATH, and the part of it for the interpreter's start.

    Only entries with this project are in that part: others may hold a sitecustomize.py, or modules with our names.
    """
    entries = [str(directory / entry) for entry in text.split(os.pathsep)] if text else []
    ours = [
        entry
        for entry in entries
        if not Path(entry).resolve().is_relative_to(directory) and (Path(entry) / "bastion/wire/__init__.py").is_file()
    ]
    return entries, os.pathsep.join(ours)


def _told(release: Release, answer: Mapping[str, Any], *, imported: bool) -> Iterator[Check]:
    intents = None if answer["intents"] is None else int(answer["intents"])
    text, kind = release.entry, str(answer["kind"])
    if answer["problem"]:
        problem = str(answer["problem"])
        yield _entry(release, ok=False, detail=problem if text in problem else f"{text}: {problem}")
        return
    if kind:
        text += f": {kind}, intents {intents}"
    elif answer["note"]:
        text += f": {answer['note']}"
    elif not imported:
        text += ": is there; `check --import` imports it, and says class and intents"
    yield _entry(release, ok=True, detail=text, intents=intents)
    if answer["skipped"]:
        yield Check(name="skipped", ok=True, detail=_skipped(release, answer["skipped"], str(answer["program"])))
    for use in answer["uses"]:
        yield Check(name="uses", ok=True, detail=f"{use['what']} ({_listed(use['places'], PLACES)}): {use['advice']}")


def _entry(release: Release, *, ok: bool, detail: str, intents: int | None = None) -> Check:
    return Check(name="program" if release.program else "app", ok=ok, detail=detail, intents=intents)


def _skipped(release: Release, places: Sequence[str], program: str) -> str:
    advice = f'bot.program = "{program}" runs it' if program else "a program named in bot.program would run it"
    return f"{release.app} is started without what its own program does ({_listed(places, SKIPPED_PLACES)}): {advice}"


def _listed(places: Sequence[str], limit: int) -> str:
    return ", ".join(places[:limit]) + (f" and {len(places) - limit} more" if len(places) > limit else "")


def _unanswered(release: Release, done: guarded.Done, timeout: float) -> str:
    if done.unstarted:
        return f"{release.python} cannot be run: {done.last}"
    if done.timed_out:
        return f"{release.entry}: its check takes longer than {timeout:g} s"
    last = done.last.splitlines()[-1] if done.last else ""
    if "No module named" in last and "bastion" in last:
        return f"{release.python} has no bastion of this version: install it into that environment ({last})"
    if done.code > 128:
        last = f"ended by {signal.Signals(done.code - 128).name}"
    return f"{release.entry}: the check gave no answer: {last or f'it ended with {done.code}'}"
