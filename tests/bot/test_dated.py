"""How old an interaction is at least: learnt from what comes, by a clock that nobody sets."""

from __future__ import annotations

import pytest

from bastion.bot.dated import DiscordClock

EPOCH_MS = 1_420_070_400_000


class Notes(dict[str, str]):
    """What the children of a supervisor write down for each other."""

    def note(self, key: str, value: str) -> None:
        self[key] = value

    def noted(self, key: str) -> str | None:
        return self.get(key)


class Machine:
    """A machine whose monotonic clock shows ``at``, while Discord's shows so much and ``discord`` seconds."""

    def __init__(self, discord: float) -> None:
        self.at = 1000.0
        self.discord = discord
        self.notes = Notes()

    def child(self) -> DiscordClock:
        return DiscordClock(self.notes, lambda: self.at)

    def made(self, ago: float = 0.0) -> int:
        """Return the id of something made so long ago."""
        return round((self.at + self.discord - ago) * 1000 - EPOCH_MS) << 22


@pytest.fixture(params=[1_800_000_000.0, 1_800_000_060.0])
def machine(request: pytest.FixtureRequest) -> Machine:
    return Machine(request.param)


def test_what_is_not_known_is_not_old(machine: Machine) -> None:
    assert machine.child().age(machine.made(ago=100), machine.at) == 0


def test_an_age_is_known_once_something_has_come_and_errs_by_how_long_that_took(machine: Machine) -> None:
    clock = machine.child()
    clock.came(machine.made(ago=0.5), machine.at)
    clock.came(machine.made(ago=0.1), machine.at)
    clock.came(machine.made(ago=20), machine.at)
    assert clock.age(machine.made(ago=5), machine.at) == pytest.approx(4.9, abs=0.01)


def test_a_successor_knows_it_too_and_trusts_it_the_less_the_older_it_is(machine: Machine) -> None:
    first = machine.child()
    first.came(machine.made(), machine.at)
    first.write_down()
    second = machine.child()
    assert second.age(machine.made(ago=5), machine.at) == pytest.approx(5, abs=0.01)
    machine.at += 10_000
    assert second.age(machine.made(ago=5), machine.at) == pytest.approx(3, abs=0.01)


def test_nothing_is_written_down_without_news(machine: Machine) -> None:
    clock = machine.child()
    clock.write_down()
    assert not machine.notes
    clock.came(machine.made(), machine.at)
    clock.write_down()
    noted = dict(machine.notes)
    machine.at += 1
    clock.came(machine.made(), machine.at)
    clock.write_down()
    assert machine.notes == noted


def test_what_came_late_to_one_child_takes_nothing_from_what_another_knows(machine: Machine) -> None:
    first, second = machine.child(), machine.child()
    first.came(machine.made(), machine.at)
    first.write_down()
    second.came(machine.made(ago=40), machine.at)  # it stood still
    second.write_down()
    assert machine.child().age(machine.made(ago=5), machine.at) == pytest.approx(5, abs=0.01)


def test_a_machine_that_has_slept_makes_nothing_older_than_it_is(machine: Machine) -> None:
    """The monotonic clock stands still meanwhile, Discord's does not."""
    clock = machine.child()
    clock.came(machine.made(), machine.at)
    machine.discord += 3600
    assert clock.age(machine.made(ago=2), machine.at) == 0
    clock.came(machine.made(), machine.at)
    assert clock.age(machine.made(ago=2), machine.at) == pytest.approx(2, abs=0.01)


def test_a_difference_that_is_long_past_is_forgotten(machine: Machine) -> None:
    clock = machine.child()
    clock.came(machine.made(ago=-60), machine.at)  # of a clock that was set back since
    for _ in range(3):
        machine.at += 301
        clock.came(machine.made(), machine.at)
    assert clock.age(machine.made(ago=2), machine.at) == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize("said", ["", "nonsense", "1 2 3", "x 1"])
def test_a_note_that_cannot_be_read_is_none(machine: Machine, said: str) -> None:
    machine.notes["discord's clock"] = said
    assert machine.child().age(machine.made(ago=100), machine.at) == 0
