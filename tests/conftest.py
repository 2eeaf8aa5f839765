"""Fixtures that all tests share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest


def _handlers() -> dict[int, Any]:
    own = signal.valid_signals() - {signal.SIGALRM}  # which limits the time of tests
    return {number: signal.getsignal(number) for number in own}


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """Let no test leave a signal ignored or handled: the processes that the next one starts would inherit it."""
    before = _handlers()
    yield
    assert _handlers() == before


@pytest.fixture
def own_signals(signals_as_before: None) -> Iterator[None]:
    """Give this process its own signal handlers back, for a test of something that takes them."""
    before = _handlers()
    yield
    for number, handler in before.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
