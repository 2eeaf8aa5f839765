"""REST routes of channels: messages, reactions, pins, typing, threads.

What the bot does here changes the world and is sent to all sessions, as on Discord. Replies and removed replies are
told to the journal.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from typing import Any

from . import payloads
from .emitter import Emitter
from .events import Event
from .rest import ApiError, Call, Route, invalid
from .world import DM, TEXT, Channel, Message, Payload

EPHEMERAL = 1 << 6
LOADING = 1 << 7
_MENTION = re.compile(r"<@!?(\d+)>")
_CUSTOM_EMOJI = re.compile(r"^(\w+):(\d+)$")
_MAX_CONTENT = 2000
_REMOVED_KEPT = 50_000
_EDITABLE = ("content", "embeds", "components", "flags", "attachments")


class BotMessages:
    """What the bot writes, edits and deletes, whichever route it takes. Used by the interaction routes too."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter
        self._world = emitter.world
        self._removed_replies: OrderedDict[int, int] = OrderedDict()

    def create(self, where: Channel, body: Payload, call: Call, **extra: Any) -> Message:
        """Write a message of the bot and send it to all sessions, unless it is ephemeral.

        Raises:
            ApiError: it is empty, too long, or answers a message that is gone.
        """
        content = body.get("content") or ""
        files = self._attachments(where, body, call)
        if not (
            content or body.get("embeds") or body.get("components") or body.get("poll") or files or extra.get("flags")
        ):
            raise ApiError(50006)
        if len(content) > _MAX_CONTENT:
            raise invalid("content", "BASE_TYPE_MAX_LENGTH", "Must be 2000 or fewer in length.")
        number = self._world.ids.next()
        fields = self._fields(where, body, call) | {"attachments": files} | extra
        made = payloads.message_body(
            message_id=number,
            channel_id=where.id,
            author=self._world.bot,
            content=content,
            timestamp=self._world.times.next(),
            **fields,
        )
        message = Message(id=number, channel_id=where.id, guild_id=where.guild_id, author=self._world.bot, body=made)
        message.ephemeral = bool(made["flags"] & EPHEMERAL)
        self._world.add_message(where, message)
        if not message.ephemeral:
            self.publish("MESSAGE_CREATE", where, payloads.message_event(message, self._world))
        return message

    def _fields(self, where: Channel, body: Payload, call: Call) -> Payload:
        fields: Payload = {
            "embeds": [{"type": "rich"} | embed for embed in body.get("embeds") or []],
            "components": body.get("components") or [],
            "flags": body.get("flags") or 0,
            "tts": bool(body.get("tts")),
            "mentions": self._mentions(body.get("content") or ""),
        }
        if body.get("nonce") is not None:
            fields["nonce"] = body["nonce"]
        reference = body.get("message_reference")
        if reference and reference.get("message_id"):
            fields |= self._reference(where, reference, call)
        return fields

    def _reference(self, where: Channel, reference: Payload, call: Call) -> Payload:
        asked_id = int(reference["message_id"])
        self._emitter.journal.handled("message", str(asked_id), by=call.by, source="observed")
        if asked_id in self._world.deleted and reference.get("fail_if_not_exists", True):
            raise invalid("message_reference", "REPLIES_UNKNOWN_MESSAGE", "Unknown message")
        asked = where.messages.get(asked_id)
        known: Payload = {"type": 0, "channel_id": str(where.id), "message_id": str(asked_id)}
        if where.guild_id is not None:
            known["guild_id"] = str(where.guild_id)
        return {
            "type": 19,
            "message_reference": known,
            "referenced_message": payloads.message(asked) if asked is not None else None,
        }

    def _mentions(self, content: str) -> list[Payload]:
        found = {int(number) for number in _MENTION.findall(content)}
        return [payloads.user(self._world.users[number]) for number in sorted(found) if number in self._world.users]

    def _attachments(self, where: Channel, body: Payload, call: Call) -> list[Payload]:
        kept = [item for item in body.get("attachments") or [] if "size" in item]
        for name, size, kind in call.files:
            number = self._world.ids.next()
            url = f"http://{call.request.host}/attachments/{where.id}/{number}/{name}"
            kept.append(
                {"id": str(number), "filename": name, "size": size, "url": url, "proxy_url": url, "content_type": kind}
            )
        return kept

    def edit(self, where: Channel, message: Message, body: Payload, call: Call) -> Message:
        """Change a message of the bot and send the change to all sessions, unless it is ephemeral."""
        changed: Payload = {key: body[key] for key in _EDITABLE if key in body and key != "attachments"}
        if changed.get("content", "") is None:
            changed["content"] = ""
        for key in ("embeds", "components"):
            if key in changed:
                changed[key] = changed[key] or []
        kept = {str(item["id"]) for item in body.get("attachments") or [] if "id" in item}
        if "attachments" in body or call.files:
            before = [item for item in message.body["attachments"] if item["id"] in kept]
            changed["attachments"] = before + self._attachments(where, {}, call)
        flags = (changed.get("flags") or 0) | (message.body["flags"] & ~LOADING)
        message.body = message.body | changed | {"edited_timestamp": self._world.times.next(), "flags": flags}
        self._world.refresh_components(message)
        if not message.ephemeral:
            self.publish("MESSAGE_UPDATE", where, payloads.message_event(message, self._world))
        return message

    def delete(self, where: Channel, message_id: int, call: Call) -> None:
        """Delete a message. A reply whose asking message was deleted before counts as that deletion handled.

        Raises:
            ApiError: there is no such message (any more).
        """
        if message_id not in where.messages:
            asked = self._removed_replies.get(message_id)
            if asked is not None:
                self._emitter.journal.answer_refused("delete", str(asked), by=call.by, code=10008)
            raise ApiError(10008)
        message = self._world.delete_message(where, message_id)
        asked = message.reference_id
        if message.author.bot and asked is not None and asked in self._world.deleted:
            self._emitter.journal.handled("delete", str(asked), by=call.by, source="observed")
            self._removed_replies[message_id] = asked
            while len(self._removed_replies) > _REMOVED_KEPT:
                self._removed_replies.popitem(last=False)
        if not message.ephemeral:
            self.publish("MESSAGE_DELETE", where, {"id": str(message_id), "channel_id": str(where.id)})

    def publish(self, name: str, where: Channel, data: Payload) -> None:
        """Send an event of a channel to all sessions that are due it."""
        if where.guild_id is not None:
            data = data | {"guild_id": str(where.guild_id)}
        self._emitter.gateway.publish(Event(name, data, guild_id=where.guild_id))


