"""Claim keys: every occurrence is handled by exactly one of several children, whatever their skew and history.

The model: one stream of events a guild; each child's session gets them in order, each event after a delay of its own.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bastion.bot import keys
from bastion.bot.keys import Claimed, Identity, Numbering, Occurrence, identify
from bastion.bot.ledger import number_key
from bastion.bot.stalls import TURN_SECONDS

SKEW = 0.3
STALL = 2.0
LATE = 1.2
FORGOTTEN = 3.0
HELD, KEPT, IDLE = 3.0, 4.0, 8.0
"""As in the gate, but shorter: how long events are held, claims kept, idle digests counted."""
GUILDS = [g << 22 for g in range(1, 6)]


@dataclass
class Table:
    """All claims, in memory: what the children share."""

    rows: dict[str, tuple[int, str | None, int | None, str | None, float]] = field(default_factory=dict)
    passed: dict[tuple[str, int], int] = field(default_factory=dict)


@dataclass
class MemoryLedger:
    table: Table
    generation: int

    def claim(self, key: str, at: float) -> bool:
        return self.table.rows.setdefault(key, (self.generation, None, None, None, at))[0] == self.generation

    def claim_number(self, digest: str, number: int, mark: str | None, at: float) -> bool:
        key = number_key(digest, number)
        row = (self.generation, digest, number, mark, at)
        if self.table.rows.setdefault(key, row) is row:
            return True
        place = digest, self.generation
        self.table.passed[place] = max(number, self.table.passed.get(place, 0))
        return False

    def past(self, digest: str, before: float) -> int:
        rows = [row for row in self.table.rows.values() if row[1] == digest]
        claimed = [row[2] or 0 for row in rows if row[0] == self.generation or row[4] < before]
        return max([*claimed, self.table.passed.get((digest, self.generation), 0)])

    def claimed_by_others(self, digest: str) -> Sequence[Claimed]:
        rows = [r for r in self.table.rows.values() if r[1] == digest and r[0] != self.generation]
        return sorted((Claimed(r[2] or 0, r[3], r[4]) for r in rows), key=lambda row: row.number)

    def trim(self, before: float, *, idle: float, counts: Callable[[str], bool]) -> None:
        newest: dict[str, int] = {}
        for _, digest, number, _, _ in self.table.rows.values():
            if digest is not None:
                newest[digest] = max(newest.get(digest, 0), number or 0)
        for key, (_, digest, number, _, at) in list(self.table.rows.items()):
            if at < before and (digest is None or number != newest[digest] or (at < idle and not counts(digest))):
                del self.table.rows[key]

    def forget(self, digests: Sequence[str]) -> bool:
        for key in [key for key, row in self.table.rows.items() if row[1] in set(digests)]:
            del self.table.rows[key]
        return True

    def received_by_others(self, keys: Collection[str]) -> dict[str, float]:
        rows = {key: self.table.rows[key] for key in keys if key in self.table.rows}
        return {key: row[4] for key, row in rows.items() if row[0] != self.generation}

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
    stalls: list[tuple[float, float]] = field(default_factory=list)
    """When it stands still, from and to: it then receives all that came, and does what was to be done."""
    lates: list[tuple[float, float]] = field(default_factory=list)
    """When nothing comes to it, from and to: it then receives all that was due."""

    def does(self, at: float) -> float:
        """Return when it does what was to be done at a time."""
        return next((until for since, until in self.stalls if since <= at < until), at)

    def comes(self, at: float) -> float:
        """Return when that comes to it which is due at a time."""
        return self.does(next((until for since, until in self.lates if since <= at < until), at))

    def came(self, at: float) -> float:
        """Return the earliest time at which what it received at a time can have come, as `Stalls` does."""
        return next((since for since, until in self.stalls if until <= at < until + TURN_SECONDS), at)


class Child:
    def __init__(self, generation: int, plan: Plan, ledger: MemoryLedger, clock: list[float]) -> None:
        self.plan = plan
        self.ledger = ledger
        self.numbering = Numbering(joined=generation > 1, clock=lambda: clock[0], came=plan.came)
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

    def tick(self, now: float) -> None:
        """What a gate does as time goes by: forget what others claimed, and what nobody can need any more."""
        if self.active:
            if self.ledger.forget(self.numbering.idle(now - IDLE)):
                self.numbering.forget(now - IDLE, listening=False)
            self.ledger.trim(now - KEPT, idle=now - IDLE, counts=self.numbering.counts)
            return
        self.held = [one for one in self.held if now - one[2] < HELD and not (now - one[2] > 1 and self.claimed(*one))]
        self.numbering.forget(now - KEPT, listening=True)

    def forget_held(self, now: float) -> None:
        self.held = [one for one in self.held if now - one[2] < FORGOTTEN or not self.claimed(*one)]

    def claimed(self, identity: Identity, occurrence: Occurrence | None, at: float) -> bool:
        if occurrence is None:
            return identity.text in self.ledger.table.rows
        number = self.numbering.sure_number(occurrence, self.ledger)
        return number is not None and number_key(identity.text, number) in self.ledger.table.rows

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
        last[shard] = max(last.get(shard, 0.0) + 1e-7, plan.comes(event.at + rng.uniform(0, SKEW)))
        out.append((last[shard], event))
    return out


def make_plans(rng: random.Random, children: int) -> list[Plan]:
    """A chain of handoffs through children that overlap, the window open all the while."""
    plans = [Plan(-9.0, -9.0, -9.0, -9.0, 0.0, 0.0, rng.choice([1, 2, 3]))]
    now = rng.uniform(0.5, 2)
    for _ in range(children - 1):
        subscribed = now + rng.uniform(0.001, 0.1)
        ready = subscribed + rng.uniform(0.0, SKEW)
        activated = ready + keys.SURE_AFTER + rng.uniform(0.0, 1.0)
        drained = activated + rng.choice([0.0, 0.001, 0.05, 0.3])
        plans[-1].drained = drained
        plans[-1].left = drained + rng.choice([0.0, 0.4, 1.0])
        plans.append(Plan(now, subscribed, ready, activated, 99.0, 99.0, rng.choice([1, 2, 3])))
        now = plans[-2].left + rng.uniform(0.5, 2)
    return plans


def run(
    rng: random.Random, events: list[Emitted], plans: list[Plan], *, trimming: bool = False, table: Table | None = None
) -> Counter[str]:
    """Play it all in order of arrival; return emitted minus handled, a count for each key."""
    clock = [0.0]
    table = Table() if table is None else table
    order = itertools.count()
    children = [Child(n, plan, MemoryLedger(table, n), clock) for n, plan in enumerate(plans, 1)]
    todo: list[tuple[float, int, str, Child, Emitted | None]] = []
    for child in children:
        for at, event in deliveries(rng, events, child.plan):
            todo.append((at, next(order), "event", child, event))
        moment = 1e-3  # after a stall, what came is received before anything else is done
        todo.append((child.plan.does(child.plan.activated) + moment, next(order), "activate", child, None))
        todo.append((child.plan.does(child.plan.drained) + moment, next(order), "drain", child, None))
    if trimming:
        ticks = [0.5 * number for number in range(1, int(2 * events[-1].at) + 4)]
        todo += [
            (at, next(order), "tick", child, None)
            for child in children
            for at in ticks
            if child.plan.ready < at < child.plan.left
        ]
    for at, _, what, child, event_ in sorted(todo, key=lambda item: item[:2]):
        clock[0] = at
        if what == "activate":
            child.activate()
        elif what == "drain":
            child.active = False
        elif what == "tick":
            child.tick(at)
        elif event_ is not None and at < child.plan.does(child.plan.left) + SKEW:
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


def silent_events(rng: random.Random, plans: list[Plan], *, apart: float = SKEW + 0.2) -> list[Emitted]:
    """Repeats further apart than the skew, and nobody writes."""
    events = []
    for guild in GUILDS:
        at, state = rng.uniform(0, 1), False
        while at < plans[-1].activated + 3:
            state = not state
            events.append(reaction(at, guild, add=state, emoji=1))
            at += rng.uniform(apart, apart + 1.5)
    return sorted(events, key=lambda event: event.at)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), children=st.sampled_from([2, 2, 3]))
def test_every_occurrence_is_handled_exactly_once_where_people_also_write(seed: int, children: int) -> None:
    rng = random.Random(seed)
    plans = make_plans(rng, children)
    assert run(rng, busy_events(rng, plans), plans) == Counter()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), children=st.sampled_from([2, 2, 3]))
def test_every_occurrence_is_handled_exactly_once_in_silence_when_repeats_are_further_apart_than_the_skew(
    seed: int, children: int
) -> None:
    rng = random.Random(seed)
    plans = make_plans(rng, children)
    assert run(rng, silent_events(rng, plans), plans) == Counter()


def toggled_events(rng: random.Random, plans: list[Plan]) -> list[Emitted]:
    """Somebody reacts, takes it back and reacts again within a moment, now and then, and nobody writes."""
    events = []
    for guild in GUILDS:
        at = rng.uniform(0, 1)
        while at < plans[-1].activated + 3:
            for number in range(rng.choice([1, 2, 3, 3])):
                events.append(reaction(at, guild, add=number % 2 == 0, emoji=1))
                at += rng.uniform(0.0, 0.15)
            at += rng.uniform(0.6, 2.0)
    return sorted(events, key=lambda event: event.at)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), children=st.sampled_from([2, 2, 3]))
def test_every_occurrence_is_handled_exactly_once_in_silence_when_reactions_are_toggled_now_and_then(
    seed: int, children: int
) -> None:
    rng = random.Random(seed)
    plans = make_plans(rng, children)
    assert run(rng, toggled_events(rng, plans), plans) == Counter()


def stalled(seed: int, children: int) -> Counter[str]:
    """Play a history in which each stands still before it takes over, or is taken over from; repeats are further apart.

    It does so once it has heard what came from before the younger one's session: how late it read that nobody knows.
    """
    rng = random.Random(seed)
    plans = make_plans(rng, children)
    for plan, after in zip(plans, [plans[1], *plans[1:]], strict=True):
        since = rng.uniform(after.ready + SKEW, after.activated)
        plan.stalls = [(since, since + rng.uniform(0.3, STALL))]
    return run(rng, silent_events(rng, plans, apart=STALL + SKEW + 0.2), plans)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), children=st.sampled_from([2, 2, 3]))
def test_every_occurrence_is_handled_exactly_once_in_silence_when_repeats_are_further_apart_than_a_child_stands_still(
    seed: int, children: int
) -> None:
    assert stalled(seed, children) == Counter()


def test_it_can_fail_when_a_child_does_not_know_that_it_stood_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Plan, "came", lambda self, at: at)
    assert any(stalled(seed, 2) for seed in range(100))


def late(seed: int, children: int) -> Counter[str]:
    """Play a history in which in each handoff the sessions of one of the two are late for a while.

    In some guilds somebody reacts now and then and nobody writes, in others people write. Those of the younger one are
    late before it is active: then it decides when it has heard what came with an event.
    """
    rng = random.Random(seed)
    plans = make_plans(rng, children)
    for both in itertools.pairwise(plans):
        since = rng.uniform(both[1].ready + SKEW, both[1].activated)
        one = rng.choice(both)
        until = since + rng.uniform(0.3, LATE)
        one.lates.append((since, min(until, one.activated) if one is both[1] else until))
    ids = itertools.count(1000)
    events = silent_events(rng, plans, apart=LATE + SKEW + 0.2)
    for guild in (g << 22 for g in range(6, 12)):
        events += [message(at / 20, guild, next(ids)) for at in range(int(20 * events[-1].at))]
    return run(rng, sorted(events, key=lambda event: event.at), plans)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), children=st.sampled_from([2, 2, 3]))
def test_every_occurrence_is_handled_exactly_once_in_silence_when_a_session_is_late_and_others_of_its_shard_show_it(
    seed: int, children: int
) -> None:
    assert late(seed, children) == Counter()


def test_it_can_fail_when_a_child_does_not_know_that_a_session_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Numbering, "_lateness", lambda *_: {})
    assert any(late(seed, 2) for seed in range(1000))


def test_a_child_that_stood_still_does_not_take_that_for_its_session_being_late() -> None:
    """What it read in one go when it turned again says when that was, and not how late each event had come."""
    table, clock = Table(), [0.0]
    old = Child(1, Plan(-9.0, -9.0, -9.0, -9.0, 99.0, 99.0, 1), MemoryLedger(table, 1), clock)
    plan = Plan(1.75, 1.80, 3.56, 5.0, 99.0, 99.0, 1, stalls=[(1.14, 3.56)])
    new = Child(2, plan, MemoryLedger(table, 2), clock)
    elsewhere, once = message(2.01, GUILDS[1], 1000), reaction(2.96, GUILDS[0], add=True, emoji=1)
    old.receive(elsewhere, 2.04)
    old.receive(once, 3.00)
    new.receive(elsewhere, 3.56)
    new.receive(once, 3.56)
    clock[0] = 5.0
    new.activate()
    assert (len(old.handled), len(new.handled)) == (2, 0)


def test_a_repeat_that_is_still_on_its_way_here_is_not_taken_for_one_that_was_missed() -> None:
    table, clock = Table(), [0.0]
    old, new = (Child(n, Plan(10.0, 10.0, 10.0, 11.0, 99.0, 99.0, 1), MemoryLedger(table, n), clock) for n in (1, 2))
    first, second = (reaction(at, GUILDS[0], add=True, emoji=1) for at in (10.60, 10.66))
    old.receive(first, 10.65)
    old.receive(second, 10.71)
    new.receive(first, 10.83)
    clock[0] = 11.0
    new.activate()
    new.receive(second, 11.01)
    assert (len(old.handled), len(new.handled)) == (2, 0)


# --- a child is killed ------------------------------------------------------------------------------------------


def crash_plans(rng: random.Random) -> list[Plan]:
    """The first child is killed; its session is resumed before the second one begins its own."""
    killed = rng.uniform(1, 3)
    identified = killed + rng.uniform(0.5, 3) + SKEW
    subscribed = identified + rng.uniform(0.001, 0.1)
    ready = subscribed + rng.uniform(0.0, SKEW)
    activated = ready + rng.uniform(2.0, 3.0)
    shards = rng.choice([1, 2, 3])
    dead = Plan(-9.0, -9.0, -9.0, -9.0, killed, 99.0, shards)
    return [dead, Plan(identified, subscribed, ready, activated, 99.0, 99.0, rng.choice([shards, 1, 2]))]


def crash_after_handoff_plans(rng: random.Random) -> list[Plan]:
    """The second child is killed soon after the first has handed over to it: its session may be behind the first's."""
    first, second = make_plans(rng, 2)
    killed = max(first.drained, second.activated + rng.uniform(0.0, 1.0))
    later, final = crash_plans(rng)
    for name in ("identified", "subscribed", "ready", "activated"):
        setattr(final, name, getattr(final, name) + killed - later.drained)
    second.drained = killed
    return [first, second, final]


