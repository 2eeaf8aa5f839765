"""What the log names of a child that was ended or died, against what nobody handled: a name excuses one event."""

from __future__ import annotations

import re
from collections import Counter

from rig import Rig

from bastion.sandbox import Entry

_EVENTS = {
    "message": "MESSAGE_CREATE",
    "command_message": "MESSAGE_CREATE",
    "edit": "MESSAGE_UPDATE",
    "delete": "MESSAGE_DELETE",
    "reaction_add": "MESSAGE_REACTION_ADD",
    "reaction_remove": "MESSAGE_REACTION_REMOVE",
    "typing": "TYPING_START",
    "member_join": "GUILD_MEMBER_ADD",
    "member_leave": "GUILD_MEMBER_REMOVE",
    "member_update": "GUILD_MEMBER_UPDATE",
    "guild_join": "GUILD_CREATE",
    "guild_leave": "GUILD_DELETE",
}
"""The gateway's event of each of the journal's kinds; all others are interactions."""
WITH_ID = ("message", "command_message", "delete", "slash", "autocomplete", "button", "select", "modal", "guild_join")
"""Kinds whose key in the journal is the id that a name has."""


class Named:
    """The names of what one child ran when it was ended or died. Each is good for one event."""

    def __init__(self, installation: Rig, generation: int) -> None:
        said = re.compile(
            rf"supervisor: cut, for generation {generation} died: (.*)$"
            rf"|gen {generation}: .*cut, for it was not done within the time to drain: (.*)$"
        )
        names = [found[1] or found[2] for line in installation.log if (found := said.search(line))]
        self._events = Counter(found[1] for name in names if (found := re.search(r"\(([A-Z_]+(?: \d+)?)\)$", name)))
        self._events.update(found[1] for name in names if (found := re.fullmatch(r"([A-Z_]+(?: \d+)?)", name)))

    def excuses(self, entry: Entry) -> bool:
        """Say whether a handler of this event is named."""
        event = _EVENTS.get(entry.kind, "INTERACTION_CREATE")
        name = f"{event} {entry.key}" if entry.kind in WITH_ID else self._any(event)
        if name is None or self._events[name] == 0:
            return False
        self._events[name] -= 1
        return True

    def _any(self, event: str) -> str | None:
        """Return a name of this event that is still good: its id may be that of something else."""
        return next((name for name, left in self._events.items() if left and name.split()[0] == event), None)
