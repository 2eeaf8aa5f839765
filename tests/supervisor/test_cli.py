"""The command line as scripts and people meet it: real processes, exit codes, one clear message."""

from __future__ import annotations

import json
import os
import pty
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from bastion.supervisor.child import LAUNCHER

TIMEOUT = 20.0
HERE = Path(__file__).parent
FULL = Path("/dev/full")


COMMANDS = [
    ("reload", "failed", 1),
    *(
        pytest.param(*one, marks=pytest.mark.wide)
        for one in (
            ("status", "succeeded", 0),
            ("status --json", "succeeded", 0),
            ("reload", "succeeded", 0),
            ("reload --json", "succeeded", 0),
            ("reload --no-wait", "succeeded", 0),
            ("reload --nonsense", "succeeded", 2),
            ("rollback", "succeeded", 0),
            ("stop", "succeeded", 0),
            ("check", "succeeded", 0),
            ("check --config gone.toml", "succeeded", 78),
            ("run --config gone.toml", "succeeded", 78),
            ("status --config gone.toml", "succeeded", 78),
            ("healthcheck", "succeeded", 3),
            ("--version", "succeeded", 0),
            ("demo --help", "succeeded", 0),
        )
    ),
]
"""Commands, the result of what they ask for, and their exit codes."""
REDIRECTIONS = [
    "<&- >&- 2>&-",
    ">/dev/full 2>&1",
    *(pytest.param(one, marks=pytest.mark.wide) for one in (">&-", "2>&-", ">/dev/full")),
]
"""What a shell is told of the standard streams of a command."""


def unignored() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup, too


