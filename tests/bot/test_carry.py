"""Exporting and importing an app's state: values, limits, files, checkpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bastion import wire
from bastion.bot import carry
from bastion.bot.carry import Carry, Limits

pytestmark = pytest.mark.anyio


class App:
    """A client as far as state is concerned."""

    def __init__(self, value: Any = None) -> None:
        self.value = value
        self.got: list[Any] = []

    async def export_state(self) -> Any:
        return self.value() if callable(self.value) else self.value

    async def import_state(self, value: Any) -> None:
        self.got.append(value)


def carrier(tmp_path: Path, app: object, *, timeout: float = 1.0, checkpoint: float = 60) -> Carry:
    made = Carry(tmp_path / "ledger.checkpoint", limits=Limits(timeout=timeout, checkpoint=checkpoint))
    made.attach(app)
    return made


async def carried(tmp_path: Path, value: Any) -> Any:
    new = App()
    receiving = carrier(tmp_path, new)
    receiving.arrived(await carrier(tmp_path, App(value)).export())
    assert await receiving.take_over() == wire.Imported(source="handoff", seconds=pytest.approx(0, abs=0.5))
    return new.got[0]


@pytest.mark.parametrize(
    "value", [None, 7, "text", b"\x00\xff", b"", [1, {"a": None}], {"ü": 1.5}, "json\n", b"json\n", b"none\n"]
)
async def test_what_is_exported_is_what_is_imported(tmp_path: Path, value: Any) -> None:
    assert await carried(tmp_path, value) == value
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


async def test_plain_functions_as_attributes_are_hooks_too(tmp_path: Path) -> None:
    got: list[Any] = []
    app = type("Plain", (), {})()
    app.export_state = lambda: {"n": 1}
    app.import_state = got.append
    new = carrier(tmp_path, app)
    new.arrived(await carrier(tmp_path, app).export())
    await new.take_over()
    assert got == [{"n": 1}]


async def test_an_app_without_hooks_gives_and_takes_nothing(tmp_path: Path) -> None:
    made = carrier(tmp_path, object())
    assert not made.imports
    new = carrier(tmp_path, app := App())
    new.arrived(await made.export())
    assert (await new.take_over(), app.got) == (None, [])


async def test_the_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "ledger.checkpoint"
    await keep(carrier(tmp_path, App(1)), path.exists)
    assert path.stat().st_mode & 0o777 == 0o600


async def hang() -> None:
    await asyncio.Event().wait()


async def hang_and_not_care() -> None:
    while True:
        try:
            await asyncio.sleep(0.3)
            return
        except asyncio.CancelledError:
            continue


def fail() -> Any:
    raise KeyError("x")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (lambda: hang(), "longer than 0.1 s"),
        (lambda: hang_and_not_care(), "longer than 0.1 s"),
        (fail, "export_state raised KeyError: 'x'"),
        (object(), "neither bytes nor a JSON value"),
        (b"x" * (carry.MAX_BYTES + 1), "more than the 16777216 allowed"),
    ],
    ids=["hangs", "hangs-uncaring", "raises", "nonsense", "too-big"],
)
async def test_an_export_that_fails_says_why_to_the_successor(tmp_path: Path, value: Any, reason: str) -> None:
    class Awaiting(App):
        async def export_state(self) -> Any:
            made = value() if callable(value) else value
            return await made if asyncio.iscoroutine(made) else made

    app = App()
    new = carrier(tmp_path, app)
    new.arrived(await carrier(tmp_path, Awaiting(), timeout=0.1).export())
    taken = await new.take_over()
    assert taken is not None
    assert reason in (taken.reason or "")
    assert app.got == []
    await asyncio.sleep(0.35 if value is not fail and "longer" in reason else 0)


async def test_a_disk_that_is_full_costs_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(carry, "_replace", full)
    await keep(carrier(tmp_path, App(1)), lambda: "No space left on device" in caplog.text)


async def test_a_state_that_does_not_come_is_not_waited_for_longer(tmp_path: Path) -> None:
    taken = await carrier(tmp_path, App(), timeout=0.05).take_over()
    assert taken is not None
    assert taken.reason == "the old bot gave none within 0.55 s"


async def test_a_state_that_is_damaged_fails_the_import(tmp_path: Path) -> None:
    for content in (b"json\n{", b"json\n\xff"):
        new = carrier(tmp_path, App())
        new.arrived(content)
        taken = await new.take_over()
        assert taken is not None
        assert taken.reason == "it is damaged"


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)


async def keep(made: Carry, holds: Callable[[], bool]) -> None:
    """Keep checkpoints until something holds."""
    task = asyncio.ensure_future(made.keep_checkpoints())
    await until(holds)
    task.cancel()
    await asyncio.wait([task])


async def test_a_checkpoint_is_made_at_once_and_again(tmp_path: Path) -> None:
    app = App(1)
    path = tmp_path / "ledger.checkpoint"
    made = carrier(tmp_path, app, checkpoint=0.02)
    await keep(made, path.exists)
    app.value = 2
    await keep(made, lambda: path.read_bytes() == b"json\n2")
    new = App()
    taken = await carrier(tmp_path, new).take_checkpoint()
    assert (taken, new.got) == (wire.Imported(source="checkpoint", seconds=pytest.approx(0, abs=0.5)), [2])
    assert path.exists(), "the new child may fail before it is active"


async def test_a_successor_that_is_on_its_way_when_the_old_one_dies_takes_the_checkpoint(tmp_path: Path) -> None:
    await keep(carrier(tmp_path, App(1)), (tmp_path / "ledger.checkpoint").exists)
    app = App()
    new = carrier(tmp_path, app)
    new.comes_no_more()
    taken = await new.take_over()
    assert taken is not None
    assert taken.source == "checkpoint"
    assert app.got == [1]


async def test_a_checkpoint_that_an_app_cannot_take_is_not_given_twice(tmp_path: Path) -> None:
    await keep(carrier(tmp_path, App(1)), (tmp_path / "ledger.checkpoint").exists)

    class Failing(App):
        async def import_state(self, value: Any) -> None:
            raise KeyError("x")

    taken = await carrier(tmp_path, Failing()).take_checkpoint()
    assert taken is not None
    assert taken.reason == "import_state raised KeyError: 'x'"
    assert await carrier(tmp_path, App()).take_checkpoint() is None


async def test_a_checkpoint_that_kills_the_process_is_not_given_twice(tmp_path: Path) -> None:
    await keep(carrier(tmp_path, App(1)), (tmp_path / "ledger.checkpoint").exists)

    class Dying(App):
        async def import_state(self, value: Any) -> None:
            assert not (tmp_path / "ledger.checkpoint").exists(), "a death here would leave it for the next child"
            self.got.append(value)

    dying = Dying()
    await carrier(tmp_path, dying).take_checkpoint()
    assert dying.got == [1]


async def test_no_checkpoint_of_an_older_release_outlives_one_that_keeps_none(tmp_path: Path) -> None:
    path = tmp_path / "ledger.checkpoint"
    for app, seconds in ((object(), 60), (App(1), 0)):
        path.write_bytes(b"json\n1")
        await carrier(tmp_path, app, checkpoint=seconds).keep_checkpoints()
        assert not path.exists()


async def test_checkpoints_that_fail_are_told_once_a_burst(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    def sometimes() -> int:
        nonlocal calls
        calls += 1
        if calls != 4:
            raise KeyError("x")
        return 1

    await keep(carrier(tmp_path, App(sometimes), checkpoint=0.01), lambda: calls >= 7)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
