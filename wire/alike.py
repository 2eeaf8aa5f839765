"""Whether a child can go on with the gateway sessions of another child. Each says what sessions it wants (`Wants`).

An example: a bot with 4 shards cannot go on with the sessions of a bot with 2, for a session has a part of the guilds.
"""

from __future__ import annotations

from bastion.wire.messages import Wants

OTHER_APPLICATION = "another application"
"""Two bots that differ in this have nothing to hand over to each other."""


def difference(theirs: Wants | None, wants: Wants) -> str | None:
    """Return why a child with these ``wants`` cannot have the sessions of one that wanted ``theirs``; None: it can."""
    if theirs is None:
        return "no bot has sessions"
    checks = (
        (theirs.library == wants.library, f"discord.py {theirs.library} -> {wants.library}"),
        (theirs.stream == wants.stream, "both bots write caches in another way"),
        (theirs.application == wants.application, OTHER_APPLICATION),
        (theirs.account == wants.account, "another token"),
        (theirs.api_url == wants.api_url, "another discord.api_url"),
        (theirs.intents == wants.intents, "other intents"),
        (_fits(theirs, wants), f"shards: {_shards(theirs)} -> {_shards(wants)}"),
        (wants.members & ~theirs.members == 0, "it caches more members"),
        (theirs.messages or not wants.messages, "it caches messages"),
        (theirs.chunks or not wants.chunks, "it wants all members of its guilds"),
    )
    return next((why for fine, why in checks if not fine), None)


def _fits(theirs: Wants, wants: Wants) -> bool:
    if wants.any_count and theirs.ids == list(range(theirs.shards)):
        return wants.shards <= theirs.shards
    return (theirs.shards, theirs.ids) == (wants.shards, wants.ids)


def _shards(wants: Wants) -> str:
    return f"{len(wants.ids)} of {wants.shards}" if len(wants.ids) != wants.shards else f"{wants.shards}"
