"""The control API at ``/sandbox/...``: another process drives the sandbox and asks for its verdict.

Knows HTTP and the names of the control API; what they do is done elsewhere. Loopback only, no token.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

from .emitter import EmitError, Emitter
from .events import encode
from .faults import Fault, FaultError
from .settings import SettingsError
from .traffic import Traffic, TrafficError
from .verdict import Verdict

_EMITS = (
    "message",
    "direct_message",
    "edit",
    "delete",
    "reaction_add",
    "reaction_remove",
    "typing",
    "member_join",
    "member_leave",
    "member_update",
    "guild_join",
    "guild_leave",
    "slash",
    "autocomplete",
    "button",
    "select",
    "modal",
)
_FAULTS = (
    "drop_shard",
    "close",
    "reconnect",
    "invalidate",
    "garble",
    "mute",
    "withhold_hello",
    "withhold_ready",
    "withhold_resume",
    "refuse_resume",
    "resume_address_status",
    "vanish",
    "refuse_identify",
    "deaf_sessions",
    "kick_old_sessions",
    "revoke_token",
    "slow_rest",
    "rest_status",
)
_RECORDS_SHOWN = 1000


class BadRequestError(ValueError):
    """A control request that cannot be done. The message says why."""


class Control:
    """Handlers of the control API. ``settle`` waits and gives the verdict."""

    def __init__(self, emitter: Emitter, traffic: Traffic, settle: Callable[..., Awaitable[Verdict]]) -> None:
        self._emitter = emitter
        self._traffic = traffic
        self._settle = settle
        self._armed: dict[int, Fault] = {}
        self._faults_done = 0

    def add(self, app: web.Application) -> None:
        """Register the routes."""
        table: list[tuple[str, str, Callable[[web.Request], Awaitable[Any]]]] = [
            ("GET", "/sandbox/verdict", self.verdict),
            ("GET", "/sandbox/state", self.state),
            ("POST", "/sandbox/traffic", self.traffic),
            ("POST", "/sandbox/faults", self.faults),
            ("POST", "/sandbox/settings", self.settings),
            ("POST", "/sandbox/expect", self.expect),
            ("POST", "/sandbox/handled", self.handled),
            ("POST", "/sandbox/emit", self.emit),
        ]
        for method, path, handler in table:
            app.router.add_route(method, path, _answering(handler))

    async def verdict(self, request: web.Request) -> Any:
        """The verdict, as JSON or with ``?format=text`` as a table; ``?settle=10`` waits up to that long first."""
        seconds = _number(request.query.get("settle", "0"), "settle")
        since = request.query.get("since")
        window = _number(since, "since") if since is not None else None
        if seconds:
            verdict = await self._settle(timeout=seconds, since=window)
        else:
            verdict = self._emitter.journal.verdict(since=window)
        if request.query.get("format") == "text":
            return web.Response(text=f"{verdict}\n")
        return verdict.as_dict()

    async def state(self, request: web.Request) -> Any:
        """Sessions, IDENTIFYs, REST counts, settings, traffic and armed faults."""
        emitter, gateway = self._emitter, self._emitter.gateway
        return {
            "now": time.monotonic(),
            "sessions": [
                {
                    "id": one.id,
                    "shard": one.shard,
                    "num_shards": one.num_shards,
                    "generation": one.generation,
                    "connected": one.connected,
                    "ready_at": one.ready_at,
                    "detached_at": one.detached_at,
                    "seq": one.seq,
                    "delivered": one.delivered,
                    "waiting": one.waiting,
                    "resumed": one.resumed,
                    "deaf": one.deaf,
                }
                for one in gateway.sessions
            ],
            "identifies": list(gateway.identifies)[-_RECORDS_SHOWN:],
            "violations": gateway.violations[-_RECORDS_SHOWN:],
            "session_start_limit": gateway.session_start_limit(),
            "rest": [
                {"method": method, "route": route, "status": status, "count": count}
                for (method, route, status), count in sorted(emitter.journal.rest_counts.items())
            ],
            "guilds": [str(number) for number in emitter.world.guilds],
            "settings": {name: value for name, value in _settings(emitter).items() if name != "token"},
            "traffic": {
                "running": self._traffic.running,
                "emitted": dict(self._traffic.report.emitted),
                "skipped": dict(self._traffic.report.skipped),
            },
            "outstanding": emitter.journal.outstanding,
            "faults": [{"kind": one.kind, "detail": one.detail, "hits": one.hits} for one in gateway.faults.armed],
        }

    async def traffic(self, request: web.Request) -> Any:
        """Start traffic ``{rate, seconds?, mix?, spacing?}``, or stop it with ``{"rate": 0}``."""
        body = await _body(request)
        options = body.pop("options", {})
        for name, value in options.items():
            if not hasattr(self._traffic.options, name):
                raise BadRequestError(f"unknown traffic option {name!r}")
            setattr(self._traffic.options, name, [tuple(one) if isinstance(one, list) else one for one in value])
        if body.get("rate") == 0:
            report = await self._traffic.stop()
            return {"running": False, "emitted": dict(report.emitted), "skipped": dict(report.skipped)}
        _only(body, {"rate", "seconds", "mix", "spacing"})
        if body:
            self._traffic.start(**body)
        return {"running": self._traffic.running}

    async def faults(self, request: web.Request) -> Any:
        """Do or arm a fault ``{kind, ...}``; ``{"undo": id}`` takes one back, ``{"clear": true}`` all."""
        body = await _body(request)
        faults = self._emitter.gateway.faults
        if body.get("clear"):
            faults.clear()
            self._armed.clear()
            return {"cleared": True}
        if "undo" in body:
            fault = self._armed.pop(body["undo"], None)
            if fault is None:
                raise BadRequestError(f"no armed fault has id {body['undo']!r}")
            fault.undo()
            return {"id": body["undo"], "hits": fault.hits, "active": False}
        kind = body.pop("kind", None)
        if kind not in _FAULTS:
            raise BadRequestError(f"unknown fault {kind!r}; known are: {', '.join(_FAULTS)}")
        fault = getattr(faults, kind)(**body)
        self._faults_done += 1
        number = self._faults_done
        self._armed[number] = fault
        return {"id": number, "kind": kind, "hits": fault.hits, "active": fault.active}

    async def settings(self, request: web.Request) -> Any:
        """Change settings ``{name: value, ...}``."""
        self._emitter.settings.change(await _body(request))
        return {name: value for name, value in _settings(self._emitter).items() if name != "token"}

    async def expect(self, request: web.Request) -> Any:
        """Say which kinds the verdict counts: ``{"kinds": [...]}``."""
        body = await _body(request)
        self._emitter.journal.expect(body.get("kinds", []))
        return {"outstanding": self._emitter.journal.outstanding}

    async def handled(self, request: web.Request) -> Any:
        """A test bot reports ``{kind, key, by, at?}``, or a list of those. Answered at once, without a body."""
        raw = msgspec.json.decode(await request.read())
        for report in raw if isinstance(raw, list) else [raw]:
            try:
                kind, key = str(report["kind"]), str(report["key"])
            except (KeyError, TypeError):
                raise BadRequestError("a report needs kind and key") from None
            self._emitter.journal.handled(kind, key, by=int(report.get("by", 0)), at=report.get("at"))
        return None

    async def emit(self, request: web.Request) -> Any:
        """Emit one event ``{kind, ...}`` with the arguments of the method of that name."""
        body = await _body(request)
        kind = body.pop("kind", None)
        if kind not in _EMITS and kind != "command_message":
            raise BadRequestError(f"unknown kind {kind!r}; known are: {', '.join(_EMITS)}")
        if kind == "command_message":
            kind, body["kind"] = "message", "command_message"
        for name in ("guild", "channel", "author", "user", "message", "reply_to"):
            if isinstance(body.get(name), str):
                body[name] = int(body[name])
        arguments = [body.pop("name")] if kind in ("slash", "autocomplete") and "name" in body else []
        entry = getattr(self._emitter, f"emit_{kind}")(*arguments, **body)
        ids = ("guild_id", "channel_id", "message_id", "user_id", "interaction_id")
        named = {name: str(getattr(entry, name)) for name in ids if getattr(entry, name) is not None}
        return {"kind": entry.kind, "key": entry.key, "at": entry.at, "audience": entry.audience, **named}


def _answering(handler: Callable[[web.Request], Awaitable[Any]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def serve(request: web.Request) -> web.Response:
        try:
            result = await handler(request)
        except (
            BadRequestError,
            SettingsError,
            TrafficError,
            FaultError,
            EmitError,
            TypeError,
            ValueError,
            msgspec.DecodeError,
        ) as error:
            return web.Response(status=400, body=encode({"error": str(error)}), content_type="application/json")
        if isinstance(result, web.Response):
            return result
        if result is None:
            return web.Response(status=204)
        return web.Response(body=encode(result), content_type="application/json")

    return serve


def _settings(emitter: Emitter) -> dict[str, Any]:
    return {name: getattr(emitter.settings, name) for name in emitter.settings.__slots__}


async def _body(request: web.Request) -> dict[str, Any]:
    raw = await request.read()
    body = msgspec.json.decode(raw) if raw else {}
    if not isinstance(body, dict):
        raise BadRequestError("the body must be a JSON object")
    return body


def _only(body: dict[str, Any], known: set[str]) -> None:
    unknown = set(body) - known
    if unknown:
        raise BadRequestError(f"unknown keys: {', '.join(sorted(unknown))}; known are: {', '.join(sorted(known))}")


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadRequestError(f"{name} must be a number, not {text!r}") from None
