"""Faults do what they say to the sessions they name, count their hits and can be undone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from sandbox_client import Gateway

from bastion.sandbox import FaultError, Sandbox, SandboxSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    settings = SandboxSettings(guilds=2, skew=(0, 0), identify_window=0, invalid_session_delay=0)
    async with Sandbox(settings) as running:
        yield running


async def test_a_dropped_shard_sees_no_close_frame_and_can_resume(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as old, Gateway(sandbox) as new, Gateway(sandbox) as again:
        await old.identify()
        await new.identify()
        assert sandbox.faults.drop_shard(0, which="newest").hits == 1
        assert await new.close_code() == 1006
        assert [session.connected for session in sandbox.gateway.sessions] == [True, False]
        await again.resume(new)
        await again.expect(t="RESUMED")


async def test_which_session_is_hit_can_be_chosen_by_age_or_number(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as a, Gateway(sandbox) as b, Gateway(sandbox) as c:
        for client in (a, b, c):
            await client.identify()
        sandbox.faults.close(0, 4001, which=1)
        assert await b.close_code() == 4001
        sandbox.faults.close(0, 4002, which="oldest")
        assert await a.close_code() == 4002
        assert await c.silent(0.05)
        assert sandbox.faults.close(5, 4000).hits == 0


async def test_op_7_asks_to_reconnect_and_op_9_ends_or_keeps_the_session(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as client:
        await client.identify()
        sandbox.faults.reconnect(0)
        await client.expect(op=7)
        sandbox.faults.invalidate(0, resumable=True)
        assert (await client.expect(op=9))["d"] is True
        assert len(sandbox.gateway.sessions) == 1
        sandbox.faults.invalidate(0)
        assert (await client.expect(op=9))["d"] is False
        assert not sandbox.gateway.sessions
        await client.send_identify()
        await client.expect(t="READY")


async def test_a_withheld_ready_is_silence_until_it_is_undone(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as client, Gateway(sandbox) as other, Gateway(sandbox) as later:
        fault = sandbox.faults.withhold_ready([0])
        await client.ask_identify(shard=0, shards=2)
        await other.ask_identify(shard=1, shards=2)
        await other.expect(t="READY")
        sandbox.emit_message()
        assert await client.silent(0.1)
        await client.send(1, None)
        await client.expect(op=11)
        fault.undo()
        assert fault.hits == 1
        await later.ask_identify(shard=0, shards=2)
        await later.expect(t="READY")


async def test_a_withheld_resume_is_silence_and_the_session_can_still_be_resumed(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as first, Gateway(sandbox) as second, Gateway(sandbox) as third:
        await first.identify()
        await first.leave(4000)
        entry = sandbox.emit_message()
        with sandbox.faults.withhold_resume() as fault:
            await second.resume(first)
            assert await second.silent(0.1)
            assert fault.hits == 1
        await third.resume(first)
        assert (await third.expect(t="MESSAGE_CREATE"))["d"]["id"] == entry.key
        await third.expect(t="RESUMED")


async def test_identifies_are_refused_as_often_as_asked_without_being_violations(sandbox: Sandbox) -> None:
    sandbox.faults.refuse_identify(2)
    async with Gateway(sandbox) as client:
        await client.expect(op=10)
        for _ in range(2):
            await client.send_identify()
            assert (await client.expect(op=9))["d"] is False
        await client.send_identify()
        await client.expect(t="READY")
    assert not sandbox.gateway.violations


async def test_a_deaf_session_is_ready_and_then_hears_nothing(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as hearing, Gateway(sandbox) as deaf:
        await hearing.identify()
        with sandbox.faults.deaf_sessions():
            await deaf.identify()
        entry = sandbox.emit_message()
        await hearing.expect(t="MESSAGE_CREATE")
        assert await deaf.silent(0.1)
        assert entry.audience == 1


async def test_a_new_session_can_kick_the_old_one_of_its_shard(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as old, Gateway(sandbox) as elsewhere, Gateway(sandbox) as new:
        await old.identify(shard=0, shards=2)
        await elsewhere.identify(shard=1, shards=2)
        sandbox.faults.kick_old_sessions(count=1)
        await new.identify(shard=0, shards=2)
        assert (await old.expect(op=9))["d"] is False
        assert [session.shard for session in sandbox.gateway.sessions] == [1, 0]


async def test_a_revoked_token_ends_sessions_and_is_refused_until_undone(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as client:
        await client.identify()
        with sandbox.faults.revoke_token() as fault:
            assert await client.close_code() == 4004
            assert fault.hits == 1
            async with Gateway(sandbox) as other:
                await other.ask_identify()
                assert await other.close_code() == 4004
    async with Gateway(sandbox) as good:
        await good.identify()


async def test_clear_undoes_everything(sandbox: Sandbox) -> None:
    sandbox.faults.withhold_ready()
    sandbox.faults.revoke_token()
    sandbox.faults.clear()
    assert not sandbox.faults.armed
    async with Gateway(sandbox) as client:
        await client.identify()


def test_senseless_faults_are_refused() -> None:
    sandbox = Sandbox()
    calls: list[Callable[[], object]] = [
        lambda: sandbox.faults.close(0, 99),
        lambda: sandbox.faults.rest_status(200),
        lambda: sandbox.faults.slow_rest(-1),
        lambda: sandbox.faults.refuse_identify(0),
    ]
    for call in calls:
        with pytest.raises(FaultError):
            call()


async def test_nothing_is_left_behind_when_a_sandbox_ends_with_clients_connected() -> None:
    before = asyncio.all_tasks()
    async with Sandbox(SandboxSettings(guilds=1)) as sandbox:
        client = await Gateway(sandbox).__aenter__()
        await client.identify()
        sandbox.traffic.start(rate=100)
    assert await client.close_code() == 1001
    await client.leave(1000)
    assert asyncio.all_tasks() == before
