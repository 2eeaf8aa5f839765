"""Fixtures of the tests with real processes."""

from __future__ import annotations

import sys

import pytest
from interpreters import environment, newest


@pytest.fixture(scope="session")
def newest_python(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> str:
    """An interpreter that has the product, newer than the tests' own."""
    python = newest()
    if python is None:
        pytest.skip(f"there is no Python newer than {sys.version.split()[0]}: name one in BASTION_NEWEST_PYTHON")
    base = tmp_path_factory.getbasetemp()
    return str(environment(python, (base if worker_id == "master" else base.parent) / "newest-python"))
