"""A stream of one or several answers: what is written for which event, and where an error goes."""

from typing import Any

import pytest

from stoker.schemas.job_events import (
    Assigned,
    Completed,
    Delta,
    Failed,
    Loading,
    Provisioning,
    Queued,
    Started,
    TextOutput,
)
from stoker.schemas.jobs import CompletionInput, Job
from stoker.schemas.openai import ChatCompletionRequest, ChatMessage, Usage
from stoker.services.gateway.edge.problems import RequestError
from stoker.services.gateway.text.openai_text import ChatWriter
from stoker.services.gateway.text.runs import _Streaming, answers_headers
from tests.unit.text.made import events_of

ASKED = ChatCompletionRequest(model="m", messages=(ChatMessage("user", "hi"),), n=2)


def job(name: str) -> Job:
    return Job(name, "m", CompletionInput("x"), "g", 12.0)


def streaming(count: int = 1) -> tuple[_Streaming, dict[str, str]]:
    jobs = [job(f"j{number}") for number in range(count)]
    headers = answers_headers(jobs)
    return _Streaming(jobs, ChatWriter(jobs[0], ASKED), headers, lambda _: False), headers


def ended(name: str, text: str = "hi") -> Completed:
    output = TextOutput(text, "stop", Usage(3, 2, 5))
    return Completed(job=name, model="m", created_at=1.0, finished_at=2.0, output=output)


def choices(written: bytes) -> list[Any]:
    return [one["choices"][0] for _, one in events_of(written) if one != "[DONE]" and one["choices"]]


def test_what_is_no_output_is_not_written_and_fills_the_headers() -> None:
    made, headers = streaming()
    for event in (
        Provisioning(reason="r"), Loading(tier="warm"), Started(worker="w"), Assigned(worker="w", spec="big", tier="hot"),
    ):  # fmt: skip
        assert made.take(0, (event, b"")) == b""
    assert headers == {"x-job-id": "j0", "x-stoker-spec": "big"}


def test_a_stream_that_waits_says_where_it_stands_at_most_every_few_seconds() -> None:
    made, _ = streaming()
    assert made.take(0, (Queued(position=3, eta_s=1.5), b"")) == b""
    said = made.take(0, None)
    assert said == b": queued position=3 eta=1.5\n"


def test_each_answer_is_opened_once_and_the_last_end_closes_all() -> None:
    made, headers = streaming(2)
    assert headers["x-job-id"] == "j0, j1"
    first = made.take(1, (Delta(at=0, text="b"), b""))
    assert [(one["index"], one["delta"]) for one in choices(first)] == [
        (1, {"role": "assistant", "content": ""}),
        (1, {"content": "b"}),
    ]
    more = made.take(1, (Delta(at=1, text="c"), b""))
    assert [one["delta"] for one in choices(more)] == [{"content": "c"}]
    one_end = made.take(1, (ended("j1"), b""))
    assert not made.is_over and b"[DONE]" not in one_end
    other_end = made.take(0, (ended("j0"), b""))
    assert made.is_over and other_end.endswith(b"data: [DONE]\n\n")
    assert choices(other_end)[0]["delta"] == {"role": "assistant", "content": ""}  # it had no delta


def test_an_answer_that_fails_is_an_error_of_the_request() -> None:
    made, _ = streaming(2)
    failed = Failed(
        job="j0", model="m", created_at=1.0, finished_at=2.0, kind="validation", message="too long", code="c", field="f"
    )  # fmt: skip
    with pytest.raises(RequestError) as refused:
        made.take(0, (failed, b""))
    assert (refused.value.status, refused.value.code, refused.value.field) == (400, "c", "f")