class Shell:
    """A directory with a settings file, in which commands run."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "run" / "supervisor.sock"
        self.environ = {"PATH": os.environ["PATH"], "DISCORD_TOKEN": "a.b.c"}
        self.configure("")

    def configure(self, text: str) -> None:
        (self.directory / "bastion.toml").write_text(f'{text}\n[control]\nsocket = "{self.socket}"\n')

    def start(
        self, *arguments: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "bastion.supervisor", *arguments],
            cwd=self.directory,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            # A shell starts background jobs with SIGINT ignored, and so they would stay: these tests press Ctrl-C.
            preexec_fn=unignored,
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments) as process:
            try:
                out, err = process.communicate(timeout=TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        assert "Traceback" not in err
        assert "a.b.c" not in out + err
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    @contextmanager
    def supervisor(self, result: str = "succeeded") -> Iterator[subprocess.Popen[str]]:
        """A process that answers at the socket as a supervisor does."""
        arguments = [sys.executable, str(HERE / "fake_engine.py"), str(self.socket), result]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                yield process
            finally:
                process.kill()


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def cpu_seconds(run: Callable[[], object]) -> float:
    """Return the CPU time of the processes that this starts and waits for."""

    def so_far() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = so_far()
    run()
    return so_far() - before


class TestStatus:
    def test_it_is_a_readable_table(self, shell: Shell) -> None:
        with shell.supervisor() as process:
            done = shell.run("status")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"(pid {process.pid}) is serving" in done.stdout
        assert "/srv/bot/releases/42" in done.stdout
        assert "\x1b" not in done.stdout

    def test_as_json_it_is_what_the_supervisor_said(self, shell: Shell) -> None:
        with shell.supervisor() as process:
            done = shell.run("status", "--json")
        answer = json.loads(done.stdout)
        assert (done.returncode, answer["supervisor"]["pid"]) == (0, process.pid)
        assert answer["last_handoff"]["from"] == 1

    def test_watching_shows_it_again_until_interrupted(self, shell: Shell) -> None:
        with shell.supervisor(), shell.start("status", "--watch", "--json") as watching:
            assert watching.stdout is not None
            lines = [watching.stdout.readline() for _ in range(2)]
            watching.send_signal(signal.SIGINT)
            assert watching.wait(TIMEOUT) == 0
            assert watching.stderr is not None
            assert watching.stderr.read() == ""
        assert [json.loads(line)["restarts"] for line in lines] == [0, 0]

    @pytest.mark.wide
    def test_watching_outlasts_a_time_in_which_the_supervisor_is_busy(self, shell: Shell) -> None:
        with ExitStack() as stack:
            process = stack.enter_context(shell.supervisor())
            before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
            open_now = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
            watching = stack.enter_context(shell.start("status", "--watch", "--json"))
            assert watching.stdout is not None
            assert watching.stderr is not None
            assert watching.stdout.readline()
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (open_now, before[1]))
            assert "the supervisor is busy (it has no file descriptor left" in watching.stderr.readline()
            assert shell.run("status").returncode == 1
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
            assert watching.stdout.readline()
            watching.send_signal(signal.SIGINT)
            assert watching.wait(TIMEOUT) == 0

    def test_watching_a_supervisor_that_ends_ends_too(self, shell: Shell) -> None:
        with shell.supervisor() as process, shell.start("status", "--watch") as watching:
            assert watching.stdout is not None
            assert watching.stdout.readline().startswith("supervisor")
            process.kill()
            assert watching.wait(TIMEOUT) == 3

    def test_it_needs_no_token_and_no_valid_bot(self, shell: Shell) -> None:
        del shell.environ["DISCORD_TOKEN"]
        shell.configure("[bot]\nshards = 0")
        with shell.supervisor():
            assert shell.run("status").returncode == 0

    def test_it_imports_nothing_slow(self, shell: Shell) -> None:
        code = (
            "import sys; from bastion.supervisor.cli import cli; cli(['status'], standalone_mode=False); "
            "print(*{'anyio', 'asyncio', 'msgspec', 'psutil', 'rich', 'subprocess'}.intersection(sys.modules))"
        )
        with shell.supervisor():
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=shell.directory, env=shell.environ, capture_output=True, check=True
            )
        assert done.stdout.splitlines()[-1] == b""

    def test_it_takes_little_more_than_its_interpreter_and_click(self, shell: Shell) -> None:
        """About 1.4 times as much; with anyio, msgspec or rich it would be three times and more.

        CPU time, both in turn: a busy machine has neither look worse than the other.
        """

        def status() -> None:
            assert shell.run("status").returncode == 0

        def nothing() -> None:
            subprocess.run([sys.executable, "-c", "import click"], env=shell.environ, check=True)

        with shell.supervisor():
            tries = [(cpu_seconds(status), cpu_seconds(nothing)) for _ in range(8)]
        assert min(took for took, _ in tries) < 2.2 * min(bare for _, bare in tries)


class TestReload:
    def test_one_that_succeeds_prints_progress_and_one_line_and_exits_with_0(self, shell: Shell) -> None:
        with shell.supervisor():
            done = shell.run("reload")
        assert (done.returncode, done.stderr) == (0, "")
        lines = done.stdout.splitlines()
        assert lines[:2] == [
            "connecting: waits for shard 0 (0/2 shards ready)",
            "connecting: waits for shard 1 (1/2 shards ready)",
        ]
        assert lines[2].startswith("reload succeeded after 0.")
        assert lines[2].endswith(" s: generation 2 is active")
        assert len(lines) == 3

    @pytest.mark.parametrize("result", ["failed", "refused", "rolled-back"])
    def test_one_that_does_not_says_why_and_exits_with_1(self, shell: Shell, result: str) -> None:
        with shell.supervisor(result):
            done = shell.run("reload")
        assert done.returncode == 1
        assert done.stderr.startswith(f"reload {result.replace('-', ' ')} after ")
        assert done.stderr.endswith("the app could not be imported. Generation 1 goes on serving.\n")

    @pytest.mark.parametrize(("result", "code"), [("succeeded", 0), ("failed", 1)])
    def test_as_json_it_prints_the_outcome_alone(self, shell: Shell, result: str, code: int) -> None:
        with shell.supervisor(result):
            done = shell.run("reload", "--json")
        outcome = json.loads(done.stdout)
        assert (done.returncode, outcome["result"], done.stderr) == (code, result, "")
        assert set(outcome) == {"result", "reason", "generation", "lingering", "remarks", "handoff"}

    @pytest.fixture
    def current(self, shell: Shell) -> Path:
        for name in ("1", "2"):
            (shell.directory / "releases" / name).mkdir(parents=True)
        (shell.directory / "current").symlink_to("releases/1")
        shell.configure('[bot]\ndirectory = "current"')
        return shell.directory / "current"

    def test_to_a_release_it_moves_the_symlink(self, shell: Shell, current: Path) -> None:
        with shell.supervisor():
            assert shell.run("reload", "--release", "releases/2").returncode == 0
        assert str(current.readlink()) == "releases/2"

    @pytest.mark.parametrize("result", ["failed", "refused", "rolled-back"])
    def test_to_a_release_that_does_not_make_it_the_symlink_is_moved_back(
        self, shell: Shell, current: Path, result: str
    ) -> None:
        with shell.supervisor(result):
            done = shell.run("reload", "--release", "releases/2")
        assert done.returncode == 1
        assert done.stderr.endswith(f"supervisor: {current} names releases/1 again\n")
        assert str(current.readlink()) == "releases/1"

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_to_a_release_interrupted_it_says_what_the_symlink_names_and_how_to_move_it_back(
        self, shell: Shell, current: Path, number: signal.Signals
    ) -> None:
        with shell.supervisor("held"), shell.start("reload", "--release", "releases/2") as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(number)
            assert process.wait(TIMEOUT) == 130
            assert process.stderr is not None
            lines = process.stderr.read().splitlines()
        assert lines[0] == (
            f"supervisor: {current} names releases/2. If the reload does not succeed, move it back: "
            f"ln -sfn releases/1 {current}"
        )
        assert lines[1].startswith("supervisor: interrupted: the reload goes on without you")
        assert str(current.readlink()) == "releases/2"

    def test_to_a_release_without_a_supervisor_the_symlink_stays(self, shell: Shell, current: Path) -> None:
        assert shell.run("reload", "--release", "releases/2").returncode == 3
        assert str(current.readlink()) == "releases/1"

    def test_to_a_release_that_is_not_there_nothing_is_asked(self, shell: Shell, current: Path) -> None:
        with shell.supervisor():
            done = shell.run("reload", "--release", "releases/3")
        assert done.returncode == 1
        assert "--release: releases/3: No such file or directory. No supervisor was asked" in done.stderr
        assert str(current.readlink()) == "releases/1"

    def test_to_a_release_without_waiting_is_a_usage_error(self, shell: Shell, current: Path) -> None:
        done = shell.run("reload", "--release", "releases/2", "--no-wait")
        assert done.returncode == 2
        assert str(current.readlink()) == "releases/1"

    def test_without_waiting_it_returns_while_the_reload_goes_on(self, shell: Shell) -> None:
        with shell.supervisor("held"):
            done = shell.run("reload", "--no-wait")
            assert (done.returncode, done.stderr) == (0, "")
            assert "accepted" in done.stdout
            assert json.loads(shell.run("reload", "--no-wait", "--json").stdout) == {"accepted": True}

    @pytest.mark.parametrize("command", ["reload", "rollback"])
    def test_what_is_refused_may_be_forced(self, shell: Shell, command: str) -> None:
        with shell.supervisor("guarded"):
            assert shell.run(command).returncode == 1
            assert shell.run(command, "--force").returncode == 0

    def test_on_a_terminal_it_draws_a_bar(self, shell: Shell) -> None:
        ours, theirs = pty.openpty()
        shown = b""
        with shell.supervisor(), shell.start("reload", stdout=theirs) as process:
            os.close(theirs)
            while select.select([ours], [], [], TIMEOUT)[0]:
                try:
                    part = os.read(ours, 65536)
                except OSError:  # EIO: the other end was closed
                    break
                shown += part
            assert process.wait(TIMEOUT) == 0
        os.close(ours)
        assert b"1/2 shards" in shown
        assert b"\x1b[" in shown
        assert b"reload succeeded" in shown

    @pytest.mark.parametrize(("result", "code"), [("succeeded", 0), ("failed", 1)])
    def test_its_exit_code_is_the_results_though_nobody_reads_it(self, shell: Shell, result: str, code: int) -> None:
        with shell.supervisor(result), FULL.open("w") as full, shell.start("reload", stdout=full.fileno()) as process:
            assert process.wait(TIMEOUT) == code
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()

    def test_interrupting_it_leaves_the_reload_alone_and_says_so(self, shell: Shell) -> None:
        with shell.supervisor("held"), shell.start("reload") as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == 130
            assert process.stderr is not None
            assert process.stderr.read().startswith("supervisor: interrupted: the reload goes on without you")
            assert shell.run("status").returncode == 0

    def test_a_supervisor_that_dies_meanwhile_is_exit_3(self, shell: Shell) -> None:
        with shell.supervisor("held") as supervisor, shell.start("reload") as process:
            assert process.stdout is not None
            process.stdout.readline()
            supervisor.kill()
            assert process.wait(TIMEOUT) == 3
            assert process.stderr is not None
            assert "went away" in process.stderr.read()


def test_rollback_ends_with_its_own_result(shell: Shell) -> None:
    with shell.supervisor():
        done = shell.run("rollback")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "preparing: looks at the release before"
    assert done.stdout.splitlines()[1].startswith("rollback succeeded after ")


def test_stop_returns_when_the_supervisor_has_gone(shell: Shell) -> None:
    with shell.supervisor() as process:
        done = shell.run("stop")
        assert (done.returncode, done.stdout) == (0, f"the supervisor (pid {process.pid}) has stopped\n")
        assert process.wait(TIMEOUT) == 0


class TestWhenSomethingIsWrong:
    @pytest.mark.parametrize("command", [("status",), ("status", "--help"), ("reload", "--no-wait")])
    def test_output_that_cannot_be_written_is_said_in_one_line(self, shell: Shell, command: tuple[str, ...]) -> None:
        with shell.supervisor(), FULL.open("w") as full, shell.start(*command, stdout=full.fileno()) as process:
            assert process.wait(TIMEOUT) == 0
            assert process.stderr is not None
            assert process.stderr.read() == "supervisor: the output cannot be written: No space left on device\n"

    def test_watching_ends_when_nobody_gets_it_any_more(self, shell: Shell) -> None:
        with shell.supervisor(), shell.start("status", "--watch") as watching:
            assert watching.stdout is not None
            watching.stdout.readline()
            watching.stdout.close()
            assert watching.wait(TIMEOUT) == 0
            assert watching.stderr is not None
            assert watching.stderr.read() == ""

    @pytest.mark.parametrize(("command", "result", "code"), COMMANDS)
    @pytest.mark.parametrize("redirected", REDIRECTIONS)
    def test_no_stream_changes_the_result(
        self, shell: Shell, command: str, result: str, code: int, redirected: str
    ) -> None:
        words = [sys.executable, "-m", "bastion.supervisor", *command.split()]
        told = ["sh", "-c", f'exec "$@" {redirected}', "sh", *words]
        with shell.supervisor(result):
            done = subprocess.run(
                told,
                cwd=shell.directory,
                env=shell.environ,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        assert (done.returncode, "Traceback" in done.stdout + done.stderr) == (code, False), done

    @pytest.mark.parametrize("command", ["status", "reload", "rollback", "stop"])
    def test_no_supervisor_is_exit_3_with_the_path_and_what_to_do(self, shell: Shell, command: str) -> None:
        done = shell.run(command)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith(f"supervisor: no supervisor answers at {shell.socket}: there is no such socket")
        assert "supervisor run" in done.stderr

    @pytest.mark.parametrize("command", ["status", "reload", "stop", "run"])
    @pytest.mark.parametrize("content", ["[bot", "[control]\nsocket = 3"])
    def test_a_bad_file_is_exit_78_for_every_command(self, shell: Shell, command: str, content: str) -> None:
        (shell.directory / "bastion.toml").write_text(content)
        done = shell.run(command)
        assert (done.returncode, done.stdout) == (78, "")
        assert done.stderr.startswith(f"supervisor: {shell.directory}/bastion.toml: ")

    @pytest.mark.parametrize("command", ["status", "reload", "stop", "run"])
    def test_a_named_file_that_is_missing_is_exit_78(self, shell: Shell, command: str) -> None:
        done = shell.run(command, "--config", "nope.toml")
        assert done.returncode == 78
        assert "nope.toml: no such file (named by --config)" in done.stderr

    @pytest.mark.parametrize("arguments", [["dance"], ["status", "--loud"], ["reload", "extra"], []])
    def test_wrong_usage_is_exit_2(self, shell: Shell, arguments: list[str]) -> None:
        assert shell.run(*arguments).returncode == 2

    @pytest.mark.parametrize("command", ["run", "reload", "rollback", "status", "stop", "check", "demo"])
    def test_every_command_has_help_with_the_exit_codes(self, shell: Shell, command: str) -> None:
        done = shell.run(command, "--help")
        assert done.returncode == 0
        assert "--config" in done.stdout
        assert "78" in done.stdout


class TestRun:
    def test_every_bad_setting_is_said_at_once_with_exit_78(self, shell: Shell) -> None:
        shell.configure('[bot]\nshards = 0\napp = "x"')
        done = shell.run("run")
        assert done.returncode == 78
        assert "bot.shards = 0" in done.stderr
        assert "bot.app = 'x'" in done.stderr
        assert "No bot was started" in done.stderr

    def test_no_token_is_exit_78_with_the_three_ways(self, shell: Shell) -> None:
        del shell.environ["DISCORD_TOKEN"]
        done = shell.run("run")
        assert done.returncode == 78
        for way in ("DISCORD_TOKEN", "discord.token_file", "LoadCredential=discord_token"):
            assert way in done.stderr

    def test_a_second_one_is_refused_with_exit_1_and_the_first_goes_on(self, shell: Shell) -> None:
        with shell.supervisor() as first:
            done = shell.run("run")
            assert done.returncode == 1
            assert f"another supervisor (pid {first.pid}) answers at {shell.socket}" in done.stderr
            assert shell.run("status").returncode == 0

    def test_an_app_that_is_not_there_is_exit_78_with_the_reason_last(self, shell: Shell) -> None:
        shell.configure('[bot]\ndirectory = "gone"')
        done = shell.run("run")
        assert done.returncode == 78
        assert f"supervisor: bot.directory: {shell.directory}/gone: No such file" in done.stderr.splitlines()[-2]

    def test_a_program_that_is_not_there_is_exit_78_though_the_file_names_an_app(self, shell: Shell) -> None:
        shell.configure('[bot]\napp = "my:bot"\n[health]\nlisten = ""')
        done = shell.run("run", "main.py", "--", "--fast")
        assert done.returncode == 78
        assert f"supervisor: bot.program: {shell.directory}/main.py: No such file" in done.stderr.splitlines()[-2]
        said = f"main.py runs, as the command line says: bot.program and bot.app in {shell.directory}/bastion.toml do"
        assert said in done.stdout

    def test_without_a_settings_file_a_program_is_looked_for_in_the_current_directory(self, shell: Shell) -> None:
        (shell.directory / "bastion.toml").unlink()
        shell.environ["RUNTIME_DIRECTORY"] = str(shell.directory)
        (shell.directory / "main.py").mkdir()
        done = shell.run("run", "main.py")
        assert done.returncode == 78
        assert f"supervisor: bot.program: {shell.directory}/main.py: is a directory" in done.stderr

    def test_that_the_bot_that_ships_runs_is_a_line_of_the_log(self, shell: Shell) -> None:
        shell.configure('[bot]\ndirectory = "gone"\n[health]\nlisten = ""')
        assert shell.run("run").stderr.count("neither bot.program nor bot.app is set: the bot that ships runs") == 1
        shell.configure('[bot]\ndirectory = "gone"\napp = "bot.bastion:create"\n[health]\nlisten = ""')
        assert 'write "bastion.bot.bastion:create"' in shell.run("run").stderr

    @pytest.mark.parametrize("command", ["run", "check"])
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (("main.py", "-m", "mybot"), "name one of them; arguments of the program go behind --"),
            (("",), "PROGRAM is empty"),
            (("-m", ""), "PROGRAM is empty"),
            (("main.py", "fast"), "unexpected extra argument"),
            (("main.py", "--fast"), "No such option"),
        ],
    )
    def test_what_names_no_single_program_is_wrong_usage(
        self, shell: Shell, command: str, words: tuple[str, ...], said: str
    ) -> None:
        done = shell.run(command, *words)
        assert done.returncode == 2
        assert said in done.stderr

    @pytest.mark.parametrize("command", ["run", "check"])
    def test_a_module_that_cannot_be_one_is_exit_78(self, shell: Shell, command: str) -> None:
        done = shell.run(command, "-m", "my-bot")
        assert done.returncode == 78
        assert "the command line: '-m my-bot': allowed is a file such as" in done.stdout + done.stderr

    @pytest.mark.parametrize("end", ["stop", "kill"])
    def test_with_a_sandbox_it_needs_no_token_and_leaves_no_process_however_it_ends(
        self, shell: Shell, end: str
    ) -> None:
        def is_active() -> bool:
            children = json.loads(shell.run("status", "--json").stdout or "{}").get("children", [])
            return any(child["role"] == "active" and child["active_at"] for child in children)

        del shell.environ["DISCORD_TOKEN"]
        shell.configure('[health]\nlisten = ""')
        log = (shell.directory / "log").open("w")
        with log, shell.start("run", "--sandbox", stderr=log.fileno()) as process:
            assert process.stdout is not None
            assert f"(pid {process.pid}), control socket {shell.socket}" in process.stdout.readline()
            wait_until(is_active)
            started = psutil.Process(process.pid).children(recursive=True)
            assert len(started) == 2  # the sandbox and the bot
            if end == "stop":
                assert shell.run("stop").returncode == 0
                assert process.wait(TIMEOUT) == 0
            else:
                process.kill()
            wait_until(lambda: not any(child.is_running() for child in started))


ANSWER: dict[str, object] = {
    "problem": "",
    "note": "",
    "kind": "Bot",
    "intents": 513,
    "uses": [],
    "skipped": [],
    "program": "",
}
"""What the release's interpreter says of an app."""


