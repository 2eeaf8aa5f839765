"""The program behind a command line: its name for people, and whether it is a certain program.

Knows how Python is called. It touches neither processes nor files.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")
_POOL = "from multiprocessing."


def named(words: Sequence[str]) -> str:
    """Return the program's name and, for Python, the script's or module's. Further words may be secret."""
    program, *what = (PurePosixPath(words[0]).name, *_run(words)) if words else ("a process",)
    if what[:1] == ["-c"]:  # helpers of multiprocessing are told apart by their code
        code = what[1] if len(what) > 1 else ""
        return f"{program} {code.split()[1] if code.startswith(_POOL) else '-c'}"
    if what[:1] == ["-m"]:
        return " ".join([program, *what])
    return " ".join([program, *(PurePosixPath(word).name for word in what)])


def runs(words: Sequence[str], cwd: str, *, entry: str, directory: os.PathLike[str]) -> bool:
    """Say whether this is Python with ``entry`` as its program: "main.py", "-m mybot", or "module:attribute".

    ``directory`` is where the entry is looked for, ``cwd`` where the process runs. A module may also be named by its
    file.
    """
    what, module = _run(words), _module(entry)
    if what[:1] == ["-m"]:
        return what[1:] == [module]
    return len(what) == 1 and _path(cwd, what[0]) in [_path(directory, file) for file in _files(entry, module)]


def _module(entry: str) -> str:
    """Return the module of an entry; nothing if the entry is a file."""
    name, attribute = entry.removeprefix("-m").strip(), ":"
    return name.partition(attribute)[0] if entry.startswith("-m") or attribute in entry else ""


def _files(entry: str, module: str) -> list[str]:
    path = module.replace(".", "/")
    return [f"{path}.py", f"{path}/__main__.py", f"{path}/__init__.py", path] if module else [entry]


def _run(words: Sequence[str]) -> list[str]:
    """Return Python's program: ["FILE"], ["-m", "MODULE"] or ["-c", "CODE"]; nothing if this is not Python."""
    if not words or not PurePosixPath(words[0]).name.startswith(("python", "pypy")):
        return []
    rest = iter(words[1:])
    for word in rest:
        if word in _WITH_VALUE:
            next(rest, None)
        elif word in ("-m", "-c"):
            return [word, next(rest, "")]
        elif not word.startswith("-"):
            return [word]
    return []


def _path(directory: str | os.PathLike[str], file: str) -> str:
    return os.path.normpath(Path(directory, file))
