"""One child's life: how it begins, obeys, drains and ends, and what it says when it gives up."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import discord
import pytest

import bastion
from bastion import wire
from bastion.bot import __main__ as command_line
from bastion.bot import runtime
from bastion.bot.ledger import SQLiteLedger
from bastion.bot.runtime import Options
from bastion.bot.sessions import SessionFile

API = "http://127.0.0.1:9/api/v10"
TOKEN = "a-token-that-nobody-may-see"

Message = TypeVar("Message", bound=wire.FromChild)
LAUNCHER = Path(bastion.__file__).parent / "supervisor" / "launcher.py"


# --- options --------------------------------------------------------------------------------------------------------


def options_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Options:
    """Read a command line up to where the runtime would begin."""
    got: list[Options] = []

    class Noting:
        def __init__(self, options: Options) -> None:
            got.append(options)

        def begin(self, unread: bytes) -> bool:
            return False

    monkeypatch.setattr(runtime, "Runtime", Noting)
    monkeypatch.setattr(command_line, "_log_to_stderr", lambda: None)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert command_line.main(arguments, read=8, write=9) == 1
    return got[0]


def test_the_command_line_says_all_that_a_child_must_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = options_of(
        monkeypatch,
        *("--app", "app:client", "--directory", str(tmp_path / "x" / ".."), "--generation", "7", "--shards", "4"),
        *("--role", "standby", "--ledger", "/run/ledger.db", "--api-url", API),
        *("--expired-text=-- gone", "--", "--debug", "x"),
    )
    assert options == Options(
        generation=7,
        app="app:client",
        shards=4,
        standby=True,
        ledger="/run/ledger.db",
        api_url=API,
        read_fd=8,
        write_fd=9,
        directory=tmp_path.resolve(),
        args=["--debug", "x"],
        expired_text="-- gone",
    )


def test_a_child_is_active_with_the_shards_that_discord_recommends_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = options_of(monkeypatch, "--app", "app:client")
    assert (options.standby, options.shards, options.args) == (False, "auto", [])


def test_the_options_hold_no_token() -> None:
    assert not any("token" in field.name for field in dataclasses.fields(Options))


def test_started_by_hand_it_says_what_to_use_instead(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["--app", "app:client"]) == 2
    assert capsys.readouterr().err == "python -m bastion.bot is started by the supervisor: use `supervisor run`\n"


# --- a whole child --------------------------------------------------------------------------------------------------

APP = '''
import asyncio, os, sys, types
import aiohttp
import discord

MESSAGE = {
    "channel_id": "5", "content": "hello", "timestamp": "2026-01-01T00:00:00+00:00", "edited_timestamp": None,
    "author": {"id": "9", "username": "ann", "discriminator": "0", "avatar": None}, "tts": False, "pinned": False,
    "mention_everyone": False, "mentions": [], "mention_roles": [], "attachments": [], "embeds": [], "type": 0,
}


def say(*words):
    print(*words, flush=True)


class PagerView(discord.ui.View):
    @discord.ui.button(label="next")
    async def next(self, interaction, button):
        pass


class App(discord.Client):
    """Connects to nothing: what Discord would send comes as lines on stdin."""

    async def login(self, token):
        self.left = asyncio.Event()
        self.go = asyncio.Event()
        self.http.static_login = self.log_in
        self.http.get_bot_gateway = self.find_gateway
        await super().login(token)

    async def log_in(self, token):
        self.http._HTTPClient__session = aiohttp.ClientSession()
        return {"id": "1", "username": "bot", "discriminator": "0", "avatar": None}

    async def application_info(self):
        return types.SimpleNamespace(id=1, interactions_endpoint_url=None, flags=None)

    async def find_gateway(self):
        limit = {"total": 1000, "remaining": 900, "reset_after": 0, "max_concurrency": 1}
        return 1, "ws://127.0.0.1:9", limit

    async def connect(self, *, reconnect=True):
        loop = asyncio.get_running_loop()
        loop.add_reader(0, self.read)
        say("started")
        try:
            await self.left.wait()
        finally:
            loop.remove_reader(0)
            say("left")

    def read(self):
        for line in os.read(0, 1000).decode().splitlines():
            verb, _, ident = line.partition(" ")
            if verb == "message":
                self._connection.parsers["MESSAGE_CREATE"]({**MESSAGE, "id": ident})
            elif verb == "finish":
                self.go.set()
            elif verb == "show":
                self.view = PagerView(timeout=float(ident))
                self._connection.store_view(self.view, 123)
            elif verb == "stop":
                self.view.stop()
            elif verb == "close":
                self.closing = asyncio.ensure_future(self.close())
            elif verb == "ready":
                self.dispatch("ready")
            elif verb == "exit":
                self.exiting = asyncio.ensure_future(self.leave())
            elif verb == "spin":
                while True:
                    pass

    async def close(self):
        self.left.set()
        await super().close()

    async def leave(self):
        sys.exit(3)

    async def on_message(self, message):
        say("began", message.id)
        if message.id == 9:
            await self.close()
            say("went on", message.id)
            return
        try:
            if message.id == 7:
                answer = await self.wait_for("message")
                say("heard", answer.id)
                return
            await self.go.wait()
            say("ended", message.id)
        except asyncio.CancelledError:
            say("cut", message.id)
            raise

    async def on_activate(self):
        say("activated")

    async def on_deactivate(self):
        say("deactivated")


client = App(intents=discord.Intents.none())
'''


class Child:
    """A child in a process of its own, with this test as its supervisor and as its Discord."""

    def __init__(self, directory: Path, *, source: str = APP, role: str = "active", program: str = "") -> None:
        (directory / "app.py").write_text(source)
        child_reads, self._to_child = os.pipe()
        from_child, child_writes = os.pipe()
        self._messages = os.fdopen(from_child, "rb")
        self.log = directory / "stderr"
        command = [sys.executable, str(LAUNCHER), "--read", str(child_reads), "--write", str(child_writes)]
        command += ["--program" if program else "--app", program or "app:client", "--directory", str(directory)]
        command += ["--generation", "1", "--role", role, "--ledger", str(directory / "ledger.db"), "--api-url", API]
        environment = os.environ | {"BASTION_SUPERVISOR_PID": str(os.getpid()), "BASTION_GENERATION": "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                pass_fds=(child_reads, child_writes),
                text=True,
                bufsize=1,
            )
        os.close(child_reads)
        os.close(child_writes)
        self.order(wire.Challenge(nonce="n", protocol=wire.PROTOCOL))
        assert self.told(wire.Launched).nonce == "n"
        self.order(wire.Environment(variables={"DISCORD_TOKEN": TOKEN}))
        self.order(wire.Permit(shard=0))
        if role == "standby":
            self.told(wire.Wants)
            self.order(wire.Overlap(why="there is no other child"))

    def order(self, message: wire.ToChild) -> None:
        os.write(self._to_child, wire.encode(message))

    def discord(self, line: str) -> None:
        """Let something happen at Discord."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")

    def said(self) -> str:
        """Return the next line that the app prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def told(self, kind: type[Message], condition: Callable[[Message], bool] = lambda _: True) -> Message:
        """Return the next such message, past all others."""
        for line in self._messages:
            message = wire.decode_from_child(line)
            if isinstance(message, kind) and condition(message):
                return message
        raise AssertionError(f"the child ended without {kind.__name__}: {self.log.read_text()}")

    def hang_up(self) -> None:
        os.close(self._to_child)
        self._to_child = -1

    def ended(self) -> int:
        """Return the exit code, when there is one; what else the app said is left to `said`."""
        return self.process.wait(15)

    def dispose(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._messages):
            assert stream is not None
            stream.close()
        if self._to_child >= 0:
            self.hang_up()


Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    children: list[Child] = []

    def begin(**options: Any) -> Child:
        children.append(Child(tmp_path, **options))
        return children[-1]

    yield begin
    for child in children:
        child.dispose()
        assert TOKEN not in child.log.read_text()


@pytest.fixture
def serving(start: Start) -> Child:
    """An active child with one handler under way."""
    child = start()
    assert child.said() == "started"
    child.order(wire.Activate())
    assert child.told(wire.Role).role == "active"
    assert child.said() == "activated"
    child.discord("message 1")
    assert child.said() == "began 1"
    return child


def test_its_first_words_name_its_process_the_protocol_and_the_libraries(start: Start) -> None:
    child = start()
    hello = child.told(wire.Hello)
    assert (hello.pid, hello.protocol) == (child.process.pid, wire.PROTOCOL)
    assert hello.versions["discord.py"] == discord.__version__


def test_a_ping_is_answered_by_a_beat_with_its_number_and_what_is_under_way(serving: Child) -> None:
    serving.order(wire.Ping(n=41))
    beat = serving.told(wire.Beat, lambda beat: beat.pong == 41)
    assert (beat.in_flight, beat.handled, beat.received) == (1, 1, 1)


def test_it_claims_before_it_says_that_it_serves_a_child_with_sessions_of_its_own(
    serving: Child, tmp_path: Path
) -> None:
    for number, claims in ((2, False), (3, True)):
        serving.order(wire.Serve(generation=number, path="", shows="", expects="", claims=claims))
        assert serving.told(wire.Serving) == wire.Serving(generation=number, claims=claims)
        serving.discord(f"message {number}")
        assert serving.said() == f"began {number}"
    claimed = SQLiteLedger(str(tmp_path / "ledger.db"), 2).claimed(["MESSAGE_CREATE:2", "MESSAGE_CREATE:3"])
    assert claimed == {"MESSAGE_CREATE:3"}


def test_it_tells_a_new_program_of_the_supervisors_all_that_there_is_to_know(serving: Child) -> None:
    serving.order(wire.Introduce())
    assert serving.told(wire.LoggedIn).token == TOKEN
    assert serving.told(wire.Wants).shards == 1
    assert serving.told(wire.Ready).shards == 1
    assert serving.told(wire.Shard) == wire.Shard(id=0, state="waiting")
    assert serving.told(wire.Beat).in_flight == 1
    assert serving.told(wire.Role).role == "active"


def test_a_standby_that_was_ready_is_so_once_more_when_the_active_child_has_died(start: Start) -> None:
    child = start(role="standby")
    assert child.said() == "started"
    child.discord("ready")
    child.told(wire.Ready)
    child.order(wire.Recover(generation=7))
    child.told(wire.Ready)


def test_a_standby_holds_until_it_is_activated(start: Start) -> None:
    child = start(role="standby")
    assert child.said() == "started"
    child.discord("message 1")
    child.told(wire.Beat, lambda beat: beat.held == 1)
    child.order(wire.Activate())
    assert child.told(wire.Role).role == "active"
    assert (child.said(), child.said()) == ("activated", "began 1")


def test_it_tells_what_another_child_ran_when_it_died(start: Start, tmp_path: Path) -> None:
    ledger = str(tmp_path / "ledger.db")
    dead = SessionFile.create(Path(wire.sessions_path(ledger, wire.claimer(0, 7))), token=TOKEN, supervisor=os.getpid())
    dead.began("MESSAGE_CREATE 1")
    dead.began("MESSAGE_CREATE 2")()
    child = start(role="standby")
    child.order(wire.Inquire(generation=7))
    child.order(wire.Inquire(generation=8))
    assert child.told(wire.Cut) == wire.Cut(generation=7, names=["MESSAGE_CREATE 1"])
    assert child.told(wire.Cut) == wire.Cut(generation=8, names=[]), "one that has left nothing ran nothing"
    dead.close()


def test_an_app_is_told_once_that_it_is_active_no_longer(serving: Child) -> None:
    serving.order(wire.Standby())
    assert serving.said() == "deactivated"
    serving.order(wire.Drain(limit=600.0))
    serving.discord("finish")
    assert (serving.said(), serving.said()) == ("ended 1", "left"), "on probation it has heard so already"
    assert serving.ended() == 0


def test_an_app_that_was_never_active_is_not_told_that_it_is_no_longer(start: Start) -> None:
    child = start(role="standby")
    assert child.said() == "started"
    child.order(wire.Drain(limit=600.0))
    assert child.said() == "left"
    assert child.ended() == 0


def test_a_drain_lets_handlers_finish_then_closes_and_exits_0(serving: Child) -> None:
    serving.order(wire.Drain(limit=600.0))
    assert serving.told(wire.Role).role == "draining"
    assert serving.said() == "deactivated"
    serving.discord("message 2")
    serving.discord("finish")
    assert serving.told(wire.Drained) == wire.Drained(finished=2, cut=[])
    assert (serving.said(), serving.said()) == ("ended 1", "left")
    assert serving.ended() == 0
    assert serving.said() == "", "the second message was not taken"


def test_a_drain_cuts_at_its_limit_and_names_what_it_cut(serving: Child) -> None:
    serving.order(wire.Drain(limit=0.0))
    assert serving.told(wire.Drained).cut[0] == "discord.py: on_message (MESSAGE_CREATE 1)"
    assert serving.ended() == 0
    assert "cut, for it was not done within the time to drain: discord.py: on_message" in serving.log.read_text()


def test_a_second_order_to_end_can_hurry_a_drain(serving: Child) -> None:
    serving.order(wire.Drain(limit=600.0))
    assert serving.told(wire.Role).role == "draining"
    serving.order(wire.Drain(limit=0.0))
    assert serving.told(wire.Drained).cut == ["discord.py: on_message (MESSAGE_CREATE 1)"]
    assert serving.ended() == 0


def test_a_second_order_to_end_cannot_put_it_off(serving: Child) -> None:
    serving.order(wire.Drain(limit=0.3))
    serving.order(wire.Drain(limit=600.0))
    assert serving.told(wire.Drained).cut == ["discord.py: on_message (MESSAGE_CREATE 1)"]
    assert serving.ended() == 0


def test_activation_during_a_drain_takes_it_back_and_handles_what_was_held(serving: Child) -> None:
    serving.order(wire.Drain(limit=600.0))
    assert serving.told(wire.Role).role == "draining"
    assert serving.said() == "deactivated"
    serving.discord("message 2")
    serving.told(wire.Beat, lambda beat: beat.held == 1)
    serving.order(wire.Activate())
    assert serving.told(wire.Role).role == "active"
    assert (serving.said(), serving.said()) == ("activated", "began 2")
    serving.discord("finish")
    assert {serving.said(), serving.said()} == {"ended 1", "ended 2"}
    serving.order(wire.Drain(limit=600.0))
    assert serving.told(wire.Role).role == "draining", "it can be drained anew"
    assert serving.ended() == 0


def test_a_new_drain_after_an_activation_has_its_own_limit(serving: Child) -> None:
    serving.order(wire.Drain(limit=0.5))
    serving.order(wire.Activate())
    assert serving.told(wire.Role, lambda role: role.role == "active")
    serving.order(wire.Drain(limit=600.0))
    assert serving.told(wire.Role).role == "draining"
    for _ in range(2):  # beats come once a second: the second one is past the first drain's limit
        assert serving.told(wire.Beat).in_flight >= 1
    serving.discord("finish")
    assert serving.told(wire.Drained).cut == []
    assert serving.ended() == 0


@pytest.fixture
def in_the_middle(start: Start) -> Child:
    """An active child with a live view and a conversation."""
    child = start()
    assert child.said() == "started"
    child.order(wire.Activate())
    assert child.said() == "activated"
    child.discord("show 600")
    child.discord("message 7")
    assert child.said() == "began 7"
    return child


def test_a_drain_lingers_for_views_and_conversations_says_so_and_ends_with_them(in_the_middle: Child) -> None:
    in_the_middle.order(wire.Drain(limit=0.1, linger=600.0))
    assert in_the_middle.told(wire.Lingering) == wire.Lingering(views=1, conversations=1)
    assert in_the_middle.told(wire.Beat).lingering == 2
    assert in_the_middle.said() == "deactivated"
    in_the_middle.discord("message 8")
    assert in_the_middle.said() == "heard 8"
    assert in_the_middle.told(wire.Beat, lambda beat: beat.lingering == 1).in_flight == 0
    in_the_middle.discord("stop")
    assert in_the_middle.told(wire.Drained) == wire.Drained(finished=2, cut=[])
    assert in_the_middle.ended() == 0


def test_what_still_lingers_at_the_end_is_cut_and_named(in_the_middle: Child) -> None:
    in_the_middle.order(wire.Drain(limit=0.1, linger=0.3))
    in_the_middle.told(wire.Lingering)
    assert in_the_middle.told(wire.Drained).cut == [
        "discord.py: on_message (MESSAGE_CREATE 7)",
        "view PagerView of message 123",
    ]
    assert in_the_middle.ended() == 0
    assert "cut, for it was not done within the time to drain: view PagerView of message 123" in (
        in_the_middle.log.read_text()
    )


def test_a_second_drain_hurries_one_that_lingers(in_the_middle: Child) -> None:
    in_the_middle.order(wire.Drain(limit=600.0, linger=600.0))
    in_the_middle.told(wire.Lingering)
    in_the_middle.order(wire.Drain(limit=0.0))
    assert len(in_the_middle.told(wire.Drained).cut) == 2
    assert in_the_middle.ended() == 0


def test_sigterm_ends_a_linger(in_the_middle: Child) -> None:
    in_the_middle.order(wire.Drain(limit=600.0, linger=600.0))
    in_the_middle.told(wire.Lingering)
    in_the_middle.process.send_signal(signal.SIGTERM)
    assert len(in_the_middle.told(wire.Drained).cut) == 2
    assert in_the_middle.ended() == 0


def test_a_child_that_lingers_can_be_made_active_again_with_all_that_it_had(in_the_middle: Child) -> None:
    in_the_middle.order(wire.Drain(limit=0.1, linger=600.0))
    in_the_middle.told(wire.Lingering)
    in_the_middle.order(wire.Activate())
    assert in_the_middle.told(wire.Role).role == "active"
    assert (in_the_middle.said(), in_the_middle.said()) == ("deactivated", "activated")
    assert in_the_middle.told(wire.Beat).lingering == 0
    in_the_middle.order(wire.Drain(limit=0.1, linger=600.0))
    assert in_the_middle.told(wire.Lingering) == wire.Lingering(views=1, conversations=1)
    in_the_middle.order(wire.Drain(limit=0.0))
    assert in_the_middle.ended() == 0


def test_what_was_cut_before_a_linger_is_taken_back_is_named(in_the_middle: Child) -> None:
    in_the_middle.discord("message 1")  # which ends the conversation, and does not end itself
    assert {in_the_middle.said(), in_the_middle.said()} == {"began 1", "heard 1"}
    in_the_middle.order(wire.Drain(limit=0.1, linger=600.0))
    assert in_the_middle.told(wire.Lingering) == wire.Lingering(views=1, conversations=0)
    name = "discord.py: on_message (MESSAGE_CREATE 1)"
    assert f"cut, for it was not done within the time to drain: {name}" in in_the_middle.log.read_text()
    in_the_middle.order(wire.Activate())
    assert in_the_middle.told(wire.Cut) == wire.Cut(generation=1, names=[name], lives=True)
    assert in_the_middle.told(wire.Role).role == "active"
    in_the_middle.order(wire.Drain(limit=0.1))
    assert in_the_middle.told(wire.Drained).cut == [], "once"
    assert in_the_middle.ended() == 0


def test_more_names_than_fit_in_one_message_are_counted() -> None:
    names = [f"view {'x' * 1000} {number}" for number in range(1000)]
    shown = runtime._shortened(names)
    assert shown[-1] == "and 800 more"
    assert len(wire.encode(wire.Drained(finished=0, cut=shown))) < wire.MAX_LINE
    assert runtime._shortened(["one"]) == ["one"]
    assert runtime._shortened(["one"], 3) == ["one", "and 3 more"]
    assert runtime._shortened(names, 3)[-1] == "and 803 more"


@pytest.mark.parametrize("draining", [False, True])
def test_sigterm_ends_a_child_within_two_seconds_whether_it_drains_or_not(serving: Child, draining: bool) -> None:
    if draining:
        serving.order(wire.Drain(limit=600.0))
        assert serving.told(wire.Role).role == "draining"
    serving.process.send_signal(signal.SIGTERM)
    assert serving.told(wire.Drained).cut[0] == "discord.py: on_message (MESSAGE_CREATE 1)"
    assert serving.ended() == 0


def test_sigterm_ends_a_child_whose_event_loop_hangs(serving: Child) -> None:
    serving.discord("spin")
    serving.process.send_signal(signal.SIGTERM)
    assert serving.ended() == -signal.SIGALRM


@pytest.mark.parametrize("how", ["hang up", "talk nonsense"])
def test_a_child_that_lost_its_supervisor_ends_by_itself(serving: Child, how: str) -> None:
    if how == "hang up":
        serving.hang_up()
    else:
        os.write(serving._to_child, b"nonsense\n")
    assert serving.ended() == 0
    assert "ending" in serving.log.read_text()


def test_an_app_that_cannot_be_loaded_is_fatal_and_exits_78(start: Start) -> None:
    child = start(source="import nowhere_to_be_found\n")
    assert child.told(wire.Cut).names == [], "so that nobody asks what it ran"
    fatal = child.told(wire.Fatal)
    assert "No module named 'nowhere_to_be_found'" in fatal.reason
    assert not fatal.retryable
    assert child.ended() == 78


def test_a_setup_hook_that_raises_is_fatal_and_its_traceback_begins_in_the_app(start: Start) -> None:
    hook = "    async def setup_hook(self):\n        1 / 0\n\n"
    child = start(source=APP.replace("    async def close(", hook + "    async def close("))
    assert child.told(wire.Fatal) == wire.Fatal(
        reason="setup_hook raised ZeroDivisionError: division by zero (app.py:77, in setup_hook)", retryable=True
    )
    assert child.ended() == 1
    lines = child.log.read_text().splitlines()
    first = lines[lines.index("Traceback (most recent call last):") + 1]
    assert 'app.py", line' in first


def test_a_discord_that_cannot_be_reached_is_fatal_but_another_try_could_succeed(start: Start) -> None:
    child = start(source="import discord\nclient = discord.Client(intents=discord.Intents.none())\n")
    fatal = child.told(wire.Fatal)
    assert fatal.reason.startswith(f"Discord cannot be reached at {API}: ")
    assert fatal.retryable
    assert child.ended() == 1
    assert "Traceback" not in child.log.read_text()


def test_an_app_that_closes_its_own_client_is_fatal_but_another_try_could_succeed(serving: Child) -> None:
    serving.discord("close")
    assert serving.told(wire.Cut).names == ["MESSAGE_CREATE 1"]
    assert serving.told(wire.Fatal) == wire.Fatal(reason="the app closed its own client", retryable=True)
    assert serving.ended() == 0, "as the program ends alone"


SLOW_TO_CLOSE = APP.replace(
    "        self.left.set()\n", '        say("closing")\n        await self.go.wait()\n        self.left.set()\n'
)


def test_an_app_that_is_slow_to_close_its_own_client_leaves_to_others_what_comes_meanwhile(
    start: Start, tmp_path: Path
) -> None:
    child = start(source=SLOW_TO_CLOSE)
    assert child.said() == "started"
    child.order(wire.Window(open=True))
    child.order(wire.Ping(n=1))
    child.told(wire.Beat, lambda beat: beat.pong == 1)
    child.discord("message 1")
    assert child.said() == "began 1"
    child.discord("close")
    assert child.said() == "closing"
    child.discord("message 2")
    child.told(wire.Beat, lambda beat: beat.held == 1)
    child.discord("finish")
    assert {child.said(), child.said()} == {"ended 1", "left"}
    assert child.told(wire.Fatal).reason == "the app closed its own client"
    assert child.ended() == 0
    assert SQLiteLedger(str(tmp_path / "ledger.db"), 2).claimed(["MESSAGE_CREATE:1", "MESSAGE_CREATE:2"]) == {
        "MESSAGE_CREATE:1"
    }


@pytest.mark.wide
def test_an_app_that_never_gets_its_own_client_closed_is_fatal_too(start: Start) -> None:
    child = start(source=SLOW_TO_CLOSE)
    assert child.said() == "started"
    child.discord("message 1")
    assert child.said() == "began 1"
    child.discord("close")
    assert child.told(wire.Cut).names == ["MESSAGE_CREATE 1"]
    assert child.told(wire.Fatal) == wire.Fatal(
        reason="the app's client was being closed, and was not within 5 s", retryable=True
    )


def test_an_app_that_closes_its_own_client_during_a_drain_can_still_be_hurried(serving: Child) -> None:
    serving.order(wire.Drain(limit=600.0))
    assert serving.said() == "deactivated"
    serving.discord("close")
    assert serving.said() == "left"
    serving.order(wire.Ping(n=1))
    serving.told(wire.Beat, lambda beat: beat.pong == 1)
    serving.order(wire.Drain(limit=0.0))
    assert serving.told(wire.Drained).cut == ["discord.py: on_message (MESSAGE_CREATE 1)"]
    assert serving.ended() == 0


def test_an_app_that_closes_its_own_client_during_a_drain_cannot_be_activated_again(serving: Child) -> None:
    serving.order(wire.Drain(limit=600.0))
    assert serving.said() == "deactivated"
    serving.discord("close")
    assert serving.said() == "left"
    serving.order(wire.Ping(n=1))
    serving.told(wire.Beat, lambda beat: beat.pong == 1)
    serving.order(wire.Activate())
    assert serving.told(wire.Fatal) == wire.Fatal(reason="the app closed its own client", retryable=True)
    assert serving.ended() == 0, "as the program ends alone"


def test_an_app_that_leaves_out_what_its_own_program_does_is_told_so(start: Start) -> None:
    main = """

