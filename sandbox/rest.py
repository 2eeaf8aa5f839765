"""The REST frame: authorisation, rate limits, faults, errors, headers and the record of every call.

Knows how a call is answered, not what any route means: those are in `sandbox.channels`, `sandbox.interactions` and
`sandbox.directory`, which register their handlers here.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import msgspec
from aiohttp import web

from .emitter import Emitter
from .events import encode
from .faults import Fault
from .journal import RestCall, generation_of
from .world import Payload

PREFIX = "/api/v10"
JSON_TYPE = {"Content-Type": "application/json"}
"""discord.py reads a body as JSON only if the type is exactly this, without a charset."""

_MAJOR = ("channel_id", "guild_id", "webhook_id", "token")
_BUCKETS_KEPT = 10_000

_MESSAGES = {
    10003: (404, "Unknown Channel"),
    10004: (404, "Unknown Guild"),
    10007: (404, "Unknown Member"),
    10008: (404, "Unknown Message"),
    10011: (404, "Unknown Role"),
    10013: (404, "Unknown User"),
    10014: (404, "Unknown Emoji"),
    10015: (404, "Unknown Webhook"),
    10062: (404, "Unknown interaction"),
    10063: (404, "Unknown application command"),
    40060: (400, "Interaction has already been acknowledged."),
    50001: (403, "Missing Access"),
    50005: (403, "Cannot edit a message authored by another user"),
    50006: (400, "Cannot send an empty message"),
    50027: (401, "Invalid Webhook Token"),
    50035: (400, "Invalid Form Body"),
    50109: (400, "The request body contains invalid JSON."),
}


class ApiError(Exception):
    """An error answer with Discord's code. ``errors`` is the detail of an invalid form body."""

    def __init__(self, code: int, *, errors: Payload | None = None) -> None:
        self.status, message = _MESSAGES[code]
        self.body: Payload = {"message": message, "code": code}
        if errors is not None:
            self.body["errors"] = errors
        super().__init__(message)


def invalid(name: str, code: str, message: str) -> ApiError:
    """Error 50035 about one field."""
    return ApiError(50035, errors={name: {"_errors": [{"code": code, "message": message}]}})


@dataclass(slots=True)
class Call:
    """One request as handlers see it: ids from the path, query, body and who asks."""

    request: web.Request
    by: int
    files: list[tuple[str, int, str]] = field(default_factory=list)

    def id(self, name: str) -> int:
        """An id from the path.

        Raises:
            ApiError: it is no number.
        """
        text = self.request.match_info[name]
        if not text.isdecimal():
            raise invalid(name, "NUMBER_TYPE_COERCE", f'Value "{text}" is not snowflake.')
        return int(text)

    def number(self, name: str, default: int | None = None) -> int | None:
        """A whole number from the query.

        Raises:
            ApiError: it is none.
        """
        text = self.request.query.get(name)
        if text is None:
            return default
        if not text.isdecimal():
            raise invalid(name, "NUMBER_TYPE_COERCE", f'Value "{text}" is not int.')
        return int(text)

    async def body(self) -> Payload:
        """The JSON object in the body, also out of a multipart form; the form's files go to ``files``.

        Raises:
            ApiError: it is no JSON, or no object.
        """
        body = await self.json()
        if not isinstance(body, dict):
            raise invalid("_", "DICT_TYPE_CONVERT", "Only dictionaries may be used in a DictType.")
        return body

    async def json(self) -> Any:
        """The body's JSON, whatever it is; an empty body is an empty object.

        Raises:
            ApiError: it is no JSON.
        """
        if self.request.content_type.startswith("multipart/"):
            return await self._form()
        raw = await self.request.read()
        return self._decode(raw) if raw else {}

    async def _form(self) -> Any:
        payload: Any = {}
        form = await self.request.post()
        for name, value in form.items():
            if isinstance(value, web.FileField):
                size = value.file.seek(0, 2)
                self.files.append((value.filename, size, value.content_type))
            elif name == "payload_json":
                payload = self._decode(value if isinstance(value, (str, bytes)) else bytes(value))
        return payload

    @staticmethod
    def _decode(raw: str | bytes) -> Any:
        try:
            return msgspec.json.decode(raw)
        except msgspec.DecodeError:
            raise ApiError(50109) from None


