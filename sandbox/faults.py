"""Faults on demand: what the sandbox shall do wrong, for how long, and how to undo it.

Knows which faults are armed and asks the gateway to break connections. The gateway and the REST side ask it before they
act. Each method returns a `Fault`: ``undo`` it, or use it in a ``with`` block.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from .gateway import Gateway
    from .sessions import Session

Which: TypeAlias = Literal["newest", "oldest", "all"] | int
"""Which of several sessions of a shard: by age, all of them, or the nth counted from the oldest (0)."""

Refusal: TypeAlias = Literal["invalid", 4007, 4009, "cut", "reconnect", "resumable"]
"""How a RESUME is refused: op 9 false, a close code, a socket cut without a close frame (1006), op 7, op 9 true."""

Nonsense: TypeAlias = Literal["text", "bytes", "list"]
"""What comes in the place of a payload: no JSON, bytes that cannot be decompressed, JSON that is no object."""

NONSENSE: dict[str, str | bytes] = {"text": "\x00 no payload {", "bytes": b"\xde\xad\xbe\xef" * 4, "list": "[1, 2, 3]"}

UNLIMITED = None


class FaultError(ValueError):
    """A fault that does not exist, or parameters that make no sense."""


@dataclass(slots=True, kw_only=True)
class Fault:
    """An armed fault. ``hits`` counts what it did; ``left`` how often it may still strike (None: any number)."""

    kind: str
    detail: dict[str, Any] = field(default_factory=dict)
    left: int | None = UNLIMITED
    hits: int = 0
    active: bool = True
    _undo: Callable[[], None] | None = None

    def strike(self) -> bool:
        """Use the fault once. False when it is undone or used up."""
        if not self.active:
            return False
        self.hits += 1
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                self.active = False
        return True

    def undo(self) -> None:
        """Take the fault back; what it has broken stays broken. Undoing twice is harmless."""
        self.active = False
        if self._undo is not None:
            undo, self._undo = self._undo, None
            undo()

    def __enter__(self) -> Fault:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


class Faults:
    """All faults of one sandbox."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._armed: list[Fault] = []

    @property
    def armed(self) -> list[Fault]:
        """Faults that can still strike."""
        self._armed = [fault for fault in self._armed if fault.active]
        return list(self._armed)

    def clear(self) -> None:
        """Undo every fault."""
        for fault in self._armed:
            fault.undo()
        self._armed.clear()

    def _arm(
        self, kind: str, *, count: int | None = UNLIMITED, undo: Callable[[], None] | None = None, **detail: Any
    ) -> Fault:
        if count is not None and count < 1:
            raise FaultError(f"count must be at least 1 or left out, not {count!r}")
        fault = Fault(kind=kind, detail=detail, left=count, _undo=undo)
        self._armed.append(fault)
        return fault

    def _done(self, kind: str, hits: int, **detail: Any) -> Fault:
        return Fault(kind=kind, detail=detail, left=0, hits=hits, active=False)

    # --- at once: connections and sessions --------------------------------------------------------------------------

    def drop_shard(self, shard: int, *, which: Which = "all") -> Fault:
        """Cut the sockets of a shard's sessions without a close frame. The sessions stay resumable."""
        hits = sum(self._gateway.drop(session) for session in self._pick(shard, which))
        return self._done("drop_shard", hits, shard=shard, which=which)

    def close(self, shard: int, code: int, *, which: Which = "all") -> Fault:
        """Close a shard's sockets with a code. The sessions stay resumable unless the code forbids it."""
        if not 1000 <= code <= 4999:
            raise FaultError(f"a close code is between 1000 and 4999, not {code!r}")
        hits = sum(self._gateway.close(session, code) for session in self._pick(shard, which))
        return self._done("close", hits, shard=shard, code=code, which=which)

    def reconnect(self, shard: int, *, which: Which = "all") -> Fault:
        """Send op 7: the client shall reconnect and resume."""
        hits = sum(self._gateway.ask_reconnect(session) for session in self._pick(shard, which))
        return self._done("reconnect", hits, shard=shard, which=which)

    def invalidate(self, shard: int, *, resumable: bool = False, which: Which = "all") -> Fault:
        """Send op 9. With ``resumable`` false the session ends."""
        hits = sum(self._gateway.invalidate(session, resumable=resumable) for session in self._pick(shard, which))
        return self._done("invalidate", hits, shard=shard, resumable=resumable, which=which)

    def garble(self, shard: int, what: Nonsense = "text", *, which: Which = "all") -> Fault:
        """Send something that is no payload. The sessions stay resumable."""
        if what not in NONSENSE:
            raise FaultError(f"what must be one of {', '.join(NONSENSE)}, not {what!r}")
        hits = sum(self._gateway.send_raw(session, NONSENSE[what]) for session in self._pick(shard, which))
        return self._done("garble", hits, shard=shard, what=what, which=which)

    def mute(self, shard: int, *, which: Which = "all") -> Fault:
        """Leave the sockets of a shard's sessions open, and never read or write on them again. They stay resumable."""
        hits = sum(self._gateway.mute(session) for session in self._pick(shard, which))
        return self._done("mute", hits, shard=shard, which=which)

    def vanish(self, shard: int, *, which: Which = "all") -> Fault:
        """End a shard's sessions without a word: the sockets are cut, and a RESUME finds no session."""
        picked = self._pick(shard, which)
        for session in picked:
            self._gateway.drop(session)
            self._gateway.end(session)
        return self._done("vanish", len(picked), shard=shard, which=which)

    def _pick(self, shard: int, which: Which) -> list[Session]:
        sessions = [session for session in self._gateway.sessions if session.shard == shard]
        if which == "all":
            return sessions
        index = {"oldest": 0, "newest": -1}.get(which, which) if isinstance(which, str) else which
        if not isinstance(index, int):
            raise FaultError(f"which must be 'newest', 'oldest', 'all' or a number, not {which!r}")
        return sessions[index : index + 1 or None]

    # --- armed: what happens next -----------------------------------------------------------------------------------

    def withhold_ready(self, shards: Iterable[int] | None = None, *, count: int | None = UNLIMITED) -> Fault:
        """IDENTIFYs of these shards (None: of all) get no READY, only silence and heartbeat ACKs."""
        return self._arm("withhold_ready", count=count, shards=None if shards is None else sorted(set(shards)))

    def withhold_hello(self, *, count: int | None = UNLIMITED) -> Fault:
        """New connections get no HELLO, nor anything else."""
        return self._arm("withhold_hello", count=count)

    def withhold_resume(self, *, count: int | None = UNLIMITED) -> Fault:
        """RESUMEs get no answer, only silence and heartbeat ACKs. The sessions stay resumable."""
        return self._arm("withhold_resume", count=count)

    def refuse_resume(
        self, how: Refusal = "invalid", *, after: float = 0.0, early: bool = False, count: int | None = UNLIMITED
    ) -> Fault:
        """RESUMEs are refused, ``after`` seconds late. The session ends with "invalid", 4007 and 4009.

        ``early``: only a RESUME of a session whose former connection is still open is refused, and that connection
        keeps the session.
        """
        if how not in get_args(Refusal):
            raise FaultError(f"how must be one of {', '.join(map(repr, get_args(Refusal)))}, not {how!r}")
        if not 0 <= after <= 3600:
            raise FaultError(f"after must be between 0 and 3600 seconds, not {after!r}")
        return self._arm("refuse_resume", count=count, how=how, after=after, early=early)

    def resume_address_status(self, status: int = 503, *, count: int | None = UNLIMITED) -> Fault:
        """The address for RESUMEs answers with an HTTP status; the gateway's own address is as good as ever."""
        if not 400 <= status <= 599:
            raise FaultError(f"status must be between 400 and 599, not {status!r}")
        return self._arm("resume_address_status", count=count, status=status)

    def refuse_identify(self, count: int | None = 1) -> Fault:
        """The next IDENTIFYs are answered op 9 false."""
        return self._arm("refuse_identify", count=count)

    def deaf_sessions(self, *, count: int | None = UNLIMITED) -> Fault:
        """New sessions get READY and their guilds and then nothing more."""
        return self._arm("deaf_sessions", count=count)

    def kick_old_sessions(self, *, count: int | None = UNLIMITED) -> Fault:
        """A new session of a shard ends the older ones of the same shard and shard count (op 9 false)."""
        return self._arm("kick_old_sessions", count=count)

    def revoke_token(self) -> Fault:
        """The token is no longer good: REST answers 401, sessions are ended with 4004. Undone, it is good again."""
        fault = self._arm("revoke_token")
        for session in self._gateway.sessions:
            fault.hits += self._gateway.close(session, 4004)
        return fault

    def slow_rest(self, seconds: float, path: str = "*", *, count: int | None = UNLIMITED) -> Fault:
        """REST calls whose path below ``/api/v10`` matches the glob take longer."""
        if not 0 <= seconds <= 3600:
            raise FaultError(f"seconds must be between 0 and 3600, not {seconds!r}")
        return self._arm("slow_rest", count=count, seconds=seconds, path=path)

    def rest_status(
        self,
        status: int,
        path: str = "*",
        *,
        count: int | None = UNLIMITED,
        scope: Literal["user", "global", "shared"] = "user",
        retry_after: float = 1.0,
    ) -> Fault:
        """REST calls whose path matches the glob are answered with an error status and do nothing.

        ``scope`` and ``retry_after`` (seconds) matter for 429 only.
        """
        if not 400 <= status <= 599:
            raise FaultError(f"status must be between 400 and 599, not {status!r}")
        return self._arm("rest_status", count=count, status=status, path=path, scope=scope, retry_after=retry_after)

    # --- asked by gateway and REST ----------------------------------------------------------------------------------

    def strikes(self, kind: str) -> bool:
        """Use a fault of this kind once, if one is armed."""
        return any(fault.kind == kind and fault.strike() for fault in self.armed)

    def ready_withheld(self, shard: int) -> bool:
        """Use a withheld READY for this shard, if one is armed."""
        for fault in self.armed:
            shards = fault.detail.get("shards")
            if fault.kind == "withhold_ready" and (shards is None or shard in shards):
                return fault.strike()
        return False

    def resume_refused(self, *, connected: bool) -> Fault | None:
        """Use the first armed refusal of a RESUME. ``connected``: the session's former connection is still open."""
        for fault in self.armed:
            if fault.kind == "refuse_resume" and (connected or not fault.detail["early"]):
                fault.strike()
                return fault
        return None

    def resume_address(self) -> int | None:
        """Return the HTTP status with which the address for RESUMEs answers; None if it works."""
        for fault in self.armed:
            if fault.kind == "resume_address_status":
                fault.strike()
                return int(fault.detail["status"])
        return None

    @property
    def token_revoked(self) -> bool:
        """Whether the good token is refused now."""
        return any(fault.kind == "revoke_token" for fault in self.armed)

    def rest(self, kind: Literal["slow_rest", "rest_status"], path: str) -> Fault | None:
        """Use the first armed REST fault of this kind whose glob matches the path."""
        if not self._armed:
            return None
        for fault in self.armed:
            if fault.kind == kind and fnmatch.fnmatchcase(path, fault.detail["path"]):
                fault.strike()
                return fault
        return None
