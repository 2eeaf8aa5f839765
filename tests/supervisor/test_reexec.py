"""The supervisor replaces its own program: same process, same children, nothing forgotten; or it goes on as it was."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import psutil
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from installed import CODE, Installed, installed
from supervising import FAKE, TOKEN, Supervised, fake_command, make_settings, open_fds, until
from test_child import Recorder, launch, release
from test_machine import ON_PROBATION, SITUATIONS, TIMING, WITH_SPARE, World, possible_events

from bastion import wire
from bastion.supervisor import child, control, machine, reexec
from bastion.supervisor.child import CarriedChild
from bastion.supervisor.control_client import fetch_status
from bastion.supervisor.engine import CarriedEngine, Engine
from bastion.supervisor.events import Broke
from bastion.supervisor.hearing import Comparison
from bastion.supervisor.identify import IdentifyQueue, Wish
from bastion.supervisor.ledgerdir import Place
from bastion.supervisor.local_sandbox import CarriedSandbox
from bastion.supervisor.observed import HandoffRecord, Observation
from bastion.supervisor.reexec import CarryError, Envelope, Reexec, decode, encode, trial_command
from bastion.supervisor.slot import CarriedMember, CarriedSlot
from bastion.supervisor.state import Alarm, Phase, State, Timing
from bastion.supervisor.writer import Writer
from bastion.wire import Beat, Limits

WIDE = pytest.mark.wide
MOMENTS = [0.0, *(pytest.param(delay, marks=WIDE) for delay in (0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6))]
"""Seconds after the signal: before, in and after the trial, execve, the new program's start."""

# --- what is carried over ---------------------------------------------------------------------------------------


def a_record() -> HandoffRecord:
    record = HandoffRecord(began=10.5, kind="reload", origin=1, target=2)
    record.enter(Phase.SPAWNING, now=11.0)
    record.enter(Phase.DRAINING, now=12.0)
    record.close("succeeded", None, now=14.0)
    record.cut = {1: ["app: on_message"]}
    return record


def a_queue() -> IdentifyQueue:
    queue = IdentifyQueue(window=5.0, clock=lambda: 100.0)
    queue.update(Limits(total=1000, remaining=900, reset_after=3600.0, max_concurrency=2, shards=4))
    for shard in range(4):
        queue.ask(1, shard)
    queue.grant(active=1)
    queue.identified(1, 0)
    return queue


def an_envelope(tmp_path: Path, state: State) -> Envelope:
    found = release(tmp_path / "\udcff", "one", "--two")
    carried = CarriedChild(
        generation=1,
        release=found,
        secrets=(TOKEN,),
        pid=77,
        read=10,
        write=-1,
        stdout=12,
        stderr=13,
        greeted=True,
        unread=b'{"type": "bea',
        unsent=b"\xff\x00",
        err_part="Überlä".encode()[:-1],
        last=("ValueError: \ufffd",),
    )
    seen = Observation(generation=1, pid=77, release=found, standby=False, ready_at="2026-01-01T00:00:00.000Z")
    seen.take(wire.Shard(id=3, state="ready", latency_ms=4.5))
    seen.take(Beat(n=4, loop_lag_ms=0.5, in_flight=2, handled=9, latencies={3: 41.0}))
    hearing = Comparison()
    hearing.active_heard(7)
    slot = CarriedSlot(
        state=state,
        timers=((Alarm.HANG, 1, 12.5),),
        members=(CarriedMember(child=carried, seen=seen),),
        handoff=a_record(),
        hearing=hearing,
        pings=3,
        kicks=((2, 0, 1),),
        put_off=(Wish(2, 0),),
    )
    engine = CarriedEngine(
        slot=slot,
        permits=a_queue().carry(),
        settings=replace(make_settings(tmp_path, "one"), environment={"DATABASE": "x"}),
        place=Place(path=tmp_path / "ledger", lock=20),
        started_at="2026-01-01T00:00:00.000Z",
    )
    return Envelope(
        pid=5,
        version="0.1.0",
        engine=engine,
        control=control.Held(path=tmp_path / "s.sock", listener=21, lock=22),
        sandbox=CarriedSandbox(pid=6, stdin=23, stdout=24, api_url="http://127.0.0.1:1/api", token=TOKEN),
        signals=25,
    )


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_is_carried_over_comes_out_as_it_went_in(tmp_path: Path, situation: str) -> None:
    envelope = an_envelope(tmp_path, SITUATIONS[situation]().state)
    found = decode(encode(envelope))
    assert found == envelope
    assert found.descriptors == [21, 22, 25, 20, 10, 12, 13, 23, 24]


