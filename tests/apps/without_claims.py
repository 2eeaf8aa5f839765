"""A probe whose child asks nobody before it handles an event. It breaks the runtime it runs in, on purpose."""

from __future__ import annotations

from typing import Any

from sharded_bot import client as client

from bastion.bot.ledger import SQLiteLedger


def take_it(self: SQLiteLedger, *claim: Any, **among: Any) -> bool:
    return True


SQLiteLedger.claim = take_it  # type: ignore[method-assign]
SQLiteLedger.claim_occurrence = take_it  # type: ignore[method-assign]
SQLiteLedger.claimed = lambda self, keys: set()  # type: ignore[method-assign,misc]
SQLiteLedger.pair = lambda self, *claim, **among: False  # type: ignore[method-assign,misc]
