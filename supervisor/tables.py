"""TOML tables read into structs, and the list of their faults, a line for each fault.

Knows types and the wording of faults. The tables and keys themselves belong to `settings`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec

from bastion.supervisor.location import SettingsError, shown
from bastion.supervisor.reading import UnansweredError
from bastion.supervisor.tokens import WAYS

Text: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A[^\x00]*\Z", description="a text without NUL characters")]
_S = TypeVar("_S", bound=msgspec.Struct)


@contextmanager
def noting(problems: list[str]) -> Iterator[None]:
    """Add the problems of a `SettingsError` that is raised meanwhile, and go on; but not to a disk that hangs."""
    try:
        yield
    except UnansweredError:
        raise
    except SettingsError as error:
        problems.extend(error.problems)


@cache
def _fields(shape: type[msgspec.Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    return {item.name: item for item in msgspec.structs.fields(shape)}


@dataclass(slots=True)
class Reader:
    """Turns TOML tables into structs and gathers what is wrong with them."""

    source: Path | None
    tables: dict[str, Any]
    checks: Mapping[tuple[str, str], Callable[[Any], Any]]
    """By section and key: reads a value further, or raises `NotAllowedError`."""
    problems: list[str] = field(default_factory=list)

    def has(self, section: str, key: str) -> bool:
        """Say whether the file has a key."""
        table = self.tables.get(section)
        return isinstance(table, dict) and key in table

    def section(self, name: str, shape: type[_S]) -> _S:
        """Read one table; a value that is not allowed is noted and replaced by its default."""
        table = self.tables.get(name, {})
        if not isinstance(table, dict):
            self.bad(name, table, f"a table: write [{name}] on a line of its own")
            return shape()
        known = _fields(shape)
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in known:
                self.unknown(key, known, table=name)
                continue
            try:
                values[key] = self._value(name, key, value, known[key].type)
            except NotAllowedError as error:
                self.bad(f"{name}.{key}", value, error.allowed)
        return shape(**values)

    def _value(self, name: str, key: str, value: object, kind: Any) -> object:
        is_path = kind in (Path, Path | None)
        try:
            read = msgspec.convert(value, Text if is_path else kind)
        except msgspec.ValidationError:
            raise NotAllowedError("a path" if is_path else _description(kind)) from None
        if check := self.checks.get((name, key)):
            read = check(read)
        if is_path:
            return Path(read) if read else Path() if kind is Path else None
        return read

    def bad(self, key: str, value: object, allowed: str) -> None:
        """Note a value that is not allowed."""
        self.problems.append(f"{self.source}: {key} = {shown(value)}: allowed is {allowed}")

    def unknown(self, key: str, known: Mapping[str, object], *, table: str = "") -> None:
        """Note a key that does not exist. Its value is not shown: it may be a secret in the wrong place."""
        kind, prefix = ("key", f"{table}.") if table else ("table", "")
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {prefix}{close[0]}? " if close else ""
        if key.lower() in ("token", "bot_token", "discord_token"):
            hint = f"the token does not belong in this file: {WAYS}; "
        self.problems.append(
            f"{self.source}: {prefix}{shown(key)[1:-1]}: unknown {kind}; {hint}allowed are {', '.join(known)}"
        )

    def finish(self, sections: Mapping[str, object]) -> None:
        """Note the tables that are not in ``sections``."""
        for name in self.tables:
            if name not in sections:
                self.unknown(name, sections)


class NotAllowedError(Exception):
    """A value was refused; ``allowed`` says what would do."""

    def __init__(self, allowed: str) -> None:
        self.allowed = allowed
        super().__init__(allowed)


def _description(kind: Any) -> str:
    """Return what `msgspec.Meta` says is allowed, from the outermost annotation that says something."""
    info = msgspec.inspect.type_info(kind)
    extra = info.extra_json_schema if isinstance(info, msgspec.inspect.Metadata) else None
    return str((extra or {}).get("description", "a text"))
