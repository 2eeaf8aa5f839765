"""Variables that name a proxy to most programs, and not to discord.py, which takes one as ``proxy=`` alone."""

from __future__ import annotations

from collections.abc import Mapping

_NAMES = ("http_proxy", "https_proxy", "all_proxy")


def proxies(environ: Mapping[str, str]) -> list[str]:
    """Return the names of those that are set. Their values may hold passwords."""
    return sorted(name for name in environ if name.lower() in _NAMES and environ[name])
