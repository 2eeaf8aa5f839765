"""The supervisor replaces its own program: same process, a new bot beside the old one; or it goes on as it was."""

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
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import psutil
import pytest
from installed import CODE, Installed, installed
from supervising import FAKE, TOKEN, Supervised, fake_command, make_settings, open_fds, until, with_restart
from test_child import Recorder, launch, release
from test_machine import SITUATIONS

from bastion import wire
from bastion.supervisor import child, control, reexec
from bastion.supervisor.child import HeldChild
from bastion.supervisor.control_client import fetch_status
from bastion.supervisor.engine import Engine, Kept
from bastion.supervisor.events import Broke
from bastion.supervisor.ledgerdir import Place
from bastion.supervisor.local_sandbox import CarriedSandbox
from bastion.supervisor.reexec import CarryError, Envelope, Reexec, decode, encode, trial_command
from bastion.supervisor.state import Phase
from bastion.supervisor.status import SessionStartLimit
from bastion.supervisor.writer import Writer

WIDE = pytest.mark.wide
MOMENTS = [0.0, *(pytest.param(delay, marks=WIDE) for delay in (0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6))]
"""Seconds after the signal: before, in and after the trial, execve, the new program's start."""

# --- what is carried over ---------------------------------------------------------------------------------------


def an_envelope(tmp_path: Path) -> Envelope:
    bot = HeldChild(
        generation=3,
        release=release(tmp_path / "\udcff", "one", "--two"),
        pid=77,
        read=10,
        write=-1,
        stdout=12,
        stderr=13,
        parts=(b"", "Überlä".encode()[:-1]),
        secrets=(TOKEN,),
    )
    kept = Kept(
        bot=bot,
        newest=5,
        settings=replace(make_settings(tmp_path, "one"), environment={"DATABASE": "x"}),
        place=Place(path=tmp_path / "ledger", lock=20),
        started_at="2026-01-01T00:00:00.000Z",
        identifies=SessionStartLimit(total=1000, remaining=900, reset_after=3600.0, max_concurrency=16),
        at=7.5,
    )
    return Envelope(
        pid=5,
        version="0.1.0",
        kept=kept,
        control=control.Held(path=tmp_path / "s.sock", listener=21, lock=22),
        sandbox=CarriedSandbox(pid=6, stdin=23, stdout=24, api_url="http://127.0.0.1:1/api", token=TOKEN),
        signals=25,
    )


def test_what_is_carried_over_comes_out_as_it_went_in(tmp_path: Path) -> None:
    envelope = an_envelope(tmp_path)
    found = decode(encode(envelope))
    assert found == envelope
    assert found.descriptors == [21, 22, 25, 20, 10, 12, 13, 23, 24]


def test_a_new_field_with_a_default_does_not_keep_an_older_program_from_handing_over(tmp_path: Path) -> None:
    data = encode(an_envelope(tmp_path))
    older, incomplete = data.replace(b',"log":""', b""), data.replace(b'"newest":5,', b"")
    assert len(older) < len(data) > len(incomplete)
    assert decode(older) == an_envelope(tmp_path)
    with pytest.raises(CarryError, match="newest"):
        decode(incomplete)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 5000, "cannot be read"),
        (b'{"format": 2, "protocol": 7, "pid": 3, "version": "9"}', "cannot be read"),
        (b'{"format": 1, "protocol": 7, "pid": 3, "version": "9"}', "supervisor 9 carries format 1 over.*restart once"),
        (b'{"format": 2, "protocol": 6, "pid": 3, "version": "9"}', "the bot speaks protocol 6.*restart once"),
    ],
)
def test_what_cannot_be_taken_up_is_said(data: bytes, message: str) -> None:
    with pytest.raises(CarryError, match=message):
        decode(data)


def test_what_cannot_be_written_down_is_said(tmp_path: Path) -> None:
    envelope = an_envelope(tmp_path)
    envelope.kept.settings.environment["NAME"] = "\udcff"  # type: ignore[index]
    with pytest.raises(CarryError, match="cannot be written down"):
        encode(envelope)


def test_the_token_is_in_no_repr(tmp_path: Path) -> None:
    assert TOKEN not in repr(an_envelope(tmp_path))


