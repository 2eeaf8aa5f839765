"""``supervisor check`` inside the release's interpreter: looks at a program or an app, and says what it found.

Reads source, and executes nothing of the release's. With ``--import`` the module `trial` executes the import. The
answer is one JSON object on stdout; prints of imported code go to stderr. Connects to nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NoReturn, TextIO

from bastion.bot import skipped, sources, survey
from bastion.wire import EXIT_CONFIG


@dataclass(slots=True, kw_only=True)
class Answer:
    """The result of looking at a program or an app."""

    problem: str = ""
    """Why the program cannot run; "" if no reason is known."""
    note: str = ""
    """A remark about the import."""
    kind: str = ""
    """The client's class in discord.py; "" for an unknown one."""
    intents: int | None = None
    uses: list[dict[str, object]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    """Places of the app's own program that `bot.app` leaves out, each as "file:line name"."""
    program: str = ""
    """The `bot.program` that leaves nothing out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A program or an app to look at: ``program`` or ``app`` is empty."""

    directory: Path
    program: str
    app: str
    path: tuple[str, ...]
    """The directories of PYTHONPATH; this interpreter was started without them."""
    withheld: tuple[str, ...]
    """Names of the variables that hold a token. The environment lacks them here."""
    args: tuple[str, ...]


def main(argv: Sequence[str]) -> int:
    """Look, print the answer and return 0, or 78 if there is a problem; with ``--import`` the process ends here."""
    parsed = _parser().parse_args(argv)
    asked = Asked(
        directory=parsed.directory.resolve(),
        program=parsed.program,
        app=parsed.app,
        path=tuple(entry for entry in parsed.path.split(os.pathsep) if entry),
        withheld=tuple(parsed.withheld.split(",")),
        args=tuple(parsed.args),
    )
    stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with stdout:
        answer = looked_at(asked)
        if parsed.imported and not answer.problem:
            _import(asked, answer, stdout)
        print(json.dumps(asdict(answer)), file=stdout)
    return EXIT_CONFIG if answer.problem else 0


def looked_at(asked: Asked) -> Answer:
    """Look at the source."""
    try:
        source = _source(asked)
        if PathFinder.find_spec("discord", [str(asked.directory), *asked.path, *sys.path]) is None:
            raise sources.SourceError(f"{sys.executable} has no discord.py: install it into that environment")
    except sources.SourceError as error:
        return Answer(problem=str(error))
    found, program = skipped.skipped(source, asked.app, asked.directory) if asked.app else ([], "")
    return Answer(uses=_uses(source, asked.directory), skipped=[str(one) for one in found], program=program)


def _source(asked: Asked) -> sources.Source:
    if asked.program:
        return sources.program(asked.program, directory=asked.directory, path=asked.path)
    source = sources.app(asked.app, directory=asked.directory, path=asked.path)
    if source.tree and (line := skipped.starts_when_imported(source.tree, asked.app.partition(":")[2])):
        assert source.file is not None
        place = f"{sources.shown_as(source.file, asked.directory)}:{line}"
        raise sources.SourceError(
            f'bot.app = "{asked.app}": {source.module} runs the bot when it is imported ({place}); move that under '
            '`if __name__ == "__main__":`, or name the file in bot.program'
        )
    return source


def _uses(source: sources.Source, directory: Path) -> list[dict[str, object]]:
    found = survey.by_kind(survey.survey(_surveyed(source, directory)))
    return [{"what": what, "places": places, "advice": survey.ADVICE[what]} for what, places in found.items()]


def _surveyed(source: sources.Source, directory: Path) -> Path:
    """Return the directory with the program's files: the release, or the directory of a module outside the release."""
    file = source.file
    if file is None or (file.is_relative_to(directory) and survey.is_looked_at(file, directory)):
        return directory
    return file.parent if (file.parent / "__init__.py").is_file() else file


def _import(asked: Asked, answer: Answer, stdout: TextIO) -> NoReturn:
    """Import the program or app, answer, and end this process without waiting for threads of the import."""
    from bastion.bot import trial

    once = threading.Lock()

    def finish(outcome: trial.Outcome) -> NoReturn:
        once.acquire()  # never released: the second caller waits until the process ends
        answer.problem, answer.note = outcome.problem, outcome.note
        answer.kind, answer.intents = outcome.kind, outcome.intents
        print(json.dumps(asdict(answer)), file=stdout, flush=True)
        sys.stderr.flush()
        os._exit(EXIT_CONFIG if outcome.problem else 0)

    finish(trial.imported(asked, hurried=finish))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="supervisor check", description="Part of `supervisor check`.")
    parser.add_argument("--directory", type=Path, required=True, help="the release")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--program", default="")
    what.add_argument("--app", default="", metavar="MODULE:ATTRIBUTE")
    parser.add_argument("--import", dest="imported", action="store_true", help="import it; it cannot log in")
    parser.add_argument("--path", default="", help="what PYTHONPATH is to be")
    parser.add_argument("--withheld", default="DISCORD_TOKEN", help="variables that are left out, with commas")
    parser.add_argument("args", nargs="*")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