@examples(max_examples=100, deadline=None)
@given(
    choices=st.lists(st.integers(0, 10_000), max_size=40),
    timing=st.sampled_from([TIMING, ON_PROBATION, WITH_SPARE, replace(ON_PROBATION, spare=True)]),
)
def test_every_state_that_can_be_reached_survives_and_decides_alike(choices: list[int], timing: Timing) -> None:
    world = World.begun(timing)
    for choice in choices:
        events = possible_events(world)
        event = events[choice % len(events)]
        found = decode(encode(an_envelope(Path("/releases"), world.state))).engine.slot.state
        assert found == world.state
        assert machine.step(found, event) == machine.step(world.state, event)
        world.step(event)


def test_a_queue_goes_on_where_the_other_one_was() -> None:
    before, after = a_queue(), IdentifyQueue(window=5.0, clock=lambda: 100.0)
    after.adopt(before.carry())
    assert after.limit() == before.limit()
    assert after.next_due() == before.next_due()
    assert after.grant(active=None) == before.grant(active=None) == []
    assert after.waiting(1) == before.waiting(1) == 2


def test_a_new_field_with_a_default_does_not_keep_an_older_program_from_handing_over(tmp_path: Path) -> None:
    envelope = an_envelope(tmp_path, SITUATIONS["serving"]().state)
    data = encode(envelope)
    older, incomplete = data.replace(b'"spare_failures":0,', b""), data.replace(b',"pings":3', b"")
    assert len(older) < len(data) > len(incomplete)
    assert decode(older) == envelope
    with pytest.raises(CarryError, match="pings"):
        decode(incomplete)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 5000, "cannot be read"),
        (b'{"format": 1, "protocol": 6, "pid": 3, "version": "9"}', "cannot be read"),
        (b'{"format": 7, "protocol": 3, "pid": 3, "version": "9"}', "supervisor 9 carries format 7 over"),
        (b'{"format": 1, "protocol": 7, "pid": 3, "version": "9"}', "the bots speak protocol 7"),
    ],
)
def test_what_cannot_be_taken_up_is_said(data: bytes, message: str) -> None:
    with pytest.raises(CarryError, match=message):
        decode(data)


def test_what_cannot_be_written_down_is_said(tmp_path: Path) -> None:
    envelope = an_envelope(tmp_path, SITUATIONS["serving"]().state)
    envelope.engine.slot.handoff.reason = "\udcff"  # type: ignore[union-attr]
    with pytest.raises(CarryError, match="cannot be written down"):
        encode(envelope)


def test_the_token_is_in_no_repr(tmp_path: Path) -> None:
    assert TOKEN not in repr(an_envelope(tmp_path, SITUATIONS["serving"]().state))


def test_other_limits_hold_at_once_and_a_spare_is_left_to_the_next_handoff() -> None:
    state = SITUATIONS["serving"]().state
    found = machine.retimed(state, Timing(drain_timeout=7.0, spare=True))
    assert found == replace(state, timing=Timing(drain_timeout=7.0), good_timing=Timing(drain_timeout=7.0))


