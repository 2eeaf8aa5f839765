"""Medians with their spread, percentiles and paired ratios.

Knows numbers only. A ratio is taken round by round, both sides of one round having run one after the other, and then
summarised: what disturbs the machine for longer than a round disturbs both sides.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A median, the quartiles around it, and how many values there were."""

    median: float
    low: float
    high: float
    count: int

    def as_dict(self) -> dict[str, float]:
        """Return it JSON-ready."""
        return {"median": _short(self.median), "q1": _short(self.low), "q3": _short(self.high), "n": self.count}

    def text(self, digits: int = 1) -> str:
        """Return "median (q1 to q3)"."""
        return f"{self.median:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f})"


def spread(values: Sequence[float]) -> Spread:
    """Summarise at least one value. Raises `ValueError` for none."""
    if not values:
        raise ValueError("no values to summarise")
    low, high = (values[0], values[0]) if len(values) == 1 else _quartiles(values)
    return Spread(median=statistics.median(values), low=low, high=high, count=len(values))


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def ratios(left: Sequence[float], right: Sequence[float]) -> Spread:
    """Summarise left/right, pair by pair. Raises `ValueError` for sequences of unequal length or none."""
    return spread([one / other for one, other in zip(left, right, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value at a share of 0 to 1 by nearest rank; 0 for no values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def slope(values: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the slope of y over x by Theil and Sen, and its 95 % half-width.

    The median of the slopes between all pairs: a few outliers, such as one late garbage collection, do not move it.
    Raises `ValueError` for fewer than three points.
    """
    if len(values) < 3:
        raise ValueError("a slope needs three points")
    slopes = sorted(
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for index, earlier in enumerate(values)
        for later in values[index + 1 :]
        if later[0] != earlier[0]
    )
    count = len(values)
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    reach = 1.96 * deviation / 2
    middle = len(slopes) / 2
    low = slopes[max(0, math.floor(middle - reach))]
    high = slopes[min(len(slopes) - 1, math.ceil(middle + reach))]
    return statistics.median(slopes), (high - low) / 2


def _short(value: float) -> float:
    return float(f"{value:.5g}")
