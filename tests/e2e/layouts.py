"""The programs of tests/apps/programs: their command lines, their answers, their long-lived threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rig import APPS

PROGRAMS = APPS / "programs"
KEPT = {"name": "kept", "type": 1, "description": "Registered before any bot was started"}
"""A command of an earlier version of the bot. A program without a sync must not remove the command."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """One layout."""

    name: str
    words: tuple[str, ...] = ("main.py",)
    """The words behind `supervisor run`: the program and, behind ``--``, its arguments."""
    args: tuple[str, ...] = ()
    """The settings' bot.args: the second way to give arguments to a program."""
    says: tuple[str, ...] = ("!ping",)
    """Messages that the program answers."""
    commands: tuple[str, ...] = ("hello",)
    """Names of the commands that the program registers; empty: the program has no sync."""
    of_guild: bool = False
    """Whether the commands belong to one guild, the guild in the variable GUILD."""
    mix: Mapping[str, float] = field(default_factory=dict)
    """Further kinds of events that the program handles, with their share of the traffic."""
    own_token: bool = False
    """Whether the program has a token of its own, and DISCORD_TOKEN is not set."""
    cleans_up: bool = True
    """Whether the program has a clean-up, and marks the end of it."""
    holds: str = ""
    """The thread that keeps the process when main() has ended, by the name in the log."""
    needs: str = ""
    """A module that may be missing. Then the program is skipped."""
    since: tuple[int, int] = (3, 11)
    """The oldest Python that the program supports."""
    quick: bool = False
    """Whether the fast suite runs the program."""

    @property
    def directory(self) -> Path:
        return PROGRAMS / self.name

    @property
    def source(self) -> str:
        """The file that Python executes, below the directory."""
        return f"{self.words[1]}/__main__.py" if self.words[0] == "-m" else self.words[0]

    def traffic(self) -> dict[str, float]:
        """A mix of events that the program answers and of events that the program ignores."""
        mix = {"message": 1.0, "reaction_add": 1.0, "typing": 1.0} | dict(self.mix)
        if self.says:
            mix["command_message"] = 4.0
        if self.commands:
            mix["slash"] = 4.0
        return mix

    def kinds(self) -> set[str]:
        """Kinds of events that the program must handle."""
        return {*self.mix, *(["command_message"] if self.says else []), *(["slash"] if self.commands else [])}


PING = ("ping",)

LAYOUTS = [
    Program(name="cogs_main", says=("!ping", "!roll"), commands=("hello", "dice"), quick=True),
    Program(name="plain_run", commands=(), own_token=True, quick=True),
    Program(name="guarded_run", commands=PING, own_token=True, quick=True),
    Program(name="in_coroutine", commands=PING),
    Program(name="own_run"),
    Program(name="own_start", commands=PING),
    Program(name="own_close", commands=PING),
    Program(name="close_raises", commands=PING),
    Program(name="click_launcher", words=("main.py", "--", "serve", "--prefix", "!"), commands=()),
    Program(name="argparse_launcher", args=("production", "--prefix", "!"), commands=()),
    Program(name="init_at_import", commands=()),
    Program(name="own_loop"),
    Program(name="uvloop_policy", commands=("echo",), needs="uvloop"),
    Program(name="uvloop_run", needs="uvloop"),
    Program(name="own_logging", commands=()),
    Program(name="setup_logging", commands=()),
    Program(name="database_open", says=("!count",), commands=("count",), holds="database"),
    Program(name="web_thread", holds="keep-alive"),
    Program(name="own_signals"),
    Program(name="popen_restart"),
    Program(name="exec_restart"),
    Program(name="run_forever", commands=PING),
    Program(name="pool_spawn", says=("!dice",), commands=("dice",)),
    Program(name="pool_forkserver", says=("!dice",), commands=("dice",)),
    Program(name="pool_fork", says=("!square",), commands=("square",)),
    Program(name="system_child"),
    Program(name="busy_thread", holds="asyncio_0"),
    Program(name="loop_subprocess", says=("!echo",), commands=("echo",)),
    Program(name="package_main", words=("-m", "mybot"), quick=True),
    Program(name="package_bare", words=("-m", "mybot")),
    Program(name="folder_main", words=("src/main.py",)),
    Program(name="rest_first"),
    Program(name="login_connect"),
    Program(name="in_thread"),
    Program(name="at_exit"),
    Program(name="source_of", says=("!source",), commands=("source",)),
    Program(name="eager_tasks", since=(3, 12)),
    Program(name="sharded_run"),
]

EXAMPLES = [
    Program(
        name="example_basic_bot",
        says=("?add 2 3", "?choose this that", "?cool ice", "?cool bot"),
        commands=(),
        own_token=True,
        cleans_up=False,
    ),
    Program(
        name="example_app_commands",
        says=(),
        commands=("hello", "joined", "Show Join Date"),
        of_guild=True,
        own_token=True,
        cleans_up=False,
    ),
    Program(name="example_background_task", says=(), commands=(), own_token=True, cleans_up=False),
    Program(
        name="example_counter", says=("!counter",), commands=(), mix={"button": 3.0}, own_token=True, cleans_up=False
    ),
    Program(
        name="example_modal",
        says=(),
        commands=("feedback",),
        of_guild=True,
        mix={"modal": 2.0},
        own_token=True,
        cleans_up=False,
    ),
    Program(name="example_reply", says=("!hello",), commands=(), own_token=True, cleans_up=False),
    Program(name="example_guessing_game", says=("$guess",), commands=(), own_token=True, cleans_up=False),
    Program(name="example_new_member", says=(), commands=(), mix={"member_join": 3.0}, own_token=True, cleans_up=False),
]
