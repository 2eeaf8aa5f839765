"""`supervisor run`: settings, control socket and engine put together for one process.

Knows the order in which they start and end. Decides nothing and prints only where to find it.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

import anyio

from bastion.supervisor import __version__, control, logs, machine, neighbours, orphans, reexec, rereading
from bastion.supervisor.engine import Engine, timing_of
from bastion.supervisor.entry import Named
from bastion.supervisor.events import RoleTaken
from bastion.supervisor.ledgerdir import ledger_directory, place_problem
from bastion.supervisor.local_sandbox import CarriedSandbox, LocalSandbox
from bastion.supervisor.location import locate_shared_ledger, parse_listen
from bastion.supervisor.printable import escaped
from bastion.supervisor.reading import UnansweredError, answered
from bastion.supervisor.release import no_effect, remarks
from bastion.supervisor.settings import Settings, SettingsError, load
from bastion.supervisor.systemd import Service
from bastion.supervisor.writer import Writer
from bastion.wire import EXIT_CONFIG

_logger = logging.getLogger("supervisor")


def run(
    config: Path | None,
    *,
    sandbox: bool,
    environ: Mapping[str, str],
    tell: Callable[[str], object],
    log: Writer,
    standby_since: float | None = None,
    named: Named | None = None,
) -> tuple[int, str | None]:
    """Run a supervisor until it is stopped; return its exit code and, if it did not end well, why.

    ``tell`` takes lines for the operator, ``log`` is behind standard error. ``named`` is what the command line names,
    for the start and each reload.
    ``standby_since``: when it was deployed beside another one that shares the ledger, in unix seconds. It says no more
    than that the ledger must be shared.

    Raises `SettingsError`, `control.ControlError` (another one runs, or its socket cannot be made) and `SandboxError`;
    then no bot was started. Raises `reexec.CarryError` if an earlier program
    of this process handed its bots over and they cannot be taken up; then they end with this process.
    """
    envelope = reexec.received()
    if envelope is not None:
        log.put(envelope.log)
    with ExitStack() as stack:
        stack.enter_context(_telling_others(config, environ=environ))
        local = None
        if sandbox:
            if envelope is None:
                # What is wrong is said before anything starts.
                config = load(config, environ=environ, need_token=False, named=named).source
            local = stack.enter_context(LocalSandbox(envelope.sandbox if envelope else None))
        environ = _environment(environ, local)
        again = partial(reread, environ=environ, named=named)
        logs.configure(environ=environ)
        log.remark = logs.remark
        if envelope is None:
            # A reload asked for from here on is one to newer settings than these: the engine takes it when it can.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
            settings = _with_remarks(load(config, environ=environ, named=named))
        else:
            settings = _reread_or_kept(again, envelope.kept.settings)
        if standby_since is not None and not settings.ledger.shared:
            raise SettingsError("--standby-since needs ledger.shared = true: nobody else could be known, or hand over")
        service = Service(environ)
        others = [local.pid] if local else []
        engine = Engine(
            settings,
            reread=again,
            others=others,
            on_move=service.tell,
            on_handoff=gc.collect,
        )
        orphans.adopt()
        carried = local.carry() if local else None
        greet = partial(_greet, settings, named=named or Named(), sandbox=local is not None, tell=tell)
        successor = partial(reexec.Reexec, sandbox=carried, log=log)
        serve = partial(_serve, engine, settings, service=service, envelope=envelope, successor=successor, greet=greet)
        _keep_what_is_there()
        return anyio.run(serve)


@contextmanager
def _telling_others(config: Path | None, *, environ: Mapping[str, str]) -> Iterator[None]:
    """Tell the supervisors who share the ledger why a start fails; but nobody waits twice for a disk that hangs."""
    try:
        yield
    except UnansweredError:
        raise
    except (SettingsError, control.ControlError) as error:
        if (ledger := locate_shared_ledger(config, environ=environ)) is not None:
            _tell_others(ledger, str(error), environ=environ)
        raise


def _tell_others(ledger: Path, why: str, *, environ: Mapping[str, str]) -> None:
    """Leave word in the register: our own log may be gone with its container."""

    def tell() -> None:
        if place_problem(ledger, environ=environ) is None:
            neighbours.report(ledger_directory(ledger, environ=environ) / ledger.name, why)

    with suppress(OSError, UnansweredError):
        answered(str(ledger), tell)


def _keep_what_is_there() -> None:
    """Leave what has been imported to nobody to collect.

    To collect takes 2 ms then, so it is done after each handoff: what that leaves in cycles and in Python's free lists
    is given back at once. Left to itself Python would do it after hundreds of handoffs.
    """
    gc.collect()
    gc.freeze()


def try_out(*, environ: Mapping[str, str], descriptor: str, named: Named | None = None) -> str | None:
    """Look whether `run` could go on with what is carried over; return what is wrong. Touches no process."""
    try:
        envelope = reexec.read(descriptor)
        environ = _environment(environ, envelope.sandbox)
        settings = rereading.reread(envelope.kept.settings, environ=environ, named=named)
        control.try_out(settings.control.socket, held=envelope.control)
    except (reexec.CarryError, SettingsError, control.ControlError) as error:
        return str(error)
    Engine(settings)
    bot = envelope.kept.bot
    state, _ = machine.adopt(
        bot.release, timing_of(settings), generation=bot.generation, newest=envelope.kept.newest, command=0
    )
    machine.step(state, RoleTaken(bot.generation, "active"))
    return None


def _environment(environ: Mapping[str, str], sandbox: LocalSandbox | CarriedSandbox | None) -> Mapping[str, str]:
    if sandbox is None:
        return environ
    return {**environ, "DISCORD_API_URL": sandbox.api_url, "DISCORD_TOKEN": sandbox.token}


def reread(kept: Settings, *, environ: Mapping[str, str], named: Named | None = None) -> Settings:
    """Read the settings for a reload; say in the log what an operator may not expect."""
    settings = rereading.reread(kept, environ=environ, named=named)
    if unread := rereading.unread(kept, environ=environ):
        _logger.warning("%s", unread)
    return _with_remarks(settings)


def _with_remarks(settings: Settings) -> Settings:
    for level, remark in remarks(settings.bot):
        _logger.log(level, "%s", remark)
    for key in settings.without_effect:
        _logger.warning("%s", no_effect(key))
    return settings


def _reread_or_kept(again: Callable[[Settings], Settings], kept: Settings) -> Settings:
    """Read the settings; the trial could a moment ago. If they have become unreadable since, the bots go on."""
    try:
        return again(kept)
    except SettingsError as error:
        _logger.warning("%s; the settings stay as they were", error)
        return kept


async def _serve(
    engine: Engine,
    settings: Settings,
    *,
    service: Service,
    envelope: reexec.Envelope | None,
    successor: Callable[[control.Server], reexec.Reexec],
    greet: Callable[[str | None], None],
) -> tuple[int, str | None]:
    held, kept = (envelope.control, envelope.kept) if envelope else (None, None)
    with engine.handling_signals(kept):
        async with control.serve(settings.control.socket, engine, held=held) as server:
            try:
                async with service.watched(), _health(settings, engine, carried=envelope is not None) as health:
                    if envelope is None:
                        greet(health)
                    code = await engine.run(kept=kept, successor=successor(server))
            except SettingsError as error:
                if settings.ledger.shared and settings.ledger.path is not None:
                    _tell_others(settings.ledger.path, str(error), environ=os.environ)
                return EXIT_CONFIG, str(error)
    return code, engine.failure


@asynccontextmanager
async def _health(settings: Settings, engine: Engine, *, carried: bool) -> AsyncIterator[str | None]:
    """Answer for health. Raises `SettingsError` if that cannot be, unless bots were ``carried`` over: they go on."""
    address = parse_listen(settings.health.listen)
    if address is None:
        yield None
        return
    from bastion.supervisor import health  # costs 3 MiB, which nobody pays who wants no health

    async with AsyncExitStack() as stack:
        shown = None
        try:
            shown = await stack.enter_async_context(health.serve(address, engine))
        except health.HealthError as error:
            if not carried:
                raise
            _logger.warning("%s; the bots go on, and nobody answers for health", error)
        yield shown


def _greet(
    settings: Settings, health: str | None, *, named: Named, sandbox: bool, tell: Callable[[str], object]
) -> None:
    for line in _greeting(settings, named=named, health=health, sandbox=sandbox):
        tell(escaped(line))


def _greeting(settings: Settings, *, named: Named, health: str | None, sandbox: bool) -> list[str]:
    pid = os.getpid()
    lines = [f"supervisor {__version__} (pid {pid}), control socket {settings.control.socket}"]
    if named.program and settings.source:
        what = f"{settings.bot.program} runs, as the command line says"
        lines.append(f"{what}: bot.program and bot.app in {settings.source} do not count")
    if health:
        lines.append(f"health at {health}: /livez, /readyz, /metrics")
    if sandbox:
        option = f" --config {settings.source}" if settings.source else ""
        lines += [
            "the bot runs against a local Discord with light traffic. From another terminal:",
            f"  supervisor status{option} --watch",
            f"  supervisor reload{option}",
            f"  kill -HUP {pid}",
            "Ctrl-C stops it.",
        ]
    return lines