def test_only_a_state_in_which_nothing_is_under_way_is_at_rest() -> None:
    at_rest = {name for name, situation in SITUATIONS.items() if situation().state.at_rest}
    assert at_rest >= {"serving", "spare awaits the window", "with spare"}
    for name in at_rest:
        state = SITUATIONS[name]().state
        assert state.phase is Phase.SERVING
        assert (state.asked, state.waiting, state.stops, state.leavers) == ((), (), (), ())
    failing = SITUATIONS["serving"]()
    failing.step(Broke(1, "garbage"))
    assert failing.state.phase is Phase.SERVING
    assert not failing.state.at_rest


# --- a child that is adopted ------------------------------------------------------------------------------------


TALKS = """
import os, sys, time
import handshake
handshake.take()
words = sys.argv
write = int(words[words.index("--write") + 1])
hello = b'{"type":"hello","pid":1,"protocol":6,"versions":{}}' + bytes([10])
os.write(write, hello[:20])
os.write(1, b"half a li")
os.write(2, b"Tra")
sys.stdin = open(int(words[words.index("--read") + 1]))
assert "permit" in sys.stdin.readline()
os.write(write, hello[20:])
os.write(1, b"ne" + bytes([10]))
os.write(2, b"ceback (most recent call last):" + bytes([10]) + b"ValueError: it broke" + bytes([10]))
sys.exit(3)
"""


def test_an_adopted_child_goes_on_in_the_middle_of_a_line_and_its_end_is_explained(tmp_path: Path) -> None:
    before = open_fds()
    first, second = Recorder(), Recorder()

    async def spawned() -> CarriedChild:
        born = child.spawn(
            release(tmp_path),
            launch(tmp_path),
            first,
            command=lambda _: (
                sys.executable,
                "-I",
                "-c",
                f"import sys; sys.path.insert(0, {str(FAKE.parent)!r})\n{TALKS}",
            ),
        )
        await until(lambda: all((born.carry().unread, born.carry().out_part, born.carry().err_part)))
        born._process.returncode = 0  # type: ignore[attr-defined]  # the object is forgotten, as by execve
        os.close(born._pidfd)
        return born.carry()

    async def adopted(carried: CarriedChild) -> None:
        taken = child.adopt(carried, second)
        taken.send(wire.Permit(shard=0))
        await until(lambda: second.exits)

    carried = asyncio.run(spawned())
    asyncio.run(adopted(carried))
    assert (first.messages, first.lines, first.exits) == ([], [], [])
    assert [type(message) for message in second.messages] == [wire.Hello]
    traceback = [("stderr", "Traceback (most recent call last):"), ("stderr", "ValueError: it broke")]
    assert second.lines == [("stdout", "half a line"), *traceback]
    assert second.exits == [("exited with status 3: ValueError: it broke", True)]
    assert open_fds() <= before


# --- a whole supervisor -----------------------------------------------------------------------------------------


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Installed]:
    with installed(tmp_path) as found:
        yield found


def identity(it: Installed) -> tuple[Any, ...]:
    status = it.status()
    (only,) = status["children"]
    return (
        status["supervisor"]["pid"],
        status["supervisor"]["started_at"],
        status["supervisor"]["state"],
        status["restarts"],
        status["last_handoff"],
        *(only[key] for key in ("generation", "pid", "role", "started_at", "ready_at", "active_at", "guilds")),
        [(shard["id"], shard["state"], shard["latency_ms"]) for shard in only["shards"]],
    )


def slow_to_take_over(it: Installed, seconds: float) -> None:
    """Have the new program come to life late."""
    source = (CODE / "supervisor" / "__init__.py").read_text()
    late = f'import os, time\nif "{reexec.VARIABLE}" in os.environ:\n    print("late", flush=True)\n'
    (it.code / "__init__.py").write_text(source + late + f"    time.sleep({seconds})\n")


