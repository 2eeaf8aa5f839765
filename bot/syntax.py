"""Names and scopes in Python's syntax trees, for the modules that read an app's source.

Knows Python's syntax, nothing of bots.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_AT_RUN_TIME = frozenset({"globals", "vars", "exec", "setattr"})
"""Calls that may make names without showing them in the source."""


def last(node: ast.expr) -> str:
    """Return the last name of a dotted one."""
    return dotted(node).rpartition(".")[2]


def dotted(node: ast.expr) -> str:
    """Return a dotted name without calls and subscripts; "" for other expressions."""
    parts: list[str] = []
    while True:
        match node:
            case ast.Attribute(attr=attribute, value=value):
                parts.append(attribute)
                node = value
            case ast.Call(func=function):
                node = function
            case ast.Subscript(value=value):
                node = value
            case ast.Name(id=name):
                parts.append(name)
                break
            case _:
                break
    return ".".join(reversed(parts))


def is_none(node: ast.expr) -> bool:
    """Whether an expression is ``None``."""
    return isinstance(node, ast.Constant) and node.value is None


def outer(statements: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield the nodes of statements without the insides of functions and classes."""
    for node in statements:
        yield node
        if not isinstance(node, _SCOPES):
            yield from outer(ast.iter_child_nodes(node))


def is_guard(node: ast.AST) -> bool:
    """Whether a statement is ``if __name__ == "__main__":``."""
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Compare)
        and any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test))
    )


def may_define(tree: ast.Module, name: str) -> bool:
    """Whether a module may have this name after its execution; in doubt, yes."""
    if any(isinstance(node, ast.Global) and name in node.names for node in ast.walk(tree)):
        return True
    return any(name in bound or "*" in bound for bound in map(_bound, outer(tree.body)))


def _bound(node: ast.AST) -> set[str]:
    """Return the names that a node binds; "*" stands for any."""
    match node:
        case ast.Name(id=name, ctx=ast.Store()):
            return {name}
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {"*"} if name == "__getattr__" else {name}
        case ast.alias(name=name, asname=other):
            return {other or name.partition(".")[0]}
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            return {name}
        case ast.Call(func=ast.Name(id=name)) if name in _AT_RUN_TIME:
            return {"*"}
        case _:
            return set()
