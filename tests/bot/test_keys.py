"""Claim keys: every occurrence is handled by exactly one of several children, whatever their skew and history.

The model: one stream of events a guild; each child's session gets them in order, each event after a delay of its own.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.keys import Claimed, Identity, Numbering, Occurrence, identify
from bot.ledger import number_key

SKEW = 0.3
GUILDS = [g << 22 for g in range(1, 6)]


@dataclass
class Table:
    """All claims, in memory: what the children share."""

    rows: dict[str, tuple[int, str | None, int | None, str | None, float]] = field(default_factory=dict)


@dataclass
class MemoryLedger:
    table: Table
    generation: int

    def claim(self, key: str, at: float) -> bool:
        return self.table.rows.setdefault(key, (self.generation, None, None, None, at))[0] == self.generation

    def claim_number(self, digest: str, number: int, mark: str | None, at: float) -> bool:
        key = number_key(digest, number)
        row = (self.generation, digest, number, mark, at)
        return self.table.rows.setdefault(key, row) is row

    def claimed_by_others(self, digest: str) -> Sequence[Claimed]:
        rows = [r for r in self.table.rows.values() if r[1] == digest and r[0] != self.generation]
        return sorted((Claimed(r[2] or 0, r[3], r[4]) for r in rows), key=lambda row: row.number)

    def anchor_claimed_by_others(self, anchors: Collection[str]) -> tuple[str, float] | None:
        for key in anchors:
            row = self.table.rows.get(key)
            if row is not None and row[0] != self.generation:
                return key, row[4]
        return None


@dataclass(frozen=True)
class Emitted:
    at: float
    guild: int
    name: str
    data: dict[str, object]


@dataclass
class Plan:
    """When one child is what. Times are those of the emitting side; arrival adds the skew."""

    identified: float
    subscribed: float
    ready: float
    activated: float
    drained: float
    left: float
    shards: int


class Child:
    def __init__(self, generation: int, plan: Plan, ledger: MemoryLedger, clock: list[float]) -> None:
        self.plan = plan
        self.ledger = ledger
        self.numbering = Numbering(joined=generation > 1, clock=lambda: clock[0])
        if generation > 1:
            for shard in range(plan.shards):
                self.numbering.session_began(shard, plan.shards, identified_at=plan.identified, ready_at=plan.ready)
        self.active = generation == 1
        self.held: list[tuple[Identity, Occurrence | None, float]] = []
        self.handled: list[str] = []

    def receive(self, event: Emitted, at: float) -> None:
        identity = identify(event.name, event.data)
        assert identity is not None
        held = (identity, self.numbering.observe(identity, at), at)
        if self.active:
            self.decide(*held)
        else:
            self.held.append(held)

    def decide(self, identity: Identity, occurrence: Occurrence | None, at: float) -> None:
        if occurrence is None:
            won = self.ledger.claim(identity.text, at)
        else:
            number = self.numbering.number(occurrence, self.ledger)
            won = self.ledger.claim_number(identity.text, number, occurrence.mark, at)
        if won:
            self.handled.append(identity.text)

    def activate(self) -> None:
        self.active = True
        for held in self.held:
            self.decide(*held)
        self.held.clear()


def message(at: float, guild: int, number: int) -> Emitted:
    return Emitted(at, guild, "MESSAGE_CREATE", {"id": str(number), "channel_id": "1", "guild_id": str(guild)})


def reaction(at: float, guild: int, *, add: bool, emoji: int) -> Emitted:
    data = {
        "guild_id": str(guild),
        "channel_id": "1",
        "message_id": "1",
        "user_id": "1",
        "emoji": {"id": None, "name": str(emoji)},
    }
    return Emitted(at, guild, "MESSAGE_REACTION_ADD" if add else "MESSAGE_REACTION_REMOVE", data)


def deliveries(rng: random.Random, events: list[Emitted], plan: Plan) -> list[tuple[float, Emitted]]:
    """What the sessions of one child get, and when: in order per shard, each event late by up to SKEW."""
    last: dict[int, float] = {}
    out = []
    for event in events:
        if not plan.subscribed <= event.at < plan.left:
            continue
        shard = (event.guild >> 22) % plan.shards
        last[shard] = max(last.get(shard, 0.0) + 1e-7, event.at + rng.uniform(0, SKEW))
        out.append((last[shard], event))
    return out


def make_plans(rng: random.Random, children: int) -> list[Plan]:
    """A chain of handoffs through children that overlap, the window open all the while."""
    plans = [Plan(-9.0, -9.0, -9.0, -9.0, 0.0, 0.0, rng.choice([1, 2, 3]))]
    now = rng.uniform(0.5, 2)
    for _ in range(children - 1):
        subscribed = now + rng.uniform(0.001, 0.1)
        ready = subscribed + rng.uniform(0.0, SKEW)
        activated = ready + rng.uniform(2.0, 3.0)
        drained = activated + rng.choice([0.0, 0.001, 0.05, 0.3])
        plans[-1].drained = drained
        plans[-1].left = drained + rng.choice([0.0, 0.4, 1.0])
        plans.append(Plan(now, subscribed, ready, activated, 99.0, 99.0, rng.choice([1, 2, 3])))
        now = plans[-2].left + rng.uniform(0.5, 2)
    return plans


def run(rng: random.Random, events: list[Emitted], plans: list[Plan]) -> Counter[str]:
    """Play it all in order of arrival; return emitted minus handled, a count for each key."""
    clock = [0.0]
    table = Table()
    order = itertools.count()
    children = [Child(n, plan, MemoryLedger(table, n), clock) for n, plan in enumerate(plans, 1)]
    todo: list[tuple[float, int, str, Child, Emitted | None]] = []
    for child in children:
        for at, event in deliveries(rng, events, child.plan):
            todo.append((at, next(order), "event", child, event))
        todo.append((child.plan.activated, next(order), "activate", child, None))
        todo.append((child.plan.drained, next(order), "drain", child, None))
    for at, _, what, child, event_ in sorted(todo, key=lambda item: item[:2]):
        clock[0] = at
        if what == "activate":
            child.activate()
        elif what == "drain":
            child.active = False
        elif event_ is not None and at < child.plan.left + SKEW:
            child.receive(event_, at)
    balance: Counter[str] = Counter()
    for event in events:
        identity = identify(event.name, event.data)
        assert identity is not None
        balance[identity.text] += 1
    for child in children:
        balance.subtract(child.handled)
    return Counter({key: count for key, count in balance.items() if count})


def busy_events(rng: random.Random, plans: list[Plan]) -> list[Emitted]:
    """Repeats at any distance, from simultaneous to seconds, in guilds where people also write now and then."""
    ids = itertools.count(1000)
    end = plans[-1].activated + 3
    events = []
    for guild in GUILDS:
        at, state = 0.0, False
        pace = rng.choice([0.0, 0.005, 0.05, 0.3, 1.0])
        while at < end:
            state = not state if rng.random() < 0.8 else state
            events.append(reaction(at, guild, add=state, emoji=rng.choice([1, 1, 2])))
            if rng.random() < 0.15:
                events.append(message(at, guild, next(ids)))
            at += rng.expovariate(1 / pace) if pace else rng.choice([0.0, 0.0, 0.5])
        for plan in plans[1:]:
            at = rng.uniform(plan.ready + SKEW, plan.activated - SKEW)
            events.append(message(at, guild, next(ids)))
    return sorted(events, key=lambda event: event.at)


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32), children=st.sampled_from([2, 2, 3]))
def test_every_occurrence_is_handled_exactly_once_where_people_also_write(seed: int, children: int) -> None:
    rng = random.Random(seed)
    plans = make_plans(rng, children)
    assert run(rng, busy_events(rng, plans), plans) == Counter()


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), children=st.sampled_from([2, 2, 3]))
def test_every_occurrence_is_handled_exactly_once_in_silence_when_repeats_are_further_apart_than_the_skew(
    seed: int, children: int
) -> None:
    rng = random.Random(seed)
    plans = make_plans(rng, children)
    events = []
    for guild in GUILDS:
        at, state = rng.uniform(0, 1), False
        while at < plans[-1].activated + 3:
            state = not state
            events.append(reaction(at, guild, add=state, emoji=1))
            at += rng.uniform(SKEW + 0.2, 2.0)
    assert run(rng, sorted(events, key=lambda event: event.at), plans) == Counter()


@pytest.mark.wide
@pytest.mark.timeout(600)
def test_two_thousand_histories_of_two_and_three_children() -> None:
    for seed in range(1000):
        for children in (2, 3):
            rng = random.Random(seed)
            plans = make_plans(rng, children)
            assert run(rng, busy_events(rng, plans), plans) == Counter(), (seed, children)


def test_the_property_can_fail_when_occurrences_are_not_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Numbering, "number", lambda self, occurrence, others: 1)
    rng = random.Random(1)
    plans = make_plans(rng, 2)
    assert run(rng, busy_events(rng, plans), plans) != Counter()


def test_the_property_can_fail_when_offsets_are_not_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Numbering, "_offset", lambda self, stream, entry, rows, others: 0)
    rng = random.Random(1)
    plans = make_plans(rng, 2)
    assert run(rng, busy_events(rng, plans), plans) != Counter()
