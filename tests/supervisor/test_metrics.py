"""What the metrics say of a bot that is not the active one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fake_engine import a_status
from prometheus_client.parser import text_string_to_metric_families

from bastion.supervisor import metrics
from bastion.supervisor.observed import ActiveReadiness, Totals

READY = ActiveReadiness(generation=2, shards=2, not_ready={})


def rendered(readiness: ActiveReadiness) -> dict[str, list[float]]:
    """Return the values of every family."""
    text = metrics.render(a_status(), Totals(), readiness, tasks=9).decode()
    return {found.name: [each.value for each in found.samples] for found in text_string_to_metric_families(text)}


@pytest.mark.parametrize(
    ("readiness", "generation", "guilds", "latencies"),
    [(READY, 2, 1200, [0.0315]), (replace(READY, standby=True), 0, 0, [])],
    ids=["active", "standby"],
)
def test_a_bot_that_waits_to_take_over_is_ready_and_not_the_active_one(
    readiness: ActiveReadiness, generation: int, guilds: int, latencies: list[float]
) -> None:
    found = rendered(readiness)
    assert found["bastion_ready"] == [1]
    assert found["bastion_active_generation"] == [generation]
    assert found["bastion_guilds"] == [guilds]
    assert found.get("bastion_shard_latency_seconds", []) == latencies
