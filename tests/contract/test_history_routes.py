"""The last day over HTTP: windows, pages, filters; what operators look after; a job that is run again."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from stoker.schemas import wire
from stoker.schemas.fleet import JobsQuery, PlatformEvent
from stoker.schemas.history import EndedJob, EndedJobs, ModelSample, Sample
from stoker.schemas.job_events import Cancelled
from stoker.schemas.jobs import CompletionInput
from stoker.schemas.keys import ApiKey
from stoker.schemas.subjects import HISTORY_STREAM
from stoker.services.bus.streams import stream_configs
from stoker.services.gateway.edge.access import OPEN_PAGES, Access, current_key, is_open
from stoker.services.records.quarantine import put_aside
from tests.contract.conftest import Connect
from tests.fixtures.ends import end, one_job
from tests.fixtures.gateway_app import Served, served, soon, view
from tests.waiting import in_own_task

T0 = 1_700_000_000.0
USER = ApiKey(id="u", name="web", sha256="x", created_at=1.0)
OPERATOR = ApiKey(id="o", name="ada", sha256="y", created_at=2.0, role="operate")


@asynccontextmanager
async def serving(connected: Connect) -> AsyncIterator[Served]:
    async with connected("gateway") as bus, connected("backend") as other, served(bus, other) as found:
        yield found


@pytest.fixture
async def gateway(connected: Connect) -> AsyncIterator[Served]:
    async with in_own_task(serving(connected)) as found:
        yield found


async def get(gateway: Served, path: str, status: int = 200) -> Any:
    answer = await gateway.ask("GET", path)
    assert answer.status == status, answer.body
    return answer.json()


def ended(name: str, at: float, **fields: Any) -> EndedJob:
    given = {"model": "m", "status": "completed", "created_at": at - 1, "finished_at": at, "worker": "w1"}
    return EndedJob(id=name, **(given | fields))


async def write(gateway: Served) -> None:
    """Ten pages of a job each, a sample and an event beside every one."""
    bus = gateway.gateway.bus
    for number in range(10):
        at = T0 + 10 * number
        status = "failed" if number == 3 else "completed"
        page = EndedJobs(
            at, (ended(f"j{number}", at, status=status, worker=f"w{number % 2}"),), int(number == 9)
        )
        await bus.publish_stored(bus.subjects.history("jobs"), wire.encode(page))
        sample = Sample(at, {"m": ModelSample(number, 1)}, {"w0": 0.5}, 2)
        await bus.publish_stored(bus.subjects.history("samples"), wire.encode(sample))
        event = PlatformEvent("loaded", "m", at, "why", "m", f"w{number % 2}")
        await bus.publish_stored(bus.subjects.event("loaded", "m"), wire.encode(event))


async def test_a_window_has_what_lies_in_it(gateway: Served) -> None:
    await write(gateway)
    window = f"from={T0 + 20}&until={T0 + 50}"
    jobs = await get(gateway, f"/v1/history/jobs?{window}")
    assert [job["id"] for job in jobs["jobs"]] == ["j2", "j3", "j4", "j5"]
    assert jobs["next_cursor"] == 0
    samples = await get(gateway, f"/v1/history/samples?{window}")
    assert [one["models"]["m"].get("queued", 0) for one in samples["samples"]] == [2, 3, 4, 5]
    events = await get(gateway, f"/v1/history/events?{window}&worker=w1")
    assert [event["at"] - T0 for event in events["events"]] == [30, 50]
    everything = await get(gateway, "/v1/history/jobs")
    assert (len(everything["jobs"]), everything["left_out"]) == (10, 1)


async def test_pages_come_one_after_the_other(gateway: Served) -> None:
    await write(gateway)
    found: list[str] = []
    cursor = 0
    for _ in range(5):
        page = await get(gateway, f"/v1/history/jobs?limit=3&cursor={cursor}")
        found += [job["id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
        if not cursor:
            break
    assert found == [f"j{number}" for number in range(10)]
    assert not cursor


async def test_what_does_not_match_is_left_out(gateway: Served) -> None:
    await write(gateway)
    wanted = {"status=failed": ["j3"], "worker=w1&limit=2": ["j1", "j3"], "job=j7": ["j7"], "model=x": []}
    for fields, ids in wanted.items():
        assert [job["id"] for job in (await get(gateway, f"/v1/history/jobs?{fields}"))["jobs"]] == ids


async def test_what_cannot_be_is_refused_by_its_field(gateway: Served) -> None:
    wrong = {"limit=0": "limit", "cursor=-1": "cursor", "from=5&until=4": "until", "from=1e30": "from"}
    for query, field in wrong.items():
        said = await get(gateway, f"/v1/history/jobs?{query}", 400)
        assert said.get("field") == field, said


async def test_before_init_made_the_stream_it_says_what_to_do(gateway: Served) -> None:
    await gateway.gateway.bus.jetstream.delete_stream(HISTORY_STREAM)
    assert "stoker init" in (await get(gateway, "/v1/history/jobs", 503))["detail"]


async def test_the_history_is_bounded_by_age_and_by_size(gateway: Served) -> None:
    configs = {one.name: one for one in stream_configs(gateway.gateway.bus.subjects)}
    assert configs[HISTORY_STREAM].max_age == 24 * 3600
    assert configs[HISTORY_STREAM].max_bytes == 256 * 1024**2


async def test_who_uses_models_sees_no_history_and_no_keys(gateway: Served) -> None:
    gateway.gateway.access.changed("u", USER)
    gateway.gateway.access.changed("o", OPERATOR)
    assert await get(gateway, "/v1/keys/self") == {"id": "", "name": "", "role": "admin", "models": []}
    keys = await get(gateway, "/v1/keys")
    assert [(key["id"], key["role"]) for key in keys["keys"]] == [("u", "use"), ("o", "operate")]
    assert "sha256" not in keys["keys"][0]
    current_key.set(USER)
    assert (await get(gateway, "/v1/keys/self"))["role"] == "use"
    for path in ("/v1/history/jobs", "/v1/history/samples", "/v1/history/events", "/v1/quarantine", "/v1/keys"):
        await get(gateway, path, 403)
    current_key.set(OPERATOR)
    await get(gateway, "/v1/quarantine")
    await get(gateway, "/v1/keys", 403)


async def test_what_was_put_aside_is_listed_with_its_reason(gateway: Served) -> None:
    stored: list[int] = []
    put_aside(
        gateway.gateway.bus,
        "job",
        "stoker.jobs.m",
        b'{"a": 1}',
        None,
        "why",
        job="j",
        stored=lambda: stored.append(1),
    )
    await soon(lambda: stored)
    [entry] = (await get(gateway, "/v1/quarantine"))["entries"]
    assert entry["number"] == 1
    message = entry["message"]
    assert (message["job"], message["reason"], message["payload"]) == ("j", "why", {"a": 1})


async def test_a_job_that_failed_is_run_again_under_another_id(gateway: Served) -> None:
    bus = gateway.gateway.bus
    kept = one_job("old", input=CompletionInput("again"), seed=7, is_client_named=True)
    await bus.publish_stored(bus.subjects.retry("old"), wire.encode(kept))
    answer = await gateway.ask("POST", "/v1/jobs/old/retry")
    assert answer.status == 202, answer.body
    job = await gateway.backend.job()
    assert answer.json()["id"] == job.id != "old"
    assert answer.headers["location"] == f"/v1/jobs/{job.id}"
    assert (job.input, job.seed, job.is_client_named) == (kept.input, 7, False)


async def test_a_job_of_another_key_is_not_run_again(gateway: Served) -> None:
    bus = gateway.gateway.bus
    await bus.publish_stored(bus.subjects.retry("old"), wire.encode(one_job("old", tenant="other")))
    await end(bus, Cancelled(job="old", model="m", created_at=1.0, finished_at=2.0, tenant="other"))
    current_key.set(USER)
    assert (await gateway.ask("POST", "/v1/jobs/old/retry")).status == 404
    current_key.set(OPERATOR)
    assert (await gateway.ask("POST", "/v1/jobs/old/retry")).status == 202
    assert (await gateway.backend.job()).tenant == "o", "it is theirs who ask for it"


async def test_why_a_job_cannot_be_run_again(gateway: Served) -> None:
    gateway.backend.views["now"] = view("now")
    said = (await gateway.ask("POST", "/v1/jobs/now/retry")).json()
    assert (said["status"], said["detail"]) == (409, "the job has not ended: it is running; cancel it first")
    await end(gateway.gateway.bus, Cancelled(job="gone", model="m", created_at=1.0, finished_at=2.0))
    assert "submit it anew" in (await gateway.ask("POST", "/v1/jobs/gone/retry")).json()["detail"]
    assert (await gateway.ask("POST", "/v1/jobs/never/retry")).status == 404


def test_jobs_are_found_by_text_key_and_time() -> None:
    one = view("Job-7", tenant="t")
    assert JobsQuery(search="job-").fits(one)
    assert JobsQuery(tenant="t", status="running", model="m", since=1.0, until=1.0).fits(one)
    for query in (JobsQuery(search="x"), JobsQuery(since=2.0), JobsQuery(until=0.5), JobsQuery(tenant="o")):
        assert not query.fits(one)


async def test_each_page_is_there_and_says_nothing_by_itself(gateway: Served) -> None:
    for path in (*OPEN_PAGES, "/jobs/x"):
        answer = await gateway.ask("GET", path)
        assert answer.status == 200
        assert answer.headers["content-security-policy"] == "default-src 'self'; img-src 'self' data:"
        assert b'<div id="root"></div>' in answer.body
        assert is_open(path)


async def test_only_files_of_the_dashboard_are_given(gateway: Served) -> None:
    for name in ("app.js", "pages/jobs.js", "vendor/preact-htm.js", "style.css"):
        assert (await gateway.ask("GET", f"/static/{name}")).status == 200
    for name in ("index.html", "../app.py", "vendor/htm.LICENSE", "pages", "nothing.js"):
        assert (await gateway.ask("GET", f"/static/{name}")).status == 404
    assert not is_open("/v1/jobs")
    assert not Access(is_required=True).keys()
