"""`supervisor healthcheck`: asks `/readyz` the way a container engine does, every few seconds.

So it must be quick: only a socket and a JSON parser are imported, no HTTP library. Knows the answer of `health`; shows
nothing to anybody.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from bastion.supervisor import private
from bastion.supervisor.location import HealthAddress

TIMEOUT = 5.0
"""Seconds for the whole answer; a healthy supervisor takes milliseconds."""
MAX_ANSWER = 1024 * 1024
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Who listens everywhere listens here."""


class NoAnswerError(Exception):
    """Nobody answers at the address. The message says what was seen there."""


@dataclass(frozen=True, slots=True)
class Health:
    """What `/readyz` said."""

    ready: bool
    reason: str


def ask(address: HealthAddress, *, timeout: float = TIMEOUT) -> Health:
    """Ask whether the bot is ready; ``timeout`` is in seconds. Raises `NoAnswerError`."""
    where = f"unix:{address}" if isinstance(address, Path) else str(address)
    try:
        if isinstance(address, Path) and (problem := private.fake(address)):
            raise NoAnswerError(f"{where} is not asked, for another user could answer there: {problem}")
        with _connected(address, timeout=timeout) as peer:
            if isinstance(address, Path) and (problem := private.impostor(peer, address)):
                raise NoAnswerError(f"{where} is not asked: {problem}")
            peer.sendall(b"GET /readyz HTTP/1.1\r\nHost: supervisor\r\nConnection: close\r\n\r\n")
            answer = _read(peer)
    except TimeoutError:
        raise NoAnswerError(
            f"{where} does not answer within {timeout:g} s: the supervisor hangs or is stopped"
        ) from None
    except OSError as error:
        raise NoAnswerError(f"nothing answers at {where}: {error.strerror or error}") from None
    return _read_health(answer, where=where)


def _connected(address: HealthAddress, *, timeout: float) -> socket.socket:
    if not isinstance(address, Path):
        return socket.create_connection((_HERE.get(address.host, address.host), address.port), timeout=timeout)
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.settimeout(timeout)
        peer.connect(os.fsencode(address))
    except OSError:
        peer.close()
        raise
    return peer


def _read(peer: socket.socket) -> bytes:
    answer = bytearray()
    while len(answer) < MAX_ANSWER and (data := peer.recv(64 * 1024)):
        answer += data
    return bytes(answer)


def _read_health(answer: bytes, *, where: str) -> Health:
    head, _, body = answer.partition(b"\r\n\r\n")
    try:
        said = json.loads(body)
        ready, reason = said["ready"], said["reason"]
        if not head.startswith(b"HTTP/1.1 ") or not isinstance(ready, bool):
            raise ValueError
    except (ValueError, LookupError, TypeError):
        return Health(False, f"what answers at {where} is no supervisor")
    if not ready:
        return Health(False, f"not ready: {reason}")
    waiting = ", ready to take over" if said.get("role") == "standby" else ""
    return Health(True, f"ready: every shard of generation {said.get('generation')}{waiting}")
