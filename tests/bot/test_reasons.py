"""What a child says when it gives up: in one line, with a traceback only where that tells more."""

from __future__ import annotations

import socket
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import aiohttp
import discord
import pytest

from bastion.bot import apps, internals
from bastion.bot.ending import in_program
from bastion.bot.program import ProgramError
from bastion.bot.reasons import NoTokenError, SetupError, TwoClientsError, explain, port_of, told, worth_showing
from bastion.bot.shards import ShardsError

API = "http://127.0.0.1:9/api/v10"
HERE = Path(__file__).parent


def answer(status: int) -> Any:
    return SimpleNamespace(status=status, reason="because")


def closed(code: int) -> discord.ConnectionClosed:
    return discord.ConnectionClosed(SimpleNamespace(close_code=code), shard_id=0)  # type: ignore[arg-type]


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (apps.AppError("the app is no app"), "the app is no app", False),
        (ShardsError("too many shards"), "too many shards", False),
        (SetupError(KeyError("x"), HERE), "setup_hook raised KeyError: 'x'", True),
        (SetupError(ImportError("no cog"), HERE), "setup_hook raised ImportError: no cog", False),
        (ProgramError("no such file"), "no such file", False),
        (
            NoTokenError("main.py"),
            "bot.program = main.py logs in and has no token: give it a token of its own, or set DISCORD_TOKEN, "
            "discord.token_file or bot.env_file",
            False,
        ),
        (
            TwoClientsError(KeyError(), OSError()),
            "the program connects two clients, a KeyError and a OSError: the supervisor hands over one. Run the other "
            "one as a program of its own",
            False,
        ),
        (
            discord.LoginFailure("Improper token has been passed."),
            "Discord refused the token (401): check the program's own, DISCORD_TOKEN or discord.token_file",
            False,
        ),
        (
            discord.PrivilegedIntentsRequired(0),
            "Discord refused the intents (close code 4014): the app asks for privileged ones that are not enabled on "
            "the Bot page of the Developer Portal",
            False,
        ),
        (closed(4004), "Discord refused the token (close code 4004): it was reset or is not this bot's", False),
        (closed(4010), "Discord refused the shard (close code 4010): shard id and count do not fit", False),
        (closed(4011), "Discord requires more shards (close code 4011): set bot.shards higher, or to auto", False),
        (closed(4012), "Discord refused the gateway version (close code 4012): update discord.py", False),
        (
            closed(4013),
            "Discord refused the intents (close code 4013): the app asks for some that do not exist",
            False,
        ),
        (closed(4000), "Discord closed the gateway (close code 4000)", True),
        (
            aiohttp.ClientConnectionError("refused"),
            f"Discord cannot be reached at {API}: ClientConnectionError: refused",
            True,
        ),
        (
            discord.GatewayNotFound(),
            f"Discord cannot be reached at {API}: GatewayNotFound: The gateway to connect to discord was not found.",
            True,
        ),
        (
            discord.Forbidden(answer(403), "no"),
            "Discord refused a request while the app started: Forbidden: 403 because (error code: 0): no",
            False,
        ),
        (
            discord.HTTPException(answer(429), "slow down"),
            "Discord refused a request while the app started: HTTPException: 429 because (error code: 0): slow down",
            True,
        ),
        (
            discord.DiscordServerError(answer(503), "ill"),
            "Discord refused a request while the app started: DiscordServerError: 503 because (error code: 0): ill",
            True,
        ),
        (KeyError("x"), "the program ended with KeyError: 'x'", True),
        (
            KeyError("DISCORD_TOKEN"),
            "the program ended with KeyError: 'DISCORD_TOKEN': give it a token of its own, or set DISCORD_TOKEN, "
            "discord.token_file or bot.env_file",
            False,
        ),
        (RuntimeError("first line\nsecond line"), "the program ended with RuntimeError: first line", True),
        (SystemExit(3), "the program ended with sys.exit(3)", True),
        (ConnectionRefusedError("no database"), "the program ended with ConnectionRefusedError: no database", True),
        (ImportError("no such module"), "the program ended with ImportError: no such module", False),
        (caused(RuntimeError("a"), SyntaxError("b")), "the program ended with RuntimeError: a", False),
        (None, "the program ended by itself", True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_each_error_is_explained_in_one_line_that_says_whether_another_try_could_succeed(
    error: BaseException | None, reason: str, retryable: bool
) -> None:
    assert explain(error, API, HERE) == (reason, retryable)


EXPLAINED = [
    ShardsError("x"),
    closed(4004),
    discord.GatewayNotFound(),
    discord.HTTPException(answer(500), "x"),
    discord.LoginFailure("x"),
    discord.PrivilegedIntentsRequired(0),
    aiohttp.ClientConnectionError("x"),
]


@pytest.mark.parametrize("error", EXPLAINED, ids=lambda error: type(error).__name__)
def test_an_error_that_its_explanation_says_all_about_has_no_traceback(error: BaseException) -> None:
    assert worth_showing(error) is None


def test_an_error_of_no_known_kind_keeps_its_traceback() -> None:
    error = KeyError("x")
    assert worth_showing(error) is error


def frames(trace: TracebackType | None) -> list[str]:
    return [Path(frame.filename).name for frame in traceback.extract_tb(trace)]


@pytest.mark.anyio
async def test_the_traceback_of_an_app_that_cannot_be_imported_begins_in_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    (tmp_path / "app_that_imports.py").write_text("import helper_that_raises\n")
    (tmp_path / "helper_that_raises.py").write_text("def deep():\n    1 / 0\ndeep()\n")
    with pytest.raises(apps.AppError) as refusal:
        await apps.load("app_that_imports:client", directory=tmp_path)
    found = worth_showing(refusal.value)
    assert isinstance(found, ZeroDivisionError)
    own = [name for name in frames(in_program(found.__traceback__, tmp_path)) if not name.startswith("<frozen")]
    assert own == ["app_that_imports.py", "helper_that_raises.py", "helper_that_raises.py"]


@pytest.mark.anyio
async def test_what_a_setup_hook_raises_reaches_the_program_as_it_is() -> None:
    class App(discord.Client):
        async def setup_hook(self) -> None:
            raise KeyError("x")

    client, failed = App(intents=discord.Intents.none()), list[Exception]()
    internals.around_setup_hook(client, failed.append)
    with pytest.raises(KeyError) as raised:
        await client.setup_hook()
    assert failed == [raised.value]


def test_a_port_that_is_taken_is_named_though_the_error_does_not_say_it() -> None:
    class Server:
        def __init__(self, port: int) -> None:
            self.server_address = ("127.0.0.1", port)
            with socket.socket() as bound:
                bound.bind(self.server_address)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use") as refused:
            Server(port)
    assert port_of(refused.value) == port
    assert told(refused.value, HERE).startswith(
        f"OSError: [Errno 98] Address already in use (port {port}) (test_reasons.py:"
    )
    said = OSError(98, "error while attempting to bind on address ('::', 8080, 0, 0): address already in use")
    assert port_of(said) == 8080


def test_a_proxy_that_discord_py_does_not_look_at_is_named_where_discord_cannot_be_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy:3128")
    reason, _ = explain(aiohttp.ClientConnectionError("refused"), API, Path("/release"))
    assert reason.endswith("(HTTPS_PROXY: discord.py does not look at it, and takes a proxy as `proxy=` alone)")
    assert "secret" not in reason
