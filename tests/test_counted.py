"""Numbers and their nouns go together."""

from __future__ import annotations

import pytest

from bastion.counted import counted, named, verb


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0 shards are"), (1, "1 shard is"), (2, "2 shards are"), (1200, "1,200 shards are")]
)
def test_one_is_singular_and_no_other_number_is(count: int, shown: str) -> None:
    assert f"{counted(count, 'shard')} {verb(count)}" == shown


def test_a_plural_may_be_irregular() -> None:
    assert [counted(n, "reply", many="replies") for n in (1, 2)] == ["1 reply", "2 replies"]


@pytest.mark.parametrize(
    ("numbers", "shown"),
    [
        ([3], "shard 3"),
        ([5, 3], "shards 3 and 5"),
        ([0, 1, 2], "shards 0 to 2"),
        ([0, 1, 3], "shards 0, 1 and 3"),
        (range(0, 30, 2), "shards 0, 2, 4, 6, 8, 10, 12, 14, 16, 18 and 5 more"),
    ],
)
def test_things_are_named_by_their_numbers(numbers: list[int], shown: str) -> None:
    assert named(numbers, "shard") == shown