def run_crash(rng: random.Random, events: list[Emitted], plans: list[Plan], *, window: bool) -> Counter[str]:
    """Play it; ``window``: whether the dead child had claimed what it handled, or nobody was there to claim it from."""
    clock = [0.0]
    table, lonely = Table(), Table()
    *before, dead_plan, plan = plans
    number = len(before) + 1
    dead = Child(number, dead_plan, MemoryLedger(table if window else lonely, number), clock)
    successor = Child(number + 1, plan, MemoryLedger(table, number + 1), clock)
    side = Child(number, dead_plan, MemoryLedger(table, number), clock)
    forgotten = dead_plan.activated - keys.PAIR_WITHIN
    side.numbering = Numbering(
        joined=False, clock=lambda: clock[0], continues=lambda digest: side.ledger.past(digest, forgotten)
    )
    side.active = rng.random() < 0.5
    resumed = plan.identified - rng.uniform(0.01, 0.2)
    order = itertools.count()
    todo: list[tuple[float, int, Child, Emitted | None]] = []
    first = [Child(1, one, MemoryLedger(table, 1), clock) for one in before]
    for child in first:
        heard = deliveries(rng, events, child.plan)
        todo += [(at, next(order), child, event) for at, event in heard if at < child.plan.drained]
        todo.append((dead_plan.activated, next(order), dead, None))
    for at, event in deliveries(rng, events, dead_plan):
        if at < dead_plan.drained:
            todo.append((at, next(order), dead, event))
        elif (at := max(at, resumed)) < plan.activated:
            todo.append((at, next(order), side, event))
    todo += [(at, next(order), successor, event) for at, event in deliveries(rng, events, plan)]
    todo.append((rng.uniform(plan.ready, plan.activated), next(order), side, None))
    todo.append((plan.activated, next(order), successor, None))
    for at, _, child, event_ in sorted(todo, key=lambda item: item[:2]):
        clock[0] = at
        if event_ is None:
            child.forget_held(at)
            child.activate()
        else:
            child.receive(event_, at)
    balance: Counter[str] = Counter()
    for event in events:
        identity = identify(event.name, event.data)
        assert identity is not None
        balance[identity.text] += 1
    for child in (*first, dead, side, successor):
        balance.subtract(child.handled)
    return Counter({key: count for key, count in balance.items() if count})


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32), window=st.booleans())
def test_what_a_killed_child_leaves_is_handled_exactly_once_where_people_also_write(seed: int, window: bool) -> None:
    rng = random.Random(seed)
    plans = crash_plans(rng)
    assert run_crash(rng, busy_events(rng, plans), plans, window=window) == Counter()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), window=st.booleans())
