"""The command line: names, flags, exit codes and messages.

Knows how to ask a running supervisor and how to start one; decides nothing about bots. What a command needs is imported
when it runs, so that `status` is quick and a broken part stops only the commands that need it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import click

from bastion.streams import Streams
from bastion.supervisor.entry import Named
from bastion.supervisor.location import SettingsError, locate_socket
from bastion.supervisor.printable import escaped, wants_colour
from bastion.supervisor.reading import UnansweredError

_EPILOG = (
    "Exit codes: 0 done; 1 it did not succeed, and the old bot still serves where there was one; 2 usage; 3 no "
    "supervisor answers at that socket; 78 configuration: file, token, program; 130 Ctrl-C: what was asked goes on."
)

_F = TypeVar("_F", bound=Callable[..., Any])


class _Failure(click.ClickException):
    """Ends the command with some lines on stderr: it did not succeed."""

    exit_code = 1

    def __init__(self, *lines: str) -> None:
        """Take the lines. What a line quotes may hold anything, but makes no other one."""
        self._lines = [escaped(line) for line in lines]
        super().__init__("\n".join(self._lines))

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the lines, each marked as ours."""
        for line in self._lines:
            click.echo(f"supervisor: {line}", file=file or sys.stderr)


class _NoSupervisor(_Failure):
    """Nobody answers at the control socket."""

    exit_code = 3


class _BadConfiguration(_Failure):
    """File, token or program: EX_CONFIG of sysexits.h."""

    exit_code = 78


class _Interrupted(_Failure):
    """Ctrl-C in a client: 128 + SIGINT, as shells say it."""

    exit_code = 130


def _with_config(command: _F) -> _F:
    return click.option(
        "--config",
        type=Path,  # click's own looks at the file, and waits for its disk
        metavar="FILE",
        help="Settings file. Default: $BASTION_CONFIG, ./bastion.toml, /etc/bastion/bastion.toml.",
    )(command)


class _OfAProgram(click.Command):
    """A command that takes PROGRAM, -m MODULE and, behind ``--``, the program's own arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep what is behind ``--`` from being read as ours."""
        end = args.index("--") if "--" in args else len(args)
        ctx.meta[_ARGS] = tuple(args[end + 1 :]) if end < len(args) else None
        return super().parse_args(ctx, args[:end])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """Add what is behind ``--`` to the usage line."""
        return [*super().collect_usage_pieces(ctx), "[-- ARGS...]"]


class _RunCommand(_OfAProgram):
    """The command that a container's engine runs, and runs again when it has failed."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the command line; one that is wrong is wrong at the next start as well."""
        with _unhurried():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _unhurried():
            return super().invoke(ctx)


@contextmanager
def _unhurried() -> Iterator[None]:
    """Say at once why a start has failed; as PID 1 put the exit off."""
    try:
        yield
    except click.ClickException as failure:
        from bastion.supervisor import pause

        failure.show()
        pause.before_exit(failure.exit_code, tell=lambda line: click.echo(f"supervisor: {line}", err=True))
        sys.exit(failure.exit_code)


_ARGS = "bastion.args"


def _with_program(command: _F) -> _F:
    module = click.option("-m", "module", metavar="MODULE", help="Run a module, as `python -m` does.")
    return click.argument("program", required=False)(module(command))


def _named(program: str | None, module: str | None) -> Named:
    """Return what the command line names. Raises `click.UsageError`."""
    if "" in (program, module):
        raise click.UsageError("PROGRAM is empty")
    if program and module:
        raise click.UsageError(f"-m {module} and {program}: name one of them; arguments of the program go behind --")
    named = f"-m {module}" if module else program or ""
    return Named(program=named, args=click.get_current_context().meta[_ARGS])


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EPILOG)
@click.version_option(package_name="bastion-supervisor", prog_name="supervisor")
def cli() -> None:
    """Redeploy a discord.py bot without anyone noticing."""


