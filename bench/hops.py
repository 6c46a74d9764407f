"""What one unary request costs between the processes: messages and bytes on NATS, and context switches.

    python -m bench.hops

Messages are counted where our processes send and receive them (`stoker_nats_messages_total`): one that the
server makes, such as its word that something is stored, is received only. Each process counts every five
seconds, so the counts are of a long run, less what the same time at rest has.
"""

import json
import re
import time

import httpx
import uvloop

from bench.arguments import nothing
from bench.client import drive
from bench.system import Running, running
from stoker.bench.profiles import switches_of

COUNTED_EVERY_S = 5.5
SECONDS = 12.0
SERIES = re.compile(r"^(stoker_nats_(?:messages|payload_bytes)_total)\{([^}]*)\} ([0-9.e+]+)$", re.MULTILINE)
BODY = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}).encode()


def traffic(system: Running) -> dict[tuple[str, str], float]:
    """By series and direction, of all services, once they have counted."""
    time.sleep(COUNTED_EVERY_S)
    found: dict[tuple[str, str], float] = {}
    text = httpx.get(f"http://127.0.0.1:{system.port}/metrics", timeout=10).text
    for name, labels, value in SERIES.findall(text):
        direction = "sent" if 'direction="sent"' in labels else "received"
        found[name, direction] = found.get((name, direction), 0.0) + float(value)
    return found


def switches(system: Running) -> dict[str, int]:
    return {name: switches_of(process) for name, process in system.processes().items()}


def measured(system: Running, connections: int) -> tuple[dict[tuple[str, str], float], dict[str, float]]:
    """A request's share of both, without what there is at rest."""
    uvloop.run(drive(system.port, "/v1/chat/completions", BODY, connections, 2.0))
    began, start, start_switches = time.monotonic(), traffic(system), switches(system)
    time.sleep(SECONDS)
    rested_s, rest, rest_switches = time.monotonic() - began, traffic(system), switches(system)
    began = time.monotonic()
    load = uvloop.run(drive(system.port, "/v1/chat/completions", BODY, connections, SECONDS))
    ended, busy_s, end_switches = traffic(system), time.monotonic() - began, switches(system)
    requests, share = len(load.latencies), busy_s / rested_s
    messages = {key: (ended[key] - rest[key] - share * (rest[key] - start[key])) / requests for key in ended}
    changes = {
        name: (end_switches[name] - rest_switches[name] - share * (rest_switches[name] - start_switches[name]))
        / requests
        for name in end_switches
    }
    return messages, changes


def report() -> list[str]:
    rows = [
        "| unary | messages sent / received | payload bytes sent / received | context switches a request |",
        "|---|---|---|---|",
    ]
    for connections in (1, 64):
        with running() as system:
            counts, changes = measured(system, connections)
        parts = [
            f"{counts[name, 'sent']:.1f} / {counts[name, 'received']:.1f}"
            for name in ("stoker_nats_messages_total", "stoker_nats_payload_bytes_total")
        ]
        each = ", ".join(f"{name} {count:.1f}" for name, count in sorted(changes.items()) if count >= 0.05)
        rows.append(f"| {connections} connections | {parts[0]} | {parts[1]} | {each} |")
    return rows


if __name__ == "__main__":
    nothing(__doc__)
    print("\n".join(report()))
