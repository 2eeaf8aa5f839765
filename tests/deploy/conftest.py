"""One engine for all tests of a session, or the reason why there is none."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from docker_engine import Docker, NoEngineError, docker_engine


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """An engine with the product's image. Where it must not be missing, BASTION_DEPLOY_REQUIRED is set."""
    try:
        running = docker_engine()
        found = running.__enter__()
    except NoEngineError as error:
        if os.environ.get("BASTION_DEPLOY_REQUIRED"):
            pytest.fail(f"no Docker engine: {error}")
        pytest.skip(f"no Docker engine: {error}")
    try:
        yield found
    finally:
        running.__exit__(None, None, None)
