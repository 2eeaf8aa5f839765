"""Why a child gives up: one line for the operator, and whether another try could get past it.

Knows the errors that a program, a login and a connection can end with. Does nothing about any: the runtime does.

No second try can help where the program is not there, cannot be parsed or imported, has no token or a token that
Discord refuses, asks for what Discord refuses, or connects two clients. Everything else may be the fault of something
that comes back: a database, a network, Discord. So it is tried again, whatever the program's exit status.
"""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import discord

from bastion.bot.apps import AppError, one_line
from bastion.bot.ending import place_of
from bastion.bot.program import ProgramError
from bastion.bot.shards import ShardsError
from bastion.wire import proxies

_CLOSE_CODES = {
    4004: "Discord refused the token (close code 4004): it was reset or is not this bot's",
    4010: "Discord refused the shard (close code 4010): shard id and count do not fit",
    4011: "Discord requires more shards (close code 4011): set bot.shards higher, or to auto",
    4012: "Discord refused the gateway version (close code 4012): update discord.py",
    4013: "Discord refused the intents (close code 4013): the app asks for some that do not exist",
}


NO_TOKEN = "give it a token of its own, or set DISCORD_TOKEN, discord.token_file or bot.env_file"


class NoTokenError(Exception):
    """The program logs in without a token."""

    def __init__(self, program: str) -> None:
        what = f"bot.program = {program}" if program else "bot.app"
        super().__init__(f"{what} logs in and has no token: {NO_TOKEN}")


class TwoClientsError(Exception):
    """The program connects a second client."""

    def __init__(self, first: object, second: object) -> None:
        names = f"a {type(first).__name__} and a {type(second).__name__}"
        super().__init__(
            f"the program connects two clients, {names}: the supervisor hands over one. Run the other one as a program "
            "of its own"
        )


class ForkError(Exception):
    """A fork of the program logs in."""

    def __init__(self) -> None:
        super().__init__(
            "a fork of the program logs in: the supervisor hands over a client of the program's own process only"
        )


class SetupError(Exception):
    """The app's setup_hook raised ``error``."""

    def __init__(self, error: Exception, directory: Path) -> None:
        super().__init__(f"setup_hook raised {told(error, directory)}")
        self.error = error


_FINAL = (ProgramError, ShardsError, NoTokenError, TwoClientsError, ForkError)
_EXPLAINED = (
    *_FINAL,
    SetupError,
    discord.ConnectionClosed,
    discord.GatewayNotFound,
    discord.HTTPException,
    discord.LoginFailure,
    discord.PrivilegedIntentsRequired,
    aiohttp.ClientConnectionError,
)
"""Errors of which `explain` says all: a traceback through discord.py would tell an operator nothing more."""


def worth_showing(error: BaseException | None) -> BaseException | None:
    """Return the error whose traceback tells more than `explain` does; None if there is none."""
    if isinstance(error, AppError):
        return error.__cause__
    return None if isinstance(error, (*_EXPLAINED, SystemExit)) else error


def explain(error: BaseException | None, api_url: str, directory: Path) -> tuple[str, bool]:
    """Return why a child gives up, in one line, and whether the same release could succeed on another try.

    ``error``: what the program ended with; None if it just ended. ``directory``: the release.
    """
    if error is None:
        return "the program ended by itself", True
    if isinstance(error, _FINAL):
        return str(error), False
    if isinstance(error, AppError):
        return str(error), error.__cause__ is not None and not hopeless(error.__cause__)
    if isinstance(error, SetupError):
        return str(error), not hopeless(error.error)
    if isinstance(error, KeyError) and error.args == ("DISCORD_TOKEN",):
        return f"the program ended with {told(error, directory)}: {NO_TOKEN}", False
    if isinstance(error, discord.LoginFailure):
        return "Discord refused the token (401): check the program's own, DISCORD_TOKEN or discord.token_file", False
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
        return f"Discord cannot be reached at {api_url}: {one_line(error)}{_proxy_hint()}", True
    if isinstance(error, discord.HTTPException):
        return f"Discord refused a request while the app started: {one_line(error)}", error.status >= 429
    return f"the program ended with {told(error, directory)}", not hopeless(error)


def _proxy_hint() -> str:
    names = " and ".join(proxies(os.environ))
    return f" ({names}: discord.py does not look at it, and takes a proxy as `proxy=` alone)" if names else ""


def told(error: BaseException, directory: Path) -> str:
    """Return an exception as one line, with the place in the release where it was raised, and a port in question."""
    what = f"sys.exit({error.code!r})" if isinstance(error, SystemExit) else one_line(error)
    port = port_of(error)
    if port is not None and str(port) not in what:
        what += f" (port {port})"
    if isinstance(error, SyntaxError):
        where = f" ({_short(error.filename, directory)}:{error.lineno})" if error.filename else ""
        return f"{type(error).__name__}: {error.msg}{where}"
    place = place_of(error, directory)
    return f"{what} ({place})" if place else what


def hopeless(error: BaseException) -> bool:
    """Whether the same release would fail again: a file of it cannot be parsed or imported."""
    return any(isinstance(link, ImportError | SyntaxError) for link in _chain(error))


def port_of(error: BaseException) -> int | None:
    """Return the port that an error "address already in use" is about, where it can be found."""
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno == errno.EADDRINUSE:
            named = re.search(r"\('[^']*', (\d+)", str(link))
            return int(named[1]) if named else _port_in_frames(link)
    return None


def _port_in_frames(error: BaseException) -> int | None:
    """Look for an address among the variables of the functions that raised: the text of `socket.bind` has no port."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        for value in list(frame.f_locals.values()):
            address = getattr(value, "__dict__", {}).get("server_address", value)
            if isinstance(address, tuple) and len(address) in (2, 4) and type(address[1]) is int and address[1]:
                return int(address[1])
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it; discord.py keeps the cause of a failed extension in ``original``."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = getattr(link, "original", None) or link.__cause__


def _short(file: str, directory: Path) -> str:
    return file.removeprefix(f"{directory}/")
