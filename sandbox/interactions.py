"""REST routes of interactions: the first answer, the original response, follow-ups.

Knows the rules of answering: once, within 3 s, then a token that lives 15 minutes. Tells the journal who answered.
"""

from __future__ import annotations

import time
from typing import Any

from . import payloads
from .channels import EPHEMERAL, LOADING, BotMessages
from .emitter import Emitter
from .rest import ApiError, Call, Route, invalid
from .world import Channel, Interaction, Message, OpenModal, Payload

_MESSAGE, _DEFER, _DEFER_UPDATE, _UPDATE, _CHOICES, _OPEN_MODAL = 4, 5, 6, 7, 8, 9
_ALLOWED = {
    "slash": {_MESSAGE, _DEFER, _OPEN_MODAL},
    "autocomplete": {_CHOICES},
    "button": {_MESSAGE, _DEFER, _DEFER_UPDATE, _UPDATE, _OPEN_MODAL},
    "select": {_MESSAGE, _DEFER, _DEFER_UPDATE, _UPDATE, _OPEN_MODAL},
    "modal": {_MESSAGE, _DEFER, _DEFER_UPDATE, _UPDATE},
}
_MAX_CHOICES = 25


class InteractionRoutes:
    """Handlers of the interaction and webhook routes."""

    def __init__(self, emitter: Emitter, messages: BotMessages) -> None:
        self._emitter = emitter
        self._settings = emitter.settings
        self._world = emitter.world
        self._messages = messages

    def routes(self) -> list[Route]:
        """All routes. The token in the path is the only credential, as on Discord."""
        webhook = "/webhooks/{webhook_id}/{token}"
        table = [
            ("POST", "/interactions/{interaction_id}/{token}/callback", self.answer),
            ("POST", webhook, self.follow_up),
            ("GET", webhook + "/messages/{message_id}", self.get_message),
            ("PATCH", webhook + "/messages/{message_id}", self.edit_message),
            ("DELETE", webhook + "/messages/{message_id}", self.delete_message),
        ]
        return [Route(method=method, path=path, handler=it, open=True, exempt=True) for method, path, it in table]

    # --- the first answer -------------------------------------------------------------------------------------------

    async def answer(self, call: Call) -> Any:
        """POST the first answer. A second one is 40060, one too late 10062."""
        body = await call.body()
        interaction = self._world.interactions.get(call.id("interaction_id"))
        if interaction is None or interaction.token != call.request.match_info["token"]:
            raise ApiError(10062)
        kind, key = interaction.kind, str(interaction.id)
        if interaction.answered is not None:
            self._emitter.journal.answer_refused(kind, key, by=call.by, code=40060)
            raise ApiError(40060)
        now = time.monotonic()
        if now - interaction.created > self._settings.first_answer_seconds:
            self._emitter.journal.answer_refused(kind, key, by=call.by, code=10062)
            raise ApiError(10062)
        number = body.get("type")
        if number not in _ALLOWED[kind]:
            raise invalid("type", "BASE_TYPE_CHOICES", f"A {kind} interaction cannot be answered by type {number}.")
        message = self._act(interaction, number, body.get("data") or {}, call)
        interaction.answered = now
        interaction.answer_type = number
        interaction.answered_by = call.by
        self._emitter.journal.handled(kind, key, by=call.by, at=now, source="observed")
        if call.request.query.get("with_response", "").lower() in ("1", "true"):
            return self._callback_response(interaction, number, message)
        return None

    def _act(self, interaction: Interaction, number: int, data: Payload, call: Call) -> Message | None:
        """Do what the answer says. Returns the message that it concerns."""
        if number == _CHOICES:
            if len(data.get("choices") or []) > _MAX_CHOICES:
                raise invalid("choices", "BASE_TYPE_BAD_LENGTH", "Must be between 0 and 25 in length.")
            return None
        if number == _OPEN_MODAL:
            self._open_modal(interaction, data)
            return None
        where = self._where(interaction)
        if number == _DEFER_UPDATE:
            interaction.original_id = interaction.message_id
            return where.messages.get(interaction.message_id or 0)
        if number == _UPDATE:
            interaction.original_id = interaction.message_id
            target = where.messages.get(interaction.message_id or 0)
            return self._messages.edit(where, target, data, call) if target is not None else None
        extra = self._response_fields(interaction)
        interaction.ephemeral = bool((data.get("flags") or 0) & EPHEMERAL)
        interaction.loading = number == _DEFER
        if interaction.loading:
            extra["flags"] = LOADING | (data.get("flags") or 0)
        message = self._messages.create(where, data, call, **extra)
        interaction.original_id = message.id
        return message

    def _open_modal(self, interaction: Interaction, data: Payload) -> None:
        if not data.get("custom_id") or not data.get("components"):
            raise invalid("components", "BASE_TYPE_REQUIRED", "A modal needs a custom_id and components.")
        self._world.modals.append(
            OpenModal(
                custom_id=data["custom_id"],
                components=tuple(data["components"]),
                user=interaction.user,
                channel_id=interaction.channel_id,
                guild_id=interaction.guild_id,
                message_id=interaction.message_id,
            )
        )
        del self._world.modals[: -self._settings.messages_per_channel]

    def _where(self, interaction: Interaction) -> Channel:
        """The interaction's channel. Its token works on for a guild that the bot has left meanwhile."""
        found = self._world.channels.get(interaction.channel_id)
        if found is not None:
            return found
        for guild in self._world.left.values():
            if interaction.channel_id in guild.channels:
                return guild.channels[interaction.channel_id]
        raise ApiError(10003)

    def _response_fields(self, interaction: Interaction) -> Payload:
        kind = interaction.payload["type"]
        who = payloads.user(interaction.user)
        fields: Payload = {
            "application_id": str(self._world.application_id),
            "webhook_id": str(self._world.application_id),
            "interaction_metadata": {
                "id": str(interaction.id),
                "type": kind,
                "user": who,
                "authorizing_integration_owners": {"0": str(interaction.guild_id)},
            },
        }
        if kind == 2:
            name = interaction.payload["data"]["name"]
            fields |= {"type": 20, "interaction": {"id": str(interaction.id), "type": 2, "name": name, "user": who}}
        elif interaction.message_id is not None:
            fields["interaction_metadata"]["interacted_message_id"] = str(interaction.message_id)
        return fields

    def _callback_response(self, interaction: Interaction, number: int, message: Message | None) -> Payload:
        about: Payload = {"id": str(interaction.id), "type": interaction.payload["type"]}
        if message is None:
            return {"interaction": about}
        about |= {
            "response_message_id": str(message.id),
            "response_message_loading": interaction.loading,
            "response_message_ephemeral": message.ephemeral,
        }
        resource = {"type": number, "message": payloads.message(message, viewer=self._world.bot)}
        return {"interaction": about, "resource": resource}

    # --- after it ---------------------------------------------------------------------------------------------------

    def _interaction(self, call: Call) -> Interaction:
        interaction = self._world.tokens.get(call.request.match_info["token"])
        if interaction is None or call.id("webhook_id") != self._world.application_id:
            raise ApiError(10015)
        if time.monotonic() - interaction.created > self._settings.interaction_token_seconds:
            raise ApiError(50027)
        if interaction.answered is None:
            raise ApiError(10015)
        return interaction

    def _target(self, call: Call) -> tuple[Interaction, Channel, Message]:
        interaction = self._interaction(call)
        named = call.request.match_info["message_id"]
        number = interaction.original_id if named == "@original" else call.id("message_id")
        where = self._where(interaction)
        if number is None or number not in where.messages:
            raise ApiError(10008)
        return interaction, where, where.messages[number]

    async def follow_up(self, call: Call) -> Any:
        """POST a follow-up. The first one after a deferred answer takes the place of the "thinking" message."""
        body = await call.body()
        interaction = self._interaction(call)
        where = self._where(interaction)
        thinking = where.messages.get(interaction.original_id or 0)
        if interaction.loading and thinking is not None:
            interaction.loading = False
            return payloads.message(self._messages.edit(where, thinking, body, call))
        made = self._messages.create(where, body, call, **(self._response_fields(interaction) | {"type": 0}))
        return payloads.message(made)

    async def get_message(self, call: Call) -> Any:
        """GET the original response or a follow-up."""
        return payloads.message(self._target(call)[2], viewer=self._world.bot)

    async def edit_message(self, call: Call) -> Any:
        """PATCH the original response or a follow-up."""
        body = await call.body()
        interaction, where, message = self._target(call)
        if message.id == interaction.original_id:
            interaction.loading = False
        return payloads.message(self._messages.edit(where, message, body, call), viewer=self._world.bot)

    async def delete_message(self, call: Call) -> Any:
        """DELETE the original response or a follow-up."""
        _, where, message = self._target(call)
        self._messages.delete(where, message.id, call)
