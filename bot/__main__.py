"""``python -m bastion.bot``: what the supervisor starts for each generation; ``python -m bastion.bot sync`` by hand.

Reads the command line, nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import discord

from bastion.bot import apps, byhand, internals, survey
from bastion.bot.carry import Limits
from bastion.bot.runtime import Options, Runtime
from bastion.wire import EXIT_CONFIG


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bastion.bot",
        description="One bot process under the supervisor. Not meant to be started by hand.",
    )
    parser.add_argument("--app", required=True, metavar="MODULE:ATTRIBUTE")
    parser.add_argument("--directory", type=Path, default=Path.cwd(), help="the release")
    parser.add_argument("--check", action="store_true", help="load the app, say what it is, and exit")
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


def _check(app: str, directory: Path, args: Sequence[str]) -> int:
    async def load() -> discord.Client:
        return apps.load(app, directory=directory, args=args)

    answer = os.fdopen(os.dup(1), "w")  # an app may print, now or when the interpreter ends: that goes to stderr
    os.dup2(2, 1)
    try:
        client = asyncio.run(load())
    except apps.AppError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    kind = next(base.__name__ for base in type(client).__mro__ if base.__module__.startswith("discord."))
    uses = [
        {"what": what, "places": places, "advice": survey.ADVICE[what]}
        for what, places in survey.by_kind(survey.survey(_source(app, directory.resolve()))).items()
    ]
    with answer:
        print(json.dumps({"class": kind, "intents": internals.intents(client).value, "uses": uses}), file=answer)
    return 0


def _source(app: str, directory: Path) -> Path:
    """Return where the app's files are: the release, or where else its module came from."""
    file = Path(getattr(sys.modules[app.partition(":")[0]], "__file__", None) or directory)
    return directory if file.is_relative_to(directory) and survey.is_looked_at(file, directory) else file.parent


def main(argv: Sequence[str] | None = None) -> int:
    """Run one child. Returns its exit code: 0 drained and closed, 78 the app or token cannot be used, else 1."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] == "sync":
        return byhand.sync(words[1:])
    parsed = _parser().parse_args(words)
    if parsed.check:
        return _check(parsed.app, parsed.directory, parsed.args)
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
