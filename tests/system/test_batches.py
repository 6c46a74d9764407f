"""Files and batches through the official client, on running systems."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch

from tests.conftest import DEMO, SYNTHETIC, System, wait_for
from tests.system.test_keys import keys

ENDED = ("completed", "failed", "expired", "cancelled")
CHAT = "/v1/chat/completions"
ASKED = [{"role": "user", "content": "hi"}]


class Tenant:
    """A key, the official client with it, and what a user does with batches."""

    def __init__(self, system: System, key: str) -> None:
        self.api = openai.OpenAI(base_url=system.url + "/v1", api_key=key, max_retries=5)

    def start(self, lines: list[str], endpoint: str = CHAT) -> str:
        content = "\n".join(lines).encode()
        file = self.api.files.create(file=("in.jsonl", content), purpose="batch")
        made = self.api.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"of": "a test"}
        )  # type: ignore[call-overload]
        assert (made.status, made.metadata, made.object) == ("validating", {"of": "a test"}, "batch")
        return str(made.id)

    def when(self, batch: str, is_so: Callable[[Batch], Any], seconds: float = 30.0) -> Batch:
        """The batch, as soon as it is so; a gateway that is away is waited for."""

        def look() -> Batch | None:
            try:
                found = self.api.batches.retrieve(batch)
            except (openai.APIConnectionError, openai.InternalServerError, openai.AuthenticationError):
                return None
            return found if is_so(found) else None

        found: Batch = wait_for(look, seconds, "a state of the batch")
        return found

    def ended(self, batch: str, seconds: float = 30.0) -> Batch:
        return self.when(batch, lambda found: found.status in ENDED, seconds)

    def lines(self, file: str | None) -> dict[str, Any]:
        """The lines of a file by their custom ids, each of which is there once."""
        assert file is not None
        found = [json.loads(text) for text in self.api.files.content(file).text.splitlines()]
        by_id = {one["custom_id"]: one for one in found}
        assert len(by_id) == len(found)
        return by_id


def line(custom_id: str, url: str = CHAT, **body: Any) -> str:
    given = {"model": "echo"} | ({"messages": ASKED} if url == CHAT else {}) | body
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": given})


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    found = System(tmp_path_factory.mktemp("batches"), SYNTHETIC, "--require-keys")
    try:
        found.wait_for_gateway()
        yield found
    finally:
        found.stop()


def tenant(system: System, name: str, *options: str) -> Tenant:
    secret = keys(system, "create", name, "--json", *options)["key"]
    header = {"Authorization": f"Bearer {secret}"}
    wait_for(lambda: httpx.get(f"{system.url}/v1/models", headers=header).status_code == 200, 10, "the key")
    return Tenant(system, secret)


@pytest.fixture(scope="module")
def ada(system: System) -> Tenant:
    return tenant(system, "ada")


def test_a_whole_batch_through_the_official_client(ada: Tenant) -> None:
    lines = [*(line(f"c{number}") for number in range(60)), line("several", n=3, max_tokens=2)]
    batch = ada.ended(ada.start(lines))
    assert (batch.status, batch.errors, batch.error_file_id) == ("completed", None, None)
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 61, "completed": 61, "failed": 0}
    assert batch.in_progress_at and batch.finalizing_at and batch.completed_at and batch.expires_at
    assert batch.expires_at - batch.created_at == 24 * 3600
    done = ada.lines(batch.output_file_id)
    assert set(done) == {*(f"c{number}" for number in range(60)), "several"}
    answer = done["c7"]["response"]
    assert (answer["status_code"], done["c7"]["error"]) == (200, None)
    direct = ada.api.chat.completions.create(model="echo", messages=ASKED)  # type: ignore[arg-type]
    expected = direct.model_dump(exclude_unset=True)
    for name in ("id", "created"):
        assert answer["body"].pop(name) and expected.pop(name)
    assert answer["body"] == expected
    assert len(done["several"]["response"]["body"]["choices"]) == 3
    output = ada.api.files.retrieve(str(batch.output_file_id))
    assert (output.purpose, output.filename) == ("batch_output", f"{batch.id}_output.jsonl")
    assert output.bytes == len(ada.api.files.content(output.id).read())


def test_the_other_endpoints_answer_as_their_routes_do(ada: Tenant) -> None:
    completion = ada.ended(ada.start([line("a", "/v1/completions", prompt=["x", "y"])], "/v1/completions"))
    body = ada.lines(completion.output_file_id)["a"]["response"]["body"]
    assert (body["object"], len(body["choices"])) == ("text_completion", 2)
    response = ada.ended(ada.start([line("a", "/v1/responses", input="x")], "/v1/responses"))
    body = ada.lines(response.output_file_id)["a"]["response"]["body"]
    assert (body["object"], body["status"]) == ("response", "completed")
    assert ada.api.responses.retrieve(body["id"]).output_text == "t0 t1 t2 t3 t4 t5 t6 t7 "


def test_a_bad_file_fails_the_batch_and_says_where(ada: Tenant) -> None:
    lines = [line("a"), "{", line("a"), line("b", "/v1/embeddings"), json.dumps({"custom_id": "d"})]
    batch = ada.ended(ada.start(lines))
    assert batch.status == "failed" and batch.failed_at and batch.output_file_id is None
    assert batch.errors is not None and batch.errors.data is not None
    assert [(error.line, error.code, error.param) for error in batch.errors.data] == [
        (2, "invalid_json_line", None),
        (3, "duplicate_custom_id", "custom_id"),
        (4, "mismatched_url", "url"),
        (5, "missing_required_parameter", "method"),
    ]


def test_lines_that_fail_have_a_file_of_their_own(ada: Tenant) -> None:
    lines = [line("good"), line("none", model="gone"), line("stream", stream=True), line("hot", temperature=99)]
    batch = ada.ended(ada.start([*lines, line("image", model="echo", messages=[])]))
    assert batch.status == "completed" and batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 4)
    assert set(ada.lines(batch.output_file_id)) == {"good"}
    failures = ada.lines(batch.error_file_id)
    told = {name: one["response"]["body"]["error"] for name, one in failures.items()}
    assert {name: error["param"] for name, error in told.items()} == {
        "none": "model", "stream": "stream", "hot": "temperature", "image": "messages"
    }  # fmt: skip
    assert failures["none"]["response"]["status_code"] == 404
    assert told["none"]["type"] == "invalid_request_error" and told["none"]["code"] == "model_not_found"


def test_cancelling_keeps_what_is_done(ada: Tenant) -> None:
    batch = ada.start([line(f"c{number}", model="slow", max_tokens=10) for number in range(100)])
    ada.when(batch, lambda found: found.request_counts.completed)
    assert ada.api.batches.cancel(batch).status == "cancelling"
    found = ada.ended(batch)
    assert found.status == "cancelled" and found.cancelling_at and found.cancelled_at
    done, failures = ada.lines(found.output_file_id), ada.lines(found.error_file_id)
    assert len(done) + len(failures) == 100 and done and failures
    assert {one["error"]["code"] for one in failures.values()} == {"batch_cancelled"}
    assert all(one["response"]["body"]["usage"]["completion_tokens"] == 10 for one in done.values())
    with pytest.raises(openai.ConflictError, match="is cancelled cannot be cancelled"):
        ada.api.with_options(max_retries=0).batches.cancel(batch)


def test_who_waits_comes_before_every_line_of_a_batch(ada: Tenant) -> None:
    batch = ada.start([line(f"c{number}", model="single", max_tokens=10) for number in range(30)])
    ada.when(batch, lambda found: found.status == "in_progress")
    ada.api.chat.completions.create(model="single", messages=ASKED, max_tokens=1)  # type: ignore[arg-type]
    found = ada.api.batches.retrieve(batch)
    assert found.status == "in_progress"
    assert found.request_counts is not None and found.request_counts.completed < 15
    ada.api.batches.cancel(batch)
    ada.ended(batch)


def test_tenants_see_their_own_files_and_batches_only(system: System, ada: Tenant) -> None:
    bob = tenant(system, "bob")
    mine = ada.start([line("a")])
    found = ada.ended(mine)
    theirs = bob.start([line("b")])
    assert [one.id for one in bob.api.batches.list()] == [theirs]
    assert theirs not in [one.id for one in ada.api.batches.list()]
    files = [found.input_file_id, str(found.output_file_id)]
    assert set(files) <= {one.id for one in ada.api.files.list()}
    bob.ended(theirs)
    assert not set(files) & {one.id for one in bob.api.files.list()}
    assert len(list(bob.api.files.list(purpose="batch_output"))) == 1
    for ask in (bob.api.files.retrieve, bob.api.files.content, bob.api.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(files[1])
    for look in (bob.api.batches.retrieve, bob.api.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            look(mine)
    with pytest.raises(openai.BadRequestError, match="there is no file"):
        bob.api.batches.create(input_file_id=files[0], endpoint=CHAT, completion_window="24h")
    operator = tenant(system, "operator", "--role", "operate")
    assert {mine, theirs} <= {one.id for one in operator.api.batches.list()}


def test_files_are_kept_listed_and_forgotten(system: System) -> None:
    api = tenant(system, "files").api
    sent = [api.files.create(file=(f"{n}.txt", b"x" * n), purpose="user_data") for n in range(1, 6)]
    listed = list(api.files.list(limit=2))  # page after page
    assert {one.id for one in listed} == {one.id for one in sent} and len(listed) == 5
    assert {one.bytes for one in api.files.list(order="asc")} == {1, 2, 3, 4, 5}
    assert api.files.delete(sent[0].id).deleted
    assert len(list(api.files.list())) == 4
    with pytest.raises(openai.NotFoundError, match="no longer kept"):
        api.files.retrieve(sent[0].id)
    with pytest.raises(openai.BadRequestError, match="fine-tune"):
        api.files.create(file=b"x", purpose="fine-tune")
    with pytest.raises(openai.BadRequestError, match="purpose 'batch'"):
        api.batches.create(input_file_id=sent[1].id, endpoint=CHAT, completion_window="24h")


def test_batches_are_listed_newest_first_in_pages(system: System) -> None:
    carol = tenant(system, "carol")
    made = [carol.start([line("a")]) for _ in range(3)]
    listed = [one.id for one in carol.api.batches.list(limit=1)]
    assert set(listed) == set(made) and len(listed) == 3
    page = carol.api.batches.list(limit=2)
    assert [one.id for one in page.data] == listed[:2] and page.has_more
    with pytest.raises(openai.BadRequestError):
        carol.api.batches.list(limit=101)


def test_a_gateway_that_is_killed_loses_no_line_and_runs_none_twice(system: System, ada: Tenant) -> None:
    names = [f"c{number}" for number in range(150)]
    batch = ada.start([line(name, model="slow", max_tokens=8) for name in names])
    ada.when(batch, lambda found: 0 < found.request_counts.completed < 100)
    system.kill("gateway")
    found = ada.ended(batch, 60)
    assert found.status == "completed" and found.request_counts is not None
    assert found.request_counts.model_dump() == {"total": 150, "completed": 150, "failed": 0}
    assert set(ada.lines(found.output_file_id)) == set(names)
    jobs = jobs_of(ada, batch)
    assert set(jobs) == {f"{batch}-{number}-0" for number in range(150)}
    assert set(jobs.values()) == {1}


def jobs_of(tenant: Tenant, batch: str) -> Counter[str]:
    """How often each job of a batch is listed."""
    found: Counter[str] = Counter()
    cursor = ""
    while True:
        path = f"/jobs?limit=200&cursor={cursor}"
        page: Any = tenant.api.get(path, cast_to=httpx.Response).json()
        for job in page["jobs"]:
            if job["id"].startswith(batch):
                assert (job["status"], job["attempt"]) == ("completed", 1)
                found[job["id"]] += 1
        cursor = page["next_cursor"]
        if not cursor:
            return found


def test_nats_may_be_away_for_a_while(system: System, ada: Tenant) -> None:
    names = [f"c{number}" for number in range(100)]
    batch = ada.start([line(name, model="slow", max_tokens=8) for name in names])
    ada.when(batch, lambda found: 0 < found.request_counts.completed < 80)
    system.kill("nats")
    found = ada.ended(batch, 60)
    assert found.status == "completed"
    assert set(ada.lines(found.output_file_id)) == set(names)


# The demo's model ---------------------------------------------------------------------------------

DEMO_CHAT = f"""\
models:
  demo-chat: {{engine: llamacpp, url: "file://{DEMO}/chat.gguf", options: {{n_ctx: 256}}, defaults: {{temperature: 0}}}}
