"""The work that an app's own `main()` does beside starting the client: `bot.app` leaves this work out.

Reads source and executes none. Knows the common ways to start a bot: a function or a guarded block calls
``client.run()`` or ``client.start()``, and calls functions of the same file.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bastion.bot.sources import Source, SourceError, module, read, shown_as
from bastion.bot.syntax import Function, dotted, is_guard, last, outer

MAX_FILES = 50
"""Files beside the app's own that are looked at."""
_STARTS = frozenset({"run", "start", "connect"})
_NOTHING_MORE = frozenset({"run", "start", "connect", "login", "close", "setup_hook"})
"""Methods of the client that every start calls."""
_WAITS = frozenset({"sleep", "wait", "wait_for", "shield", "Event", "timeout"})
_DEEDS = frozenset(
    {"load_extension", "load_extensions", "add_cog", "create_task", "ensure_future", "Thread", "run_in_executor"}
    | {"create_pool", "create_engine", "create_async_engine", "ClientSession", "run_app", "TCPSite", "start_server"}
    | {"serve_forever", "start_http_server", "Popen", "sync"}
)
"""Calls that have an effect without `await`."""


@dataclass(frozen=True, slots=True, order=True)
class Skipped:
    """A place in the source that runs with the program and not with the app."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """One file that may start the client."""

    tree: ast.Module
    clients: frozenset[str]
    """Names in this file of the client, the client's class and the function that makes the client."""
    is_app: bool
    """Whether `bot.app` names this module: an app runs the outer statements too."""

    @property
    def functions(self) -> dict[str, Function]:
        found = (node for node in outer(self.tree.body) if isinstance(node, Function))
        return {node.name: node for node in found if not node.decorator_list}


def skipped(source: Source, app: str, directory: Path) -> tuple[list[Skipped], str]:
    """Return the places that `bot.app` leaves out, and the `bot.program` that runs them ("": none seen)."""
    if source.tree is None or source.file is None:
        return [], ""
    found, program = set(_overridden(source.tree, app.partition(":")[2], source.file, directory)), ""
    for file, tree in _candidates(source, app, directory):
        looked_at = _named(file, tree, source, app)
        if looked_at is None:
            continue
        places = {Skipped(shown_as(file, directory), line, what) for line, what in _beside(looked_at)}
        if (places or found) and not program and _is_program(looked_at):
            program = _as_program(file, directory)
        found |= places
    return sorted(found), program


def starts_when_imported(tree: ast.Module, attribute: str) -> int | None:
    """Return the line where a module starts the client while it is imported; None if it does not."""
    file = _File(tree=tree, clients=_clients(tree, {attribute}), is_app=True)
    for node in _unguarded(tree.body):
        if isinstance(node, ast.Call):
            ran = last(node.args[0]) if dotted(node.func) == "asyncio.run" and node.args else ""
            if _is_start(node, file.clients) or ran in _starters(file):
                return node.lineno
    return None


def _candidates(source: Source, app: str, directory: Path) -> Iterator[tuple[Path, ast.Module]]:
    """Yield the app's own file, and files beside it or at the top of the release that have the attribute's name."""
    assert source.file is not None
    assert source.tree is not None
    yield source.file, source.tree
    beside = {path for folder in (source.file.parent, directory) for path in folder.glob("*.py")} - {source.file}
    name = app.partition(":")[2].partition(".")[0].encode()
    for path in sorted(beside)[:MAX_FILES]:
        with suppress(SourceError, OSError):
            if name in path.read_bytes():
                yield path, read(path, directory=directory)


def _named(file: Path, tree: ast.Module, source: Source, app: str) -> _File | None:
    """Return a file with the client's names in it; None if the file does not use the client."""
    name, _, attribute = app.partition(":")
    first = attribute.partition(".")[0]
    is_app = file == source.file
    names = {first} if is_app else {given for node in ast.walk(tree) for given in _imported(node, name, first)}
    return _File(tree=tree, clients=_clients(tree, names), is_app=is_app) if names else None


