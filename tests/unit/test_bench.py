"""Load tests: traces as they are asked for, figures as they are."""

import asyncio
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from bench.arrivals import Due, arrive, by_chance
from stoker.bench import traces
from stoker.bench.samples import Sample, quantile, summary
from stoker.bench.traces import Ask, BadTrace


def test_requests_come_by_chance_at_the_rate_and_by_popularity() -> None:
    asks = list(traces.generate(["a", "b", "c"], 100.0, 60.0, zipf=1.0))
    assert 5600 < len(asks) < 6400
    assert all(one.at <= other.at for one, other in pairwise(asks))
    counts = Counter(ask.model for ask in asks)
    assert 1.8 < counts["a"] / counts["b"] < 2.2
    assert 2.6 < counts["a"] / counts["c"] < 3.4
    assert list(traces.generate(["a", "b", "c"], 100.0, 60.0, zipf=1.0)) == asks


def test_a_burst_multiplies_the_rate_one_second_in_ten() -> None:
    asks = list(traces.generate(["a"], 20.0, 40.0, burst=10.0))
    inside = [ask for ask in asks if ask.at % 10.0 < 1.0]
    assert 600 < len(inside) < 1000
    assert 550 < len(asks) - len(inside) < 900


def test_a_trace_is_read_as_it_was_written_and_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    asks = [Ask(0.5, "a", "hello", 4), Ask(1.5, "b")]
    traces.write(path, reversed(asks))
    assert traces.read(path) == asks
    path.write_text('{"at": 1, "model": "a"}\n{"at": "soon", "model": "a"}\n')
    with pytest.raises(BadTrace, match=r"trace\.jsonl:2: .*at"):
        traces.read(path)


def test_figures_are_of_what_completed() -> None:
    samples = [
        Sample(at=i, model="m", first_s=0.1, total_s=0.1 * (i + 1), tokens=11, tier="hot") for i in range(9)
    ]
    samples.append(Sample(at=9.0, model="m", total_s=1.0, error="status 503"))
    found = summary(samples)
    assert (found["requests"], found["seconds"], found["errors"]) == (10, 10.0, {"status 503": 1})
    assert found["requests_per_s"] == 0.9
    assert found["total"]["p50"] == pytest.approx(0.5)
    assert found["per_token"]["p99"] == pytest.approx(0.08)
    assert found["tiers"] == {"hot": 9}
    assert quantile([], 0.5) == 0.0
    assert summary([])["requests_per_s"] == 0.0


async def test_times_of_an_open_loop_count_from_when_a_request_was_due() -> None:
    """A server that answers nothing for a while: who could not be asked meanwhile waited too."""
    stalled_until = asyncio.get_running_loop().time() + 0.3
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            asked.append(head)
            await asyncio.sleep(max(stalled_until - asyncio.get_running_loop().time(), 0.0))
            if b"chunked" in head:
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
                await asyncio.sleep(0.01)
                writer.write(b"0\r\n\r\n")
            elif b"gone" in head:
                break
            else:
                status = b"503 Busy" if b"busy" in head else b"200 OK"
                writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 5\r\n\r\nhello")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        dues = [
            Due(0.02 * number, b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % label.encode(), label)
            for number, label in enumerate(["plain", "chunked", "busy", "gone", "plain"])
        ]
        found = await arrive(port, dues)
    assert len(asked) == 5
    assert {label: (len(one.from_due), one.errors, one.lost) for label, one in found.items()} == {
        "plain": (2, 0, 0),
        "chunked": (1, 0, 0),
        "busy": (1, 1, 0),
        "gone": (1, 1, 0),
    }
    assert found["plain"].ms(1.0) > 200
    assert found["plain"].body_bytes == 10
    assert all(
        due >= sent - 0.001
        for one in found.values()
        for due, sent in zip(one.from_due, one.from_sent, strict=True)
    )


def test_arrivals_by_chance_have_the_rate_and_are_the_same_each_time() -> None:
    dues = list(by_chance(100.0, 20.0, b"", "a"))
    assert 1800 < len(dues) < 2200
    assert dues == list(by_chance(100.0, 20.0, b"", "a")) != list(by_chance(100.0, 20.0, b"", "a", seed=1))
