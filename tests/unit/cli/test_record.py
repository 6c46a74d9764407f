"""Traces of live systems: times, models and sizes of work, and nobody's name or prompt."""

import msgspec
import pytest
from nats.aio.msg import Msg

from stoker.schemas import wire
from stoker.schemas.jobs import CompletionInput, ImageInput, Job, JobInput
from stoker.simulation.scenario import Ask
from stoker.simulation.tracer import Tracer


def job(at: float, model: str = "m", asked: JobInput | None = None, tenant: str = "", priority: int = 0) -> Job:
    asked = asked if asked is not None else CompletionInput("a secret", max_tokens=40)
    return Job("j", model, asked, "gw", at, tenant=tenant, priority=priority)


def test_times_count_from_the_first_request() -> None:
    tracer = Tracer()
    assert [tracer.ask_of(job(at)).at for at in (100.0, 100.25, 99.0)] == [0.0, 0.25, 0.0]
    assert tracer.count == 3


def test_the_size_of_the_work_is_kept_and_the_prompt_is_not() -> None:
    tracer = Tracer()
    text = tracer.ask_of(job(1.0))
    picture = tracer.ask_of(job(1.0, asked=ImageInput("a secret", num_inference_steps=30, n=2)))
    assert (text.units, picture.units) == (40.0, 60.0)
    assert b"secret" not in msgspec.json.encode([text, picture])


def test_tenants_are_the_same_within_a_trace_and_in_no_other() -> None:
    one, other = Tracer(), Tracer()
    asks = [one.ask_of(job(1.0, tenant=name)) for name in ("alice", "bob", "alice", "")]
    assert asks[0].tenant == asks[2].tenant != asks[1].tenant
    assert asks[3].tenant == ""
    assert other.ask_of(job(1.0, tenant="alice")).tenant != asks[0].tenant
    assert "alice" not in asks[0].tenant


def test_what_cannot_be_read_is_no_request(capsys: pytest.CaptureFixture[str]) -> None:
    tracer = Tracer()
    for data in (b"{", wire.encode(job(1.0, priority=2)), b"\xff"):
        tracer.heard(Msg(_client=None, subject="stoker.jobs.m", data=data))  # type: ignore[arg-type]
    [line] = capsys.readouterr().out.splitlines()
    assert msgspec.json.decode(line, type=Ask) == Ask(0.0, "m", 40.0, priority=2)
