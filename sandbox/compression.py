"""How dispatches are written to a gateway socket: plain text, zlib-stream or zstd-stream.

Knows bytes only. One compressor per connection, whose context lives as long as the connection: frames must be sent in
the order in which they were compressed.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Any, TypeAlias

Compressor: TypeAlias = Callable[[bytes], bytes]


class CompressionUnavailableError(RuntimeError):
    """A client asks for zstd-stream and no zstd library is installed here."""


def make_compressor(name: str | None) -> Compressor | None:
    """The compressor for the ``compress`` query parameter, None for plain text frames.

    Raises:
        CompressionUnavailableError: zstd-stream without a library.
        ValueError: an unknown name.
    """
    if not name:
        return None
    if name == "zlib-stream":
        return _zlib()
    if name == "zstd-stream":
        return _zstd()
    raise ValueError(f"unknown transport compression {name!r}")


def _zlib() -> Compressor:
    context = zlib.compressobj(level=1)

    def compress(data: bytes) -> bytes:
        return context.compress(data) + context.flush(zlib.Z_SYNC_FLUSH)

    return compress


def _zstd() -> Compressor:
    """One zstd frame that never ends, by ``compression.zstd`` (Python 3.14) or ``zstandard``."""
    try:
        stdlib: Any = importlib.import_module("compression.zstd")
    except ImportError:
        return _zstandard()
    context = stdlib.ZstdCompressor(level=1)

    def compress(data: bytes) -> bytes:
        return bytes(context.compress(data, mode=stdlib.ZstdCompressor.FLUSH_BLOCK))

    return compress


def _zstandard() -> Compressor:
    try:
        library: Any = importlib.import_module("zstandard")
    except ImportError as error:
        message = "a client asked for zstd-stream; install 'zstandard' beside the sandbox or use Python 3.14"
        raise CompressionUnavailableError(message) from error
    context = library.ZstdCompressor(level=1).compressobj()

    def compress(data: bytes) -> bytes:
        return bytes(context.compress(data) + context.flush(library.COMPRESSOBJ_FLUSH_BLOCK))

    return compress
