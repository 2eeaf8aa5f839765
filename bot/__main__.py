"""``python -m bastion.bot``: what the supervisor starts for each generation; ``python -m bastion.bot sync`` by hand.

Reads the command line, nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bastion.bot import byhand
from bastion.bot.carry import Limits
from bastion.bot.runtime import Options, Runtime


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bastion.bot",
        description="One bot process under the supervisor. Not meant to be started by hand.",
    )
    parser.add_argument("--app", required=True, metavar="MODULE:ATTRIBUTE")
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="the release")
    parser.add_argument("--generation", type=int, default=0)
    parser.add_argument("--shards", default="auto", type=lambda text: text if text == "auto" else int(text))
    parser.add_argument("--role", choices=["active", "standby"], default="active")
    parser.add_argument("--ledger", default="")
    parser.add_argument("--state-timeout", type=float, default=Limits().timeout, help="seconds")
    parser.add_argument("--checkpoint", type=float, default=Limits().checkpoint, help="seconds between two; 0: none")
    parser.add_argument("--supervisor", type=int, default=0, help="its number among those who share the ledger")
    parser.add_argument("--api-url", default="https://discord.com/api/v10")
    parser.add_argument("--expired-text", default="", help="answer for a control that nothing knows any more")
    parser.add_argument("--read", type=int, default=-1, help="file descriptor of the commands")
    parser.add_argument("--write", type=int, default=-1, help="file descriptor of the answers")
    parser.add_argument("args", nargs="*")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one child. Returns its exit code: 0 drained and closed, 78 the app or token cannot be used, else 1."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] == "sync":
        return byhand.sync(words[1:])
    parsed = _parser().parse_args(words)
    if parsed.read < 0 or parsed.write < 0:
        print("python -m bastion.bot is started by the supervisor: use `supervisor run`", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    os.environ["BASTION_GENERATION"] = str(parsed.generation)
    options = Options(
        generation=parsed.generation,
        app=parsed.app,
        shards=parsed.shards,
        standby=parsed.role == "standby",
        ledger=parsed.ledger,
        state=Limits(timeout=parsed.state_timeout, checkpoint=parsed.checkpoint),
        api_url=parsed.api_url,
        read_fd=parsed.read,
        write_fd=parsed.write,
        directory=parsed.directory.resolve(),
        args=parsed.args,
        expired_text=parsed.expired_text,
        supervisor=parsed.supervisor,
    )
    return asyncio.run(Runtime(options).run(os.environ.get("DISCORD_TOKEN", "")))


if __name__ == "__main__":
    sys.exit(main())
