"""``bot.env_file``: names and values for the child's environment.

Knows the file's format: python-dotenv's, for most bots read their ``.env`` with that package. Does not know the purpose
of the values. ``$`` is a plain character: no interpolation. No message shows a value, nor a line with a value.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bastion.counted import counted
from bastion.supervisor.location import SettingsError, shown_path
from bastion.supervisor.reading import content

if TYPE_CHECKING:
    from dotenv.parser import Binding

MAX_BYTES = 32 * 1024
"""Half of what the pipe to a child holds."""
SHOWN = 5
"""Bad lines that are named one by one."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_REFUSED = ("PYTHON", "LD_", "BASTION_")
"""Beginnings of names that Python or the dynamic loader reads before a child is given this file; or of our own."""


def read(path: Path) -> dict[str, str]:
    """Return names and values; of a repeated name, the last value. Raises `SettingsError` with all bad lines."""
    from dotenv.parser import parse_stream  # costs 20 ms: loaded only for a supervisor with an env_file

    where = f"bot.env_file: {shown_path(path)}"
    text = _text(path, where=where)
    values: dict[str, str] = {}
    problems = []
    for binding in parse_stream(io.StringIO(text)):
        if problem := _problem(binding):
            problems.append(f"{where}: line {_line(binding)}: {problem}")
        elif binding.key is not None and binding.value is not None:
            values[binding.key] = binding.value
    if problems:
        rest = len(problems) - SHOWN
        more = [f"{where}: {counted(rest, 'more line')} cannot be read"] if rest > 0 else []
        raise SettingsError(*problems[:SHOWN], *more)
    return values


def _text(path: Path, *, where: str) -> str:
    try:
        written = content(path, what=where, limit=MAX_BYTES)
    except OSError as error:
        raise SettingsError(f"{where}: cannot be read: {error.strerror or error}") from None
    if len(written) > MAX_BYTES:
        raise SettingsError(f"{where}: larger than {MAX_BYTES} bytes")
    try:
        return written.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = written.count(b"\n", 0, error.start) + 1
        raise SettingsError(f"{where}: line {line}: not UTF-8 text") from None


def _problem(binding: Binding) -> str | None:
    """Return the fault of a line. The message shows the name only of a line that was understood."""
    key, value = binding.key, binding.value
    if not binding.error and key is None:
        return None  # a comment, or an empty line
    if binding.error or key is None or value is None or not _NAME.fullmatch(key) or "\0" in value:
        return "cannot be read: write KEY=value, and quotes around a value with quotes, # or line breaks"
    if key.startswith(_REFUSED):
        return f"{key} is not taken from here: it belongs in the unit file or on the command line"
    return None


def _line(binding: Binding) -> int:
    """Return the number of the line with the name. For the parser, a binding begins with the empty lines before."""
    original = binding.original
    leading = original.string[: len(original.string) - len(original.string.lstrip())]
    return original.line + len(re.findall(r"\r\n|\n|\r", leading))
