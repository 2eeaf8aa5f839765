"""Why a child gives up: one line for the operator, and where in the app it went wrong.

Knows the errors that loading an app, logging in and connecting can end with, and which of them another try could get
past. Does nothing about any: whoever caught it does.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import TracebackType

import aiohttp
import discord

from bastion.bot import apps
from bastion.bot.shards import ShardsError

_CLOSE_CODES = {
    4004: "Discord refused the token (close code 4004): it was reset or is not this bot's",
    4010: "Discord refused the shard (close code 4010): shard id and count do not fit",
    4011: "Discord requires more shards (close code 4011): set bot.shards higher, or to auto",
    4012: "Discord refused the gateway version (close code 4012): update discord.py",
    4013: "Discord refused the intents (close code 4013): the app asks for some that do not exist",
}

_EXPLAINED = (
    ShardsError,
    discord.ConnectionClosed,
    discord.GatewayNotFound,
    discord.HTTPException,
    discord.LoginFailure,
    discord.PrivilegedIntentsRequired,
    aiohttp.ClientConnectionError,
)
"""Errors of which `explain` says all: a traceback through discord.py would tell an operator nothing more."""

_NOT_THE_APPS = {Path(__file__).parent, Path(importlib.__file__).parent}


class SetupError(Exception):
    """The app's setup_hook raised."""


def explain(error: BaseException, api_url: str) -> tuple[str, bool]:
    """Return why a child gives up, in one line, and whether the same release could succeed on another try."""
    if isinstance(error, (apps.AppError, ShardsError, SetupError)):
        return str(error), False
    if isinstance(error, discord.LoginFailure):
        return "Discord refused the token (401): check DISCORD_TOKEN or discord.token_file", False
    if isinstance(error, discord.PrivilegedIntentsRequired):
        return (
            "Discord refused the intents (close code 4014): the app asks for privileged ones that are not enabled on "
            "the Bot page of the Developer Portal",
            False,
        )
    if isinstance(error, discord.ConnectionClosed):
        reason = _CLOSE_CODES.get(error.code, f"Discord closed the gateway (close code {error.code})")
        return reason, error.code not in _CLOSE_CODES
    if isinstance(error, (aiohttp.ClientConnectionError, discord.GatewayNotFound)):
        return f"Discord cannot be reached at {api_url}: {apps.one_line(error)}", True
    if isinstance(error, discord.HTTPException):
        return f"Discord refused a request while the app started: {apps.one_line(error)}", error.status >= 429
    return f"the app ended with {apps.one_line(error)}", True


def origin(error: BaseException) -> BaseException | None:
    """Return the exception whose traceback tells more than `explain` does; None if there is none.

    What the app raised is returned without our own frames, so that the traceback begins in the app.
    """
    if isinstance(error, (apps.AppError, SetupError)):
        cause = error.__cause__
        return cause and cause.with_traceback(_in_app(cause.__traceback__))
    return None if isinstance(error, _EXPLAINED) else error


def _in_app(trace: TracebackType | None) -> TracebackType | None:
    """Leave out the frames that come before the app's: this runtime's and the import system's."""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if Path(file).parent not in _NOT_THE_APPS and not file.startswith("<frozen importlib"):
            break
        trace = trace.tb_next
    return trace
