"""Views and modals that people may still use and that only this process can answer.

Knows discord.py's views and when a modal was opened; knows nothing of roles, claims or drains. Discord says when a
button is pressed, never that a modal was dismissed: how long one may still be submitted is the caller's to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import discord

from bastion.bot import internals

_OPENED_KEPT = 1000
"""Times of modals kept before those of modals that are no longer open are forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """A live view or an open modal. ``until`` is when it counts no longer, in the loop's time."""

    name: str
    until: float


class Controls:
    """The live views and open modals of one client.

    ``on_change`` is called when a view or a modal is sent, and when one that was listed is finished. Views are known by
    their ids: an app's own classes need not be hashable.
    """

    def __init__(self, client: discord.Client) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._client = client
        self._opened: dict[str, float] = {}
        self._registered: set[str] = set()
        self._watched: dict[str, asyncio.Task[None]] = {}

    def install(self) -> None:
        """Learn from now on which views and modals the client sends, and which it registers for good."""
        internals.on_view_sent(self._client, self._sent, lambda view: self._registered.add(view.id))

    def live(self, *, modal_life: float) -> list[Control]:
        """Return what counts now, and watch it to its end. A modal counts ``modal_life`` seconds, less if it times out.

        A view does not count if any child with the same app answers all of it: a persistent view, dynamic items. Nor
        does one that was edited away.
        """
        now = asyncio.get_running_loop().time()
        found = []
        for view, where in internals.bound_views(self._client):
            if view.id not in self._registered:
                self._watch(view)
                name = f"view {type(view).__name__}" + (f" of message {where}" if where else "")
                found.append(Control(name=name, until=float("inf")))
        for modal in internals.open_modals(self._client):
            until = self._opened.get(modal.id, now) + min(modal.timeout or modal_life, modal_life)
            if until > now:
                self._watch(modal)
                found.append(Control(name=f"modal {modal.title}", until=until))
        return found

    def _sent(self, view: internals.AnyView) -> None:
        if isinstance(view, discord.ui.Modal):
            if len(self._opened) >= _OPENED_KEPT:
                still = {modal.id for modal in internals.open_modals(self._client)}
                self._opened = {number: at for number, at in self._opened.items() if number in still}
            self._opened[view.id] = asyncio.get_running_loop().time()
        self.on_change()

    def _watch(self, view: internals.AnyView) -> None:
        """Wake up when it is finished. The task must never be cancelled: that would finish the view."""
        if view.id in self._watched:
            return

        def finished(_: asyncio.Task[None]) -> None:
            del self._watched[view.id]
            self.on_change()

        self._watched[view.id] = asyncio.ensure_future(internals.wait_finished(view))
        self._watched[view.id].add_done_callback(finished)
