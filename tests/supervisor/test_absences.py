"""What is said of shards that are away: once, with the reason and what follows, and once more when they are back."""

from __future__ import annotations

from pathlib import Path

import pytest

from bastion.supervisor import observed
from bastion.supervisor.absences import Absences, Said
from bastion.supervisor.events import Away, Back
from bastion.supervisor.observed import Observation
from bastion.supervisor.release import Release
from bastion.wire import Limits, Shard, ShardState

RELEASE = Release(directory=Path("/releases/1"), python=Path("/usr/bin/python"), app="app:bot", shards="auto")
LIMIT = 300.0


class World:
    """A bot whose shards leave and come back, and what is told of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, shards: int = 4) -> None:
        self.now = 1000.0
        monkeypatch.setattr(observed.time, "monotonic", lambda: self.now)
        self.absences = Absences()
        self.seen = self.child(1, shards)

    def child(self, generation: int, shards: int) -> Observation:
        seen = Observation(generation=generation, pid=generation, release=RELEASE, standby=False)
        seen.take(Limits(total=1000, remaining=900, reset_after=0, max_concurrency=1, shards=shards))
        for shard in range(shards):
            seen.take(Shard(id=shard, state="waiting"))
            seen.take(Shard(id=shard, state="ready"))
        return seen

    def become(self, state: ShardState, *shards: int, why: str = "") -> list[Said]:
        for shard in shards:
            self.seen.take(Shard(id=shard, state=state, why=why))
        return self.look()

    def look(self, seconds: float = 0.0) -> list[Said]:
        self.now += seconds
        return self.absences.look(self.seen, limit=LIMIT, now=self.now)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def lines(told: list[Said]) -> list[str]:
    return [line for said in told for line in said.lines]


def events(told: list[Said]) -> list[Away | Back]:
    return [said.event for said in told if said.event is not None]


def due(told: list[Said]) -> float | None:
    return told[-1].due


def test_a_shard_that_is_back_soon_is_not_worth_a_word(world: World) -> None:
    told = world.become("closed", 1, why="closed with 4000")
    assert (lines(told), events(told), due(told)) == ([], [], 1010.0)
    told = world.become("resuming", 1)
    assert due(told) == 1010.0
    world.now += 9.9
    told = world.become("ready", 1)
    assert (lines(told), events(told), due(told)) == ([], [], None)


def test_one_that_stays_away_is_told_of_once_and_once_more_when_it_is_back(world: World) -> None:
    world.become("closed", 1, why="closed with 4000")
    told = world.look(10)
    assert lines(told) == [
        "shard 1 of generation 1 has not been ready for 10 s: closed with 4000. Until then no event of its guilds "
        "comes; it tries again and again, and Discord keeps the events of its session for a while. "
        "After 300 s (handoff.ready_timeout) a successor is tried"
    ]
    assert events(told) == [Away(1, 1, "closed with 4000", 10.0)]
    assert due(told) is None
    for state in ("resuming", "closed", "waiting", "connecting") * 3:
        world.now += 1
        assert world.become(state, 1, why="cannot connect: no answer within 10 s")[0] == Said()  # type: ignore[arg-type]
    told = world.become("ready", 1)
    assert (lines(told), told[0].good) == (["shard 1 of generation 1 is ready again, after 22 s"], True)
    assert events(told) == [Back(1)]


def test_the_first_reason_and_the_newest_are_told(world: World) -> None:
    world.become("closed", 1, why="closed with 4009")
    world.become("waiting", 1, why="cannot connect: refused")
    (line,) = lines(world.look(10))
    assert "for 10 s: closed with 4009; since then cannot connect: refused. " in line
    assert "its session is over, so what is sent now is lost; a new one waits for leave to IDENTIFY" in line


def test_those_that_leave_together_are_told_of_together(world: World) -> None:
    world.become("closed", 0, 2, why="the connection broke (1006)")
    world.now += 0.3
    world.become("closed", 3, why="the connection broke (1006)")
    told = world.look(9.8)
    (line,) = lines(told)
    assert line.startswith(
        "shards 0, 2 and 3 of generation 1 have not been ready for 10 s: the connection broke (1006). "
    )
    assert "no event of their guilds comes" in line
    assert events(told) == [Away(1, 0, "the connection broke (1006)", pytest.approx(10.1))]
    told = world.become("ready", 0, 2)
    assert lines(told) == ["shards 0 and 2 of generation 1 are ready again, after 10 s"]
    assert events(told) == [Away(1, 3, "the connection broke (1006)", pytest.approx(9.8))], "the next one counts now"
    assert events(world.become("ready", 3)) == [Back(1)]


def test_where_all_are_away_it_may_be_discord(world: World) -> None:
    world.become("closed", 0, 1, 2, 3, why="the connection broke (1006)")
    (line,) = lines(world.look(10))
    assert line.startswith("shards 0 to 3 of generation 1 have not been ready for 10 s: ")
    assert "no event reaches the bot" in line
    assert "discordstatus.com" in line


def test_another_active_bot_is_another_story(world: World) -> None:
    world.become("closed", 1, why="closed with 4000")
    world.look(10)
    world.seen = world.child(2, 4)
    told = world.look()
    assert (lines(told), events(told), due(told)) == ([], [], None)
    assert world.absences.look(None, limit=LIMIT, now=world.now) == []


def test_a_shard_that_was_never_ready_is_on_its_way_and_not_away(world: World) -> None:
    world.seen = Observation(generation=2, pid=2, release=RELEASE, standby=False)
    world.become("waiting", 0)
    told = world.become("connecting", 0)
    assert (lines(told), due(told)) == ([], None)


def test_the_status_says_for_how_long(world: World) -> None:
    world.become("closed", 1, why="closed with 4000")
    world.now += 34.04
    shown = world.seen.status(rss_bytes=None, cpu_percent=None).shards
    assert [(one.away, one.why) for one in shown[:2]] == [(None, ""), (34.0, "closed with 4000")]
