"""A simulation as plots: how long requests waited over time, and what became hot where."""

import io
from collections.abc import Sequence
from pathlib import Path

from stoker.simulation.outcome import WINDOW_S, Run
from stoker.simulation.world import BEGAN_AT

COLOURS = {"parked": "#8ab17d", "warm": "#e9c46a", "cold": "#e76f51", "hot": "#2a9d5c"}


def plots(runs: Sequence[Run]) -> bytes:
    """Of the runs of one scenario and seed, as one PNG. Raises ImportError without matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4 + 2.2 * len(runs)), layout="constrained")
    axes = figure.subplots(1 + len(runs), 1, height_ratios=[2, *([1.2] * len(runs))])
    waits = axes[0] if len(runs) else axes
    for run in runs:
        found: dict[int, list[float]] = {}
        for job in run.jobs:
            if job.ended_at == job.ended_at:  # not a number otherwise
                found.setdefault(int((job.at - BEGAN_AT) // WINDOW_S), []).append(job.ended_at - job.at)
        windows = sorted(found)
        means = [sum(found[one]) / len(found[one]) for one in windows]
        waits.plot([one * WINDOW_S for one in windows], means, label=run.outcome.policy)
    first = runs[0].outcome
    waits.set(
        title=f"{first.scenario}, seed {first.seed}: mean time to the end", ylabel="seconds", ylim=(0, None)
    )
    waits.legend()
    for below, run in zip(axes[1:], runs, strict=True):
        workers = sorted({one.worker for one in run.loaded})
        for source, colour in COLOURS.items():
            loads = [one for one in run.loaded if one.source == source]
            at, rows = [one.at for one in loads], [workers.index(one.worker) for one in loads]
            below.scatter(at, rows, s=9, c=colour, label="LoRA" if source == "hot" else f"from {source}")
        below.set(title=f"{run.outcome.policy}: {run.outcome.full_loads} loads", ylabel="worker")
        if run.loaded:
            below.legend(loc="upper right", fontsize="small")
    axes[-1].set(xlabel="seconds since the beginning")
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=100)
    return written.getvalue()


def write(folder: Path, runs: Sequence[Run]) -> list[Path]:
    """One PNG for each scenario and seed. Raises ImportError, OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for scenario, seed in dict.fromkeys((run.outcome.scenario, run.outcome.seed) for run in runs):
        those = [run for run in runs if (run.outcome.scenario, run.outcome.seed) == (scenario, seed)]
        path = folder / f"{scenario}-{seed}.png"
        path.write_bytes(plots(those))
        written.append(path)
    return written