workers:
  - {{profile: cpu, count: 1, memory: 512MB}}
"""


@pytest.mark.slow
def test_a_real_model_answers_and_embeds_in_batches(tmp_path: Path) -> None:
    system = System(tmp_path, DEMO_CHAT)
    try:
        system.wait_ready()
        user = Tenant(system, "none")
        asked = [{"role": "user", "content": "What is NATS?"}]
        batch = user.ended(user.start([line("a", model="demo-chat", messages=asked, max_tokens=20)]), 60)
        body = user.lines(batch.output_file_id)["a"]["response"]["body"]
        direct = user.api.chat.completions.create(model="demo-chat", messages=asked, max_tokens=20)  # type: ignore[arg-type]
        assert body["choices"][0]["message"]["content"] == direct.choices[0].message.content
        texts = ["one", "two"]
        lines = [
            line("floats", "/v1/embeddings", model="demo-chat", input=texts, dimensions=8),
            line("base64", "/v1/embeddings", model="demo-chat", input=texts, encoding_format="base64"),
            line("many", "/v1/embeddings", model="demo-chat", input=texts, dimensions=100_000),
        ]
        batch = user.ended(user.start(lines, "/v1/embeddings"), 60)
        done = user.lines(batch.output_file_id)
        vectors = user.api.embeddings.create(
            model="demo-chat", input=texts, dimensions=8, encoding_format="float"
        )
        rows = done["floats"]["response"]["body"]["data"]
        for row, vector in zip(rows, vectors.data, strict=True):
            assert row["embedding"] == pytest.approx(vector.embedding, abs=1e-5)
        assert isinstance(done["base64"]["response"]["body"]["data"][0]["embedding"], str)
        assert set(user.lines(batch.error_file_id)) == {"many"}
    finally:
        system.stop()