def _imported(node: ast.AST, name: str, attribute: str) -> Iterator[str]:
    """Yield the client's name in a file, as an import of the app's module gives it."""
    if isinstance(node, ast.Import):
        yield from (f"{alias.asname or alias.name}.{attribute}" for alias in node.names if alias.name == name)
    elif isinstance(node, ast.ImportFrom):
        origin = node.module or ""
        for alias in node.names:
            is_module = origin == name or (node.level > 0 and name.endswith(f".{origin}"))
            if alias.name == attribute and (is_module or (node.level > 0 and not origin)):
                yield alias.asname or alias.name
            elif f"{origin}.{alias.name}" == name or (node.level > 0 and name.endswith(f".{alias.name}")):
                yield f"{alias.asname or alias.name}.{attribute}"


def _clients(tree: ast.Module, names: set[str]) -> frozenset[str]:
    """Return the client's names and the names of variables that hold the client."""
    found = set(names)
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[target], value=value) | ast.AnnAssign(target=target, value=ast.expr() as value):
                pair = (target, value)
            case ast.withitem(context_expr=value, optional_vars=ast.expr() as target):
                pair = (target, value)
            case _:
                continue
        if dotted(pair[1]) in found:
            found.add(dotted(pair[0]))
    return frozenset(found)


def _is_start(node: ast.AST, clients: Iterable[str]) -> bool:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    return node.func.attr in _STARTS and dotted(node.func.value) in clients


def _starters(file: _File) -> set[str]:
    """Return the functions that start the client, directly or through another function."""
    functions = file.functions
    found = {
        name
        for name, node in functions.items()
        if any(_is_start(part, file.clients) for part in ast.walk(node)) and name not in file.clients
    }
    while more := {name for name, node in functions.items() if _mentions([node]) & found} - found - file.clients:
        found |= more
    return found


def _mentions(nodes: Iterable[ast.AST]) -> set[str]:
    return {part.id for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name)}


def _unguarded(statements: Iterable[ast.AST]) -> Iterator[ast.AST]:
    return outer(node for node in statements if not is_guard(node))


def _blocks(file: _File) -> list[ast.AST]:
    """Return the outer statements that run with the program and not with the import of the app."""
    guarded: list[ast.AST] = [
        part for node in file.tree.body if isinstance(node, ast.If) and is_guard(node) for part in node.body
    ]
    if file.is_app:
        return guarded
    kept = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node for node in file.tree.body if not isinstance(node, kept) and not is_guard(node)] + guarded


def _is_program(file: _File) -> bool:
    """Whether executing this file starts the client."""
    blocks, starters = _blocks(file), _starters(file)
    return bool(_mentions(blocks) & starters) or any(
        _is_start(part, file.clients) for node in blocks for part in ast.walk(node)
    )


def _beside(file: _File) -> Iterator[tuple[int, str]]:
    """Yield line and name of the work that a file does beside starting the client."""
    starters, functions = _starters(file), file.functions
    blocks = _blocks(file) if _is_program(file) else []
    if not starters and not blocks:
        return
    reached = _reached(functions, starters | _mentions(blocks) & set(functions))
    if file.is_app:  # an app calls the function that makes the client too, and the functions called on import
        made = set(file.clients) | {
            last(node.func) for node in _unguarded(file.tree.body) if isinstance(node, ast.Call)
        }
        reached -= _reached(functions, (made & set(functions)) - starters)
    for node in [*blocks, *(functions[name] for name in reached)]:
        yield from _deeds(node, file.clients, set(functions))


def _reached(functions: dict[str, Function], names: set[str]) -> set[str]:
    """Return the functions that can be reached from functions of these names."""
    found = set(names)
    while more := _mentions(functions[name] for name in found) & set(functions) - found:
        found |= more
    return found