def test_what_a_killed_child_leaves_is_handled_exactly_once_in_silence_when_repeats_are_further_apart_than_the_skew(
    seed: int, window: bool
) -> None:
    rng = random.Random(seed)
    plans = crash_plans(rng)
    assert run_crash(rng, silent_events(rng, plans), plans, window=window) == Counter()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_a_child_leaves_that_is_killed_just_after_its_activation_is_handled_exactly_once(seed: int) -> None:
    rng = random.Random(seed)
    plans = crash_after_handoff_plans(rng)
    assert run_crash(rng, busy_events(rng, plans), plans, window=True) == Counter()


def test_the_property_can_fail_when_the_counts_follow_on_the_claims_of_everybody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    past = MemoryLedger.past
    monkeypatch.setattr(MemoryLedger, "past", lambda self, digest, before: past(self, digest, float("inf")))
    found = []
    for seed in range(20):
        rng = random.Random(seed)
        plans = crash_after_handoff_plans(rng)
        found.append(run_crash(rng, busy_events(rng, plans), plans, window=True))
    assert any(found)


def test_the_property_can_fail_when_the_counts_do_not_follow_on_the_claims_of_the_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MemoryLedger, "past", lambda self, digest, before: 0)
    rng = random.Random(1)
    plans = crash_plans(rng)
    assert run_crash(rng, busy_events(rng, plans), plans, window=True) != Counter()


