"""What of an app's source concerns a handoff, and what to do about it: `supervisor check` prints it.

Reads the release's files without running them, so it sees what is written there and not what is imported from elsewhere
or decided at run time. Knows Python's syntax and names of discord.py; knows nothing of running bots.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bastion.bot import skipped as skipping
from bastion.bot import sources
from bastion.bot.syntax import Function, dotted, is_none, last
from bastion.bot.written import written

MAX_FILES = 2000
"""Files looked at; a bot has fewer, a directory that is no release may have many more."""
MAX_BYTES = 1024 * 1024
PLACES = 8
"""How many skipped places a warning names."""
_SKIPPED = frozenset({"venv", "env", "node_modules", "site-packages", "__pycache__", "tests", "build", "dist"})

ADVICE: Mapping[str, str] = {
    "loops": "held until the bot is active, ended after their turn in the old one; nothing to do",
    "loops of more than 5 s": "a turn at once in each new bot, so that caches are filled: where that is one too "
    "many, as with a reminder, put @in_step of bastion.lifecycle above it, or use time=",
    "timed views": "answered by the old bot for as long as it lingers; make them persistent if they matter for longer",
    "persistent views": "answered by either bot; nothing to do",
    "wait_for": "goes on in the old bot for as long as it lingers; nothing to do",
    "command sync": "told to Discord at the switch, once a release; nothing to do",
    "export_state": "called at the switch and every state.checkpoint seconds: keep it cheap",
    "import_state": "called before the first event; expect values of other releases",
    "on_activate": "called when the bot handles events from then on",
    "on_deactivate": "called when it takes nothing new any more; the new one is active by then",
    "tasks of its own": "what setup_hook, cog_load or on_ready begin runs in both bots: let it await "
    "lifecycle.wait_until_active(), or begin it in on_activate",
    "voice": "a voice connection ends with its process: connect again in on_activate",
    "a server or port": "the new bot cannot bind what the old one holds, in a thread either: bind in on_activate and "
    "try for a moment, or set SO_REUSEPORT",
    "a database": "both releases use it for some seconds: migrate so that the old code still works",
    "files written below the release": "a deploy that removes old releases removes them too: keep them in a shared "
    "directory (docs/operating.md, Deploying)",
    "a lock": "a lock that the old bot holds until it leaves keeps the new one from starting: take it in on_activate",
    "a process that is to outlive the bot": "everything that a bot starts ends with it: what is to outlive a "
    "generation is a service of its own",
    "a restart of its own": "a copy that a bot starts of itself ends with it: let the command close the client, and "
    "the supervisor starts the bot again",
}
"""What may be found, in the order in which it is told, and what to do about each."""

_STARTS = frozenset({"setup_hook", "cog_load", "on_ready", "on_connect"})
_DATABASES = frozenset(
    {"sqlite3", "aiosqlite", "asyncpg", "psycopg", "psycopg2", "aiomysql", "pymongo", "motor", "redis", "sqlalchemy"}
    | {"tortoise", "peewee", "databases"}
)
_SERVERS = frozenset(
    {"TCPSite", "UnixSite", "start_server", "start_unix_server", "run_app", "create_server", "Quart", "Flask"}
    | {"HTTPServer", "ThreadingHTTPServer", "serve_forever", "make_server", "start_http_server", "start_wsgi_server"}
)
_SERVING = ("uvicorn.run", "uvicorn.Server", "hypercorn.run", "waitress.serve", "bottle.run", "websockets.serve")
_SERVE = frozenset({"hypercorn", "waitress", "websockets"})
"""Packages whose function `serve` listens."""
_LOCKS = frozenset({"flock", "lockf", "FileLock", "PidFile", "InterProcessLock"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One use of something that concerns a handoff."""

    what: str
    """A key of `ADVICE`."""
    file: str
    line: int


def survey(directory: Path) -> list[Finding]:
    """Return what the Python files of a release use, by `ADVICE`'s order, then by file and line."""
    if directory.is_file():  # a module alone: its neighbours are no part of the program
        return _read(directory, directory.parent)
    found = [finding for path in _files(directory) for finding in _read(path, directory)]
    order = list(ADVICE)
    return sorted(found, key=lambda finding: (order.index(finding.what), finding.file, finding.line))


