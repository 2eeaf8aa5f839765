"""Text from elsewhere, made fit for one line of a terminal, a file or the journal.

A bot's output, an exception, a path or an answer may hold anything. Knows which characters end a line or steer a
terminal; knows nothing of where a text comes from.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TextIO

STEERING = "\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
"""For a set of a regular expression: controls but the tab, line separators, overrides of the direction, half pairs."""
_STEERING = re.compile(f"[{STEERING}]")
_COLOUR = re.compile(r"(\x1b\[[0-9;:]{0,64}m)")
"""SGR of ECMA-48: the only sequence that moves nothing."""
_RESET = "\x1b[0m"


def escaped(text: str) -> str:
    """Return a text of one line, with each steering character written as Python writes it: ``\\r``, ``\\x1b``."""
    return text if text.isprintable() else _STEERING.sub(_written, text)


def _written(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode()


def line_of(text: str, *, colour: bool) -> str:
    """Return `escaped` text whose colours are kept, and end with it, or are left out."""
    if "\x1b" not in text:
        return escaped(text)
    parts = _COLOUR.split(text)
    if not colour or len(parts) == 1:
        return "".join(map(escaped, parts[::2]))
    shown = [part if number % 2 else escaped(part) for number, part in enumerate(parts)]
    return "".join([*shown, _RESET])


def wants_colour(stream: TextIO, *, environ: Mapping[str, str]) -> bool:
    """Say whether to colour: a terminal, and not told otherwise by NO_COLOR or TERM=dumb."""
    return stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
