"""Against others: the same traffic, the same bot logic, and different ways to put a new bot in the place of the old.

- stop, then start: what `systemctl restart` does;
- start first: the new bot is ready before the old one is stopped, as Docker Swarm's start-first or docker rollout;
- start first, with a lock: and every event is claimed in SQLite by the id of its kind;
- discord-hybrid-sharding's recluster, both modes, and pm2's reload with wait_ready: discord.js, installed by npm into a
  temporary folder. They are left out, and the reason is said, where npm or its registry is missing.

A handler works for up to 300 ms. It is cut if it began and never ended. What is counted as lost includes what was cut.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from bastion.sandbox import Sandbox
from benchmarks.installation import (
    Running,
    discord,
    environment,
    ready,
    sandbox_settings,
    start_alone,
    supervised,
)
from benchmarks.processes import MIB, family, watching
from benchmarks.report import Benchmark, BenchmarkError, Result, Table
from benchmarks.stats import spread

PACKAGES: Final = ("discord.js@14.28.1", "discord-hybrid-sharding@3.0.1", "pm2@7.0.4")
NODE: Final = Path(__file__).resolve().parent / "node"
INSTALL_TIMEOUT: Final = 240.0
_SPAWN_DELAY_MS: Final = 500


@dataclass(frozen=True, slots=True)
class Way:
    """A running bot and how it is replaced. ``replace`` returns when only the new one is left."""

    replace: Callable[[], Awaitable[None]]
    pids: Callable[[], Iterable[int]]


Opening: TypeAlias = "Callable[[Sandbox, argparse.Namespace], AbstractAsyncContextManager[Way]]"


def _environ(options: argparse.Namespace) -> dict[str, str]:
    return {"BENCH_HANDLER_MS": f"0-{options.handler_ms}", "BENCH_POST": "at once"}


@asynccontextmanager
async def ours(sandbox: Sandbox, options: argparse.Namespace) -> AsyncIterator[Way]:
    """This project."""
    async with supervised(sandbox, environ=_environ(options)) as supervisor:

        async def replace() -> None:
            await supervisor.reload()

        yield Way(replace, lambda: family(supervisor.running.pid))


@asynccontextmanager
async def plain(
    sandbox: Sandbox, options: argparse.Namespace, *, first: bool, lock: bool = False
) -> AsyncIterator[Way]:
    """Stock discord.py: stop, then start; or start ``first``, then stop."""
    with tempfile.TemporaryDirectory() as directory:
        more = _environ(options) | ({"BENCH_LOCK": f"{directory}/lock.sqlite"} if lock else {})
        living: list[Running] = []

        async def start() -> None:
            living.append(await start_alone(sandbox, shards=options.shards, generation=len(living) + 1, **more))
            await ready(sandbox, living[-1])

        async def replace() -> None:
            if not first:
                await living[-1].end()
            await start()
            if first:
                await living[-2].end()

        try:
            await start()
            yield Way(replace, lambda: [pid for one in living for pid in family(one.pid)])
        finally:
            for one in living:
                await one.end()


@asynccontextmanager
async def hybrid(sandbox: Sandbox, options: argparse.Namespace, *, mode: str, modules: Path) -> AsyncIterator[Way]:
    """discord-hybrid-sharding with two clusters."""
    more = {
        "NODE_PATH": str(modules),
        "BENCH_MODE": "cluster",
        "BENCH_SHARDS": str(options.shards),
        "BENCH_SPAWN_DELAY_MS": str(_SPAWN_DELAY_MS),
    }
    process = await asyncio.create_subprocess_exec(
        *("node", str(NODE / "manager.cjs")),
        env=environment(sandbox, **_environ(options), **more),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    async def replace() -> None:
        before = set(family(process.pid))
        stdin.write(f"recluster {mode}\n".encode())
        line = (await stdout.readline()).decode().strip()
        if line != "done":
            raise BenchmarkError(f"recluster said {line!r}")
        await _gone(before - {process.pid})

    try:
        await sandbox.gateway.wait_ready(options.shards, timeout=60)
        await asyncio.sleep(2 * _SPAWN_DELAY_MS / 1000)
        yield Way(replace, lambda: family(process.pid))
    finally:
        stdin.close()
        await _end_all(process.pid)
        await process.wait()


@asynccontextmanager
async def pm2(sandbox: Sandbox, options: argparse.Namespace, *, modules: Path) -> AsyncIterator[Way]:
    """One instance in pm2's cluster mode, the only one that can reload."""
    with tempfile.TemporaryDirectory(prefix="pm2-", dir="/tmp") as home:
        more = {"NODE_PATH": str(modules), "BENCH_MODE": "pm2", "PM2_HOME": home, "PM2_DISCRETE_MODE": "true"}
        environ = environment(sandbox, **_environ(options), **more)
        config = Path(home) / "ecosystem.config.cjs"
        app = {
            "name": "bot",
            "script": str(NODE / "bot.cjs"),
            "exec_mode": "cluster",
            "instances": 1,
            "wait_ready": True,
            "listen_timeout": 30_000,
            "kill_timeout": 5_000,
        }
        config.write_text(f"module.exports = {json.dumps({'apps': [app]})};\n", encoding="utf-8")

        async def command(*words: str) -> None:
            process = await asyncio.create_subprocess_exec(
                *("node", str(modules / "pm2" / "bin" / "pm2"), *words),
                env=environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            out, _ = await asyncio.wait_for(process.communicate(), 90)
            if process.returncode:
                raise BenchmarkError(f"pm2 {words[0]} exited with {process.returncode}: {out.decode()[-500:]}")

        def pids() -> list[int]:
            with contextlib.suppress(OSError, ValueError):
                return family(int((Path(home) / "pm2.pid").read_text(encoding="ascii")))
            return []

        async def replace() -> None:
            before = set(pids()[1:])
            await command("reload", "bot")
            await _gone(before)

        try:
            await command("start", str(config))
            await sandbox.gateway.wait_ready(options.shards, timeout=60)
            yield Way(replace, pids)
        finally:
            daemon = pids()
            await command("kill")
            for pid in daemon[:1]:
                await _end_all(pid)


async def _gone(pids: set[int]) -> None:
    """Wait until processes have gone. Raises `BenchmarkError` after 60 s."""
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() and not _zombie(pid) for pid in pids):
        if time.monotonic() > deadline:
            raise BenchmarkError("the old bot lives on")
        await asyncio.sleep(0.02)


