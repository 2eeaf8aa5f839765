"""The dashboard and the alert rules that ship: they name metrics and labels that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fake_engine import a_status
from prometheus_client.parser import text_string_to_metric_families

from bastion.supervisor import metrics
from bastion.supervisor.observed import ActiveReadiness, Totals

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"
OPERATING = MONITORING.parent / "operating.md"
FILES = ["dashboard.json", "alerts.yml"]
_NAME = re.compile(r"\bbastion_[a-z_]+")
_SELECTOR = re.compile(r"(bastion_[a-z_]+)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(?:=~|!=|=)"([^"]*)"')


def exposed() -> dict[str, list[dict[str, str]]]:
    """Return the labels of every sample, by the sample's name."""
    readiness = ActiveReadiness(generation=2, shards=2, not_ready={})
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(metrics.render(a_status(), Totals(), readiness, tasks=9).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


@pytest.mark.parametrize("file", FILES)
def test_every_metric_that_is_named_exists(file: str) -> None:
    named = set(_NAME.findall((MONITORING / file).read_text()))
    assert len(named) > 5
    assert named - exposed().keys() == set()


@pytest.mark.parametrize("file", FILES)
def test_every_label_and_value_that_is_named_exists(file: str) -> None:
    there = exposed()
    text = (MONITORING / file).read_text().replace('\\"', '"')
    looked = 0
    for name, inside in _SELECTOR.findall(text):
        for label, value in _MATCHER.findall(inside):
            if label == "instance":  # Prometheus adds it
                continue
            looked += 1
            assert value in {labels.get(label) for labels in there[name]}, f"{name}{{{label}={value}}}"
    assert looked


def test_the_dashboard_is_one() -> None:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert all(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])


def test_the_documentation_has_every_metric_and_no_other() -> None:
    suffixes = re.compile(r"_(bucket|count|sum)$")
    there = {suffixes.sub("", name) for name in exposed()}
    section = OPERATING.read_text().partition("## Health and metrics")[2].partition("\n## ")[0]
    assert set(_NAME.findall(section)) == there
