"""Times that children note, over a reboot."""

from __future__ import annotations

import pytest

from bastion.bot import noted

NOTES = {
    "loop:app.remind": "50.0",
    "discord's clock": "-1699999999.5 49.0",
    "presence": "{}",
    "commands 1 global": "ab",
}


def test_times_are_told_anew_by_the_clock_of_the_machines_next_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noted.time, "time", lambda: 1_700_000_060.0)
    monkeypatch.setattr(noted.time, "monotonic", lambda: 60.0)
    kept = noted.told_by_wall(NOTES)
    assert kept == NOTES | {"loop:app.remind": "1700000050.0", "discord's clock": "0.5 1700000049.0"}
    assert noted.told_by_machine(kept) == NOTES

    monkeypatch.setattr(noted.time, "time", lambda: 1_700_000_100.0)
    monkeypatch.setattr(noted.time, "monotonic", lambda: 10.0)
    assert noted.told_by_machine(kept)["loop:app.remind"] == "-40.0", "40 s before that start"