def test_the_supervisor_changes_its_program_and_nothing_else(it: Installed) -> None:
    assert it.reload()["result"] == "succeeded"
    it.serving(2)
    it.until(lambda: it.status()["last_handoff"]["replayed"])  # told by a beat, which may come after the result
    it.until(lambda: it.status()["supervisor"]["state"] == "serving")
    before, handled = identity(it), it.descriptors()
    for _ in range(3):
        it.reexecute()
        assert identity(it) == before
        it.until(lambda: it.descriptors() <= handled)

    os.kill(it.child()["pid"], signal.SIGUSR1)  # has the fake bot print its stacks
    it.logged('gen 2:   File "')
    assert it.reload()["result"] == "succeeded"
    it.serving(3)
    os.kill(it.child()["pid"], signal.SIGKILL)
    it.logged("generation 3 has left: killed by SIGKILL")
    it.serving(4)
    assert it.status()["restarts"] == 1
    assert it.stop() == 0


@pytest.mark.wide
@pytest.mark.timeout(300)
def test_fifty_times_leak_no_descriptor_and_no_memory(it: Installed) -> None:
    it.reexecute()
    before, descriptors = identity(it), it.descriptors()
    size = psutil.Process(it.pid).memory_info().rss
    for _ in range(50):
        it.reexecute()
    assert identity(it) == before
    it.until(lambda: it.descriptors() <= descriptors)
    assert psutil.Process(it.pid).memory_info().rss < size * 1.2
    assert psutil.Process(it.pid).children() == [psutil.Process(it.child()["pid"])]
    assert it.stop() == 0


def test_the_new_code_and_the_new_settings_are_in_place(it: Installed) -> None:
    source = (CODE / "supervisor" / "__init__.py").read_text()
    (it.code / "__init__.py").write_text(source.replace('"0.1.0"', '"0.2.0"'))
    old = it.socket
    it.configure(handoff__drain_timeout=4, bot__args=["print=new"], control__socket=str(it.directory / "new.sock"))
    it.reexecute()
    it.until(lambda: it.status()["supervisor"]["version"] == "0.2.0")
    assert not old.exists()
    assert not old.with_name(old.name + ".lock").exists()
    assert "gen 1: new" not in it.text
    assert it.reload()["result"] == "succeeded"
    it.logged("gen 1: drained within 4.0")
    it.logged("gen 2: new")
    assert it.stop() == 0


def test_a_crash_after_it_restarts_what_ran_and_not_what_the_settings_name_now(it: Installed) -> None:
    it.configure(bot__args=["print=new"], discord__token_file="/no/token")
    it.reexecute()
    os.kill(it.child()["pid"], signal.SIGKILL)
    it.serving(2)
    assert "gen 2: new" not in it.text
    assert it.stop() == 0


def test_the_trial_does_not_take_its_option_for_an_argument_of_the_bots() -> None:
    ours = ["python3", "-m", "bastion.supervisor", "run", "main.py"]
    assert trial_command(ours, 5) == [*ours, "--trial", "5"]
    assert trial_command([*ours, "--", "--fast", "--"], 5) == [*ours, "--trial", "5", "--", "--fast", "--"]


def test_a_control_socket_that_cannot_be_opened_is_found_by_the_trial(it: Installed) -> None:
    old = it.socket
    (it.directory / "open").mkdir()
    (it.directory / "open").chmod(0o777)
    it.configure(control__socket=str(it.directory / "open" / "s.sock"))
    it.signal(signal.SIGUSR2)
    it.logged("not re-executed, the supervisor goes on as it is: the control socket's directory")
    it.options["control__socket"] = str(old)
    it.serving(1)
    assert it.stop() == 0


