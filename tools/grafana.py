"""Grafana's dashboard and Prometheus's alerts, made from the tables here.

tests/tidy/test_observability.py fails where a file is not up to date, or a query names a metric that no service
has.

python -m tools.grafana         # writes deploy/grafana/stoker.json and deploy/prometheus/alerts.yml
"""

import json
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
DASHBOARD = ROOT / "deploy" / "grafana" / "stoker.json"
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
WIDTH, HEIGHT, ACROSS = 8, 8, 3


def _quantiles(name: str, by: str = "") -> list[tuple[str, str]]:
    """Queries of the median and the 95th percentile of a histogram."""
    groups = f"le, {by}" if by else "le"
    shown = f" {{{{{by}}}}}" if by else ""
    query = "histogram_quantile({}, sum by ({}) (rate({}_bucket[5m])))"
    return [(query.format(share, groups, name), f"p{100 * share:g}{shown}") for share in (0.5, 0.95)]


PANELS: list[tuple[str, str, list[tuple[str, str]]]] = [
    ("Requests/s by model", "reqps", [("sum by (model) (rate(stoker_requests_total[1m]))", "{{model}}")]),
    ("Answers/s by status", "reqps", [("sum by (status) (rate(stoker_http_answers_total[1m]))", "{{status}}")]),
    ("Time to first token", "s", _quantiles("stoker_time_to_first_token_seconds")),
    ("Between tokens", "s", _quantiles("stoker_inter_token_seconds", "model")),
    ("Tokens/s by model", "short", [
        ("sum by (model, of) (rate(stoker_tokens_total[1m]))", "{{model}} {{of}}"),
    ]),
    ("Tokens/s by key", "short", [("sum by (key) (rate(stoker_key_tokens_total[5m]))", "{{key}}")]),
    ("Jobs that wait", "short", [("sum by (model) (stoker_queued_jobs)", "{{model}}")]),
    ("Jobs that run", "short", [("sum by (model) (stoker_running_jobs)", "{{model}}")]),
    ("Wait in the queue", "s", _quantiles("stoker_queue_wait_seconds", "model")),
    ("Time in the engine", "s", _quantiles("stoker_run_seconds", "model")),
    ("How jobs end", "ops", [("sum by (outcome) (rate(stoker_ended_jobs_total[5m]))", "{{outcome}}")]),
    ("Open streams", "short", [("sum(stoker_open_streams)", "streams")]),
    ("Where assignments found their model", "ops", [
        ("sum by (tier) (rate(stoker_assignments_total[5m]))", "{{tier}}"),
    ]),
    ("Loads by the tier they came from", "ops", [
        ("sum by (tier) (rate(stoker_model_loads_total[5m]))", "{{tier}}"),
    ]),
    ("Loading", "s", _quantiles("stoker_model_load_seconds", "model")),
    ("Evictions", "ops", [("sum by (to) (rate(stoker_evictions_total[5m]))", "to {{to}}")]),
    ("Memory for weights", "bytes", [
        ("sum by (service, instance, place, of) (stoker_memory_bytes)", "{{service}} {{place}} {{of}}"),
    ]),
    ("Models by tier", "short", [
        ("sum by (service, instance, tier) (stoker_cached_models)", "{{service}} {{tier}}"),
    ]),
    ("Replicas", "short", [
        ("sum by (model, spec, phase) (stoker_replicas)", "{{model}} {{spec}} {{phase}}"),
    ]),
    ("Scale events", "short", [("sum by (kind) (increase(stoker_scale_events_total[5m]))", "{{kind}}")]),
    ("Memory of services", "bytes", [("stoker_process_resident_memory_bytes", "{{service}}")]),
    ("Processor time of services", "percentunit", [
        ("rate(stoker_process_cpu_seconds_total[1m])", "{{service}}"),
    ]),
    ("Round trip to NATS", "s", [("stoker_nats_round_trip_seconds", "{{service}}")]),
    ("Messages to and from NATS", "short", [
        ("sum by (service, direction) (rate(stoker_nats_messages_total[1m]))", "{{service}} {{direction}}"),
    ]),
    ("Where NATS is away", "short", [("stoker_nats_connected == 0", "{{service}}")]),
]  # fmt: skip
"""Title, unit, and queries with their legends."""

