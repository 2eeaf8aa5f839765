"""``python -m bastion.sandbox``: a sandbox in a process of its own, driven by flags and by its control API.

Knows the command line. It ends on SIGINT, SIGTERM or after ``--seconds`` and prints the verdict.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

import click

from bastion.streams import Streams

from .server import Sandbox
from .settings import MAX_SECONDS, SandboxSettings, SettingsError
from .traffic import Traffic, TrafficError

_SETTLE = 5.0


def _mix(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float] | None:
    """Read ``kind=weight`` pairs."""
    mix: dict[str, float] = {}
    for value in values:
        kind, separator, weight = value.partition("=")
        try:
            mix[kind] = float(weight) if separator else 1.0
        except ValueError:
            raise click.BadParameter(f"{value!r} is not kind=weight") from None
    return mix or None


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--host", default="127.0.0.1", help="Loopback address to listen on.")
@click.option("--port", default=0, help="Port to listen on; 0 takes a free one.")
@click.option("--seed", default=1, help="Seed of world, delays and traffic.")
@click.option("--token", default="sandbox-token", help="The one bot token that is good.")
@click.option("--guilds", default=8, help="Guilds in the world.")
@click.option("--channels", "channels_per_guild", default=3, help="Text channels per guild.")
@click.option("--members", "members_per_guild", default=10, help="Members per guild, the bot not counted.")
@click.option("--shards", "recommended_shards", default=1, help="Shards that GET /gateway/bot recommends.")
@click.option("--max-concurrency", default=1, help="IDENTIFYs per window.")
@click.option("--identify-window", default=5.0, help="Seconds of the IDENTIFY window.")
@click.option("--skew", default=(0.0, 0.3), type=(float, float), help="Low and high of each session's delay, seconds.")
@click.option("--network-delay", default=0.0, help="Seconds to the gateway and back, as from a machine far away.")
@click.option("--global-limit", default=0, help="REST calls per second in all; 0 is off, Discord has 50.")
@click.option("--member-request-window", default=30.0, help="Seconds between two requests for all members of a guild.")
@click.option("--rate", default=0.0, help="Events per second of traffic; 0 is none until the control API asks.")
@click.option("--mix", multiple=True, callback=_mix, help="kind=weight, repeatable. Default: a lively bot.")
@click.option("--spacing", type=click.Choice(["poisson", "even"]), default="poisson", help="Gaps between events.")
@click.option("--seconds", default=MAX_SECONDS, help="End after that long.")
@click.option("--json", "as_json", is_flag=True, help="Print the addresses and the verdict as JSON lines.")
def main(
    *, rate: float, mix: dict[str, float] | None, spacing: Any, seconds: float, as_json: bool, **values: Any
) -> None:
    """Run a local Discord on loopback until a signal or --seconds, then print the verdict."""
    if not 0 < seconds <= MAX_SECONDS:
        raise click.BadParameter(f"must be above 0 and at most {MAX_SECONDS:.0f}", param_hint="--seconds")
    try:
        settings = SandboxSettings(**values)
        asyncio.run(_serve(settings, rate=rate, mix=mix, spacing=spacing, seconds=seconds, as_json=as_json))
    except (SettingsError, TrafficError) as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        click.echo(f"sandbox: cannot listen on {values['host']}:{values['port']}: {error.strerror or error}", err=True)
        sys.exit(1)


async def _serve(
    settings: SandboxSettings, *, rate: float, mix: dict[str, float] | None, spacing: Any, seconds: float, as_json: bool
) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    async with Sandbox(settings) as sandbox:
        if rate:
            sandbox.traffic.start(rate=rate, seconds=seconds, mix=mix, spacing=spacing)
        click.echo(_greeting(sandbox, as_json=as_json))
        sys.stdout.flush()
        timer = loop.call_later(seconds, ended.set)
        await ended.wait()
        timer.cancel()
        await _end(sandbox, as_json=as_json)


def _greeting(sandbox: Sandbox, *, as_json: bool) -> str:
    control = f"{sandbox.url}/sandbox"
    if as_json:
        known = {"api_url": sandbox.api_url, "gateway_url": sandbox.gateway_url, "control_url": control}
        return json.dumps(known | {"token": sandbox.token})
    kinds = ", ".join(Traffic(sandbox).kinds)
    return "\n".join(
        [
            f"API      {sandbox.api_url}",
            f"gateway  {sandbox.gateway_url}",
            f"token    {sandbox.token}",
            f"control  {control}",
            "         GET  verdict?settle=10&format=text   GET state",
            '         POST traffic {"rate": 50, "seconds": 10, "mix": {"slash": 1}}   stop: {"rate": 0}',
            '         POST faults {"kind": "drop_shard", "shard": 0}   POST settings {"recommended_shards": 4}',
            '         POST emit {"kind": "message", "content": "hello"}   POST handled {"kind", "key", "by"}',
            f"kinds    {kinds}",
            "Ctrl-C ends it and prints the verdict.",
        ]
    )


async def _end(sandbox: Sandbox, *, as_json: bool) -> None:
    """Stop the traffic, give the bot a moment for what is under way if one is there, and print the verdict."""
    await sandbox.traffic.stop()
    listening = any(session.connected for session in sandbox.gateway.sessions)
    verdict = await sandbox.settled(timeout=_SETTLE, quiet=1.0) if listening else sandbox.journal.verdict()
    click.echo(json.dumps(verdict.as_dict()) if as_json else str(verdict))


if __name__ == "__main__":
    streams = Streams()
    try:
        main()
    finally:
        streams.finish("sandbox")