BROKEN = {
    "raises": ("__init__.py", 'raise ImportError("half an upgrade")', "exited with status 1: ImportError: half an"),
    "half written": ("machine.py", "def (", "exited with status 1: SyntaxError"),
    "killed": ("engine.py", "import os; os.kill(os.getpid(), 9)", "was killed by signal 9"),
    "hangs": ("slot.py", "import time; time.sleep(60)", "has not started within 0.7 s"),
    "later format": ("reexec.py", "FORMAT = 2", "carries format 1 over"),
    "older version": (
        "cli.py",
        "del run.params[-1]; run.params[:] = run.params[:2]\nmain()",
        "No such option",
    ),
    "other pipe": ("../wire/messages.py", "PROTOCOL = 7", "the bots speak protocol 6"),
    "another machine": ("machine.py", "def step(state, event): raise KeyError(7)", "KeyError: 7"),
}


@pytest.mark.parametrize(
    "name",
    [name if name in ("raises", "older version", "hangs") else pytest.param(name, marks=WIDE) for name in BROKEN],
)
def test_code_that_does_not_start_leaves_the_old_in_place(tmp_path: Path, name: str) -> None:
    with installed(tmp_path, start=False) as it:
        if name == "hangs":
            source = it.code / "reexec.py"
            source.write_text(source.read_text().replace("TRIAL_TIMEOUT = 10.0", "TRIAL_TIMEOUT = 0.7"))
        it.start()
        it.serving(1)
        before = identity(it)
        module, code, reason = BROKEN[name]
        whole = (it.code / module).read_text()
        (it.code / module).write_text(f"{whole}\n{code}\n")
        it.signal(signal.SIGUSR2)
        it.logged("not re-executed, the supervisor goes on as it is: ")
        assert reason in it.text
        assert identity(it) == before
        (it.code / module).write_text(whole)
        assert it.reload()["result"] == "succeeded"
        it.serving(2)
        if name != "hangs":
            it.reexecute()
        assert it.stop() == 0


def test_settings_that_are_wrong_leave_the_old_in_place(it: Installed) -> None:
    before = identity(it)
    it.config.write_text(it.config.read_text() + "[restart2]\n")
    it.signal(signal.SIGUSR2)
    it.logged("restart2: unknown table")
    assert identity(it) == before
    it.configure()
    assert it.reload()["result"] == "succeeded"
    it.serving(2)
    assert it.stop() == 0


def test_settings_that_break_after_the_trial_stay_as_they_were(it: Installed) -> None:
    slow_to_take_over(it, 0.5)
    it.signal(signal.SIGUSR2)
    it.logged("late")
    it.config.write_text("[")
    it.logged("the settings stay as they were")
    it.serving(1)
    it.configure()
    assert it.reload()["result"] == "succeeded"
    assert it.stop() == 0


def test_during_a_handoff_it_waits_for_the_end(tmp_path: Path) -> None:
    with installed(tmp_path, "busy=1") as it:
        it.configure(bot__args=[])
        it.signal(signal.SIGHUP)
        it.until(lambda: [child["role"] for child in it.status()["children"]] == ["draining", "active"])
        it.signal(signal.SIGUSR2)
        it.logged("the re-execution waits")
        it.signal(signal.SIGHUP)  # hurries the old one, and has a turn of its own
        it.logged("re-executed: supervisor")
        assert it.text.index("reload 2 -> 3 succeeded") < it.text.index("re-executed: supervisor")
        it.serving(3)
        assert it.status()["last_handoff"]["result"] == "succeeded"
        assert it.stop() == 0


def test_a_child_that_lingers_is_carried_over_too(tmp_path: Path) -> None:
    with installed(tmp_path, "linger=1") as it:
        it.configure(bot__args=[])
        assert it.reload()["result"] == "succeeded"
        before = it.status()["children"]
        assert [child["generation"] for child in before] == [1, 2]
        it.reexecute()
        after = it.status()["children"]
        assert [child["pid"] for child in after] == [child["pid"] for child in before]
        os.kill(after[1]["pid"], signal.SIGKILL)
        it.logged("generation 1 is active")
        assert it.stop() == 0