def _zombie(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] == "Z"
        )
    except OSError:
        return True


async def _end_all(pid: int) -> None:
    """Give a family of processes a moment, then kill what is left of it."""
    members = family(pid)
    with contextlib.suppress(BenchmarkError, TimeoutError):
        await asyncio.wait_for(_gone(set(members)), 3)
    for one in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


async def _install(directory: Path) -> str | None:
    """Install the npm packages; return why they could not be, or None."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return "npm and node are not installed"
    words = ("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", *PACKAGES)
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=directory,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, err = await asyncio.wait_for(process.communicate(), INSTALL_TIMEOUT)
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"npm install did not end within {INSTALL_TIMEOUT:g} s"
    return f"npm install failed: {err.decode(errors='replace').strip()[-200:]}" if process.returncode else None


async def _measure(name: str, opening: Opening, options: argparse.Namespace) -> dict[str, Any]:
    settings = sandbox_settings(shards=options.shards, skew=(0.0, 0.1))
    seconds = []
    async with discord(settings) as sandbox, opening(sandbox, options) as way:
        sandbox.journal.clear()
        identified = len(sandbox.gateway.identifies)
        async with watching(way.pids) as peak:
            await asyncio.sleep(0.5)
            before = peak.bytes
            sandbox.traffic.start(rate=options.rate, mix=MIX_OF_OTHERS)
            await asyncio.sleep(1)
            for _ in range(options.reloads):
                began = time.monotonic()
                await way.replace()
                seconds.append(time.monotonic() - began)
                await asyncio.sleep(3)
            await sandbox.traffic.stop()
            verdict = await sandbox.settled(timeout=8, quiet=3)
        cut = sum(
            max(0, len(sandbox.journal.handlings("began", f"{_reported(entry.kind)}:{entry.key}"))
                - len(sandbox.journal.handlings(entry.kind, entry.key)))
            for entry in {(one.kind, one.key): one for one in sandbox.journal.entries}.values()
        )  # fmt: skip
        return {
            "way": name,
            "emitted": verdict.emitted,
            "lost": verdict.lost,
            "duplicated": verdict.duplicated,
            "cut": cut,
            "identifies": len(sandbox.gateway.identifies) - identified,
            "seconds": spread(seconds).as_dict(),
            "peak_mib": round(peak.bytes / MIB, 1),
            "peak / before": round(peak.bytes / before, 2) if before else None,
        }


def _reported(kind: str) -> str:
    return "message" if kind == "command_message" else kind


MIX_OF_OTHERS: Final = {"message": 5, "reaction_add": 2, "edit": 1, "delete": 1, "typing": 1, "toggle": 0.3}
"""With rightful repeats (react, unreact, react), which a lock by id takes for the same event."""


def _ways(modules: Path | None) -> dict[str, Opening]:
    ways: dict[str, Opening] = {
        "supervisor reload": ours,
        "stop, then start": lambda sandbox, options: plain(sandbox, options, first=False),
        "start first": lambda sandbox, options: plain(sandbox, options, first=True),
        "start first, SQLite lock": lambda sandbox, options: plain(sandbox, options, first=True, lock=True),
    }
    if modules is not None:
        ways |= {
            "hybrid-sharding, gracefulSwitch": lambda sandbox, options: hybrid(
                sandbox, options, mode="gracefulSwitch", modules=modules
            ),
            "hybrid-sharding, rolling": lambda sandbox, options: hybrid(
                sandbox, options, mode="rolling", modules=modules
            ),
            "pm2 reload, wait_ready": lambda sandbox, options: pm2(sandbox, options, modules=modules),
        }
    return ways


async def run(options: argparse.Namespace) -> Result:
    """Try every way."""
    with tempfile.TemporaryDirectory(prefix="bastion-npm-") as name:
        why_not = "left out by --no-npm" if options.no_npm else await _install(Path(name))
        ways = _ways(None if why_not else Path(name) / "node_modules")
        rows = [
            await _measure(title, opening, options)
            for title, opening in ways.items()
            if not options.only or options.only in title
        ]
    return _result(rows, why_not, options)


def _result(rows: Sequence[dict[str, Any]], why_not: str | None, options: argparse.Namespace) -> Result:
    notes = [
        f"{options.reloads} replacements each, {options.rate:g} events/s, {options.shards} shards, handlers of up to "
        f"{options.handler_ms} ms; IDENTIFY windows of 0.25 s, which spares the others their longest silence."
    ]
    if why_not:
        notes.append(f"discord-hybrid-sharding and pm2 are skipped: {why_not}.")
    base = rows[0]["seconds"]["median"]
    return Result(
        rows=list(rows),
        ratios={f"seconds: {row['way']} / {rows[0]['way']}": round(row["seconds"]["median"] / base, 2) for row in rows},
        tables=[
            Table(
                title="Replacing a bot under load",
                columns=[
                    *("way", "events", "lost", "twice", "handlers cut", "IDENTIFYs", "seconds each", "peak MiB"),
                    "peak / before",
                ],
                rows=[
                    [
                        *(row["way"], row["emitted"], row["lost"], row["duplicated"], row["cut"], row["identifies"]),
                        row["seconds"]["median"],
                        row["peak_mib"],
                        row["peak / before"],
                    ]
                    for row in rows
                ],
            )
        ],
        notes=notes,
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--reloads", type=int, default=5)
    parser.add_argument("--rate", type=float, default=100.0, help="events/s")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--handler-ms", type=int, default=300, help="longest work of a handler")
    parser.add_argument("--no-npm", action="store_true", help="leave out what npm would install")
    parser.add_argument("--only", default="", metavar="TEXT", help="only ways whose name contains this")


BENCHMARK = Benchmark(
    name="others",
    summary="What is lost, doubled and cut by other ways to replace a bot, in the same sandbox with the same logic.",
    limit=1200,
    arguments=arguments,
    run=run,
)

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