@cli.command(cls=_RunCommand, epilog=_EPILOG, short_help="Run the bot under a supervisor, in the foreground.")
@_with_program
@_with_config
@click.option("--sandbox", is_flag=True, help="Run against a local Discord with light traffic; needs no token.")
@click.option(
    "--standby-since",
    metavar="TIMESTAMP",
    callback=lambda _context, _option, value: _timestamp(value),
    help="Deployed at this time (unix seconds, or ISO 8601 in UTC) beside another one that shares the ledger. Not "
    "needed any more: the bot waits for one that serves, whenever it was deployed.",
)
@click.option("--trial", metavar="FD", hidden=True)
def run(
    program: str | None,
    module: str | None,
    config: Path | None,
    sandbox: bool,
    standby_since: float | None,
    trial: str | None,
) -> None:
    """Run the bot under a supervisor, in the foreground.

    PROGRAM is what `python PROGRAM` would run, in the directory that bot.directory names: without a settings file, the
    current one. It wins over bot.program and bot.app, and ARGS over bot.args, at each reload too.

    SIGHUP reloads. SIGTERM and SIGINT let handlers finish, then stop; a second one stops at once. SIGUSR2 puts newly
    installed code and settings of the supervisor itself in place, while the bot serves, and reloads the bot.

    If the terminal goes away, as at the end of an ssh session, that is a SIGHUP too: the supervisor reloads, goes on
    without a terminal and its log, and ends on `supervisor stop`.
    """
    from bastion.supervisor.control import ControlError, PlaceError
    from bastion.supervisor.local_sandbox import SandboxError
    from bastion.supervisor.reexec import CarryError, failed, passed
    from bastion.supervisor.run import run as run_supervisor
    from bastion.supervisor.run import try_out
    from bastion.supervisor.writer import Writer

    named = _named(program, module)
    if trial is not None:  # asked for by a running supervisor: see `reexec`
        problem = try_out(environ=os.environ, descriptor=trial, named=named)
        click.echo(passed() if problem is None else failed(problem))
        return
    log = Writer(2)
    _streams().never_wait(log)
    with _settings_errors("No bot was started."):
        try:
            code, failure = run_supervisor(
                config,
                sandbox=sandbox,
                environ=os.environ,
                tell=click.echo,
                log=log,
                standby_since=standby_since,
                named=named,
            )
        except PlaceError as error:
            raise _BadConfiguration(f"{error} No bot was started.") from None
        except (ControlError, SandboxError) as error:
            raise _Failure(f"{error} No bot was started.") from None
        except CarryError as error:
            raise _Failure(f"{error}. The bots of the program before end now.") from None
        except UnansweredError as error:  # another try may help, so this is not an exit code that prevents it
            raise _Failure(f"{error}. No bot was started.") from None
    if failure:
        kind = _BadConfiguration if code == _BadConfiguration.exit_code else _Failure
        then = "No bot runs. Once this is mended, `supervisor check` looks at it without starting anything."
        raise kind(*failure.split("\n"), then)
    sys.exit(code)


