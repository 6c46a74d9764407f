"""A real Prometheus with the scrape and the alerts of deploy/prometheus, pointed at a system under test."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.conftest import ROOT, free_port, wait_for

PROMETHEUS = shutil.which("prometheus") or ""
STEP_S = 1


class Prometheus:
    """One that runs. `begun`: since when it scrapes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.begun = time.time()

    def _get(self, path: str, **params: Any) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=params, timeout=30)
        assert answer.status_code == 200, f"{params}: {answer.text}"
        return answer.json()["data"]

    def series(self, query: str) -> list[dict[str, str]]:
        """Labels of what a query has given at any time since the start."""
        found = self._get("query_range", query=query, start=self.begun, end=time.time(), step=STEP_S)
        return [one["metric"] for one in found["result"]]

    def raised(self) -> set[str]:
        """Names of alerts whose condition has held at any time, however shortly."""
        return {rule["name"] for rule in self.rules() if self.series(rule["query"])}

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]


@contextmanager
def prometheus(folder: Path, target: str, key: str) -> Iterator[Prometheus]:
    """Scrapes `target` (host:port) each second with an API key; the test is skipped where it is not installed."""
    if not PROMETHEUS:
        pytest.skip("no Prometheus: apt-get install prometheus")
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(ROOT / "deploy/prometheus/alerts.yml")]
    [job] = config["scrape_configs"]
    job["static_configs"] = [{"targets": [target], "labels": job["static_configs"][0]["labels"]}]
    job["authorization"] = {"credentials": key}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                PROMETHEUS, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    found = Prometheus(f"http://127.0.0.1:{port}")

    def is_up() -> bool:
        try:
            return httpx.get(found.url + "/-/ready", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_for(is_up, 30, "Prometheus")
        yield found
    finally:
        process.terminate()
        process.wait(20)


def queries() -> dict[str, list[tuple[str, str]]]:
    """Each panel's queries with their legends, of every dashboard."""
    found: dict[str, list[tuple[str, str]]] = {}
    for file in sorted((ROOT / "deploy/grafana").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            targets = [(target["expr"], target["legendFormat"]) for target in panel["targets"]]
            found[f"{file.stem}: {panel['title']}"] = targets
    return found


def without_threshold(expression: str) -> str:
    """What an alert compares, as far as it is there at all."""
    return re.sub(r" (>|==) [\d.]+(?= and | or |$)", "", expression)