def is_looked_at(file: Path, directory: Path) -> bool:
    """Whether `survey` of this directory reads that file."""
    return not any(name in _SKIPPED or name.startswith(".") for name in file.relative_to(directory).parts[:-1])


def survey_source(source: str, *, file: str) -> list[Finding]:
    """Return what one file uses; nothing if it is not Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    findings = {Finding(what=what, file=file, line=line) for what, line in _walk(tree)}
    return sorted(findings, key=lambda finding: (finding.line, finding.what))


def _files(directory: Path) -> Iterator[Path]:
    count = 0
    for root, folders, files in os.walk(directory):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("."))
        for name in sorted(files):
            if name.endswith(".py"):
                count += 1
                if count > MAX_FILES:
                    return
                yield Path(root) / name


def _read(path: Path, directory: Path) -> list[Finding]:
    try:
        if path.stat().st_size > MAX_BYTES:
            return []
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    return survey_source(source, file=str(path.relative_to(directory)))


def _walk(tree: ast.Module) -> Iterator[tuple[str, int]]:
    marked = {name for node in ast.walk(tree) for name in _marks(node)}
    serves = any(_SERVE & _roots(node) for node in ast.walk(tree))
    yield from (("files written below the release", line) for line in written(tree))
    for node in ast.walk(tree):
        match node:
            case ast.Import() | ast.ImportFrom():
                if _roots(node) & _DATABASES:
                    yield "a database", node.lineno
            case ast.ClassDef():
                yield from ((what, node.lineno) for what in _class(node))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from _function(node)
                yield from ((what, node.lineno) for what in _loops(node, marked))
            case ast.Call():
                yield from ((what, node.lineno) for what in _called(node, serves=serves))
                yield from ((what, node.lineno) for what in _processes(node))
            case ast.Attribute(attr="export_state" | "import_state" as name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.Attribute(attr="setsid", value=ast.Name(id="os")):
                yield "a process that is to outlive the bot", node.lineno


def _roots(node: ast.AST) -> set[str]:
    """Return the packages that a statement imports from."""
    match node:
        case ast.ImportFrom(module=module):
            return {(module or "").partition(".")[0]}
        case ast.Import(names=names):
            return {alias.name.partition(".")[0] for alias in names}
        case _:
            return set()


def _class(node: ast.ClassDef) -> Iterator[str]:
    bases = {last(base.value if isinstance(base, ast.Subscript) else base) for base in node.bases}
    if "DynamicItem" in bases:
        yield "persistent views"
    if bases & {"View", "LayoutView"}:
        persistent = any(
            isinstance(part, ast.keyword) and part.arg == "timeout" and is_none(part.value) for part in ast.walk(node)
        )
        yield "persistent views" if persistent else "timed views"


def _function(node: Function) -> Iterator[tuple[str, int]]:
    if node.name in ("export_state", "import_state", "on_activate", "on_deactivate"):
        yield node.name, node.lineno
    if node.name in _STARTS:
        for part in ast.walk(node):
            if isinstance(part, ast.Call) and last(part.func) in ("create_task", "ensure_future"):
                yield "tasks of its own", part.lineno
    copies = [part.lineno for part in ast.walk(node) if isinstance(part, ast.Call) and _is_copy(part)]
    if copies and any(isinstance(part, ast.Call) and _is_exit(part) for part in ast.walk(node)):
        yield from (("a restart of its own", line) for line in copies)


def _is_copy(node: ast.Call) -> bool:
    """Whether a call starts this interpreter once more."""
    return any(
        isinstance(part, ast.Attribute) and dotted(part) == "sys.executable"
        for argument in node.args
        for part in ast.walk(argument)
    )


def _is_exit(node: ast.Call) -> bool:
    return dotted(node) in ("sys.exit", "os._exit", "exit", "quit") or last(node.func) == "close"


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and not node.value


def _processes(node: ast.Call) -> Iterator[str]:
    name, texts = dotted(node), [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
    if name.startswith(("os.execv", "os.execl")):
        yield "a restart of its own"
    apart = any(word.arg == "start_new_session" and not _is_false(word.value) for word in node.keywords)
    apart = apart or last(node.func) in ("daemonize", "DaemonContext", "Daemonize")
    if apart or any(isinstance(text, str) and text.split()[:1] == ["nohup"] for text in texts):
        yield "a process that is to outlive the bot"


def _marks(node: ast.AST) -> Iterator[str]:
    """Return the names of loops that are marked other than above them: by a call, or by the attribute that it sets."""
    match node:
        case ast.Call(func=function, args=[loop]) if last(function) == "in_step":
            yield last(loop)
        case ast.Assign(targets=[ast.Attribute(attr="in_step", value=ast.Attribute(attr="coro", value=loop))]):
            yield last(loop)


def _loops(node: Function, marked: set[str]) -> Iterator[str]:
    names = {last(decorator) for decorator in node.decorator_list}
    for decorator in node.decorator_list:
        if dotted(decorator).endswith("tasks.loop"):
            in_step = "in_step" in names or node.name in marked
            words = decorator.keywords if isinstance(decorator, ast.Call) else []
            yield "loops" if in_step or not _is_slow(words) else "loops of more than 5 s"


def _is_slow(words: Iterable[ast.keyword]) -> bool:
    """Whether a loop has, or may have, an interval of more than 5 s: what is not a plain number may be any."""
    factors = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0}
    seconds = 0.0
    for word in words:
        if word.arg == "time":
            return False
        if word.arg is None or word.arg in factors:
            if not isinstance(word.value, ast.Constant) or not isinstance(word.value.value, int | float):
                return True
            seconds += word.value.value * factors[word.arg or "seconds"]
    return seconds > 5


def _called(node: ast.Call, *, serves: bool) -> Iterator[str]:
    name, whole = last(node.func), dotted(node)
    if name == "sync" and "tree" in whole:
        yield "command sync"
    elif name == "wait_for" and not whole.startswith("asyncio."):
        yield "wait_for"
    elif name in ("add_view", "add_dynamic_items"):
        yield "persistent views"
    elif name == "View" and not any(word.arg == "timeout" and is_none(word.value) for word in node.keywords):
        yield "timed views"
    elif name in _SERVERS or whole in _SERVING or (serves and name == "serve") or _is_web_run(node):
        yield "a server or port"
    elif name in _LOCKS:
        yield "a lock"
    elif (name == "connect" and "voice" in whole) or name == "join_voice_channel" or name == "VoiceClient":
        yield "voice"


def _is_web_run(node: ast.Call) -> bool:
    """Whether it is ``app.run(port=...)``, as of Flask; a client's takes neither port nor host."""
    return last(node.func) == "run" and any(word.arg in ("port", "host") for word in node.keywords)


