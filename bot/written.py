"""Where an app's source writes files below its release, as far as the source shows their paths.

A path counts if it is relative (the release is the working directory) or made from ``__file__``. Knows Python's syntax
and names of the standard library; executes nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence

from bastion.bot.syntax import dotted, last

_CONNECTS = ("sqlite3.connect", "aiosqlite.connect", "apsw.Connection", "shelve.open", "TinyDB")
_HANDLERS = ("FileHandler", "RotatingFileHandler", "TimedRotatingFileHandler", "WatchedFileHandler")
_WRITES = ("write_text", "write_bytes")
_OPENS = ("open", "aiofiles.open", "io.open", "gzip.open", "codecs.open")
_JOINS = ("join", "abspath", "realpath", "Path", "PurePath", "str", "resolve", "absolute", "joinpath", "dirname")
_DEPTH = 8
"""How many steps of a path's making are followed."""


def written(tree: ast.Module) -> Iterator[int]:
    """Yield the lines that write below the release."""
    names = _constants(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and any(_is_below(path, names) for path in _paths(node)):
            yield node.lineno


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """Return what names are assigned once, and with it where a name such as ``DATABASE`` leads."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                found.setdefault(dotted(target), []).append(node.value)
    return {name: values[0] for name, values in found.items() if name and len(values) == 1}


def _paths(node: ast.Call) -> Iterator[ast.expr]:
    """Yield what a call writes to, if it writes."""
    name, method, words = dotted(node), last(node.func), {word.arg: word.value for word in node.keywords}
    if name in _CONNECTS:
        yield from [*node.args[:1], *(words[key] for key in ("database", "filename") if key in words)]
    elif method in _HANDLERS or name == "logging.basicConfig":
        yield from node.args[:1] if method in _HANDLERS else ()
        yield from [words["filename"]] if "filename" in words else []
    elif method in _WRITES and isinstance(node.func, ast.Attribute):
        yield node.func.value
    elif name in _OPENS and _writes(node.args[1:2], words):
        yield from node.args[:1]
    elif method == "open" and isinstance(node.func, ast.Attribute) and _writes(node.args[:1], words):
        yield node.func.value
    else:
        yield from (url for url in [*node.args, *words.values()] if _is_sqlite_url(url))


def _writes(positional: Sequence[ast.expr], words: Mapping[str | None, ast.expr]) -> bool:
    mode = positional[0] if positional else words.get("mode")
    return isinstance(mode, ast.Constant) and isinstance(mode.value, str) and bool(set("wax+") & set(mode.value))


def _is_sqlite_url(node: ast.expr) -> bool:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        return False
    scheme, separator, path = node.value.partition("://")
    return (
        scheme.startswith("sqlite")
        and bool(separator)
        and bool(path.removeprefix("/").strip("/: "))
        and (not path.startswith("//") and path not in ("/:memory:", ":memory:"))
    )


def _is_below(node: ast.expr, names: Mapping[str, ast.expr], depth: int = _DEPTH) -> bool:
    """Whether a path is below the release, for what the source shows."""
    if depth == 0:
        return False
    match node:
        case ast.Constant(value=str(text)):
            return _is_relative(text) or _is_sqlite_url(node)
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            return _is_relative(text)
        case ast.BinOp(left=left, op=ast.Div() | ast.Add()):
            return _is_below(left, names, depth - 1)
        case ast.Call(func=function, args=[first, *_]) if last(function) in _JOINS:
            return _is_below(first, names, depth - 1) and "home" not in dotted(node)
        case ast.Name(id="__file__"):
            return True
        case ast.Call() if dotted(node) in ("Path.cwd", "pathlib.Path.cwd", "os.getcwd"):
            return True
        case ast.Call(func=ast.Attribute(value=value)) | ast.Attribute(value=value) | ast.Subscript(value=value):
            known = names.get(dotted(node))
            return _is_below(known if known is not None else value, names, depth - 1)
        case ast.Name(id=name) if name in names:
            return _is_below(names[name], names, depth - 1)
        case _:
            return False


def _is_relative(text: str) -> bool:
    """Whether a text is a relative path; none is that of no file, such as ":memory:", or one of the user's home."""
    return bool(text) and not text.startswith(("/", "~", ":memory:", "file:", "..")) and "://" not in text
