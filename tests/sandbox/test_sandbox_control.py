"""The control API and the command line: another process drives a sandbox."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner
from sandbox_client import Gateway

from bastion.sandbox import Sandbox, SandboxSettings
from bastion.sandbox.__main__ import main
from bastion.sandbox.snowflake import created_at

pytestmark = pytest.mark.anyio


class Control:
    """Calls the control API."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url = url + "/sandbox/"
        self.http = http

    async def get(self, path: str) -> Any:
        async with self.http.get(self.url + path) as response:
            assert response.status == 200, await response.text()
            return await (response.json() if response.content_type == "application/json" else response.text())

    async def post(self, path: str, body: Any, status: int = 200) -> Any:
        async with self.http.post(self.url + path, json=body) as response:
            assert response.status == status, await response.text()
            return None if status == 204 else await response.json()


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(guilds=2, skew=(0, 0), identify_window=0)) as running:
        yield running


@pytest.fixture
async def control(sandbox: Sandbox) -> AsyncIterator[Control]:
    async with aiohttp.ClientSession() as http:
        yield Control(sandbox.url, http)


async def test_an_emitted_event_that_is_reported_makes_a_clean_verdict(control: Control) -> None:
    await control.post("expect", {"kinds": ["message"]})
    entry = await control.post("emit", {"kind": "message", "content": "hi"})
    assert (await control.get("verdict"))["lost"] == 1
    await control.post("handled", {"kind": "message", "key": entry["key"], "by": 2}, status=204)
    verdict = await control.get("verdict?settle=5")
    assert (verdict["clean"], verdict["handled_once"], verdict["by_generation"]) == (True, 1, {"2": 1})
    assert "message" in await control.get("verdict?format=text")


async def test_ids_given_back_as_text_can_be_used_in_the_next_event(control: Control) -> None:
    entry = await control.post("emit", {"kind": "command_message", "content": "<x>"})
    assert entry["kind"] == "command_message"
    edited = await control.post("emit", {"kind": "edit", "message": entry["message_id"]})
    assert edited["key"].startswith(entry["key"] + ":")


async def test_the_state_shows_sessions_identifies_and_calls_but_no_token(sandbox: Sandbox, control: Control) -> None:
    async with Gateway(sandbox, generation=3) as client:
        await client.identify(shard=1, shards=2)
        state = await control.get("state")
        session = state["sessions"][0]
        assert (session["shard"], session["num_shards"], session["generation"]) == (1, 2, 3)
        assert session["connected"] is True
        assert [(one["shard"], one["violation"]) for one in state["identifies"]] == [(1, False)]
        assert state["violations"] == []
        assert sandbox.token not in json.dumps(state)


async def test_traffic_is_started_and_stopped(sandbox: Sandbox, control: Control) -> None:
    started = await control.post(
        "traffic", {"rate": 200, "mix": {"command_message": 1}, "options": {"commands": ["!x"]}}
    )
    assert started == {"running": True}
    await sandbox.journal.until(lambda: len(sandbox.journal.entries) >= 10)
    stopped = await control.post("traffic", {"rate": 0})
    assert stopped["emitted"]["command_message"] >= 10
    assert sandbox.journal.entries[0].detail["content"] == "!x"


async def test_faults_are_armed_and_undone(sandbox: Sandbox, control: Control) -> None:
    armed = await control.post("faults", {"kind": "rest_status", "status": 500, "path": "/users/*"})
    async with control.http.get(sandbox.api_url + "/users/@me") as response:
        assert response.status == 500
    assert (await control.get("state"))["faults"][0]["hits"] == 1
    assert (await control.post("faults", {"undo": armed["id"]}))["hits"] == 1
    assert (await control.get("state"))["faults"] == []
    assert await control.post("faults", {"clear": True}) == {"cleared": True}


