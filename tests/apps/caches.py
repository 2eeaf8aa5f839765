"""Everything that discord.py keeps of Discord, as lines of text: those of two equal caches are the same.

An object is told where it is met first; later it is told by that place. An example, of a member who is also the author
of a message: ``guilds[1].members[7].nick: 'ada'`` and ``messages[9].author: as guilds[1].members[7]``.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from discord import Client

_PLAIN = (str, int, float, bool, bytes, datetime, timedelta, array)
_CACHES = ("_guilds", "_emojis", "_stickers", "user", "application_id")
"""Not ``_users``: its references are weak, and a handler or a view keeps whom it deals with. Members have their own."""
_OTHERS = ("_state", "_http", "__weakref__")
"""What is no part of what Discord said."""


def slots(thing: object) -> list[str]:
    """Return the names of all fields of an object of discord.py's."""
    found: list[str] = []
    for kind in type(thing).__mro__:
        own = kind.__dict__.get("__slots__", ())
        found += [own] if isinstance(own, str) else own
    found += vars(thing) if hasattr(thing, "__dict__") else ()
    return sorted(set(found) - set(_OTHERS))


def listing(client: Client) -> list[str]:
    """Return a line for every field of every object in the cache.

    Of a message's author only the id: who has left and come again is another object, and older messages keep the first.
    """
    state: Any = client._connection
    places: dict[int, str] = {}
    found = [line for name in _CACHES for line in _lines(getattr(state, name), name, places)]
    for message in sorted(state._messages, key=lambda one: one.id):
        where = places[id(message)] = f"messages[{message.id}]"
        for name in slots(message):
            value = message.author.id if name == "author" else getattr(message, name, ...)
            found += _lines(value, f"{where}.{name}", places)
    return found


def _lines(thing: Any, where: str, places: dict[int, str]) -> Iterator[str]:
    if thing is ...:
        return
    if thing is None or isinstance(thing, _PLAIN):
        yield f"{where}: {thing!r}"
    elif id(thing) in places:
        yield f"{where}: as {places[id(thing)]}"
    elif isinstance(thing, Mapping):
        for key in sorted(thing, key=str):
            yield from _lines(thing[key], f"{where}[{key!r}]", places)
    elif isinstance(thing, (list, tuple)):
        yield f"{where}: {len(thing)} of them"
        for index, one in enumerate(thing):
            yield from _lines(one, f"{where}[{index}]", places)
    else:
        places[id(thing)] = where
        names = slots(thing)
        assert names, f"{where}: {thing!r} has no fields to tell"
        for name in names:
            yield from _lines(getattr(thing, name, ...), f"{where}.{name}", places)


async def tell(client: Client, path: str) -> asyncio.Server:
    """Tell the listing to whoever connects to the Unix socket at ``path``."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write("\n".join(listing(client)).encode())
        await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(answer, path)