OUT_OF_BUDGET = (
    'sum(rate(stoker_http_answers_total{{status=~"5.."}}[{window}]))'
    " / sum(rate(stoker_http_answers_total[{window}]))"
)
"""The share of answers that are the server's fault; the objective is 99.9 %."""
RULES: list[tuple[str, str, str, str, str]] = [
    (
        "AnswersFailFast",
        " > 0.0144 and ".join(OUT_OF_BUDGET.format(window=window) for window in ("1h", "5m")) + " > 0.0144",
        "2m",
        "critical",
        "at this rate the errors of a month are used up in two days (99.9 %)",
    ),
    (
        "AnswersFailSlowly",
        " > 0.006 and ".join(OUT_OF_BUDGET.format(window=window) for window in ("6h", "30m")) + " > 0.006",
        "15m",
        "warning",
        "at this rate the errors of a month are used up in five days (99.9 %)",
    ),
    (
        "JobsWaitLong",
        "histogram_quantile(0.95, sum by (le, model) (rate(stoker_queue_wait_seconds_bucket[5m]))) > 30",
        "5m",
        "warning",
        "{{ $labels.model }}: one job in twenty waits longer than 30 s",
    ),
    (
        "QueueGrows",
        "sum by (model) (stoker_queued_jobs) > 100 and sum by (model) (deriv(stoker_queued_jobs[10m])) > 0",
        "10m",
        "warning",
        "{{ $labels.model }}: more jobs come than are run",
    ),
    (
        "JobsFail",
        'sum(rate(stoker_ended_jobs_total{outcome="failed"}[5m]))'
        " / sum(rate(stoker_ended_jobs_total[5m])) > 0.05",
        "5m",
        "critical",
        "more than one job in twenty fails",
    ),
    (
        "SpecsFail",
        'sum(increase(stoker_scale_events_total{kind="failed"}[15m])) > 10',
        "0m",
        "warning",
        "launches fail again and again; see `stoker specs`",
    ),
    (
        "ModelsThrash",
        "sum(rate(stoker_evictions_total[10m])) > 0.2",
        "10m",
        "warning",
        "models push one another out of memory; add a worker or memory",
    ),
    (
        "Quarantined",
        "sum(increase(stoker_quarantined_total[1h])) > 0",
        "0m",
        "warning",
        "something could not be handled and was put aside; see `stoker quarantine list`",
    ),
    ("ServiceDown", 'up{job="stoker"} == 0', "1m", "critical", "{{ $labels.service }} does not answer"),
    (
        "NatsIsSlow",
        "max(stoker_nats_round_trip_seconds) > 0.5 or min(stoker_nats_connected) == 0",
        "2m",
        "critical",
        "a service waits for NATS, or has lost it",
    ),
]
"""Name, query, how long it must hold, severity, and what it means."""
RUNBOOKS = "docs/runbooks.md"


def _panel(number: int, title: str, unit: str, queries: list[tuple[str, str]]) -> dict[str, Any]:
    x, y = number % ACROSS * WIDTH, number // ACROSS * HEIGHT
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "fieldConfig": {"defaults": {"unit": unit}},
        "targets": [
            {"refId": "ABCDEF"[index], "expr": query, "legendFormat": legend}
            for index, (query, legend) in enumerate(queries)
        ],
    }


def dashboard() -> str:
    whole = {
        "uid": "stoker",
        "title": "Stoker",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": [_panel(number, *panel) for number, panel in enumerate(PANELS)],
    }
    return json.dumps(whole, indent=1) + "\n"


def alerts() -> str:
    rules = [
        {
            "alert": name,
            "expr": query,
            "for": lasting,
            "labels": {"severity": severity},
            "annotations": {"summary": meaning, "runbook": f"{RUNBOOKS}#{name.lower()}"},
        }
        for name, query, lasting, severity, meaning in RULES
    ]
    text: str = yaml.safe_dump({"groups": [{"name": "stoker", "rules": rules}]}, sort_keys=False, width=110)
    return "# Made by tools/grafana.py.\n" + text


if __name__ == "__main__":
    DASHBOARD.write_text(dashboard())
    ALERTS.write_text(alerts())