class ChannelRoutes:
    """Handlers of the channel routes."""

    def __init__(self, emitter: Emitter, messages: BotMessages) -> None:
        self._emitter = emitter
        self._world = emitter.world
        self._messages = messages

    def routes(self) -> list[Route]:
        """All routes, the more special ones first."""
        channel, message = "/channels/{channel_id}", "/channels/{channel_id}/messages/{message_id}"
        reaction = message + "/reactions/{emoji}"
        table = [
            ("GET", channel, self.get_channel),
            ("POST", channel + "/typing", self.typing),
            ("GET", channel + "/pins", self.old_pins),
            ("PUT", channel + "/pins/{message_id}", self.pin),
            ("DELETE", channel + "/pins/{message_id}", self.unpin),
            ("GET", channel + "/messages/pins", self.pins),
            ("PUT", channel + "/messages/pins/{message_id}", self.pin),
            ("DELETE", channel + "/messages/pins/{message_id}", self.unpin),
            ("POST", channel + "/messages/bulk-delete", self.bulk_delete),
            ("POST", channel + "/messages", self.create_message),
            ("GET", channel + "/messages", self.list_messages),
            ("GET", message, self.get_message),
            ("PATCH", message, self.edit_message),
            ("DELETE", message, self.delete_message),
            ("PUT", reaction + "/@me", self.react),
            ("DELETE", reaction + "/@me", self.unreact),
            ("DELETE", reaction + "/{user_id}", self.unreact),
            ("GET", reaction, self.reactors),
            ("DELETE", reaction, self.clear_emoji),
            ("DELETE", message + "/reactions", self.clear_reactions),
            ("POST", channel + "/threads", self.start_thread),
            ("POST", message + "/threads", self.start_thread),
        ]
        return [Route(method=method, path=path, handler=handler) for method, path, handler in table]

    def _channel(self, call: Call) -> Channel:
        number = call.id("channel_id")
        found = self._world.channels.get(number)
        if found is None:
            raise ApiError(50001 if self._world.in_left_guild(number) else 10003)
        return found

    def _message(self, call: Call) -> tuple[Channel, Message]:
        where = self._channel(call)
        found = where.messages.get(call.id("message_id"))
        if found is None or found.ephemeral:
            raise ApiError(10008)
        return where, found

    # --- channels and messages --------------------------------------------------------------------------------------

    async def get_channel(self, call: Call) -> Any:
        """GET a channel."""
        return payloads.channel(self._channel(call), self_user=self._world.bot)

    async def create_message(self, call: Call) -> Any:
        """POST a message. A try to answer in a guild that was left counts as an answer: the bot did its part."""
        body = await call.body()
        try:
            where = self._channel(call)
        except ApiError:
            asked = (body.get("message_reference") or {}).get("message_id")
            if asked is not None:
                self._emitter.journal.handled("message", str(asked), by=call.by, source="observed")
            raise
        return payloads.message(self._messages.create(where, body, call))

    async def list_messages(self, call: Call) -> Any:
        """GET messages, newest first, by before, after or around."""
        where = self._channel(call)
        limit = call.number("limit", 50) or 0
        before, after, around = (call.number(name) for name in ("before", "after", "around"))
        if not 1 <= limit <= 100:
            raise invalid("limit", "NUMBER_TYPE_MAX", "int value should be between 1 and 100.")
        found = [one for one in where.messages.values() if not one.ephemeral]
        if after is not None:
            found = [one for one in found if one.id > after][:limit]
        elif around is not None:
            found = sorted(sorted(found, key=lambda one: abs(one.id - around))[:limit], key=lambda one: one.id)
        else:
            found = [one for one in found if before is None or one.id < before][-limit:]
        return [payloads.message(one, viewer=self._world.bot) for one in reversed(found)]

    async def get_message(self, call: Call) -> Any:
        """GET one message."""
        return payloads.message(self._message(call)[1], viewer=self._world.bot)

    async def edit_message(self, call: Call) -> Any:
        """PATCH a message of the bot."""
        body = await call.body()
        where, found = self._message(call)
        if not found.author.bot:
            raise ApiError(50005)
        return payloads.message(self._messages.edit(where, found, body, call), viewer=self._world.bot)

    async def delete_message(self, call: Call) -> Any:
        """DELETE a message."""
        self._messages.delete(self._channel(call), call.id("message_id"), call)

    async def bulk_delete(self, call: Call) -> Any:
        """Delete several messages at once: one event for all."""
        where = self._channel(call)
        wanted = [int(one) for one in (await call.body()).get("messages", [])]
        gone = [one for one in wanted if one in where.messages]
        for number in gone:
            self._world.delete_message(where, number)
        data = {"ids": [str(one) for one in gone], "channel_id": str(where.id)}
        self._messages.publish("MESSAGE_DELETE_BULK", where, data)

    async def typing(self, call: Call) -> Any:
        """The bot types."""
        where = self._channel(call)
        data: Payload = {"channel_id": str(where.id), "user_id": str(self._world.bot.id), "timestamp": int(time.time())}
        self._messages.publish("TYPING_START", where, data)

    # --- reactions --------------------------------------------------------------------------------------------------

    async def react(self, call: Call) -> Any:
        """The bot reacts."""
        where, found = self._message(call)
        emoji = _emoji(call.request.match_info["emoji"])
        users = found.reactions.setdefault(emoji["id"] or emoji["name"], (emoji, {}))[1]
        if self._world.bot.id in users:
            return
        users[self._world.bot.id] = None
        data = self._reaction(where, found, self._world.bot.id, emoji)
        guild = self._world.guild_of(where)
        if guild is not None:
            data["member"] = payloads.member(guild.members[self._world.bot.id])
        self._messages.publish("MESSAGE_REACTION_ADD", where, data)

    async def unreact(self, call: Call) -> Any:
        """The bot removes its reaction, or somebody else's."""
        where, found = self._message(call)
        emoji = _emoji(call.request.match_info["emoji"])
        who = call.id("user_id") if "user_id" in call.request.match_info else self._world.bot.id
        name = emoji["id"] or emoji["name"]
        if name not in found.reactions or who not in found.reactions[name][1]:
            raise ApiError(10014)
        del found.reactions[name][1][who]
        if not found.reactions[name][1]:
            del found.reactions[name]
        self._messages.publish("MESSAGE_REACTION_REMOVE", where, self._reaction(where, found, who, emoji))

    def _reaction(self, where: Channel, found: Message, user: int, emoji: Payload) -> Payload:
        return {
            "user_id": str(user),
            "channel_id": str(where.id),
            "message_id": str(found.id),
            "emoji": emoji,
            "burst": False,
            "type": 0,
        }

    async def reactors(self, call: Call) -> Any:
        """GET who reacted with an emoji."""
        _, found = self._message(call)
        emoji = _emoji(call.request.match_info["emoji"])
        users = found.reactions.get(emoji["id"] or emoji["name"], ({}, {}))[1]
        after, limit = call.number("after", 0) or 0, call.number("limit", 25)
        return [payloads.user(self._world.users[one]) for one in sorted(users) if one > after][:limit]

    async def clear_reactions(self, call: Call) -> Any:
        """Remove all reactions of a message."""
        where, found = self._message(call)
        found.reactions.clear()
        data = {"channel_id": str(where.id), "message_id": str(found.id)}
        self._messages.publish("MESSAGE_REACTION_REMOVE_ALL", where, data)

    async def clear_emoji(self, call: Call) -> Any:
        """Remove all reactions with one emoji."""
        where, found = self._message(call)
        emoji = _emoji(call.request.match_info["emoji"])
        found.reactions.pop(emoji["id"] or emoji["name"], None)
        data = {"channel_id": str(where.id), "message_id": str(found.id), "emoji": emoji}
        self._messages.publish("MESSAGE_REACTION_REMOVE_EMOJI", where, data)

    # --- pins and threads -------------------------------------------------------------------------------------------

    async def pin(self, call: Call) -> Any:
        """Pin a message."""
        where, found = self._message(call)
        where.pins[found.id] = self._world.times.next()
        found.body = found.body | {"pinned": True}
        self._pins_changed(where, found)

    async def unpin(self, call: Call) -> Any:
        """Unpin a message."""
        where, found = self._message(call)
        where.pins.pop(found.id, None)
        found.body = found.body | {"pinned": False}
        self._pins_changed(where, found)

    def _pins_changed(self, where: Channel, message: Message) -> None:
        last = max(where.pins.values(), default=None)
        self._messages.publish("MESSAGE_UPDATE", where, payloads.message_event(message, self._world))
        self._messages.publish("CHANNEL_PINS_UPDATE", where, {"channel_id": str(where.id), "last_pin_timestamp": last})

    async def pins(self, call: Call) -> Any:
        """GET pins, newest first."""
        where = self._channel(call)
        items = [
            {"pinned_at": at, "message": payloads.message(where.messages[number], viewer=self._world.bot)}
            for number, at in sorted(where.pins.items(), key=lambda item: item[1], reverse=True)
            if number in where.messages
        ]
        return {"items": items, "has_more": False}

    async def old_pins(self, call: Call) -> Any:
        """GET pins by the route that Discord has replaced."""
        return [item["message"] for item in (await self.pins(call))["items"]]

    async def start_thread(self, call: Call) -> Any:
        """Open a thread, from a message or without one."""
        body = await call.body()
        where = self._channel(call)
        if where.type != TEXT:
            raise ApiError(50001 if where.type == DM else 10003)
        if "message_id" in call.request.match_info:
            self._message(call)
        thread = self._world.add_thread(where, body.get("name") or "thread")
        data = payloads.channel(thread, self_user=self._world.bot)
        self._messages.publish("THREAD_CREATE", where, data | {"newly_created": True})
        return data


def _emoji(text: str) -> Payload:
    custom = _CUSTOM_EMOJI.match(text)
    return {"id": custom.group(2), "name": custom.group(1)} if custom else {"id": None, "name": text}