@pytest.mark.wide
@pytest.mark.timeout(600)
def test_two_thousand_histories_of_two_and_three_children() -> None:
    for seed in range(1000):
        for children in (2, 3):
            rng = random.Random(seed)
            plans = make_plans(rng, children)
            assert run(rng, busy_events(rng, plans), plans) == Counter(), (seed, children)


@pytest.mark.wide
@pytest.mark.timeout(600)
def test_a_thousand_histories_of_a_killed_child() -> None:
    for seed in range(500):
        for window in (False, True):
            rng = random.Random(seed)
            plans = crash_plans(rng)
            assert run_crash(rng, busy_events(rng, plans), plans, window=window) == Counter(), (seed, window)
        rng = random.Random(seed)
        plans = crash_after_handoff_plans(rng)
        assert run_crash(rng, busy_events(rng, plans), plans, window=True) == Counter(), seed


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


def spare_plans(rng: random.Random) -> list[Plan]:
    """A child with a spare that takes over when it dies, and another spare that takes over from that one."""
    plans, now = [Plan(-9.0, -9.0, -9.0, -9.0, 0.0, 0.0, rng.choice([1, 2, 3]))], 1.0
    for _ in range(2):
        subscribed = now + 0.1
        died = now + rng.uniform(15, 40)
        plans[-1].drained = plans[-1].left = died
        plans.append(Plan(now, subscribed, subscribed + SKEW, died + SKEW + 0.01, 999.0, 999.0, rng.choice([1, 2, 3])))
        now = died + SKEW + rng.uniform(1, 5)
    return plans


