"""Who gives state to whom: told with the change of roles, passed on once."""

from __future__ import annotations

from pathlib import Path

import pytest

from bastion.supervisor.relay import Relay, forget
from bastion.wire import Activate, Drain, Exported, Import, Ping, Ready, Standby, ToChild

BOTH = Ready(shards=1, guilds=1, exports=True, imports=True)


class Slot:
    def __init__(self) -> None:
        self.sent: list[tuple[int, ToChild]] = []
        self.relay = Relay(lambda generation, message: self.sent.append((generation, message)))

    def hand_over(self, old: int, new: int) -> tuple[ToChild, ToChild]:
        return (
            self.relay.addressed(new, Activate(), active=old),
            self.relay.addressed(old, Drain(limit=30.0, linger=5.0), active=new),
        )


@pytest.fixture
def slot() -> Slot:
    made = Slot()
    for generation in (1, 2):
        made.relay.heard(generation, BOTH)
    return made


def test_the_new_child_is_told_to_wait_and_the_old_one_to_export(slot: Slot) -> None:
    assert slot.hand_over(1, 2) == (Activate(wait_for_state=True), Drain(limit=30.0, linger=5.0, export=True))
    slot.relay.heard(1, Exported(file="/x", seconds=0.1, size=7))
    assert slot.sent == [(2, Import(file="/x"))]


def test_an_old_child_on_probation_exports_too(slot: Slot) -> None:
    slot.relay.addressed(2, Activate(), active=1)
    assert slot.relay.addressed(1, Standby(), active=2) == Standby(export=True)
    slot.relay.heard(1, Exported(reason="it raised", seconds=0.1, size=0))
    assert slot.sent == [(2, Import(reason="it raised"))]
    assert slot.relay.addressed(1, Drain(limit=1.0), active=2) == Drain(limit=1.0), "once is enough"


@pytest.mark.parametrize(("exports", "imports"), [(False, True), (True, False), (False, False)])
def test_without_both_hooks_nothing_changes(exports: bool, imports: bool) -> None:
    slot = Slot()
    slot.relay.heard(1, Ready(shards=1, guilds=1, exports=exports))
    slot.relay.heard(2, Ready(shards=1, guilds=1, imports=imports))
    assert slot.hand_over(1, 2) == (Activate(), Drain(limit=30.0, linger=5.0))


def test_with_nobody_to_give_it_nothing_is_waited_for(slot: Slot) -> None:
    assert slot.relay.addressed(2, Activate(), active=None) == Activate()
    slot.relay.left(1)
    assert slot.relay.addressed(2, Activate(), active=1) == Activate()


def test_who_waits_for_the_state_of_a_child_that_dies_waits_no_longer(slot: Slot) -> None:
    slot.hand_over(1, 2)
    slot.relay.left(1)
    assert slot.sent == [(2, Import(reason="generation 1 left without giving any", crashed=True))]
    assert slot.relay.passing.taker is None


def test_who_has_been_active_before_goes_on_with_what_it_has(slot: Slot) -> None:
    slot.hand_over(1, 2)
    assert slot.hand_over(2, 1) == (Activate(), Drain(limit=30.0, linger=5.0))
    assert slot.relay.passing.taker is None
    slot.relay.left(2)
    slot.relay.heard(3, BOTH)
    assert slot.hand_over(1, 3)[0] == Activate(wait_for_state=True)


def test_state_that_nobody_waits_for_any_more_is_removed(slot: Slot, tmp_path: Path) -> None:
    file = tmp_path / "state"
    file.write_bytes(b"")
    slot.hand_over(1, 2)
    slot.relay.left(2)
    assert slot.relay.addressed(1, Activate(), active=None) == Activate(), "it has its state in memory"
    slot.relay.heard(1, Exported(file=str(file), seconds=0.1, size=0))
    assert (slot.sent, file.exists()) == ([], False)


def test_other_messages_go_as_they_are(slot: Slot) -> None:
    slot.hand_over(1, 2)
    assert slot.relay.addressed(1, Ping(n=1), active=2) == Ping(n=1)


@pytest.mark.parametrize("ledger", ["ledger", "ledger[1]"])
def test_a_new_start_finds_nothing_of_an_earlier_one(tmp_path: Path, ledger: str) -> None:
    names = (f"{ledger}.state-3", f"{ledger}.checkpoint", f"{ledger}.checkpoint.taken", ledger, "ledger1.state-3")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    forget(tmp_path / ledger)
    assert {path.name for path in tmp_path.iterdir()} == {ledger, "ledger1.state-3"}
