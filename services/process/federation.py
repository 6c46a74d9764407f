"""The metrics of several services as one text: each sample says of which service it is. Pure.

For who runs everything on one machine with `stoker up`, and scrapes one address.
"""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

SERVICE = "service"


class _Joined:
    """A collector of what was read."""

    def __init__(self, families: Mapping[str, Metric]) -> None:
        self._families = families

    def collect(self) -> "list[Metric]":
        return list(self._families.values())


def joined(texts: Mapping[str, str]) -> bytes:
    """texts: by the service's name, as it exposes them. One that cannot be read is left out."""
    families: dict[str, Metric] = {}
    for service, text in texts.items():
        try:
            read = list(text_string_to_metric_families(text))
        except ValueError:
            continue
        for family in read:
            known = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                labels = {**sample.labels, SERVICE: service}
                known.add_sample(sample.name, labels, sample.value)
    registry = CollectorRegistry()
    registry.register(_Joined(families))
    return generate_latest(registry)
