"""A probe whose child forgets what it held in standby. It breaks the runtime it runs in, on purpose."""

from __future__ import annotations

from typing import Any

from sharded_bot import client as client

from bastion.bot.gate import Gate


def forget(self: Gate, held: Any) -> None:
    return None


Gate._hold = forget  # type: ignore[method-assign]
