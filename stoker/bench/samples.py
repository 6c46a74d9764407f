"""How requests of a load test went, one by one and all together."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

QUANTILES = (0.5, 0.95, 0.99)


@dataclass(slots=True)
class Sample:
    """How one request went; times in seconds. at: after the beginning. error: "" = it completed.

    first_s: to the first text or preview. tier: where the model was (hot, parked, warm, cold) when the request
    was assigned. queued_s, load_s, run_s: what its job's time went into.
    """

    at: float
    model: str
    job: str = ""
    first_s: float = 0.0
    total_s: float = 0.0
    tokens: int = 0
    error: str = ""
    tier: str = ""
    worker: str = ""
    queued_s: float = 0.0
    load_s: float = 0.0
    run_s: float = 0.0

    @property
    def per_token_s(self) -> float:
        """Between tokens, on average; 0 where there are not two."""
        return (self.total_s - self.first_s) / (self.tokens - 1) if self.tokens > 1 else 0.0


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """Figures of all samples; times in seconds, of those that completed."""
    good = [sample for sample in samples if not sample.error]
    took_s = max((sample.at + sample.total_s for sample in samples), default=0.0)
    found: dict[str, Any] = {
        "requests": len(samples),
        "seconds": round(took_s, 3),
        "requests_per_s": round(len(good) / took_s, 2) if took_s else 0.0,
        "tokens_per_s": round(sum(sample.tokens for sample in good) / took_s, 1) if took_s else 0.0,
        "errors": dict(Counter(sample.error for sample in samples if sample.error)),
        "tiers": dict(Counter(sample.tier or "unknown" for sample in good)),
        "workers": dict(Counter(sample.worker or "unknown" for sample in good)),
    }
    for name, values in (
        ("first", [sample.first_s for sample in good if sample.first_s]),
        ("total", [sample.total_s for sample in good]),
        ("per_token", [sample.per_token_s for sample in good if sample.tokens > 1]),
        ("queued", [sample.queued_s for sample in good]),
    ):
        found[name] = {f"p{share * 100:g}": round(quantile(values, share), 5) for share in QUANTILES}
        found[name]["mean"] = round(statistics.fmean(values), 5) if values else 0.0
    return found
