"""Modules of the dashboard, asked for in the browser: what they make of Markdown, of schemas, and of a day."""

from collections.abc import Iterator
from typing import Any

import pytest

from bench import dashboard as bench
from tests.conftest import System
from tests.system.browsing import chromium, open_page

pytestmark = pytest.mark.slow

NOW = 1_700_000_000


@pytest.fixture(scope="module")
def page(synthetic: System) -> Iterator[Any]:
    errors: list[str] = []
    with chromium() as browser:
        yield open_page(browser, synthetic.url + "/models", errors)
    assert errors == []


def asked(page: Any, module: str, work: str, given: Any = None) -> Any:
    """What a function body makes of a module `m` and `given`."""
    code = f"async (given) => {{ const m = await import('/static/{module}'); {work} }}"
    return page.evaluate(code, given)


@pytest.mark.parametrize(
    "text",
    [
        "<script>window.broken = 1</script>",
        "<img src=x onerror='window.broken = 1'>",
        "[a](javascript:window.broken=1)",
        "![a](https://example.org/spy.png)",
        "a <b onmouseover=x>b</b>",
    ],
)
def test_no_text_of_a_model_becomes_markup(page: Any, text: str) -> None:
    work = """const { html, render } = await import('/static/base.js');
      const box = document.createElement('div'); document.body.append(box);
      render(html`<${m.Markdown} text=${given} />`, box);
      const found = [...box.querySelectorAll('script, img, b, [onerror], a[href^="javascript"]')].length;
      const said = box.innerText; box.remove();
      return [found, said, window.broken];"""
    found, said, broken = asked(page, "markdown.js", work, text)
    assert (found, broken) == (0, None)
    assert said.strip()


def test_markdown_is_written_as_it_is_meant(page: Any) -> None:
    work = """const { html, render } = await import('/static/base.js');
      const box = document.createElement('div');
      render(html`<${m.Markdown} text=${given} />`, box);
      return [...box.querySelectorAll('*')].map((one) => one.localName);"""
    text = (
        "# A\n\n**b** `c` [d](https://e.example)\n\n- f\n\n| g | h |\n|---|---|\n| 1 | 2 |\n\n```\ni < j\n```"
    )
    names = asked(page, "markdown.js", work, text)
    assert {"strong", "code", "a", "ul", "li", "table", "th", "td", "pre"} <= set(names)


def test_a_form_gives_what_its_schema_says(page: Any) -> None:
    schema = {
        "$ref": "#/$defs/In",
        "$defs": {
            "In": {
                "required": ["name", "edge"],
                "properties": {
                    "name": {"type": "string"}, "edge": {"type": "integer", "minimum": 1},
                    "kind": {"enum": ["a", "b"]}, "deep": {"$ref": "#/$defs/Deep"}, "is_on": {"type": "boolean"},
                    "maybe": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                },
            },
            "Deep": {"type": "object"},
        },
    }  # fmt: skip
    kinds = asked(
        page, "schema-form.js", "return m.fieldsOf(given).map((one) => [one.name, one.kind]);", schema
    )
    assert dict(kinds) == {
        "name": "text", "edge": "number", "kind": "choice", "deep": "json", "is_on": "yes", "maybe": "number",
    }  # fmt: skip
    values = {"name": "x", "edge": "3", "deep": '{"y": [1]}', "is_on": False, "maybe": ""}
    made = asked(page, "schema-form.js", "return m.valuesOf(given[0], given[1]);", [schema, values])
    assert made == {"name": "x", "edge": 3, "deep": {"y": [1]}, "is_on": False}
    work = "try { m.valuesOf(given[0], given[1]); } catch (error) { return error.message; }"
    assert "deep is not JSON" in asked(page, "schema-form.js", work, [schema, {"deep": "{"}])


LANES = """const kept = (items) => ({ list: () => items, items: new Map(items.map((one) => [one.id, one])) });
  const history = { jobs: kept(given.jobs), events: kept(given.events), samples: kept(given.samples), underWay: [] };
  const workers = new Map([["w1", { worker: "w1", device: "cpu", state: "live" }]]);
  const models = new Map([["m", { specs: [{ name: "gpu", price_per_hour: 36 }] }]]);
  const lanes = m.lanesOf(history, workers, models, { from: given.now - given.span, until: given.now, now: given.now });
  return lanes.map((one) => ({ ...one, busy: one.busy && [...one.busy.parts].filter(Boolean).length }));"""


def lanes_of(page: Any, span: int = 3600, **given: Any) -> dict[str, Any]:
    given = {"jobs": [], "events": [], "samples": [], "now": NOW, "span": span, **given}
    return {one["name"]: one for one in asked(page, "timeline/lanes.js", LANES, given)}