async def main():
    async with client:
        await client.load_extension("cogs.music")
        await client.start("token")

if __name__ == "__main__":
    asyncio.run(main())
"""
    child = start(source=APP + main)
    assert child.told(wire.Remark).text == (
        f'bot.app = "app:client" leaves out what its own program does: app.py:{line_of(APP + main, "load_extension")} '
        'client.load_extension: bot.program = "app.py" runs it'
    )
    assert child.said() == "started"


def line_of(source: str, text: str) -> int:
    return next(number for number, line in enumerate(source.splitlines(), 1) if text in line)


def test_sys_exit_in_a_task_is_told_as_that(serving: Child) -> None:
    serving.discord("exit")
    assert serving.told(wire.Fatal) == wire.Fatal(
        reason=f"the program ended with sys.exit(3) (app.py:{line_of(APP, 'sys.exit(3)')}, in leave)", retryable=True
    )
    assert serving.ended() == 3


def test_a_handler_that_closes_its_own_client_goes_on_behind_that(serving: Child) -> None:
    serving.discord("finish")
    assert serving.said() == "ended 1"
    serving.discord("message 9")
    assert {serving.said() for _ in range(3)} == {"began 9", "left", "went on 9"}
    assert serving.told(wire.Cut).names == []
    assert serving.told(wire.Fatal).reason == "the app closed its own client"
    assert serving.ended() == 0


@pytest.mark.wide
def test_a_program_that_does_not_end_after_its_drain_is_interrupted_and_cleans_up(start: Start) -> None:
    main = """

async def worker():
    try:
        await asyncio.sleep(600)
    finally:
        say("cleaned up")

async def main():
    await asyncio.gather(client.start("token"), worker())

asyncio.run(main())
"""
    child = start(source=APP + main, program="app.py")
    assert child.said() == "started"
    child.order(wire.Drain(limit=0.1))
    assert (child.said(), child.said()) == ("left", "cleaned up")
    assert child.ended() == 128 + signal.SIGINT, "as after Ctrl-C"
    assert "the program has not ended 3 s after its client was closed: it is at app.py:" in child.log.read_text()