class TestCheck:
    @pytest.fixture
    def interpreter(self, shell: Shell) -> Path:
        """A program in the interpreter's place: it notes how it was called and does what `behave` says."""
        path = shell.directory / "python"
        path.write_text(f'#!/bin/sh\necho "$@" > {shell.directory}/called\n. {shell.directory}/behave\n')
        path.chmod(0o755)
        self.answer(shell)
        shell.configure('[bot]\napp = "my:bot"\npython = "./python"')
        return path

    def answer(self, shell: Shell, **changes: object) -> None:
        """Have the interpreter answer so."""
        (shell.directory / "behave").write_text(f"cat <<'END'\n{json.dumps(ANSWER | changes)}\nEND\n")

    def test_each_thing_that_is_right_is_a_line(self, shell: Shell, interpreter: Path) -> None:
        done = shell.run("check")
        assert (done.returncode, done.stderr) == (0, "")
        assert (
            "token        there is one of 5 characters, Discord's have some 60 or more: the log does not mask it"
            in (done.stdout)
        )
        assert [line.split()[:2] for line in done.stdout.splitlines()] == [
            ["OK", name] for name in ("settings", "token", "directory", "interpreter", "app", "socket")
        ]
        assert "my:bot: Bot, intents 513" in done.stdout
        called = (shell.directory / "called").read_text()
        options = f"--directory {shell.directory} --app=my:bot --withheld=DISCORD_TOKEN"
        assert called == f"{LAUNCHER} check {options} --\n"
        assert not shell.socket.parent.exists()

    def test_without_an_import_it_says_what_an_import_would_show(self, shell: Shell, interpreter: Path) -> None:
        self.answer(shell, kind="", intents=None)
        done = shell.run("check")
        assert done.returncode == 0
        assert "OK    app          my:bot: is there; `check --import` imports it, and says class and" in done.stdout

    def test_the_app_is_imported_only_if_asked_and_without_the_token(self, shell: Shell, interpreter: Path) -> None:
        release = shell.directory / "release"
        release.mkdir()
        (shell.directory / "token").write_text("d.e.f\n")
        shell.environ |= {"MY_TOKEN": "d.e.f", "OTHER": "kept"}
        shell.configure(
            f'[bot]\napp = "my:bot"\npython = "{interpreter}"\ndirectory = "release"\nargs = ["--need", "x"]\n'
            '[discord]\ntoken_file = "token"'
        )
        del shell.environ["DISCORD_TOKEN"]
        behave = shell.directory / "behave"
        behave.write_text(f"pwd > seen\nenv > environ\n{behave.read_text()}")
        done = shell.run("check", "--import")
        assert done.returncode == 0, done.stdout
        called = (shell.directory / "called").read_text()
        assert called.endswith(
            f"--directory {release} --app=my:bot --withheld=DISCORD_TOKEN,MY_TOKEN --import -- --need x\n"
        )
        assert (release / "seen").read_text() == f"{release}\n", "its directory is the working directory"
        environ = (release / "environ").read_text()
        assert "OTHER=kept" in environ
        assert "d.e.f" not in environ

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            (
                '[health]\nlisten = "unix:/nope/health.sock"',
                "FAIL  health       health.listen: /nope/health.sock cannot",
            ),
            ('[health]\nlisten = "203.0.113.1:80"', "FAIL  health       health.listen: nothing can listen at"),
            ('[ledger]\npath = "/nope/ledger"', "FAIL  ledger       ledger.path: there is no directory /nope"),
            ('[ledger]\npath = "/proc/ledger"', "FAIL  ledger       ledger.path: /proc is not writable"),
        ],
    )
    def test_a_place_that_cannot_be_used_is_named(
        self, shell: Shell, interpreter: Path, settings: str, said: str
    ) -> None:
        shell.configure(f'[bot]\napp = "my:bot"\npython = "./python"\n{settings}')
        done = shell.run("check")
        assert done.returncode == 78
        assert said in done.stdout

    def test_what_concerns_a_handoff_is_a_line_with_its_places_and_advice(
        self, shell: Shell, interpreter: Path
    ) -> None:
        use = {"what": "loops", "places": [f"app.py:{line}" for line in range(5)], "advice": "nothing to do"}
        self.answer(shell, uses=[use])
        done = shell.run("check")
        assert done.returncode == 0
        assert "OK    uses         loops (app.py:0, app.py:1, app.py:2 and 2 more): nothing to do" in done.stdout

    def test_what_an_app_leaves_out_is_a_line_with_the_program_that_does_it(
        self, shell: Shell, interpreter: Path
    ) -> None:
        self.answer(shell, skipped=["main.py:3 bot.load_extension", "main.py:4 bot.pool ="], program="main.py")
        done = shell.run("check")
        assert done.returncode == 0
        assert (
            "OK    skipped      my:bot is started without what its own program does (main.py:3 bot.load_extension, "
            'main.py:4 bot.pool =): bot.program = "main.py" runs it'
        ) in done.stdout

    def test_an_app_that_cannot_be_imported_is_named_with_the_reason(self, shell: Shell, interpreter: Path) -> None:
        self.answer(shell, problem="ModuleNotFoundError: No module named 'x' (my.py:3)")
        behave = shell.directory / "behave"
        behave.write_text(f"echo Traceback... >&2\n{behave.read_text()}exit 78\n")
        done = shell.run("check")
        assert done.returncode == 78
        assert "FAIL  app          my:bot: ModuleNotFoundError: No module named 'x' (my.py:3)\n" in done.stdout

    @pytest.mark.parametrize(
        ("behaviour", "said"),
        [
            ("echo", "my:bot: the check gave no answer: it ended with 0"),
            ("echo []", "my:bot: the check gave no answer"),
            ("echo '{\"kind\": 3}'", "my:bot: the check gave no answer"),
            ("kill -SEGV $$", "my:bot: the check gave no answer: ended by SIGSEGV"),
            ("echo worse >&2; echo bad >&2; exit 3", "my:bot: the check gave no answer: bad"),
            ("echo \"$0: No module named 'bastion'\" >&2; exit 1", "has no bastion of this version: install it into"),
        ],
    )
    def test_an_answer_that_is_none_is_a_failure(
        self, shell: Shell, interpreter: Path, behaviour: str, said: str
    ) -> None:
        (shell.directory / "behave").write_text(behaviour)
        done = shell.run("check")
        assert done.returncode == 78
        assert "FAIL  app" in done.stdout
        assert said in done.stdout

    def test_an_interpreter_that_cannot_be_run_is_named(self, shell: Shell, interpreter: Path) -> None:
        interpreter.write_text("#!/nope\n")
        done = shell.run("check")
        assert done.returncode == 78
        assert f"FAIL  app          {interpreter} cannot be run: No such file or directory" in done.stdout

    def test_an_interpreter_that_is_missing_is_named(self, shell: Shell) -> None:
        shell.configure('[bot]\npython = "nowhere/python"')
        done = shell.run("check")
        assert done.returncode == 78
        assert f"{shell.directory}/nowhere/python" in done.stdout

    def test_a_program_on_the_command_line_is_looked_at_as_run_would(self, shell: Shell) -> None:
        done = shell.run("check", "gone.py")
        assert done.returncode == 78
        assert f"FAIL  release      bot.program: {shell.directory}/gone.py: No such file or directory" in done.stdout

    def test_that_the_bot_that_ships_would_run_is_a_line(self, shell: Shell) -> None:
        shell.configure('[bot]\ndirectory = "gone"')
        assert "OK    bot          neither bot.program nor bot.app is set: the bot that ships runs" in (
            shell.run("check").stdout
        )

    def test_a_program_needs_no_token_in_the_settings(self, shell: Shell) -> None:
        del shell.environ["DISCORD_TOKEN"]
        assert "OK    token        the settings have none: the program must have its own" in (
            shell.run("check", "gone.py").stdout
        )

    def test_who_holds_the_port_of_health_is_named(self, shell: Shell, interpreter: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            listen = f'[health]\nlisten = "127.0.0.1:{port}"'
            shell.configure(f'[bot]\napp = "my:bot"\npython = "./python"\n{listen}')
            done = shell.run("check")
        assert done.returncode == 0
        assert f"OK    health       health.listen: pid {os.getpid()} (" in done.stdout

    def test_a_missing_directory_and_token_are_both_named(self, shell: Shell) -> None:
        shell.configure('[bot]\ndirectory = "gone"')
        del shell.environ["DISCORD_TOKEN"]
        done = shell.run("check")
        assert done.returncode == 78
        assert [line.split()[1] for line in done.stdout.splitlines() if line.startswith("FAIL")] == ["token", "release"]

    def test_a_socket_directory_open_to_others_is_named(self, shell: Shell, interpreter: Path) -> None:
        shell.socket.parent.mkdir()
        shell.socket.parent.chmod(0o777)
        done = shell.run("check")
        assert done.returncode == 78
        assert "FAIL  socket" in done.stdout
        assert "open to other users" in done.stdout