def job(name: str, began: float, **fields: Any) -> dict[str, Any]:
    times = {
        "created_at": NOW + began,
        "finished_at": NOW + began + 10,
        "queued_s": 1.0,
        "load_s": 4.0,
        "fetch_s": 3.0,
        "run_s": 5.0,
    }
    return {"id": name, "model": "m", "status": "completed", "worker": "w1", **times, **fields}


def test_a_job_is_a_bar_of_its_true_lengths(page: Any) -> None:
    [bar] = lanes_of(page, jobs=[job("a", -100)])["w1"]["bars"]
    assert bar["parts"] == {"queued": 1, "fetching": 3, "loading": 1, "running": 5}
    assert (bar["from"] - NOW, bar["until"] - NOW, bar["kind"]) == (-100, -90, "job")


def test_jobs_at_a_time_come_to_rows_and_failures_are_told_apart(page: Any) -> None:
    jobs = [
        job("a", -100),
        job("b", -95, status="failed"),
        job("c", -50),
        job("d", -40, status="expired", worker=""),
    ]
    lanes = lanes_of(page, jobs=jobs)
    assert [(bar["row"], bar["kind"]) for bar in lanes["w1"]["bars"]] == [(0, "job"), (1, "failed"), (0, "job")]
    assert [bar["kind"] for bar in lanes["No worker"]["bars"]] == ["failed"]


def test_a_race_has_each_start_and_what_it_cost(page: Any) -> None:
    def event(kind: str, at: float, worker: str) -> dict[str, Any]:
        return {
            "kind": kind,
            "subject": "m/gpu",
            "at": NOW + at,
            "reason": "why",
            "model": "m",
            "worker": worker,
        }

    events = [
        event("launched", -300, "r1"),
        event("launched", -300, "r2"),
        event("ready", -290, "r1"),
        event("failed", -200, "r2"),
    ]
    bars = lanes_of(page, events=events)["m/gpu"]["bars"]
    assert "ready after 10.0 s, cost 3.0000" in bars[0]["text"]
    assert (bars[0]["parts"]["loading"], bars[0]["parts"]["running"]) == (10, 290)
    assert bars[1]["kind"] == "failed"
    assert "not ready, cost 1.0000" in bars[1]["text"]


def test_loads_evictions_and_changes_are_marks_where_they_belong(page: Any) -> None:
    def event(kind: str, worker: str = "") -> dict[str, Any]:
        return {"kind": kind, "subject": "m", "at": NOW - 5, "reason": "why", "worker": worker}

    lanes = lanes_of(
        page,
        events=[event("loaded", "w1"), event("evicted", "w1"), event("configured"), event("not_configured")],
    )
    assert [mark["kind"] for mark in lanes["w1"]["marks"]] == ["load", "evict"]
    assert [mark["kind"] for mark in lanes["Platform"]["marks"]] == ["mark", "failed"]


def test_a_day_shows_how_busy_each_worker_was(page: Any) -> None:
    samples = [{"id": at, "at": NOW - at, "models": {}, "busy": {"w1": 1}} for at in (100, 5000, 80000)]
    lane = lanes_of(page, 24 * 3600, samples=samples, jobs=[job("a", -100)])["w1"]
    assert (lane["busy"], lane["bars"]) == (3, [])


def test_what_became_of_a_job_is_said_in_sentences(page: Any) -> None:
    waiting = {
        "status": "queued",
        "model": "m",
        "created_at": NOW,
        "position": 2,
        "eta_s": None,
        "waiting_for": "a replica of gpu",
    }
    said = asked(page, "sentences.js", "return m.sentencesOf(given, null).join(' ');", waiting)
    assert said == (
        "It waits in the queue of m. 2 jobs are before it. When it starts cannot be said yet. It waits for a replica of gpu."
    )
    failed = {
        **job("a", 0),
        "status": "failed",
        "timings": job("a", 0),
        "attempt": 2,
        "error": {"message": "out of memory"},
    }
    said = asked(page, "sentences.js", "return m.sentencesOf(given, null).join(' ');", failed)
    assert "Fetching the weights took 3.00 s. Loading the model took 1.00 s. It ran for 5.00 s." in said
    assert said.endswith("It failed 10 s after it was accepted: out of memory.")


def test_a_thousand_workers_are_few_rows(synthetic: System, page: Any) -> None:
    found = bench.measure_in(page, synthetic.url, 3)
    assert found["rows"] < 200
    assert [len(found[name]) for name in ("fleet", "hour", "day")] == [3, 3, 3]