def skipped(directory: Path, app: str, *, path: Sequence[str] = ()) -> list[str]:
    """Return the places of the app's own `main()` that `bot.app` leaves out, each as "file:line name"."""
    return _skipped(directory, app, path)[0]


def told_so(directory: Path, app: str, *, path: Sequence[str] = ()) -> str:
    """Return a warning of one line about the places that `skipped` finds; "" without any."""
    places, program = _skipped(directory, app, path)
    if not places:
        return ""
    advice = f'bot.program = "{program}" runs it' if program else "a program named in bot.program would run it"
    more = f" and {len(places) - PLACES} more" if len(places) > PLACES else ""
    return f'bot.app = "{app}" leaves out what its own program does: {", ".join(places[:PLACES])}{more}: {advice}'


def _skipped(directory: Path, app: str, path: Sequence[str]) -> tuple[list[str], str]:
    try:
        source = sources.app(app, directory=directory, path=path)
        found, program = skipping.skipped(source, app, directory)
    except (sources.SourceError, OSError, RecursionError):  # the start of the app says what is wrong
        return [], ""
    return [str(one) for one in found], program


def by_kind(findings: Iterable[Finding]) -> dict[str, list[str]]:
    """Return places, as file:line, by what was found there."""
    places: dict[str, list[str]] = {}
    for finding in findings:
        places.setdefault(finding.what, []).append(f"{finding.file}:{finding.line}")
    return places
