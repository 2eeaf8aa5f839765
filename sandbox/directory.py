"""REST routes of everything that is looked up: the bot, its application and commands, users, guilds, members, roles.

Reads the world, and writes commands, the bot's own nickname and direct channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import payloads
from .emitter import Emitter
from .events import Event
from .rest import ApiError, Call, Route, invalid
from .world import THREAD, Guild, Member, Payload

_COMMANDS = "/applications/{application_id}/commands"
_GUILD_COMMANDS = "/applications/{application_id}/guilds/{guild_id}/commands"


class DirectoryRoutes:
    """Handlers of the look-up routes. ``gateway_url`` gives the websocket's address once the port is known."""

    def __init__(self, emitter: Emitter, gateway_url: Callable[[], str]) -> None:
        self._emitter = emitter
        self._world = emitter.world
        self._gateway_url = gateway_url

    def routes(self) -> list[Route]:
        """All routes."""
        guild = "/guilds/{guild_id}"
        table = [
            ("GET", "/gateway/bot", self.gateway_bot),
            ("GET", "/users/@me", self.me),
            ("GET", "/users/@me/guilds", self.my_guilds),
            ("POST", "/users/@me/channels", self.open_direct),
            ("GET", "/users/{user_id}", self.user),
            ("GET", "/oauth2/applications/@me", self.application),
            ("GET", "/applications/@me", self.application),
            ("GET", guild, self.guild),
            ("GET", guild + "/channels", self.guild_channels),
            ("GET", guild + "/threads/active", self.guild_threads),
            ("GET", guild + "/roles", self.guild_roles),
            ("GET", guild + "/roles/{role_id}", self.guild_role),
            ("GET", guild + "/members", self.guild_members),
            ("GET", guild + "/members/search", self.search_members),
            ("PATCH", guild + "/members/@me", self.rename),
            ("PATCH", guild + "/members/{user_id}", self.rename),
            ("GET", guild + "/members/{user_id}", self.guild_member),
        ]
        for base in (_COMMANDS, _GUILD_COMMANDS):
            table += [
                ("GET", base, self.commands),
                ("PUT", base, self.put_commands),
                ("POST", base, self.post_command),
                ("GET", base + "/{command_id}", self.command),
                ("PATCH", base + "/{command_id}", self.patch_command),
                ("DELETE", base + "/{command_id}", self.delete_command),
            ]
        routes = [Route(method=method, path=path, handler=handler) for method, path, handler in table]
        return [Route(method="GET", path="/gateway", handler=self.gateway, open=True), *routes]

    # --- gateway, bot, users ----------------------------------------------------------------------------------------

    async def gateway(self, call: Call) -> Any:
        """GET the websocket's address."""
        return {"url": self._gateway_url()}

    async def gateway_bot(self, call: Call) -> Any:
        """GET the address, the recommended shard count and the IDENTIFY budget."""
        return {
            "url": self._gateway_url(),
            "shards": self._emitter.settings.recommended_shards,
            "session_start_limit": self._emitter.gateway.session_start_limit(),
        }

    async def me(self, call: Call) -> Any:
        """GET the bot."""
        return payloads.user(self._world.bot) | {"verified": True, "mfa_enabled": True, "locale": "en-US", "flags": 0}

    async def application(self, call: Call) -> Any:
        """GET the application."""
        return payloads.application(self._world)

    async def user(self, call: Call) -> Any:
        """GET a user."""
        found = self._world.users.get(call.id("user_id"))
        if found is None:
            raise ApiError(10013)
        return payloads.user(found)

    async def my_guilds(self, call: Call) -> Any:
        """GET the guilds the bot is in."""
        after, limit = call.number("after", 0) or 0, call.number("limit", 200)
        chosen = sorted(number for number in self._world.guilds if number > after)[:limit]
        return [
            {
                "id": str(one),
                "name": self._world.guilds[one].name,
                "icon": None,
                "owner": False,
                "permissions": "8",
                "features": [],
            }
            for one in chosen
        ]

    async def open_direct(self, call: Call) -> Any:
        """Open the direct channel to a user."""
        body = await call.body()
        found = self._world.users.get(int(body.get("recipient_id") or 0))
        if found is None or found.bot:
            raise ApiError(10013)
        return payloads.channel(self._world.direct_channel(found))

    # --- guilds -----------------------------------------------------------------------------------------------------

    def _guild(self, call: Call) -> Guild:
        number = call.id("guild_id")
        found = self._world.guilds.get(number)
        if found is None:
            raise ApiError(50001 if number in self._world.left else 10004)
        return found

    async def guild(self, call: Call) -> Any:
        """GET a guild."""
        found = self._guild(call)
        counts = {"approximate_member_count": len(found.members), "approximate_presence_count": len(found.members)}
        return payloads.guild(found) | counts

    async def guild_channels(self, call: Call) -> Any:
        """GET a guild's channels."""
        return [payloads.channel(one) for one in self._guild(call).channels.values() if one.type != THREAD]

    async def guild_threads(self, call: Call) -> Any:
        """GET a guild's threads."""
        threads = [one for one in self._guild(call).channels.values() if one.type == THREAD]
        return {"threads": [payloads.channel(one, self_user=self._world.bot) for one in threads], "members": []}

    async def guild_roles(self, call: Call) -> Any:
        """GET a guild's roles."""
        return [payloads.role(one) for one in self._guild(call).roles]

    async def guild_role(self, call: Call) -> Any:
        """GET one role."""
        for one in self._guild(call).roles:
            if one.id == call.id("role_id"):
                return payloads.role(one)
        raise ApiError(10011)

    def _member(self, call: Call) -> tuple[Guild, Member]:
        home = self._guild(call)
        number = call.id("user_id") if "user_id" in call.request.match_info else self._world.bot.id
        if number not in home.members:
            raise ApiError(10007)
        return home, home.members[number]

    async def guild_member(self, call: Call) -> Any:
        """GET a member."""
        return payloads.member(self._member(call)[1])

    async def guild_members(self, call: Call) -> Any:
        """GET members by id, paged."""
        home = self._guild(call)
        after, limit = call.number("after", 0) or 0, call.number("limit", 1)
        chosen = sorted(number for number in home.members if number > after)[:limit]
        return [payloads.member(home.members[number]) for number in chosen]

    async def search_members(self, call: Call) -> Any:
        """GET members whose name or nickname begins with a text."""
        text, limit = call.request.query.get("query", "").lower(), call.number("limit", 1)
        found = [
            one for one in self._guild(call).members.values() if (one.nick or one.user.name).lower().startswith(text)
        ]
        return [payloads.member(one) for one in found[:limit]]

    async def rename(self, call: Call) -> Any:
        """PATCH a nickname; the change is sent to all sessions."""
        body = await call.body()
        home, member = self._member(call)
        if "nick" in body:
            member.nick = body["nick"] or None
        data = payloads.member(member)
        self._emitter.gateway.publish(Event("GUILD_MEMBER_UPDATE", data | {"guild_id": str(home.id)}, guild_id=home.id))
        return data

    # --- commands ---------------------------------------------------------------------------------------------------

    def _scope(self, call: Call) -> int | None:
        if call.id("application_id") != self._world.application_id:
            raise ApiError(50001)
        return self._guild(call).id if "guild_id" in call.request.match_info else None

    def _command(self, call: Call) -> tuple[dict[int, Payload], Payload]:
        scope = self._world.commands.get(self._scope(call), {})
        found = scope.get(call.id("command_id"))
        if found is None:
            raise ApiError(10063)
        return scope, found

    async def commands(self, call: Call) -> Any:
        """GET the commands of a scope."""
        return list(self._world.commands.get(self._scope(call), {}).values())

    async def put_commands(self, call: Call) -> Any:
        """Replace the commands of a scope."""
        bodies = await call.json()
        if not isinstance(bodies, list):
            raise invalid("_", "LIST_TYPE_CONVERT", "Only iterables may be used in a ListType.")
        for body in bodies:
            _check_command(body)
        return self._world.put_commands(self._scope(call), bodies)

    async def post_command(self, call: Call) -> Any:
        """Add or replace one command."""
        body = await call.body()
        _check_command(body)
        return self._world.upsert_command(self._scope(call), body)

    async def command(self, call: Call) -> Any:
        """GET one command."""
        return self._command(call)[1]

    async def patch_command(self, call: Call) -> Any:
        """Change one command."""
        body = await call.body()
        _, found = self._command(call)
        found.update({key: value for key, value in body.items() if key not in ("id", "application_id", "type")})
        found["version"] = str(self._world.ids.next())
        return found

    async def delete_command(self, call: Call) -> Any:
        """Remove one command."""
        scope, found = self._command(call)
        del scope[int(found["id"])]


def _check_command(body: Any) -> None:
    name = body.get("name") if isinstance(body, dict) else None
    if not isinstance(name, str) or not 1 <= len(name) <= 32:
        raise invalid("name", "BASE_TYPE_BAD_LENGTH", "Must be between 1 and 32 in length.")
