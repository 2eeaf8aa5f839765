"""What was emitted, who received it and what the bot did about it; from that, the verdict.

Knows events by kind and key. It knows no world, no session and no HTTP: others tell it. All times are monotonic seconds
(`time.monotonic`, the same clock in every process of a machine).

An occurrence may be seen handled in two ways: by what the sandbox observed itself (a reply, an interaction's first
answer, a removed reply) and by what a test bot reported. One handling may show up in both, so they are not added: of
the two counts the larger one stands.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from .verdict import Example, KindVerdict, LatencySummary, Second, Verdict, summarise

KINDS = (
    "message",
    "command_message",
    "slash",
    "autocomplete",
    "button",
    "select",
    "modal",
    "reaction_add",
    "reaction_remove",
    "edit",
    "delete",
    "typing",
    "member_join",
    "member_leave",
    "member_update",
    "guild_join",
    "guild_leave",
)
"""Every kind an entry can have."""

OBSERVED_KINDS = ("command_message", "slash", "autocomplete", "button", "select", "modal")
"""Kinds that count when nothing else was said: those whose handling the sandbox sees without any help of the bot."""

Source: TypeAlias = Literal["observed", "reported"]
Expectation: TypeAlias = "Iterable[str] | Callable[[Entry], bool]"

_ALIASES = {"command_message": "message"}
_REST_KEPT = 100_000
_GENERATION = re.compile(r"\bgeneration/(\d{1,9})\s*$")


def generation_of(user_agent: str) -> int:
    """The number after ``generation/`` at the end of a User-Agent, 0 when there is none."""
    found = _GENERATION.search(user_agent)
    return int(found.group(1)) if found else 0


@dataclass(slots=True, kw_only=True)
class Entry:
    """One emitted event. ``audience`` counts the sessions due it, ``delivered`` says which got it and when."""

    kind: str
    key: str
    at: float
    guild_id: int | None = None
    channel_id: int | None = None
    message_id: int | None = None
    user_id: int | None = None
    interaction_id: int | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    audience: int = 0
    delivered: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Handled:
    """One handling of a key: when, by which generation, and how it became known."""

    at: float
    by: int
    source: Source


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer to an interaction that came second (40060) or too late (10062)."""

    at: float
    by: int
    kind: str
    key: str
    code: int


@dataclass(frozen=True, slots=True)
class RestCall:
    """One REST call as it was answered. ``route`` has its ids replaced by names."""

    at: float
    method: str
    route: str
    status: int
    by: int
    seconds: float


class _Record:
    """All occurrences of one key."""

    __slots__ = ("emitted", "observed", "reported")

    def __init__(self) -> None:
        self.emitted: list[Entry] = []
        self.observed: list[Handled] = []
        self.reported: list[Handled] = []

    @property
    def handled(self) -> list[Handled]:
        return self.reported if len(self.reported) > len(self.observed) else self.observed