def sparse_events(rng: random.Random, plans: list[Plan]) -> list[Emitted]:
    """Bursts of repeats, with pauses in which claims are trimmed and digests forgotten, where people also write."""
    ids = itertools.count(1000)
    events = []
    for guild in GUILDS:
        at = 0.0
        while at < plans[-1].activated + 12:
            for _ in range(rng.choice([1, 2, 5, 90])):
                events.append(reaction(at, guild, add=rng.random() < 0.5, emoji=rng.choice([1, 1, 1, 2, 3])))
                at += rng.choice([0.0, 0.01, 0.1])
                if rng.random() < 0.3:
                    events.append(message(at, guild, next(ids)))
            events.append(message(at + 0.001, guild, next(ids)))
            at += rng.choice([0.2, 1.0, KEPT - 0.2, KEPT + 0.2, IDLE - 0.2, IDLE + 0.2, 2 * IDLE]) * rng.uniform(
                0.9, 1.1
            )
    return sorted(events, key=lambda event: event.at)


def trimmed(seeds: range) -> Counter[str]:
    """Play histories with long-lived spares, claims trimmed all the while; return what was not handled just once."""
    balance: Counter[str] = Counter()
    for seed in seeds:
        rng = random.Random(seed)
        plans, table = spare_plans(rng), Table()
        events = sparse_events(rng, plans)
        balance += Counter({f"{seed}: {key}": 1 for key in run(rng, events, plans, trimming=True, table=table)})
        assert min(row[4] for row in table.rows.values()) > events[-1].at - IDLE - 2, "nothing is kept for ever"
        assert len(table.rows) < len(events) / 2
    return balance


