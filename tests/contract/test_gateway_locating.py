"""Where a job is, and that there is none: for ever only if somebody is sure, whoever was stopped meanwhile."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from stoker.schemas.jobs import CompletionInput, Job
from stoker.services.bus.streams import RESULT_TTL_S
from tests.contract.conftest import Connect
from tests.fixtures.ends import end
from tests.fixtures.gateway_app import Served, completed, served, view


@asynccontextmanager
async def gateway(connected: Connect) -> AsyncIterator[Served]:
    async with connected("gateway") as bus, connected("backend") as other, served(bus, other) as stand:
        yield stand


async def test_a_job_nobody_knows_is_certainly_not_there_only_if_the_scheduler_says_so(
    connected: Connect,
) -> None:
    async with gateway(connected) as stand:
        assert (await stand.ask("GET", "/v1/jobs/none")).status == 404
        assert (await stand.ask("GET", "/v1/jobs/none/events")).status == 404
        stand.backend.leads = False
        for path in ("/v1/jobs/none", "/v1/jobs/none/events"):
            answer = await stand.ask("GET", path)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1"), answer.body


@pytest.mark.parametrize("path", ["/v1/jobs/j", "/v1/jobs/j/events"])
async def test_a_job_that_ends_between_two_looks_is_there(connected: Connect, path: str) -> None:
    """No end was stored at the first look, and the scheduler has forgotten the job when it is asked."""
    async with gateway(connected) as stand:
        elsewhere = Job(id="j", model="m", input=CompletionInput("hi"), gateway="gw", created_at=1.0)
        stand.backend.before_answer = lambda: end(stand.backend.bus, completed(elsewhere))
        answer = await stand.ask("GET", path)
        assert answer.status == 200
        assert b"completed" in answer.body


@pytest.mark.parametrize("path", ["/v1/jobs/j", "/v1/jobs/j/events"])
async def test_no_such_job_is_said_only_on_the_word_of_one_who_is_sure(connected: Connect, path: str) -> None:
    async with gateway(connected) as stand:
        assert (await stand.ask("GET", path)).status == 404
        assert stand.backend.asked_to_be_sure == ["j"]


@pytest.mark.parametrize("path", ["/v1/jobs/j", "/v1/jobs/j/events"])
async def test_a_job_that_has_ended_and_whose_end_is_not_stored_yet_is_there(
    connected: Connect, path: str
) -> None:
    """A job that was cancelled in the queue: the scheduler has forgotten it, and its end is on the way."""
    async with gateway(connected) as stand:
        stand.backend.views["j"] = view("j", "cancelled", finished_at=time.time())
        answer = await stand.ask("GET", path)
        assert (answer.status, answer.headers["retry-after"]) == (503, "1"), answer.body


@pytest.mark.parametrize("times", [{"finished_at": time.time() - RESULT_TTL_S - 1}, {}])
async def test_a_job_whose_end_is_no_longer_kept_is_gone(connected: Connect, times: dict[str, float]) -> None:
    async with gateway(connected) as stand:
        stand.backend.views["j"] = view("j", "cancelled", **times)
        assert (await stand.ask("GET", "/v1/jobs/j")).status == 404


async def test_a_scheduler_of_the_version_before_is_never_sure(connected: Connect) -> None:
    """It refuses the question; its plain "not known" may be about a job that has not come to it yet."""
    async with gateway(connected) as stand:
        stand.backend.is_of_before = True
        for path in ("/v1/jobs/none", "/v1/jobs/none/events"):
            answer = await stand.ask("GET", path)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1"), answer.body


async def test_a_cancel_that_is_there_before_the_job_cancels_it_on_arrival(connected: Connect) -> None:
    async with gateway(connected) as stand:
        stand.backend.views["j"] = view("j")
        stand.backend.cancels_known = False
        answer = await stand.ask("POST", "/v1/jobs/j/cancel")
        assert (answer.status, stand.backend.cancelled) == (202, ["j"])