class Journal:
    """The record of one sandbox's life. ``clear`` empties it between two experiments."""

    def __init__(self) -> None:
        self._expected: Callable[[Entry], bool] = _by_kind(OBSERVED_KINDS)
        self._progress = asyncio.Event()
        self._pulse = asyncio.Event()
        self.last_handled_at = 0.0
        self._reset()

    def _reset(self) -> None:
        self.entries: list[Entry] = []
        self._records: dict[tuple[str, str], _Record] = {}
        self._outstanding = 0
        self.refused: list[Refused] = []
        self.strays: list[tuple[str, str, Handled]] = []
        self._notes: dict[tuple[str, str], list[Handled]] = {}
        self.rest: deque[RestCall] = deque(maxlen=_REST_KEPT)
        self.rest_counts: Counter[tuple[str, str, int]] = Counter()
        self.started = time.monotonic()

    def clear(self) -> None:
        """Forget everything that was recorded. What is expected stays."""
        self._reset()

    # --- being told -------------------------------------------------------------------------------------------------

    def emitted(self, entry: Entry) -> Entry:
        """Record an event, before it is sent to anybody."""
        self.entries.append(entry)
        self._pulse.set()
        record = self._records.setdefault(_name(entry.kind, entry.key), _Record())
        record.emitted.append(entry)
        if self._expected(entry) and len(record.emitted) > len(record.handled):
            self._outstanding += 1
        return entry

    def handled(
        self, kind: str, key: str, *, by: int = 0, at: float | None = None, source: Source = "reported"
    ) -> None:
        """Record that a key was handled once more.

        A report of a key that was never emitted is a stray. One of a kind that the sandbox does not know is a note of
        the test bot's own: kept for `handlings`, no part of any verdict.
        """
        handling = Handled(time.monotonic() if at is None else at, by, source)
        self._pulse.set()
        if kind not in KINDS:
            self._notes.setdefault((kind, key), []).append(handling)
            self._progress.set()
            return
        record = self._records.get(_name(kind, key))
        if record is None:
            if source == "reported":
                self.strays.append((kind, key, handling))
            return
        before = len(record.handled)
        (record.reported if source == "reported" else record.observed).append(handling)
        after = len(record.handled)
        if after > before and after <= len(record.emitted) and self._expected(record.emitted[after - 1]):
            self._outstanding -= 1
        self.last_handled_at = time.monotonic()
        self._progress.set()

    def answer_refused(self, kind: str, key: str, *, by: int, code: int) -> None:
        """Record an answer to an interaction that was refused because it came second or too late."""
        self.refused.append(Refused(time.monotonic(), by, kind, key, code))
        self._pulse.set()

    def rest_call(self, call: RestCall) -> None:
        """Record a REST call. The newest 100,000 are kept, the counts are of all."""
        self.rest.append(call)
        self._pulse.set()
        self.rest_counts[(call.method, call.route, call.status)] += 1

    # --- being asked ------------------------------------------------------------------------------------------------

    def expect(self, what: Expectation) -> None:
        """Say which entries the bot must handle: kinds, or a predicate over `Entry`.

        Raises:
            ValueError: a kind that does not exist.
        """
        self._expected = what if callable(what) else _by_kind(what)
        self._outstanding = 0
        for record in self._records.values():
            missing = record.emitted[len(record.handled) :]
            self._outstanding += sum(1 for entry in missing if self._expected(entry))

    @property
    def outstanding(self) -> int:
        """Expected events that nobody handled yet."""
        return self._outstanding

    def handlings(self, kind: str, key: str) -> list[Handled]:
        """How often a key was handled, oldest first. Kinds of a test bot's own are found as well."""
        if kind not in KINDS:
            return list(self._notes.get((kind, key), ()))
        record = self._records.get(_name(kind, key))
        return list(record.handled) if record is not None else []

    def notes(self, kind: str) -> list[str]:
        """The keys that a test bot reported under a kind of its own, oldest first."""
        found = [(one.at, key) for (noted, key), many in self._notes.items() if noted == kind for one in many]
        return [key for _, key in sorted(found)]

    async def wait_handled(self, entry: Entry, *, timeout: float = 5.0) -> Handled:
        """The first handling of an entry's key.

        Raises:
            TimeoutError: nobody handled it within ``timeout`` seconds.
        """
        async with asyncio.timeout(timeout):
            while not (found := self.handlings(entry.kind, entry.key)):
                await self.progress()
        return found[0]

    async def until(self, condition: Callable[[], bool], *, timeout: float = 10.0) -> None:
        """Wait until a condition holds; it is tried after each emission, handling, refused answer and REST call.

        Raises:
            TimeoutError: it does not hold after ``timeout`` seconds.
        """
        async with asyncio.timeout(timeout):
            while not condition():
                self._pulse.clear()
                await self._pulse.wait()

    async def progress(self) -> None:
        """Return when the next handling was recorded."""
        self._progress.clear()
        await self._progress.wait()

    async def settled(self, *, timeout: float, quiet: float, linger: float) -> bool:
        """Wait until all expected events are handled, or nothing new was handled for ``quiet`` seconds.

        Then listen ``linger`` seconds more, in which duplicates of the last events may come in. Returns whether nothing
        is outstanding.
        """
        deadline = time.monotonic() + timeout
        while self._outstanding > 0:
            remaining = min(quiet, deadline - time.monotonic())
            if remaining <= 0:
                break
            try:
                async with asyncio.timeout(remaining):
                    await self.progress()
            except TimeoutError:
                break
        await asyncio.sleep(linger)
        return self._outstanding <= 0

    def verdict(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        settle: float = 0.0,
        late: float = 3.0,
        spans: Mapping[str, tuple[float, float]] | None = None,
        examples: int = 10,
    ) -> Verdict:
        """Compare what was emitted with what was handled.

        Args:
            since: leave out keys first emitted before this monotonic time.
            until: leave out keys first emitted after it.
            settle: an unhandled event younger than this many seconds is pending, not lost.
            late: handled later than this many seconds after emission counts as late (and as handled).
            spans: named (from, to) monotonic times; latencies are summarised for each by emission time.
            examples: at most that many keys are named per kind and fault.
        """
        window = (since if since is not None else float("-inf"), until if until is not None else float("inf"))
        tally = _Tally(fresh_after=time.monotonic() - settle, late=late, examples=examples, spans=dict(spans or {}))
        for record in self._records.values():
            first = record.emitted[0]
            if window[0] <= first.at <= window[1] and self._expected(first):
                tally.add(record)
        refused = [item for item in self.refused if window[0] <= item.at <= window[1]]
        return tally.finish(self.started, refused=refused, strays=len(self.strays))


