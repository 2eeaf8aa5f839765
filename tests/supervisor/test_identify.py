"""The queue of permits, under a clock that the test turns."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastion.supervisor.identify import MARGIN, PATIENCE, IdentifyQueue, Wish
from bastion.wire import Limits

WINDOW = 5.0


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def limits(max_concurrency: int = 1, *, remaining: int = 1000, reset_after: float = 3600.0) -> Limits:
    return Limits(total=1000, remaining=remaining, reset_after=reset_after, max_concurrency=max_concurrency, shards=1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> IdentifyQueue:
    return IdentifyQueue(window=WINDOW, clock=clock)


def connect_all(
    queue: IdentifyQueue, clock: Clock, *, active: int | None = None, delay: float = 0.0
) -> list[tuple[Wish, float]]:
    """Let every wish be granted as soon as it may, each IDENTIFY leaving ``delay`` after its permit."""
    done: list[tuple[Wish, float]] = []
    while True:
        granted = queue.grant(active=active)
        for wish in granted:
            clock.now += delay
            queue.identified(wish.generation, wish.shard)
            done.append((wish, clock.now))
        due = queue.next_due()
        if due is None:
            return done
        assert due > clock.now or granted
        clock.now = max(clock.now, due)


def test_a_queue_that_follows_another_one_knows_its_limit_and_gives_nothing_for_a_window(
    queue: IdentifyQueue, clock: Clock
) -> None:
    queue.update(limits(16, remaining=9))
    heir = IdentifyQueue(window=WINDOW, clock=clock)
    heir.begin_with(queue.limit())
    assert heir.limit() == queue.limit()
    heir.ask(1, 3)
    began = clock.now
    assert connect_all(heir, clock) == [(Wish(1, 3), began + WINDOW + MARGIN)]


def test_a_permit_is_out_until_its_identify_has_left_or_can_be_no_more(queue: IdentifyQueue, clock: Clock) -> None:
    queue.ask(1, 0)
    assert not queue.out
    for ended in (
        lambda: queue.identified(1, 0),
        lambda: queue.forget(1),
        lambda: setattr(clock, "now", clock.now + 40),
    ):
        clock.now += WINDOW + 1
        queue.ask(1, 0)
        assert queue.grant(active=None)
        assert queue.out
        ended()
        assert not queue.out


def test_a_reload_needs_its_identifies_and_a_reserve(queue: IdentifyQueue, clock: Clock) -> None:
    assert queue.shortage(needed=9, reserve=9) is None, "nothing is known yet"
    queue.update(limits(remaining=10, reset_after=600.0))
    assert queue.shortage(needed=5, reserve=5) is None
    clock.now += 100
    assert queue.shortage(needed=5, reserve=6) == 500.0
    clock.now += 500
    assert queue.shortage(needed=5, reserve=6) is None


def test_a_permit_that_is_out_is_no_longer_there_for_a_reload(queue: IdentifyQueue) -> None:
    queue.update(limits(remaining=10))
    queue.ask(1, 0)
    assert queue.grant(active=1)
    assert queue.shortage(needed=5, reserve=5) is not None


def test_a_reserve_that_no_day_could_hold_is_not_asked_for(queue: IdentifyQueue) -> None:
    queue.update(limits(remaining=1000))
    assert queue.shortage(needed=600, reserve=600) is None
    assert queue.shortage(needed=1001, reserve=600) is not None


def test_one_bucket_lets_one_shard_through_per_window(queue: IdentifyQueue, clock: Clock) -> None:
    for shard in range(3):
        queue.ask(1, shard)
    done = connect_all(queue, clock)
    assert [wish.shard for wish, _ in done] == [0, 1, 2]
    gaps = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(done)]
    assert gaps == pytest.approx([WINDOW + MARGIN] * 2)


@pytest.mark.parametrize("max_concurrency", [1, 4, 16])
def test_sixteen_shards_take_little_more_than_the_rule_demands(
    queue: IdentifyQueue, clock: Clock, max_concurrency: int
) -> None:
    queue.update(limits(max_concurrency))
    began = clock.now
    for shard in range(16):
        queue.ask(1, shard)
    connect_all(queue, clock)
    rounds = 16 / max_concurrency - 1
    assert rounds * WINDOW <= clock.now - began <= rounds * WINDOW * 1.02


def test_the_window_counts_from_the_identify_not_from_the_permit(queue: IdentifyQueue, clock: Clock) -> None:
    queue.ask(1, 0)
    queue.ask(1, 1)
    queue.grant(active=None)
    clock.now += 12
    assert queue.grant(active=None) == []
    queue.identified(1, 0)
    clock.now += WINDOW
    assert queue.grant(active=None) == []
    clock.now += MARGIN
    assert queue.grant(active=None) == [Wish(1, 1)]


def test_a_permit_that_leads_to_nothing_counts_as_used_in_the_end(queue: IdentifyQueue, clock: Clock) -> None:
    queue.ask(1, 0)
    queue.ask(1, 1)
    queue.grant(active=None)
    assert queue.next_due() == clock.now + PATIENCE
    clock.now += PATIENCE
    assert queue.grant(active=None) == []
    clock.now += WINDOW + MARGIN
    assert queue.grant(active=None) == [Wish(1, 1)]


def test_a_child_that_asks_again_has_tried(queue: IdentifyQueue, clock: Clock) -> None:
    queue.ask(1, 0)
    queue.grant(active=None)
    queue.ask(1, 0)
    assert queue.grant(active=None) == []
    clock.now += WINDOW + MARGIN
    assert queue.grant(active=None) == [Wish(1, 0)]


def test_asking_twice_is_one_wish(queue: IdentifyQueue) -> None:
    queue.ask(1, 0)
    queue.ask(1, 0)
    assert queue.waiting(1) == 1


def test_the_active_childs_reconnect_goes_before_a_standbys_start(queue: IdentifyQueue, clock: Clock) -> None:
    for shard in range(3):
        queue.ask(2, shard)
    queue.ask(1, 7)
    assert [wish for wish, _ in connect_all(queue, clock, active=1)] == [Wish(1, 7), Wish(2, 0), Wish(2, 1), Wish(2, 2)]


def test_two_children_share_the_buckets(queue: IdentifyQueue) -> None:
    queue.update(limits(4))
    for generation in (1, 2):
        for shard in range(4):
            queue.ask(generation, shard)
    assert [wish.generation for wish in queue.grant(active=2)] == [2, 2, 2, 2]
    assert queue.grant(active=2) == []


def test_a_dead_childs_wishes_vanish_and_its_permit_counts_until_its_death(queue: IdentifyQueue, clock: Clock) -> None:
    for shard in range(3):
        queue.ask(1, shard)
    queue.ask(2, 0)
    queue.grant(active=None)
    clock.now += 3
    queue.forget(1)
    assert (queue.waiting(1), queue.waiting(2)) == (0, 1)
    assert queue.grant(active=None) == []
    assert queue.next_due() == pytest.approx(clock.now + WINDOW + MARGIN)
    clock.now += WINDOW + MARGIN
    assert queue.grant(active=None) == [Wish(2, 0)]


def test_the_budget_goes_down_with_each_identify_and_is_whole_again_after_its_time(
    queue: IdentifyQueue, clock: Clock
) -> None:
    assert queue.limit() is None
    queue.update(limits(remaining=7, reset_after=100.0))
    queue.ask(1, 0)
    connect_all(queue, clock)
    limit = queue.limit()
    assert limit is not None
    assert (limit.total, limit.remaining, limit.reset_after) == (1000, 6, 100.0)
    clock.now += 101
    limit = queue.limit()
    assert limit is not None
    assert limit.remaining == 1000
    assert 0 < limit.reset_after <= 24 * 3600


def test_without_budget_nobody_gets_a_permit_before_it_is_whole_again(queue: IdentifyQueue, clock: Clock) -> None:
    queue.update(limits(4, remaining=2, reset_after=600.0))
    for shard in range(4):
        queue.ask(1, shard)
    assert len(queue.grant(active=None)) == 2
    queue.identified(1, 0)
    queue.identified(1, 1)
    assert queue.out_of_budget == 600.0
    assert queue.next_due() == clock.now + 600
    clock.now += 600
    assert len(queue.grant(active=None)) == 2
    assert queue.out_of_budget is None


@settings(max_examples=300, deadline=None)
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("ask"), st.integers(1, 3), st.integers(0, 20)),
            st.tuples(st.just("identified"), st.integers(0, 5), st.just(0)),
            st.tuples(st.just("forget"), st.integers(1, 3), st.just(0)),
            st.tuples(st.just("limits"), st.sampled_from([1, 2, 4, 16]), st.integers(0, 30)),
            st.tuples(st.just("wait"), st.integers(0, 400), st.just(0)),
        ),
        max_size=80,
    )
)
def test_no_two_identifies_of_one_bucket_within_a_window_whatever_happens(
    steps: list[tuple[str, int, int]],
) -> None:
    clock = Clock()
    queue = IdentifyQueue(window=WINDOW, clock=clock)
    out: list[Wish] = []
    sent: list[tuple[int, float]] = []
    asked: set[Wish] = set()
    given_at: dict[Wish, float] = {}
    for what, first, second in [*steps, *[("wait", 400, 0)] * 40]:
        match what:
            case "ask":
                queue.ask(first, second)
                asked.add(Wish(first, second))
                out = [wish for wish in out if wish != Wish(first, second)]
            case "identified" if out:
                wish = out.pop(first % len(out))
                _check(sent, wish.shard, clock.now, queue.max_concurrency)
                queue.identified(wish.generation, wish.shard)
                sent.append((wish.shard, clock.now))
            case "forget":
                queue.forget(first)
                out = [wish for wish in out if wish.generation != first]
                asked = {wish for wish in asked if wish.generation != first}
            case "limits":
                if first >= queue.max_concurrency:  # fewer buckets than there were is Discord's word against its own
                    queue.update(limits(first, remaining=second + 1, reset_after=30.0))
            case "wait":
                clock.now += first / 10
                out = [wish for wish in out if clock.now < given_at[wish] + PATIENCE]
        for wish in queue.grant(active=1):
            assert wish.shard % queue.max_concurrency not in {other.shard % queue.max_concurrency for other in out}
            _check(sent, wish.shard, clock.now, queue.max_concurrency)
            given_at[wish] = clock.now
            asked.remove(wish)
            out.append(wish)
    assert not asked or queue.next_due() is not None


def _check(sent: list[tuple[int, float]], shard: int, now: float, max_concurrency: int) -> None:
    recent = {other % max_concurrency for other, when in sent if now < when + WINDOW}
    assert shard % max_concurrency not in recent
