"""The sandbox's REST side: errors with Discord's codes, rate limits with their headers, commands, who called."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from bastion.sandbox import Entry, Sandbox, SandboxSettings

pytestmark = pytest.mark.anyio

COMMANDS = [
    {"name": "ping", "description": "p", "options": [{"type": 4, "name": "n", "description": "n", "required": True}]},
    {
        "name": "find",
        "description": "f",
        "options": [{"type": 3, "name": "q", "description": "q", "autocomplete": True}],
    },
]


class Rest:
    """Calls the sandbox as a bot would."""

    def __init__(self, sandbox: Sandbox, http: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.http = http
        self.headers: dict[str, str] = {"Authorization": f"Bot {sandbox.token}"}
        self.answer_headers: Any = {}

    async def __call__(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        url = self.sandbox.api_url + path
        async with self.http.request(method, url, json=body, headers=self.headers, **options) as response:
            self.answer_headers = response.headers
            if response.status == 204:
                return 204, None
            assert response.headers["Content-Type"] == "application/json"
            return response.status, await response.json()

    async def answer(self, entry: Entry, kind: int = 4, **data: Any) -> tuple[int, Any]:
        path = f"/interactions/{entry.interaction_id}/{entry.detail['token']}/callback"
        return await self("POST", path, {"type": kind, "data": data or {"content": "ok"}})

    async def commands(self) -> None:
        status, _ = await self("PUT", f"/applications/{self.sandbox.world.application_id}/commands", COMMANDS)
        assert status == 200


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(guilds=2, skew=(0, 0))) as running:
        yield running


@pytest.fixture
async def rest(sandbox: Sandbox) -> AsyncIterator[Rest]:
    async with aiohttp.ClientSession() as http:
        yield Rest(sandbox, http)


async def test_gateway_bot_tells_address_shards_and_the_identify_budget(sandbox: Sandbox, rest: Rest) -> None:
    sandbox.settings.recommended_shards = 3
    sandbox.settings.max_concurrency = 4
    status, body = await rest("GET", "/gateway/bot")
    limit = {"total": 1000, "remaining": 1000, "reset_after": 0, "max_concurrency": 4}
    assert (status, body) == (200, {"url": sandbox.gateway_url, "shards": 3, "session_start_limit": limit})


async def test_a_bad_token_is_401_but_the_gateways_address_is_public(rest: Rest) -> None:
    rest.headers["Authorization"] = "Bot wrong"
    assert await rest("GET", "/users/@me") == (401, {"message": "401: Unauthorized", "code": 0})
    assert (await rest("GET", "/gateway"))[0] == 200


async def test_what_is_unknown_is_answered_by_discords_codes(sandbox: Sandbox, rest: Rest) -> None:
    guild = next(iter(sandbox.world.guilds))
    channel = next(iter(sandbox.world.channels))
    app = sandbox.world.application_id
    cases = {
        ("GET", "/channels/1"): (404, 10003),
        ("GET", "/guilds/1"): (404, 10004),
        ("GET", f"/guilds/{guild}/members/1"): (404, 10007),
        ("GET", f"/channels/{channel}/messages/1"): (404, 10008),
        ("DELETE", f"/channels/{channel}/messages/1"): (404, 10008),
        ("GET", f"/guilds/{guild}/roles/1"): (404, 10011),
        ("GET", "/users/1"): (404, 10013),
        ("POST", f"/webhooks/{app}/nonsense"): (404, 10015),
        ("POST", "/interactions/1/nonsense/callback"): (404, 10062),
        ("GET", f"/applications/{app}/commands/1"): (404, 10063),
        ("GET", "/channels/abc"): (400, 50035),
        ("GET", f"/channels/{channel}/messages?limit=x"): (400, 50035),
        ("GET", f"/channels/{channel}/messages?limit=101"): (400, 50035),
        ("GET", "/nowhere"): (404, 0),
    }
    for (method, path), expected in cases.items():
        status, body = await rest(method, path)
        assert (status, body["code"]) == expected, (method, path)


async def test_messages_that_are_empty_or_too_long_or_not_ones_own_are_refused(sandbox: Sandbox, rest: Rest) -> None:
    asked = sandbox.emit_message()
    path = f"/channels/{asked.channel_id}/messages"
    assert (await rest("POST", path, {}))[1]["code"] == 50006
    assert (await rest("POST", path, {"content": "x" * 2001}))[1]["code"] == 50035
    assert (await rest("PATCH", f"{path}/{asked.message_id}", {"content": "y"}))[1]["code"] == 50005
    sandbox.emit_guild_leave(guild=asked.guild_id)
    assert (await rest("POST", path, {"content": "x"}))[1]["code"] == 50001


async def test_an_interaction_is_answered_once_and_in_time(sandbox: Sandbox, rest: Rest) -> None:
    await rest.commands()
    entry = sandbox.emit_slash("ping")
    assert (await rest.answer(entry))[0] == 204
    assert (await rest.answer(entry))[1]["code"] == 40060
    sandbox.settings.first_answer_seconds = 0.01
    late = sandbox.emit_slash("ping")
    await asyncio.sleep(max(0, late.at + 0.02 - time.monotonic()))
    assert (await rest.answer(late))[1]["code"] == 10062
    verdict = sandbox.journal.verdict()
    assert (verdict.handled_once, verdict.lost, verdict.refused) == (1, 1, 2)


async def test_each_interaction_takes_only_the_answers_that_fit(sandbox: Sandbox, rest: Rest) -> None:
    await rest.commands()
    assert (await rest.answer(sandbox.emit_slash("ping"), 8, choices=[]))[1]["code"] == 50035
    assert (await rest.answer(sandbox.emit_slash("ping"), 7))[1]["code"] == 50035
    typed = sandbox.emit_autocomplete("find")
    assert (await rest.answer(typed, 4))[1]["code"] == 50035
    assert (await rest.answer(typed, 8, choices=[{"name": "a", "value": "a"}]))[0] == 204


async def test_a_deferred_answer_becomes_the_first_follow_up_and_the_token_dies(sandbox: Sandbox, rest: Rest) -> None:
    await rest.commands()
    entry = sandbox.emit_slash("ping")
    webhook = f"/webhooks/{sandbox.world.application_id}/{entry.detail['token']}"
    assert (await rest("POST", webhook, {"content": "too early"}))[1]["code"] == 10015
    assert (await rest.answer(entry, 5))[0] == 204
    _, thinking = await rest("GET", webhook + "/messages/@original")
    assert thinking["flags"] == 128
    _, first = await rest("POST", webhook, {"content": "done"})
    assert (first["id"], first["content"], first["flags"]) == (thinking["id"], "done", 0)
    _, second = await rest("POST", webhook, {"content": "and more"})
    assert second["id"] != first["id"]
    assert (await rest("PATCH", f"{webhook}/messages/{second['id']}", {"content": "z"}))[1]["content"] == "z"
    assert (await rest("DELETE", f"{webhook}/messages/{second['id']}"))[0] == 204
    assert (await rest("GET", f"{webhook}/messages/{second['id']}"))[1]["code"] == 10008
    sandbox.settings.interaction_token_seconds = 0.01
    await asyncio.sleep(max(0, entry.at + 0.02 - time.monotonic()))
    assert (await rest("POST", webhook, {"content": "late"}))[:2] == (
        401,
        {"message": "Invalid Webhook Token", "code": 50027},
    )


async def test_commands_keep_their_id_by_name_and_can_be_changed(sandbox: Sandbox, rest: Rest) -> None:
    base = f"/applications/{sandbox.world.application_id}"
    guild = next(iter(sandbox.world.guilds))
    _, first = await rest("PUT", base + "/commands", COMMANDS)
    _, again = await rest("PUT", base + "/commands", COMMANDS[:1])
    assert [one["id"] for one in again] == [first[0]["id"]]
    _, local = await rest("POST", f"{base}/guilds/{guild}/commands", COMMANDS[1])
    assert local["guild_id"] == str(guild)
    assert sandbox.emit_slash("find", guild=guild, options=[]).kind == "slash"
    _, changed = await rest("PATCH", f"{base}/guilds/{guild}/commands/{local['id']}", {"description": "new"})
    assert (changed["description"], changed["name"]) == ("new", "find")
    assert (await rest("DELETE", f"{base}/guilds/{guild}/commands/{local['id']}"))[0] == 204
    assert (await rest("GET", f"{base}/guilds/{guild}/commands"))[1] == []


async def test_a_bucket_that_is_exceeded_is_429_with_discords_headers(sandbox: Sandbox, rest: Rest) -> None:
    sandbox.settings.bucket_limit = 2
    sandbox.settings.bucket_window = 30
    assert (await rest("GET", "/users/@me"))[0] == 200
    assert rest.answer_headers["X-RateLimit-Limit"] == "2"
    assert rest.answer_headers["X-RateLimit-Remaining"] == "1"
    assert 0 < float(rest.answer_headers["X-RateLimit-Reset-After"]) <= 30
    await rest("GET", "/users/@me")
    status, body = await rest("GET", "/users/@me")
    assert (status, body["global"]) == (429, False)
    assert 0 < body["retry_after"] <= 30
    assert rest.answer_headers["X-RateLimit-Scope"] == "user"
    assert int(rest.answer_headers["Retry-After"]) >= 1
    assert rest.answer_headers["Via"]
    assert (await rest("GET", "/gateway/bot"))[0] == 200


async def test_the_global_limit_spares_interaction_answers(sandbox: Sandbox, rest: Rest) -> None:
    await rest.commands()
    entry = sandbox.emit_slash("ping")
    sandbox.settings.global_limit = 1
    statuses = [(await rest("GET", f"/users/{sandbox.world.owner.id}"))[0] for _ in range(3)]
    assert 429 in statuses
    assert rest.answer_headers["X-RateLimit-Scope"] == "global"
    assert rest.answer_headers["X-RateLimit-Global"] == "true"
    assert (await rest.answer(entry))[0] == 204


async def test_faults_slow_down_and_break_the_paths_they_name(sandbox: Sandbox, rest: Rest) -> None:
    with sandbox.faults.rest_status(503, "/users/*", count=2) as broken:
        assert (await rest("GET", "/users/@me"))[0] == 503
        assert (await rest("GET", "/gateway/bot"))[0] == 200
        assert (await rest("GET", "/users/@me"))[0] == 503
        assert (await rest("GET", "/users/@me"))[0] == 200
        assert broken.hits == 2
    sandbox.faults.rest_status(429, scope="shared", retry_after=2.5, count=1)
    assert (await rest("GET", "/users/@me"))[1]["retry_after"] == 2.5
    assert rest.answer_headers["X-RateLimit-Scope"] == "shared"
    with sandbox.faults.slow_rest(0.3, "/users/*"):
        await rest("GET", "/users/@me")
        assert sandbox.journal.rest[-1].seconds >= 0.3
    await rest("GET", "/users/@me")
    assert sandbox.journal.rest[-1].seconds < 0.3


async def test_every_call_is_recorded_under_the_generation_of_its_user_agent(sandbox: Sandbox, rest: Rest) -> None:
    await rest.commands()
    asked = sandbox.emit_message(kind="command_message")
    rest.headers["User-Agent"] = "DiscordBot (x) Python/3.11 aiohttp/3 generation/4"
    reply = {"content": "r", "message_reference": {"message_id": str(asked.message_id)}}
    await rest("POST", f"/channels/{asked.channel_id}/messages", reply)
    entry = sandbox.emit_slash("ping")
    del rest.headers["User-Agent"]
    await rest.answer(entry)
    assert [call.by for call in sandbox.journal.rest] == [0, 4, 4], "a connection speaks for whoever used it first"
    assert sandbox.journal.verdict().by_generation == {4: 2}
    assert sandbox.journal.rest_counts[("POST", "/channels/{channel_id}/messages", 200)] == 1


async def test_a_reply_in_a_guild_that_was_left_counts_as_the_bots_part_done(sandbox: Sandbox, rest: Rest) -> None:
    asked = sandbox.emit_message(kind="command_message")
    sandbox.emit_guild_leave(guild=asked.guild_id)
    reply = {"content": "r", "message_reference": {"message_id": str(asked.message_id)}}
    assert (await rest("POST", f"/channels/{asked.channel_id}/messages", reply))[0] == 403
    assert sandbox.journal.verdict().clean
