"""Prometheus metrics of a service. Every name begins with `stoker_` and ends with its unit."""

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, start_http_server
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

REGISTRY = CollectorRegistry()
MAX_LABELS = 200
OTHERS = "(others)"
"""What stands for the values of a label beyond MAX_LABELS."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


def counter(name: str, description: str, *labels: str, known: Iterable[str] = ()) -> Counter:
    """known: values of the only label, which stand at 0 from the start.

    Prometheus's rate() and increase() count from a series' first sample: where that is the first event, they
    never see it.
    """
    made = Counter(name, description, labels, registry=REGISTRY)
    for value in known:
        made.labels(value)
    return made


def gauge(name: str, description: str, *labels: str) -> Gauge:
    return Gauge(name, description, labels, registry=REGISTRY)


def histogram(name: str, description: str, *labels: str) -> Histogram:
    return Histogram(name, description, labels, registry=REGISTRY, buckets=SECONDS)


def stoker_version() -> str:
    """Of the installed distribution."""
    try:
        return version("stoker")
    except PackageNotFoundError:
        return "unknown"


class Bounded:
    """The values of a label that users make: the first MAX_LABELS as they are, all others as one."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def of(self, value: str) -> str:
        if value in self._known:
            return value
        if len(self._known) >= MAX_LABELS:
            return OTHERS
        self._known.add(value)
        return value


ProcessCollector(namespace="stoker", registry=REGISTRY)
gauge("stoker_build_info", "What runs", "version", "python").labels(
    stoker_version(), platform.python_version()
).set(1)


def exposition() -> tuple[bytes, str]:
    """What /metrics answers: the text and its content type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST


def serve_metrics(host: str, port: int) -> None:
    """Answer /metrics on `host`:`port` from a thread; port 0 = not at all."""
    if port:
        start_http_server(port, addr=host, registry=REGISTRY)
