"""A release whose attribute is no client, nor does calling it make one."""

from __future__ import annotations

client = "not a client"


def create() -> str:
    """Make something that is no client either."""
    return client
