"""What came of a load test, as a page with plots."""

import base64
import html
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stoker.bench.samples import QUANTILES, Sample, summary

COLOURS = {"hot": "#2a9d5c", "loading": "#4c9be8", "parked": "#8ab17d", "warm": "#e9c46a", "cold": "#e76f51"}
COUNTS = ("requests", "seconds", "requests_per_s", "tokens_per_s", "errors", "tiers", "workers")
TIMES = (
    ("first token or preview", "first"),
    ("whole answer", "total"),
    ("between tokens", "per_token"),
    ("in the queue", "queued"),
)
ALT = "Latency, time to first token, throughput, and where requests found their model"


def plots(samples: Sequence[Sample]) -> bytes:
    """Latency, time to first token, throughput and loads as one PNG. Raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    good = sorted((sample for sample in samples if not sample.error), key=lambda sample: sample.at)
    figure = Figure(figsize=(12, 8), layout="constrained")
    (latency, first), (throughput, loads) = figure.subplots(2, 2)
    for axes, title, name in (
        (latency, "whole answer", "total_s"),
        (first, "first token or preview", "first_s"),
    ):
        for model in sorted({sample.model for sample in good}):
            values = sorted(getattr(sample, name) * 1000 for sample in good if sample.model == model)
            axes.plot(values, [(index + 1) / len(values) for index in range(len(values))], label=model)
        axes.set(
            title=f"{title}: share of requests within …", xlabel="milliseconds", ylabel="share", ylim=(0, 1.02)
        )
        if good:
            axes.legend()
    seconds = range(int(max((sample.at + sample.total_s for sample in good), default=0)) + 1)
    ended = Counter(int(sample.at + sample.total_s) for sample in good)
    throughput.step(seconds, [ended[second] for second in seconds], where="mid", label="answered")
    asked = Counter(int(sample.at) for sample in samples)
    throughput.step(seconds, [asked[second] for second in seconds], where="mid", label="asked", linestyle=":")
    throughput.set(title="requests in each second", xlabel="second", ylim=(0, None))
    throughput.legend()
    bottom = [0] * len(seconds)
    for tier in sorted({sample.tier for sample in good}, key=[*COLOURS, ""].index):
        found = Counter(int(sample.at) for sample in good if sample.tier == tier)
        heights = [found[second] for second in seconds]
        loads.bar(seconds, heights, 1.0, bottom, color=COLOURS.get(tier, "#999"), label=tier or "unknown")
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    loads.set(title="where requests found their model", xlabel="second")
    if good:
        loads.legend()
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=110)
    return written.getvalue()


def page(title: str, samples: Sequence[Sample], png: bytes) -> str:
    """The report as one HTML file."""
    found = summary(samples)
    heads = _row("th", "ms", *(f"p{share * 100:g}" for share in QUANTILES), "mean")
    times = "".join(
        _row("td", name, *(f"{value * 1000:.1f}" for value in found[key].values())) for name, key in TIMES
    )
    plain = "".join(_row("td", name, _said(found[name])) for name in COUNTS)
    image = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1200px; padding: 0 1rem }}
table {{ border-collapse: collapse; margin: 1rem 0 }}
th, td {{ padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd }}
th:first-child {{ text-align: left }}
img {{ max-width: 100% }}
</style>
<h1>{html.escape(title)}</h1>
<table>{plain}</table>
<table>{heads}{times}</table>
<img alt="{ALT}" src="{image}">
</html>
"""


def _row(tag: str, head: str, *cells: str) -> str:
    return f"<tr><th>{html.escape(head)}</th>{''.join(f'<{tag}>{html.escape(c)}</{tag}>' for c in cells)}</tr>"


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {count}" for key, count in value.items()) or "none"
    return f"{value:,}"


def write(path: Path, title: str, samples: Sequence[Sample]) -> None:
    """`path` as HTML, and beside it a PNG. Raises ImportError, OSError."""
    png = plots(samples)
    path.with_suffix(".png").write_bytes(png)
    path.write_text(page(title, samples, png))