def _deeds(block: ast.AST, clients: frozenset[str], followed: set[str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(block):
        match node:
            case ast.Await(value=ast.Call() as call) if not _is_plain(call, clients, followed):
                yield node.lineno, dotted(call)
            case ast.AsyncWith(items=items):
                contexts = [item.context_expr for item in items]
                yield from ((node.lineno, dotted(one)) for one in contexts if not _is_plain(one, clients, followed))
            case ast.Call(func=function) if last(function) in _DEEDS and not _is_plain(node, clients, followed):
                yield node.lineno, dotted(function)
            case ast.Assign(targets=[ast.Attribute(value=value) as target]) if dotted(value) in clients:
                yield node.lineno, f"{dotted(target)} ="
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for decorator in node.decorator_list:
                    if dotted(decorator).rpartition(".")[0] in clients:
                        yield node.lineno, f"@{dotted(decorator)}"


def _is_plain(node: ast.expr, clients: frozenset[str], followed: set[str]) -> bool:
    """Whether a call is no news: a start or close of the client, a pause, or a function of this file."""
    name = dotted(node)
    receiver, _, method = name.rpartition(".")
    if not name or name in clients or name in followed or method in _WAITS:
        return True
    if method in ("gather", "create_task", "ensure_future") and isinstance(node, ast.Call):
        return all(_is_plain(part, clients, followed) for part in node.args if isinstance(part, ast.Call))
    return receiver in clients and method in _NOTHING_MORE


def _overridden(tree: ast.Module, attribute: str, file: Path, directory: Path) -> Iterator[Skipped]:
    """Yield a ``run`` of the client's own, which no app calls, and a ``start`` that takes no token."""
    for name in _class_names(tree, attribute.partition(".")[0]):
        where, node = _class(tree, name, file, directory)
        for method in node.body if node else ():
            if isinstance(method, Function) and _does_more(method):
                yield Skipped(shown_as(where, directory), method.lineno, f"{name}.{method.name}")


def _class_names(tree: ast.Module, attribute: str) -> set[str]:
    """Return possible classes of the client: the attribute, the call assigned to it, or the value returned."""
    names = {attribute}
    for node in outer(tree.body):
        if isinstance(node, ast.Assign) and attribute in map(dotted, node.targets):
            names.add(dotted(node.value))
        elif isinstance(node, Function) and node.name == attribute:
            names |= {dotted(part.value) for part in ast.walk(node) if isinstance(part, ast.Return) and part.value}
    return names


def _class(tree: ast.Module, name: str, file: Path, directory: Path) -> tuple[Path, ast.ClassDef | None]:
    """Find a class in a file, or in the file of the release that the class is imported from."""
    for node in outer(tree.body):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return file, node
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return _class_elsewhere(node, name, file, directory)
    return file, None


def _class_elsewhere(node: ast.ImportFrom, name: str, file: Path, directory: Path) -> tuple[Path, ast.ClassDef | None]:
    original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
    root = file.parents[node.level - 1] if 0 < node.level <= len(file.parents) else directory
    try:
        found = module(node.module or "", said="", directory=root, path=())
    except SourceError:
        return file, None
    if found.file is None or found.tree is None or not found.file.is_relative_to(directory):
        return file, None
    classes = (part for part in outer(found.tree.body) if isinstance(part, ast.ClassDef) and part.name == original)
    return found.file, next(classes, None)


def _does_more(method: Function) -> bool:
    """Whether a method is a ``run`` that does more than discord.py's, or a ``start`` that takes no token."""
    arguments = method.args
    if method.name == "start":
        return len([*arguments.posonlyargs, *arguments.args]) < 2 and arguments.vararg is None
    body = [node for node in method.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    only = body[0] if len(body) == 1 else None
    value = only.value if isinstance(only, ast.Expr | ast.Return) else None
    return method.name == "run" and (value is None or dotted(value) != "super.run")


def _as_program(file: Path, directory: Path) -> str:
    """Return the `bot.program` that executes a file of the release."""
    if not file.is_relative_to(directory):
        return str(file)
    parts: Sequence[str] = file.relative_to(directory).with_suffix("").parts
    if len(parts) == 1:
        return file.name
    return f"-m {'.'.join(parts[:-1] if parts[-1] == '__main__' else parts)}"
