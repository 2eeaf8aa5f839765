"""Messages as lines of bytes.

A line that cannot be read raises `WireError`; whoever reads then ends *that* peer and nobody else.
"""

from __future__ import annotations

import msgspec

from bastion.wire.messages import FromChild, ToChild

MAX_LINE = 64 * 1024
"""Longest line in bytes, newline included. The largest honest one is a `Drained` naming some hundred handlers."""

_encoder = msgspec.json.Encoder()
_from_child: msgspec.json.Decoder[FromChild] = msgspec.json.Decoder(FromChild)
_to_child: msgspec.json.Decoder[ToChild] = msgspec.json.Decoder(ToChild)


class WireError(ValueError):
    """The peer sent something that is not a message."""


def encode(message: FromChild | ToChild) -> bytes:
    """One line, newline included."""
    return _encoder.encode(message) + b"\n"


def decode_from_child(line: bytes) -> FromChild:
    """Read one line that a child sent. Raises `WireError`."""
    try:
        return _from_child.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(str(error)) from None


def decode_to_child(line: bytes) -> ToChild:
    """Read one line that the supervisor sent. Raises `WireError`."""
    try:
        return _to_child.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(str(error)) from None


class LineBuffer:
    """Cuts a byte stream into lines, refusing to grow past `MAX_LINE`."""

    def __init__(self) -> None:
        self.rest = b""
        """What has come of a line that is not complete."""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that ``data`` completed, without their newlines. Raises `WireError` on an endless line."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        if len(self.rest) >= MAX_LINE or any(len(line) >= MAX_LINE for line in lines):
            raise WireError(f"a line longer than {MAX_LINE} bytes")
        return lines
