"""Finding the file of a program or app, and reading it, without executing anything of it.

Knows import paths and how Python finds modules; a package's ``__init__`` does not run here. Uses the standard library
alone, for the release's environment may lack discord.py.
"""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

import bastion
from bastion.bot import syntax


class SourceError(Exception):
    """The program or app cannot run. The text is one line that says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the code of a program or an app is."""

    module: str
    """The module's name, "" for a file that is executed by path."""
    file: Path | None
    """None for a module without a Python file, such as a compiled one."""
    tree: ast.Module | None
    package: tuple[str, ...] = ()
    """The directories of its submodules."""


def program(text: str, *, directory: Path, path: Sequence[str] = ()) -> Source:
    """Return the source of ``bot.program``. ``path`` comes behind the release and before the interpreter's own.

    Raises `SourceError`.
    """
    said = f'bot.program = "{text}"'
    if text.split()[:1] == ["-m"]:
        found = module(text.partition("-m")[2].strip(), said=said, directory=directory, path=path)
        if not found.package:
            return found
        return module(f"{found.module}.__main__", said=said, directory=directory, path=path)
    file = directory / text
    if file.is_dir():
        raise SourceError(f'{said}: {file} is a directory: name a file in it, or a package as "-m {file.name}"')
    if not file.exists():
        raise SourceError(f"{said}: there is no file {file}")
    return Source(module="", file=file, tree=read(file, directory=directory))


def app(spec: str, *, directory: Path, path: Sequence[str] = ()) -> Source:
    """Return the source of the module that ``bot.app`` names. Raises `SourceError`, also if it lacks the attribute."""
    said = f'bot.app = "{spec}"'
    name, _, attribute = spec.partition(":")
    if not name or not attribute:
        raise SourceError(f'{said} is not of the form "module:attribute"')
    found = module(name, said=said, directory=directory, path=path)
    first = attribute.partition(".")[0]
    seen = found.tree is None or syntax.may_define(found.tree, first)
    if not seen and PathFinder.find_spec(first, found.package) is None:
        raise SourceError(f'{said}: module {name} has no "{attribute}"')
    return found


def module(name: str, *, said: str, directory: Path, path: Sequence[str]) -> Source:
    """Return the source of a module. Messages begin with ``said``. Raises `SourceError`."""
    search = [str(directory), *path, *sys.path]
    if (
        name.partition(".")[0] == "bastion"
    ):  # our package is loaded already, so a package `bastion` of the release is never imported
        search = [str(Path(bastion.__file__).parent.parent)]
    parts, spec = name.split("."), None
    for number, part in enumerate(parts, start=1):
        spec = _spec(part, search, is_first=number == 1) if part else None
        if spec is None:
            raise SourceError(f"{said}: there is no module {'.'.join(parts[:number])} in {directory}")
        search = list(spec.submodule_search_locations or ())
    file = Path(spec.origin) if spec and spec.has_location and spec.origin else None
    is_source = file is not None and file.suffix == ".py" and file.is_file()
    return Source(
        module=name,
        file=file,
        tree=read(file, directory=directory) if file and is_source else None,
        package=tuple(search),
    )


def _spec(name: str, search: Sequence[str], *, is_first: bool) -> ModuleSpec | None:
    """Find one part of a dotted name. Editable installs add finders beside the path's."""
    found = PathFinder.find_spec(name, search)
    if found is not None or not is_first:
        return found
    specs = (finder.find_spec(name, None) for finder in sys.meta_path if finder is not PathFinder)
    return next((spec for spec in specs if spec is not None), None)


def read(file: Path, *, directory: Path) -> ast.Module:
    """Compile a file for this interpreter and return its syntax tree. Raises `SourceError`."""
    shown = shown_as(file, directory)
    try:
        data = file.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(data, str(file), "exec", dont_inherit=True)
            return ast.parse(data, str(file))
    except OSError as error:
        raise SourceError(f"{shown} cannot be read: {error.strerror or error}") from None
    except SyntaxError as error:
        text = f": {error.text.strip()}" if error.text and error.text.strip() else ""
        raise SourceError(f"{shown}:{error.lineno or 1}: {error.msg}{text}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise SourceError(f"{shown} is not Python: {error}") from None


def shown_as(file: Path, directory: Path) -> str:
    """Return a path as messages show it: relative to the release where it is in it."""
    return str(file.relative_to(directory) if file.is_relative_to(directory) else file)