def _timestamp(text: str | None) -> float | None:
    """Read a time. Raises `click.BadParameter`."""
    if text is None:
        return None
    import math
    from datetime import UTC, datetime

    try:
        seconds = float(text)
    except ValueError:
        try:
            read = datetime.fromisoformat(text)
            seconds = (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            seconds = math.nan
    if not math.isfinite(seconds):
        raise click.BadParameter(f"{text!r}: write unix seconds, or a time such as 2026-01-31T12:00:00Z")
    return seconds


class _Unswitched:
    """A reload to what the settings name already: there is no symlink to move back."""

    def undo(self) -> None:
        """Move the symlink back."""

    def left(self) -> None:
        """Say what the symlink names, for nobody knows yet what becomes of the reload."""


class _Switched(_Unswitched):
    """bot.directory names the release that was asked for."""

    def __init__(self, config: Path | None, release: Path) -> None:
        from bastion.supervisor.release import ReleaseError, switch
        from bastion.supervisor.settings import load

        meaning = "No supervisor was asked; a bot that runs is not affected."
        with _settings_errors(meaning):
            self._link = load(config, environ=os.environ, need_token=False).bot.directory
            try:
                self._switch = switch(self._link, release)
            except ReleaseError as error:
                raise _Failure(f"{error}. {meaning}") from None

    def undo(self) -> None:
        from bastion.supervisor.release import ReleaseError

        try:
            again = self._switch.undo()
        except (ReleaseError, SettingsError) as error:
            raise _Failure(f"{error}. It still names the release that did not make it.") from None
        end = f"names {self._switch.before} again" if again else "is left: somebody has moved it meanwhile"
        click.echo(escaped(f"supervisor: {self._link} {end}"), err=True)

    def left(self) -> None:
        text = (
            f"supervisor: {self._link} names {self._switch.after}. If the reload does not succeed, move it back: "
            f"ln -sfn {self._switch.before} {self._link}"
        )
        click.echo(escaped(text), err=True)


def _with_force(command: _F) -> _F:
    return click.option(
        "--force", is_flag=True, help="Do it though memory or today's IDENTIFYs may not suffice for a second bot."
    )(command)


@cli.command(epilog=_EPILOG, short_help="Move to a new bot process; end with the handoff's result.")
@_with_config
@_with_force
@click.option(
    "--release",
    type=Path,
    metavar="DIR",
    help="Have the symlink bot.directory name DIR first; if the reload does not succeed, it is moved back.",
)
@click.option("--no-wait", is_flag=True, help="Return once the reload is accepted; look at `status` for its result.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as one JSON object.")
def reload(config: Path | None, force: bool, release: Path | None, no_wait: bool, as_json: bool) -> None:
    """Move to a new bot process, and end with the handoff's own result.

    Exits with 0 when the new one serves, with 1 when the old one goes on serving.
    """
    from bastion.supervisor.control_client import Connection

    if release is not None and no_wait:
        raise click.UsageError("--release needs the result, to move the symlink back: it does not go with --no-wait")
    with _client_errors(config) as path, Connection(path) as connection:
        if no_wait:
            for _ in connection.ask("reload", wait=False, force=force):
                click.echo('{"accepted": true}' if as_json else "reload accepted: `supervisor status` shows its result")
                return
            raise connection.lost()
        link = _Unswitched() if release is None else _Switched(config, release)
        with _hangup_interrupts():
            _wait_for_outcome(connection, "reload", as_json=as_json, force=force, link=link)


@cli.command(epilog=_EPILOG, short_help="Go back to the release that served before this one.")
@_with_config
@_with_force
def rollback(config: Path | None, force: bool) -> None:
    """Move to a new bot process of the release that served before this one.

    Exits as `reload` does.
    """
    from bastion.supervisor.control_client import Connection

    with _client_errors(config) as path, Connection(path) as connection:
        _wait_for_outcome(connection, "rollback", as_json=False, force=force)


@contextmanager
def _hangup_interrupts() -> Iterator[None]:
    """Take the end of a terminal or of a CI job as Ctrl-C: who waits says what is left, as far as anybody reads it."""
    import signal

    taken = [one for one in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(one) is not signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, signal.default_int_handler) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for_outcome(
    connection: Any, command: str, *, as_json: bool, force: bool, link: _Unswitched | None = None
) -> None:
    """Show a handoff until it ends; exit with 1 unless it succeeded, whether or not anybody reads what is shown."""
    import json
    import time

    from bastion.supervisor.console import outcome_text
    from bastion.supervisor.control_client import NoSupervisorError, RefusedError

    link = link or _Unswitched()
    began = time.monotonic()
    try:
        outcome = _outcome(connection, command, as_json=as_json, force=force)
    except KeyboardInterrupt:
        link.left()
        raise _Interrupted(
            f"interrupted: the {command} goes on without you; `supervisor status` shows its result"
        ) from None
    except NoSupervisorError:
        link.left()
        raise
    except RefusedError:
        link.undo()
        raise
    succeeded = outcome.get("result") == "succeeded"
    text = outcome_text(outcome, command=command, seconds=time.monotonic() - began)
    click.echo(json.dumps(outcome) if as_json else text, err=not (as_json or succeeded))
    if not succeeded:
        link.undo()
    sys.exit(0 if succeeded else _Failure.exit_code)


def _outcome(connection: Any, command: str, *, as_json: bool, force: bool) -> dict[str, Any]:
    """Ask for a handoff, show its progress and return what became of it. Raises what the connection raises."""
    from bastion.supervisor.console import SilentView, reload_view

    outcome: dict[str, Any] | None = None
    with SilentView() if as_json else reload_view(sys.stdout) as view:
        for answer in connection.ask(command, force=force):
            if answer.get("type") == "progress":
                view.show(answer["progress"])
            elif answer.get("type") == "outcome":
                outcome = answer["outcome"]
    if outcome is None:
        raise connection.lost()
    return outcome


@cli.command(epilog=_EPILOG)
@_with_config
@click.option("--json", "as_json", is_flag=True, help="Print what the supervisor said, as one JSON object.")
@click.option("--watch", is_flag=True, help="Show it again each second until Ctrl-C.")
def status(config: Path | None, as_json: bool, watch: bool) -> None:
    """Show the supervisor, its children and the last handoff."""
    with _client_errors(config) as path:
        if not watch:
            click.echo(_status_text(path, as_json=as_json))
            return
        import time

        streams = _streams()
        try:
            while not streams.lost:
                _redraw(path, as_json=as_json)
                time.sleep(1.0)
        except KeyboardInterrupt:
            return


def _redraw(path: Path, *, as_json: bool) -> None:
    from bastion.supervisor.control_client import BusyError

    try:
        text = _status_text(path, as_json=as_json)
    except BusyError as error:
        click.echo(f"supervisor: {error}", err=True)
        return
    # Home, text, clear what is left over: redrawing without flicker.
    click.echo(f"\033[H{_cleared(text)}\033[J" if sys.stdout.isatty() and not as_json else text)


def _streams() -> Streams:
    """Return the standard streams of this command."""
    return click.get_current_context().ensure_object(Streams)


def _status_text(path: Path, *, as_json: bool) -> str:
    from bastion.supervisor.control_client import fetch_status

    answer = fetch_status(path)
    if as_json:
        import json

        return json.dumps(answer)
    from bastion.supervisor.console import status_text

    return status_text(answer, colour=wants_colour(sys.stdout, environ=os.environ))


def _cleared(text: str) -> str:
    return "".join(f"{line}\033[K\n" for line in text.split("\n"))


@cli.command(epilog=_EPILOG, short_help="Let handlers finish, then stop bot and supervisor.")
@_with_config
def stop(config: Path | None) -> None:
    """Let handlers finish, stop the bot and its supervisor, and wait until both have gone."""
    from bastion.supervisor.control_client import request_stop

    with _client_errors(config) as path:
        try:
            pid = request_stop(path)
        except KeyboardInterrupt:
            raise _Interrupted("interrupted: the supervisor goes on stopping without you") from None
    click.echo(f"the supervisor (pid {pid}) has stopped")


@cli.command(epilog=_EPILOG, short_help="Say whether every shard is ready: for container engines and scripts.")
@_with_config
def healthcheck(config: Path | None) -> None:
    """Ask the supervisor at health.listen whether every shard of the active bot is ready.

    Exits with 0 if so, with 1 if not, with 3 if nothing answers there.
    """
    from bastion.supervisor.healthcheck import NoAnswerError, ask
    from bastion.supervisor.location import locate_health

    with _settings_errors("Nothing was asked; a bot that runs is not affected."):
        address = locate_health(config, environ=os.environ)
        if address is None:
            raise SettingsError('health.listen is "", so nobody answers for health: give it an address')
    try:
        health = ask(address)
    except NoAnswerError as error:
        raise _NoSupervisor(str(error)) from None
    if not health.ready:
        raise _Failure(health.reason)
    click.echo(escaped(health.reason))


@cli.command(cls=_OfAProgram, epilog=_EPILOG, short_help="Look at all that a start needs; start nothing.")
@_with_program
@_with_config
@click.option(
    "--deploy",
    is_flag=True,
    help="Ask Discord about the token and intents; look at memory, ledger and systemd, too.",
)
@click.option(
    "--import",
    "imported",
    is_flag=True,
    help="Import the program or app, too: without a token, and with no way to log in.",
)
def check(program: str | None, module: str | None, config: Path | None, deploy: bool, imported: bool) -> None:
    """Look at everything that `run` and `reload` need, and start nothing.

    Reads the source of the program or app; executes it only with --import. Exits with 78 if something is wrong.
    """
    from bastion.supervisor.check import checks

    failed = False
    named = _named(program, module)
    for result in checks(config, environ=os.environ, deploy=deploy, imported=imported, named=named):
        failed = failed or not result.ok
        click.echo(str(result))
    if failed:
        raise _BadConfiguration("this configuration would not run; a bot that runs is not affected")


@cli.command(epilog=_EPILOG, short_help="Watch a bot being redeployed under load, for a minute.")
@_with_config
def demo(config: Path | None) -> None:
    """Watch the shipped bot being redeployed under load against a local Discord, for about a minute.

    Needs no token and no settings file: the demo writes its own, and --config is not looked at.
    """
    from bastion.supervisor.demo import run_demo

    sys.exit(run_demo())


@contextmanager
def _settings_errors(meaning: str) -> Iterator[None]:
    try:
        yield
    except SettingsError as error:
        raise _BadConfiguration(*error.problems, meaning) from None


@contextmanager
def _client_errors(config: Path | None) -> Iterator[Path]:
    """Give the control socket's path; turn what can go wrong there into messages and exit codes."""
    from bastion.supervisor.control_client import NoSupervisorError, RefusedError

    meaning = (
        "No supervisor was asked; a bot that runs is not affected. To ask one whose file is broken, name with --config "
        "a file that has its [control] alone."
    )
    with _settings_errors(meaning):
        path = locate_socket(config, environ=os.environ)
    try:
        yield path
    except NoSupervisorError as error:
        raise _NoSupervisor(f"{error}. {error.advice}.") from None
    except RefusedError as error:
        raise _Failure(f"{error}. The bot goes on as before.") from None


def main() -> None:
    """Run the command line; the console script and ``python -m bastion.supervisor`` call this."""
    streams = Streams()
    try:
        cli(prog_name="supervisor", obj=streams)
    finally:
        streams.finish("supervisor")
