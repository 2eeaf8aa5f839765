"""The sandbox's gateway behaves as Discord's: sessions, order, limits, RESUME, close codes, intents, compression."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sandbox_client import ALL, CONTENT, MEMBERS, Gateway

from bastion.sandbox import Sandbox, SandboxSettings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    settings = SandboxSettings(guilds=4, skew=(0, 0), identify_window=0, invalid_session_delay=0)
    async with Sandbox(settings) as running:
        yield running


async def messages(client: Gateway, count: int) -> list[str]:
    return [(await client.expect(t="MESSAGE_CREATE"))["d"]["id"] for _ in range(count)]


async def test_ready_lists_the_shards_guilds_as_unavailable_then_each_becomes_available(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as client:
        await client.ask_identify(shard=1, shards=2)
        ready = await client.expect(t="READY")
        assert ready["s"] == 1
        assert ready["d"]["resume_gateway_url"] == sandbox.resume_url
        assert ready["d"]["shard"] == [1, 2]
        expected = [str(number) for number in sandbox.world.guilds if (number >> 22) % 2 == 1]
        assert [guild["id"] for guild in ready["d"]["guilds"]] == expected
        assert all(guild["unavailable"] for guild in ready["d"]["guilds"])
        created = [await client.expect(t="GUILD_CREATE") for _ in expected]
        assert [one["d"]["id"] for one in created] == expected
        assert all(one["d"]["unavailable"] is False for one in created)
        assert [one["s"] for one in created] == list(range(2, 2 + len(expected)))


@pytest.mark.parametrize("compress", [None, "zlib-stream", "zstd-stream"])
async def test_a_client_reads_the_same_events_whatever_the_compression(sandbox: Sandbox, compress: str | None) -> None:
    async with Gateway(sandbox, compress=compress) as client:
        await client.identify()
        sent = [sandbox.emit_message(content=f"{index} ⚡").key for index in range(20)]
        assert await messages(client, 20) == sent


async def test_an_unknown_compression_is_refused(sandbox: Sandbox) -> None:
    async with Gateway(sandbox, compress="lz4-stream") as client:
        assert await client.close_code() == 4002


async def test_sessions_of_different_shard_counts_each_receive_every_event_once(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as whole, Gateway(sandbox) as even, Gateway(sandbox) as odd, Gateway(sandbox) as twin:
        await whole.identify()
        await twin.identify()
        await even.identify(shard=0, shards=2)
        await odd.identify(shard=1, shards=2)
        entries = [sandbox.emit_message() for _ in range(40)]
        sent = [entry.key for entry in entries]
        halves = {0: [e.key for e in entries if ((e.guild_id or 0) >> 22) % 2 == 0]}
        halves[1] = [key for key in sent if key not in halves[0]]
        assert halves[0]
        assert halves[1]
        assert await messages(whole, 40) == sent
        assert await messages(twin, 40) == sent
        assert await messages(even, len(halves[0])) == halves[0]
        assert await messages(odd, len(halves[1])) == halves[1]
        assert all(entry.audience == 3 for entry in entries)


async def test_direct_messages_reach_shard_zero_only(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as zero, Gateway(sandbox) as one:
        await zero.identify(shard=0, shards=2)
        await one.identify(shard=1, shards=2)
        entry = sandbox.emit_direct_message(content="psst")
        received = (await zero.expect(t="MESSAGE_CREATE"))["d"]
        assert (received["id"], received["content"]) == (entry.key, "psst")
        assert "guild_id" not in received
        assert await one.silent(0.1)


async def test_a_session_receives_exactly_what_is_emitted_after_its_ready(sandbox: Sandbox) -> None:
    sandbox.settings.skew = (0.0, 0.05)
    sandbox.traffic.start(rate=400, mix={"message": 1})
    async with Gateway(sandbox) as client:
        await client.identify()
        session = sandbox.gateway.sessions[-1]
        await asyncio.wait_for(_received_all(client, sandbox, session.ready_at or 0, 100), 10)
    await sandbox.traffic.stop()


async def _received_all(client: Gateway, sandbox: Sandbox, ready_at: float, count: int) -> None:
    received = await messages(client, count)
    due = [entry.key for entry in sandbox.journal.entries if entry.audience][:count]
    assert received == due
    assert all(entry.at >= ready_at for entry in sandbox.journal.entries if entry.audience)


async def test_skew_delays_two_sessions_differently_and_keeps_the_order_of_each(sandbox: Sandbox) -> None:
    sandbox.settings.skew = (0.0, 0.2)
    async with Gateway(sandbox) as one, Gateway(sandbox) as two:
        await one.identify()
        await two.identify()
        reading = asyncio.gather(messages(one, 200), messages(two, 200))
        await sandbox.traffic.run(rate=200, seconds=1.0, spacing="even", mix={"message": 1})
        while len(sandbox.journal.entries) < 200:
            sandbox.emit_message()
        sent = [entry.key for entry in sandbox.journal.entries[:200]]
        assert list(await reading) == [sent, sent]
        apart = [abs(e.delivered[0][1] - e.delivered[1][1]) for e in sandbox.journal.entries[:200]]
        assert max(apart) > 0.03
        delays = [at - e.at for e in sandbox.journal.entries[:200] for _, at in e.delivered]
        assert min(delays) < 0.1
        assert max(delays) < 0.4


async def test_a_second_identify_in_a_buckets_window_is_refused_and_counted(sandbox: Sandbox) -> None:
    sandbox.settings.identify_window = 0.3
    sandbox.settings.max_concurrency = 2
    async with Gateway(sandbox) as a, Gateway(sandbox) as b, Gateway(sandbox) as c:
        await a.identify(shard=0, shards=4)
        await b.identify(shard=1, shards=4)
        await c.ask_identify(shard=2, shards=4)
        assert (await c.expect(op=9))["d"] is False
        assert [(one.shard, one.bucket) for one in sandbox.gateway.violations] == [(2, 0)]
        wait = sandbox.gateway.identifies[0].at + 0.3 - time.monotonic()
        await asyncio.sleep(max(0, wait))
        await c.send_identify(shard=2, shards=4)
        await c.expect(t="READY")
    assert len(sandbox.gateway.identifies) == 4


async def test_the_daily_limit_refuses_and_can_reset_the_token(sandbox: Sandbox) -> None:
    sandbox.settings.identifies_per_day = 1
    async with Gateway(sandbox) as first, Gateway(sandbox) as second:
        await first.identify()
        assert sandbox.gateway.session_start_limit()["remaining"] == 0
        await second.ask_identify()
        assert (await second.expect(op=9))["d"] is False
        assert sandbox.gateway.violations[0].reason == "daily limit"
        sandbox.settings.reset_token_past_limit = True
        await second.send_identify()
        assert await first.close_code() == 4004


async def test_resume_brings_what_was_missed_in_order_and_counts_on(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as client, Gateway(sandbox) as again:
        await client.identify()
        before = sandbox.emit_message().key
        assert await messages(client, 1) == [before]
        await client.leave(4000)
        await sandbox.gateway.wait_for(lambda: not sandbox.gateway.sessions[0].connected)
        missed = [sandbox.emit_message().key for _ in range(5)]
        await again.resume(client)
        assert await messages(again, 5) == missed
        resumed = await again.expect(t="RESUMED")
        assert resumed["s"] == client.seq + 6
        after = sandbox.emit_message().key
        assert await messages(again, 1) == [after]
    assert len(sandbox.gateway.identifies) == 1


async def test_resume_fails_when_the_replay_buffer_has_overflowed(sandbox: Sandbox) -> None:
    sandbox.settings.replay_buffer = 3
    async with Gateway(sandbox) as client, Gateway(sandbox) as again:
        await client.identify()
        await client.leave(4000)
        await sandbox.gateway.wait_for(lambda: not sandbox.gateway.sessions[0].connected)
        for _ in range(4):
            sandbox.emit_message()
        await again.resume(client)
        assert (await again.expect(op=9))["d"] is False
        assert not sandbox.gateway.sessions


@pytest.mark.parametrize("code", [1000, 1001])
async def test_a_client_that_closes_normally_ends_its_session(sandbox: Sandbox, code: int) -> None:
    async with Gateway(sandbox) as client, Gateway(sandbox) as again:
        await client.identify()
        await client.leave(code)
        await sandbox.gateway.wait_for(lambda: not sandbox.gateway.sessions)
        await again.resume(client)
        assert (await again.expect(op=9))["d"] is False


async def test_a_session_that_nobody_resumes_expires(sandbox: Sandbox) -> None:
    sandbox.settings.session_resume_seconds = 0.1
    async with Gateway(sandbox) as client:
        await client.identify()
    await sandbox.gateway.wait_for(lambda: not sandbox.gateway.sessions)


async def test_a_sequence_from_the_future_is_4007(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as client, Gateway(sandbox) as again:
        await client.identify()
        await client.leave(4000)
        await again.resume(client, seq=10_000)
        assert await again.close_code() == 4007


async def test_resuming_a_session_that_has_a_socket_takes_it_over(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as client, Gateway(sandbox) as again:
        await client.identify()
        await again.resume(client)
        await again.expect(t="RESUMED")
        assert await client.close_code() == 4006
        sent = sandbox.emit_message().key
        assert await messages(again, 1) == [sent]


async def test_heartbeats_are_acknowledged_and_a_silent_client_is_closed_but_resumable(sandbox: Sandbox) -> None:
    sandbox.settings.heartbeat_interval = 0.2
    async with Gateway(sandbox) as client:
        hello = await client.expect(op=10)
        assert hello["d"]["heartbeat_interval"] == 200
        await client.send_identify()
        client.session_id = (await client.expect(t="READY"))["d"]["session_id"]
        await client.send(1, client.seq)
        await client.expect(op=11)
        assert await client.close_code() == 4000
        sandbox.settings.heartbeat_interval = 40
        async with Gateway(sandbox) as again:
            await again.resume(client)
            await again.expect(t="RESUMED")


async def test_bad_messages_are_closed_with_their_code(sandbox: Sandbox) -> None:
    cases: list[tuple[str | tuple[int, Any], int]] = [
        ("no json", 4002),
        ("[]", 4002),
        ('{"op": 1, "d": "' + "x" * 4096 + '"}', 4002),
        ((77, None), 4001),
        ((3, {}), 4003),
        ((2, None), 4002),
        ((6, {"token": "sandbox-token"}), 4002),
    ]
    for message, code in cases:
        async with Gateway(sandbox) as client:
            await client.expect(op=10)
            if isinstance(message, str):
                await client.socket.send_str(message)
            else:
                await client.send(*message)
            assert await client.close_code() == code, message


async def test_bad_identifies_are_closed_with_their_code(sandbox: Sandbox) -> None:
    sandbox.settings.disallowed_intents = MEMBERS
    sandbox.settings.guilds_per_shard = 3
    cases: list[tuple[dict[str, Any], int]] = [
        ({"token": "wrong"}, 4004),
        ({"shard": 2, "shards": 2}, 4010),
        ({"intents": 1}, 4011),
        ({"intents": "all", "shards": 2}, 4013),
        ({"intents": 1 << 30, "shards": 2}, 4013),
        ({"intents": MEMBERS, "shards": 2}, 4014),
    ]
    for values, code in cases:
        async with Gateway(sandbox) as client:
            await client.ask_identify(**values)
            assert await client.close_code() == code, values
    async with Gateway(sandbox, v="6") as client:
        assert await client.close_code() == 4012
    assert not sandbox.gateway.sessions
    assert not sandbox.gateway.identifies


async def test_identifying_twice_is_4005_and_sending_too_much_4008(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as client:
        await client.identify()
        await client.send_identify()
        assert await client.close_code() == 4005
    sandbox.settings.send_limit = 5
    async with Gateway(sandbox) as client:
        await client.identify()
        for _ in range(5):
            await client.send(1, None)
        assert await client.close_code() == 4008
        assert len(sandbox.gateway.sessions) == 2


async def test_intents_decide_which_events_come(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as typing_only, Gateway(sandbox) as all_of_them:
        await typing_only.identify(intents=1 << 11)
        await all_of_them.identify()
        sandbox.emit_message()
        joined = sandbox.emit_member_join()
        typed = sandbox.emit_typing()
        assert (await typing_only.receive() or {})["t"] == "TYPING_START"
        assert (typed.audience, joined.audience) == (2, 1)


async def test_without_the_content_intent_only_own_direct_and_mentioning_messages_keep_it(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as client:
        await client.identify(intents=ALL & ~CONTENT)
        asked = sandbox.emit_message(content="secret")
        sandbox.emit_message(content="hey you", mention_bot=True)
        sandbox.emit_direct_message(content="direct")
        sandbox.emit_edit(message=asked.message_id or 0, content="other secret")
        received = [(await client.receive() or {})["d"]["content"] for _ in range(4)]
        assert received == ["", "hey you", "direct", ""]


async def test_all_members_of_a_guild_are_sent_once_in_the_window(sandbox: Sandbox) -> None:
    guild = next(iter(sandbox.world.guilds.values()))
    asking = {"guild_id": str(guild.id), "query": "", "limit": 0, "nonce": "n"}
    async with Gateway(sandbox) as client, Gateway(sandbox) as other:
        await client.identify()
        await other.identify()
        await client.send(8, asking)
        chunk = (await client.expect(t="GUILD_MEMBERS_CHUNK"))["d"]
        assert {one["user"]["id"] for one in chunk["members"]} == {str(number) for number in guild.members}
        assert (chunk["chunk_count"], chunk["nonce"]) == (1, "n")
        assert list(sandbox.gateway.members_at) == [(sandbox.gateway.sessions[0].info.number, guild.id)]
        await other.send(8, asking)
        limited = (await other.expect(t="RATE_LIMITED"))["d"]
        assert limited["opcode"] == 8
        assert 0 < limited["retry_after"] <= 30
        someone = str(guild.owner_id)
        await other.send(8, {"guild_id": str(guild.id), "user_ids": [someone, "1"], "limit": 0})
        found = (await other.expect(t="GUILD_MEMBERS_CHUNK"))["d"]
        assert [one["user"]["id"] for one in found["members"]] == [someone]
        assert found["not_found"] == ["1"]
        assert len(sandbox.gateway.members_at) == 1


async def test_a_joined_guild_comes_without_the_key_unavailable(sandbox: Sandbox) -> None:
    async with Gateway(sandbox) as client:
        await client.identify()
        left = next(iter(sandbox.world.guilds))
        sandbox.emit_guild_leave(guild=left)
        assert (await client.expect(t="GUILD_DELETE"))["d"] == {"id": str(left)}
        sandbox.emit_guild_join(guild=left)
        back = (await client.expect(t="GUILD_CREATE"))["d"]
        assert back["id"] == str(left)
        assert "unavailable" not in back


async def test_sessions_are_marked_with_the_generation_of_their_user_agent(sandbox: Sandbox) -> None:
    async with Gateway(sandbox, generation=7) as client:
        await client.identify()
        assert sandbox.gateway.sessions[0].generation == 7
        assert sandbox.gateway.identifies[0].generation == 7
