"""A new child gets the sessions of the one that has them where both want the same ones, and is told why where not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bastion import wire
from bastion.supervisor.meeting import Meeting
from bastion.wire import difference

WANTS = wire.Wants(
    application=1,
    account="a",
    api_url="http://here",
    intents=7,
    shards=4,
    ids=[0, 1, 2, 3],
    any_count=False,
    library="2.7",
    stream=1,
    members=3,
    messages=True,
    chunks=True,
)


CLAIM = wire.Serve(generation=2, path="", shows="", expects="", claims=True)
"""The holder is only to claim for the new child."""


class World:
    """A meeting, and what it sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, wire.ToChild]] = []
        self.meeting = Meeting(lambda generation, message: self.sent.append((generation, message)))
        self.meeting.wanted(1, WANTS, holder=1, path="", obstacle=None)

    def comes(self, generation: int, *, obstacle: str | None = None, **wants: Any) -> list[tuple[int, wire.ToChild]]:
        """A child has come; return what was sent since."""
        before = len(self.sent)
        changed = msgspec.structs.replace(WANTS, **wants)
        self.meeting.wanted(generation, changed, holder=1, path="/stream", obstacle=obstacle)
        return self.sent[before:]


def test_the_holder_listens_before_the_mirror_connects_and_each_shows_what_the_other_expects() -> None:
    world = World()
    [(to, serve)] = world.comes(2)
    assert (to, type(serve)) == (1, wire.Serve)
    assert isinstance(serve, wire.Serve)
    assert world.meeting.mirrors == set()
    world.meeting.serving(1, wire.Serving(generation=2))
    to, mirror = world.sent[-1]
    assert (to, world.meeting.mirrors) == (2, {2})
    assert isinstance(mirror, wire.Mirror)
    assert (mirror.shows, mirror.expects) == (serve.expects, serve.shows)
    assert mirror.shows != mirror.expects
    assert (mirror.path, mirror.shards, mirror.ids) == ("/stream", 4, [0, 1, 2, 3])


def test_secrets_are_fresh_for_each_stream() -> None:
    world = World()
    [(_, first)], [(_, second)] = world.comes(2), world.comes(3)
    assert isinstance(first, wire.Serve)
    assert isinstance(second, wire.Serve)
    assert len({first.shows, first.expects, second.shows, second.expects}) == 4


@pytest.mark.parametrize(
    ("wants", "why"),
    [
        ({"library": "2.6"}, "discord.py 2.7 -> 2.6"),
        ({"application": 2}, "another application"),
        ({"account": "b"}, "another token"),
        ({"api_url": "http://there"}, "another discord.api_url"),
        ({"intents": 3}, "other intents"),
        ({"shards": 8, "ids": list(range(8))}, "shards: 4 -> 8"),
        ({"ids": [0, 1]}, "shards: 4 -> 2 of 4"),
        ({"shards": 8, "ids": list(range(8)), "any_count": True}, "shards: 4 -> 8"),
        ({"members": 7}, "it caches more members"),
    ],
)
def test_what_differs_is_named_and_the_state_of_the_app_comes_all_the_same(wants: dict[str, Any], why: str) -> None:
    world = World()
    [(to, serve)] = world.comes(2, **wants)
    assert to == 1
    assert isinstance(serve, wire.Serve)
    assert serve.claims
    world.meeting.serving(1, wire.Serving(generation=2, claims=True))
    overlap = wire.Overlap(why=why, path="/stream", shows=serve.expects, expects=serve.shows)
    assert world.sent[-1] == (2, overlap)
    assert (world.meeting.reasons, world.meeting.mirrors) == ({2: why}, set())
    assert world.meeting.wants[2] == msgspec.structs.replace(WANTS, **wants)


def test_who_writes_a_stream_in_another_way_is_given_nothing_but_waits_until_the_holder_claims() -> None:
    world = World()
    [(to, serve)] = world.comes(2, stream=2)
    assert isinstance(serve, wire.Serve)
    assert (to, serve.claims, serve.path) == (1, True, "")
    world.meeting.serving(1, wire.Serving(generation=2, claims=True))
    answer = world.sent[-1][1]
    assert isinstance(answer, wire.Overlap)
    assert (answer.why, answer.path) == ("both bots write caches in another way", "")


@pytest.mark.parametrize(
    "wants", [{"shards": 2, "ids": [0, 1], "any_count": True}, {"members": 1}, {"messages": False}, {"chunks": False}]
)
def test_less_than_the_holder_has_is_no_reason(wants: dict[str, Any]) -> None:
    [(_, answer)] = World().comes(2, **wants)
    assert isinstance(answer, wire.Serve)


def test_a_cache_that_the_holder_does_not_keep_cannot_be_copied() -> None:
    bare = msgspec.structs.replace(WANTS, messages=False, chunks=False)
    assert difference(bare, WANTS) == "it caches messages"
    assert difference(msgspec.structs.replace(bare, messages=True), WANTS) == "it wants all members of its guilds"


def test_an_obstacle_is_told_and_so_is_that_nobody_has_sessions() -> None:
    world = World()
    world.comes(2, obstacle="not today")
    world.meeting.serving(1, wire.Serving(generation=2, problem="no room", claims=True))
    assert world.sent[-1] == (2, wire.Overlap(why="not today")), "why there is no stream either is no reason"
    assert difference(None, WANTS) == "no bot has sessions"


def test_who_waits_for_a_holder_that_dies_or_cannot_listen_begins_sessions_of_its_own() -> None:
    world = World()
    world.comes(2)
    world.meeting.left(1)
    assert world.sent[-1] == (2, wire.Overlap(why="generation 1 died"))
    world = World()
    world.comes(2)
    world.meeting.serving(1, wire.Serving(generation=2, problem="no room"))
    assert world.sent[-1] == (1, CLAIM)
    world.meeting.serving(1, wire.Serving(generation=2, claims=True))
    assert world.sent[-1] == (2, wire.Overlap(why="generation 1 does not listen: no room"))
    assert world.meeting.reasons == {2: "generation 1 does not listen: no room"}


def test_who_waits_too_long_for_a_holder_begins_sessions_of_its_own_once_that_claims() -> None:
    """An answer to the first question comes late, and says nothing of claims."""
    world = World()
    world.comes(2)
    assert world.meeting.waits_for(2) == 1
    world.meeting.overdue(2)
    assert world.sent[-1] == (1, CLAIM)
    told = list(world.sent)
    world.meeting.serving(1, wire.Serving(generation=2))
    world.meeting.overdue(2)
    assert (world.sent, world.meeting.is_asked(1)) == (told, True)
    world.meeting.serving(1, wire.Serving(generation=2, claims=True))
    assert world.sent[-1] == (2, wire.Overlap(why="generation 1 does not answer"))
    assert (world.meeting.waits_for(2), world.meeting.is_asked(1)) == (None, False)


def test_a_mirror_that_became_the_holder_is_the_next_ones() -> None:
    world = World()
    world.comes(2, shards=2, ids=[0, 1], any_count=True)
    world.meeting.serving(1, wire.Serving(generation=2))
    assert world.meeting.wants[2].shards == 4, "what it has, not what it had asked for"
    world.meeting.left(1)
    assert set(world.meeting.wants) == {2}
