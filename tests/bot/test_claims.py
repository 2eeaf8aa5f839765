"""Claims: each event is handled by exactly one of several children, whatever their skew and history.

The model is one stream of events that may happen again. Each child's session brings them in order, each one after a
delay of its own, and late by seconds where the child stands still. A child that holds events claims them when it is
made active, and looks each second whether others have.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from bastion.bot import ledger as module
from bastion.bot.gate import _FORGET_AFTER
from bastion.bot.keys import identify
from bastion.bot.ledger import Among, SQLiteLedger

SKEW = 0.3
BEFORE_READY = 1.5
"""Seconds from when a session is there until its child is active: `recovery.SURE_AFTER`, and a beat of the other."""
STALL = 15.0
"""Less than `restart.hang_timeout`: who stands still for longer is ended."""


@dataclass
class Child:
    """One child: from when its session brings events, when it is active, and when it stands still."""

    ledger: SQLiteLedger
    began: float
    """When its session was asked for."""
    there: float
    """When it was there."""
    brings: float
    """Some moment in between: what is emitted before, it never brings."""
    active: list[tuple[float, float]]
    stalls: list[tuple[float, float]]
    rng: random.Random
    held: list[tuple[float, str]] = field(default_factory=list)
    handled: Counter[str] = field(default_factory=Counter)
    read_at: float = 0.0

    def reads(self, emitted: float) -> float:
        """Return when it reads what is emitted then: in order, and not while it stands still."""
        due = max(self.read_at, emitted + self.rng.uniform(0.0, SKEW))
        self.read_at = next((end for start, end in self.stalls if start <= due < end), due)
        return self.read_at

    def is_active(self, at: float) -> bool:
        return any(start <= at < end for start, end in self.active)

    def among(self, at: float) -> Among:
        """As `gate._among`."""
        sure = self.there + module.SKEW / 2
        return Among(max(self.began, at - module.PAIR_WITHIN), at + module.PAIR_WITHIN, sure=sure)

    def take(self, at: float, digest: str) -> None:
        if self.ledger.claim_occurrence(digest, at, among=self.among(at)):
            self.handled[digest] += 1

    def look(self, now: float) -> None:
        """Forget what others have claimed, as `Gate.forget_claimed` does; replay the rest once it is active."""
        if self.is_active(now):
            held, self.held = self.held, []
            for at, digest in held:
                self.take(at, digest)
            return
        old = [one for one in self.held if now - one[0] >= _FORGET_AFTER[0]]
        gone = [(at, digest) for at, digest in old if self.ledger.pair(digest, at, among=self.among(at))]
        for one in gone:
            self.held.remove(one)


def play(directory: Path, seed: int, *, children: int = 2, dense: bool = False) -> Counter[str]:
    """Play one history; return by how much each digest was handled too often, or too seldom.

    ``dense``: nobody stands still, and equal events come every second around the beginnings of sessions, which are
    close to the switches. Else nothing comes while a session begins: a child that stands still may claim it much later.
    """
    rng = random.Random(seed)
    switches = [50.0 * number for number in range(1, children)]
    made = []
    for number in range(children):
        start = 0.0 if number == 0 else switches[number - 1]
        end = 1e9 if number == children - 1 else switches[number] + rng.uniform(0.0, 1.0)
        active = [(start, end)]
        if number == children - 2 and rng.random() < 0.3:  # it is made active again: the last one was no good
            active.append((switches[-1] + 20.0, 1e9))
        at = rng.uniform(0.0, 50.0 * children)
        stalls = [] if dense else [(at, at + rng.uniform(0.0, STALL))]
        there = 0.0 if number == 0 else start - (BEFORE_READY if dense else rng.uniform(BEFORE_READY, 40.0))
        began = there - rng.uniform(0.05, 0.4)
        brings = rng.uniform(began, there)
        ledger = SQLiteLedger(str(directory / f"{seed}.db"), number + 1)
        made.append(Child(ledger, began, there, brings, active, stalls, random.Random(rng.random())))
    if len(made[-2].active) == 2:
        made[-1].active = [(switches[-1], switches[-1] + 20.0)]
    emitted: Counter[str] = Counter()
    what: list[tuple[float, int, Child, str]] = []
    order = count()
    last: dict[str, float] = {}
    times = [rng.uniform(0.0, 50.0 * children) for _ in range(rng.randint(5, 40))]
    if dense:
        times = [rng.uniform(switch - 4.0, switch + 4.0) for switch in switches for _ in range(40)]
    for at in sorted(times):
        if not dense and any(child.began - STALL - SKEW <= at <= child.there + SKEW for child in made[1:]):
            continue
        digest = rng.choice(["add", "remove"])
        if dense and at - last.get(digest, 0.0) < 1.0:
            continue
        last[digest] = at
        emitted[digest] += 1
        what += [(child.reads(at), next(order), child, digest) for child in made if at >= child.brings]
    what += [(float(second), -1, child, "") for second in range(int(50 * children) + 60) for child in made]
    for at, _, child, digest in sorted(what, key=lambda one: one[:2]):
        if not digest or child.is_active(at):
            child.look(at)
        if digest and child.is_active(at):
            child.take(at, digest)
        elif digest:
            child.held.append((at, digest))
    handled: Counter[str] = Counter()
    for child in made:
        handled += child.handled
        child.ledger.close()
    return Counter(
        {digest: handled[digest] - emitted[digest] for digest in emitted if handled[digest] != emitted[digest]}
    )


@pytest.mark.parametrize("children", [2, 3])
@pytest.mark.parametrize("seed", range(40))
def test_every_occurrence_is_handled_exactly_once(tmp_path: Path, seed: int, children: int) -> None:
    assert play(tmp_path, seed, children=children) == Counter()


@pytest.mark.parametrize("children", [2, 3])
@pytest.mark.parametrize("seed", range(40))
def test_what_comes_as_a_session_begins_is_told_apart_from_what_comes_at_the_switch(
    tmp_path: Path, seed: int, children: int
) -> None:
    """The session never brings the one, which the other child has claimed."""
    assert play(tmp_path, seed, children=children, dense=True) == Counter()


def test_it_can_fail_when_a_claim_of_that_time_counts_for_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SKEW", 5.0)
    assert any(play(tmp_path, seed, dense=True) for seed in range(40))


@pytest.mark.wide
def test_two_thousand_histories(tmp_path: Path) -> None:
    """Equal events that are closer together than a standstill lasts may be miscounted, though hardly ever are."""
    for dense, most in ((False, 2), (True, 0)):
        wrong = [seed for seed in range(1000) if play(tmp_path, seed, children=2 + seed % 2, dense=dense)]
        assert len(wrong) <= most, wrong
        for file in tmp_path.iterdir():
            file.unlink()


def test_it_can_fail_when_the_children_may_not_be_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAIR_WITHIN", 0.2)
    assert any(play(tmp_path, seed) for seed in range(40))


def test_it_can_fail_when_a_claim_is_paired_more_than_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = module._TWIN.replace("AND NOT EXISTS", "AND 1 OR 0 AND NOT EXISTS")
    monkeypatch.setattr(
        module, "_CLAIM_OCCURRENCE", f"INSERT INTO occurrences VALUES (:digest, :generation, :at, ({twice}))"
    )
    assert any(play(tmp_path, seed) for seed in range(40))


# Names.


@pytest.mark.parametrize("name", ["GUILD_MEMBER_ADD", "GUILD_CREATE"])
def test_a_join_happens_once_where_it_says_when_it_was(name: str) -> None:
    data = {"id": "1", "guild_id": "1", "user": {"id": "2"}, "joined_at": "2026-01-01T00:00:00.000001+00:00"}
    dated, later, undated = (identify(name, data | {"joined_at": at}) for at in (data["joined_at"], "2026-01-02", None))
    assert dated is not None
    assert later is not None
    assert undated is not None
    assert (dated.unique, later.unique, undated.unique) == (True, True, False)
    assert dated.text != later.text


def test_what_two_releases_may_see_differently_does_not_tell_events_apart() -> None:
    """One has the message content intent, the other has not."""
    edit = {"id": "5", "channel_id": "6", "guild_id": "1", "edited_timestamp": "2026-01-01T00:00:00+00:00"}
    one, other = (
        identify("MESSAGE_UPDATE", edit | {"content": "hello"}),
        identify("MESSAGE_UPDATE", edit | {"content": ""}),
    )
    assert one is not None
    assert one == other


def test_equal_events_of_two_guilds_are_different_ones() -> None:
    one, other = (identify("GUILD_MEMBER_REMOVE", {"guild_id": guild, "user": {"id": "2"}}) for guild in ("1", "2"))
    assert one is not None
    assert one != other


@pytest.mark.parametrize("name", ["READY", "RESUMED", "GUILD_MEMBERS_CHUNK", "VOICE_SERVER_UPDATE"])
def test_what_concerns_one_session_alone_is_never_claimed(name: str) -> None:
    assert identify(name, {}) is None


def test_a_guild_that_comes_after_ready_is_no_join() -> None:
    assert identify("GUILD_CREATE", {"id": "1", "unavailable": False}) is None