def test_trimming_bounds_the_claims_and_keeps_exactly_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_BEFORE", 1.5)
    assert trimmed(range(20)) == Counter()


def repeated_after_a_pause(seeds: range) -> Counter[str]:
    """Repeat something after its claims but the newest were trimmed, while old and new child compete for it."""
    balance: Counter[str] = Counter()
    again = 2 + (KEPT + IDLE) / 2
    plans = [
        Plan(-9.0, -9.0, -9.0, -9.0, again + 2, again + 2, 1),
        Plan(3.0, 3.1, 3.4, again - 0.5, 99.0, 99.0, 1),
    ]
    at = [0.2, 0.4, 0.6, again, again + 0.1]
    events = [reaction(one, GUILDS[0], add=True, emoji=1) for one in at] + [message(again - 1, GUILDS[0], 1000)]
    for seed in seeds:
        balance.update(run(random.Random(seed), sorted(events, key=lambda event: event.at), plans, trimming=True))
    return balance


@pytest.mark.wide
@pytest.mark.timeout(600)
def test_trimming_through_many_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_BEFORE", 1.5)
    assert trimmed(range(100, 300)) == Counter()


def test_what_comes_again_after_its_claims_were_trimmed_is_handled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_BEFORE", 1.5)
    assert repeated_after_a_pause(range(40)) == Counter()


def test_it_can_fail_when_the_newest_claim_of_a_digest_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def trim_all(self: MemoryLedger, before: float, *, idle: float, counts: Callable[[str], bool]) -> None:
        for key in [key for key, row in self.table.rows.items() if row[4] < before]:
            del self.table.rows[key]

    monkeypatch.setattr(keys, "_BEFORE", 1.5)
    monkeypatch.setattr(MemoryLedger, "trim", trim_all)
    assert repeated_after_a_pause(range(40)) != Counter()


def test_it_can_fail_when_a_listening_child_does_not_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    forget = Numbering.forget

    def only_active(self: Numbering, before: float, *, listening: bool) -> None:
        if not listening:
            forget(self, before, listening=False)

    monkeypatch.setattr(keys, "_BEFORE", 1.5)
    monkeypatch.setattr(Numbering, "forget", only_active)
    assert trimmed(range(2)) != Counter()


@pytest.mark.parametrize("name", ["GUILD_MEMBER_ADD", "GUILD_CREATE"])
def test_a_join_needs_no_number_where_it_says_when_it_was(name: str) -> None:
    data = {"id": "1", "guild_id": "1", "user": {"id": "2"}, "joined_at": "2026-01-01T00:00:00.000001+00:00"}
    dated, later, undated = (identify(name, data | {"joined_at": at}) for at in (data["joined_at"], "2026-01-02", None))
    assert dated is not None
    assert later is not None
    assert undated is not None
    assert (dated.counted, later.counted, undated.counted) == (False, False, True)
    assert dated.text != later.text