Handler: TypeAlias = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route below the prefix. ``open``: needs no token. ``exempt``: outside the global rate limit."""

    method: str
    path: str
    handler: Handler
    open: bool = False
    exempt: bool = False


@dataclass(slots=True)
class _Bucket:
    started: float
    used: int = 0


class RestApi:
    """Answers the REST calls of one sandbox."""

    def __init__(self, emitter: Emitter) -> None:
        self._emitter = emitter
        self._settings = emitter.settings
        self._random = random.Random(f"{emitter.settings.seed}/rest")
        self._buckets: dict[tuple[str, ...], _Bucket] = {}
        self._global = _Bucket(0.0)
        self._spoken_for: WeakKeyDictionary[asyncio.BaseTransport, int] = WeakKeyDictionary()

    def add(self, app: web.Application, routes: list[Route]) -> None:
        """Register routes, in order: the first that matches wins."""
        for route in routes:
            app.router.add_route(route.method, PREFIX + route.path, self._serving(route))

    def add_fallback(self, app: web.Application) -> None:
        """Answer everything else below the prefix with 404, and record it."""

        async def unknown(call: Call) -> Any:
            return _json({"message": "404: Not Found", "code": 0}, 404)

        route = Route(method="*", path="/{tail:.*}", handler=unknown)
        app.router.add_route("*", PREFIX + "/{tail:.*}", self._serving(route))

    def _serving(self, route: Route) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def serve(request: web.Request) -> web.Response:
            started = time.monotonic()
            by = self._generation(request)
            response = await self._answer(route, request, by)
            name = re.sub(r"\{(\w+)[^}]*\}", r"{\1}", route.path)
            self._emitter.journal.rest_call(
                RestCall(started, request.method, name, response.status, by, time.monotonic() - started)
            )
            return response

        return serve

    def _generation(self, request: web.Request) -> int:
        """Who calls: by User-Agent, else by what the same connection said before.

        discord.py answers interactions through a second client that sends no User-Agent of its own over the same
        connection pool.
        """
        by = generation_of(request.headers.get("User-Agent", ""))
        transport = request.transport
        if transport is None:
            return by
        if by:
            self._spoken_for[transport] = by
            return by
        return self._spoken_for.get(transport, 0)

    async def _answer(self, route: Route, request: web.Request, by: int) -> web.Response:
        path = request.path.removeprefix(PREFIX)
        faults = self._emitter.gateway.faults
        slow = faults.rest("slow_rest", path)
        pause = self._random.uniform(*self._settings.rest_latency) + (slow.detail["seconds"] if slow else 0.0)
        if pause:
            await asyncio.sleep(pause)
        broken = faults.rest("rest_status", path)
        if broken is not None:
            return self._fault_response(broken)
        if not route.open and not self._authorised(request):
            return _json({"message": "401: Unauthorized", "code": 0}, 401)
        headers, limited = self._count(route, request)
        if limited is not None:
            return limited
        try:
            result = await route.handler(Call(request, by))
        except ApiError as error:
            return _json(error.body, error.status, headers)
        if isinstance(result, web.Response):
            return result
        if result is None:
            return web.Response(status=204, headers=headers)
        return _json(result, 200, headers)

    def _authorised(self, request: web.Request) -> bool:
        return (
            request.headers.get("Authorization") == f"Bot {self._settings.token}"
            and not self._emitter.gateway.token_bad
        )

    def _fault_response(self, fault: Fault) -> web.Response:
        detail = fault.detail
        status: int = detail["status"]
        if status == 429:
            return _limited(detail["retry_after"], scope=detail["scope"], headers={})
        return _json({"message": f"{status}: sandbox fault", "code": 0}, status)

    def _count(self, route: Route, request: web.Request) -> tuple[dict[str, str], web.Response | None]:
        """Count a call against its bucket and the global limit. The answer is there if one is exceeded."""
        now = time.monotonic()
        if self._settings.global_limit and not route.exempt:
            self._global = self._global if now - self._global.started < 1 else _Bucket(now)
            self._global.used += 1
            if self._global.used > self._settings.global_limit:
                return {}, _limited(self._global.started + 1 - now, scope="global", headers={})
        key = (route.method, route.path, *(request.match_info.get(name, "") for name in _MAJOR))
        bucket = self._buckets.get(key)
        if bucket is None or now - bucket.started >= self._settings.bucket_window:
            bucket = self._buckets[key] = _Bucket(now)
            if len(self._buckets) > _BUCKETS_KEPT:
                self._prune(now)
        bucket.used += 1
        limit, window = self._settings.bucket_limit, self._settings.bucket_window
        rest = max(0.0, bucket.started + window - now)
        headers = {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(max(0, limit - bucket.used)),
            "X-RateLimit-Reset": f"{time.time() + rest:.3f}",
            "X-RateLimit-Reset-After": f"{rest:.3f}",
            "X-RateLimit-Bucket": hashlib.md5(f"{route.method}{route.path}".encode()).hexdigest(),
        }
        if bucket.used > limit:
            return headers, _limited(rest, scope="user", headers=headers)
        return headers, None

    def _prune(self, now: float) -> None:
        window = self._settings.bucket_window
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if now - bucket.started < window}


def _json(body: Any, status: int, headers: dict[str, str] | None = None) -> web.Response:
    # "Via" is how discord.py tells Discord's 429 from one of a proxy in front of it.
    return web.Response(
        body=encode(body), status=status, headers={**JSON_TYPE, "Via": "1.1 sandbox", **(headers or {})}
    )


def _limited(retry_after: float, *, scope: str, headers: dict[str, str]) -> web.Response:
    everywhere = scope == "global"
    extra = {"Retry-After": str(max(1, round(retry_after))), "X-RateLimit-Scope": scope}
    if everywhere:
        extra["X-RateLimit-Global"] = "true"
    body = {"message": "You are being rate limited.", "retry_after": round(retry_after, 3), "global": everywhere}
    return _json(body, 429, headers | extra)
