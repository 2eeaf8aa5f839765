"""Faults do what they say to the sessions they name, count their hits and can be undone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import aiohttp
import pytest
from sandbox_client import Gateway

from bastion.sandbox import FaultError, Nonsense, Refusal, Sandbox, SandboxSettings

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


@pytest.mark.parametrize("how", ["invalid", 4007, 4009])
async def test_a_refused_resume_ends_the_session(sandbox: Sandbox, how: Refusal) -> None:
    async with Gateway(sandbox) as first, Gateway(sandbox) as second, Gateway(sandbox) as third:
        await first.identify()
        await first.leave(4000)
        assert sandbox.gateway.sessions
        fault = sandbox.faults.refuse_resume(how, count=1)
        await second.resume(first)
        if how == "invalid":
            assert (await second.expect(op=9))["d"] is False
        else:
            assert await second.close_code() == how
        assert (fault.hits, sandbox.gateway.sessions) == (1, [])
        await third.resume(first)
        assert (await third.expect(op=9))["d"] is False


async def test_a_resume_may_be_refused_late(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as first, Gateway(sandbox) as second:
        await first.identify()
        await first.leave(4000)
        sandbox.faults.refuse_resume(after=0.1)
        began = asyncio.get_running_loop().time()
        await second.resume(first)
        await second.expect(op=9)
        assert asyncio.get_running_loop().time() - began >= 0.1


async def test_resumes_are_cut_for_a_while_and_the_session_outlives_it(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as first, Gateway(sandbox) as third:
        await first.identify()
        await first.leave(4000)
        with sandbox.faults.refuse_resume("cut") as fault:
            for _ in range(2):
                async with Gateway(sandbox) as second:
                    await second.resume(first)
                    assert await second.close_code() == 1006
        assert fault.hits == 2
        await third.resume(first)
        await third.expect(t="RESUMED")


async def test_a_resume_before_the_old_connection_has_closed_may_be_refused_and_then_changes_nothing(
    sandbox: Sandbox,
) -> None:
    async with Gateway(sandbox) as old, Gateway(sandbox) as new, Gateway(sandbox) as later:
        await old.identify()
        sandbox.faults.refuse_resume(early=True)
        await new.resume(old)
        assert (await new.expect(op=9))["d"] is False
        entry = sandbox.emit_message()
        assert (await old.expect(t="MESSAGE_CREATE"))["d"]["id"] == entry.key
        await old.leave(4000)
        await sandbox.gateway.wait_for(lambda: not sandbox.gateway.sessions[0].connected)
        await later.resume(old)
        await later.expect(t="RESUMED")


async def test_the_address_for_resumes_can_fail_alone(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as first, Gateway(sandbox) as there:
        ready = await first.identify()
        assert ready["resume_gateway_url"] not in ("", sandbox.gateway_url)
        await first.leave(4000)
        with sandbox.faults.resume_address_status(503) as fault:
            with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
                async with Gateway(sandbox, url=ready["resume_gateway_url"]):
                    pass
            assert fault.hits == 1
            await there.resume(first)
            await there.expect(t="RESUMED")
        async with Gateway(sandbox, url=ready["resume_gateway_url"]) as again:
            there.session_id = first.session_id
            await again.resume(there)
            await again.expect(t="RESUMED")


async def test_a_session_vanishes_without_a_word(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as first, Gateway(sandbox) as second:
        await first.identify()
        assert sandbox.faults.vanish(0).hits == 1
        assert await first.close_code() == 1006
        await second.resume(first)
        assert (await second.expect(op=9))["d"] is False


async def test_a_connection_that_asks_for_nothing_after_hello_is_closed(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as busy:
        await busy.identify()
        sandbox.settings.change({"hello_patience": 0.1})
        async with Gateway(sandbox) as idle:
            assert await idle.close_code() == 4003
        sandbox.emit_message()
        await busy.expect(t="MESSAGE_CREATE")


async def test_a_gateway_far_away_answers_after_the_round_trip_and_in_order() -> None:
    settings = SandboxSettings(guilds=2, skew=(0, 0), identify_window=0, network_delay=0.1)
    async with Sandbox(settings) as sandbox:
        now = asyncio.get_running_loop().time
        began = now()
        async with Gateway(sandbox) as client:
            assert now() - began >= 0.2, "a handshake of TCP, and one of the websocket"
            await client.identify()
            sent = [sandbox.emit_message().key for _ in range(50)]
            began = now()
            heard = [(await client.expect(t="MESSAGE_CREATE"))["d"]["id"] for _ in sent]
            assert (heard, now() - began >= 0.05) == (sent, True)
            sandbox.faults.drop_shard(0)
            assert await client.close_code() == 1006


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


@pytest.mark.parametrize(("what", "comes"), [("text", "\x00 no payload {"), ("list", "[1, 2, 3]")])
async def test_nonsense_comes_as_it_is(sandbox: Sandbox, what: Nonsense, comes: str) -> None:
    async with Gateway(sandbox) as client:
        await client.identify()
        assert sandbox.faults.garble(0, what).hits == 1
        assert (await client.socket.receive(timeout=5)).data == comes
    with pytest.raises(FaultError, match="must be one of text, bytes, list"):
        sandbox.faults.garble(0, "nothing")  # type: ignore[arg-type]


async def test_a_muted_connection_is_open_and_silent_and_its_session_can_be_resumed(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as old, Gateway(sandbox) as new:
        await old.identify()
        assert sandbox.faults.mute(0).hits == 1
        sandbox.emit_message()
        assert await old.silent(0.05)
        await new.resume(old)
        await new.expect(t="MESSAGE_CREATE")
        await new.expect(t="RESUMED")
        assert await old.silent(0.05), "it is not even closed"


async def test_a_connection_gets_no_hello(sandbox: Sandbox) -> None:
    with sandbox.faults.withhold_hello(count=1) as fault:
        async with aiohttp.ClientSession() as session, session.ws_connect(sandbox.gateway_url) as silent:
            with pytest.raises(asyncio.TimeoutError):
                await silent.receive(timeout=0.1)
        assert fault.hits == 1


@pytest.mark.parametrize(("how", "op"), [("reconnect", 7), ("resumable", 9)])
async def test_a_resume_is_put_off_and_its_session_lives_on(sandbox: Sandbox, how: Refusal, op: int) -> None:
    async with Gateway(sandbox) as first, Gateway(sandbox) as second, Gateway(sandbox) as third:
        await first.identify()
        await first.leave(4000)
        with sandbox.faults.refuse_resume(how, count=1):
            await second.resume(first)
            await second.expect(op=op)
        await third.resume(first)
        await third.expect(t="RESUMED")