def test_while_nobody_serves_it_waits_until_somebody_does(tmp_path: Path) -> None:
    with installed(tmp_path, "retryable=hello", start=False, restart__backoff_first=0.3) as it:
        it.start()
        it.logged("generation 1 has left")
        it.signal(signal.SIGUSR2)
        it.logged("the re-execution waits")
        it.configure(bot__args=[])
        it.signal(signal.SIGHUP)
        it.logged("re-executed: supervisor")
        assert it.child()["role"] == "active"
        assert it.stop() == 0


def test_five_at_once_are_one_or_two(it: Installed) -> None:
    it.signal(*[signal.SIGUSR2] * 5)
    it.logged("re-executed: supervisor")
    assert it.reload()["result"] == "succeeded"
    it.serving(2)
    assert 1 <= it.text.count("re-executed: supervisor") <= 2
    assert it.stop() == 0


@pytest.mark.matrix
@pytest.mark.parametrize("delay", MOMENTS)
def test_a_stop_at_any_moment_of_it_stops(it: Installed, delay: float) -> None:
    it.signal(signal.SIGUSR2)
    time.sleep(delay)
    assert it.stop() == 0
    assert "gen 1: drained within" in it.text


@pytest.mark.matrix
@pytest.mark.parametrize("delay", MOMENTS)
def test_a_reload_asked_for_at_any_moment_of_it_is_not_lost(it: Installed, delay: float) -> None:
    it.signal(signal.SIGUSR2)
    time.sleep(delay)
    it.signal(signal.SIGHUP)
    it.serving(2)
    it.logged("re-executed: supervisor")
    assert it.stop() == 0


def test_once_it_stops_nothing_is_re_executed(tmp_path: Path) -> None:
    with installed(tmp_path, "busy=1", handoff__drain_timeout=2) as it:
        it.signal(signal.SIGTERM)
        it.logged("told to stop")
        it.signal(signal.SIGUSR2)
        it.logged("SIGUSR2: ignored")
        it.signal(signal.SIGTERM)
        assert it.ended() == 0


def test_what_happens_before_the_new_program_listens_is_known_to_it(it: Installed) -> None:
    """A client waits, a reload is asked for, and the bot dies."""
    slow_to_take_over(it, 0.7)
    old = it.child()["pid"]
    it.signal(signal.SIGUSR2)
    it.logged("late")
    os.kill(old, signal.SIGKILL)
    assert it.status()["supervisor"]["pid"] == it.pid  # waits for the new program
    it.logged("re-executed: supervisor")
    it.logged("generation 1 has left: killed by SIGKILL")
    it.serving(2)
    slow_to_take_over(it, 0.5)
    it.signal(signal.SIGUSR2)
    it.logged("late", times=2)
    it.signal(signal.SIGHUP, signal.SIGHUP)
    it.serving(3)
    it.signal(signal.SIGUSR2)
    it.logged("late", times=3)
    assert it.stop() == 0
    assert "gen 3: drained within" in it.text


@pytest.mark.wide
def test_beats_that_nobody_heard_meanwhile_are_no_silence_of_the_child(tmp_path: Path) -> None:
    with installed(tmp_path, restart__hang_timeout=3) as it:
        slow_to_take_over(it, 3.5)
        it.reexecute()
        time.sleep(0.5)  # long enough for a timer that has run out
        it.serving(1)
        assert "hangs" not in it.text
        os.kill(it.child()["pid"], signal.SIGSTOP)
        it.logged("generation 1: hangs: no sign of life for 3 s")
        it.serving(2)
        assert it.stop() == 0


def test_children_know_nothing_of_it(it: Installed) -> None:
    it.reexecute()
    assert it.reload()["result"] == "succeeded"
    it.serving(2)
    found = psutil.Process(it.child()["pid"])
    assert reexec.VARIABLE not in found.environ()
    assert "NOTIFY_SOCKET" not in found.environ()
    assert psutil.Process(it.pid).environ()["NOTIFY_SOCKET"] == "@nobody"
    targets = [str(entry.readlink()) for entry in Path(f"/proc/{found.pid}/fd").iterdir()]
    assert [target for target in targets if "memfd" in target or "socket" in target] == []
    assert it.stop() == 0


