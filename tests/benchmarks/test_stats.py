"""Medians, paired ratios, percentiles and slopes."""

from __future__ import annotations

import random

import pytest

from benchmarks.stats import percentile, ratios, slope, spread


def test_a_spread_is_median_and_quartiles() -> None:
    found = spread([1, 2, 3, 4, 100])
    assert (found.median, found.low, found.high, found.count) == (3, 2, 4, 5)
    assert spread([7]).as_dict() == {"median": 7.0, "q1": 7.0, "q3": 7.0, "n": 1}


def test_nothing_has_no_median() -> None:
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_ratios_are_taken_pair_by_pair_so_that_a_slow_round_does_not_count() -> None:
    found = ratios([10, 20, 1000], [5, 10, 500])
    assert (found.low, found.median, found.high) == (2, 2, 2)


def test_ratios_need_both_sides_of_each_round() -> None:
    with pytest.raises(ValueError):
        ratios([1, 2], [1])


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100), (0.0, 1)])
def test_percentiles_are_by_nearest_rank(share: float, value: float) -> None:
    values = list(range(1, 101))
    random.Random(1).shuffle(values)
    assert percentile(values, share) == value
    assert percentile([], share) == 0


def test_a_slope_is_found_in_noise_and_none_where_there_is_none() -> None:
    noise = random.Random(1)
    rising = [(float(x), 3 * x + noise.uniform(-20, 20)) for x in range(100)]
    level = [(float(x), noise.uniform(-20, 20)) for x in range(100)]
    level[50] = (50.0, 10_000.0)
    middle, half = slope(rising)
    assert abs(middle - 3) < half < 0.5
    middle, half = slope(level)
    assert abs(middle) < half < 0.5
    with pytest.raises(ValueError, match="three points"):
        slope(level[:2])
