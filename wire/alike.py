"""Whether the sessions of one child can become those of another: they are alike in what both said of them (`Wants`)."""

from __future__ import annotations

from bastion.wire.messages import Wants


def difference(theirs: Wants | None, wants: Wants) -> str | None:
    """Return why sessions of the one kind cannot become sessions of the other; None if they can."""
    if theirs is None:
        return "no bot has sessions"
    checks = (
        (theirs.library == wants.library, f"discord.py {theirs.library} -> {wants.library}"),
        (theirs.stream == wants.stream, "both bots write caches in another way"),
        (theirs.application == wants.application, "another application"),
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
