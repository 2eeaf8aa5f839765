"""The rooms stay apart: who imports whom, who does no I/O, who touches what is private, as far as the source tells."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

STRANGERS = {
    "supervisor": ("discord", "bastion.bot"),
    "bot": ("bastion.supervisor",),
    "sandbox": ("bastion.supervisor", "bastion.bot", "bastion.wire"),
    "wire": ("discord", "bastion.supervisor", "bastion.bot", "bastion.sandbox"),
    "bot/bastion": ("bastion.supervisor", "bastion.bot", "bastion.wire", "bastion.sandbox"),
}
"""What a room never imports, but for what is its own."""
OLD_NAMES = ("supervisor", "bot", "sandbox")
"""What these packages were called when they had no root of their own."""
SHAPES = ("bastion.supervisor.release.Release", "bastion.supervisor.status", "bastion.wire")
WORDS = (*SHAPES, "bastion.supervisor.state", "bastion.supervisor.effects", "bastion.supervisor.limits")
TURNS = ("bastion.supervisor.turn", "bastion.supervisor.moves")
PURE: dict[str, tuple[str, ...]] = {
    "supervisor/machine.py": (*WORDS, "bastion.supervisor.events", *TURNS, "bastion.counted"),
    "supervisor/moves.py": (*WORDS, "bastion.supervisor.turn"),
    "supervisor/turn.py": WORDS,
    "supervisor/limits.py": (),
    "supervisor/effects.py": (*SHAPES, "bastion.supervisor.state"),
    "supervisor/events.py": (*SHAPES, "bastion.supervisor.state"),
    "supervisor/state.py": SHAPES,
    "supervisor/status.py": ("bastion.wire", "msgspec"),
    "wire/framing.py": ("msgspec", "bastion.wire.messages"),
    "wire/messages.py": ("msgspec",),
    "wire/places.py": (),
    "src/bastion/counted.py": (),
    "bot/keys.py": ("bisect", "collections", "hashlib", "itertools", "msgspec"),
}
"""The modules that do no I/O and know no clock, and what they import beside the language's own."""
LANGUAGE = ("__future__", "collections.abc", "dataclasses", "enum", "typing")
DEEDS = {"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint"}
"""What does something without an import."""


def modules(room: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / room).rglob("*.py"))


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def imports(source: str, room: str) -> Iterator[str]:
    """Yield the full name of whatever is imported, wherever in the module that is."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = ".".join(filter(None, (room if node.level else None, node.module)))
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def strangers(source: str, room: str) -> list[str]:
    """Return what a module of this room imports and must not."""
    own = f"bastion.{room.replace('/', '.')}"
    return [
        name for name in imports(source, own) if within(name, *STRANGERS[room], *OLD_NAMES) and not within(name, own)
    ]


def room_of(module: str) -> str:
    return max((room for room in STRANGERS if module.startswith(f"{room}/")), key=len)


def impurities(source: str, allowed: tuple[str, ...]) -> list[str]:
    """Return what a module that does nothing but think imports or calls and must not."""
    called = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    deeds = [func.id for func in called if isinstance(func, ast.Name) and func.id in DEEDS]
    return deeds + [name for name in imports(source, "") if not within(name, *LANGUAGE, *allowed)]


def intrusions(source: str) -> list[str]:
    """Return the private attributes of others that a module touches: those that it does not define itself."""
    tree = ast.parse(source)
    touched = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_private(node.attr)]
    own = {node.attr for node in touched if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    names = {node.attr for node in touched} - own
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and isinstance(name.value, str) and is_private(name.value):
                names.add(name.value)
    return sorted(names)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


LAUNCHER = "supervisor/launcher.py"
"""Runs in the child, before anything else."""


@pytest.mark.parametrize("module", sorted({name for room in STRANGERS for name in modules(room)} - {LAUNCHER}))
def test_a_room_imports_nothing_of_those_that_it_must_not_know(module: str) -> None:
    assert strangers((ROOT / module).read_text(), room_of(module)) == []


@pytest.mark.parametrize("module", PURE)
def test_what_is_pure_imports_and_calls_nothing_that_does_something(module: str) -> None:
    assert impurities((ROOT / module).read_text(), PURE[module]) == []


def within_discordpy(module: str) -> bool:
    """Whether a module may touch what is private in discord.py."""
    return module == "bot/internals.py" or module.startswith("bot/discordpy/")


@pytest.mark.parametrize("module", [name for name in modules("bot") if not within_discordpy(name)])
def test_only_these_modules_touches_what_is_private_of_others(module: str) -> None:
    assert set(intrusions((ROOT / module).read_text())) <= {"_exit", "_current_frames"}, "of os and sys, and public"


# --- these are seen -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("room", "source", "found"),
    [
        ("supervisor", "import discord", ["discord"]),
        ("supervisor", "def late():\n    from bastion.bot.keys import key_of", ["bastion.bot.keys.key_of"]),
        ("supervisor", "from bastion.supervisor import bottle\nimport bastion.sandbox, discordant", []),
        ("bot", "from bastion import wire, supervisor\nimport bastion.wire", ["bastion.supervisor"]),
        ("bot", "from bastion.wire import Hello\nimport discord", []),
        ("bot", "if TYPE_CHECKING:\n    import bastion.supervisor.child", ["bastion.supervisor.child"]),
        ("bot", "from bot import gate", ["bot.gate"]),
        ("bot/bastion", "from bastion import lifecycle\nfrom bastion.bot.bastion import cards", []),
        ("bot/bastion", "from bastion.bot import lifecycle", ["bastion.bot.lifecycle"]),
        ("sandbox", "from . import world\nfrom .world import Guild", []),
        ("sandbox", "import bastion.bot\nimport bastion.wire", ["bastion.bot", "bastion.wire"]),
    ],
)
def test_a_wrong_import_is_seen_wherever_it_is(room: str, source: str, found: list[str]) -> None:
    assert strangers(source, room) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from collections.abc import Mapping\nfrom bastion.wire import Drain", []),
        ("from bastion.supervisor.release import Release", []),
        ("from bastion.supervisor.release import resolve", ["bastion.supervisor.release.resolve"]),
        ("import time", ["time"]),
        ("import asyncio\nfrom os import path", ["asyncio", "os.path"]),
        ("turn.open()\nprint(open('x'))", ["print", "open"]),
    ],
)
def test_an_impurity_is_seen(source: str, found: list[str]) -> None:
    assert impurities(source, ("bastion.wire", "bastion.supervisor.release.Release")) == found


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("client._connection.parsers", ["_connection"]),
        ("getattr(client, '_ready')", ["_ready"]),
        ("class Own:\n    def __init__(self, other):\n        self._x = other._x\n        other.__class__", []),
        ("class Own:\n    def copy(self, made):\n        made._take(self)\n    def _take(self, other): ...", []),
    ],
)
def test_what_is_private_of_others_is_seen(source: str, found: list[str]) -> None:
    assert intrusions(source) == found
