"""Large answers: texts of up to megabytes, whole and streamed, beside short ones that must not wait for them.

    python -m bench.large_answers [1000 10000 100000]

Sizes are tokens of the synthetic engine, six bytes each. Times from when a request was due (arrivals.py).
"""

import uvloop

from bench.arguments import numbers
from bench.arrivals import arrive, by_chance
from bench.open_loop import chat
from bench.system import Running, running

SIZES = (1000, 10_000, 100_000)
SECONDS, TOKENS_EACH_S, SHORT_RATE = 10.0, 200_000, 20.0
CONFIG = """\
models:
  long: {engine: synthetic, slots: 16}
  short: {engine: synthetic, options: {tokens: 16}, slots: 16}
workers: [{count: 2, engines: [synthetic]}]
"""
HEAD = [
    "| tokens of an answer | kB of a whole one | whole: ms, median / p99 | streamed: ms, median / p99 "
    "| short ones beside: ms, median / p99 | errors, not answered | CPU ms a MB, all of ours "
    "| kB of memory kept |",
    "|---|---|---|---|---|---|---|---|",
]


async def _row(system: Running, tokens: int) -> str:
    rate = TOKENS_EACH_S / tokens / 2
    whole, streamed = (chat(system.port, "long", max_tokens=tokens, stream=one) for one in (False, True))
    short = chat(system.port, "short")
    dues = [
        *by_chance(rate, SECONDS, whole, "whole"),
        *by_chance(rate, SECONDS, streamed, "streamed"),
        *by_chance(SHORT_RATE, SECONDS, short, "short"),
    ]
    before, memory = sum(system.cpu_seconds().values()), sum(system.memory_mb().values())
    found = await arrive(system.port, dues)
    spent = sum(system.cpu_seconds().values()) - before
    kept = sum(system.memory_mb().values()) - memory
    times = [
        " / ".join(f"{found[name].ms(at):.0f}" for at in (0.5, 0.99)) for name in ("whole", "streamed", "short")
    ]
    megabytes = sum(one.body_bytes for one in found.values()) / 1e6
    size = found["whole"].body_bytes / max(len(found["whole"].from_due), 1) / 1000
    failed = f"{sum(one.errors for one in found.values())}, {sum(one.lost for one in found.values())}"
    return (
        f"| {tokens:,} | {size:,.0f} | {' | '.join(times)} | {failed} | {1000 * spent / megabytes:.0f} "
        f"| {1000 * kept:,.0f} |"
    )


async def _all(system: Running, sizes: tuple[int, ...]) -> list[str]:
    rows = list(HEAD)
    await arrive(system.port, by_chance(20.0, 2.0, chat(system.port, "short"), "first"))
    await arrive(system.port, by_chance(20.0, 2.0, chat(system.port, "long"), "first"))
    for tokens in sizes:
        rows.append(await _row(system, tokens))
        print(rows[-1], flush=True)
    return rows


def report(sizes: tuple[int, ...] = SIZES) -> list[str]:
    with running(CONFIG) as system:
        return uvloop.run(_all(system, sizes))


if __name__ == "__main__":
    print("\n".join(report(numbers(__doc__, SIZES))))
