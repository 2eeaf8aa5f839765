"""Fixtures that all tests share, and which cases of a matrix run."""

from __future__ import annotations

import os
import random
import signal
from collections import defaultdict
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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one case of each wide matrix, as the seed says; with ``BASTION_SOAK=1`` all of them.

    An example: of the eight wide cases of ``test_a_child_that_dies[...]``, marked ``matrix``, ``BASTION_SEED=1`` keeps
    one, always the same. Of those that ``-k`` or an id leaves over one runs, too.
    """
    if os.environ.get("BASTION_SOAK") == "1":
        return
    seed = os.environ.get("BASTION_SEED", "1")
    matrices: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("matrix") and item.get_closest_marker("wide"):
            matrices[item.nodeid.partition("[")[0]].append(item)
    left_out: set[pytest.Item] = set()
    for name, cases in matrices.items():
        kept = random.Random(f"{seed} {name}").choice(cases)
        left_out.update(case for case in cases if case is not kept)
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]