async def test_settings_are_changed(sandbox: Sandbox, control: Control) -> None:
    changed = await control.post("settings", {"recommended_shards": 4, "skew": [0, 0.1]})
    assert (changed["recommended_shards"], sandbox.settings.skew) == (4, (0, 0.1))
    assert "token" not in changed


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("emit", {"kind": "nope"}, "unknown kind 'nope'"),
        ("emit", {"kind": "message", "colour": "red"}, "unexpected keyword argument 'colour'"),
        ("emit", {"kind": "edit", "message": 1}, "no message 1"),
        ("faults", {"kind": "nope"}, "unknown fault 'nope'"),
        ("faults", {"undo": 99}, "no armed fault"),
        ("settings", {"nope": 1}, "unknown setting 'nope'"),
        ("traffic", {"rate": -1}, "rate must be"),
        ("traffic", {"rate": 1, "speed": 2}, "unknown keys: speed"),
        ("expect", {"kinds": ["nope"]}, "unknown kinds: nope"),
        ("handled", {"kind": "message"}, "a report needs kind and key"),
        ("emit", [], "must be a JSON object"),
    ],
)
async def test_bad_requests_are_400_with_the_reason(control: Control, path: str, body: Any, words: str) -> None:
    assert words in (await control.post(path, body, status=400))["error"]


async def test_the_command_runs_until_a_signal_and_prints_the_verdict() -> None:
    arguments = ["-m", "bastion.sandbox", "--guilds", "1", "--rate", "50", "--mix", "command_message=1", "--json"]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    greeting = json.loads(await asyncio.wait_for(process.stdout.readline(), 15))
    async with aiohttp.ClientSession() as http:
        async with http.get(greeting["api_url"] + "/users/@me", headers={"Authorization": "Bot sandbox-token"}) as me:
            assert me.status == 200
        control = Control(greeting["control_url"].removesuffix("/sandbox"), http)
        for _ in range(500):
            if (await control.get("verdict"))["emitted"]:
                break
            await asyncio.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    verdict = json.loads(await asyncio.wait_for(process.stdout.readline(), 15))
    assert verdict["lost"] == verdict["emitted"] > 0
    assert await process.wait() == 0


async def test_the_command_ends_by_itself_after_its_seconds() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bastion.sandbox", "--seconds", "0.2", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 0
    assert b"api/v10" in output
    assert b"emitted" in output


@pytest.mark.parametrize("redirected", [">/dev/full", ">&-", ">/dev/full 2>&1", ">&- 2>&- <&-"])
async def test_full_or_closed_streams_change_nothing_about_its_result(redirected: str) -> None:
    command = f'exec "$0" -m bastion.sandbox --seconds 0.2 {redirected}'
    process = await asyncio.create_subprocess_exec("sh", "-c", command, sys.executable)
    assert await asyncio.wait_for(process.wait(), 15) == 0


@pytest.mark.usefixtures("own_signals")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--guilds", "0"], "guilds must be between"),
        (["--host", "0.0.0.0"], "loopback"),
        (["--seconds", "0"], "must be above 0"),
        (["--mix", "message=much"], "is not kind=weight"),
        (["--rate", "1", "--mix", "nope=1"], "unknown kinds in mix"),
    ],
)
def test_bad_flags_are_a_usage_error(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert words in result.output


async def test_a_port_that_is_taken_is_one_clear_line(sandbox: Sandbox) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bastion.sandbox", "--port", str(sandbox.port), stderr=asyncio.subprocess.PIPE
    )
    _, errors = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 1
    assert errors.decode().startswith(f"sandbox: cannot listen on 127.0.0.1:{sandbox.port}")
    assert errors.count(b"\n") == 1


@pytest.mark.parametrize("ahead", [60.0, 0.0, -60.0])
async def test_ids_are_made_by_a_clock_that_may_be_ahead_or_behind(ahead: float) -> None:
    async with Sandbox(SandboxSettings(clock_offset=ahead)) as sandbox:
        made = created_at(int(sandbox.emit_message().key))
        assert made - time.time() == pytest.approx(ahead, abs=5)
