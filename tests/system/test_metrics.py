"""One scrape of `stoker up` has every service's series, and no panel or alert asks for one that is not there."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import ROOT, System, wait_for

CONFIG = """\
models:
  echo: {engine: synthetic, options: {tokens: 8, token_interval_s: 0.001, memory_bytes: 60000000}, memory: 60MB}
  other: {engine: synthetic, options: {tokens: 8, memory_bytes: 60000000}, memory: 60MB}
workers: [{count: 1, engines: [synthetic], memory: 100MB}]
"""


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    found = System(tmp_path, CONFIG)
    try:
        found.wait_ready()
        yield found
    finally:
        found.stop()


def series(system: System) -> dict[str, list[dict[str, str]]]:
    """Labels of the samples, by name."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(httpx.get(f"{system.url}/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def asked_for() -> set[str]:
    """Names in all panels and alerts."""
    dashboard = json.loads((ROOT / "deploy/grafana/stoker.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())
    found += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return {name for expression in found for name in re.findall(r"\bstoker_\w+", expression)}


NEEDS_MORE = {"stoker_replicas", "stoker_key_tokens_total"}
"""Series of replicas that are launched, and of API keys; test_prometheus.py has them."""


@pytest.mark.slow
def test_one_scrape_has_all_services_and_every_series_that_is_asked_for(system: System) -> None:
    body = {"messages": [{"role": "user", "content": "x"}]}
    for model in ("echo", "other", "echo"):
        for is_streamed in (False, True):
            answer = httpx.post(
                f"{system.url}/v1/chat/completions",
                json={"model": model, "stream": is_streamed, **body},
                timeout=60,
            )
            assert answer.status_code == 200
    assert httpx.post(f"{system.url}/v1/chat/completions", json={"model": "none", **body}).status_code == 404
    wait_for(lambda: "stoker_evictions_total" in series(system), 20, "an eviction")
    found = series(system)
    services = {labels["service"] for labels in found["stoker_build_info"]}
    assert services == {"gateway", "scheduler", "autoscaler", "worker-1"}
    assert {"200", "404"} <= {labels["status"] for labels in found["stoker_http_answers_total"]}
    assert {labels["of"] for labels in found["stoker_tokens_total"]} == {"prompt", "answer"}
    assert {"hot", "disk"} <= {labels["tier"] for labels in found["stoker_cached_models"]}
    assert asked_for() - found.keys() <= NEEDS_MORE
