"""A program may have a `bastion` of its own, which then has that name: ours must be loaded by the time it runs."""

from __future__ import annotations

import ast
from pathlib import Path

import bastion.bot

ROOM = Path(bastion.bot.__file__).parent
BEFORE_THE_PROGRAM = {"__init__.py", "__main__.py", "checking.py"}
"""Their functions run before the program does."""


def late_imports(source: str) -> list[int]:
    """Return the lines where a function imports something of ours: it would get the user's."""
    every = list(ast.walk(ast.parse(source)))
    functions = [node for node in every if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = [node for function in functions for node in ast.walk(function)]
    names = [(node.lineno, alias.name) for node in inside if isinstance(node, ast.Import) for alias in node.names]
    names += [(node.lineno, node.module or "") for node in inside if isinstance(node, ast.ImportFrom)]
    return [line for line, name in names if name.partition(".")[0] == "bastion"]


def test_no_module_of_the_runtime_imports_another_one_late() -> None:
    modules = [file for file in ROOM.rglob("*.py") if file.name not in BEFORE_THE_PROGRAM]
    assert {file.name: late for file in modules if (late := late_imports(file.read_text()))} == {}


def test_a_late_import_is_seen() -> None:
    assert late_imports("import bastion\ndef late():\n    import os\n    from bastion.wire import PROTOCOL\n") == [4]