def test_a_variable_that_somebody_else_has_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    (tmp_path / "bastion.toml").write_text(f'[control]\nsocket = "{tmp_path}/s.sock"\n')
    for value in ("x", "0", "77", "-1", "9" * 40):
        done = subprocess.run(
            [sys.executable, "-m", "bastion.supervisor", "run", "--config", str(tmp_path / "bastion.toml")],
            env={**os.environ, reexec.VARIABLE: value, "DISCORD_TOKEN": TOKEN},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=30,
        )
        assert done.returncode == 1
        assert reexec.VARIABLE in done.stderr or "carries over" in done.stderr
        assert "Traceback" not in done.stderr


# --- execve fails -----------------------------------------------------------------------------------------------


class _Optimist(Reexec):
    """Takes over without a trial."""

    async def try_out(self, carried: CarriedEngine) -> str | None:
        return None


@pytest.mark.anyio
async def test_if_the_program_is_gone_at_the_last_moment_everything_goes_on(tmp_path: Path, own_signals: None) -> None:
    settings = make_settings(tmp_path)
    it = Supervised(settings)
    it.engine = Engine(settings, reread=it.reread, log=it.log, command=fake_command)
    await anyio.lowlevel.checkpoint()
    before, inherited = open_fds(), inheritable()
    async with anyio.create_task_group() as tasks, control.serve(settings.control.socket, it.engine) as server:
        successor = _Optimist(server, sandbox=None, log=Writer(2), command=["/no/such/python"])

        async def run() -> None:
            with it.engine.handling_signals():
                it.code = await it.engine.run(successor=successor)

        tasks.start_soon(run)
        await it.serving(1)
        os.kill(os.getpid(), signal.SIGUSR2)
        await until(lambda: "not re-executed" in it.text)
        assert "/no/such/python: No such file or directory" in it.text
        assert inheritable() == inherited
        assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        status = await anyio.to_thread.run_sync(fetch_status, settings.control.socket)
        assert status["children"][0]["generation"] == 1
        os.kill(os.getpid(), signal.SIGHUP)
        await it.serving(2)
        await it.engine.stop()
    assert it.code == 0
    assert open_fds() <= before


def inheritable() -> list[str]:
    """Return our descriptors that a program started by execve would get."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that lists them
            if os.get_inheritable(int(entry.name)):
                found.append(entry.name)
    return sorted(found)


# --- as PID 1 ---------------------------------------------------------------------------------------------------


def _namespaces() -> bool:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, check=False, capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not _namespaces(), reason="this machine gives us no PID namespace (unshare --pid)")
def test_as_pid_1_it_reaps_orphans_forwards_nothing_and_re_executes(tmp_path: Path) -> None:
    with installed(tmp_path, "orphans=3", start=False) as it:
        it.start(wrap=["unshare", "--pid", "--fork", "--mount-proc"])
        it.serving(1)
        assert it.status()["supervisor"]["pid"] == 1
        for generation in (2, 3):
            it.until(lambda: [child.status() for child in it.children()].count(psutil.STATUS_ZOMBIE) == 0)
            it.reexecute()
            assert it.status()["supervisor"]["pid"] == 1
            os.kill(it.pid, signal.SIGUSR1)  # what a shell or a container's runtime may send is not the bot's
            os.kill(it.pid, signal.SIGWINCH)
            assert it.reload()["result"] == "succeeded"
            it.serving(generation)
        it.until(lambda: len(it.children()) == 1)
        assert "gen 1: Current thread" not in it.text
        (bot,) = it.children()
        bot.kill()
        it.logged("generation 3 has left: killed by SIGKILL")
        it.serving(4)
        assert it.stop() == 0
        assert "gen 4: drained within" in it.text
