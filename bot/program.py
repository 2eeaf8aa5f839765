"""The user's program, run as ``python main.py`` or ``python -m mybot`` would run it.

It becomes ``__main__``, in the main thread, with the arguments, paths and attributes that Python would give it; and it
stays in ``sys.modules``, because pools, pickles and `inspect` look there. Knows Python's own rules of starting a
program; knows nothing of discord.py, which must not be imported before the program's folder is on the path.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import io
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

_MODULE = "-m "


class ProgramError(Exception):
    """The program cannot be run, and a second try would end alike. The text is one line that says why."""


def module_of(program: str) -> str | None:
    """Return the module that ``-m NAME`` names; None for a file."""
    return program[len(_MODULE) :].strip() if program.startswith(_MODULE) else None


def go_first_on_path(program: str, directory: Path) -> None:
    """Put first on the import path what Python would: the program's folder, or the release for a module or an app.

    It must come before anything of the program's is looked for, and before discord.py is imported: what lies in that
    folder wins.
    """
    is_file = program and module_of(program) is None
    folder = str((directory / program).resolve().parent if is_file else directory)
    sys.path[:] = [folder, *(entry for entry in sys.path if entry != folder)]
    importlib.invalidate_caches()


def give_way(package: str = "bastion") -> None:
    """Let a module of the program's have the name of our package: all that this process needs of ours is loaded.

    A folder without an ``__init__`` is looked at beside ours instead, as Python does with such folders.
    """
    own = PathFinder.find_spec(package, sys.path[:1])
    ours = sys.modules.get(package)
    if own is None or ours is None:
        return
    if own.loader is None or own.origin is None:
        ours.__path__.extend(own.submodule_search_locations or ())
        return
    if own.origin != ours.__file__:
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            del sys.modules[name]


def run(program: str, *, directory: Path, args: Sequence[str]) -> None:
    """Run the program to its end. Raises `ProgramError`, and whatever the program raises."""
    main = sys.modules["__main__"] = ModuleType("__main__")
    module = module_of(program)
    if module is None:
        code = _prepare_file(main, program, directory)
        sys.argv = [program, *args]
    else:
        sys.argv = ["-m", *args]  # Python's own value during the search for the module
        code = _prepare_module(main, module, directory)
        sys.argv = [str(main.__file__), *args]
    exec(code, main.__dict__)


def _prepare_file(main: ModuleType, program: str, directory: Path) -> CodeType:
    path = directory / program
    try:
        with io.open_code(str(path)) as file:
            source = file.read()
    except OSError as error:
        raise ProgramError(f"bot.program: {path}: {error.strerror or error}") from None
    code: CodeType = compile(source, str(path), "exec", dont_inherit=True)
    _give(main, file=str(path), spec=None, package=None, loader=SourceFileLoader("__main__", str(path)))
    return code


def _prepare_module(main: ModuleType, name: str, directory: Path) -> CodeType:
    spec = _found(name)
    if spec is not None and spec.submodule_search_locations is not None:
        spec = _found(f"{name}.__main__")
        if spec is None:
            raise ProgramError(f"bot.program: {name} is a package without a __main__.py: it cannot be run")
    loader = spec.loader if spec is not None else None
    if spec is None or not isinstance(loader, importlib.abc.InspectLoader):
        raise ProgramError(f"bot.program: there is no module {name} in {directory}, nor in its environment")
    code = loader.get_code(spec.name)
    if code is None:
        raise ProgramError(f"bot.program: the module {name} has no Python code: it cannot be run")
    _give(main, file=spec.origin, spec=spec, package=spec.parent, loader=loader)
    return code


def _found(name: str) -> ModuleSpec | None:
    """Find a module. Python imports the packages around it for that, and their errors are raised here."""
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            return None
        raise


def _give(main: ModuleType, *, file: str | None, spec: ModuleSpec | None, package: str | None, loader: object) -> None:
    """Set the attributes of ``__main__`` as Python does."""
    main.__dict__.update(
        __file__=file,
        __spec__=spec,
        __package__=package,
        __loader__=loader,
        __cached__=spec.cached if spec is not None else None,
        __builtins__=sys.modules["builtins"],
    )
