"""What the launcher calls for each generation, and ``python -m bastion.bot sync`` by hand.

Reads the command line and puts the program's folder first on the import path. Only then is discord.py imported, for the
program may bring one of its own.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bastion import old_names
from bastion.bot import program
from bastion.wire import EXIT_CONFIG

if TYPE_CHECKING:
    from bastion.bot.runtime import Options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bastion.bot",
        description="One bot process under the supervisor. Not meant to be started by hand.",
    )
    parser.add_argument("--program", default="", metavar="FILE, or -m MODULE")
    parser.add_argument("--app", default="", metavar="MODULE:ATTRIBUTE")
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="the release")
    parser.add_argument("--generation", type=int, default=0)
    parser.add_argument("--shards", default="auto", type=lambda text: text if text == "auto" else int(text))
    parser.add_argument("--role", choices=["active", "standby"], default="active")
    parser.add_argument("--ledger", default="")
    parser.add_argument("--left", default="", help="what the paths begin with of what it leaves for its successor")
    parser.add_argument("--state-timeout", type=float, default=2.0, help="seconds")
    parser.add_argument("--checkpoint", type=float, default=60.0, help="seconds between two; 0: none")
    parser.add_argument("--supervisor", type=int, default=0, help="its number among those who share the ledger")
    parser.add_argument("--api-url", default="https://discord.com/api/v10")
    parser.add_argument("--expired-text", default="", help="answer for a control that nothing knows any more")
    parser.add_argument("args", nargs="*")
    return parser


def main(argv: Sequence[str] | None = None, *, read: int = -1, write: int = -1, unread: bytes = b"") -> int:
    """Run one child on the supervisor's two pipes. Returns its exit code.

    It is 78 where no second try can help, else the one that the program would have alone.
    """
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] == "sync":
        return _sync(words[1:])
    if read < 0 or write < 0:
        print("python -m bastion.bot is started by the supervisor: use `supervisor run`", file=sys.stderr)
        return 2
    parsed = _parser().parse_args(words)
    parsed.directory = parsed.directory.resolve()
    program.go_first_on_path(parsed.program, parsed.directory)
    _log_to_stderr()
    from bastion.bot.runtime import Runtime

    runtime = Runtime(_options(parsed, read=read, write=write))
    if not runtime.begin(unread):
        return 1
    code = runtime.ending.run(lambda: _run(parsed, runtime.remark), runtime.ended)
    return EXIT_CONFIG if runtime.hopeless else code


def _sync(words: Sequence[str]) -> int:
    from bastion.streams import Streams

    streams = Streams()
    from bastion.bot.byhand import sync

    try:
        return sync(words)
    finally:
        streams.finish("python -m bastion.bot sync")


def _run(parsed: argparse.Namespace, remark: Callable[[str], None]) -> None:
    """Run the program, or the small one of ours that starts an app."""
    from bastion.bot import apps

    old_names.install()
    program.give_way()
    if parsed.program:
        program.run(parsed.program, directory=parsed.directory, args=parsed.args)
    else:
        apps.run(parsed.app, directory=parsed.directory, args=parsed.args, remark=remark)


def _options(parsed: argparse.Namespace, *, read: int, write: int) -> Options:
    from bastion.bot.carry import Limits
    from bastion.bot.runtime import Options

    return Options(
        generation=parsed.generation,
        app=parsed.app,
        program=parsed.program,
        shards=parsed.shards,
        standby=parsed.role == "standby",
        ledger=parsed.ledger,
        left=parsed.left,
        state=Limits(timeout=parsed.state_timeout, checkpoint=parsed.checkpoint),
        api_url=parsed.api_url,
        read_fd=read,
        write_fd=write,
        directory=parsed.directory,
        args=parsed.args,
        expired_text=parsed.expired_text,
        supervisor=parsed.supervisor,
    )


def _log_to_stderr() -> None:
    """Log what this package has to say, and leave the root logger to the program."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("bastion")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


if __name__ == "__main__":
    sys.exit(main())
