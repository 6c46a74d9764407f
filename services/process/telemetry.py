"""Prometheus metrics of a service. Every name begins with `stoker_` and ends with its unit."""

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

REGISTRY = CollectorRegistry()

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


def counter(name: str, description: str, *labels: str) -> Counter:
    return Counter(name, description, labels, registry=REGISTRY)


def gauge(name: str, description: str, *labels: str) -> Gauge:
    return Gauge(name, description, labels, registry=REGISTRY)


def histogram(name: str, description: str, *labels: str) -> Histogram:
    return Histogram(name, description, labels, registry=REGISTRY, buckets=SECONDS)


def _resident_bytes() -> float:
    return float(psutil.Process().memory_info().rss)


gauge("stoker_resident_memory_bytes", "Memory of this process").set_function(_resident_bytes)


def exposition() -> tuple[bytes, str]:
    """What /metrics answers: the text and its content type."""
    return generate_latest(REGISTRY), CONTENT_TYPE_LATEST


def serve_metrics(port: int) -> None:
    """Answer /metrics on 127.0.0.1:`port` from a thread; 0 = not at all."""
    if port:
        start_http_server(port, addr="127.0.0.1", registry=REGISTRY)
