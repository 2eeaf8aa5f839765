"""Health of a real installation: it says what is true while shards and generations come and go."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rig import ALL_KINDS, Rig, rig

from bastion.sandbox import SandboxSettings

pytestmark = pytest.mark.anyio

WINDOW = 0.25
QUICK = "from sharded_bot import ShardedBot\nclient = ShardedBot(guild_ready_timeout=0.5)\n"


@asynccontextmanager
async def installed(directory: Path) -> AsyncIterator[Rig]:
    settings = SandboxSettings(
        identify_window=WINDOW, member_request_window=0.0, recommended_shards=2, identifies_per_day=100_000
    )
    options = {
        "discord__identify_window": WINDOW,
        "health__listen": f"unix:{directory}/health.sock",
    }
    async with rig(directory, app="app:client", settings=settings, handler_ms="0-50", **options) as it:
        it.configure(bot__directory=str(it.release("app", QUICK)))
        yield it


async def readyz(it: Rig, holds: Callable[[int, dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask until something holds; there is no event to wait for outside of the supervisor."""
    async with asyncio.timeout(20):
        while True:
            code, body = await it.health("/readyz")
            if holds(code, said := json.loads(body)):
                return dict(said)
            await asyncio.sleep(0.02)


async def counters(it: Rig) -> dict[str, float]:
    code, body = await it.health("/metrics")
    assert code == 200
    return {
        f"{sample.name} {sorted(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(body)
        if family.type in ("counter", "histogram")
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


async def test_it_is_unready_while_a_shard_has_no_session_and_ready_again_after(tmp_path: Path) -> None:
    async with installed(tmp_path) as it:
        ended = await it.command("healthcheck")
        assert (ended.code, ended.err) == (
            3,
            f"supervisor: nothing answers at unix:{tmp_path}/health.sock: No such file or directory\n",
        )
        await it.start()
        ended = await it.command("healthcheck")
        assert (ended.code, ended.out, ended.err) == (0, "ready: every shard of generation 1\n", "")

        with it.sandbox.faults.withhold_ready([1]):
            it.sandbox.faults.invalidate(1, resumable=False)
            said = await readyz(it, lambda code, _: code == 503)
            assert [shard["shard"] for shard in said["not_ready"]] == [1]
            assert said["reason"] == "1 of 2 shards is not ready"
            assert (await it.health("/livez"))[0] == 200
            ended = await it.command("healthcheck")
            assert (ended.code, ended.err) == (1, "supervisor: not ready: 1 of 2 shards is not ready\n")
            it.sandbox.faults.clear()
            it.sandbox.faults.drop_shard(1)
        await readyz(it, lambda code, _: code == 200)
        assert (await it.command("healthcheck")).code == 0


async def test_counters_only_grow_over_reloads_and_a_crash(tmp_path: Path) -> None:
    async with installed(tmp_path) as it:
        await it.start()
        it.sandbox.traffic.start(rate=40, mix=ALL_KINDS)
        seen = [await counters(it)]
        assert (await it.reload())["result"] == "succeeded"
        seen.append(await counters(it))
        it.configure(bot__app="app:nothing")
        assert (await it.reload())["result"] == "failed"
        seen.append(await counters(it))
        it.configure(bot__app="app:client", handoff__session="overlap")
        assert (await it.reload())["result"] == "succeeded"
        seen.append(await counters(it))
        await it.sandbox.traffic.stop()
    for before, after in pairwise(seen):
        assert before.keys() <= after.keys()
        assert {name: (before[name], after[name]) for name in before if after[name] < before[name]} == {}
    last = seen[-1]
    count = "bastion_handoff_duration_seconds_count"
    assert last[f"{count} ['reload', 'succeeded']"] == 2
    assert last[f"{count} ['failed', 'reload']"] == 1
    assert last["bastion_events_handled_total []"] > seen[0]["bastion_events_handled_total []"]
    assert last["bastion_claims_total ['won']"] > 0


async def test_an_address_that_is_taken_ends_the_start_before_any_bot(tmp_path: Path) -> None:
    async with installed(tmp_path) as it:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        it.configure(health__listen=f"127.0.0.1:{port}")
        ended = await it.command("run")
        server.close()
        await server.wait_closed()
    assert ended.code == 78
    assert f"supervisor: health.listen: nothing can listen at 127.0.0.1:{port}: pid " in ended.err
    assert "spawned" not in ended.out + ended.err
    assert "Traceback" not in ended.err


async def test_a_reload_leaves_the_address_as_it_was(tmp_path: Path) -> None:
    async with installed(tmp_path) as it:
        await it.start()
        it.configure(health__listen="")
        assert (await it.reload())["result"] == "succeeded"
        assert (await it.health("/readyz"))[0] == 200


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("bastion.supervisor.run, bastion.supervisor.health", {"discord", "aiohttp", "bot", "rich"}),
        ("supervisor.cli, supervisor.healthcheck", {"msgspec", "anyio", "asyncio", "http", "ssl", "psutil", "h11"}),
    ],
)
async def test_what_it_needs_little_for_it_imports_little_for(modules: str, absent: set[str]) -> None:
    code = f"import sys, {modules}; print(*sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert absent.isdisjoint(out.decode().split())


async def test_a_re_executed_supervisor_answers_at_the_same_address(tmp_path: Path) -> None:
    async with installed(tmp_path) as it:
        await it.start()
        assert it.process is not None
        it.process.send_signal(signal.SIGUSR2)
        await it.logged("re-executed: supervisor")
        await readyz(it, lambda code, said: code == 200 and said["generation"] == 2)
        assert (await it.health("/metrics"))[0] == 200
        assert await it.stop() == 0
        assert not (tmp_path / "health.sock").exists()