def test_only_a_state_in_which_nothing_is_under_way_is_at_rest() -> None:
    at_rest = {name for name, situation in SITUATIONS.items() if situation().state.at_rest}
    assert at_rest >= {"serving", "with spare"}
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
import os, sys
import handshake
handshake.take()
words = sys.argv
write = int(words[words.index("--write") + 1])
os.write(write, b'{"type":"hello","pid":1,"protocol":7,"versions":{}}' + bytes([10]))
os.write(1, b"half a li")
os.write(2, b"Tra")
sys.stdin = open(int(words[words.index("--read") + 1]))
assert "permit" in sys.stdin.readline()
os.write(write, b'{"type":"identify","shard":0}' + bytes([10]))
os.write(1, b"ne" + bytes([10]))
os.write(2, b"ceback (most recent call last):" + bytes([10]) + b"ValueError: it broke" + bytes([10]))
sys.exit(3)
"""


def test_an_adopted_child_goes_on_in_the_middle_of_a_line_and_its_end_is_explained(tmp_path: Path) -> None:
    before = open_fds()
    first, second = Recorder(), Recorder()

    async def spawned() -> HeldChild:
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
        await until(lambda: first.messages and all(born.held.parts) and born.silent)
        born._process.returncode = 0  # type: ignore[attr-defined]  # the object is forgotten, as by execve
        os.close(born._pidfd)
        return born.held

    async def adopted(held: HeldChild) -> None:
        taken = child.adopt(held, second)
        taken.send(wire.Permit(shard=0))
        await until(lambda: second.exits)

    held = asyncio.run(spawned())
    asyncio.run(adopted(held))
    assert ([type(message) for message in first.messages], first.lines, first.exits) == ([wire.Hello], [], [])
    assert second.messages == [wire.Identify(shard=0)]
    traceback = [("stderr", "Traceback (most recent call last):"), ("stderr", "ValueError: it broke")]
    assert second.lines == [("stdout", "half a line"), *traceback]
    assert second.exits == [("exited with status 3: ValueError: it broke", True)]
    assert open_fds() <= before


# --- a whole supervisor -----------------------------------------------------------------------------------------


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Installed]:
    with installed(tmp_path) as found:
        yield found


def as_before(it: Installed) -> tuple[Any, ...]:
    status = it.status()
    (only,) = status["children"]
    return status["supervisor"], status["last_handoff"], only["pid"], only["active_at"], only["ready_at"]


def slow_to_take_over(it: Installed, seconds: float) -> None:
    """Have the new program come to life late."""
    source = (CODE / "supervisor" / "__init__.py").read_text()
    late = f'import os, time\nif "{reexec.VARIABLE}" in os.environ:\n    print("late", flush=True)\n'
    (it.code / "__init__.py").write_text(source + late + f"    time.sleep({seconds})\n")


def test_the_supervisor_changes_its_program_and_the_bot_is_reloaded(it: Installed) -> None:
    began, handled = it.status()["supervisor"]["started_at"], it.descriptors()
    for generation in (2, 3, 4):
        born = it.child()["started_at"]
        it.reexecute()
        status = it.status()
        supervisor, handoff = status["supervisor"], status["last_handoff"]
        assert (supervisor["pid"], supervisor["started_at"], supervisor["state"]) == (it.pid, began, "serving")
        assert (handoff["kind"], handoff["from"], handoff["to"]) == ("reload", generation - 1, generation)
        assert status["session_start_limit"]["total"] == 1000
        assert (it.child()["generation"], it.child()["role"]) == (generation, "active")
        assert it.child()["started_at"] > born
        it.until(lambda: it.descriptors() <= handled)

    os.kill(it.child()["pid"], signal.SIGUSR1)  # has the fake bot print its stacks
    it.logged('gen 4:   File "')
    assert it.reload()["result"] == "succeeded"
    it.serving(5)
    os.kill(it.child()["pid"], signal.SIGKILL)
    it.logged("generation 5 has left: killed by SIGKILL")
    it.serving(6)
    assert it.status()["restarts"] == 1
    assert it.stop() == 0


@pytest.mark.wide
@pytest.mark.timeout(300)
def test_fifty_times_leak_no_descriptor_and_no_memory(it: Installed) -> None:
    it.reexecute()
    descriptors = it.descriptors()
    size = psutil.Process(it.pid).memory_info().rss
    for _ in range(50):
        it.reexecute()
    it.serving(52)
    it.until(lambda: it.descriptors() <= descriptors)
    assert psutil.Process(it.pid).memory_info().rss < size * 1.2
    assert psutil.Process(it.pid).children() == [psutil.Process(it.child()["pid"])]
    assert it.stop() == 0


def test_the_old_bot_is_known_as_it_was_until_the_new_one_is_there(it: Installed) -> None:
    """And after it, if the new one is no good."""
    before = it.child()
    it.configure(bot__args=["fatal=hello"])
    it.signal(signal.SIGUSR2)
    it.logged("re-execution's reload failed: generation 2: the token was refused")
    it.serving(1)
    same = ("generation", "pid", "role", "guilds")
    assert [it.child()[key] for key in same] == [before[key] for key in same]
    assert it.child()["shards"] == before["shards"]
    born, known = (datetime.fromisoformat(child["started_at"]) for child in (before, it.child()))
    assert abs(born - known) < timedelta(seconds=1)  # the kernel counts in hundredths, and its boot time in whole ones
    it.configure(bot__args=[])
    assert it.reload()["result"] == "succeeded"
    it.serving(3)
    assert it.stop() == 0


def test_no_generation_comes_twice(it: Installed) -> None:
    it.configure(bot__args=["fatal=hello"])
    assert it.reload()["result"] == "failed"
    it.configure(bot__args=[])
    it.reexecute()
    it.serving(3)
    assert it.stop() == 0


def test_no_identify_comes_within_a_window_of_one_that_the_new_program_knows_nothing_of(tmp_path: Path) -> None:
    with installed(tmp_path, discord__identify_window=2.0) as it:
        it.reexecute()  # at once
        first, second = (float(line.rsplit(" ", 1)[1]) for line in it.lines if "identified" in line)
        assert second - first >= 2.0
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
    it.logged("gen 1: drained within 4.0")
    it.logged("gen 2: new")
    assert it.stop() == 0


def test_a_crash_after_it_restarts_what_ran_and_not_what_was_no_good(it: Installed) -> None:
    it.configure(bot__args=["print=new", "fatal=hello"])
    it.signal(signal.SIGUSR2)
    it.logged("re-execution's reload failed: generation 2")
    it.serving(1)
    os.kill(it.child()["pid"], signal.SIGKILL)
    it.serving(3)
    assert "gen 3: new" not in it.text
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
    "other format": ("reexec.py", "FORMAT = 1", "carries format 2 over, 0.1.0 knows 1: restart once"),
    "older version": (
        "cli.py",
        "del run.params[-1]; run.params[:] = run.params[:2]\nmain()",
        "No such option",
    ),
    "other pipe": ("../wire/messages.py", "PROTOCOL = 8", "the bot speaks protocol 7"),
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
        before = as_before(it)
        module, code, reason = BROKEN[name]
        whole = (it.code / module).read_text()
        (it.code / module).write_text(f"{whole}\n{code}\n")
        it.signal(signal.SIGUSR2)
        it.logged("not re-executed, the supervisor goes on as it is: ")
        assert reason in it.text
        assert as_before(it) == before
        (it.code / module).write_text(whole)
        assert it.reload()["result"] == "succeeded"
        it.serving(2)
        if name != "hangs":
            it.reexecute()
            it.serving(3)
        assert it.stop() == 0


def test_settings_that_are_wrong_leave_the_old_in_place(it: Installed) -> None:
    before = as_before(it)
    it.config.write_text(it.config.read_text() + "[restart2]\n")
    it.signal(signal.SIGUSR2)
    it.logged("restart2: unknown table")
    assert as_before(it) == before
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
    it.logged("re-execution's reload refused: ")
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
        it.logged("re-execution's reload succeeded")
        assert it.text.index("reload 2 -> 3 succeeded") < it.text.index("re-executed: supervisor")
        it.serving(4)
        assert it.status()["last_handoff"]["result"] == "succeeded"
        assert it.stop() == 0


def test_a_child_that_lingers_is_hurried_first(tmp_path: Path) -> None:
    with installed(tmp_path, "linger=1") as it:
        it.configure(bot__args=[])
        assert it.reload()["result"] == "succeeded"
        assert [child["generation"] for child in it.status()["children"]] == [1, 2]
        it.reexecute()
        assert it.text.index("generation 1 has left") < it.text.index("re-executed: supervisor")
        it.serving(3)
        assert it.stop() == 0


def test_a_spare_is_ended_first(tmp_path: Path) -> None:
    with installed(tmp_path, start=False, restart__spare=True) as it:
        it.start()
        it.logged("generation 2 is ready, as a spare")
        it.reexecute()
        assert it.text.index("generation 2 has left") < it.text.index("re-executed: supervisor")
        it.logged("generation 4 is ready, as a spare")
        assert it.stop() == 0


def test_while_nobody_serves_it_waits_until_somebody_does(tmp_path: Path) -> None:
    with installed(tmp_path, "retryable=hello", start=False, restart__backoff_first=0.3) as it:
        it.start()
        it.logged("generation 1 has left")
        it.signal(signal.SIGUSR2)
        it.logged("the re-execution waits")
        it.configure(bot__args=[])
        it.signal(signal.SIGHUP)
        it.logged("re-execution's reload succeeded")
        assert it.child()["role"] == "active"
        assert it.stop() == 0


def test_five_at_once_are_one_or_two(it: Installed) -> None:
    it.signal(*[signal.SIGUSR2] * 5)
    it.logged("re-execution's reload succeeded")
    assert it.reload()["result"] == "succeeded"
    it.until(lambda: it.child()["role"] == "active" and it.status()["supervisor"]["state"] == "serving")
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
    it.configure(bot__args=["print=old"])
    it.signal(signal.SIGUSR2)
    time.sleep(delay)
    it.configure(bot__args=["print=newest"])
    it.signal(signal.SIGHUP)
    it.logged("re-execution's reload succeeded")
    it.until(lambda: f"gen {it.child()['generation']}: newest" in it.text)
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
    it.logged("supervisor: reload succeeded")  # the two are one, which may be the re-execution's too
    it.until(lambda: it.child()["role"] == "active")
    newest = it.child()["generation"]
    assert newest in (3, 4)
    it.signal(signal.SIGUSR2)
    it.logged("late", times=3)
    assert it.stop() == 0
    assert f"gen {newest}: drained within" in it.text


def test_a_bot_that_has_nothing_to_say_to_the_new_program_is_ended_and_recovered(tmp_path: Path) -> None:
    with installed(tmp_path, "silent=introduce", restart__hang_timeout=3) as it:
        it.signal(signal.SIGUSR2)
        it.logged("re-executed: supervisor")
        it.configure(bot__args=[])
        it.logged("generation 1 died: hangs: no sign of life for 3 s")
        it.serving(2)
        assert it.stop() == 0


@pytest.mark.wide
def test_beats_that_nobody_heard_meanwhile_are_no_silence_of_the_child(tmp_path: Path) -> None:
    with installed(tmp_path, restart__hang_timeout=3) as it:
        slow_to_take_over(it, 3.5)
        it.reexecute()
        it.serving(2)
        assert "hangs" not in it.text
        assert it.stop() == 0


def test_children_know_nothing_of_it(it: Installed) -> None:
    it.reexecute()
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

    async def try_out(self, kept: Kept) -> str | None:
        return None


@pytest.mark.anyio
async def test_if_the_program_is_gone_at_the_last_moment_everything_goes_on(tmp_path: Path, own_signals: None) -> None:
    settings = with_restart(make_settings(tmp_path), spare=True)
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
        await until(lambda: "generation 2 is ready, as a spare" in it.text)
        it.engine.permits.ask(1, 9)
        it.engine.permits_changed()
        await until(lambda: it.engine.permits.out)
        os.kill(os.getpid(), signal.SIGUSR2)
        await until(lambda: "the re-execution waits" in it.text)  # for the IDENTIFY that may come
        it.engine.permits.identified(1, 9)
        await until(lambda: "not re-executed" in it.text)
        assert "/no/such/python: No such file or directory" in it.text
        assert inheritable() == inherited
        assert signal.SIGUSR2 not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        status = await anyio.to_thread.run_sync(fetch_status, settings.control.socket)
        assert status["children"][0]["generation"] == 1
        await until(lambda: "generation 3 is ready, as a spare" in it.text)
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: "generation 4 is active" in it.text)
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
        for generation in (3, 5):
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
        it.logged("generation 5 has left: killed by SIGKILL")
        it.serving(6)
        assert it.stop() == 0
        assert "gen 6: drained within" in it.text
