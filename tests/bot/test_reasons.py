"""What a child says when it gives up: in one line, with a traceback only where that tells more."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import discord
import pytest

from bastion.bot import apps, internals
from bastion.bot.reasons import SetupError, explain, origin
from bastion.bot.shards import ShardsError

API = "http://127.0.0.1:9/api/v10"


def answer(status: int) -> Any:
    return SimpleNamespace(status=status, reason="because")


def closed(code: int) -> discord.ConnectionClosed:
    return discord.ConnectionClosed(SimpleNamespace(close_code=code), shard_id=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "reason", "retryable"),
    [
        (apps.AppError("the app is no app"), "the app is no app", False),
        (ShardsError("too many shards"), "too many shards", False),
        (SetupError("setup_hook raised KeyError: 'x'"), "setup_hook raised KeyError: 'x'", False),
        (
            discord.LoginFailure("Improper token has been passed."),
            "Discord refused the token (401): check DISCORD_TOKEN or discord.token_file",
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
        (KeyError("x"), "the app ended with KeyError: 'x'", True),
        (RuntimeError("first line\nsecond line"), "the app ended with RuntimeError: first line", True),
        (SystemExit(3), "the app ended with SystemExit: 3", True),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_each_error_is_explained_in_one_line_that_says_whether_another_try_could_succeed(
    error: BaseException, reason: str, retryable: bool
) -> None:
    assert explain(error, API) == (reason, retryable)


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
    assert origin(error) is None


def test_an_error_of_no_known_kind_keeps_its_traceback() -> None:
    error = KeyError("x")
    assert origin(error) is error


def frames(error: BaseException | None) -> list[str]:
    assert error is not None
    return [Path(frame.filename).name for frame in traceback.extract_tb(error.__traceback__)]


@pytest.mark.anyio
async def test_the_traceback_of_an_app_that_cannot_be_imported_begins_in_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    (tmp_path / "app_that_imports.py").write_text("import helper_that_raises\n")
    (tmp_path / "helper_that_raises.py").write_text("def deep():\n    1 / 0\ndeep()\n")
    with pytest.raises(apps.AppError) as refusal:
        apps.load("app_that_imports:client", directory=tmp_path)
    found = origin(refusal.value)
    assert isinstance(found, ZeroDivisionError)
    own = [name for name in frames(found) if not name.startswith("<frozen")]
    assert own == ["app_that_imports.py", "helper_that_raises.py", "helper_that_raises.py"]
    assert frames(found)[0] == "app_that_imports.py"


@pytest.mark.anyio
async def test_the_traceback_of_a_setup_hook_begins_in_the_app() -> None:
    class App(discord.Client):
        async def setup_hook(self) -> None:
            raise KeyError("x")

    client = App(intents=discord.Intents.none())
    internals.around_setup_hook(client, lambda error: SetupError(f"setup_hook raised {apps.one_line(error)}"))
    with pytest.raises(SetupError) as refusal:
        await client.setup_hook()
    found = origin(refusal.value)
    assert isinstance(found, KeyError)
    assert frames(found) == ["test_reasons.py"]


def test_an_app_error_without_a_cause_has_no_traceback() -> None:
    assert origin(apps.AppError("no such module")) is None