class _Tally:
    """Adds up records into a verdict."""

    def __init__(
        self, *, fresh_after: float, late: float, examples: int, spans: dict[str, tuple[float, float]]
    ) -> None:
        self.fresh_after = fresh_after
        self.late = late
        self.examples = examples
        self.spans = spans
        self.kinds: dict[str, KindVerdict] = {}
        self.latencies: dict[str, list[float]] = {}
        self.by_span: dict[str, list[float]] = {name: [] for name in spans}
        self.by_generation: Counter[int] = Counter()
        self.timeline: dict[int, Second] = {}
        self.unheard = 0

    def add(self, record: _Record) -> None:
        """Count one key."""
        emitted, handled = record.emitted, record.handled
        kind = self.kinds.setdefault(emitted[0].kind, KindVerdict(kind=emitted[0].kind))
        kind.emitted += len(emitted)
        for index, entry in enumerate(emitted):
            self._second(entry.at).emitted += 1
            if index < len(handled):
                self._handled(kind, entry, handled[index])
            elif entry.at > self.fresh_after:
                kind.pending += 1
            else:
                kind.lost += 1
                self.unheard += not entry.audience
                self._example(kind.lost_examples, entry, None)
        for extra in handled[len(emitted) :]:
            kind.duplicated += 1
            self._example(kind.duplicated_examples, emitted[-1], extra)
        for handling in handled:
            self.by_generation[handling.by] += 1
            second = self._second(handling.at)
            second.handled[handling.by] = second.handled.get(handling.by, 0) + 1

    def _handled(self, kind: KindVerdict, entry: Entry, handling: Handled) -> None:
        kind.handled_once += 1
        latency = max(0.0, handling.at - entry.at)
        self.latencies.setdefault(kind.kind, []).append(latency)
        for name, (start, end) in self.spans.items():
            if start <= entry.at < end:
                self.by_span[name].append(latency)
        if latency > self.late:
            kind.late += 1
            self._example(kind.late_examples, entry, handling)

    def _example(self, examples: list[Example], entry: Entry, handling: Handled | None) -> None:
        if len(examples) < self.examples:
            examples.append(
                Example(
                    key=entry.key,
                    emitted_at=entry.at,
                    audience=entry.audience,
                    handled_at=handling.at if handling else None,
                    by=handling.by if handling else None,
                )
            )

    def _second(self, at: float) -> Second:
        return self.timeline.setdefault(int(at), Second(at=int(at)))

    def finish(self, started: float, *, refused: list[Refused], strays: int) -> Verdict:
        """The verdict over all that was added."""
        for kind in self.kinds.values():
            kind.latency = summarise(self.latencies.get(kind.kind, []))
            kind.refused = sum(1 for item in refused if item.kind == kind.kind)
        everything = [latency for values in self.latencies.values() for latency in values]
        return Verdict(
            started_at=started,
            kinds={name: self.kinds[name] for name in KINDS if name in self.kinds},
            latency=summarise(everything),
            spans={name: summarise(values) for name, values in self.by_span.items()},
            by_generation=dict(sorted(self.by_generation.items())),
            timeline=[self.timeline[second] for second in sorted(self.timeline)],
            refused=len(refused),
            strays=strays,
            unheard=self.unheard,
        )


def _name(kind: str, key: str) -> tuple[str, str]:
    return (_ALIASES.get(kind, kind), key)


def _by_kind(kinds: Iterable[str]) -> Callable[[Entry], bool]:
    wanted = frozenset(kinds)
    unknown = wanted - set(KINDS)
    if unknown:
        raise ValueError(f"unknown kinds: {', '.join(sorted(unknown))}; known are: {', '.join(KINDS)}")
    return lambda entry: entry.kind in wanted


__all__ = [
    "KINDS",
    "OBSERVED_KINDS",
    "Entry",
    "Example",
    "Handled",
    "Journal",
    "KindVerdict",
    "LatencySummary",
    "Refused",
    "RestCall",
    "Second",
    "Verdict",
    "generation_of",
]
