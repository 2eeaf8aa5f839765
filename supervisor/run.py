"""`supervisor run`: settings, control socket and engine put together for one process.

Knows the order in which they start and end. Decides nothing and prints only where to find it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import anyio

from supervisor import __version__, control, logs
from supervisor.engine import Engine
from supervisor.local_sandbox import LocalSandbox
from supervisor.settings import Settings, load


def run(
    config: Path | None, *, sandbox: bool, environ: Mapping[str, str], tell: Callable[[str], object]
) -> tuple[int, str | None]:
    """Run a supervisor until it is stopped; return its exit code and, if it did not end well, why.

    ``tell`` takes lines for the operator. Raises `SettingsError`, `control.ControlError` (another one runs, or its
    socket cannot be made) and `SandboxError`; then no bot was started.
    """
    # Until the engine handles it: a reload asked for now would start what is about to start anyway.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    others: list[int] = []
    with ExitStack() as stack:
        if sandbox:
            load(config, environ=environ, need_token=False)  # what is wrong is said before anything starts
            local = stack.enter_context(LocalSandbox())
            others.append(local.pid)
            environ = {**environ, "DISCORD_API_URL": local.api_url, "DISCORD_TOKEN": local.token}
        settings = load(config, environ=environ)
        logs.configure()
        reread = partial(load, config, environ=environ)
        return anyio.run(partial(_serve, settings, reread=reread, others=others, sandbox=sandbox, tell=tell))


async def _serve(
    settings: Settings,
    *,
    reread: Callable[[], Settings],
    others: list[int],
    sandbox: bool,
    tell: Callable[[str], object],
) -> tuple[int, str | None]:
    engine = Engine(settings, reread=reread, others=others)
    async with control.serve(settings.control.socket, engine):
        for line in _greeting(settings, sandbox=sandbox):
            tell(line)
        code = await engine.run()
    return code, engine.failure


def _greeting(settings: Settings, *, sandbox: bool) -> list[str]:
    pid = os.getpid()
    lines = [f"supervisor {__version__} (pid {pid}), control socket {settings.control.socket}"]
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
