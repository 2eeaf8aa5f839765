"""The pipe's messages: what goes in comes out, and what is not a message is refused."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bastion import wire
from bastion.wire import LineBuffer, WireError

FROM_CHILD: list[wire.FromChild] = [
    wire.Hello(pid=12, protocol=wire.PROTOCOL, versions={"discord.py": "2.4"}),
    wire.Identify(shard=3),
    wire.Limits(total=1000, remaining=998, reset_after=12.5, max_concurrency=16, shards=32),
    wire.Shard(id=3, state="connecting"),
    wire.Shard(id=3, state="ready", latency_ms=41.5),
    wire.Ready(shards=4, guilds=120),
    wire.Role(role="draining"),
    wire.Serving(generation=2, claims=True),
    wire.Beat(n=4, loop_lag_ms=0.3, in_flight=2, handled=99, latencies={0: 41.0}, claims=wire.Claims(won=5)),
    wire.Lingering(views=2, conversations=1),
    wire.Drained(finished=3, cut=["on_message: ünïcode\n"]),
    wire.Recovered(generation=1, sessions=4, lost=1, missed=2, cut=["on_message"]),
    wire.Cut(generation=3, names=["on_message"]),
    wire.Fatal(reason="the token was refused", retryable=False),
]
TO_CHILD: list[wire.ToChild] = [
    wire.Permit(shard=3),
    wire.Window(open=False),
    wire.Activate(),
    wire.Standby(),
    wire.Introduce(),
    wire.Drain(limit=30.0),
    wire.Drain(limit=30.0, linger=180.0),
    wire.Ping(n=7),
    wire.Recover(generation=3),
    wire.Inquire(generation=3),
]


@pytest.mark.parametrize("message", FROM_CHILD, ids=repr)
def test_a_childs_message_comes_out_as_it_went_in_on_one_line(message: wire.FromChild) -> None:
    line = wire.encode(message)
    assert line.count(b"\n") == 1
    assert wire.decode_from_child(line.rstrip(b"\n")) == message


@pytest.mark.parametrize("message", TO_CHILD, ids=repr)
def test_the_supervisors_message_comes_out_as_it_went_in(message: wire.ToChild) -> None:
    assert wire.decode_to_child(wire.encode(message)) == message


def test_each_direction_knows_only_its_own_messages() -> None:
    with pytest.raises(WireError):
        wire.decode_from_child(wire.encode(wire.Activate()))
    with pytest.raises(WireError):
        wire.decode_to_child(wire.encode(wire.Ready(shards=1, guilds=1)))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"garbage",
        b"{}",
        b"[]",
        b"null",
        b'{"type":"nonsense"}',
        b'{"type":"ready","shards":1}',
        b'{"type":"ready","shards":"1","guilds":2}',
        b'{"type":"ready","shards":1,"guilds":2,"more":3}',
        b'{"type":"shard","id":1,"state":"melting"}',
        b'{"type":"role","role":"\xff"}',
        b'{"type":"hello","pid":1,"protocol":1,"versions":' + b"[" * 5000,
    ],
)
def test_what_is_not_a_message_is_refused(line: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode_from_child(line)


@given(st.binary(max_size=300))
def test_no_bytes_lead_to_another_error(data: bytes) -> None:
    for decode in (wire.decode_from_child, wire.decode_to_child):
        with contextlib.suppress(WireError):
            decode(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=10,
    ),
    st.sampled_from(FROM_CHILD),
    st.integers(0, 10),
)
def test_no_altered_message_leads_to_another_error(value: object, message: wire.FromChild, position: int) -> None:
    fields = json.loads(wire.encode(message))
    fields[list(fields)[position % len(fields)]] = value
    with contextlib.suppress(WireError):
        wire.decode_from_child(json.dumps(fields).encode())


@given(st.lists(st.sampled_from(FROM_CHILD)), st.lists(st.integers(1, 50)))
def test_lines_are_whole_however_the_stream_was_cut(messages: list[wire.FromChild], cuts: list[int]) -> None:
    data, buffer, lines = b"".join(map(wire.encode, messages)), LineBuffer(), []
    for cut in cuts:
        lines += buffer.feed(data[:cut])
        data = data[cut:]
    lines += buffer.feed(data)
    assert [wire.decode_from_child(line) for line in lines] == messages


def test_an_endless_line_is_refused_and_the_longest_is_not() -> None:
    assert len(LineBuffer().feed(b"x" * (wire.MAX_LINE - 1) + b"\n")) == 1
    with pytest.raises(WireError):
        LineBuffer().feed(b"x" * wire.MAX_LINE)
    with pytest.raises(WireError):
        LineBuffer().feed(b"x" * wire.MAX_LINE + b"\n")
