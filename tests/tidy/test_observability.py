"""Grafana panels and alert rules name metrics that exist."""

import json
import re

import pytest
import yaml

import stoker.services.autoscaler.service
import stoker.services.gateway.app
import stoker.services.scheduler.service
import stoker.services.worker.agent
import stoker.services.worker.heartbeats
import stoker.services.worker.jobs.endings
import stoker.services.worker.models.loader
from stoker.services.process.telemetry import exposition
from tests.conftest import ROOT
from tools.grafana import ALERTS, DASHBOARD, RULES, alerts, dashboard

SERVICES = (
    stoker.services.autoscaler,
    stoker.services.gateway,
    stoker.services.scheduler,
    stoker.services.worker,
)
"""Importing them registers their metrics."""


def expressions() -> list[str]:
    dashboard = json.loads((ROOT / "deploy/grafana/stoker.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    return found + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("expression", expressions())
def test_a_query_names_metrics_that_exist(expression: str) -> None:
    text = exposition()[0].decode()
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    named = set(re.findall(r"\bstoker_\w+", expression))
    assert named or "up{" in expression
    for name in named:
        family = re.sub(r"_(bucket|count|sum)$", "", name)
        assert {name, family} & families, f"{name} is no metric"


@pytest.mark.parametrize(
    "sample",
    [
        *(f'stoker_quarantined_total{{source="{source}"}}' for source in ("job", "webhook")),
        *(f'stoker_scale_events_total{{kind="{kind}"}}' for kind in ("launched", "failed", "backoff")),
        *(f'stoker_ended_jobs_total{{outcome="{one}"}}' for one in ("completed", "failed", "expired")),
        'stoker_evictions_total{to="warm"}',
    ],
)
def test_what_an_alert_counts_stands_there_before_its_first_event(sample: str) -> None:
    assert f"\n{sample} " in exposition()[0].decode(), "increase() and rate() do not see the first event"


def test_the_files_are_as_the_tables_say() -> None:
    assert DASHBOARD.read_text() == dashboard(), "run: python -m tools.grafana"
    assert ALERTS.read_text() == alerts(), "run: python -m tools.grafana"


@pytest.mark.parametrize("name", [name for name, *_ in RULES])
def test_an_alert_has_a_severity_and_a_runbook(name: str) -> None:
    [rule] = [one for one in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"] if one["alert"] == name]
    assert rule["labels"]["severity"] in ("warning", "critical")
    page, _, heading = rule["annotations"]["runbook"].partition("#")
    headings = [line.removeprefix("## ").lower() for line in (ROOT / page).read_text().splitlines()]
    assert heading in headings


def test_every_query_of_a_panel_has_a_legend() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert all(target["legendFormat"] for panel in panels for target in panel["targets"])
