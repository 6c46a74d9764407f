"""The metrics of several services as one text."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from stoker.services.process.federation import joined
from stoker.services.process.telemetry import MAX_LABELS, OTHERS, Bounded


def exposed(jobs: int, seconds: float) -> str:
    registry = CollectorRegistry()
    Counter("stoker_jobs_total", "Jobs", ["model"], registry=registry).labels("a").inc(jobs)
    Histogram("stoker_run_seconds", "Runs", registry=registry, buckets=(1, 2)).observe(seconds)
    Gauge("stoker_up", "Up", registry=registry).set(1)
    return generate_latest(registry).decode()


def test_each_sample_says_of_which_service_it_is_and_families_stand_once() -> None:
    text = joined({"worker-1": exposed(3, 0.5), "worker-2": exposed(4, 1.5)}).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    jobs = {
        one.labels["service"]: one.value
        for one in families["stoker_jobs"].samples
        if one.name.endswith("_total")
    }
    assert jobs == {"worker-1": 3.0, "worker-2": 4.0}
    assert text.count("# TYPE stoker_run_seconds histogram") == 1
    buckets = [one for one in families["stoker_run_seconds"].samples if one.labels.get("le") == "1.0"]
    assert [(one.labels["service"], one.value) for one in buckets] == [("worker-1", 1.0), ("worker-2", 0.0)]


def test_what_cannot_be_read_is_left_out() -> None:
    text = joined({"broken": "stoker_x{ 1", "whole": exposed(1, 1.0)}).decode()
    assert 'service="whole"' in text and "broken" not in text
    assert joined({}) == b""


def test_labels_that_users_make_are_bounded() -> None:
    bounded = Bounded()
    first = [bounded.of(f"k{number}") for number in range(MAX_LABELS)]
    assert len(set(first)) == MAX_LABELS
    assert (bounded.of("one more"), bounded.of("k3")) == (OTHERS, "k3")
