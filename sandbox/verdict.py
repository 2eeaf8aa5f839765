"""The outcome of an experiment: counts per kind, latencies, a timeline, and how they print.

Knows numbers and text only; `sandbox.journal` fills it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bastion.counted import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySummary:
    """Seconds from emission to handling. All zero when nothing was handled."""

    count: int = 0
    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A key that was lost, doubled or late. Times are monotonic seconds; ``audience`` counts sessions due it."""

    key: str
    emitted_at: float
    audience: int
    handled_at: float | None
    by: int | None


@dataclass(slots=True, kw_only=True)
class Second:
    """One second of the timeline: what was emitted in it, and what was handled in it by each generation."""

    at: int
    emitted: int = 0
    handled: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class KindVerdict:
    """The counts of one kind. ``handled_once`` are occurrences that were handled, ``duplicated`` handlings too many."""

    kind: str
    emitted: int = 0
    handled_once: int = 0
    lost: int = 0
    duplicated: int = 0
    late: int = 0
    pending: int = 0
    refused: int = 0
    latency: LatencySummary = LatencySummary()
    lost_examples: list[Example] = field(default_factory=list)
    duplicated_examples: list[Example] = field(default_factory=list)
    late_examples: list[Example] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of the expected events. ``str`` is a table, ``as_dict`` is JSON-ready.

    ``refused`` are second or late answers to interactions, ``strays`` reports of keys never emitted, ``unheard`` those
    lost events that no session was there to receive.
    """

    started_at: float
    kinds: dict[str, KindVerdict]
    latency: LatencySummary
    spans: dict[str, LatencySummary]
    by_generation: dict[int, int]
    timeline: list[Second]
    refused: int
    strays: int
    unheard: int

    def _sum(self, name: str) -> int:
        return sum(getattr(kind, name) for kind in self.kinds.values())

    @property
    def emitted(self) -> int:
        """Expected events of all kinds."""
        return self._sum("emitted")

    @property
    def handled_once(self) -> int:
        """Occurrences that were handled."""
        return self._sum("handled_once")

    @property
    def lost(self) -> int:
        """Occurrences that nobody handled."""
        return self._sum("lost")

    @property
    def duplicated(self) -> int:
        """Handlings beyond the first of an occurrence."""
        return self._sum("duplicated")

    @property
    def late(self) -> int:
        """Occurrences handled later than the limit."""
        return self._sum("late")

    @property
    def pending(self) -> int:
        """Occurrences too young to be called lost."""
        return self._sum("pending")

    @property
    def clean(self) -> bool:
        """Nothing lost, nothing doubled, no second answer tried, no stray report."""
        return not (self.lost or self.duplicated or self.refused or self.strays)

    def as_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON values, totals included."""
        names = ("emitted", "handled_once", "lost", "duplicated", "late", "pending", "clean")
        body = asdict(self)
        body["by_generation"] = {str(number): count for number, count in self.by_generation.items()}
        for second in body["timeline"]:
            second["handled"] = {str(number): count for number, count in second["handled"].items()}
        return {name: getattr(self, name) for name in names} | body

    def __str__(self) -> str:
        header = ["kind", "emitted", "handled", "lost", "doubled", "late", "p50 ms", "p99 ms", "max ms"]
        rows = [_row(kind.kind, kind, kind.latency) for kind in self.kinds.values()]
        lines = _table([header, *rows, _row("all", self, self.latency)])
        for name, span in self.spans.items():
            lines.append(f"{name}: {span.count} handled, {_latencies(span)}")
        if self.by_generation:
            shares = ", ".join(f"generation {number}: {count}" for number, count in self.by_generation.items())
            lines.append(f"handled by {shares}")
        notes = {"refused answers": self.refused, "stray reports": self.strays, "pending": self.pending}
        lines += [
            f"{name}: {count}"
            for name, count in (notes | {"lost with no session to receive": self.unheard}).items()
            if count
        ]
        for kind in self.kinds.values():
            for word, examples in (("lost", kind.lost_examples), ("doubled", kind.duplicated_examples)):
                lines += [f"{word} {kind.kind} {_example(item, self.started_at)}" for item in examples]
        return "\n".join(lines)


def summarise(values: Sequence[float]) -> LatencySummary:
    """Percentiles of latencies by nearest rank."""
    if not values:
        return LatencySummary()
    ordered = sorted(values)

    def rank(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

    return LatencySummary(count=len(ordered), p50=rank(0.50), p99=rank(0.99), max=ordered[-1])


def _row(name: str, counts: KindVerdict | Verdict, latency: LatencySummary) -> list[str]:
    numbers = [counts.emitted, counts.handled_once, counts.lost, counts.duplicated, counts.late]
    return [name, *map(str, numbers), *(f"{1000 * value:.0f}" for value in (latency.p50, latency.p99, latency.max))]


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _latencies(latency: LatencySummary) -> str:
    return f"p50 {1000 * latency.p50:.0f} ms, p99 {1000 * latency.p99:.0f} ms, max {1000 * latency.max:.0f} ms"


def _example(item: Example, started: float) -> str:
    audience = counted(item.audience, "session")
    text = f"{item.key} (emitted at +{item.emitted_at - started:.3f} s to {audience}"
    if item.handled_at is not None:
        text += f", again by generation {item.by} at +{item.handled_at - started:.3f} s"
    return text + ")"
